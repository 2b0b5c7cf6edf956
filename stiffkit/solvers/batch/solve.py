"""`solve(..., batched=True)`: checks its arguments, and runs the batched loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..._array import backend_of, quiet_arithmetic
from ..options import Hooks, StepOptions, event_functions
from ..solution import BatchSolution, Solution
from .adjoint import Backsolve, Checkpoints, Tape, backsolve, make_adjoint, replay
from .auto import Pair, make_pair
from .events import BatchEvents
from .loop import BatchRun
from .make import make_stages
from .observe import Observers, batch_step
from .problem import (
    BatchProblem,
    broadcast_tolerance,
    check_batch_times,
    make_batch_problem,
)
from .rows import BatchProgress
from .single import lifted
from .watch import Watch, is_watched

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
    auto: bool = False,
    detect: bool = False,
    compiled: bool = False,
    args: Sequence[Any] = (),
) -> BatchSolution:
    """Solve many problems of one shape; arguments as for `stiffkit.solve`.

    `on_step` is that of `BatchRun`. With `auto` the method is chosen, for each row and again on
    the way; `compiled` is `compile` there.

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
    if auto:
        method = make_pair(problem, rtol)
    explicit = method.explicit if isinstance(method, Pair) else method
    watch = None
    if detect and steps.table(problem.t0, problem.t1) is None and is_watched(method):
        pair = make_pair(problem, rtol)
        watch = Watch(problem, method, auto=isinstance(pair, Pair), rtol=rtol)
    kind = make_adjoint(adjoint, problem, events=functions, dense=dense, method=explicit)

    def start(
        p: BatchProblem, at: Any, with_method: Any, tols: Any, by: StepOptions = steps, **more: Any
    ) -> BatchRun:
        # What is to be made again, with its derivatives, is made in the same way already now.
        again = isinstance(kind, Checkpoints)
        interpolates = dense or bool(functions) or at is not None
        make = partial(
            make_stages,
            with_method,
            dense=interpolates,
            tolerances=tols,
            radius=radius,
            jac=jac,
            correct=again,
            compiled=compiled,
        )
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
            told |= {"on_step": both, "observers": observers, "watch": watch}
            return _finish(start(p, at, method, (rtol, atol), **told), progress)

        tols = kind.tolerances(rtol, atol, problem)

        def backward(p: BatchProblem, at: Any, on_step: Any) -> BatchSolution:
            by = kind.backward_steps(steps, p.shape[1:])
            told: dict[str, Any] = {"on_step": on_step, "on_attempt": kind.on_attempt}
            return _finish(start(p, at, kind.method or explicit, tols, by, **told), False)

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
        watch=watch,
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


def solve_one(
    f: Any, t_span: Any, y0: Any, method: Any, steps: StepOptions, **given: Any
) -> Solution:
    """Solve one problem as a batch of one: what only the batched loop can do with tensors.

    That is implicit methods, and gradients by checkpoints or the adjoint equation.
    """
    for name in ("events", "jac", "radius"):
        value = given.get(name)
        if name == "events" and value is not None:
            given[name] = [lifted(g, name) for g in event_functions(value, ())]
        elif callable(value):
            given[name] = lifted(value, name)
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
        many = solve_batch(lifted(f, "f"), t_span, y0[None], method, steps, **given)
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
