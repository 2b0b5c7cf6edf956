"""Many solves of one problem by one call, without Python's lock and without Python between them.

They differ in y0, in the time span and in the values of f's further arguments. Each begins with the
memory that the first one has at its start, and the kernel of single solves takes its steps: its
numbers are the same bits. Python is asked on the way for no more than a few microseconds. A solve
that needs it for more is left out: where the detector has something to prove, where it fails, or
where it makes more steps than a page holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numba.extending import overload

from ..columns import SolutionColumns
from . import calls, kernel, stabilised
from .again import Ready
from .calls import compiled, function_at
from .functions import entry
from .parts import ASK, DONE, LOOK, PAUSE, K, Records, Y, Z, slope
from .stretches import Stretches

if TYPE_CHECKING:
    from .run import CompiledRun

__all__ = ["columns", "solve_many"]

WAITS, BEGUN = -3, -2
"""Codes of solves that are still to come, and of those that are for Python: f has raised an
exception, or moved y, or is not finite at t0."""

CODE, START, NFEV, ACCEPTED, REJECTED, NJEV, NLU = range(7)
"""What the kernel tells of each solve: START is its first row in the page, and what follows are the
`stats` of its solution, in their order."""

_NUMBERS = 2**21
"""Those that a page holds: what a thousand short solves of a small system write, and more, for what
is not written costs nothing. To come back for another page is to wait for Python's lock, some
milliseconds where threads compete, and to put the pages together in the end."""

integrate = kernel.integrate


def _row(columns: Any, i: int) -> Any:
    """Return the i-th entry of each column."""
    raise NotImplementedError


@overload(_row, jit_options=calls.OPTIONS)
def _row_of_types(columns, i):
    entries = "".join(f"columns[{k}][i], " for k in range(len(columns)))
    return eval(f"lambda columns, i: ({entries})")


@compiled
def _begin(f, args, t, y, w):
    """Write y and f(t, y) to where a solve has them; return whether it can go on from there."""
    W, good = w.W, True
    for k in range(W.shape[1]):
        W[Y, k] = W[Z, k] = y[k]
    slope(f, t, w, K, args)
    for k in range(W.shape[1]):
        good = good and W[Z, k] == y[k] and abs(W[K, k]) < np.inf
    return good


@compiled
def _keep_start(s, y, page, used, y_eval):
    """Keep y(t0) where it is wanted: as the first of all steps' ends, or of the times asked for."""
    t_eval, s.i_eval = page.t_eval, 0
    if len(page.t) > 0:
        page.t[used] = s.t
        for k in range(len(y)):
            page.path[used, 0, k] = y[k]
    if len(t_eval) > 0 and t_eval[0] == s.t:
        s.i_eval = 1
        for k in range(len(y)):
            y_eval[0, k] = y[k]


def _with_stamp(stamp):
    """Return the kernel, as `kernel.integrate` is made."""

    @numba.njit(**calls.ENTRY)
    def integrate_many(
        reference, address, jac_reference, jac_address, columns, m, constants, order, hold,
        max_step, keeps, state, w, page, y_0, spans, y_eval, memory, fresh, told, first, goes_on,
        g, watch,
    ):  # fmt: skip
        """Solve from problem `first` on, or go on with it; return how many are done."""
        stamp  # noqa: B018 - part of the key of the cache
        f = function_at(reference, address)
        s, t_eval, room, used = state[0], page.t_eval, len(page.t), 0
        if goes_on:
            used = told[first, START]
        for i in range(first, len(y_0)):
            args, t0, t1 = _row(columns, i), spans[i, 0], spans[i, 1]
            begin = used + 1 if room > 0 else 0
            if not goes_on:
                if room > 0 and used == room:
                    return i
                for j in range(len(memory)):
                    memory[j] = fresh[j]
                told[i, CODE], told[i, START] = BEGUN, used
                if t0 == t1 or not _begin(f, args, t0, y_0[i], w):
                    continue
                s.t, s.wall, s.room = t0, t1, room - begin if room > 0 else 2**62
                _keep_start(s, y_0[i], page, used, y_eval[i])
            goes_on = False
            here = Records(page.t[begin:], page.path[begin:], t_eval, y_eval[i], page.log)
            span = t1, 1.0 if t1 >= t0 else -1.0, max_step
            code = integrate(
                reference, address, jac_reference, jac_address, args, m, constants, order, hold,
                span, keeps, state, w, here, g, watch,
            )  # fmt: skip
            told[i, CODE] = code
            if code in (LOOK, ASK) or (code == PAUSE and used > 0):
                return i
            told[i, ACCEPTED], told[i, REJECTED] = s.accepted, s.rejected
            told[i, NFEV] = s.nfev + s.nfev_jac + s.nfev_time + s.nfev_look
            told[i, NJEV], told[i, NLU] = s.njev, s.nlu
            if room > 0 and code == DONE:
                used = begin + s.accepted
        return len(y_0)

    return integrate_many


integrate_many = _with_stamp(kernel.STAMP)


def columns(args: Sequence[Sequence[Any]]) -> tuple[Any, ...] | None:
    """Return an array for each further argument of f, of its values in all solves.

    None where the arrays' entries are not to numba what the values are, each of which may be a
    number or an array.
    """
    if len(set(map(len, args))) != 1:
        return None
    made = []
    for values in zip(*args, strict=True):
        kinds = set(map(type, values))
        if len(kinds) != 1 or (kinds != {float} and len(set(map(_layout, values))) != 1):
            return None
        try:
            column = np.array(values)
            if numba.typeof(column[0]) != numba.typeof(values[0]):
                return None
        except (ValueError, OverflowError):  # of no common shape, or of no type
            return None
        made.append(column)
    return tuple(made)


