"""Table and figure of theory/alignment.md, from data/alignment.json."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

DATA = Path(__file__).parent / "data" / "alignment.json"


def alignment_table() -> str:
    """Medians by problem and noise level."""
    lines = [
        "| problem | σ | error | embedded | drift | λ₂/λ₁ | distinct | error, if so |",
        "|:--|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for name, entry in json.loads(DATA.read_text(encoding="utf-8")).items():
        notes = [f"**{name}**", f"random: {entry['random']['median']:.2f}"]
        for i, r in enumerate(entry["regions"]):
            alone = "" if r["true_distinct"] is None else f"{r['true_distinct'][1]:.2f}"
            cells = [
                notes[i] if i < len(notes) else "",
                f"{r['sigma'][0]:g}–{r['sigma'][1]:g}",
                f"{r['true'][1]:.2f}",
                f"{r['embedded'][1]:.2f}",
                f"{r['drift'][1]:.2f}",
                f"{r['gap'][1]:.2f}",
                f"{r['distinct']} ({r['distinct_grows']})" if r["distinct"] else "0",
                alone,
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def alignment() -> Any:
    """Medians and 10-90 % bands of |cos|, one panel per problem."""
    figure, axes = plt.subplots(2, 3, figsize=(9, 5), sharey=True, layout="constrained")
    data = json.loads(DATA.read_text(encoding="utf-8"))
    for axis, (name, entry) in zip(axes.flat, data.items(), strict=True):
        x = [math.sqrt(math.prod(r["sigma"])) for r in entry["regions"]]
        styles = {"true": ("error", "-"), "embedded": ("embedded estimate", "--")}
        for key, (label, line) in {**styles, "drift": ("drift difference", ":")}.items():
            low, median, high = np.array([r[key] for r in entry["regions"]]).T
            (drawn,) = axis.semilogx(x, median, line, marker="o", markersize=3, label=label)
            if key == "true":
                axis.fill_between(x, low, high, color=drawn.get_color(), alpha=0.15, lw=0)
        axis.axhline(entry["random"]["median"], color="k", lw=0.8, label="random direction")
        axis.set(title=name, ylim=(-0.03, 1.03))
    for axis in axes[1]:
        axis.set_xlabel("$\\sigma$")
    for axis in axes[:, 0]:
        axis.set_ylabel("|cos| with the dominant eigenvector")
    axes[0, 0].legend(fontsize=7)
    return figure
