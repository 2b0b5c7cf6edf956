"""Time of the compiled loop itself: per call of f of explicit methods, per step of stiff ones.

The loop is timed without the call of `solve` around it. Beside explicit methods stands what f and
the sums of the stages take, written out with their coefficients.

    python benchmarks/work_step.py [REPETITIONS]
"""

from __future__ import annotations

import sys
import time
from typing import Any

import _measure  # noqa: F401 - first: it sets the number of threads

# isort: split
import ivp_problems
import numba
import numpy as np
import stiff_problems
from _peer_problems import forms

import stiffkit as sk
from stiffkit.solvers.compiled.run import _Stretches

Slopes = Any


def kepler(x: Any, y: Any, u: Any, v: Any) -> tuple[Any, ...]:
    """Return the slopes of a body about another that rests."""
    squares = x * x + y * y
    cubes = squares * squares**0.5
    return u, v, -x / cubes, -y / cubes


class Loop:
    """Seconds in the compiled loop."""

    def __init__(self) -> None:
        self.seconds, call = 0.0, _Stretches._call

        def timed(stretches: Any) -> int:
            start = time.perf_counter()
            code = call(stretches)
            self.seconds += time.perf_counter() - start
            return code

        _Stretches._call = timed  # type: ignore[method-assign]

    def best(self, run: Any, repetitions: int) -> float:
        """Return the least time that a run spends in the loop."""
        times = []
        for _ in range(repetitions):
            self.seconds = 0.0
            run()
            times.append(self.seconds)
        return min(times)


def bare(f: Any, n: int, method: str, repetitions: int) -> float:
    """Return the seconds of a call of f and of the sums around it, written out."""
    tableau, steps = sk.EXPLICIT[method], 1000
    rows = [*tableau.A[1:], tableau.b]
    text = ["def loop(f, y, k, z, h):", f"    for _ in range({steps}):"]
    for i, row in enumerate(rows, 1):
        for j in range(n):
            terms = [f"{float(a)!r} * k[{q}, {j}]" for q, a in enumerate(row) if a]
            text.append(f"        z[{j}] = y[{j}] + h * ({' + '.join(terms)})")
        if i < len(rows):
            text.append(f"        f(0.0, z, k[{i}])")
    made: dict[str, Any] = {}
    exec("\n".join(text), made)
    row, number = numba.float64[::1], numba.float64
    form = numba.types.FunctionType(numba.void(number, row, row))
    loop = numba.njit([(form, row, numba.float64[:, ::1], row, number)])(made["loop"])
    arrays = np.ones(n), np.zeros((len(rows), n)), np.zeros(n)
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        loop(f, *arrays, 1e-9)
        times.append(time.perf_counter() - start)
    return min(times) / (steps * (len(rows) - 1))


def explicit(loop: Loop, repetitions: int) -> None:
    """Print nanoseconds per call of f."""
    cases: list[tuple[str, Slopes, list[float]]] = [
        ("Lotka-Volterra", ivp_problems.lotka_volterra_slopes, [1.0, 1.0]),
        ("Kepler", kepler, [0.5, 0.0, 0.0, 3**0.5]),
    ]
    for name, slopes, y0 in cases:
        f = sk.jit(forms(slopes, len(y0))["writes"])
        for method in ("dopri5", "tsit5", "vern7", "dop853"):

            def run(f: Any = f, y0: Any = y0, method: str = method) -> Any:
                options: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6, "t_eval": [400.0]}
                return sk.solve(f, (0.0, 400.0), y0, method, **options)

            per_call = 1e9 * loop.best(run, repetitions) / run().stats["nfev"]
            alone = 1e9 * bare(f, len(y0), method, repetitions)
            print(
                f"{name:16} {method:10} {per_call:7.1f} ns per call of f, {alone:7.1f} written out",
                flush=True,
            )


def stiff(loop: Loop, repetitions: int) -> None:
    """Print microseconds per step."""
    cases = {"ROBER": stiff_problems.robertson_slopes, "HIRES": stiff_problems.hires_slopes}
    for name, slopes in cases.items():
        p = stiff_problems.STIFF[name]
        f = sk.jit(forms(slopes, len(p.y0))["writes"])
        for method in ("rodas5p", "radau5", "kvaerno5"):

            def run(f: Any = f, p: Any = p, method: str = method) -> Any:
                atol = 1e-8 * np.asarray(p.atol, dtype=float)
                options: dict[str, Any] = {"rtol": 1e-8, "atol": atol if atol.ndim else float(atol)}
                return sk.solve(f, (p.t_span[0], p.t_end), p.y0, method, **options)

            stats = run().stats
            tried = stats["accepted"] + stats["rejected"]
            per_step = 1e6 * loop.best(run, repetitions) / tried
            counts = ", ".join(f"{key} {stats[key]}" for key in ("nfev", "njev", "nlu"))
            print(f"{name:16} {method:10} {per_step:7.2f} µs per step; {counts}", flush=True)


def main() -> None:
    """Measure."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    loop = Loop()
    explicit(loop, repetitions)
    stiff(loop, repetitions)


if __name__ == "__main__":
    main()
