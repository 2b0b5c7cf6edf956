"""Batches in torch against torchdiffeq and torchode: time, memory, gradients, one thread.

Each figure is a ratio of processor times within one run, the best of several interleaved
repetitions each, ours over the peer's. Peers that are not installed are left out with a word.

* same: 256 van der Pol oscillators, μ = 2, dopri5, tolerances 1e-5, 200 output times.
* spread: μ from 0.1 to 50, logarithmically.
* apart: fast phases that do not overlap: oscillators, μ = 30, that start at different times of
  their limit cycle.
* neural: an MLP of two layers of 64, batch 512, forward and backward; errors of both against a
  solve to 1e-10. By dopri5 at equal error, and by digits, each by its best method and tolerance.
  Memory is what autograd keeps, counted in tensors.
  For these, "f alone" is the time of stiffkit's calls of f, forward and backward, with no solver
  around them: no solver that makes as many takes less.
* stiff: Robertson's equation with 256 sets of rates, to t = 1e4, against a loop over
  scipy.integrate.solve_ivp by its fastest method: forward alone, and with the gradient by all
  rates, which the loop makes by differences, 4 solves each, or by the variational equations,
  written out. At equal digits, of states and gradients: each by its best method and tolerance.
* compiled: a step of dopri5 as ``compile=True`` makes it against one without, forward and with
  gradients, and what compiling it takes. The first three cases have such a solve beside ours.
* nan: one sample of 256 fails; the largest change of the others.

    python benchmarks/torch_batch.py [--json FILE] [--repeat 5]
        [same spread apart neural stiff compiled nan]
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _measure import (
    at_digits,
    best_times,
    digits,
    peer,
    take_turns,
)  # first: it sets the number of threads

# isort: split
import numpy as np
import torch

import stiffkit as sk
from stiffkit.solvers.batch.problem import make_batch_problem
from stiffkit.solvers.batch.stages import ExplicitBatch

FLOAT = torch.float64


def torchode_solver(f: Callable[..., Any], tol: float) -> Any:
    """Return torchode's dopri5 with its I controller, as its documentation shows it."""
    to = peer("torchode")
    if to is None:
        return None
    term = to.ODETerm(f)
    return to, to.AutoDiffAdjoint(to.Dopri5(term), to.IntegralController(tol, tol, term=term))


def batch(f: Callable[..., Any], y0: Any, t1: float, args: tuple[Any, ...], repeat: int) -> Any:
    """Time one batch by all, 200 output times."""
    tol, times = 1e-5, torch.linspace(0.0, t1, 200, dtype=FLOAT)
    calls = 0

    def counted(t: Any, y: Any) -> Any:
        nonlocal calls
        calls += 1
        return f(t, y, *args)

    options = {"rtol": tol, "atol": tol, "t_eval": times, "batched": True, "args": args}

    def ours(**more: Any) -> Any:
        return sk.solve(f, (0.0, t1), y0, "dopri5", **options, **more)

    runs: dict[str, Callable[[], Any]] = {"stiffkit": ours}
    runs["stiffkit, compiled"] = partial(ours, compile=True)
    theirs = peer("torchdiffeq")
    if theirs is not None:
        runs["torchdiffeq"] = lambda: theirs.odeint(
            counted, y0, times, rtol=tol, atol=tol, method="dopri5"
        )
    made = torchode_solver(lambda t, y: f(t, y, *args), tol)
    if made is not None:
        to, solver = made
        runs["torchode"] = lambda: solver.solve(
            to.InitialValueProblem(y0=y0, t_eval=times[None].expand(len(y0), -1))
        )
    with torch.no_grad():
        seconds = seconds_to_compile(runs["stiffkit, compiled"])
        mine, start = ours(), torch.zeros(len(y0), dtype=FLOAT)

        def alone() -> None:
            for _ in range(mine.stats["nfev"]):
                f(start, y0, *args)

        best = best_times(runs | {"f alone": alone}, repeat, longest=math.inf)
        row: dict[str, Any] = {"seconds": best, "stiffkit nfev": mine.stats["nfev"]}
        gain = best["stiffkit"] - best["stiffkit, compiled"]
        row["seconds to compile"] = seconds
        row["solves until it pays"] = seconds / gain if gain > 0 else math.inf
        tight = {"rtol": 1e-10, "atol": 1e-11, "t_eval": times, "batched": True, "args": args}
        exact = sk.solve(f, (0.0, t1), y0, "vern8", **tight).y
        row["stiffkit error"] = float((mine.y - exact).abs().max())
        if theirs is not None:
            calls = 0
            row["torchdiffeq error"] = float((runs["torchdiffeq"]() - exact).abs().max())
            row["torchdiffeq nfev"] = calls
        if made is not None:
            theirs_too = runs["torchode"]()
            row["torchode nfev"] = int(theirs_too.stats["n_f_evals"].max())
            row["torchode error"] = float((theirs_too.ys.transpose(0, 1) - exact).abs().max())
    for name in ("torchdiffeq", "torchode"):
        if name in best:
            row[f"ratio to {name}"] = best["stiffkit"] / best[name]
            row[f"ratio to {name}, compiled"] = best["stiffkit, compiled"] / best[name]
            calls_each = row["stiffkit nfev"] / row[f"{name} nfev"]
            row[f"ratio per call to {name}"] = row[f"ratio to {name}"] / calls_each
    return row


