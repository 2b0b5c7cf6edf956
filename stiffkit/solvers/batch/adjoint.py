"""Gradients of a batched solve without its history in memory: replay, and the continuous adjoint.

The step sizes of a solve are data, not functions of the parameters: once they are known, the solve
is a fixed sequence of differentiable steps. It may be made first without autograd, and made again,
a piece at a time, when the gradient is wanted.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ..._array import Array, is_torch, to_numpy
from ..options import StepOptions
from ..problem import check_positive
from ..solution import BatchSolution
from ..tableau import ButcherTableau
from .loop import BatchRun
from .problem import BatchProblem, Floats, broadcast_tolerance
from .records import Records

__all__ = [
    "Backsolve",
    "Checkpoints",
    "StiffBackwardWarning",
    "Tape",
    "backsolve",
    "make_adjoint",
    "replay",
]


class StiffBackwardWarning(UserWarning):
    """Backsolve cannot find the solution again: it was damped by more than the tolerance keeps."""


@dataclass(frozen=True)
class Checkpoints:
    """Gradients through the steps, which are made again a piece at a time.

    The memory for a solve of N steps is that of `count` states and of the history of N/count
    steps, for two more passes forward. The gradient is that of the steps, to rounding.
    """

    count: int | None = None
    """Number of pieces; by default √N."""


@dataclass(frozen=True)
class Backsolve:
    """Gradients by the adjoint equation, integrated backward with the state.

    The memory does not grow with the steps. The gradient is that of the differential equation:
    it differs from that of the steps by the error of both solves. Backward in time, what was damped
    grows: of a stiff problem the state cannot be found again, and a solve that fails says so.

    References
    ----------
    R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, Neural ordinary differential equations,
    NeurIPS 2018. L. S. Pontryagin et al., The mathematical theory of optimal processes (1962).
    """

    rtol: Any = None
    """Tolerances of the backward solve; by default the forward ones."""
    atol: Any = None
    method: Any = None
    """Explicit method of the backward solve; by default the forward one."""
    parameters: tuple[Any, ...] | None = None
    """What f depends on beside y and `args`; by default the leaves of f's own history."""
    steps: StepOptions | None = None
    """What decides the backward steps; by default what decides the forward ones, their grid
    included, but not the size of the first step."""
    on_attempt: Callable[..., Any] | None = None
    """Called at each backward step that is tried, like `on_attempt` of `stiffkit.solve`; y has the
    shape (B, 2, n) and holds the state and its adjoint."""

    def applies(self, problem: BatchProblem) -> bool:
        """Whether there is a gradient to be asked for."""
        return problem.backend.grad_enabled()

    def backward_steps(self, forward: StepOptions, shape: tuple[int, ...]) -> StepOptions:
        """Return what decides the backward steps; a norm is the larger one of y and of a."""
        steps = copy(forward if self.steps is None else self.steps)
        if self.steps is None:
            steps.first = None
            if getattr(steps.grid_argument, "ndim", 0) or isinstance(steps.grid_argument, Sequence):
                steps.grid_argument = _between(to_numpy(steps.grid_argument))
        if steps.norm is not None:
            norm = steps.norm
            steps.norm = lambda pair: max(float(norm(x.reshape(shape))) for x in pair)
        return steps

    def tolerances(self, rtol: Any, atol: Any, problem: BatchProblem) -> tuple[Any, Any]:
        """Return those of the backward solve, whose state is (y, a); of the whole batch.

        Raises
        ------
        ValueError
            If one of its own is out of range or does not fit y0.
        """
        given = []
        for name, own, forward in (("rtol", self.rtol, rtol), ("atol", self.atol, atol)):
            value = forward if own is None else broadcast_tolerance(name, own, problem)
            if not isinstance(value, float):
                value = problem.backend.xp.concatenate([value, value], 1)
            given.append(value)
        return given[0], given[1]


def _between(grid: Floats) -> Callable[[float, float], Floats]:
    """Return the part of a grid between two times, from the first to the second."""

    def part(t0: float, t1: float) -> Floats:
        inside = np.sort(grid[(grid > min(t0, t1)) & (grid < max(t0, t1))])
        return np.array([t0, *(inside if t1 > t0 else inside[::-1]), t1])

    return part


