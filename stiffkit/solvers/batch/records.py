"""What a batched solve returns: states at the ends of steps, or at the times asked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..._array import Array
from .dense import BatchSegment
from .problem import BatchProblem, Floats

__all__ = ["Records", "log_arrays"]

BLOCK = 40_000
"""Steps are kept, and evaluated together, until their polynomials have this many coefficients."""


class Records:
    """States as they come, sample by sample, and their place in the result.

    Parameters
    ----------
    problem : BatchProblem
        The whole batch.
    t_eval : array, shape (n_t, B) or (n_t, 1), or None
        Times to return the solution at; by default every accepted step's end.
    """

    def __init__(self, problem: BatchProblem, t_eval: Floats | None) -> None:
        self.problem, self.t_eval = problem, t_eval
        self.count = np.zeros(problem.size, int)
        """Times that each sample has reached."""
        self.pieces: list[tuple[Any, Any, Floats, Array]] = []
        """Place in time, sample, time, state of the rows that came together."""
        self.waiting: list[tuple[Any, Any, Any, BatchSegment]] = []
        """Steps that are still to be evaluated: what they have reached, and their polynomials."""
        self.room = BLOCK
        self.sign = problem.direction
        self.rising: Floats | None = None
        """Times in the order of their size, and inf for no more."""
        self.next: Floats = np.full(problem.size, -math.inf)
        """Of these the one that each sample waits for; without `t_eval` each step's end serves."""
        if t_eval is not None:
            ends = np.full((1, t_eval.shape[1]), math.inf)
            self.rising = np.concatenate([t_eval * self.sign, ends])
        first = problem.t0 if t_eval is None else t_eval[:1].sum(0)
        some = t_eval is None or len(t_eval) > 0
        here = np.flatnonzero(some & np.broadcast_to(first == problem.t0, problem.size))
        if len(here):
            y = problem.y0[problem.backend.index(here, problem.y0)]
            self.pieces.append((self.count[here], here, problem.t0[here], y))
            self.count[here] += 1
        if t_eval is not None:
            self.next = self._next(np.arange(problem.size), self.count)

    def inside(self, index: Any, rows: Any, t_new: Floats) -> Any:
        """In which of the `rows` a time that is asked for lies before the end of the step."""
        if self.rising is None:
            return np.zeros_like(rows)
        return rows & (self.next[index] < t_new * self.sign)

    def reaches(self, index: Any, t_new: Floats) -> tuple[bool, bool]:
        """Whether steps to `t_new` reach a time that is asked for, and whether one lies inside.

        Where a row rests, or was rejected, `t_new` is where it stands.
        """
        if self.rising is None:
            return True, False
        due, at = self.next[index], t_new if self.sign > 0 else -t_new
        return bool((due <= at).any()), bool((due < at).any())

    def _next(self, samples: Any, count: Any) -> Floats:
        """Return the time that each sample waits for, in the order of their size; inf for none."""
        assert self.rising is not None
        at: Floats
        if self.rising.shape[1] == 1:
            at = self.rising[:, 0].take(count)
        else:
            at = self.rising[count, samples]
        return at

    def _reached(self, samples: Any, t: Floats) -> Any:
        """How many of its times each sample has passed at t."""
        assert self.rising is not None
        if self.rising.shape[1] == 1:
            return np.searchsorted(self.rising[:-1, 0], t, side="right")
        count = self.count[samples]
        while (due := self._next(samples, count) <= t).any():
            count = count + due
        return count

    def reach(self, samples: Any, t: Floats) -> tuple[Any, Any]:
        """Count what samples have reached at t.

        Returns
        -------
        start, many : array of int, shape (r,)
            Place in the result of the first state that is due, and how many are.
        """
        start = self.count[samples]
        if self.rising is None:
            self.count[samples] = start + 1
            return start, np.ones_like(start)
        count = self._reached(samples, t if self.sign > 0 else -t)
        self.count[samples] = count
        self.next[samples] = self._next(samples, count)
        return start, count - start

    def due(self, index: Any, accept: Any, t_new: Floats) -> tuple[Any, Any, Any, Floats]:
        """Count what the accepted rows' steps have reached, and tell it one by one.

        Returns
        -------
        rows, samples, place : array of int, shape (M,)
            Row of the batch, sample and place in the result of each state that is due.
        times : array, shape (M,)
            Where it is due.
        """
        rows = np.flatnonzero(accept)
        samples = index[rows]
        start, many = self.reach(samples, t_new[rows])
        if self.t_eval is None:
            return rows, samples, start, t_new[rows]
        return self._one_by_one(rows, samples, start, many)

    def _one_by_one(
        self, rows: Any, samples: Any, start: Any, many: Any
    ) -> tuple[Any, Any, Any, Floats]:
        assert self.t_eval is not None
        first = np.cumsum(many) - many
        place = np.arange(many.sum()) + np.repeat(start - first, many)
        rows, samples = np.repeat(rows, many), np.repeat(samples, many)
        one = self.t_eval.shape[1] == 1
        return (
            rows,
            samples,
            place,
            self.t_eval[:, 0][place] if one else self.t_eval[place, samples],
        )

    def step(
        self, index: Any, accept: Any, t_new: Floats, y_end: Array, segment: BatchSegment | None
    ) -> None:
        """Record what steps have reached; where a row made none `t_new` is where it stands."""
        if self.t_eval is not None and segment is not None:
            self.waiting.append((index, *self.reach(index, t_new), segment))
            self.room -= math.prod(segment.P.shape)
            if self.room <= 0:
                self._evaluate()
            return
        rows, samples, place, at = self.due(index, accept, t_new)
        if len(rows):
            y = self.problem.backend.take(y_end, rows, 0)
            self.pieces.append((place, samples, at, y))

    def _evaluate(self) -> None:
        """Evaluate the steps that were kept, all at once: there may be few rows in each."""
        if not self.waiting:
            return
        *told, segments = zip(*self.waiting, strict=True)
        samples, start, many = (np.concatenate(part) for part in told)
        rows, samples, place, at = self._one_by_one(np.arange(len(many)), samples, start, many)
        y = BatchSegment.joined(segments).rows(rows, at)
        self.pieces.append((place, samples, at, y))
        self.waiting, self.room = [], BLOCK

    def arrays(self) -> tuple[Array, Array]:
        """Return times, shape (n_t, B), and states, shape (n_t, B, *shape); NaN where none is."""
        self._evaluate()
        p, backend = self.problem, self.problem.backend
        n_t = len(self.t_eval) if self.t_eval is not None else int(self.count.max(initial=0))
        shape = (n_t, p.size)
        t = np.full(shape, math.nan)
        if self.t_eval is not None:
            t[:] = self.t_eval
        y = backend.full((n_t * p.size, p.y0.shape[1]), math.nan, p.y0)
        if self.pieces:
            place, samples = (np.concatenate([piece[k] for piece in self.pieces]) for k in (0, 1))
            if self.t_eval is None:
                t[place, samples] = np.concatenate([piece[2] for piece in self.pieces])
            values = backend.xp.concatenate([piece[3] for piece in self.pieces])
            y = backend.scatter(y, place * p.size + samples, values)
        return backend.times(t, p.y0), y.reshape((*shape, *p.shape))


def log_arrays(rows: list[dict[str, Any]], size: int) -> dict[str, Any]:
    """One array per column of shape (attempts of the batch, B); NaN where a sample had ended."""
    columns: dict[str, Any] = {}
    for name in ("t", "h", "ratio", "accepted"):
        start = False if name == "accepted" else math.nan
        columns[name] = np.full((len(rows), size), start)
        for line, row in zip(columns[name], rows, strict=True):
            line[row["index"][row["active"]]] = row[name][row["active"]]
    return columns