def seconds_to_compile(run: Callable[[], Any]) -> float:
    """Return the time that a first run takes, torch's caches on disk apart."""
    import torch._inductor.config

    start = sum(os.times()[:4])  # with the C++ compiler's, a process of its own
    with torch._inductor.config.patch(force_disable_caches=True, compile_threads=1):
        run()
    return sum(os.times()[:4]) - start


def van_der_pol(t: Any, y: Any, mu: Any) -> Any:  # noqa: ARG001
    """Van der Pol's equation."""
    x, v = y[:, 0], y[:, 1]
    return torch.stack([v, mu * (1 - x * x) * v - x], 1)


def same(repeat: int) -> Any:
    """Make all samples alike."""
    y0 = torch.tensor([[2.0, 0.0]] * 256, dtype=FLOAT)
    return batch(van_der_pol, y0, 20.0, (torch.full((256,), 2.0, dtype=FLOAT),), repeat)


def spread(repeat: int) -> Any:
    """Spread the samples from easy to stiff."""
    y0 = torch.tensor([[2.0, 0.0]] * 256, dtype=FLOAT)
    mu = torch.logspace(-1, math.log10(50.0), 256, dtype=FLOAT)
    return batch(van_der_pol, y0, 20.0, (mu,), repeat)


def apart(repeat: int) -> Any:
    """Put the fast phases at different times."""
    mu = torch.tensor([30.0], dtype=FLOAT)
    period = 51.0  # (3 − 2 ln 2) μ and a little
    start = torch.tensor([[2.0, 0.0]], dtype=FLOAT)
    with torch.no_grad():
        cycle = sk.solve(
            van_der_pol,
            (0.0, 2 * period),
            start,
            "dopri5",
            rtol=1e-8,
            atol=1e-8,
            batched=True,
            args=(mu,),
            t_eval=torch.linspace(period, 2 * period, 257, dtype=FLOAT)[:256],
        ).y[:, 0]
    return batch(van_der_pol, cycle, 40.0, (mu.expand(256).contiguous(),), repeat)