def make_adjoint(
    adjoint: Any, problem: BatchProblem, *, events: Any, dense: bool, method: Any
) -> Checkpoints | Backsolve | None:
    """Return how gradients are made, checked.

    Raises
    ------
    ValueError
        If there is no such way, or not together with what else is asked for.
    """
    known = {"checkpoints": Checkpoints, "backsolve": Backsolve}
    if adjoint is None:
        return None
    kind: Any = known[adjoint]() if isinstance(adjoint, str) and adjoint in known else adjoint
    if not isinstance(kind, (Checkpoints, Backsolve)):
        msg = (
            f"adjoint must be 'checkpoints', 'backsolve', Checkpoints or Backsolve, not {adjoint!r}"
        )
        raise ValueError(msg)  # noqa: TRY004 - a name that is not known is a wrong value
    if not is_torch(problem.y0):
        msg = f"adjoint={adjoint!r} is for torch states: a NumPy solve has no gradients"
        raise ValueError(msg)
    if events or dense:
        msg = f"adjoint={adjoint!r} gives states at times: without events and dense=True"
        raise ValueError(msg)
    if isinstance(kind, Checkpoints) and kind.count is not None:
        check_positive("count", kind.count, whole=True)
    if isinstance(kind, Backsolve):
        backward = kind.method or method
        if not (isinstance(backward, ButcherTableau) and backward.explicit):
            name = getattr(backward, "name", backward)
            msg = f"backsolve integrates backward by an explicit tableau; {name!r} is none"
            raise ValueError(msg)
    return kind  # type: ignore[no-any-return]


