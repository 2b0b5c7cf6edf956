"""Compiled ``method="auto"`` against the interpreted one, and SciPy's LSODA with Python's f.

The least of seven processor times, taken in turns, after all is compiled.

    python benchmarks/compiled_auto.py
"""

from __future__ import annotations

from functools import partial
from typing import Any

from _measure import take_turns  # first: it sets the threads

# isort: split
import numpy as np
from scipy.integrate import solve_ivp

import stiffkit as sk

Array = np.ndarray


def rober(t: float, y: Array) -> Array:  # noqa: ARG001
    slow, fast = 0.04 * y[0] - 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return np.array([-slow, slow - fast, fast])


def hires(t: float, y: Array) -> Array:  # noqa: ARG001
    bound = 280 * y[5] * y[7]
    return np.array(
        [
            -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007,
            1.71 * y[0] - 8.75 * y[1],
            -10.03 * y[2] + 0.43 * y[3] + 0.035 * y[4],
            8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3],
            -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6],
            -bound + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6],
            bound - 1.81 * y[6],
            -bound + 1.81 * y[6],
        ]
    )


def vdpol(t: float, y: Array) -> Array:  # noqa: ARG001
    return np.array([y[1], ((1 - y[0] ** 2) * y[1] - y[0]) / 1e-6])


def lotka_volterra(t: float, y: Array) -> Array:  # noqa: ARG001
    return np.array([1.5 * y[0] - y[0] * y[1], y[0] * y[1] - 3 * y[1]])


PROBLEMS: dict[str, tuple[Any, float, list[float], float]] = {
    "ROBER": (rober, 1e11, [1.0, 0.0, 0.0], 1e-6),
    "HIRES": (hires, 321.8122, [1.0, *6 * [0.0], 0.0057], 1e-4),
    "VDPOL": (vdpol, 2.0, [2.0, 0.0], 1.0),
    "Lotka-Volterra": (lotka_volterra, 20.0, [1.0, 1.0], 1.0),
}
"""f, the end, the initial state, and the absolute tolerance for rtol = 1."""


def main() -> None:
    """Measure and print."""
    for name, (f, t_end, y0, atol) in PROBLEMS.items():
        compiled = sk.jit(f)
        for rtol in (1e-4, 1e-7):
            tolerances = {"rtol": rtol, "atol": rtol * atol}
            runs = {
                "compiled": partial(sk.solve, compiled, (0.0, t_end), y0, **tolerances),
                "interpreted": partial(sk.solve, f, (0.0, t_end), y0, **tolerances),
                "LSODA": partial(solve_ivp, f, (0.0, t_end), y0, "LSODA", **tolerances),
            }
            runs["compiled"]()
            time = {key: timing.best for key, timing in take_turns(runs, 7).items()}
            ours = time["compiled"]
            print(
                f"{name:15} {rtol:.0e} {1e3 * ours:7.2f} ms, {ours / time['interpreted']:.2f} of "
                f"the interpreted loop's, {ours / time['LSODA']:.2f} of LSODA's"
            )


if __name__ == "__main__":
    main()
