"""Errors between the steps of ESDIRK methods: their own dense output and the cubic Hermite one.

Each problem is solved at three tolerances. The error, in units of the tolerance (rms over the
components), is taken at five points inside each step and at the ends of the steps. Printed are the
largest ones of a solve, and, over all solves of a method, the geometric mean of the ratio of the
largest error inside to the largest at the ends: 1 would be a dense output that adds nothing. (A
ratio of rms errors is added; neither sees the errors far below the tolerance: 1e-3 is the floor.)

    python benchmarks/dense_stiff.py [METHOD ...]
"""

from __future__ import annotations

# ruff: noqa: E402 - the number of threads is set before NumPy is imported
import math
import os
import sys
from collections.abc import Callable
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from stiff_problems import STIFF

import stiffkit as sk

METHODS = ("trbdf2", "kvaerno3", "kvaerno4", "kvaerno5", "kencarp3", "kencarp4", "kencarp5")
RTOLS = (1e-3, 1e-5, 1e-7)
INSIDE = np.array([0.15, 0.3, 0.5, 0.7, 0.85])

Array = np.ndarray


def prothero_robinson(rate: float) -> tuple[Any, ...]:
    """Return a problem with a fast mode, which starts off its slow solution cos t."""
    return (
        f"PR {rate:.0e}",
        lambda t, y: -rate * (y - math.cos(t)) - math.sin(t),
        (0.0, 8.0),
        [1.5],
        1.0,
        lambda t: (np.cos(t) + 0.5 * np.exp(-rate * t))[:, None],
    )


def van_der_pol(eps: float, t1: float, slope: float) -> tuple[Any, ...]:
    """Return the oscillator up to its first fall, or over it."""

    def f(t: float, y: Array) -> Array:  # noqa: ARG001
        return np.array([y[1], ((1 - y[0] ** 2) * y[1] - y[0]) / eps])

    return (f"VDP {eps:.0e}", f, (0.0, t1), [2.0, slope], 1.0, None)


def problems() -> list[tuple[Any, ...]]:
    """Name, f, span, start, atol for rtol = 1, and the solution if it is known."""
    pendulum = ("pendulum", lambda _, y: np.array([y[1], -np.sin(y[0])]), (0.0, 10.0), [1.5, 0.0])
    small = ("ROBER", "HIRES", "E5", "POLLU")
    classic = [STIFF[name] for name in small]
    return [
        (*pendulum, 1.0, None),
        *(van_der_pol(*case) for case in ((1e-2, 2.0, -0.66), (1e-6, 0.78, 0.0))),
        *map(prothero_robinson, (1e1, 1e2, 1e4)),
        *((p.name, p.f, (p.t_span[0], p.t_end), p.y0, np.asarray(p.atol), None) for p in classic),
    ]


def cubic(tableau: sk.ButcherTableau) -> sk.ButcherTableau:
    """Return the same method with the Hermite polynomial for its dense output."""
    P = np.outer([*tableau.b, 0], [0.0, 3.0, -2.0])
    P[0] += [1.0, -2.0, 1.0]
    P[-2] += [0.0, -1.0, 1.0]
    fields = ("name", "order", "order_hat", "c", "A", "b", "b_hat", "reference")
    return sk.ButcherTableau(
        **{name: getattr(tableau, name) for name in fields},
        interpolant=sk.Interpolant(order=3, P=P.tolist()),
    )


def reference(problem: tuple[Any, ...]) -> Callable[[Array], Array]:
    """Return the solution, or an accurate one."""
    _, f, span, y0, atol, solution = problem
    if solution is not None:
        return solution
    tight = np.broadcast_to(atol, len(y0)) * 1e-13
    return sk.solve(f, span, y0, "radau5", rtol=1e-11, atol=tight, dense=True)


def errors(problem: tuple[Any, ...], method: Any, rtol: float, exact: Any) -> tuple[Array, Array]:
    """Errors in units of the tolerance: at the ends of the steps, and inside."""
    _, f, span, y0, atol, _ = problem
    atol = rtol * np.broadcast_to(atol, len(y0))
    solution = sk.solve(f, span, y0, method, rtol=rtol, atol=atol, dense=True)
    times = (solution.t[:-1, None] + INSIDE * np.diff(solution.t)[:, None]).ravel()
    pairs = [(solution.y, exact(solution.t)), (solution(times), exact(times))]
    ends, inside = (
        np.sqrt(np.mean(((y - ref) / (atol + rtol * np.abs(ref))) ** 2, axis=1)) for y, ref in pairs
    )
    return ends, inside


def main(names: list[str]) -> None:
    """Print a line per solve, and the means per method."""
    cases = [(problem, reference(problem)) for problem in problems()]
    for name in names:
        tableau, ratios = sk.METHODS[name], []
        for problem, exact in cases:
            for rtol in RTOLS:
                ends, own = errors(problem, tableau, rtol, exact)
                _, hermite = errors(problem, cubic(tableau), rtol, exact)
                worst = [max(float(e.max()), 1e-3) for e in (ends, own, hermite)]
                rms = [float(np.sqrt(np.mean(e**2))) for e in (ends, own, hermite)]
                ratios.append([v[i] / v[0] for v in (worst, rms) for i in (1, 2)])
                numbers = " ".join(f"{x:9.2g}" for x in worst)
                print(
                    f"{name:9}{problem[0]:9}{rtol:.0e}   ends, own, Hermite: {numbers}", flush=True
                )
        mean = np.exp(np.log(ratios).mean(axis=0))
        print(
            f"{name}: inside over ends, largest: own {mean[0]:.2f}, Hermite {mean[1]:.2f}; "
            f"rms: own {mean[2]:.2f}, Hermite {mean[3]:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:] or list(METHODS))
