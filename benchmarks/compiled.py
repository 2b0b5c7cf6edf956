"""Compiled solves against peers at equal digits: two smooth problems, and two stiff ones.

Every solver runs over a range of tolerances; its time at so many correct digits of the end value is
interpolated between its runs, log(time) over digits. The solvers take turns, and each time is the
least processor time over the repetitions, of which a slow run gets fewer. SciPy's RK45 and LSODA
and SUNDIALS' CVODE call a Python right-hand side; "interpreted" is stiffkit's own loop with it.
Lotka-Volterra runs long enough that a call's own cost does not decide; that cost, before and after
the steps, is timed on a span of one step, and given apart. diffrax is run where it can be imported
(``--python`` names another environment's interpreter to run it in).

    python benchmarks/compiled.py [--quick] [--json FILE] [--python PYTHON]
"""

from __future__ import annotations

# ruff: noqa: ARG001, E402 - f takes t; the threads' number is set before NumPy is imported
import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import numpy as np

MU = 0.012277471
ARENSTORF = [0.994, 0.0, 0.0, -2.00158510637908252240537862224]
PERIOD = 17.0652165601579625588917206249
PROBLEMS = {
    # Lotka-Volterra's end value: dop853 at rtol 1e-13.
    "lotka-volterra": ([1.0, 1.0], (0.0, 300.0), None),
    "arenstorf": (ARENSTORF, (0.0, PERIOD), ARENSTORF),
}
STIFF = {
    # End values of the Test Set for IVP Solvers (Mazzia and Magherini, release 2.4, 2008).
    "robertson": (
        [1.0, 0.0, 0.0],
        (0.0, 1e11),
        [0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050],
    ),
    "hires": (
        [1.0, 0, 0, 0, 0, 0, 0, 0.0057],
        (0.0, 321.8122),
        [
            0.7371312573325668e-3,
            0.1442485726316185e-3,
            0.5888729740967575e-4,
            0.1175651343283149e-2,
            0.2386356198831331e-2,
            0.6238968252742796e-2,
            0.2849998395185769e-2,
            0.2850001604814231e-2,
        ],
    ),
}
PROBLEMS |= STIFF
SMALL = {"robertson": 1e-6, "hires": 1e-4}
"""Absolute over relative tolerance."""
DIGITS = {
    "lotka-volterra": (5.0, 7.0),
    "arenstorf": (3.0, 6.0),
    "robertson": (4.0, 6.0),
    "hires": (4.0, 6.0),
}
TOLERANCES = {name: 10.0 ** -np.arange(5, 12) for name in PROBLEMS}
TOLERANCES |= {name: 10.0 ** -np.arange(3, 11) for name in STIFF}


def lotka_volterra(t, y):
    return np.array([1.5 * y[0] - y[0] * y[1], y[0] * y[1] - 3.0 * y[1]])


def lotka_volterra_in_place(t, y, dy):
    dy[0] = 1.5 * y[0] - y[0] * y[1]
    dy[1] = y[0] * y[1] - 3.0 * y[1]


def arenstorf(t, y):
    x, z, u, v = y[0], y[1], y[2], y[3]
    a = ((x + MU) ** 2 + z**2) ** 1.5
    b = ((x - 1 + MU) ** 2 + z**2) ** 1.5
    return np.array(
        [
            u,
            v,
            x + 2 * v - (1 - MU) * (x + MU) / a - MU * (x - 1 + MU) / b,
            z - 2 * u - (1 - MU) * z / a - MU * z / b,
        ]
    )


def arenstorf_in_place(t, y, dy):
    x, z, u, v = y[0], y[1], y[2], y[3]
    a = ((x + MU) ** 2 + z**2) ** 1.5
    b = ((x - 1 + MU) ** 2 + z**2) ** 1.5
    dy[0] = u
    dy[1] = v
    dy[2] = x + 2 * v - (1 - MU) * (x + MU) / a - MU * (x - 1 + MU) / b
    dy[3] = z - 2 * u - (1 - MU) * z / a - MU * z / b


