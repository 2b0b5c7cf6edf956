"""Many short solves of a compiled f: by `ensemble` on threads, and by calls of their own.

Times are of the wall clock, in microseconds per solve, the least of some repetitions that take
turns: on a machine that is busy they say nothing about two threads. Behind them stands the
processor's time per solve. SciPy's solvers have f in Python and solve a hundredth of the members;
they take most of the benchmark's time, and ``--ours`` leaves them out.

    python benchmarks/ensembles.py [--members N] [--repeat N] [--ours]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from _measure import take_turns  # first: it sets the number of threads

# isort: split
import numpy as np
from scipy.integrate import solve_ivp

import stiffkit as sk


@sk.jit
def lotka_volterra(_: float, y: Any, dy: Any, a: float, b: float) -> None:
    """Predators and prey."""
    dy[0] = a * y[0] - y[0] * y[1]
    dy[1] = y[0] * y[1] - b * y[1]


@sk.jit
def robertson(_: float, y: Any, dy: Any, a: float, b: float) -> None:
    """Three species whose reactions differ in speed by nine orders of magnitude."""
    dy[0] = -a * y[0] + b * y[1] * y[2]
    dy[2] = 3e7 * y[1] * y[1]
    dy[1] = -dy[0] - dy[2]


PROBLEMS: dict[str, tuple[dict[str, Any], str, tuple[float, float]]] = {
    "Lotka-Volterra": (
        {"f": lotka_volterra, "t_span": (0.0, 20.0), "y0": [1.0, 1.0], "method": "dopri5"},
        "RK45",
        (1.5, 3.0),
    ),
    "ROBER": (
        {"f": robertson, "t_span": (0.0, 100.0), "y0": [1.0, 0.0, 0.0], "method": "rodas5p"},
        "Radau",
        (0.04, 1e4),
    ),
}
TOLERANCES = {"rtol": 1e-6, "atol": 1e-9}


def by_scipy(problem: dict[str, Any], method: str, members: Sequence[Any]) -> None:
    """Solve by SciPy, with f in Python."""
    written = problem["f"].py_func

    def f(t: float, y: Any, a: float, b: float) -> list[float]:
        dy = [0.0] * len(y)
        written(t, y, dy, a, b)
        return dy

    for args in members:
        solve_ivp(f, problem["t_span"], problem["y0"], method, args=args, **TOLERANCES)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--ours", action="store_true", help="without SciPy's solvers")
    given = parser.parse_args()
    n = given.members
    for name, (arguments, scipy_method, args) in PROBLEMS.items():
        problem = arguments | TOLERANCES
        factors = np.random.default_rng(0).uniform(0.9, 1.1, size=n)
        members = [(float(factor) * args[0], args[1]) for factor in factors]
        few = members[: max(1, n // 100)]

        def on(threads: int, problem: Any = problem, members: Any = members) -> Any:
            with ThreadPoolExecutor(threads) as pool:
                result = sk.ensemble(problem, members, pool, reduce=lambda s: s.y[-1])
            assert result.success
            return result

        def calls(problem: Any = problem, few: Any = few) -> None:
            for args in few:
                sk.solve(**problem, args=args)

        runs: dict[str, tuple[Callable[[], Any], int]] = {
            "ensemble, 1 thread": (lambda on=on: on(1), n),
            "ensemble, 2 threads": (lambda on=on: on(2), n),
            "calls of solve": (calls, len(few)),
        }
        if not given.ours:
            runs[f"SciPy's {scipy_method}"] = (
                lambda p=problem, m=scipy_method, few=few: by_scipy(p, m, few),
                len(few),
            )
        sk.ensemble(problem, members[:4], chunk=4)  # compiles
        wall, busy = (
            take_turns(
                {key: run for key, (run, _) in runs.items()},
                given.repeat,
                longest=1e9,
                clock=clock,
            )
            for clock in (time.perf_counter, time.process_time)
        )
        for key, (_, count) in runs.items():
            times = (1e6 * timings[key].best / count for timings in (wall, busy))
            print(f"{name:16} {key:20} {next(times):9.1f} µs, {next(times):9.1f} busy", flush=True)
        ratio = wall["ensemble, 1 thread"].best / wall["ensemble, 2 threads"].best
        print(f"{name:16} 2 threads are {ratio:.2f} times as fast as 1", flush=True)


if __name__ == "__main__":
    main()
