"""Cost of a call, of events, against the number of unknowns and of samples, and memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

# First: it sets the number of threads.
from _measure import at_digits, digits, peak_memory, peer, ratio, take_turns

# isort: split
import numpy as np
from _peer_problems import Case, forms, in_torch, van_der_pol_slopes
from _peer_solvers import Answer, Counted, diffrax_solve
from scipy import sparse
from scipy.integrate import solve_ivp

import stiffkit as sk

Cell = dict[str, Any]
Run = Callable[[], Any]


# Cost against n -----------------------------------------------------------------------------------


def minus(t: float, y: Any) -> Any:  # noqa: ARG001
    """Return −y: an f that costs next to nothing."""
    return -y


def against_n(sizes: tuple[int, ...], repetitions: int) -> list[Cell]:
    """Time per call of f by Dormand and Prince's pair in each library, and of f alone."""
    rows = []
    for n in sizes:
        t1, rtol = (10.0, 1e-8) if n < 10_000 else (4.0, 1e-6)
        runs = _dopri5(np.linspace(1.0, 2.0, n), t1, rtol)
        timings = take_turns(
            {name: run for name, (run, _) in runs.items()},
            repetitions if n < 10_000 else max(repetitions // 2, 1),
        )
        alone = take_turns({name: f for name, (_, f) in runs.items() if f is not None}, repetitions)
        for name, timing in timings.items():
            if timing.failure is not None:
                rows.append({"n": n, "solver": name, "failure": timing.failure})
                continue
            per_call = timing.best / timing.result
            rows.append(
                {
                    "n": n,
                    "solver": name,
                    "times": timing.times,
                    "nfev": timing.result,
                    "per_call": per_call,
                    "f": alone[name].best / _LOOP if name in alone else None,
                }
            )
            print(f"n = {n:<8} {name:24} {1e6 * per_call:12.3f} µs per call of f", flush=True)
    return rows


_LOOP = 20  # calls of f alone within a run


def _dopri5(y0: Any, t1: float, rtol: float) -> dict[str, tuple[Run, Run | None]]:
    """Return functions that solve and return the calls of f, and such that call f alone."""
    tolerances: dict[str, Any] = {"rtol": rtol, "atol": 1e-10}
    common: dict[str, Any] = {"t_eval": [t1], "controller": "I", **tolerances}

    def ours(f: Any, y0: Any) -> Run:
        return lambda: sk.solve(f, (0.0, t1), y0, "dopri5", **common).stats["nfev"]

    def alone(f: Any, y0: Any) -> Run:
        def run() -> None:
            for _ in range(_LOOP):
                f(0.0, y0)

        return run

    runs: dict[str, tuple[Run, Run | None]] = {
        "dopri5": (ours(minus, y0), alone(minus, y0)),
        "SciPy RK45": (
            lambda: solve_ivp(minus, (0.0, t1), y0, t_eval=[t1], **tolerances).nfev,
            alone(minus, y0),
        ),
    }
    numba = peer("numba")
    if numba is not None:
        compiled = sk.jit(minus)
        ours(compiled, y0)()  # compiles

        @numba.njit
        def loop(f: Any, y: Any) -> Any:
            for _ in range(_LOOP):
                y = f(0.0, y)
            return y

        runs["dopri5, jit"] = ours(compiled, y0), partial(loop, compiled, y0)
    torch = peer("torch")
    if torch is not None:
        torch.set_num_threads(1)
        tensor = torch.from_numpy(y0)
        runs["dopri5, torch"] = ours(minus, tensor), alone(minus, tensor)
    theirs = peer("torchdiffeq")
    if theirs is not None:
        times = torch.tensor([0.0, t1], dtype=torch.float64)

        def torchdiffeq() -> int:
            counted = Counted(minus)
            theirs.odeint(counted, tensor, times, method="dopri5", **tolerances)
            return counted.calls

        runs["torchdiffeq dopri5"] = torchdiffeq, alone(minus, tensor)
    if peer("diffrax") is not None:
        run = diffrax_solve(lambda _t, y, _args: -y, (0.0, t1), "Dopri5", y0, 1e-10 / rtol)
        run(rtol)  # compiles
        # The last stage is the next step's first.
        runs["diffrax Dopri5"] = lambda: 1 + 6 * int(run(rtol)[1]), None
    return runs


# Cost against the batch --------------------------------------------------------------------------

SPAN = (0.0, 20.0)


def against_batch(
    sizes: tuple[int, ...], repetitions: int, rtols: tuple[float, ...], wanted: float
) -> dict[str, Any]:
    """Batches of van der Pol's oscillator, μ from 0.1 to 10: time at equal digits of the worst."""
    torch = peer("torch")
    if torch is None:
        return {"cells": [], "rows": []}
    torch.set_num_threads(1)
    cells: list[Cell] = []
    rows = []
    with torch.no_grad():
        for size in sizes:
            mu = np.logspace(-1, 1, size) if size > 1 else np.ones(1)
            exact = _exact(mu)
            solvers = _batch_solvers(mu)
            points: dict[str, list[tuple[float, float]]] = {name: [] for name in solvers}
            for rtol in rtols:
                runs = {name: partial(solve, rtol) for name, solve in solvers.items()}
                for name, timing in take_turns(runs, repetitions, longest=0.5).items():
                    cell = {"batch": size, "solver": name, "rtol": rtol, "times": timing.times}
                    if timing.failure is None:
                        known = digits(timing.result["y"], exact, componentwise=False)
                        cell |= {"digits": known, "nfev": timing.result.get("nfev")}
                        points[name].append((known, timing.best))
                    else:
                        cell["failure"] = timing.failure
                    cells.append(cell)
            times = {name: at_digits(of, wanted) for name, of in points.items()}
            base = min(t for name, t in times.items() if name in OUR_BATCHES)
            row = {
                "batch": size,
                "digits": wanted,
                "seconds": base if math.isfinite(base) else None,
                "times": {name: t if math.isfinite(t) else None for name, t in times.items()},
                "ratios": {name: ratio(t, base) for name, t in times.items()},
                "peers": [name for name in times if name not in OUR_BATCHES],
            }
            rows.append(row)
            print(f"\nbatch of {size}, {wanted:g} digits: µs per sample")
            for name, t in times.items():
                print(f"  {name:28} {1e6 * t / size:10.2f}", flush=True)
    return {"cells": cells, "rows": rows}


OUR_BATCHES = ("dopri5", "tsit5", "dopri5, one step for all", "tsit5, jit, one by one")


def _exact(mu: Any) -> Any:
    """Return y(t1) of all samples, checked against SciPy's DOP853 on the first and the last."""
    import torch

    y0, t = _starts(len(mu)), torch.from_numpy(mu)
    tight: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-12, "t_eval": [SPAN[1]]}
    y = sk.solve(
        in_torch(van_der_pol_slopes), SPAN, y0, "vern8", batched=True, args=(t,), **tight
    ).y[-1]
    for i in {0, len(mu) - 1}:
        f = forms(lambda a, b, m=float(mu[i]): van_der_pol_slopes(a, b, m), 2)["python"]
        peer_end = solve_ivp(f, SPAN, y0[i].numpy(), "DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
        if digits(y[i], peer_end, componentwise=False) < 8:
            msg = f"the reference for mu = {mu[i]} and SciPy's solution differ"
            raise RuntimeError(msg)
    return y.numpy()


def _starts(size: int) -> Any:
    import torch

    return torch.tensor([[2.0, 0.0]], dtype=torch.float64).repeat(size, 1)


def _batch_solvers(mu: Any) -> dict[str, Callable[[float], Answer]]:
    """Return functions of rtol that solve the batch; atol is a hundredth of rtol."""
    import torch

    f, y0, rates = in_torch(van_der_pol_slopes), _starts(len(mu)), torch.from_numpy(mu)

    def ours(rtol: float, method: str, *, batched: bool = True) -> Answer:
        solution = sk.solve(
            f,
            SPAN,
            y0,
            method,
            rtol=rtol,
            atol=1e-2 * rtol,
            t_eval=[SPAN[1]],
            batched=batched,
            args=(rates,),
        )
        return {"y": solution.y[-1].numpy(), "nfev": solution.stats["nfev"]}

    solvers: dict[str, Callable[[float], Answer]] = {
        "dopri5": partial(ours, method="dopri5"),
        "tsit5": partial(ours, method="tsit5"),
        "dopri5, one step for all": partial(ours, method="dopri5", batched=False),
    }
    if peer("numba") is not None:
        single = sk.jit(_single)

        def each(rtol: float) -> Answer:
            options = {"rtol": rtol, "atol": 1e-2 * rtol, "t_eval": [SPAN[1]]}
            ends = [
                sk.solve(single, SPAN, [2.0, 0.0], "tsit5", args=(m,), **options).y[-1]
                for m in mu.tolist()
            ]
            return {"y": np.array(ends)}

        sk.solve(single, SPAN, [2.0, 0.0], "tsit5", args=(1.0,))  # compiles
        solvers["tsit5, jit, one by one"] = each
    theirs = peer("torchdiffeq")
    if theirs is not None:
        times = torch.tensor(SPAN, dtype=torch.float64)

        def torchdiffeq(rtol: float) -> Answer:
            counted = Counted(lambda t, y: f(t, y, rates))
            tolerances = {"rtol": rtol, "atol": 1e-2 * rtol}
            y = theirs.odeint(counted, y0, times, method="dopri5", **tolerances)[-1]
            return {"y": y.numpy(), "nfev": counted.calls}

        solvers["torchdiffeq dopri5"] = torchdiffeq
    to = peer("torchode")
    if to is not None:

        def torchode(rtol: float, method: Any) -> Answer:
            term = to.ODETerm(lambda t, y: f(t, y, rates))
            control = to.IntegralController(1e-2 * rtol, rtol, term=term)
            solver = to.AutoDiffAdjoint(method(term), control)
            at = torch.tensor([SPAN], dtype=torch.float64).expand(len(mu), -1)
            solution = solver.solve(to.InitialValueProblem(y0=y0, t_eval=at))
            calls = int(solution.stats["n_f_evals"].max())
            return {"y": solution.ys[:, -1].numpy(), "nfev": calls}

        solvers["torchode Dopri5"] = partial(torchode, method=to.Dopri5)
        solvers["torchode Tsit5"] = partial(torchode, method=to.Tsit5)
    if peer("diffrax") is not None:
        for name in ("Dopri5", "Tsit5"):
            run = diffrax_solve(_in_jax, SPAN, name, y0.numpy(), 1e-2, mu)
            run(1e-3)  # compiles
            solvers[f"diffrax {name}, vmap"] = lambda rtol, run=run: {"y": run(rtol)[0]}
    return solvers


def _single(t: float, y: Any, mu: float) -> Any:  # noqa: ARG001
    """One sample, for numba."""
    return np.array([y[1], mu * (1 - y[0] * y[0]) * y[1] - y[0]])


def _in_jax(_t: Any, y: Any, mu: Any) -> Any:
    from jax import numpy as jnp

    return jnp.stack(van_der_pol_slopes(y[0], y[1], mu))


# Memory -------------------------------------------------------------------------------------------


def heat(t: float, y: Any) -> Any:  # noqa: ARG001
    """Diffusion on a line, with eigenvalues from −4 to 0."""
    slopes = -2.0 * y
    slopes[1:] += y[:-1]
    slopes[:-1] += y[1:]
    return slopes


def memory(n: int, t1: float = 4.0) -> list[Cell]:
    """Peak of what a solve allocates, in arrays of n numbers: with its end kept, and all steps."""
    y0 = np.linspace(1.0, 2.0, n)
    tolerances: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-8}
    band = sparse.diags_array(np.ones((3, n)), offsets=[-1, 0, 1], shape=(n, n))

    def ours(method: str, t_eval: Any, **more: Any) -> int:
        solution = sk.solve(heat, (0.0, t1), y0, method, t_eval=t_eval, **tolerances, **more)
        return solution.stats["accepted"]

    def theirs(method: Any, t_eval: Any, **more: Any) -> int:
        result = solve_ivp(heat, (0.0, t1), y0, method, t_eval=t_eval, **tolerances, **more)
        return len(result.t) - 1

    solvers: dict[str, Callable[[Any], int]] = {
        name: partial(ours, name) for name in ("dopri5", "tsit5", "dop853", "rkc2", "rock4")
    }
    solvers["rodas5p, banded"] = partial(ours, "rodas5p", bandwidth=(1, 1))
    solvers["kvaerno5, banded"] = partial(ours, "kvaerno5", bandwidth=(1, 1))
    solvers |= {f"SciPy {name}": partial(theirs, name) for name in ("RK45", "DOP853")}
    solvers["SciPy LSODA, banded"] = partial(theirs, "LSODA", lband=1, uband=1)
    solvers["SciPy BDF, sparse"] = partial(theirs, "BDF", jac_sparsity=band)
    solvers["SciPy Radau, sparse"] = partial(theirs, "Radau", jac_sparsity=band)
    extensisq = peer("extensisq")
    if extensisq is not None:
        solvers["extensisq Ts5"] = partial(theirs, extensisq.Ts5)
    rows = []
    for name, solve in solvers.items():
        steps = solve(None)  # what is imported on the way is no memory of the solve
        end, all_steps = (peak_memory(partial(solve, at)) / (8 * n) for at in ([t1], None))
        rows.append({"n": n, "solver": name, "steps": steps, "end": end, "all": all_steps})
        print(
            f"{name:24} {steps:5} steps: {end:7.1f} arrays, {all_steps:7.1f} with all", flush=True
        )
    return rows


