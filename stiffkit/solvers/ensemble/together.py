"""Members of an ensemble that are solved together: by one call, where their loop is compiled."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import repeat
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

    p, given = run.problem, as_arguments(problem)
    assert given is not None
    if any(map(replaces, set(map(type, entries)))):
        members = [solve_arguments(given, entry) for entry in entries]
        states = {i: state for i, m in enumerate(members) if (state := _state(m, first, run))}
        if len(states) < 2:
            return none
        fitting: Collection[int] = states
        args = [members[i].get("args", ()) for i in fitting]
        y_0, spans = (np.array(column) for column in zip(*states.values(), strict=True))
        y_0 = y_0.reshape(len(y_0), -1)
    else:
        fitting = range(len(entries))
        args = [(*given.get("args", ()), *further(entry)) for entry in entries]
        y_0, spans = (np.tile(x, (len(entries), 1)) for x in (p.y0, (p.t0, p.t1)))
    values = columns(args)
    if values is None:
        return none
    try:
        count, made = solve_many(run, y_0, spans, values)
    except Exception:  # of the first one's start
        return none
    return count, (next(made) if i in fitting else None for i in range(len(entries)))


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
