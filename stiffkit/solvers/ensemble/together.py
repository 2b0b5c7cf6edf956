"""Members of an ensemble that are solved together: by one call, where their loop is compiled."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._optional import is_jitted
from ..problem import span
from ..solve import make_run, solve, start_method
from .arguments import as_arguments, further, replaces, solve_arguments

if TYPE_CHECKING:
    from ..columns import SolutionColumns
    from ..compiled import CompiledRun

__all__ = ["solve_together"]

OWN = {"y0", "args", "t_span"}
"""Arguments that members may differ in."""


def solve_together(
    problem: Any, entries: Sequence[Any]
) -> tuple[list[int], SolutionColumns] | None:
    """Solve those members that one call can.

    Parameters
    ----------
    problem : mapping or dataclass
        Arguments of `solve`.
    entries : sequence
        What each member adds to them.

    Returns
    -------
    (list of int, SolutionColumns), optional
        Which members are solved, and their solutions. Others, which may be all, are to be solved
        alone: their loop is not compiled, they share too little with the first one, they need
        Python on their way, or they fail, and are not told here why.
    """
    if len(entries) < 2:
        return None
    try:
        first = solve_arguments(problem, entries[0])
        run = _run(first)
    except Exception:  # as above: whatever it is, it is told where the member is solved alone
        return None
    if run is None:
        return None
    from ..compiled.many import columns, solve_many

    given = as_arguments(problem)
    assert given is not None
    y_0: Any
    spans: Any
    p, n = run.problem, len(entries)
    if any(map(replaces, set(map(type, entries)))):
        fitting, y_0, spans, args = _own(given, entries, first, run)
    else:
        fitting, y_0, spans = [*range(n)], np.tile(p.y0, (n, 1)), np.tile([p.t0, p.t1], (n, 1))
        args = [(*given.get("args", ()), *further(entry)) for entry in entries]
    if len(fitting) < 2 or (values := columns(args)) is None:
        return None
    try:
        found = solve_many(run, y_0, spans, values)
    except Exception:  # of the first one's start
        return None
    if found is None:
        return None
    done, solutions = found
    return [fitting[i] for i in done.tolist()], solutions


def _run(arguments: Mapping[str, Any]) -> CompiledRun | None:
    """Return a member's solve before its start; None where it has no loop to compile."""
    if not is_jitted(arguments.get("f")):
        return None
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


def _own(
    given: Mapping[str, Any], entries: Sequence[Any], first: Mapping[str, Any], run: CompiledRun
) -> tuple[list[int], Any, Any, list[Any]]:
    """Return which members are of the first one's kind, and y0, time span and args of each."""
    y0, t_span, args = given.get("y0"), given.get("t_span"), given.get("args", ())
    others = (as_arguments(entries[0]) or {}).keys() - OWN
    found: list[tuple[int, Any, Any, Any]] = []
    for i, entry in enumerate(entries):
        own = as_arguments(entry)
        if own is None:
            own = {"args": (*args, *further(entry))}
        foreign = own.keys() - OWN
        if foreign >= others and all(first.get(k, run) is own[k] for k in foreign):
            state = _state(own.get("y0", y0), own.get("t_span", t_span), first, run)
            if state is not None:
                found.append((i, *state, own.get("args", args)))
    y_0: Any = np.array([y for _, y, _, _ in found]).reshape(len(found), run.problem.y0.size)
    finite: Any = np.isfinite(y_0).all(axis=1)
    found = [*compress(found, finite)]
    spans = np.array([t_span for _, _, t_span, _ in found])
    return [i for i, *_ in found], y_0[finite], spans, [args for *_, args in found]


def _state(
    y0: Any, t_span: Any, first: Mapping[str, Any], run: CompiledRun
) -> tuple[Any, tuple[float, float]] | None:
    """Return y0 and the time span of a member as a solve has them, if they are like the first's."""
    p = run.problem
    if type(y0) not in _ARRAYS:
        return None
    try:
        t0, t1 = (p.t0, p.t1) if t_span is first["t_span"] else span(t_span)
        y0 = p.y0.reshape(p.shape) if y0 is first["y0"] else p.backend.state(y0)
    except ValueError:
        return None
    good = (
        y0.dtype == p.y0.dtype
        and y0.shape == p.shape
        and (run.t_eval is None or (t0, t1) == (p.t0, p.t1))
        and (run.steps.first is None or run.steps.first <= abs(t1 - t0))
    )
    return (y0, (t0, t1)) if good else None
