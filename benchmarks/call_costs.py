"""What a call of f takes beside what ``method="auto"`` counts it for, on the problems of auto.py.

Ratios of times of one run: the least of 20 calls over that of as many operations of a dense LU
decomposition as a call is counted for. Below `costs.CLEARLY` the count stands.

    python benchmarks/call_costs.py
"""

from __future__ import annotations

import numpy as np
from auto import cases

from stiffkit.solvers import costs
from stiffkit.solvers.problem import make_problem


def ratio(case: object) -> float:
    """Return the measured time of a call over the counted one."""
    f, span, y0, _ = case  # type: ignore[misc]
    problem = make_problem(f, span, y0, (), 1e-6, 1e-9)
    seen = costs.Costs(len(problem.y0), 3, dense=True)
    for _ in range(20):
        seen.f(problem.f, problem.t0, problem.y0)
    return seen.f.least / seen.call / costs.pace()


def main() -> None:
    """Measure and print."""
    found = {name: ratio(case) for group in cases().values() for name, case in group.items()}
    for name in sorted(found, key=lambda name: -found[name])[:8]:
        print(f"{name:20} {found[name]:6.2f}")
    values = np.array(list(found.values()))
    below = np.mean(values < costs.CLEARLY)
    print(
        f"{len(values)} problems: {values.min():.2f} to {values.max():.2f}, median "
        f"{np.median(values):.2f}; {100 * below:.0f} % below {costs.CLEARLY:.0f}"
    )


if __name__ == "__main__":
    main()
