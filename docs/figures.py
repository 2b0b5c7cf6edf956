"""Figures and tables of the documentation; `conf.py` calls `make`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import method_pages
import numpy as np
from figures_alignment import alignment, alignment_table
from figures_benchmarks import benchmarks_table
from figures_end_values import TABLES as END_VALUES
from figures_implicit import implicit_methods, implicit_table
from figures_peers import drawings as peers_drawings
from figures_peers import measured as peers_measured
from figures_peers import tables as peers_tables
from figures_samplers import (
    cells_table,
    distances_table,
    networks,
    overhead_table,
    quality_table,
    rounding_table,
    samplers,
    samplers_table,
)
from figures_shipped import shipped_quality, shipped_samples, shipped_sizes
from figures_stabilised import stabilised
from figures_stiff import digits_table, work_precision, work_precision_table

import stiffkit as sk

STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9.0,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.bbox": "tight",
    "savefig.facecolor": "white",
    "svg.hashsalt": "stiffkit",
}


def make(out: Path) -> None:
    """Write all figures and tables to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    tables = {
        "all_methods": method_pages.overview,
        "method_trees": method_pages.toctree,
        "benchmarks": benchmarks_table,
        "estimators": estimators_table,
        "detector": detector_table,
        "alignment": alignment_table,
        "implicit": implicit_table,
        "work_precision": work_precision_table,
        "work_precision_digits": digits_table,
        **END_VALUES,
        "samplers": samplers_table,
        "samplers_distances": distances_table,
        "sampler_cells": cells_table,
        "sampler_quality": quality_table,
        "sampler_overhead": overhead_table,
        "sampler_rounding": rounding_table,
        "shipped_sizes": shipped_sizes,
        "shipped_quality": shipped_quality,
    }
    peers = peers_measured()
    tables |= {name: partial(write, peers) for name, write in peers_tables().items()}
    for name, write in tables.items():
        (out / f"{name}.md").write_text(write(), encoding="utf-8")
    drawings = {
        "stability": stability,
        "controllers": controllers,
        "dense_error": dense_error,
        "events": events,
        "alignment": alignment,
        "implicit": implicit_methods,
        "work_precision": work_precision,
        "stabilised": stabilised,
        "samplers": samplers,
        "samplers_networks": networks,
        "shipped": shipped_samples,
    }
    drawings |= {name: partial(draw, peers) for name, draw in peers_drawings().items()}
    with mpl.rc_context(STYLE):
        for name, draw in drawings.items():
            figure = draw()
            figure.savefig(out / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)
        method_pages.write(Path(__file__).parent / "method")


def by_order() -> list[Any]:
    """All explicit tableaus, lowest order first."""
    return sorted(sk.EXPLICIT.values(), key=lambda tableau: tableau.order)


# Tables of measurements ---------------------------------------------------------------------------

DATA = Path(__file__).parent / "data"


def estimators_table() -> str:
    """Return what benchmarks/estimators.py measured, one row per estimator."""
    measured = json.loads((DATA / "estimators.json").read_text(encoding="utf-8"))
    head = "| | estimator | 5 % | 50 % | 95 % | no number | sign | angle 50 % | 95 % | calls |"
    lines = [head, "|:--|:--|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for key, title in (("stiff", "stiff"), ("detest", "DETEST")):
        for i, (name, row) in enumerate(measured[key]["all"].items()):
            angles = ["", ""] if row["angle"] is None else [f"{a:.1f}°" for a in row["angle"]]
            cells = [
                "" if i else f"**{title}**",
                name,
                *(f"{ratio:.3g}" for ratio in row["ratio"]),
                f"{row['unusable']:.0%}" if row["unusable"] else "",
                "" if row["sign"] is None else f"{row['sign']:.0%}",
                *angles,
                f"{row['calls']:.1f}" if row["calls"] else "0",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def detector_table() -> str:
    """Return what benchmarks/detector.py measured, one row per method."""
    measured = json.loads((DATA / "detector.json").read_text(encoding="utf-8"))
    head = (
        "| method | solves | proofs | alarms | false | stiff phases | missed | delay 50 % | worst "
        "| radius within 25 % | cost 50 % | worst |"
    )
    lines = [head, "|:--|" + "--:|" * 11]
    for name in dict.fromkeys(solve["method"] for solve in measured):
        solves = [solve for solve in measured if solve["method"] == name]
        total = {
            key: sum(solve[key] for solve in solves)
            for key in ("proofs", "alarms", "false", "phases", "missed")
        }
        delays = [delay for solve in solves for delay in solve["delays"]]
        radii = np.array([ratio for solve in solves for ratio in solve["radius_ratios"]])
        costs = [solve["cost"] for solve in solves]
        cells = [
            f"`{name}`",
            f"{len(solves)}",
            *(f"{count}" for count in total.values()),
            f"{np.median(delays):.0f}",
            f"{max(delays)}",
            f"{np.mean((radii >= 0.8) & (radii <= 1.25)):.1%}",
            f"{np.median(costs):.1%}",
            f"{max(costs):.1%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


# Figures ------------------------------------------------------------------------------------------


def stability() -> Any:
    """Stability regions of all methods, one panel for each group of orders."""
    groups = [
        ("orders 1 to 4", lambda p: p <= 4, (-3.7, 1.2), 3.6),
        ("order 5", lambda p: p == 5, (-5.2, 1.7), 5.1),
        ("orders 6 to 9", lambda p: p >= 6, (-7.2, 2.4), 7.1),
    ]
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 4.0))
    figure.subplots_adjust(wspace=0.2)
    for ax, (title, wanted, x_limits, y_limit) in zip(axes, groups, strict=True):
        x, y = np.meshgrid(np.linspace(*x_limits, 240), np.linspace(-y_limit, y_limit, 321))
        regions: dict[tuple[float, ...], list[Any]] = {}
        for tableau in by_order():
            if wanted(tableau.order):
                polynomial = tableau.stability_polynomial
                regions.setdefault(tuple(np.round(polynomial, 12)), []).append(tableau)
        handles = []
        for i, tableaus in enumerate(regions.values()):
            z = x + 1j * y
            modulus = np.abs(np.polyval(tableaus[0].stability_polynomial[::-1], z))
            ax.contour(x, y, modulus, levels=[1.0], colors=[f"C{i}"], linewidths=1.2)
            label = ", ".join(tableau.name for tableau in tableaus)
            handles.append(mpl.lines.Line2D([], [], color=f"C{i}", label=label))
        ax.axhline(0, lw=0.6, color="0.4")
        ax.axvline(0, lw=0.6, color="0.4")
        ax.set(aspect="equal", title=title, xlabel="Re z")
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2}
        ax.legend(handles=handles, handlelength=1, columnspacing=1, fontsize=8, **place)
    axes[0].set_ylabel("Im z")
    return figure