def _layout(value: Any) -> tuple[Any, ...]:
    """Return what numba tells arrays by."""
    if not isinstance(value, np.ndarray):
        return ()
    return value.dtype, value.shape, value.flags.carray


class _Many:
    """The kernel's arguments for all solves, and the solutions that are made of what it tells.

    Parameters
    ----------
    run : CompiledRun
        The first solve.
    stay : Stretches
        Its arguments of the kernel.
    y_0, spans, values
        As for `solve_many`.
    """

    def __init__(
        self, run: CompiledRun, stay: Stretches, y_0: Any, spans: Any, values: tuple[Any, ...]
    ) -> None:
        room = max(stay.most_room, _NUMBERS // (stay.n + 1))
        self.ready, p, n_t = Ready(run, stay, room), run.problem, len(stay.t_eval)
        self.run, self.stay = run, stay
        self.page = stay.records
        self.y_eval = np.empty((len(y_0), n_t, p.y0.size), p.y0.dtype)
        self.told = np.full((len(y_0), NLU + 1), WAITS)
        self.paths: list[tuple[Any, Any]] = []
        """Times and states of all steps of those that are done, in parts."""
        self.arguments = (
            stay.f.type,
            stay.f.address,
            None if stay.jac is None else stay.jac.type,
            0 if stay.jac is None else stay.jac.address,
            values,
            stay.method,
            *stay.control(),
            float(run.steps.max_step),
            False if stay.forms else None,
            stay.state,
            stay.work,
            self.page,
            y_0,
            spans,
            self.y_eval,
            self.ready.memory,
            self.ready.fresh,
            self.told,
        )

    def solve(self) -> None:
        """Solve all, but for those that Python has to solve."""
        told, detector, first, goes_on, page_first = self.told, None, 0, False, 0
        while first < len(told):
            arguments = (*self.arguments, first, goes_on, None, None)
            try:
                done = int(entry(integrate_many, arguments)(*arguments))
            except Exception:  # f's own: it is raised again where Python makes this solve
                done = int(np.count_nonzero(told[:, CODE] != WAITS))
            if detector is not None and done > first:
                told[first, NFEV] += detector.nfev
            code = int(told[done, CODE]) if done < len(told) else DONE
            goes_on = code == LOOK and self.ready.looked()
            if not goes_on:  # the next one is written from the page's first row on
                self.ready.detector = None
                self._keep(page_first, done)
                page_first = done
            detector, first = self.ready.detector, done
            if (code == LOOK and not goes_on) or (code == ASK and not self._learns()):
                first += 1

    def _keep(self, first: int, done: int) -> None:
        """Copy from the page what the kernel has written there of these solves."""
        if self.run.t_eval is not None:
            return
        good = np.flatnonzero(self.told[first:done, CODE] == DONE) + first
        if len(good) == 0:
            return
        start, last = int(self.told[good[0], START]), self.told[good[-1]]
        rows = slice(start, int(last[START] + last[ACCEPTED]) + 1)
        self.paths.append((self.page.t[rows].copy(), self.page.path[rows, 0].copy()))

    def _learns(self) -> bool:
        """Give a stabilised method the row that it asked for; a bad radius is for Python."""
        row = int(self.stay.s["ask"])
        if row >= 0:
            stabilised.learn(self.stay.method, self.run.tableau, row)
        return row >= 0

    def solutions(self) -> tuple[np.ndarray[Any, Any], SolutionColumns]:
        """Return which solves are done, and their solutions."""
        run, done = self.run, np.flatnonzero(self.told[:, CODE] == DONE)
        counts = self.told[done, NFEV:]
        bounds = np.zeros(len(done) + 1, np.int64)
        if run.t_eval is None:
            np.cumsum(1 + counts[:, ACCEPTED - NFEV], out=bounds[1:])
            t, y = map(_joined, zip(*self.paths, strict=True))
        else:
            t, y = self.stay.t_eval.copy(), self.y_eval
            y = y if len(done) == len(y) else y[done]
            bounds += np.arange(len(bounds)) * len(t)
        y = y.reshape(bounds[-1], *run.problem.shape)
        counts += self.ready.counts
        return done, SolutionColumns(t, y, bounds, counts, run.status, run.message)


def _joined(parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def solve_many(
    run: CompiledRun, y_0: Any, spans: Any, values: tuple[Any, ...]
) -> tuple[np.ndarray[Any, Any], SolutionColumns] | None:
    """Solve many problems by one call of the kernel, or few.

    Parameters
    ----------
    run : CompiledRun
        The first of them, not started.
    y_0 : ndarray of shape (N, n)
        Initial states, finite.
    spans : ndarray of shape (N, 2)
        t0 and t1 of each.
    values : tuple of ndarray
        Of each further argument of f, all its values.

    Returns
    -------
    (ndarray of int, SolutionColumns), optional
        Which are solved, and their solutions. The others need Python on their way; None where all
        do.
    """
    with run.problem.backend.quiet():
        stay = run.ready()
    if stay is None:
        return None
    many = _Many(run, stay, y_0, spans, values)
    many.solve()
    return many.solutions() if (many.told[:, CODE] == DONE).any() else None
