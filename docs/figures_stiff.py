"""Tables and figure of guides/stiff.md, from what benchmarks/work_precision.py measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

DATA = Path(__file__).parent / "data" / "work_precision.json"
PEERS = ("Radau", "BDF", "LSODA", "CVODE")


def measured() -> dict[str, Any]:
    return json.loads(DATA.read_text(encoding="utf-8"))


def work_precision_table() -> str:
    """Time at equal digits: a row per problem and number of digits."""
    head = (
        "| | digits | Radau or BDF | best of ours | which | `auto` | `rodas5p` | `radau9` "
        "| LSODA | CVODE |",
        "|:--|--:|--:|--:|:--|--:|--:|--:|--:|--:|",
    )
    lines, last = [*head], None
    for row in measured()["equal_digits"]:
        if row["digits"] not in (4, 6, 8):
            continue
        cells = [
            "" if row["problem"] == last else row["problem"],
            f"{row['digits']}",
            f"{1e3 * row['base']:.0f} ms",
            _ratio(row["best"]),
            f"`{row['best_method']}`",
            *(_ratio(row.get(name)) for name in ("auto", "rodas5p", "radau9", "LSODA", "CVODE")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
        last = row["problem"]
    return "\n".join(lines) + "\n"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def digits_table() -> str:
    """A row per solver: how often the digits asked for came, and the worst case."""
    head = (
        "| | solves | with the digits | least excess | at |",
        "|:--|--:|--:|--:|:--|",
    )
    lines, all_cells = [*head], measured()["cells"]
    for name in dict.fromkeys(cell["solver"] for cell in all_cells):
        cells = [cell for cell in all_cells if cell["solver"] == name]
        done = [cell for cell in cells if cell["scd"] is not None]
        worst = min(done, key=_excess)
        kept = sum(_excess(cell) >= -1.5 for cell in done)
        unfinished = len(cells) - len(done)
        row = [
            name if name in PEERS else f"`{name}`",
            f"{len(cells)}" + (f", {unfinished} unfinished" if unfinished else ""),
            f"{kept / len(cells):.0%}",
            f"{_excess(worst):+.1f}".replace("-", "−"),
            f"{worst['problem']}, {worst['rtol']:.0e}".replace("e-0", "e-"),
        ]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def _excess(cell: dict[str, Any]) -> float:
    """Digits beyond −log10(rtol)."""
    return cell["scd"] + math.log10(cell["rtol"])


LINES = {
    "auto": "C6s-",
    "rodas5p": "C0o-",
    "radau5": "C1o-",
    "radau9": "C9o-",
    "kencarp5": "C2o-",
    "rock4": "C3o-",
    "rkc2": "C4o-",
    "Radau": "C1x:",
    "BDF": "C5x:",
    "LSODA": "C7x:",
    "CVODE": "kx:",
    "CVODE(5)": "C8x:",
    "CVODE(30)": "C9x:",
    "CVODE, FFT": "k+:",
}


def work_precision() -> Any:
    """Time over digits: a panel per problem, ours solid, peers dotted."""
    data = measured()
    cells = data["cells"] + data["plane"]
    figure, axes = plt.subplots(2, 4, figsize=(8.4, 4.8), layout="constrained")
    *panels, legend = axes.flat
    handles: dict[str, Any] = {}
    for ax, problem in zip(panels, dict.fromkeys(c["problem"] for c in cells), strict=True):
        for name, line in LINES.items():
            of = [c for c in cells if (c["problem"], c["solver"]) == (problem, name)]
            points = sorted((c["scd"], c["time"]) for c in of if c["scd"] is not None)
            if points:
                (handles[name],) = ax.semilogy(*zip(*points, strict=True), line, lw=1, ms=3)
        ax.set(title=problem)
        ax.yaxis.set_minor_formatter(NullFormatter())
    for ax in (axes[0, 0], axes[1, 0]):
        ax.set(ylabel="seconds")
    for ax in axes[1, :3]:
        ax.set(xlabel="digits")
    legend.axis("off")
    names = [name for name in LINES if name in handles]
    legend.legend([handles[name] for name in names], names, loc="center")
    return figure