def neural(repeat: int) -> Any:
    """Go forward and backward through a small neural ODE; count what autograd keeps."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(16, 64),
        torch.nn.Tanh(),
        torch.nn.Linear(64, 64),
        torch.nn.Tanh(),
        torch.nn.Linear(64, 16),
    ).to(FLOAT)
    y0 = torch.randn(512, 16, dtype=FLOAT)
    times = torch.tensor([0.0, 4.0], dtype=FLOAT)
    parameters = list(net.parameters())

    def f(t: Any, y: Any) -> Any:  # noqa: ARG001
        return net(y)

    def grads(y: Any) -> Any:
        return torch.autograd.grad((y**2).sum(), parameters)

    def ours(method: str = "dopri5", tol: float = 1e-6, adjoint: Any = None) -> Any:
        y = sk.solve(
            f,
            (0.0, 4.0),
            y0,
            method,
            rtol=tol,
            atol=tol,
            t_eval=times,
            batched=True,
            adjoint=adjoint,
        ).y
        return y[-1], grads(y[-1])

    exact, exact_grads = (
        tuple(g.detach() for g in part) if isinstance(part, tuple) else part.detach()
        for part in ours("vern8", 1e-11)
    )

    def error(y: Any) -> float:
        return float((y.detach() - exact).abs().max())

    theirs = peer("torchdiffeq")
    runs: dict[str, Callable[[], Any]] = {}
    target = math.inf
    if theirs is not None:

        def torchdiffeq() -> Any:
            y = theirs.odeint(f, y0, times, rtol=1e-6, atol=1e-6, method="dopri5")
            return y[-1], grads(y[-1])

        runs["torchdiffeq"] = torchdiffeq
        target = error(torchdiffeq()[0])
    # Equal error: each sample keeps the tolerance, not their mean, so that it may be larger.
    tol = next(
        t for t in (1e-4, 5e-5, 2e-5, 1e-5, 5e-6, 2e-6, 1e-6) if error(ours(tol=t)[0]) <= target
    )
    runs["stiffkit"] = lambda: ours(tol=tol)
    runs["stiffkit, checkpoints"] = lambda: ours(tol=tol, adjoint="checkpoints")
    calls, start = 0, y0.clone().requires_grad_()

    def counted(t: Any, y: Any) -> Any:
        nonlocal calls
        calls += 1
        return f(t, y)

    sk.solve(counted, (0.0, 4.0), y0, "dopri5", rtol=tol, atol=tol, batched=True)

    def alone() -> None:
        for _ in range(calls):
            torch.autograd.grad(net(start).sum(), [start, *parameters])

    best = best_times(runs | {"f alone": alone}, repeat, longest=math.inf)
    row: dict[str, Any] = {"seconds": best, "tolerance": tol, "calls of f": calls}
    scale = max(float(g.abs().max()) for g in exact_grads)
    for name, run in runs.items():
        y, found = run()
        row[f"{name} error"] = error(y)
        off = max(float((a - b).abs().max()) for a, b in zip(found, exact_grads, strict=True))
        row[f"{name} gradient error"] = off / scale
    plain, again = runs["stiffkit"]()[1], runs["stiffkit, checkpoints"]()[1]
    row["checkpoints change gradients by"] = (
        max(float((a - b).abs().max()) for a, b in zip(plain, again, strict=True)) / scale
    )
    kept = {name: tensors_kept(run) for name, run in runs.items()}
    row["kept"] = kept
    row["memory of checkpoints"] = kept["stiffkit, checkpoints"] / kept["stiffkit"]
    if theirs is not None:
        row["ratio to torchdiffeq"] = best["stiffkit"] / best["torchdiffeq"]

        def by(method: str, tol: float) -> Any:
            y = theirs.odeint(f, y0, times, rtol=tol, atol=tol, method=method)[-1]
            return y, grads(y)

        def kept_digits(found: Any) -> float:
            errors = [error(found[0])] + [
                float((a - b).abs().max()) / scale
                for a, b in zip(found[1], exact_grads, strict=True)
            ]
            return -math.log10(max(errors))

        methods = ("bosh3", "dopri5", "tsit5", "vern6", "vern7", "vern8", "dop853")
        all_runs = {
            "stiffkit": [partial(ours, m, 10.0**-k) for m in methods for k in range(2, 7)],
            "torchdiffeq": [
                partial(by, m, 10.0**-k)
                for m, ks in (("bosh3", (4, 5, 6)), ("dopri5", range(3, 9)), ("dopri8", (5, 7, 8)))
                for k in ks
            ],
        }
        row["times faster at digits"] = at_equal_digits(all_runs, kept_digits, 3 * repeat)
    return row


def tensors_kept(run: Callable[[], Any]) -> int:
    """Return the most numbers that autograd holds at one time, by its hooks for saved tensors."""
    now = most = 0

    class Held:
        """A tensor kept, counted while it lives."""

        def __init__(self, x: Any) -> None:
            nonlocal now, most
            self.x = x
            now += x.numel()
            most = max(most, now)

        def __del__(self) -> None:
            nonlocal now
            now -= self.x.numel()

    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.x):
        run()
    return most


def stiff(repeat: int) -> Any:
    """Solve Robertson's equation with many sets of rates."""
    from scipy.integrate import solve_ivp

    generator = torch.Generator().manual_seed(0)
    factors = torch.exp(0.3 * torch.randn(256, 3, generator=generator, dtype=FLOAT))
    rates = (torch.tensor([0.04, 1e4, 3e7], dtype=FLOAT) * factors).requires_grad_()
    y0 = torch.tensor([[1.0, 0.0, 0.0]] * 256, dtype=FLOAT)
    constants = rates.detach().numpy()

    def f(t: Any, y: Any, k: Any) -> Any:  # noqa: ARG001
        a = k[:, 0] * y[:, 0]
        b = k[:, 1] * y[:, 1] * y[:, 2]
        c = k[:, 2] * y[:, 1] ** 2
        return torch.stack([b - a, a - b - c, c], 1)

    def forward(method: str, tol: float) -> Any:
        s = sk.solve(
            f,
            (0.0, 1e4),
            y0,
            method,
            rtol=tol,
            atol=1e-5 * tol,
            t_eval=[1e4],
            batched=True,
            args=(rates,),
        )
        assert s.success
        return s.y[-1]

    def alone(method: str = "rodas5p", tol: float = 1e-5) -> Any:
        with torch.no_grad():
            return forward(method, tol).numpy()

    def both(method: str, tol: float) -> Any:
        y = forward(method, tol)
        return y.detach().numpy(), torch.autograd.grad(y[:, 0].sum(), rates)[0].numpy()

    def loop(method: str, sets: Any, rtol: float = 1e-5) -> Any:
        ends, tols = [], {"rtol": rtol, "atol": 1e-5 * rtol}
        for k in sets:

            def g(t: float, y: Any, k: Any = k) -> Any:  # noqa: ARG001
                a, b, c = k[0] * y[0], k[1] * y[1] * y[2], k[2] * y[1] * y[1]
                return b - a, a - b - c, c

            s = solve_ivp(g, (0.0, 1e4), (1.0, 0.0, 0.0), method, t_eval=[1e4], **tols)
            ends.append(s.y[:, -1])
        return np.array(ends)

    def differences(method: str, rtol: float) -> Any:
        y, part = loop(method, constants, rtol), max(rtol**0.5, 1e-4)
        columns = []
        for j in range(3):
            moved = constants.copy()
            moved[:, j] *= 1 + part
            columns.append((loop(method, moved, rtol) - y)[:, 0] / (part * constants[:, j]))
        return y, np.stack(columns, 1)

    def variational(method: str, rtol: float) -> Any:
        """Solve for the states and their derivatives by the logarithms of the rates, by hand."""
        ends = []
        for k_1, k_2, k_3 in constants.tolist():

            def g(t: float, z: Any, k_1: Any = k_1, k_2: Any = k_2, k_3: Any = k_3) -> Any:  # noqa: ARG001
                x, y, w, x_1, y_1, w_1, x_2, y_2, w_2, x_3, y_3, w_3 = z
                a, b, c = k_1 * x, k_2 * y * w, k_3 * y * y
                b_y, b_w, c_y = k_2 * w, k_2 * y, 2 * k_3 * y
                a_1, b_1, c_1 = k_1 * x_1 + a, b_y * y_1 + b_w * w_1, c_y * y_1
                a_2, b_2, c_2 = k_1 * x_2, b_y * y_2 + b_w * w_2 + b, c_y * y_2
                a_3, b_3, c_3 = k_1 * x_3, b_y * y_3 + b_w * w_3, c_y * y_3 + c
                return (
                    *(b - a, a - b - c, c, b_1 - a_1, a_1 - b_1 - c_1, c_1),
                    *(b_2 - a_2, a_2 - b_2 - c_2, c_2, b_3 - a_3, a_3 - b_3 - c_3, c_3),
                )

            start = [1.0] + 11 * [0.0]
            tols = {"rtol": rtol, "atol": 1e-5 * rtol}
            ends.append(solve_ivp(g, (0.0, 1e4), start, method, t_eval=[1e4], **tols).y[:, -1])
        table = np.array(ends)
        return table[:, :3], table[:, [3, 6, 9]] / constants

    peers = {f"SciPy {name}": partial(loop, name, constants) for name in ("Radau", "BDF", "LSODA")}
    best = best_times({"stiffkit": alone, **peers}, max(1, repeat // 3), longest=2.0)
    fastest = min(peers, key=lambda peer: best[peer])
    name = fastest.split()[1]
    exact, exact_grad = both("rodas5p", 1e-9)
    row: dict[str, Any] = {"seconds, forward, rtol 1e-5": best, "fastest of SciPy": fastest}

    def kept(found: Any) -> float:
        """Return the digits of the states, and of the gradients where there are such."""
        pairs = zip(
            (found,) if isinstance(found, np.ndarray) else found, (exact, exact_grad), strict=False
        )
        return min(digits(x, expected) for x, expected in pairs)

    loose = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
    methods = ("rodas4", "rodas5p")
    forward_runs = {
        "stiffkit": [partial(alone, m, tol) for m in methods for tol in loose],
        "SciPy": [partial(loop, name, constants, tol) for tol in (1e-3, 1e-4, 1e-5, 1e-6)],
    }
    row["times faster, forward, at digits"] = at_equal_digits(forward_runs, kept, repeat)
    gradient_runs = {
        "stiffkit": [partial(both, m, tol) for m in methods for tol in loose],
        "differences": [partial(differences, name, tol) for tol in (1e-5, 1e-7, 1e-9)],
        "variational": [partial(variational, name, tol) for tol in (1e-3, 1e-4, 1e-5, 1e-6)],
    }
    row["times faster, with gradient, at digits"] = at_equal_digits(gradient_runs, kept, repeat)
    return row


def at_equal_digits(runs: Any, kept: Callable[[Any], float], repeat: int) -> dict[str, Any]:
    """Return how many times longer than the first of `runs` the others take, by digits wanted.

    Each has a list of runs, by methods and tolerances: what counts is the cheapest for the digits.
    """
    flat = {f"{name} {i}": run for name, some in runs.items() for i, run in enumerate(some)}
    timings = take_turns(flat, max(1, repeat // 3), longest=2.0)
    points: dict[str, list[tuple[float | None, float]]] = {name: [] for name in runs}
    for key, timing in timings.items():
        points[key.rsplit(" ", 1)[0]].append((kept(timing.result), timing.best))
    ours, *others = runs
    return {
        other: {
            wanted: round(at_digits(points[other], wanted) / at_digits(points[ours], wanted), 2)
            for wanted in (2.0, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0)
            if all(math.isfinite(at_digits(points[who], wanted)) for who in (ours, other))
        }
        for other in others
    } | {"points": {name: sorted(some) for name, some in points.items()}}


def compiled(repeat: int) -> Any:
    """Weigh a step of dopri5, f included, that torch.compile has made against one without."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        *(torch.nn.Linear(16, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh()),
        torch.nn.Linear(64, 16),
    ).to(FLOAT)
    mu = torch.full((256,), 2.0, dtype=FLOAT, requires_grad=True)

    def network(t: Any, y: Any) -> Any:  # noqa: ARG001
        return net(y)

    cases: dict[str, Any] = {
        "256 oscillators": (van_der_pol, torch.rand(256, 2, dtype=FLOAT), (mu,), [mu]),
        "network, batch 512": (
            *(network, torch.rand(512, 16, dtype=FLOAT), ()),
            list(net.parameters()),
        ),
    }
    return {
        f"{name}, with gradients" if record else name: weigh_step(*case, record, repeat)
        for name, case in cases.items()
        for record in (False, True)
    }


def weigh_step(
    f: Callable[..., Any], y: Any, args: tuple[Any, ...], wanted: Any, record: bool, repeat: int
) -> dict[str, Any]:
    """Time a step, and what compiling it takes; with `record` the gradients by `wanted`, too."""
    problem = make_batch_problem(f, (0.0, 1.0), y, args)
    t, h = np.zeros(len(y)), np.full(len(y), 0.01)
    tableau, kind = sk.METHODS["dopri5"], {"dense": False, "record": record}

    def step(stages: ExplicitBatch) -> Any:
        stages.start(problem.first_slopes())
        y_new = stages.attempt(t, h, problem.y0)
        return y_new, torch.autograd.grad(y_new.sum(), wanted) if record else ()

    with torch.set_grad_enabled(record):
        runs = {
            name: partial(step, ExplicitBatch(problem, tableau, **kind, compiled=compiled))
            for name, compiled in (("stiffkit", False), ("compiled", True))
        }
        seconds = seconds_to_compile(runs["compiled"])
        one, two = (run() for run in runs.values())
        best = best_times(runs, 20 * repeat, longest=math.inf)
    gain = best["stiffkit"] - best["compiled"]
    return {
        "seconds a step": best,
        "ratio": best["compiled"] / best["stiffkit"],
        "seconds to compile": seconds,
        "steps until it pays": seconds / gain if gain > 0 else math.inf,
        "difference": max(
            float((a - b).detach().abs().max() / b.detach().abs().max())
            for a, b in zip((one[0], *one[1]), (two[0], *two[1]), strict=True)
        ),
    }


def nan(_: int) -> Any:
    """Look at what one failing sample does to the others."""
    mu = torch.linspace(0.5, 5.0, 256, dtype=FLOAT)
    limit = torch.full((256,), math.inf, dtype=FLOAT)
    limit[100] = 3.0
    y0 = torch.tensor([[2.0, 0.0]] * 256, dtype=FLOAT)
    rest = [i for i in range(256) if i != 100]

    def broken(t: Any, y: Any, mu: Any, limit: Any) -> Any:
        return torch.where((t > limit)[:, None], math.nan, van_der_pol(t, y, mu))

    options = {"rtol": 1e-6, "atol": 1e-8, "t_eval": [10.0], "batched": True}
    with torch.no_grad():
        one = sk.solve(broken, (0.0, 10.0), y0, "dopri5", args=(mu, limit), **options)
        two = sk.solve(van_der_pol, (0.0, 10.0), y0[rest], "dopri5", args=(mu[rest],), **options)
    return {
        "status": one.status[100].name,
        "change of the others": float((one.y[:, rest] - two.y).abs().max()),
    }


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases = {case.__name__: case for case in (same, spread, apart, neural, stiff, compiled, nan)}
    parser.add_argument("cases", nargs="*", default=list(cases))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name in given.cases:
        results[name] = cases[name](given.repeat)
        print(f"\n{name}")
        for key, value in results[name].items():
            print(f"  {key}: {value}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
