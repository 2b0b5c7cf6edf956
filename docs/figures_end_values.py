"""Tables of guides/end-values.md, from what benchmarks/end_values.py measured."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stiffkit.solvers.stabilised import STABILISED

DATA = Path(__file__).parent / "data" / "end_values.json"
RTOLS = (1e-4, 1e-6, 1e-8, 1e-10)


def measured() -> dict[str, Any]:
    return json.loads(DATA.read_text(encoding="utf-8"))


def power(value: float) -> str:
    """1e-4, or 1e9: short, as the text writes them."""
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def digits(rtol: float) -> Callable[[], str]:
    """Return the table of one tolerance: a row per method, a column per problem, scd in the cells.

    What misses the target is bold, a dash is a solve that was given up.
    """

    def write() -> str:
        rows = [row for row in measured()["rows"] if row["rtol"] == rtol]
        problems = list(dict.fromkeys(row["problem"] for row in rows))
        lines = [
            "| | " + " | ".join(problems) + " |",
            "|:--|" + "--:|" * len(problems),
        ]
        cells = {(row["method"], row["problem"]): row for row in rows}
        for method in dict.fromkeys(row["method"] for row in rows):
            found = [_cell(cells.get((method, problem))) for problem in problems]
            lines.append(f"| `{method}` | " + " | ".join(found) + " |")
        return "\n".join(lines) + "\n"

    return write


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["scd"] is None:
        return "**–**"
    text = f"{row['scd']:.1f}".replace("-", "−")
    return text if row["met"] else f"**{text}**"


def misses() -> str:
    """A row per method: how many solves met the target, and by how much the others miss it."""
    data = measured()
    lines = ["| | solves | met | short by |", "|:--|--:|--:|:--|"]
    for method in dict.fromkeys(row["method"] for row in data["rows"]):
        rows = [row for row in data["rows"] if row["method"] == method]
        short = [_short(row, data["margin"]) for row in rows if not row["met"]]
        met = len(rows) - len(short)
        lines.append(f"| `{method}` | {len(rows)} | {met} | {', '.join(short)} |")
    return "\n".join(lines) + "\n"


def shares() -> str:
    """How many solves of each kind met the target."""
    rows, lines = measured()["rows"], ["| | solves | met | |", "|:--|--:|--:|--:|"]
    kinds = {
        "implicit and Rosenbrock methods": lambda name: name not in STABILISED,
        "stabilised methods": lambda name: name in STABILISED,
    }
    for kind, belongs in kinds.items():
        met = [row["met"] for row in rows if belongs(row["method"])]
        share = f"{100 * sum(met) / len(met):.0f} %"
        lines.append(f"| {kind} | {len(met)} | {sum(met)} | {share} |")
    return "\n".join(lines) + "\n"


def _short(row: dict[str, Any], margin: float) -> str:
    at = f"{row['problem']} {power(row['rtol'])}"
    if row["scd"] is None:
        reason = "50,000 steps" if row["status"] == "max_steps" else row["status"]
        return f"{at}: {reason}"
    return f"{at}: {-math.log10(row['rtol']) - margin - row['scd']:.2f}"


def tolerances() -> str:
    """Atol over rtol of each problem."""
    lines = ["| | atol / rtol |", "|:--|:--|"]
    for name, value in measured()["atol_over_rtol"].items():
        each = value if isinstance(value, list) else [value]
        lines.append(f"| {name} | " + ", ".join(map(power, each)) + " |")
    return "\n".join(lines) + "\n"


TABLES: dict[str, Callable[[], str]] = {
    "end_values_misses": misses,
    "end_values_shares": shares,
    "end_values_atol": tolerances,
    **{f"end_values_{int(-math.log10(rtol))}": digits(rtol) for rtol in RTOLS},
}
