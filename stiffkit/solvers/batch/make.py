"""The stages of a batch by a method."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..rosenbrock import RosenbrockTableau
from ..stabilised import StabilisedMethod
from .auto import Pair
from .linear import BatchAlgebra
from .problem import BatchProblem
from .radau import RadauBatch
from .stages import BatchStages, ExplicitBatch, StabilisedBatch
from .stiff import DirkBatch, LinearStages, RosenbrockBatch
from .switching import SwitchingBatch

__all__ = ["linear_stages", "make_stages"]


def make_stages(
    method: Any,
    problem: BatchProblem,
    rows: Any = slice(None),
    *,
    dense: bool,
    tolerances: tuple[Any, Any],
    radius: Any,
    jac: Any,
    correct: bool,
    record: bool,
    compiled: bool = False,
) -> BatchStages:
    """Return the stages of a problem which has these rows of the whole batch."""
    if isinstance(method, Pair):
        make = partial(
            make_stages,
            dense=dense,
            tolerances=tolerances,
            radius=radius,
            jac=jac,
            correct=correct,
        )
        asked = {"record": record, "correct": correct}
        return SwitchingBatch(problem, method, make, tolerances, rows, jac, **asked)
    if isinstance(method, StabilisedMethod):
        return StabilisedBatch(problem, method, radius)
    if not isinstance(method, RosenbrockTableau) and method.explicit:
        return ExplicitBatch(problem, method, dense=dense, record=record, compiled=compiled)
    own = [tol if isinstance(tol, float) else tol[rows] for tol in tolerances]
    return linear_stages(problem, method, jac, *own, correct=correct, record=record)


def linear_stages(
    problem: BatchProblem,
    method: Any,
    jac: Any,
    rtol: Any,
    atol: Any,
    *,
    correct: bool = False,
    record: bool,
) -> LinearStages:
    """Return the stages of an implicit or Rosenbrock method."""
    linear = BatchAlgebra(problem, jac, record=record, reverse=not correct)
    if isinstance(method, RosenbrockTableau):
        return RosenbrockBatch(problem, method, linear)
    kind = RadauBatch if method.A[0].any() else DirkBatch
    return kind(problem, method, linear, rtol, atol, correct=record or correct)
