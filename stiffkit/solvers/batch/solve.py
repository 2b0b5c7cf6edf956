"""`solve(..., batched=True)`: checks its arguments, and runs the batched loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from ..options import StepOptions, event_functions
from ..rosenbrock import RosenbrockTableau
from ..solution import BatchSolution
from ..stabilised import StabilisedMethod
from .events import BatchEvents
from .linear import BatchAlgebra
from .loop import BatchProgress, BatchRun
from .problem import (
    BatchProblem,
    broadcast_tolerance,
    check_batch_times,
    make_batch_problem,
)
from .stages import BatchStages, ExplicitBatch, StabilisedBatch
from .stiff import DirkBatch, RosenbrockBatch

__all__ = ["solve_batch"]


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
    callback: Callable[..., Any] | None = None,
    progress: bool = False,
    log: bool = False,
    radius: Any = None,
    jac: Any = None,
    args: Sequence[Any] = (),
) -> BatchSolution:
    """Solve many problems of one shape; arguments as for `stiffkit.solve`.

    Returns
    -------
    BatchSolution

    Raises
    ------
    TypeError, ValueError
        If an argument is unusable; before the first step.
    """
    functions = event_functions(events, ())
    problem = make_batch_problem(f, t_span, y0, args)
    times = None if t_eval is None else check_batch_times(t_eval, problem)
    interpolates = dense or bool(functions) or times is not None

    def make_stages(p: BatchProblem, *, record: bool) -> BatchStages:
        if isinstance(method, StabilisedMethod):
            return StabilisedBatch(p, method, radius)
        if isinstance(method, RosenbrockTableau) or not method.explicit:
            linear = BatchAlgebra(p, jac, record=record)
            if isinstance(method, RosenbrockTableau):
                return RosenbrockBatch(p, method, linear)
            return DirkBatch(p, method, linear, run.rtol, run.atol)
        return ExplicitBatch(p, method, dense=interpolates, record=record)

    run = BatchRun(
        problem,
        make_stages,
        broadcast_tolerance("rtol", rtol, problem),
        broadcast_tolerance("atol", atol, problem),
        steps,
        events=BatchEvents(functions, problem) if functions else None,
        t_eval=times,
        dense=dense,
        log=log,
        callback=callback,
    )
    try:
        with problem.backend.quiet(), BatchProgress(problem, enabled=progress) as bar:
            run.integrate(bar)
    except BaseException as error:
        run.interrupt(error)
        with contextlib.suppress(AttributeError):  # an exception may have no __dict__
            error.solution = run.solution()  # type: ignore[attr-defined]
            error.add_note("stiffkit: solved up to the times in .solution")
        raise
    return run.solution()
