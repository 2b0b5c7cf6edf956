"""Members of an ensemble that are solved together: by one call, where their loop is compiled."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import compress, repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._optional import is_jitted
from ..problem import span
from ..solution import Solution
from ..solve import make_run, solve, start_method
from .arguments import as_arguments, further, replaces, solve_arguments

if TYPE_CHECKING:
    from ..compiled import CompiledRun

__all__ = ["solve_together"]

OWN = ("y0", "args", "t_span")
"""Arguments that members may differ in."""


def solve_together(problem: Any, entries: Sequence[Any]) -> tuple[int, Iterator[Solution | None]]:
    """Solve those members that one call can.

    Parameters
    ----------
    problem : mapping or dataclass
        Arguments of `solve`.
    entries : sequence
        What each member adds to them.

    Returns
    -------
    int
        How many members are solved.
    iterator of Solution or None
        One for each entry, made when it is asked for: a thousand that live at a time would cost the
        garbage collector more than they cost to make. None for a member that is to be solved alone:
        its loop is not compiled, it shares too little with the first one, it needs Python on its
        way, or it fails, and is not told here why.
    """
    none = 0, repeat(None, len(entries))
    if len(entries) < 2:
        return none
    try:
        first = solve_arguments(problem, entries[0])
        run = _run(first)
    except Exception:  # as above: whatever it is, it is told where the member is solved alone
        return none
    if run is None:
        return none
    from ..compiled.many import columns, solve_many

    given = as_arguments(problem)
    assert given is not None
    if any(map(replaces, set(map(type, entries)))):
        fitting, starts, spans, args = _own(given, entries, first, run)
    else:
        fitting = list(range(len(entries)))
        starts, spans = [run.problem.y0] * len(entries), [(run.problem.t0, run.problem.t1)]
        spans *= len(entries)
        args = [(*given.get("args", ()), *further(entry)) for entry in entries]
    if len(fitting) < 2 or (values := columns(args)) is None:
        return none
    y_0 = np.array(starts).reshape(len(starts), run.problem.y0.size)
    try:
        count, made = solve_many(run, y_0, np.array(spans), values)
    except Exception:  # of the first one's start
        return none
    together = set(fitting)
    return count, (next(made) if i in together else None for i in range(len(entries)))


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
) -> tuple[list[int], list[Any], list[Any], list[Any]]:
    """Return which members are of the first one's kind, and y0, time span and args of each."""
    plain = {"y0": given.get("y0"), "t_span": given.get("t_span"), "args": given.get("args", ())}
    others = {name for name in as_arguments(entries[0]) or () if name not in OWN}
    found: list[tuple[int, Any, Any, Any]] = []
    for i, entry in enumerate(entries):
        own = as_arguments(entry)
        if own is None:
            own = {"args": (*plain["args"], *further(entry))}
        alike = all(first.get(k, run) is v for k, v in own.items() if k not in OWN)
        y0, t_span, args = (own.get(name, value) for name, value in plain.items())
        if alike and others <= own.keys():
            state = _state(y0, t_span, first, run)
            if state is not None:
                found.append((i, *state, args))
    finite: Any = np.isfinite([y0 for _, y0, _, _ in found]).reshape(
        len(found), run.problem.y0.size
    )
    found = list(compress(found, finite.all(axis=1)))
    fitting, starts, spans, arguments = ([row[k] for row in found] for k in range(4))
    return fitting, starts, spans, arguments


def _state(
    y0: Any, t_span: Any, first: Mapping[str, Any], run: CompiledRun
) -> tuple[Any, tuple[float, float]] | None:
    """Return y0 and the time span of a member as a solve has them, if they are like the first's."""
    p = run.problem
    if type(y0) not in _ARRAYS:
        return None
    try:
        t0, t1 = (p.t0, p.t1) if t_span is first["t_span"] else span(t_span)
        y0 = p.backend.state(y0)
    except ValueError:
        return None
    good = (
        y0.dtype == p.y0.dtype
        and y0.shape == p.shape
        and (run.t_eval is None or (t0, t1) == (p.t0, p.t1))
        and (run.steps.first is None or run.steps.first <= abs(t1 - t0))
    )
    return (y0, (t0, t1)) if good else None
