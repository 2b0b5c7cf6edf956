"""``method="auto"`` against its own members in hindsight: calls of f, on four sets of problems.

DETEST and others, and the stiff set; problems that the constants of the choice were chosen by
besides, Enright and Hull's stiff ones for the most part; and problems held out from that choice.

A Jacobian by differences counts the calls that it takes, a factorisation nothing: the problems are
small. Members that need more than 20 times auto's attempts are stopped.

    python benchmarks/auto.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from _auto_problems import CHOSEN_BY, HELD_OUT
from ivp_problems import PROBLEMS
from stiff_problems import STIFF

import stiffkit as sk

MEMBERS = ("tsit5", "vern7", "rkc2", "rock4", "rodas5p", "radau5", "radau9")
RTOLS = (1e-3, 1e-5, 1e-7, 1e-9)


def cases() -> dict[str, dict[str, tuple[Any, tuple[float, float], Any, Any]]]:
    """Right-hand side, span, initial state and tolerance for rtol = 1 of every set's problems."""
    smooth = [p for p in PROBLEMS.values() if p.kind != "rough"]
    stiff = {
        p.name: (p.f, (p.t_span[0], p.t_end), p.y0, np.asarray(p.atol)) for p in STIFF.values()
    }
    return {
        "DETEST and others": {p.name: (p.f, p.t_span, p.y0, 1.0) for p in smooth},
        "stiff set": stiff,
        "chosen by": CHOSEN_BY,
        "held out": HELD_OUT,
    }


def calls(case: Any, method: str, rtol: float, max_steps: int = 100_000) -> tuple[float, Any]:
    """Return the calls of f, infinite for a failure, and the solution."""
    f, span, y0, atol = case
    solution = sk.solve(f, span, y0, method, rtol=rtol, atol=atol * rtol, max_steps=max_steps)
    return (solution.stats["nfev"] if solution.success else math.inf), solution


def measure() -> list[dict[str, Any]]:
    """Return a row per problem and tolerance."""
    rows = []
    for group, name, case in (
        (group, name, case) for group, found in cases().items() for name, case in found.items()
    ):
        for rtol in RTOLS:
            auto, solution = calls(case, "auto", rtol)
            limit = 20 * (solution.stats["accepted"] + solution.stats["rejected"])
            each = {method: calls(case, method, rtol, limit)[0] for method in MEMBERS}
            best = min(each, key=lambda method: each[method])
            rows.append(
                {
                    "set": group,
                    "problem": name,
                    "rtol": rtol,
                    "auto": auto,
                    "best": best,
                    "ratio": auto / each[best],
                    "switches": len(solution.switches),
                }
            )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = measure()
    ratios = np.array([row["ratio"] for row in rows])
    for row in sorted(rows, key=lambda row: -row["ratio"])[:40]:
        print(
            f"{row['problem']:20} {row['rtol']:.0e} auto {row['auto']:8.0f} calls, "
            f"{row['ratio']:5.2f} times {row['best']}, {row['switches']} switches"
        )
    sets = np.array([row["set"] for row in rows])
    for label in (*cases(), "all"):
        chosen = (sets == label) | (label == "all")
        of = ratios[chosen]
        print(
            f"{label:20} {len(of)} solves: median {np.median(of):.2f}, worst {of.max():.2f}, "
            f"at most 1.5 in {100 * np.mean(of <= 1.5):.0f} %, at least as cheap as every member "
            f"in {100 * np.mean(of <= 1):.0f} %; failures {np.isinf(of).sum()}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
