"""Gradients with respect to times: the ends of the span, output times, and events.

The steps of a solve are made at times that are numbers. What the solution owes to a time that is a
tensor is added where it comes in or goes out, by first-order terms whose value is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .._array import is_torch, to_numpy
from .solution import EventRecord, Solution, Status

__all__ = ["at_event", "events_moved", "moves", "solve_moving"]


def moves(t: Any) -> bool:
    """Whether a time, or one of several, is a tensor that gradients are asked for."""
    if isinstance(t, (tuple, list)):
        return any(map(moves, t))
    return is_torch(t) and bool(t.requires_grad)


def shifted(y: Any, slope: Any, t: Any) -> Any:
    """Return y + slope · (t − t), of value y and derivative `slope`; t has y's first axes."""
    move = (t - t.detach()).to(device=y.device, dtype=y.real.dtype)
    return y + slope * move.reshape((*move.shape, *[1] * (y.ndim - move.ndim)))


def solve_moving(solve: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Solve with tensors for times; the arguments are those of `stiffkit.solve`, by name.

    With φ the flow, y(t_j) = φ(t_j; t_0, y_0): ∂y/∂t_j = f(t_j, y(t_j)), and a start that comes
    later by δ is a start at t_0 from y_0 − δ f(t_0, y_0). That is a call of f for each time that
    moves.
    """
    import torch

    f, args, y0, t_eval, batched = (
        given[name] for name in ("f", "args", "y0", "t_eval", "batched")
    )
    (t0, t1), calls = given["t_span"], 0

    def moved(y: Any, t: Any, sign: float = 1.0) -> Any:
        nonlocal calls
        calls += 1
        t = t.to(y.device).expand(len(y)) if batched else t.to(y.device)
        return shifted(y, sign * f(t.detach().to(y.real.dtype), y, *args), t)

    if moves(t0):
        y0 = moved(y0, t0, -1.0)
    span = tuple(to_numpy(t) if batched else float(to_numpy(t)) for t in (t0, t1))
    times = t_eval
    if moves(t_eval):
        times = to_numpy(t_eval if is_torch(t_eval) else [to_numpy(t) for t in t_eval])
    solution = solve(**{**given, "y0": y0, "t_span": span, "t_eval": times})
    y = solution.y
    if moves(t_eval):
        states = list(y)
        for j in range(len(states)):
            if moves(t_eval[j]):
                states[j] = moved(states[j], t_eval[j])
        y = torch.stack(states) if states else y
    elif t_eval is None and moves(t1):
        last = solution.count - 1 if batched else [len(y) - 1]
        ends = solution.status if batched else [solution.status]
        there = (torch.as_tensor(last), *([torch.arange(len(ends))] * batched))
        arrived = torch.tensor([end is Status.success for end in ends])
        end = y[there] if batched else y[-1]
        mask = arrived.reshape(-1, *[1] * (y.ndim - 2)) if batched else arrived[0]
        new = torch.where(mask.to(y.device), moved(end, t1), end)
        y = y.index_put(there, new if batched else new[None])
    stats = {**solution.stats, "nfev": solution.stats["nfev"] + calls}
    return replace(solution, y=y, stats=stats)


def at_event(f: Callable[..., Any], g: Callable[..., Any], t: Any, y: Any) -> tuple[Any, Any]:
    """Return time and state of an event as functions of what y and g depend on.

    At a root g(t, y(t)) = 0; by the implicit function theorem dt = −dg / (∂g/∂t + ∂g/∂y · f), and
    the state moves on with dt.

    Parameters
    ----------
    f, g : callable
        Right-hand side and event function, ``f(t, y)`` and ``g(t, y)``, the latter one number.
    t : tensor, shape ()
        The root.
    y : tensor
        The solution at this fixed time, as autograd knows it.

    Returns
    -------
    t, y : tensor
        The same values. Where g does not change along the solution, their derivatives overflow, as
        they should.
    """
    import torch

    time = t.detach().to(device=y.device, dtype=y.real.dtype)
    now = g(time, y)
    if not (is_torch(now) and (y.requires_grad or now.requires_grad)):
        return t.detach(), y
    slope = f(time, y)
    with torch.enable_grad():
        at, state = time.clone().requires_grad_(), y.detach().requires_grad_()
        value = g(at, state).sum()
        if not value.requires_grad:  # a function of steps: it has no part in any gradient
            return t.detach(), y
        along: Any = torch.autograd.grad(value, (at, state), allow_unused=True)
    rate = torch.zeros_like(time) if along[0] is None else along[0]
    if along[1] is not None:
        rate = rate + (along[1].conj() * slope.detach()).sum().real
    tiny = torch.finfo(rate.dtype).tiny
    rate = torch.where(torch.isfinite(rate) & (rate != 0), rate, tiny)
    root = t.detach() - ((now - now.detach()).sum() / rate).to(t.dtype)
    return root, shifted(y, slope, root)


def events_moved(
    solution: Solution, f: Callable[..., Any], functions: list[Callable[..., Any]]
) -> Solution:
    """Return a solution whose events are functions of what f, g and y0 depend on; see `at_event`.

    Parameters
    ----------
    solution : Solution
        On tensors.
    f : callable
        Right-hand side, arguments bound.
    functions : list of callable
        Event functions, arguments bound.
    """
    import torch

    records, y, calls = [], solution.y, 0

    def slope(t: Any, state: Any) -> Any:
        nonlocal calls
        calls += 1
        return f(t, state)

    for g, record in zip(functions, solution.events, strict=True):
        found = [at_event(slope, g, t, state) for t, state in zip(record.t, record.y, strict=True)]
        if not found:
            records.append(record)
            continue
        times, states = (torch.stack(column) for column in zip(*found, strict=True))
        records.append(EventRecord(times, states))
        ended = solution.status is Status.event and len(y) > 0
        if ended and bool(times[-1] == solution.t[-1]):
            y = torch.cat([y[:-1], states[-1:]])
    stats = {**solution.stats, "nfev": solution.stats["nfev"] + calls}
    return replace(solution, y=y, events=tuple(records), stats=stats)
