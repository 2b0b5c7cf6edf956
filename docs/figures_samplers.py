"""Tables and figures of the samplers' errors, from data/samplers.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

DATA = Path(__file__).parent / "data" / "samplers.json"
HEUN, UNIPC = "heun @ karras7", "unipc3 @ karras7"
DRAWN = ("heun", "erk paper", "fx", "dpmpp2m", "unipc3", "deis4", "sk44")


def _load() -> dict[str, Any]:
    return dict(json.loads(DATA.read_text(encoding="utf-8")))


def samplers_table() -> str:
    """Error over Heun's and UniPC's: geometric mean and worst cell, on every set."""
    data = _load()
    sets = [key for key in ("report", "guided", "images", "shipped") if key in data]
    title = {
        "report": "exact, held out",
        "guided": "exact, guided",
        "images": "networks",
        "shipped": "the shipped one",
    }
    lines = [
        "| sampler @ grid | " + " | ".join(f"{title[s]}: ÷ Heun (worst)" for s in sets) + " |",
        "|:--|" + "--:|" * len(sets),
    ]
    names = sorted(
        data["report"]["summary"], key=lambda n: data["report"]["summary"][n][HEUN]["mean"]
    )
    for name in names:
        cells = []
        for s in sets:
            row = data[s]["summary"].get(name)
            cells.append(
                "" if row is None else f"{row[HEUN]['mean']:.3f} ({row[HEUN]['worst']:.2g})"
            )
        unbroken = name.replace(" ", "\u00a0")
        lines.append(f"| {unbroken} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def distances_table() -> str:
    """Energy distance to data, with data and the converged flow as rows."""
    table = _load()["distances"]
    problems = list(table)
    lines = ["| samples | " + " | ".join(problems) + " |", "|:--|" + "--:|" * len(problems)]
    for name in table[problems[0]]:
        cells = [f"{1e3 * table[p][name][1]:.2f}" for p in problems]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cells_table() -> str:
    """The worst cells over UniPC-3, as the benchmark has them and with new samples."""
    rows = json.loads((DATA.parent / "sampler_cells.json").read_text(encoding="utf-8"))
    lines = [
        "| cell | in the benchmark | new samples | by seed | one call fewer, one more |",
        "|:--|--:|--:|--:|--:|",
    ]
    for row in rows:
        (fewer, *_), (mean, _, low, high), (more, *_) = row["again"].values()
        grid = {"karras7": "Karras", "logsnr": "log"}[row["grid"]]
        lines.append(
            f"| {row['problem']}, {grid}, {row['calls']} calls | {row['before']:.2f} | {mean:.2f} "
            f"| {low:.2f} to {high:.2f} | {fewer:.2f}, {more:.2f} |"
        )
    return "\n".join(lines) + "\n"


def quality_table() -> str:
    """Distances of the shipped network's samples to test images, by sampler and calls."""
    quality = _load()["quality"]
    calls = [str(c) for c in quality["calls"]]

    def cell(pair: list[float]) -> str:
        return "{:.0f} ({:.0f})".format(*pair)

    lines = [
        "| samples | " + " | ".join(f"{c} calls" for c in calls) + " |",
        "|:--|" + "--:|" * len(calls),
    ]
    for name, row in quality["rows"].items():
        # Of training images and of the converged flow there is one value, whatever the calls.
        cells = [cell(row[c]) for c in calls] if isinstance(row, dict) else [cell(row)] * len(calls)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def rounding_table() -> str:
    """What short dtypes of network and state add to the error, on the shipped network."""
    rows = _costs()["rounding"]["rows"]
    kinds = list(next(iter(rows.values())))
    lines = ["| sampler | " + " | ".join(kinds) + " |", "|:--|" + "--:|" * len(kinds)]
    lines += [
        f"| {n} | " + " | ".join(f"{r[k]:.1e}" for k in kinds) + " |" for n, r in rows.items()
    ]
    return "\n".join(lines) + "\n"


def overhead_table() -> str:
    """Process time of the loop over that of the shipped network."""
    shares = _costs()["overhead"]
    lines = ["| " + " | ".join(shares) + " |", "|" + "--:|" * len(shares)]
    lines.append("| " + " | ".join(f"{100 * v:.1f} %" for v in shares.values()) + " |")
    return "\n".join(lines) + "\n"


def _costs() -> dict[str, Any]:
    return dict(json.loads((DATA.parent / "sampler_costs.json").read_text(encoding="utf-8")))


def samplers() -> Any:
    """Median error over the problems of a set against calls."""
    data = _load()
    sets = [key for key in ("report", "images") if key in data]
    figure, axes = plt.subplots(1, len(sets), figsize=(9, 3.6), layout="constrained", squeeze=False)
    for axis, key in zip(axes[0], sets, strict=True):
        calls = data[key]["calls"]
        for name in DRAWN:
            rows = [t[f"{name} @ karras7"] for t in data[key]["errors"].values()]
            axis.loglog(calls, np.exp(np.log(rows).mean(axis=0)), marker="o", ms=3, label=name)
        axis.set(
            title={"report": "exact", "images": "networks"}[key], xlabel="calls of the network"
        )
        axis.set_xticks(calls, [str(c) for c in calls])
        axis.minorticks_off()
    axes[0, 0].set_ylabel("mean distance from the converged flow")
    axes[0, 0].legend(fontsize=7)
    return figure


def networks() -> Any:
    """Error against calls on every pretrained network, every sampler on the better of its grids."""
    images = _load()["images"]
    calls = images["calls"]
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.6), layout="constrained", sharey=True)
    for axis, (network, table) in zip(axes, images["errors"].items(), strict=True):
        for name in ("heun", "erk paper", "fx", "dpmpp2m", "unipc3", "sk44"):
            grids = [row for key, row in table.items() if key.split(" @ ")[0] == name]
            best = min(grids, key=lambda row: np.log(row).mean())
            axis.loglog(calls, best, marker="o", ms=3, label=name)
        axis.set(title=network, xlabel="calls of the network")
        axis.set_xticks(calls, [str(c) for c in calls])
        axis.minorticks_off()
    axes[0].set_ylabel("mean distance from the converged flow")
    axes[0].legend(fontsize=7)
    return figure
