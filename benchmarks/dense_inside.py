"""Errors inside the steps of implicit methods, with and without control of them.

Prothero and Robinson's problem y' = -rate (y - cos t) - sin t from y = 1 over [0, 8] with dense
output, at rates from 1 to 1e8. Printed are, in units of the tolerance and over all rates, the
largest error inside the steps where only their ends are controlled, the same as `solve` has it, the
largest error at the ends, and the calls of f over those without control of the inside. Then follow
steps and calls with dense output over those without on problems that have no such component.

    python benchmarks/dense_inside.py [RTOL]
"""

from __future__ import annotations

# ruff: noqa: E402 - the number of threads is set before NumPy is imported
import math
import os
import sys

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from dense_stiff import problems

import stiffkit as sk
from stiffkit.solvers import stiff_limit
from stiffkit.solvers.methods import STIFF
from stiffkit.solvers.stabilised import StabilisedMethod

RATES = (1e0, 1e1, 1e2, 5e2, 1e4, 1e6, 1e8)
INSIDE = np.linspace(0, 1, 22)[1:-1]
CONTROLLED = stiff_limit._LOOSE


def measure(name: str, rate: float, rtol: float, loose: float) -> tuple[float, float, int]:
    """Errors over rtol inside the steps and at their ends, and calls of f."""
    stiff_limit._LOOSE = loose
    s = sk.solve(
        lambda t, y: -rate * (y - math.cos(t)) - math.sin(t),
        (0.0, 8.0),
        [1.0],
        name,
        rtol=rtol,
        atol=rtol,
        dense=True,
    )
    t = (s.t[:-1, None] + INSIDE * np.diff(s.t)[:, None]).ravel()
    inside, ends = (np.abs(y[:, 0] - np.cos(at)).max() for y, at in ((s(t), t), (s.y, s.t)))
    return float(inside) / rtol, float(ends) / rtol, s.stats["nfev"]


def cost(name: str) -> np.ndarray:
    """Return steps and calls of f with dense output over those without, means over problems."""
    ratios = []
    for title, f, span, y0, atol, _ in problems():
        for rtol in () if title.startswith("PR") else (1e-3, 1e-6):
            tight = rtol * np.broadcast_to(atol, len(y0))
            with_dense, without = (
                sk.solve(f, span, y0, name, rtol=rtol, atol=tight, dense=dense).stats
                for dense in (True, False)
            )
            ratios.append([with_dense[key] / without[key] for key in ("accepted", "nfev")])
    return np.exp(np.log(ratios).mean(axis=0))


def main(rtol: float) -> None:
    """Print a line per method, twice."""
    print(f"rtol {rtol:.0e}   inside, ends only   inside   ends   calls of f")
    for name, method in STIFF.items():
        if isinstance(method, StabilisedMethod):
            continue
        before = [measure(name, rate, rtol, math.inf) for rate in RATES]
        after = [measure(name, rate, rtol, CONTROLLED) for rate in RATES]
        old, new, ends = (
            max(row[i] for row in rows) for rows, i in ((before, 0), (after, 0), (after, 1))
        )
        calls = sum(row[2] for row in after) / sum(row[2] for row in before)
        print(f"{name:9} {old:18.3g} {new:12.3g} {ends:8.3g} {calls:9.2f}", flush=True)
    for name, method in STIFF.items():
        if not isinstance(method, StabilisedMethod):
            steps, calls = cost(name)
            print(f"{name:9} steps {steps:.2f}, calls {calls:.2f}", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1e-3)
