"""Batches in torch against torchdiffeq and torchode: time, memory, gradients, one thread.

Each figure is a ratio of processor times within one run, the best of several interleaved
repetitions each, ours over the peer's. Peers that are not installed are left out with a word.

* same: 256 van der Pol oscillators, μ = 2, dopri5, tolerances 1e-5, 200 output times.
* spread: μ from 0.1 to 50, logarithmically.
* apart: fast phases that do not overlap: oscillators, μ = 30, that start at different times of
  their limit cycle.
* neural: an MLP of two layers of 64, batch 512, forward and backward; errors of both against a
  solve to 1e-10. Memory is what autograd keeps, counted in tensors.
  For these, "f alone" is the time of stiffkit's calls of f, forward and backward, with no solver
  around them: no solver that makes as many takes less.
* stiff: Robertson's equation with 256 sets of rates, to t = 1e4, against a loop over
  scipy.integrate.solve_ivp by its fastest method: forward alone, and with the gradient by all
  rates, which the loop makes by differences, 4 solves each; at one tolerance, and at equal digits.
* nan: one sample of 256 fails; the largest change of the others.

    python benchmarks/torch_batch.py [--json FILE] [--repeat 5] [same spread apart neural stiff nan]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _measure import best_times, peer  # first: it sets the number of threads

# isort: split
import numpy as np
import torch

import stiffkit as sk

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

    def ours() -> Any:
        return sk.solve(
            f, (0.0, t1), y0, "dopri5", rtol=tol, atol=tol, t_eval=times, batched=True, args=args
        )

    runs: dict[str, Callable[[], Any]] = {"stiffkit": ours}
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
        mine, start = ours(), torch.zeros(len(y0), dtype=FLOAT)

        def alone() -> None:
            for _ in range(mine.stats["nfev"]):
                f(start, y0, *args)

        best = best_times(runs | {"f alone": alone}, repeat, longest=math.inf)
        row: dict[str, Any] = {"seconds": best, "stiffkit nfev": mine.stats["nfev"]}
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
            calls_each = row["stiffkit nfev"] / row[f"{name} nfev"]
            row[f"ratio per call to {name}"] = row[f"ratio to {name}"] / calls_each
    return row


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
    options = {"rtol": 1e-5, "atol": 1e-10}

    def f(t: Any, y: Any, k: Any) -> Any:  # noqa: ARG001
        a = k[:, 0] * y[:, 0]
        b = k[:, 1] * y[:, 1] * y[:, 2]
        c = k[:, 2] * y[:, 1] ** 2
        return torch.stack([b - a, a - b - c, c], 1)

    def forward(tol: float = 1e-5) -> Any:
        s = sk.solve(
            f,
            (0.0, 1e4),
            y0,
            "rodas5p",
            rtol=tol,
            atol=1e-5 * tol,
            t_eval=[1e4],
            batched=True,
            args=(rates,),
        )
        assert s.success
        return s.y[-1]

    def alone(tol: float = 1e-5) -> Any:
        with torch.no_grad():
            return forward(tol).numpy()

    def both(tol: float = 1e-5) -> Any:
        y = forward(tol)
        return y.detach().numpy(), torch.autograd.grad(y[:, 0].sum(), rates)[0].numpy()

    constants = rates.detach().numpy()

    def loop(method: str, sets: Any) -> Any:
        ends = []
        for k in sets:

            def g(t: float, y: Any, k: Any = k) -> Any:  # noqa: ARG001
                a, b, c = k[0] * y[0], k[1] * y[1] * y[2], k[2] * y[1] * y[1]
                return b - a, a - b - c, c

            s = solve_ivp(g, (0.0, 1e4), (1.0, 0.0, 0.0), method, t_eval=[1e4], **options)
            ends.append(s.y[:, -1])
        return np.array(ends)

    def differences(method: str) -> Any:
        y, part = loop(method, constants), options["rtol"] ** 0.5
        columns = []
        for j in range(3):
            moved = constants.copy()
            moved[:, j] *= 1 + part
            columns.append((loop(method, moved) - y)[:, 0] / (part * constants[:, j]))
        return y, np.stack(columns, 1)

    peers = {f"SciPy {name}": partial(loop, name, constants) for name in ("Radau", "BDF", "LSODA")}
    runs: dict[str, Callable[[], Any]] = {"stiffkit": alone, **peers}
    best = best_times(runs, max(1, repeat // 3), longest=math.inf)
    fastest = min(peers, key=lambda peer: best[peer])
    exact, exact_grad = both(1e-8)

    def digits(y: Any, grad: Any) -> tuple[float, float]:
        pairs = ((y, exact), (grad, exact_grad))
        one, two = (-math.log10(np.abs(a / b - 1).max()) for a, b in pairs)
        return one, two

    kept = digits(*differences(fastest.split()[1]))
    # Equal digits: the loosest tolerance that keeps as many of states and gradients.
    tol = next(
        t for t in (1e-3, 3e-4, 1e-4, 3e-5, 1e-5) if min(np.subtract(digits(*both(t)), kept)) >= 0
    )
    runs = {
        "stiffkit": both,
        "stiffkit, equal digits": partial(both, tol),
        fastest: partial(differences, fastest.split()[1]),
    }
    best_gradient = best_times(runs, max(1, repeat // 3), longest=math.inf)
    runs = {"stiffkit, equal digits": partial(alone, tol), fastest: peers[fastest]}
    best |= best_times(runs, max(1, repeat // 3), longest=math.inf)
    row: dict[str, Any] = {
        "seconds, forward": best,
        "seconds, with gradient": best_gradient,
        "fastest of SciPy": fastest,
        "its digits of states and gradients": kept,
        "digits of stiffkit": digits(*both()),
        "tolerance for equal digits": tol,
        "digits of stiffkit there": digits(*both(tol)),
    }
    for name in ("stiffkit", "stiffkit, equal digits"):
        row[f"{name}: times faster, forward"] = best[fastest] / best[name]
        row[f"{name}: times faster, with gradient"] = best_gradient[fastest] / best_gradient[name]
    return row


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
    cases = {case.__name__: case for case in (same, spread, apart, neural, stiff, nan)}
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