def robertson_in_place(t, y, dy):
    dy[0] = -0.04 * y[0] + 1e4 * y[1] * y[2]
    dy[2] = 3e7 * y[1] * y[1]
    dy[1] = -dy[0] - dy[2]


def robertson(t, y):
    a, c = -0.04 * y[0] + 1e4 * y[1] * y[2], 3e7 * y[1] * y[1]
    return np.array([a, -a - c, c])


def hires_in_place(t, y, dy):
    k = 280.0 * y[5] * y[7]
    dy[0] = -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007
    dy[1] = 1.71 * y[0] - 8.75 * y[1]
    dy[2] = -10.03 * y[2] + 0.43 * y[3] + 0.035 * y[4]
    dy[3] = 8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3]
    dy[4] = -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6]
    dy[5] = -k + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6]
    dy[6] = k - 1.81 * y[6]
    dy[7] = -dy[6]


def hires(t, y):
    y = y.tolist() if isinstance(y, np.ndarray) else y
    k = 280.0 * y[5] * y[7]
    return [
        -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007,
        1.71 * y[0] - 8.75 * y[1],
        -10.03 * y[2] + 0.43 * y[3] + 0.035 * y[4],
        8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3],
        -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6],
        -k + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6],
        k - 1.81 * y[6],
        -k + 1.81 * y[6],
    ]


FUNCTIONS = {"lotka-volterra": lotka_volterra, "arenstorf": arenstorf}
FUNCTIONS |= {"robertson": robertson, "hires": hires}
IN_PLACE = {"lotka-volterra": lotka_volterra_in_place, "arenstorf": arenstorf_in_place}
IN_PLACE |= {"robertson": robertson_in_place, "hires": hires_in_place}


def solvers(name: str) -> dict[str, Callable[[float], Any]]:
    """Return functions of the tolerance that solve the problem and return y(t1)."""
    from scipy.integrate import solve_ivp

    import stiffkit as sk

    f, (y0, span, _), small = FUNCTIONS[name], PROBLEMS[name], SMALL.get(name, 1.0)
    compiled, in_place = sk.jit(f), sk.jit(IN_PLACE[name])

    def ours(g: Any, method: str) -> Callable[[float], Any]:
        return lambda tol: sk.solve(
            g, span, y0, method, rtol=tol, atol=tol * small, max_steps=10**6
        ).y[-1]

    def scipy(method: str) -> Callable[[float], Any]:
        return lambda tol: solve_ivp(f, span, y0, method, rtol=tol, atol=tol * small).y[:, -1]

    if name in STIFF:
        runs = {f"compiled {m}": ours(in_place, m) for m in ("rodas4", "rodas5p", "ros34pw2")}
        runs |= {"interpreted rodas5p": ours(f, "rodas5p")}
        runs |= {f"SciPy {m}": scipy(m) for m in ("Radau", "BDF", "LSODA")}
    else:
        methods = ("dopri5", "tsit5", "dop853", "vern7")
        runs = {f"compiled {m}": ours(in_place, m) for m in methods}
        runs["compiled dopri5, f returns"] = ours(compiled, "dopri5")
        runs |= {"interpreted dopri5": ours(f, "dopri5")}
        runs |= {f"SciPy {m}": scipy(m) for m in ("RK45", "DOP853", "LSODA")}
    try:
        from sksundae.cvode import CVODE
    except ImportError:
        print("CVODE: scikit-sundae is not installed")
        return runs

    kind = "BDF" if name in STIFF else "Adams"

    def rhs(t: float, y: Any, yp: Any) -> None:
        yp[:] = f(t, y)

    def cvode(tol: float) -> Any:
        solver = CVODE(rhs, method=kind, rtol=tol, atol=tol * small, max_num_steps=10**6)
        return solver.solve(np.array(span), np.array(y0)).y[-1]

    return runs | {f"CVODE {kind}": cvode}