class Tape:
    """The accepted steps of each sample, in its own order: what a replay needs.

    Each entry of `steps` is the samples that made a step together, the times of its two ends, and
    by which of two methods they went.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.steps: list[tuple[Any, Floats, Floats, Any]] = []

    def add(self, samples: Any, t: Floats, t_new: Floats, family: Any = 0) -> None:
        """Keep the steps that some samples made."""
        self.steps.append((samples, t, t_new, family))

    def table(self, t_0: Floats) -> tuple[Floats, Floats, Any]:
        """Return the times of both ends and the methods, shape (N, B), N steps at most.

        A sample that made fewer rests at its end.
        """
        count = np.zeros(self.size, int)
        places = []
        for samples, *_ in self.steps:
            places.append(count[samples])
            count[samples] += 1
        N = int(count.max(initial=0))
        t, t_new, end = np.tile(t_0, (N, 1)), np.tile(t_0, (N, 1)), t_0.copy()
        family = np.zeros((N, self.size), int)
        for place, (samples, t_m, t_n, family_m) in zip(places, self.steps, strict=True):
            t[place, samples], t_new[place, samples] = t_m, t_n
            end[samples], family[place, samples] = t_n, family_m
        rests = np.arange(N)[:, None] >= count
        return np.where(rests, end, t), np.where(rests, end, t_new), family


def replay(run: BatchRun, tape: Tape, problem: BatchProblem, checkpoints: int | None) -> Array:
    """Make the steps of a finished run again, differentiably and a piece at a time.

    Between the pieces only their first states are kept; in the backward pass each piece is made
    once more. With √N pieces of √N steps memory grows like √N, at the price of two more forward
    passes (Griewank and Walther, Algorithm 799: Revolve, ACM TOMS 26 (2000) 19-45,
    doi:10.1145/347837.347846, go further: log N for log N passes).

    Parameters
    ----------
    run : BatchRun
        A run made without autograd.
    tape : Tape
        Its steps.
    problem : BatchProblem
        The same problem, with y0 and arguments as autograd knows them.
    checkpoints : int or None
        Number of pieces; by default √N.

    Returns
    -------
    array, shape (n_t, B, *shape)
        The states at the run's output times.
    """
    from torch.utils.checkpoint import checkpoint

    backend = problem.backend
    T, T_new, family = tape.table(problem.t0)
    moves, N = T_new != T, len(T)
    out = Records(problem, run.t_eval)
    if not N or (run.t_eval is not None and not len(run.t_eval)):
        return out.arrays()[1]
    pieces = max(1, min(N, round(math.sqrt(N)) if checkpoints is None else checkpoints))
    cuts = np.linspace(0, N, pieces + 1).astype(int)
    every = np.arange(problem.size)
    lengths = T_new - T

    def at_work(a: int, b: int) -> tuple[Any, Any, BatchProblem]:
        """Return the samples that move, all of them where f does not take some alone."""
        rows = np.flatnonzero(moves[a:b].any(0)) if run.may_compact else every
        part = problem if len(rows) == problem.size else problem.take(rows)
        return rows, backend.index(rows, problem.y0), part

    def piece(y: Array, f_0: Array, a: int, b: int, due: list[Any]) -> tuple[Array, ...]:
        rows, here, part = at_work(a, b)
        stages = run.make_stages(part, rows, record=backend.grad_enabled())
        stages.fixed = True
        stages.start(f_0[here])
        z = y[here]
        values = []
        for m in range(a, b):
            t, end = T[m, rows], T_new[m, rows]
            stages.go_by(family[m, rows], apart=bool(run.may_compact))
            z_new = stages.attempt(t, lengths[m, rows], z)
            _check_made(stages.failed, t, rows)
            at, times, inside = due[m - a]
            if len(at):
                at = np.searchsorted(rows, at)
                if inside:
                    values.append(stages.segment(t, end, z, z_new).rows(at, times))
                else:
                    values.append(z_new[backend.index(at, z_new)])
            stages.advance(None, end, z_new)
            z = z_new
        return y.index_copy(0, here, z), f_0.index_copy(0, here, stages.f_0), *values

    y = problem.y0
    rows, here, part = at_work(0, N)
    f_0 = part(part.time(problem.t0[rows]), y[here])
    f_0 = backend.full(tuple(y.shape), 0.0, y).index_copy(0, here, f_0)
    places = []
    values: list[Array] = []
    for a, b in pairwise(cuts.tolist()):
        due = []
        for m in range(a, b):
            inside = out.inside(every, moves[m], T_new[m]).any()
            at, samples, place, times = out.due(every, moves[m], T_new[m])
            due.append((at, times, inside))
            if len(at):
                places.append((place, samples))
        y, f_0, *found = checkpoint(piece, y, f_0, a, b, due, use_reentrant=False)
        values += found
    for (place, samples), value in zip(places, values, strict=True):
        out.pieces.append((place, samples, np.zeros(len(place)), value))
    return out.arrays()[1]


def _check_made(failed: Any, t: Floats, rows: Any) -> None:
    """Tell of a step that succeeded without autograd, and does not succeed again."""
    if failed is not None and failed.any():
        i = int(np.flatnonzero(failed)[0])
        msg = (
            f"sample {int(rows[i])} cannot make its step from t = {float(t[i])!r} again: take "
            "adjoint=None, or a method without iterations"
        )
        raise RuntimeError(msg)


def leaves_of(value: Array) -> list[Array]:
    """Return the leaf tensors that a tensor's history leads back to."""
    found: dict[int, Array] = {}
    seen, todo = set(), [value.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
        todo += [parent for parent, _ in node.next_functions]
    return list(found.values())


def _tracked(a: Any) -> bool:
    return is_torch(a) and bool(a.requires_grad)


def _slope(problem: BatchProblem, t: Array, y: Array, args: tuple[Any, ...]) -> Array:
    """Return f of states of shape (b, n), with other arguments than the problem's own."""
    value = problem.f(t, y.reshape((len(y), *problem.shape)), *args)
    return value.reshape(y.shape)


def backsolve(
    forward: Callable[[BatchProblem, Any, Any], BatchSolution],
    backward: Callable[[BatchProblem, Any, Any], BatchSolution],
    problem: BatchProblem,
    times: Floats,
    parameters: tuple[Array, ...] | None,
    rtol: Any,
) -> BatchSolution:
    """Solve without autograd, and let the gradient come from the adjoint equation, backward.

    With a = ∂L/∂y, a' = −(∂f/∂y)ᵀ a, and ∂L/∂θ = ∫ (∂f/∂θ)ᵀ a dt over the span; y is integrated
    backward with a, since it is not kept. The integral is taken by the method's own weights, and
    has no part in the control of the steps.

    Parameters
    ----------
    forward, backward : callable
        Solve a problem, with output at some times and ``on_step`` called at each step.
    problem : BatchProblem
        The problem.
    times : array, shape (n_t, B) or (n_t, 1)
        Output times.
    parameters : tuple of tensor or None
        What f depends on beside y and `args`; by default the leaves of f(t0, y0).
    rtol : float or array
        Relative tolerance of the forward solve.

    Warns
    -----
    StiffBackwardWarning
        If the solution of a sample was damped by more than 1/rtol on the way.
    """
    import torch

    if parameters is None:
        free = problem.y0.detach()
        args = tuple(a.detach() if is_torch(a) else a for a in problem.args)
        with torch.enable_grad():
            parameters = tuple(leaves_of(_slope(problem, problem.time(problem.t0), free, args)))
    own = [a for a in problem.args if _tracked(a)]
    kept: list[BatchSolution] = []

    class AdjointEquation(torch.autograd.Function):
        """The states at the output times; backward by the adjoint equation."""

        @staticmethod
        def forward(ctx: Any, *inputs: Array) -> Array:
            damping = np.zeros(problem.size)

            def add(index: Any, accept: Any, stages: Any, *step: Any) -> None:
                t, t_new, y, y_new = step
                damping[index] += np.where(accept, stages.damping(t_new - t, y, y_new), 0.0)

            with torch.no_grad():
                kept.append(forward(problem, times, add))
            _warn_of_damping(damping, rtol)
            ctx.save_for_backward(kept[0].y, *inputs)
            return kept[0].y

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, grad: Array) -> Any:
            y_out, _, *rest = ctx.saved_tensors
            return tuple(_adjoint(backward, problem, times, y_out, grad, rest, len(own)))

    y = AdjointEquation.apply(problem.y0, *own, *parameters)  # type: ignore[no-untyped-call]
    return replace(kept[0], y=y)