# Events -------------------------------------------------------------------------------------------


def pendulum(t: float, y: Any) -> Any:  # noqa: ARG001
    """Return the slopes of a pendulum, which swings through nearly a half turn."""
    return np.array([y[1], -np.sin(y[0])])


def downward(t: float, y: Any) -> Any:  # noqa: ARG001
    """Return the angle: zero where the pendulum hangs."""
    return y[0]


def events(repetitions: int, t1: float = 200.0) -> list[Cell]:
    """Time of a solve without and with an event function, which crosses zero twice in a swing."""
    y0, tolerances = [3.0, 0.0], {"rtol": 1e-7, "atol": 1e-7}

    def ours(f: Any, g: Any) -> int:
        solution = sk.solve(f, (0.0, t1), y0, "dopri5", events=g, t_eval=[t1], **tolerances)
        return 0 if g is None else len(solution.events[0].t)

    def scipy(f: Any, g: Any) -> int:
        result = solve_ivp(f, (0.0, t1), y0, "RK45", events=g, t_eval=[t1], **tolerances)
        return 0 if g is None else len(result.t_events[0])

    solvers: dict[str, tuple[Callable[[Any, Any], int], Any, Any]] = {
        "dopri5": (ours, pendulum, downward),
        "SciPy RK45": (scipy, pendulum, downward),
    }
    if peer("numba") is not None:
        solvers["dopri5, jit"] = ours, sk.jit(pendulum), sk.jit(downward)
    runs: dict[str, Run] = {}
    for name, (solve, f, g) in solvers.items():
        runs[name], runs[f"{name}, events"] = partial(solve, f, None), partial(solve, f, g)
        runs[name](), runs[f"{name}, events"]()  # compiles
    timings = take_turns(runs, repetitions)
    rows = []
    for name in solvers:
        without, with_events = timings[name], timings[f"{name}, events"]
        count = with_events.result
        rows.append(
            {"solver": name, "count": count, "without": without.best, "with": with_events.best}
        )
        print(
            f"{name:24} {1e3 * without.best:10.3f} ms, {1e3 * with_events.best:10.3f} ms with"
            f" {count} events",
            flush=True,
        )
    return rows


# Cost of a call -----------------------------------------------------------------------------------


def one_step(case: Case) -> Case:
    """Return the case on a span of one step: what a call costs before and after its steps."""
    return replace(
        case, name="one step", t_span=(0.0, 1e-6), rtols=(1e-3,), wanted=(3,), end=case.y0
    )