def diffrax_solvers(name: str) -> dict[str, Callable[[float], Any]]:
    """Return the same for diffrax, jitted; the tolerance is an argument of the compiled solve."""
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    (y0, span, _), small = PROBLEMS[name], SMALL.get(name, 1.0)

    def vector_field(t, y, args):
        if name == "lotka-volterra":
            return jnp.stack([1.5 * y[0] - y[0] * y[1], y[0] * y[1] - 3.0 * y[1]])
        if name in STIFF:
            dy: list[Any] = [None] * len(y0)
            IN_PLACE[name](t, y, dy)
            return jnp.stack(dy)
        x, z, u, v = y
        a = ((x + MU) ** 2 + z**2) ** 1.5
        b = ((x - 1 + MU) ** 2 + z**2) ** 1.5
        ax = x + 2 * v - (1 - MU) * (x + MU) / a - MU * (x - 1 + MU) / b
        return jnp.stack([u, v, ax, z - 2 * u - (1 - MU) * z / a - MU * z / b])

    def make(solver: Any) -> Callable[[float], Any]:
        @jax.jit
        def solve(tol):
            controller = diffrax.PIDController(rtol=tol, atol=tol * small, pcoeff=0.2, icoeff=0.5)
            return diffrax.diffeqsolve(
                diffrax.ODETerm(vector_field),
                solver,
                *span,
                None,
                jnp.array(y0),
                saveat=diffrax.SaveAt(t1=True),
                stepsize_controller=controller,
                max_steps=1_000_000,
                throw=False,
            ).ys[-1]

        return lambda tol: np.asarray(solve(tol))

    if name in STIFF:
        return {"diffrax Kvaerno5": make(diffrax.Kvaerno5())}
    kinds = {"Dopri5": diffrax.Dopri5(), "Tsit5": diffrax.Tsit5(), "Dopri8": diffrax.Dopri8()}
    return {f"diffrax {key}": make(solver) for key, solver in kinds.items()}


