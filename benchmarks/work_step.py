"""Time of the compiled loop itself: per call of f of explicit methods, per step of stiff ones.

The loop is timed without the call of `solve` around it. Beside explicit methods stands what f and
the sums of the stages take, written out with their coefficients.

With Hairer's dopri5.f (https://www.unige.ch/~hairer/software.html, which is not part of this
repository) whole solves to t = 2000 are timed too, in turns with it; gfortran compiles it with -O2.

    python benchmarks/work_step.py [--repeat N] [--fortran dopri5.f]
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _measure import take_turns  # first: it sets the number of threads

# isort: split
import ivp_problems
import numba
import numpy as np
import stiff_problems
from _peer_problems import forms

import stiffkit as sk
from stiffkit.solvers.compiled.stretches import Stretches

Slopes = Any

DRIVER = """
subroutine lotka_volterra(n, t, y, dy, rpar, ipar)
  integer :: n, ipar(*)
  double precision :: t, y(n), dy(n), rpar(*)
  dy(1) = 1.5d0*y(1) - y(1)*y(2)
  dy(2) = y(1)*y(2) - 3d0*y(2)
end subroutine
subroutine kepler(n, t, y, dy, rpar, ipar)
  integer :: n, ipar(*)
  double precision :: t, y(n), dy(n), rpar(*), squares, cubes
  squares = y(1)*y(1) + y(2)*y(2)
  cubes = squares*sqrt(squares)
  dy(1) = y(3)
  dy(2) = y(4)
  dy(3) = -y(1)/cubes
  dy(4) = -y(2)/cubes
end subroutine
subroutine silent()
end subroutine
subroutine run(n, y, t1, tol, nfcn) bind(c)
  use iso_c_binding
  integer(c_int), value :: n
  real(c_double), value :: t1, tol
  real(c_double) :: y(n), t, work(200), rtol(1), atol(1), rpar(1)
  integer(c_int) :: nfcn
  integer :: iwork(40), ipar(1), idid
  external lotka_volterra, kepler, silent
  t = 0
  work = 0
  iwork = 0
  iwork(1) = 100000000
  rtol = tol
  atol = tol
  if (n == 2) call dopri5(n, lotka_volterra, t, y, t1, rtol, atol, 0, silent, 0, &
    work, 200, iwork, 40, rpar, ipar, idid)
  if (n == 4) call dopri5(n, kepler, t, y, t1, rtol, atol, 0, silent, 0, &
    work, 200, iwork, 40, rpar, ipar, idid)
  nfcn = iwork(17)
end subroutine
"""


def kepler(x: Any, y: Any, u: Any, v: Any) -> tuple[Any, ...]:
    """Return the slopes of a body about another that rests."""
    squares = x * x + y * y
    cubes = squares * squares**0.5
    return u, v, -x / cubes, -y / cubes


class Loop:
    """Seconds in the compiled loop."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds, call = 0.0, Stretches.enter

        def timed(stretches: Any, arguments: tuple[Any, ...]) -> int:
            start = clock()
            code = call(stretches, arguments)
            self.seconds += clock() - start
            return code

        Stretches.enter = timed  # type: ignore[method-assign]

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


CASES: list[tuple[str, Slopes, list[float]]] = [
    ("Lotka-Volterra", ivp_problems.lotka_volterra_slopes, [1.0, 1.0]),
    ("Kepler", kepler, [0.5, 0.0, 0.0, 3**0.5]),
]
METHODS = ("dopri5", "tsit5", "vern7", "dop853")


def fortran(source: Path) -> Callable[[list[float], float, float], int]:
    """Return a solve by dopri5.f: (y0, t1, tolerance) to the calls of f."""
    with tempfile.TemporaryDirectory() as folder:
        driver, library = Path(folder, "driver.f90"), Path(folder, "dopri5.so")
        driver.write_text(DRIVER)
        files = [str(source), str(driver), "-o", str(library)]
        subprocess.run(["gfortran", "-O2", "-w", "-shared", "-fPIC", *files], check=True)
        run = ctypes.CDLL(str(library)).run

    def solve(y0: list[float], t1: float, tol: float) -> int:
        y, calls = (ctypes.c_double * len(y0))(*y0), ctypes.c_int()
        run(len(y0), y, ctypes.c_double(t1), ctypes.c_double(tol), ctypes.byref(calls))
        return calls.value

    return solve


def whole(source: Path, repetitions: int) -> None:
    """Print nanoseconds per call of f of whole solves, dopri5.f's among them."""
    solve, t1, tol = fortran(source), 2000.0, 1e-6
    for name, slopes, y0 in CASES:
        f = sk.jit(forms(slopes, len(y0))["writes"])

        def ours(method: str, f: Any = f, y0: list[float] = y0) -> int:
            s = sk.solve(f, (0.0, t1), y0, method, rtol=tol, atol=tol, t_eval=[t1])
            return int(s.stats["nfev"])

        runs: dict[str, Callable[[], int]] = {"dopri5.f": lambda y0=y0: solve(y0, t1, tol)}
        runs |= {method: lambda method=method, ours=ours: ours(method) for method in METHODS}
        timings = take_turns(runs, repetitions, longest=100.0)
        for run, timing in timings.items():
            per_call = 1e9 * timing.best / timing.result
            print(f"{name:16} {run:10} {per_call:7.1f} ns per call of f, whole", flush=True)


def explicit(loop: Loop, repetitions: int) -> None:
    """Print nanoseconds per call of f."""
    for name, slopes, y0 in CASES:
        f = sk.jit(forms(slopes, len(y0))["writes"])
        for method in METHODS:

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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=200)
    parser.add_argument("--fortran", type=Path, help="Hairer's dopri5.f, to be compiled beside")
    given = parser.parse_args()
    if given.fortran is not None:
        whole(given.fortran, max(1, given.repeat // 10))
    loop = Loop()
    explicit(loop, given.repeat)
    stiff(loop, given.repeat)


if __name__ == "__main__":
    main()
