"""`solve(..., batched=True)`: checks its arguments, and runs the batched loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..._array import backend_of, quiet_arithmetic, to_numpy
from ..options import Hooks, StepOptions, event_functions
from ..rosenbrock import RosenbrockTableau
from ..solution import BatchSolution, Solution
from ..stabilised import StabilisedMethod
from .adjoint import Backsolve, Checkpoints, Tape, backsolve, make_adjoint, replay
from .events import BatchEvents
from .linear import BatchAlgebra
from .loop import BatchRun
from .observe import Observers, batch_step
from .problem import (
    BatchProblem,
    broadcast_tolerance,
    check_batch_times,
    make_batch_problem,
)
from .radau import RadauBatch
from .rows import BatchProgress
from .stages import BatchStages, ExplicitBatch, StabilisedBatch
from .stiff import DirkBatch, RosenbrockBatch

__all__ = ["solve_batch", "solve_one"]


def solve_batch(
    f: Callable[..., Any],
    t_span: Any,
    y0: Any,
    method: Any,
    steps: StepOptions,
    *,
    rtol: Any,
    atol: Any,
    t_eval: Any = None,
    dense: bool = False,
    events: Any = None,
    observe: Any = (),
    callback: Callable[..., Any] | None = None,
    on_attempt: Callable[..., Any] | None = None,
    on_step: Callable[..., Any] | None = None,
    progress: bool = False,
    log: bool = False,
    radius: Any = None,
    jac: Any = None,
    adjoint: Any = None,
    args: Sequence[Any] = (),
) -> BatchSolution:
    """Solve many problems of one shape; arguments as for `stiffkit.solve`.

    `on_step` is that of `BatchRun`.

    Returns
    -------
    BatchSolution

    Raises
    ------
    TypeError, ValueError
        If an argument is unusable; before the first step.
    """
    hooks = Hooks(None, observe, callback, on_attempt, log=log)
    functions = event_functions(events, ())
    problem = make_batch_problem(f, t_span, y0, args)
    observers = Observers(hooks, problem) if hooks.observers else None
    rtol = broadcast_tolerance("rtol", rtol, problem)
    atol = broadcast_tolerance("atol", atol, problem)
    times = None if t_eval is None else check_batch_times(t_eval, problem)
    kind = make_adjoint(adjoint, problem, events=functions, dense=dense, method=method)

    def start(
        p: BatchProblem, at: Any, with_method: Any, tols: Any, by: StepOptions = steps, **more: Any
    ) -> BatchRun:
        # What is to be made again, with its derivatives, is made in the same way already now.
        again = isinstance(kind, Checkpoints)
        interpolates = dense or bool(functions) or at is not None
        make = partial(_make_stages, with_method, interpolates, tols, radius, jac, again)
        return BatchRun(p, make, tols[0], tols[1], by, t_eval=at, **more)

    if isinstance(kind, Backsolve) and kind.applies(problem):
        if times is None:
            times = np.stack([problem.t0, problem.t1])

        def forward(p: BatchProblem, at: Any, notice: Any) -> BatchSolution:
            def both(*step: Any) -> None:
                notice(*step)
                if on_step is not None:
                    on_step(*step)

            told: dict[str, Any] = {"log": log, "callback": callback, "on_attempt": on_attempt}
            told |= {"on_step": both, "observers": observers}
            return _finish(start(p, at, method, (rtol, atol), **told), progress)

        tols = kind.tolerances(rtol, atol, problem)

        def backward(p: BatchProblem, at: Any, on_step: Any) -> BatchSolution:
            by = kind.backward_steps(steps, p.shape[1:])
            told: dict[str, Any] = {"on_step": on_step, "on_attempt": kind.on_attempt}
            return _finish(start(p, at, kind.method or method, tols, by, **told), False)

        return backsolve(forward, backward, problem, times, kind.parameters, rtol)
    tape = Tape(problem.size) if isinstance(kind, Checkpoints) else None
    run = start(
        problem,
        times,
        method,
        (rtol, atol),
        events=BatchEvents(functions, problem) if functions else None,
        dense=dense,
        log=log,
        observers=observers,
        callback=callback,
        on_attempt=on_attempt,
        on_step=on_step,
        tape=tape,
    )
    if tape is None:
        return _finish(run, progress)
    with problem.backend.no_grad():
        solution = _finish(run, progress)
    count = kind.count if isinstance(kind, Checkpoints) else None
    return replace(solution, y=replay(run, tape, problem, count))


def _finish(run: BatchRun, progress: bool) -> BatchSolution:
    """Run to the end; an exception takes the partial solution along."""
    try:
        with quiet_arithmetic(), BatchProgress(run.whole, enabled=progress) as bar:
            run.integrate(bar)
    except BaseException as error:
        run.interrupt(error)
        with contextlib.suppress(AttributeError):  # an exception may have no __dict__
            error.solution = run.solution()  # type: ignore[attr-defined]
            error.add_note("stiffkit: solved up to the times in .solution")
        raise
    return run.solution()


def _make_stages(
    method: Any,
    dense: bool,
    tolerances: tuple[Any, Any],
    radius: Any,
    jac: Any,
    correct: bool,
    problem: BatchProblem,
    rows: Any = slice(None),
    *,
    record: bool,
) -> BatchStages:
    """Return the stages of a problem which has these rows of the whole batch."""
    if isinstance(method, StabilisedMethod):
        return StabilisedBatch(problem, method, radius)
    if not isinstance(method, RosenbrockTableau) and method.explicit:
        return ExplicitBatch(problem, method, dense=dense, record=record)
    linear = BatchAlgebra(problem, jac, record=record, reverse=not correct)
    if isinstance(method, RosenbrockTableau):
        return RosenbrockBatch(problem, method, linear)
    own = [tol if isinstance(tol, float) else tol[rows] for tol in tolerances]
    kind = RadauBatch if method.A[0].any() else DirkBatch
    return kind(problem, method, linear, *own, correct=record or correct)


def solve_one(
    f: Any, t_span: Any, y0: Any, method: Any, steps: StepOptions, **given: Any
) -> Solution:
    """Solve one problem as a batch of one: what only the batched loop can do with tensors.

    That is implicit methods, and gradients by checkpoints or the adjoint equation.
    """
    for name in ("events", "jac", "radius"):
        value = given.get(name)
        if name == "events" and value is not None:
            given[name] = [_lifted(g, name) for g in event_functions(value, ())]
        elif callable(value):
            given[name] = _lifted(value, name)
    y0 = backend_of(y0).state(y0)
    for name in ("rtol", "atol"):
        if getattr(given[name], "ndim", 0):
            given[name] = given[name][None]
    given["args"] = tuple(given.get("args", ()))
    observers = Hooks(None, given["observe"], None, log=False).observers
    given["observe"] = [_of_one(name, hook) for name, hook in observers.items()]
    callback = given.get("callback")
    if callback is not None:
        last: list[Any] = []
        given["on_step"] = lambda *step: last.append(batch_step(1, y0.shape, *step).row(0))
        given["callback"] = lambda *_: callback(last.pop())
    on_attempt = given.get("on_attempt")
    if on_attempt is not None:
        given["on_attempt"] = lambda t, y, h, accepted: on_attempt(
            float(t[0]), y[0], float(h[0]), None if accepted is None else bool(accepted[0])
        )
    try:
        many = solve_batch(_lifted(f, "f"), t_span, y0[None], method, steps, **given)
    except BaseException as error:
        if hasattr(error, "solution"):
            error.solution = error.solution[0]
        raise
    return many[0]


def _of_one(name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return an observer of one problem as one that never sees a batch."""

    def observer(step: Any, probe: Any) -> Any:
        return hook(step, probe)

    observer.__name__ = name
    return observer


def _lifted(g: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a function of one state as one of a batch of one."""

    def on_batch(t: Any, y: Any, *args: Any) -> Any:
        value = g(t[0], y[0], *args)
        if name == "radius":
            return to_numpy(value).reshape((1,))
        if not hasattr(value, "shape"):
            msg = f"{name} returned {type(value).__name__} for a torch y0; it must be a tensor"
            raise ValueError(msg)
        return value[None]

    for attribute in ("terminal", "direction"):
        setattr(on_batch, attribute, getattr(g, attribute, None))
    return on_batch
