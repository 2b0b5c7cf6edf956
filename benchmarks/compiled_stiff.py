"""Compiled stiff solves against LSODA and CVODE that call f in Python, at equal digits.

ROBER, HIRES and VDPOL, to the digits of their published end values. Jacobians are by differences
everywhere. Of ours, that method stands in the table which takes the least time in the compiled
loop; beside it is the time of the whole call of `solve`. ESDIRK methods, ros23 and ros34pw2 are
nowhere ahead of the four that are run; `--methods` takes others. LSODA has two forms: `solve_ivp`,
and `odeint` with an f that returns a list, which is the fastest that SciPy has. Ratios are theirs
over our loop, and in parentheses over our whole call. The bound is odeint's time over what the
calls of f alone take in our solve: no loop around as many calls can be further ahead.

With Hairer's codes (https://www.unige.ch/~hairer/software.html, which are not part of this
repository; each with the linear algebra that it needs) nanoseconds per step stand beside ours;
gfortran compiles them with -O2. Times are the processor's, the least of `--repeat`; those of whole
solves take turns.

    python benchmarks/compiled_stiff.py [--repeat N] [--methods NAME ...]
        [--rodas FILE ...] [--radau5 FILE ...]
"""

from __future__ import annotations

import argparse
import ctypes
import math
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _measure import at_digits, peer, take_turns  # first: it sets the number of threads

# isort: split
import numba
import numpy as np
import stiff_problems
from _peer_problems import forms
from scipy.integrate import odeint, solve_ivp
from stiff_problems import STIFF, StiffProblem
from work_step import Loop

import stiffkit as sk

METHODS = ("rodas4", "rodas5p", "radau5", "radau9")
RTOLS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
DIGITS = (3, 5, 7, 9)
SLOPES = {
    "ROBER": stiff_problems.robertson_slopes,
    "HIRES": stiff_problems.hires_slopes,
    "VDPOL": stiff_problems.van_der_pol_slopes,
}
Point = tuple[float, float]

DRIVER = """
subroutine slopes(n, t, y, dy, rpar, ipar)
  integer :: n, ipar(*)
  double precision :: t, y(n), dy(n), rpar(*), slow, fast
  if (n == 2) then
    dy(1) = y(2)
    dy(2) = ((1 - y(1)*y(1))*y(2) - y(1))/1d-6
  else if (n == 3) then
    slow = 0.04d0*y(1) - 1d4*y(2)*y(3)
    fast = 3d7*y(2)*y(2)
    dy(1) = -slow
    dy(2) = slow - fast
    dy(3) = fast
  else
    fast = 280*y(6)*y(8)
    dy(1) = -1.71d0*y(1) + 0.43d0*y(2) + 8.32d0*y(3) + 0.0007d0
    dy(2) = 1.71d0*y(1) - 8.75d0*y(2)
    dy(3) = -10.03d0*y(3) + 0.43d0*y(4) + 0.035d0*y(5)
    dy(4) = 8.32d0*y(2) + 1.71d0*y(3) - 1.12d0*y(4)
    dy(5) = -1.745d0*y(5) + 0.43d0*(y(6) + y(7))
    dy(6) = -fast + 0.69d0*y(4) + 1.71d0*y(5) - 0.43d0*y(6) + 0.69d0*y(7)
    dy(7) = fast - 1.81d0*y(7)
    dy(8) = -fast + 1.81d0*y(7)
  end if
end subroutine
subroutine silent()
end subroutine
subroutine run(n, y, t1, rtol, atol, steps) bind(c)
  use iso_c_binding
  integer(c_int), value :: n
  real(c_double), value :: t1
  real(c_double) :: y(n), rtol(n), atol(n), t, h, work(1000), rpar(1)
  integer(c_int) :: steps
  integer :: iwork(100), ipar(1), idid
  external slopes, silent
  t = 0
  h = 1d-6
  work = 0
  iwork = 0
  rpar = 0
  ipar = 0
  iwork(MOST) = 1000000
  call CODE
  steps = iwork(16)
end subroutine
"""
CALLS = {
    "rodas": (1, "rodas(n, slopes, 1, t, y, t1, h, rtol, atol, 1, silent, 0, n, n, silent, 0, &\n"),
    "radau5": (2, "radau5(n, slopes, t, y, t1, h, rtol, atol, 1, silent, 0, n, n, &\n"),
}
REST = "    silent, 0, n, n, silent, 0, work, 1000, iwork, 100, rpar, ipar, idid)"