def least_times(runs: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Return each run's least processor time in seconds, the runs taking turns.

    Short runs are repeated within a measurement, to 2 ms at least; of long runs there are fewer.
    """
    inner, best = {}, {}
    for key, run in runs.items():
        run()
        start = time.process_time()
        run()
        best[key] = time.process_time() - start
        inner[key] = max(1, int(0.002 / max(best[key], 1e-6)))
    for i in range(repetitions):
        for key, run in runs.items():
            if i > 0 and i * best[key] > 0.1:
                continue
            if inner[key] > 1:
                run()  # the caches are full of what ran before
            start = time.process_time()
            for _ in range(inner[key]):
                run()
            best[key] = min(best[key], (time.process_time() - start) / inner[key])
    return best


def work_precision(
    solve: dict[str, Callable[[float], Any]],
    tolerances: Any,
    end: Any,
    repetitions: int,
    *,
    relative: bool,
) -> dict[str, list[tuple[float, float]]]:
    """Return (digits, seconds) of each solver at each tolerance; `relative` to each component."""
    points: dict[str, list[tuple[float, float]]] = {key: [] for key in solve}
    for tol in tolerances:
        runs = {key: (lambda run=run, tol=float(tol): run(tol)) for key, run in solve.items()}
        times = least_times(runs, repetitions)
        for key, run in runs.items():
            size = np.abs(end) if relative else np.abs(end).max()
            error = float((np.abs(run() - end) / size).max())
            points[key].append((-np.log10(max(error, 1e-16)), times[key]))
    return points


def time_at(points: list[tuple[float, float]], digits: float) -> float:
    """Interpolate log(time) to a number of digits; NaN where the runs do not reach around it."""
    d, t = np.array(sorted(points)).T
    if not d[0] <= digits <= d[-1]:
        return float("nan")
    return float(np.exp(np.interp(digits, d, np.log(t))))


def end_value(name: str) -> Any:
    """Return y(t1): published, or by dop853 at the tightest tolerance."""
    y0, span, end = PROBLEMS[name]
    if end is None:
        from scipy.integrate import solve_ivp

        end = solve_ivp(FUNCTIONS[name], span, y0, "DOP853", rtol=3e-14, atol=1e-14).y[:, -1]
    return np.asarray(end)


def cost_of_a_call(repetitions: int) -> dict[str, float]:
    """Return microseconds of a solve of one step, and of one more step in a long solve."""
    import stiffkit as sk

    f, in_place = sk.jit(lotka_volterra), sk.jit(lotka_volterra_in_place)
    runs: dict[str, Callable[[], Any]] = {}
    kinds = {"compiled": in_place, "compiled, f returns": f, "interpreted": lotka_volterra}
    for kind, g in kinds.items():
        for t1 in (1e-6, 200.0):
            runs[f"{kind} {t1:g}"] = lambda g=g, t1=t1: sk.solve(g, (0, t1), [1.0, 1.0], "dopri5")
    times = least_times(runs, repetitions)
    result = {}
    for kind in kinds:
        nfev = runs[f"{kind} 200"]().stats["nfev"]
        result[f"{kind}: call, µs"] = 1e6 * times[f"{kind} 1e-06"]
        per_call = (times[f"{kind} 200"] - times[f"{kind} 1e-06"]) / nfev
        result[f"{kind}: per call of f, µs"] = 1e6 * per_call
    result["bare call of f, µs"] = 1e6 * bare_call(in_place, repetitions)
    return result


def bare_call(f: Any, repetitions: int) -> float:
    """Return the seconds of a call of a compiled f(t, y, dy) from a compiled loop."""
    import numba

    n = 10**5

    @numba.njit
    def loop(y, dy):
        for i in range(n):
            f(float(i), y, dy)
            y[0] += 1e-9 * dy[0]

    return least_times({"bare": lambda: loop(np.ones(2), np.ones(2))}, repetitions)["bare"] / n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--python", help="interpreter that can import diffrax")
    parser.add_argument("--diffrax-alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    repetitions = 3 if options.quick else 15
    if options.diffrax_alone:
        ends = json.loads(sys.stdin.read())
        told = {
            name: work_precision(
                diffrax_solvers(name),
                TOLERANCES[name],
                np.array(ends[name]),
                repetitions,
                relative=name in STIFF,
            )
            for name in PROBLEMS
        }
        print(json.dumps(told))
        return
    ends = {name: end_value(name).tolist() for name in PROBLEMS}
    points = {
        name: work_precision(
            solvers(name),
            TOLERANCES[name],
            np.array(ends[name]),
            repetitions,
            relative=name in STIFF,
        )
        for name in PROBLEMS
    }
    command = [options.python or sys.executable, __file__, "--diffrax-alone"]
    command += ["--quick"] * options.quick
    peer = subprocess.run(command, input=json.dumps(ends), capture_output=True, text=True)
    if peer.returncode == 0:
        for name, more in json.loads(peer.stdout.splitlines()[-1]).items():
            points[name] |= more
    else:
        print("diffrax:", peer.stderr.strip().splitlines()[-1])
    table: dict[str, Any] = {"cost": cost_of_a_call(repetitions)}
    for name, solved in points.items():
        for digits in DIGITS[name]:
            times = {key: time_at(runs, digits) for key, runs in solved.items()}
            best = min(t for key, t in times.items() if key.startswith("compiled") and t == t)
            table[f"{name}, {digits:g} digits"] = {
                key: {"ms": 1e3 * t, "ratio": t / best} for key, t in times.items()
            }
            print(f"\n{name}, {digits:g} digits")
            for key, t in sorted(times.items(), key=lambda item: item[1]):
                print(f"  {key:20s} {1e3 * t:10.4f} ms {t / best:9.1f}")
    print()
    for key, value in table["cost"].items():
        print(f"{key:40s} {value:8.3f}")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