def controllers() -> Any:
    """Step sizes and error ratios on a problem whose steps stability limits."""
    figure, axes = plt.subplots(2, 3, figsize=(8.4, 4.0), sharex=True, layout="constrained")
    limit = sk.METHODS["tsit5"].real_stability_limit
    for column, name in zip(axes.T, ("I", "PI-DOPRI5", "H211b"), strict=True):
        log = sk.solve(
            lambda t, y: -1000 * (y - np.cos(t)) - np.sin(t),
            (0.0, 0.5),
            [1.1],
            "tsit5",
            rtol=1e-4,
            atol=1e-7,
            controller=name,
            log=True,
        ).log
        taken = log["accepted"]
        for ax, value in zip(column, (1000 * log["h"], log["ratio"]), strict=True):
            ax.plot(log["t"][taken], value[taken], ".", ms=3)
            ax.plot(log["t"][~taken], value[~taken], "C3x", ms=4)
        column[0].axhline(limit, lw=0.8, color="0.3")
        column[1].axhline(1, lw=0.8, color="0.3")
        rejected = int((~taken).sum())
        column[0].set(title=f"{name}: {len(taken)} steps, {rejected} rejected", ylim=(2.2, 4.8))
        column[1].set(xlabel="t", yscale="log", ylim=(1e-3, 100))
    axes[0, 0].set_ylabel("h|λ|")
    axes[1, 0].set_ylabel("error / tolerance")
    return figure


PENDULUM_Y0 = [1.0, 0.5]


def pendulum(_: float, y: np.ndarray) -> np.ndarray:
    """Return the slope of a pendulum's angle and angular velocity."""
    return np.array([y[1], -np.sin(y[0])])


def dense_error() -> Any:
    """Error of one step's dense output, over the step."""
    figure, ax = plt.subplots(figsize=(8.4, 3.0), layout="constrained")
    theta = np.linspace(0, 1, 201)
    h, names = 0.5, ("cashkarp", "dopri5", "tsit5", "bs5", "vern6", "vern7")
    for name in names:
        solution = sk.solve(pendulum, (0, h), PENDULUM_Y0, name, grid=1, dense=True)
        exact = reference(theta * h)
        error = np.abs(solution(theta * h) - exact).max(axis=1)
        order = sk.METHODS[name].dense.order
        ax.semilogy(theta[1:], error[1:], lw=1.2, label=f"{name}, dense order {order}")
    ax.set(xlabel="θ", ylabel="error", ylim=(1e-12, 1e-2), xlim=(0, 1))
    ax.legend(ncols=3, loc="upper center")
    return figure


def reference(t: np.ndarray) -> np.ndarray:
    """Return the pendulum to rounding."""
    tight = {"rtol": 1e-13, "atol": 1e-14}
    return sk.solve(pendulum, (0, t[-1]), PENDULUM_Y0, "vern9", t_eval=t, **tight).y


def events() -> Any:
    """What an event function does within one step, and what is found."""
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 2.6), sharey=True, layout="constrained")
    theta = np.linspace(0, 1, 401)
    cases = [
        ("a sign change", lambda s: 2.2 * (s - 0.62)),
        ("a pair between samples", lambda s: 14 * (s - 0.36) ** 2 - 0.06),
        ("a touch: no sign change", lambda s: 4 * (s - 0.62) ** 2),
    ]
    for ax, (title, g) in zip(axes, cases, strict=True):
        solution = sk.solve(
            lambda _, y: 0 * y, (0.0, 1.0), [0.0], grid=1, events=lambda t, _, g=g: g(t)
        )
        roots = solution.events[0].t
        samples = np.array([0, 0.25, 0.5, 0.75, 1])
        ax.axhline(0, color="0.3", lw=0.8)
        ax.plot(theta, g(theta), lw=1.2)
        ax.plot(samples, g(samples), "ko", ms=4, label="sampled")
        ax.plot(roots, 0 * roots, "C3D", ms=6, mfc="none", label="found")
        ax.set(title=title, xlabel="θ", ylim=(-1.5, 1.5))
    axes[0].set_ylabel("g")
    axes[0].legend(loc="upper left")
    return figure