def fortran(code: str, sources: list[Path]) -> Callable[[StiffProblem, float], tuple[Any, int]]:
    """Return a solve by one of Hairer's codes: (problem, rtol) to y(t1) and the steps tried."""
    most, call = CALLS[code]
    with tempfile.TemporaryDirectory() as folder:
        driver, library = Path(folder, "driver.f90"), Path(folder, "code.so")
        driver.write_text(DRIVER.replace("MOST", str(most)).replace("CODE", call + REST))
        flags = ["-O2", "-w", "-std=legacy", "-shared", "-fPIC"]
        files = [*map(str, sources), str(driver), "-o", str(library)]
        subprocess.run(["gfortran", *flags, *files], check=True)
        run = ctypes.CDLL(str(library)).run

    def solve(p: StiffProblem, rtol: float) -> tuple[Any, int]:
        n = len(p.y0)
        y, steps = np.array(p.y0, dtype=float), ctypes.c_int()
        tolerances = np.full(n, rtol), rtol * np.ones(n) * p.atol
        pointers = [x.ctypes.data_as(ctypes.c_void_p) for x in (y, *tolerances)]
        run(n, pointers[0], ctypes.c_double(p.t_end), *pointers[1:], ctypes.byref(steps))
        return y, steps.value

    return solve


def tolerances(p: StiffProblem, rtol: float) -> dict[str, Any]:
    """Return rtol and atol as solvers take them."""
    atol = rtol * np.asarray(p.atol, dtype=float)
    return {"rtol": rtol, "atol": atol if atol.ndim else float(atol)}


def peers(p: StiffProblem, slopes: Any) -> dict[str, Callable[[float], Any]]:
    """Return solvers with f in Python: rtol to y(t1)."""
    span = (p.t_span[0], p.t_end)

    def f(t: float, y: Any) -> Any:  # noqa: ARG001
        return np.array(slopes(*y.tolist()))

    def lists(t: float, y: Any) -> Any:  # noqa: ARG001
        return slopes(*y.tolist())

    def into(t: float, y: Any, out: Any) -> None:  # noqa: ARG001
        out[:] = slopes(*y.tolist())

    def by_odeint(rtol: float) -> Any:
        return odeint(lists, p.y0, span, tfirst=True, mxstep=100_000, **tolerances(p, rtol))[-1]

    def by_lsoda(rtol: float) -> Any:
        return solve_ivp(f, span, p.y0, "LSODA", **tolerances(p, rtol)).y[:, -1]

    found = {"odeint": by_odeint, "LSODA": by_lsoda}
    sundae = peer("sksundae.cvode")
    if sundae is not None:

        def by_cvode(rtol: float) -> Any:
            solver = sundae.CVODE(into, max_num_steps=100_000, **tolerances(p, rtol))
            return solver.solve(np.array(span), np.array(p.y0, dtype=float)).y[-1]

        found["CVODE"] = by_cvode
    return found


def bare(f: Any, n: int) -> float:
    """Return the seconds of a call of f alone."""
    form = numba.types.FunctionType(
        numba.void(numba.float64, numba.float64[::1], numba.float64[::1])
    )

    @numba.njit([(form, numba.float64[::1], numba.float64[::1])])
    def loop(f, y, dy):  # type: ignore[no-untyped-def]
        for _ in range(1000):
            f(0.0, y, dy)

    arrays, times = (np.ones(n), np.ones(n)), []
    for _ in range(100):
        start = time.perf_counter()
        loop(f, *arrays)
        times.append(time.perf_counter() - start)
    return min(times) / 1000


