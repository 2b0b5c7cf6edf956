"""Time of ``method="auto"`` on the problems of auto.py, by how clear a departure has to be.

Seconds, not calls: of each solve the least of several, the bands taken in turn within one process.
A measured time replaces a count that it departs from by so many times; by infinity, none does.

    python benchmarks/cost_band.py [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from auto import RTOLS, calls, cases

from stiffkit.solvers import costs

BANDS = (4.0, 8.0, 20.0, math.inf)


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return a row per problem and tolerance: seconds, and the counts that were seen, by band."""
    rows = []
    for group, name, case in (
        (group, name, case) for group, found in cases().items() for name, case in found.items()
    ):
        for rtol in RTOLS:
            times = {band: math.inf for band in BANDS}
            counts: dict[float, set[Any]] = {band: set() for band in BANDS}
            for _ in range(rounds):
                for band in BANDS:
                    costs.CLEARLY = band
                    start = perf_counter()
                    nfev, solution = calls(case, "auto", rtol)
                    times[band] = min(times[band], perf_counter() - start)
                    counts[band].add((nfev, len(solution.switches)))
            rows.append(
                {
                    "set": group,
                    "problem": name,
                    "rtol": rtol,
                    "seconds": list(times.values()),
                    "counts": [sorted(seen) for seen in counts.values()],
                }
            )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = measure(arguments.rounds)
    times = np.array([row["seconds"] for row in rows])
    for i, band in enumerate(BANDS):
        unlike = [row["counts"][i] != row["counts"][-1] for row in rows]
        torn = sum(len(row["counts"][i]) > 1 for row in rows)
        ratio = times[:, i] / times[:, -1]
        mean = math.exp(np.log(ratio[unlike]).mean()) if any(unlike) else 1.0
        print(
            f"band {band:4.0f}: {sum(unlike):3} of {len(rows)} solves differ from counts alone, "
            f"whose time is {mean:.3f} of it in the mean ({ratio[unlike].min(initial=9):.2f} to "
            f"{ratio[unlike].max(initial=0):.2f}), all together {times[:, i].sum():.2f} s of "
            f"{times[:, -1].sum():.2f}; {torn} differ between runs"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