def _warn_of_damping(damping: Floats, rtol: Any) -> None:
    """Warn where e^(−∫λ dt), by which deviations have shrunk, is beyond what rtol resolves."""
    least = rtol if isinstance(rtol, float) else float(rtol.min())
    worst = int(np.argmax(damping))
    if damping[worst] > -math.log(least):
        shrunk = f"1e-{damping[worst] / math.log(10):.0f}"
        msg = (
            f"backsolve: deviations of sample {worst} have shrunk by about {shrunk}, beyond what "
            f"rtol = {least:.0e} keeps of them; the gradient may be wrong, or the backward solve "
            "fail: take adjoint='checkpoints'"
        )
        warnings.warn(msg, StiffBackwardWarning, stacklevel=2)


def _adjoint(
    backward: Callable[[BatchProblem, Any, Any], BatchSolution],
    problem: BatchProblem,
    times: Floats,
    y_out: Array,
    grad: Array,
    parameters: list[Array],
    n_own: int,
) -> list[Array]:
    """Integrate (y, a) from each output time back to the one before; collect ∂L/∂θ on the way."""
    import torch

    B, n = problem.y0.shape
    sums = [torch.zeros_like(p) for p in parameters]
    mine = [_tracked(a) for a in problem.args]

    def pair(t: Array, state: Array, *args: Any) -> Array:
        with torch.enable_grad():
            y = state[:, 0].detach().requires_grad_()
            f = _slope(problem, t, y, args)
            product = None
            if f.requires_grad:
                (product,) = torch.autograd.grad(f, y, state[:, 1], allow_unused=True)
        product = torch.zeros_like(y) if product is None else product
        return torch.stack([f.detach(), -product], 1)

    def on_step(index: Any, _: Any, stages: Any, t: Floats, t_new: Floats, *states: Array) -> None:
        for time, z, weight in stages.quadrature(t, t_new - t, states[0]):
            add(index, time, z.reshape((-1, 2, n)), weight, stages.problem.args)

    def add(rows: Any, t: Array, z: Array, weight: Array, args: tuple[Any, ...]) -> None:
        with torch.enable_grad():
            given = tuple(
                a.detach().requires_grad_() if m else a for a, m in zip(args, mine, strict=True)
            )
            wrt = [*(a for a, m in zip(given, mine, strict=True) if m), *parameters[n_own:]]
            f = _slope(problem, t, z[:, 0], given)
            if not (f.requires_grad and len(wrt)):
                return
            # What f's parameters were made of outside of f is walked through at each stage.
            found: Any = torch.autograd.grad(
                f, wrt, -weight * z[:, 1], allow_unused=True, retain_graph=True
            )
        for total, g in zip(sums, found, strict=True):
            if g is None:
                continue
            if g.shape == total.shape:
                total += g
            else:  # rows of an argument that belongs to samples
                total[torch.from_numpy(rows).to(g.device)] += g

    a, t_0 = torch.zeros_like(problem.y0), problem.t0
    args = tuple(a.detach() if is_torch(a) else a for a in problem.args)
    table = np.concatenate([t_0[None], np.broadcast_to(times, (len(times), B))])
    for j in range(len(times), 0, -1):
        a = a + grad[j - 1].reshape((B, n))
        start, end = table[j].copy(), table[j - 1].copy()
        if (start == end).all():
            continue
        state = torch.stack([y_out[j - 1].reshape((B, n)), a], 1)
        with torch.no_grad():
            done = backward(BatchProblem(pair, start, end, state, args), end[None], on_step)
        if not done.success:
            bad = next(i for i, good in enumerate(done.succeeded) if not good)
            msg = (
                f"the adjoint equation of sample {bad} could not be solved backward from "
                f"t = {start[bad]!r}: {done.message[bad]}"
            )
            raise RuntimeError(msg)
        a = done.y[-1][:, 1]
    return [a, *sums]
