"""Compiled ``method="auto"`` against the interpreted one, and SciPy's LSODA with Python's f.

The least of seven processor times, taken in turns, after all is compiled.

    python benchmarks/compiled_auto.py
"""

from __future__ import annotations

from functools import partial
from typing import Any

from _measure import take_turns  # first: it sets the threads

# isort: split
import ivp_problems
import numpy as np
import stiff_problems
from _peer_problems import forms
from scipy.integrate import solve_ivp

import stiffkit as sk

SLOPES: dict[str, Any] = {
    "ROBER": stiff_problems.robertson_slopes,
    "HIRES": stiff_problems.hires_slopes,
    "VDPOL": stiff_problems.van_der_pol_slopes,
}


def cases() -> dict[str, tuple[Any, tuple[float, float], Any, Any]]:
    """Slopes, span, initial state, and the absolute tolerance for rtol = 1."""
    found = {name: stiff_problems.STIFF[name] for name in SLOPES}
    rows = {n: (SLOPES[n], (p.t_span[0], p.t_end), p.y0, p.atol) for n, p in found.items()}
    return {
        **rows,
        "Lotka-Volterra": (ivp_problems.lotka_volterra_slopes, (0.0, 20.0), [1.0, 1.0], 1.0),
    }


def main() -> None:
    """Measure and print."""
    for name, (slopes, span, y0, atol) in cases().items():
        made = forms(slopes, len(y0))
        f, compiled = made["python"], sk.jit(made["compilable"])
        for rtol in (1e-4, 1e-7):
            tolerances = {"rtol": rtol, "atol": rtol * np.asarray(atol)}
            runs = {
                "compiled": partial(sk.solve, compiled, span, y0, **tolerances),
                "interpreted": partial(sk.solve, f, span, y0, **tolerances),
                "LSODA": partial(solve_ivp, f, span, y0, "LSODA", **tolerances),
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
