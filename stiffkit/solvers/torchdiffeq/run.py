"""One call of `odeint` as calls of `stiffkit.solve`, and its results in torchdiffeq's shapes."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ..._array import to_numpy
from .._moving import at_event
from .._tree import Layout, is_tree, tree_join, tree_map
from ..batch import Backsolve, Checkpoints
from ..options import StepOptions
from ..solution import Solution, Status
from ..solve import solve
from ..tableau import ButcherTableau
from .plan import Plan

__all__ = ["Gradient", "run"]

EVENT_STEPS = 20_000
"""Fixed steps in which an event has to come."""


@dataclass(frozen=True, eq=False)
class Gradient:
    """What `odeint_adjoint` asks of the backward solve."""

    plan: Plan
    rtol: Any
    atol: Any
    parameters: tuple[torch.Tensor, ...]


def run(
    func: Any,
    y0: Any,
    t: Any,
    rtol: Any,
    atol: Any,
    plan: Plan,
    event_fn: Any,
    gradient: Gradient | None = None,
) -> Any:
    """Check the arguments, and solve."""
    _check(func, y0, t, plan, event_fn)
    call = _Call(func, y0, t, _reachable(rtol, y0), atol, plan, gradient)
    if event_fn is not None:
        return call.until(event_fn)
    if len(t) == 1:
        return tree_map(lambda a: a[None], y0)
    return call.at_times()


def _check(func: Any, y0: Any, t: Any, plan: Plan, event_fn: Any) -> None:
    if not callable(func):
        msg = f"func must be callable, func(t, y), not {type(func).__name__}"
        raise TypeError(msg)
    if not (isinstance(y0, torch.Tensor) or is_tree(y0)):
        msg = f"y0 must be a tensor or a tuple of tensors, not {type(y0).__name__}"
        raise TypeError(msg)
    if not (isinstance(t, torch.Tensor) and t.is_floating_point() and t.ndim == 1 and len(t)):
        got = f"{t.dtype} of shape {tuple(t.shape)}" if isinstance(t, torch.Tensor) else repr(t)
        msg = f"t must be a one-dimensional tensor of floating-point times, not {got}"
        raise TypeError(msg)
    steps = np.diff(to_numpy(t))
    if not ((steps > 0).all() or (steps < 0).all()):
        msg = f"t must be strictly increasing or decreasing, not {t.tolist()}"
        raise ValueError(msg)
    if event_fn is not None and len(t) != 2:
        msg = f"with event_fn t has two times, a start and a direction, not {len(t)}"
        raise ValueError(msg)
    if plan.fixed:
        names = ("callback_accept_step", "callback_reject_step")
        lost = [name for name in names if getattr(func, name, None) is not None]
        if lost:
            text = f"fixed steps are neither accepted nor rejected: {lost} are not called"
            warnings.warn(text, UserWarning, stacklevel=4)


def _reachable(rtol: Any, y0: Any) -> Any:
    """Return `rtol`; torchdiffeq's default of 1e-7, a little below float32's eps, is that eps."""
    sizes: list[float] = []
    tree_map(lambda a: sizes.append(torch.finfo(a.dtype).eps if _inexact(a) else 0.0), y0)
    eps = max(sizes)
    return eps if isinstance(rtol, float) and eps / 2 < rtol < eps else rtol


def _inexact(a: torch.Tensor) -> bool:
    return a.is_floating_point() or a.is_complex()


def _inside(func: Any, a: float, b: float, *, low: bool, high: bool) -> Any:
    """Return func that does not see the ends of a span where it may jump, but the times beside."""
    if not (low or high):
        return func

    def one_sided(t: torch.Tensor, y: Any) -> Any:
        first, last = (t.new_tensor(x) for x in ((a, b) if a < b else (b, a)))
        at_first, at_last = (low, high) if a < b else (high, low)
        least = torch.nextafter(first, last) if at_first else first
        most = torch.nextafter(last, first) if at_last else last
        return func(t.clamp(least, most), y)

    return one_sided


def _callbacks(func: Any, suffix: str, state: Callable[[Any], Any]) -> Any:
    """Return func's callbacks as one `on_attempt` of `solve`, or None."""
    names = ("callback_step", "callback_accept_step", "callback_reject_step")
    before, accepts, rejects = (getattr(func, name + suffix, None) for name in names)
    if before is accepts is rejects is None:
        return None

    def on_attempt(t: Any, y: Any, h: Any, accepted: Any) -> None:
        verdict = accepts if np.all(accepted) else rejects
        callback = before if accepted is None else verdict
        if callback is not None:
            start, dt = (torch.tensor(float(np.squeeze(x)), dtype=torch.float64) for x in (t, h))
            callback(start, state(y), dt.abs())

    return on_attempt


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of `odeint`, its arguments checked."""

    func: Any
    y0: Any
    t: torch.Tensor
    rtol: Any
    atol: Any
    plan: Plan
    gradient: Gradient | None

    def at_times(self) -> Any:
        """Return the states at `t`."""
        times = to_numpy(self.t)
        sign = 1.0 if times[-1] > times[0] else -1.0
        grid = self.plan.grid(self.func, self.y0, self.t)
        start: Any = self.t[0]
        y, found = self.y0, [tree_map(lambda a: a[None], self.y0)]
        for piece in self._pieces(float(times[0]), float(times[-1]), grid):
            due = np.flatnonzero((times * sign > piece.a * sign) & (times * sign <= piece.b * sign))
            states = self._states(piece, start, y, due)
            found.append(_at(states, slice(len(due))))
            y, start = _at(states, -1), piece.b
        return tree_join(torch.cat, found)

    def until(self, event_fn: Any) -> Any:
        """Return the time of the first event, and the states at the start and there."""
        first, sign = self.t[0], 1.0 if self.t[1] > self.t[0] else -1.0
        kind = _leaf(self.y0)
        with torch.no_grad():
            signs = torch.sign(event_fn(first.to(kind.device, kind.real.dtype), self.y0))
        if bool((signs == 0).any()):
            return first, tree_join(torch.stack, [self.y0, self.y0])

        def g(t: torch.Tensor, y: Any) -> torch.Tensor:
            """Positive at the start; zero where the first of the functions is."""
            nearest: torch.Tensor = (event_fn(t, y) * signs).min()
            return nearest

        g.terminal = True  # type: ignore[attr-defined]
        solution, f = self._first_event(g, float(first.detach()), sign)
        t, y = solution.events[0].t[-1], _at(solution.events[0].y, -1)
        if self.gradient is not None and torch.is_grad_enabled():
            times = torch.stack([first.to(t.dtype), t.detach().to(first.device)])
            plan = replace(self.plan, options={**self.plan.options, "grid_constructor": None})
            y = _at(replace(self, t=times, plan=plan).at_times(), -1)
        if torch.is_grad_enabled() and not t.requires_grad:
            t, y = _with_event(f, g, t, y)
        return t.to(self.t), tree_join(torch.stack, [self.y0, y])

    def _first_event(self, g: Any, t0: float, sign: float) -> tuple[Solution, Any]:
        """Return the solution that ends at the event, and the f that it ends with."""
        start: Any = self.t[0]
        grid, t1, y = None, sign * sys.float_info.max, self.y0
        if self.plan.fixed:
            h = self.plan.options.get("step_size")
            if h is None:
                msg = "with event_fn a method of fixed steps needs options={'step_size': ...}"
                raise ValueError(msg)
            grid = t0 + sign * float(h) * np.arange(EVENT_STEPS + 1)
            t1 = float(grid[-1])
        blind = self.gradient is not None
        with torch.no_grad() if blind else nullcontext():
            for piece in self._pieces(t0, t1, grid):
                solution = self._solve(piece, start, y, [piece.b], events=g)
                if solution.status is Status.event:
                    return solution, piece.f
                y, start = _at(solution.y, -1), piece.b
        msg = f"no event came before t = {t1!r}"
        error = RuntimeError(msg)
        error.solution = solution  # type: ignore[attr-defined]
        raise error

    def _pieces(self, t0: float, t1: float, grid: Any) -> Iterator[_Piece]:
        """Yield spans that are solved one after the other."""
        if self.plan.fixed:
            if not self.plan.options.get("perturb"):
                yield _Piece(self.func, t0, t1, grid)
                return
            for a, b in pairwise(grid.tolist()):
                yield _Piece(_inside(self.func, a, b, low=True, high=True), a, b, np.array([a, b]))
            return
        cuts, jumps = self.plan.cuts(t0, t1)
        for a, b in pairwise([t0, *cuts, t1]):
            f = _inside(self.func, a, b, low=a in jumps, high=b in jumps)
            yield _Piece(f, a, b, None)

    def _states(self, piece: _Piece, start: Any, y: Any, due: Any) -> Any:
        """Return the states at those of `t` that are due, and at the piece's end."""
        t = self.t[due] if self.t.requires_grad else to_numpy(self.t)[due]
        ends_there = len(due) > 0 and to_numpy(t)[-1] == piece.b
        linear = self.plan.options.get("interp", "linear") == "linear"
        if piece.grid is not None and linear and not np.isin(to_numpy(t), piece.grid).all():
            return self._chords(piece, piece.grid, start, y, t)
        t_eval = [*t] if ends_there else [*t, piece.b]
        return self._solve(piece, start, y, t_eval).y

    def _chords(self, piece: _Piece, ends: Any, start: Any, y: Any, t: Any) -> Any:
        """Interpolate between the steps by straight lines, as torchdiffeq does by default."""
        sign = 1.0 if piece.b > piece.a else -1.0
        steps = self._solve(piece, start, y, ends)
        i = np.clip(np.searchsorted(ends * sign, to_numpy(t) * sign) - 1, 0, len(ends) - 2)
        first, width = (torch.as_tensor(x[i], device=self.t.device) for x in (ends, np.diff(ends)))
        share = (torch.as_tensor(t, device=self.t.device) - first) / width

        def between(a: torch.Tensor) -> torch.Tensor:
            theta = share.to(a.device, a.real.dtype).reshape(-1, *[1] * (a.ndim - 1))
            return torch.cat([torch.lerp(a[i], a[i + 1], theta.to(a.dtype)), a[-1:]])

        return tree_map(between, steps.y)

    def _solve(self, piece: _Piece, start: Any, y: Any, t_eval: Any, events: Any = None) -> Any:
        control, first = self.plan.control(), self.plan.options.get("first_step")
        if first is not None and not self.plan.fixed:
            control["first_step"] = min(float(first), abs(piece.b - piece.a))
        solution = solve(
            piece.f,
            (start, piece.b),
            y,
            self.plan.method,
            rtol=self.rtol,
            atol=self.atol,
            t_eval=t_eval,
            grid=piece.grid,
            events=events,
            norm=self.plan.norm(self.y0),
            on_attempt=_callbacks(self.func, "", lambda state: state),
            adjoint=None if events is not None else self._adjoint(),
            detect=False,
            **control,
        )
        if not solution.success:
            msg = f"odeint could not solve to t = {piece.b!r}: {solution.message}"
            error = RuntimeError(msg)
            error.solution = solution  # type: ignore[attr-defined]
            raise error
        return solution

    def _adjoint(self) -> Any:
        """Return solve's `adjoint`."""
        if self.gradient is None:
            return None
        method, plan, y0 = self.plan.method, self.gradient.plan, self.y0
        if not (isinstance(method, ButcherTableau) and method.explicit):
            return Checkpoints()  # what is stiff forward cannot be solved backward
        control, norm = plan.control(), plan.norm(y0)
        layout = Layout.of(y0, batched=False) if is_tree(y0) else None

        def restore(y: torch.Tensor) -> Any:
            return y.reshape(y0.shape) if layout is None else layout.unflatten(y.reshape(-1))

        def grid(a: float, b: float) -> Any:
            if plan.options.get("perturb"):
                return 1  # a piece is a step
            return plan.grid(self.func, y0, torch.tensor([a, b], dtype=torch.float64))

        steps = StepOptions(
            control.get("controller"),
            plan.options.get("first_step"),
            control.get("max_step", math.inf),
            control.get("max_steps", 100_000),
            grid if plan.fixed else None,
            None if norm is None else lambda y: norm(restore(y)),
        )
        return Backsolve(
            rtol=self.gradient.rtol,
            atol=self.gradient.atol,
            method=plan.method,
            parameters=self.gradient.parameters,
            steps=steps,
            on_attempt=_callbacks(
                self.func, "_adjoint", lambda pair: tuple(restore(part) for part in pair[0])
            ),
        )


@dataclass(frozen=True, eq=False)
class _Piece:
    """A span that is solved at one go."""

    f: Any
    a: float
    b: float
    grid: np.ndarray[Any, Any] | None


def _at(states: Any, i: Any) -> Any:
    """Return the states at some of the times."""
    return tree_map(lambda a: a[i], states)


def _leaf(y: Any) -> torch.Tensor:
    found: list[torch.Tensor] = []
    tree_map(found.append, y)
    return found[0]


def _with_event(f: Any, g: Any, t: torch.Tensor, y: Any) -> tuple[torch.Tensor, Any]:
    """`at_event` for tensors and structures."""
    if not is_tree(y):
        return at_event(f, g, t, y)
    layout = Layout.of(y, batched=False)

    def slope(time: torch.Tensor, flat: torch.Tensor) -> Any:
        return layout.flatten(f(time, layout.unflatten(flat)), "what func returns")

    def value(time: torch.Tensor, flat: torch.Tensor) -> Any:
        return g(time, layout.unflatten(flat))

    t, flat = at_event(slope, value, t, layout.flatten(y))
    return t, layout.unflatten(flat)
