"""Many short solves of a compiled f: by `ensemble` on threads, and by calls of their own.

Times are of the wall clock, in microseconds per solve, the least of some repetitions that take
turns. Behind them stands the processor's time per solve in this process. What two threads gain is
to be held against what two processes gain that share nothing and solve the same members each: on a
busy machine, or one with half a core for each of its two, that is far from 2. SciPy's solvers have
f in Python and solve a hundredth of the members; they take most of the benchmark's time, and
``--ours`` leaves them out.

    python benchmarks/ensembles.py [--members N] [--repeat N] [--ours]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
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


def members_of(name: str, n: int) -> list[tuple[float, float]]:
    """Return f's further arguments in each solve."""
    first, second = PROBLEMS[name][2]
    factors = np.random.default_rng(0).uniform(0.9, 1.1, size=n)
    return [(float(factor) * first, second) for factor in factors]


def on_threads(name: str, members: Sequence[Any], threads: int, reduce: Any = None) -> None:
    """Solve as an ensemble."""
    with ThreadPoolExecutor(threads) as pool:
        result = sk.ensemble(PROBLEMS[name][0] | TOLERANCES, members, pool, reduce=reduce)
    assert result.success


def in_process(name: str, n: int) -> None:
    """Solve in a process of its own, on one thread."""
    on_threads(name, members_of(name, n), 1)


def last(solution: Any) -> Any:
    """Return what is to be kept of a solution."""
    return solution.y[-1]


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--ours", action="store_true", help="without SciPy's solvers")
    given = parser.parse_args()
    n = given.members
    with ProcessPoolExecutor(2, get_context("forkserver")) as pool:
        for name, (arguments, scipy_method, _) in PROBLEMS.items():
            members = members_of(name, n)
            few = members[: max(1, n // 100)]

            def in_processes(name: str = name) -> None:
                for done in [pool.submit(in_process, name, n) for _ in range(2)]:
                    done.result()

            def calls(problem: Any = arguments | TOLERANCES, few: Any = few) -> None:
                for args in few:
                    sk.solve(**problem, args=args)

            runs: dict[str, tuple[Callable[[], Any], int]] = {
                "1 thread": (partial(on_threads, name, members, 1), n),
                "2 threads": (partial(on_threads, name, members, 2), n),
                "2 processes": (in_processes, 2 * n),
                "1 thread, reduce": (partial(on_threads, name, members, 1, last), n),
                "2 threads, reduce": (partial(on_threads, name, members, 2, last), n),
                "calls of solve": (calls, len(few)),
            }
            if not given.ours:
                by = partial(by_scipy, arguments, scipy_method, few)
                runs[f"SciPy's {scipy_method}"] = by, len(few)
            in_processes()  # compiles
            on_threads(name, members[:100], 1)
            wall, busy = (
                take_turns(
                    {key: run for key, (run, _) in runs.items()},
                    given.repeat,
                    longest=1e9,
                    clock=clock,
                )
                for clock in (time.perf_counter, time.process_time)
            )
            best = {key: 1e6 * wall[key].best / count for key, (_, count) in runs.items()}
            for key, (_, count) in runs.items():
                spent = f"{1e6 * busy[key].best / count:9.1f} busy" if key != "2 processes" else ""
                print(f"{name:16} {key:20} {best[key]:9.1f} µs {spent}", flush=True)
            gains = {
                "2 threads": best["1 thread"] / best["2 threads"],
                "2 threads, reduce": best["1 thread, reduce"] / best["2 threads, reduce"],
                "2 processes": best["1 thread"] / best["2 processes"],
            }
            told = ", ".join(f"{gain:.2f} by {key}" for key, gain in gains.items())
            print(f"{name:16} times as fast: {told}", flush=True)


if __name__ == "__main__":
    main()
