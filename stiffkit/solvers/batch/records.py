"""What a batched solve returns: states at the ends of steps, or at the times asked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..._array import Array
from .dense import BatchSegment
from .problem import BatchProblem, Floats

__all__ = ["Records"]


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
        self.sign = problem.direction
        self.rising = None if t_eval is None else np.ascontiguousarray(t_eval * self.sign)
        """Times in the order of their size."""
        first = problem.t0 if t_eval is None else t_eval[:1].sum(0)
        some = t_eval is None or len(t_eval) > 0
        here = np.flatnonzero(some & np.broadcast_to(first == problem.t0, problem.size))
        if len(here):
            y = problem.y0[problem.backend.index(here, problem.y0)]
            self.pieces.append((self.count[here], here, problem.t0[here], y))
            self.count[here] += 1

    def inside(self, index: Any, accept: Any, t_new: Floats) -> bool:
        """Whether a time that is asked for lies inside an accepted step, not at its end."""
        if self.rising is None or not len(self.rising):
            return False
        samples = index[accept]
        return bool((self._next(samples, self.count[samples]) < t_new[accept] * self.sign).any())

    def _next(self, samples: Any, count: Any) -> Floats:
        """Return the time that each sample waits for, in the order of their size; inf for none."""
        assert self.rising is not None
        n_t, width = self.rising.shape
        at = self.rising[np.minimum(count, n_t - 1), samples if width > 1 else 0]
        return np.where(count < n_t, at, np.inf)

    def _reached(self, samples: Any, t: Floats) -> Any:
        """How many of its times each sample has passed at t."""
        assert self.rising is not None
        if self.rising.shape[1] == 1:
            return np.searchsorted(self.rising[:, 0], t, side="right")
        count = self.count[samples]
        while (due := self._next(samples, count) <= t).any():
            count = count + due
        return count

    def due(self, index: Any, accept: Any, t_new: Floats) -> tuple[Any, Any, Any, Floats]:
        """Count what the accepted rows' steps have reached.

        Returns
        -------
        rows, samples, place : array of int, shape (M,)
            Row of the batch, sample and place in the result of each state that is due.
        times : array, shape (M,)
            Where it is due.
        """
        rows = np.flatnonzero(accept)
        samples, ends = index[rows], t_new[rows]
        times = self.t_eval
        if times is None:
            place, at = self.count[samples], ends
            self.count[samples] += 1
            return rows, samples, place, at
        if not len(times):
            return rows[:0], rows[:0], rows[:0], ends[:0]
        many = self._reached(samples, ends * self.sign) - self.count[samples]
        place = np.repeat(self.count[samples], many) + _ranges(many)
        self.count[samples] += many
        rows, samples = np.repeat(rows, many), np.repeat(samples, many)
        return rows, samples, place, times[place, samples if times.shape[1] > 1 else 0]

    def step(
        self, index: Any, accept: Any, t_new: Floats, y_end: Array, segment: BatchSegment | None
    ) -> None:
        """Record what the accepted rows' steps have reached."""
        rows, samples, place, at = self.due(index, accept, t_new)
        if len(rows):
            inside = self.t_eval is not None
            i = self.problem.backend.index(rows, y_end)
            y = segment.rows(rows, at) if inside and segment is not None else y_end[i]
            self.pieces.append((place, samples, at, y))

    def arrays(self) -> tuple[Array, Array]:
        """Return times, shape (n_t, B), and states, shape (n_t, B, *shape); NaN where none is."""
        p, backend = self.problem, self.problem.backend
        n_t = len(self.t_eval) if self.t_eval is not None else int(self.count.max(initial=0))
        shape = (n_t, p.size)
        t = np.full(shape, math.nan)
        if self.t_eval is not None:
            t[:] = self.t_eval
        y = backend.full((*shape, p.y0.shape[1]), math.nan, p.y0)
        if self.pieces:
            place, samples = (np.concatenate([piece[k] for piece in self.pieces]) for k in (0, 1))
            if self.t_eval is None:
                t[place, samples] = np.concatenate([piece[2] for piece in self.pieces])
            values = backend.xp.concatenate([piece[3] for piece in self.pieces])
            y = backend.scatter(y, place, samples, values)
        return backend.times(t, p.y0), y.reshape((*shape, *p.shape))


def _ranges(many: Any) -> Any:
    """0, 1, ..., m−1 for each m, one after another."""
    ends = np.cumsum(many)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - many, many)