def best(points: dict[str, list[Point]], digits: float) -> tuple[str, float]:
    """Return who takes least for so many digits, and how much."""
    name = min(points, key=lambda name: at_digits(points[name], digits))
    return name, at_digits(points[name], digits)


def compare(
    name: str, methods: list[str], loop: Loop, repetitions: int, codes: dict[str, Any]
) -> None:
    """Measure one problem, and print its rows."""
    p, g = STIFF[name], SLOPES[name]
    f = sk.jit(forms(g, len(p.y0))["writes"])
    inside: dict[str, list[Point]] = {}
    whole: dict[str, list[Point]] = {}
    calls: dict[str, list[Point]] = {}
    theirs: dict[str, list[Point]] = {}
    others = peers(p, g)
    for rtol in RTOLS:
        runs: dict[str, Callable[[], Any]] = {}
        for method in methods:

            def run(method: str = method, rtol: float = rtol) -> Any:
                return sk.solve(f, (p.t_span[0], p.t_end), p.y0, method, **tolerances(p, rtol))

            runs[method] = run
        runs |= {peer: lambda s=s, rtol=rtol: s(rtol) for peer, s in others.items()}
        for who, timing in take_turns(runs, repetitions).items():
            if who in others:
                theirs.setdefault(who, []).append((p.digits(timing.result), timing.best))
                continue
            solution = timing.result
            scd = p.digits(solution.y[-1]) if solution.success else math.nan
            seconds = loop.best(runs[who], repetitions)
            for kept, cost in (
                (inside, seconds),
                (whole, timing.best),
                (calls, solution.stats["nfev"]),
            ):
                kept.setdefault(who, []).append((scd, cost))
            code = {"rodas4": "rodas", "radau5": "radau5"}.get(who)
            if code in codes:
                tried = solution.stats["accepted"] + solution.stats["rejected"]
                compare_code(name, who, code, p, rtol, seconds / tried, repetitions, codes[code])
    alone = bare(f, len(p.y0))
    for digits in DIGITS:
        method, seconds = best(inside, digits)
        call = best(whole, digits)[1]
        bound = at_digits(theirs["odeint"], digits) / (at_digits(calls[method], digits) * alone)
        ratios = "  ".join(
            f"{who} {at_digits(of, digits) / seconds:5.1f} ({at_digits(of, digits) / call:4.1f})"
            for who, of in theirs.items()
        )
        print(
            f"{name:6} {digits} digits: {method:8} loop {1e6 * seconds:6.1f} µs, "
            f"call {1e6 * call:6.1f} µs; {ratios}; bound {bound:4.0f}",
            flush=True,
        )


def compare_code(
    name: str, who: str, code: str, p: Any, rtol: float, ours: float, repetitions: int, solve: Any
) -> None:
    """Print the time of a step, and of one of Hairer's."""
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        y, steps = solve(p, rtol)
        times.append(time.process_time() - start)
    per_step = min(times) / steps
    print(
        f"{name:6} {rtol:6.0e} {who:8} {1e9 * ours:5.0f} ns per step; {code} {1e9 * per_step:5.0f} "
        f"ns, {steps} steps, {p.digits(y):.1f} digits; ratio {ours / per_step:.2f}",
        flush=True,
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--methods", nargs="+", choices=sk.METHODS, default=METHODS)
    for code in CALLS:
        parser.add_argument(f"--{code}", type=Path, nargs="+", help="Hairer's, with its algebra")
    given = vars(parser.parse_args())
    codes = {code: fortran(code, given[code]) for code in CALLS if given[code]}
    loop = Loop(time.process_time)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LSODA's, when it gives up
        for name in SLOPES:
            compare(name, given["methods"], loop, given["repeat"], codes)


if __name__ == "__main__":
    main()
