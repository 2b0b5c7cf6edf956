"""What ``ros34pw2`` saves by keeping its Jacobian on stiff problems: calls, and factorisations.

The same method with a Jacobian in every step is the peer. The problems are those of auto.py, but
for the first set and the three that take longest.

    python benchmarks/old_jacobians.py
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from auto import calls, cases

from stiffkit.solvers.methods import METHODS

LONG = ("OREGO", "CUSP", "Brusselator 40")


def spent(case: object, method: object, rtol: float) -> np.ndarray:
    """Return the calls of f and the factorisations."""
    return np.array([calls(case, method, rtol)[1].stats[name] for name in ("nfev", "nlu")])


def main() -> None:
    """Measure and print."""
    method = METHODS["ros34pw2"]
    peer = replace(method, w_method=False)
    problems = {
        name: case
        for group, found in cases().items()
        if group != "DETEST and others"
        for name, case in found.items()
        if name not in LONG
    }
    for rtol in (1e-3, 1e-5):
        ratios = np.array(
            [spent(c, method, rtol) / spent(c, peer, rtol) for c in problems.values()]
        )
        means, worst = np.exp(np.log(ratios).mean(axis=0)), ratios[:, 0].argmax()
        print(
            f"rtol {rtol:.0e}, {len(ratios)} problems: {means[0]:.2f} of the calls, "
            f"{means[1]:.2f} of the factorisations; at worst {ratios[worst, 0]:.2f} of the calls "
            f"({list(problems)[worst]})"
        )


if __name__ == "__main__":
    main()
