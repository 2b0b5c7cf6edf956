"""Members of an ensemble that are solved together: by one call, where their loop is compiled."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._optional import is_jitted
from ..problem import span
from ..solution import Solution
from ..solve import make_run, solve, start_method

if TYPE_CHECKING:
    from ..compiled import CompiledRun

__all__ = ["solve_together"]

OWN = ("y0", "args", "t_span")
"""Arguments that members may differ in."""


def solve_together(members: Sequence[Mapping[str, Any]]) -> list[Solution | None]:
    """Solve those members that one call can.

    Parameters
    ----------
    members : sequence of mapping
        Arguments of `solve` of each.

    Returns
    -------
    list of Solution or None
        None for a member that is to be solved alone: its loop is not compiled, it shares too little
        with the first one, it needs Python on its way, or it fails, and is not told here why.
    """
    solutions: list[Solution | None] = [None] * len(members)
    if len(members) < 2 or not is_jitted(members[0].get("f")):
        return solutions
    try:
        run = _run(members[0])
    except Exception:  # as above: whatever it is, it is told where the member is solved alone
        return solutions
    if run is None:
        return solutions
    from ..compiled.many import columns, solve_many

    fitting = {i: state for i, m in enumerate(members) if (state := _state(m, members[0], run))}
    values = columns([members[i].get("args", ()) for i in fitting])
    if values is None or len(fitting) < 2:
        return solutions
    y_0, spans = (np.array(column) for column in zip(*fitting.values(), strict=True))
    try:
        made = solve_many(run, y_0.reshape(len(y_0), -1), spans, values)
    except Exception:  # of the first one's start
        return solutions
    for i, solution in zip(fitting, made, strict=True):
        solutions[i] = solution
    return solutions


def _run(arguments: Mapping[str, Any]) -> CompiledRun | None:
    """Return a member's solve before its start; None where it has no loop to compile."""
    bound = _signature().bind(**arguments)
    bound.apply_defaults()
    given = bound.arguments
    if given["batched"] or given["adjoint"] is not None or type(given["y0"]) not in _ARRAYS:
        return None
    from ..compiled.again import REACHABLE

    if np.min(given["rtol"]) < REACHABLE:
        return None
    run: Any = make_run(given, *start_method(given))
    return run if run.compiled else None


_ARRAYS = (np.ndarray, list)


@cache
def _signature() -> inspect.Signature:
    return inspect.signature(solve)


def _state(
    member: Mapping[str, Any], first: Mapping[str, Any], run: CompiledRun
) -> tuple[Any, tuple[float, float]] | None:
    """Return y0 and the time span of a member, if it is of the first one's kind; else None."""
    p, t_span = run.problem, member["t_span"]
    alike = len(member) == len(first) and all(
        first.get(name, run) is value for name, value in member.items() if name not in OWN
    )
    if not alike or type(member["y0"]) not in _ARRAYS:
        return None
    if t_span is first["t_span"] and member["y0"] is first["y0"]:
        return p.y0.reshape(p.shape), (p.t0, p.t1)
    try:
        t0, t1 = (p.t0, p.t1) if t_span is first["t_span"] else span(t_span)
        y0 = p.backend.state(member["y0"])
    except ValueError:
        return None
    good = (
        y0.dtype == p.y0.dtype
        and y0.shape == p.shape
        and bool(np.isfinite(y0).all())
        and (run.t_eval is None or (t0, t1) == (p.t0, p.t1))
        and (run.steps.first is None or run.steps.first <= abs(t1 - t0))
    )
    return (y0, (t0, t1)) if good else None
