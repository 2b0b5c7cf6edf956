"""Events of a batch: zeros of g(t, y) along each row's dense output, all rows at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..._array import Array
from ..events import event_direction, event_terminal
from ..solution import EventRecord
from .dense import BatchSegment
from .problem import BatchProblem, Floats

__all__ = ["BatchEvents"]

_SAMPLES = (0.25, 0.5, 0.75, 1.0)


class BatchEvents:
    """Follows event functions from step to step, row by row.

    An event is where g changes sign, in the direction asked for, between two of the four samples
    in a step, or where it dips through zero and back between them, as in `EventFinder`. The time
    that is returned lies on the far side of the root.

    Parameters
    ----------
    functions : sequence of callable
        ``g(t, y, *args)`` with t of shape (b,) and y of shape ``(b, *shape)``; returns shape (b,).
        Attributes ``terminal`` and ``direction`` as in `stiffkit.solve`.
    problem : BatchProblem
        The whole batch.
    """

    def __init__(self, functions: Sequence[Callable[..., Any]], problem: BatchProblem) -> None:
        self.functions, self.record = list(functions), False
        self.shape, self.backend, self.size = problem.shape, problem.backend, problem.size
        self.y0 = problem.y0
        self.direction = [event_direction(g) for g in self.functions]
        self.budget = [np.full(problem.size, float(event_terminal(g))) for g in self.functions]
        self.count = [np.zeros(problem.size, int) for _ in self.functions]
        self.pieces: list[list[tuple[Any, Any, Any, Array]]] = [[] for _ in self.functions]
        self.old: list[Floats] = []

    def start(self, problem: BatchProblem, *, record: bool) -> None:
        """Evaluate at the start; with `record`, times and states of events carry gradients."""
        self.record = record
        self.old = [
            self._host(i, problem, problem.t0, problem.y0) for i in range(len(self.functions))
        ]

    def take(self, rows: Any) -> None:
        """Go on with some of the rows."""
        self.old = [g[rows] for g in self.old]

    def _value(self, i: int, problem: BatchProblem, t: Array, y: Array) -> Array:
        value = self.functions[i](t, y.reshape((len(y), *self.shape)), *problem.args)
        if tuple(getattr(value, "shape", ())) != (len(y),):
            got = tuple(value.shape) if hasattr(value, "shape") else type(value).__name__
            msg = f"event {i} returned {got} for {len(y)} rows; it must return shape ({len(y)},)"
            raise ValueError(msg)
        return value

    def _host(self, i: int, problem: BatchProblem, t: Floats, y: Array) -> Floats:
        with self.backend.no_grad():
            value = self._value(i, problem, problem.time(t), self.backend.detach(y))
        return np.array(self.backend.host(self.backend.detach(value)))

    def step(
        self, problem: BatchProblem, segment: BatchSegment, index: Any, accept: Any
    ) -> tuple[Any, Floats, Array] | None:
        """Record the events of a step; return which rows end there, when, and their states."""
        t_0, t_1 = segment.t_0, segment.t_1
        times = [t_0, *(t_0 + theta * (t_1 - t_0) for theta in _SAMPLES[:-1]), t_1]
        states = [segment(t) for t in times[1:-1]] + [segment.P[1]]
        found: list[tuple[int, Floats, Any]] = []
        for i in range(len(self.functions)):
            g = [self.old[i]]
            g += [self._host(i, problem, t, y) for t, y in zip(times[1:], states, strict=True)]
            self.old[i] = np.where(accept, g[-1], self.old[i])
            points = self._with_dips(i, problem, segment, times, g, accept)
            for (a, g_a), (b, g_b) in pairwise(points):
                rises = (g_a < 0) & (g_b >= 0) & (self.direction[i] >= 0)
                falls = (g_a > 0) & (g_b <= 0) & (self.direction[i] <= 0)
                here = accept & (rises | falls)
                if here.any():
                    found.append((i, self._solve(i, problem, segment, a, b, g_a, g_b, here), here))
        return self._record(problem, segment, index, found) if found else None

    def _with_dips(
        self,
        i: int,
        problem: BatchProblem,
        segment: BatchSegment,
        times: list[Floats],
        g: list[Floats],
        accept: Any,
    ) -> list[tuple[Floats, Floats]]:
        """Return times and values, with points where g dips through zero between the samples."""
        extra = []
        for triple in zip(times, times[1:], times[2:], g, g[1:], g[2:], strict=False):
            (t_a, t_m, t_b), (g_a, g_m, g_b) = triple[:3], np.abs(triple[3:])
            sign = np.sign(triple[4])
            alike = (
                accept & (sign != 0) & (np.sign(triple[3]) == sign) & (np.sign(triple[5]) == sign)
            )
            with np.errstate(all="ignore"):
                slope, later = (g_m - g_a) / (t_m - t_a), (g_b - g_m) / (t_b - t_m)
                curvature = (later - slope) / (t_b - t_a)
                vertex = (t_a + t_m) / 2 - slope / (2 * curvature)
                value = g_a + slope * (vertex - t_a) + curvature * (vertex - t_a) * (vertex - t_m)
                inside = (vertex - t_a) * (t_b - vertex) > 0
                near = value < 0.5 * np.maximum(np.maximum(g_a, g_m), g_b)
            look = alike & (curvature > 0) & inside & near
            if look.any():
                dip = self._dip(i, problem, segment, t_a, t_b, sign, look)
                if dip is not None:
                    extra.append(dip)
        points = list(zip(times, g, strict=True))
        if not extra:
            return points
        # A row that has no dip repeats its start, which comes first and changes nothing.
        for t, value, there in extra:
            points.append((np.where(there, t, times[0]), np.where(there, value, g[0])))
        all_times, values = (np.stack(part) for part in zip(*points, strict=True))
        order = np.argsort(all_times * problem.direction, axis=0, kind="stable")
        sorted_times, sorted_values = (
            np.take_along_axis(part, order, 0) for part in (all_times, values)
        )
        return list(zip(sorted_times, sorted_values, strict=True))

    def _dip(
        self,
        i: int,
        problem: BatchProblem,
        segment: BatchSegment,
        low: Floats,
        high: Floats,
        sign: Floats,
        look: Any,
    ) -> tuple[Floats, Floats, Any] | None:
        """Search the least sign·g between two times by golden section, until it is below zero."""
        golden = (5**0.5 - 1) / 2

        def value(t: Floats) -> Floats:
            t = np.where(look, t, segment.t_1)
            return sign * self._host(i, problem, t, segment(t))

        a, b = low, high
        one, two = b - golden * (b - a), a + golden * (b - a)
        v_one, v_two = value(one), value(two)
        for _ in range(30):
            crossed = look & ((v_one < 0) | (v_two < 0))
            if (crossed == look).all():
                break
            left = v_one < v_two  # the minimum lies in [a, two]
            moving = ~crossed  # where g has crossed, the point found stays
            a, b = np.where(moving & ~left, one, a), np.where(moving & left, two, b)
            new = np.where(left, b - golden * (b - a), a + golden * (b - a))
            v_new = value(np.where(moving, new, segment.t_1))
            one, two, v_one, v_two = (
                np.where(moving, np.where(left, new, two), one),
                np.where(moving, np.where(left, one, new), two),
                np.where(moving, np.where(left, v_new, v_two), v_one),
                np.where(moving, np.where(left, v_one, v_new), v_two),
            )
        crossed = look & ((v_one < 0) | (v_two < 0))
        if not crossed.any():
            return None
        first = v_one <= v_two
        return np.where(first, one, two), sign * np.where(first, v_one, v_two), crossed

    def _solve(
        self,
        i: int,
        problem: BatchProblem,
        segment: BatchSegment,
        a: Floats,
        b: Floats,
        g_a: Floats,
        g_b: Floats,
        here: Any,
    ) -> Floats:
        """Roots between a and b by the Illinois rule, and bisection every third time."""
        near, far, g_near, g_far = a.copy(), b.copy(), g_a.copy(), g_b.copy()
        for m in range(200):
            width = far - near
            tight = 2 * np.spacing(np.maximum(np.abs(near), np.abs(far)))
            open_ = here & (np.abs(width) > tight) & (g_far != 0)
            if not open_.any():
                break
            with np.errstate(all="ignore"):
                share = g_near / (g_near - g_far)
            usable = np.isfinite(share) & (share > 0) & (share < 1) & (m % 3 != 2)
            share = np.where(usable, share, 0.5)
            t = near + share * width
            # A step of at least a rounding from either end, so that both of them close in.
            least = np.copysign(tight, width)
            t = np.where(np.abs(t - near) < tight, near + least, t)
            t = np.where(np.abs(far - t) < tight, far - least, t)
            t = np.where(open_, t, far)
            g = self._host(i, problem, t, segment(t))
            crossed = np.sign(g) * np.sign(g_near) <= 0
            g_near = np.where(open_ & crossed, g_near / 2, np.where(open_, g, g_near))
            g_far = np.where(open_ & crossed, g, np.where(open_, g_far / 2, g_far))
            far = np.where(open_ & crossed, t, far)
            near = np.where(open_ & ~crossed, t, near)
        return far

    def _record(
        self,
        problem: BatchProblem,
        segment: BatchSegment,
        index: Any,
        found: list[tuple[int, Floats, Any]],
    ) -> tuple[Any, Floats, Array] | None:
        """Keep the roots in the order of time, up to the one that ends its row."""
        rows = np.concatenate([np.flatnonzero(here) for _, _, here in found])
        times = np.concatenate([t[here] for _, t, here in found])
        which = np.concatenate([np.full(int(here.sum()), i) for i, _, here in found])
        stop = np.zeros(len(index), bool)
        t_stop = segment.t_1.copy()
        keep = np.zeros(len(rows), bool)
        for k in np.argsort(times * problem.direction, kind="stable"):
            row, i = rows[k], which[k]
            if stop[row] and times[k] != t_stop[row]:
                continue
            keep[k] = True
            self.budget[i][index[row]] -= 1
            if self.budget[i][index[row]] == 0:
                stop[row], t_stop[row] = True, times[k]
        y_stop = segment(t_stop)
        for i in range(len(self.functions)):
            mine = np.flatnonzero(keep & (which == i))
            mine = mine[np.argsort(times[mine] * problem.direction, kind="stable")]
            if not len(mine):
                continue
            r, t = rows[mine], times[mine]
            samples = index[r]
            place = self.count[i][samples] + _nth(samples)
            np.add.at(self.count[i], samples, 1)
            t_out, y = t, segment.rows(r, t)
            if self.record:
                t_out, y = self._with_gradients(i, problem, segment, r, t)
                if self.budget[i][samples].min() <= 0:
                    y_stop = self._put_rows(y_stop, stop, r, t, t_stop, y)
            self.pieces[i].append((place, samples, t_out, y))
        return (stop, t_stop, y_stop) if stop.any() else None

    def _put_rows(
        self, y_stop: Array, stop: Any, r: Any, t: Floats, t_stop: Floats, y: Array
    ) -> Array:
        """Give the rows that end here the states that know how the end depends on parameters."""
        last = np.flatnonzero(stop[r] & (t == t_stop[r]))
        table = np.zeros(len(stop), int)
        table[r[last]] = last
        mask = np.zeros(len(stop), bool)
        mask[r[last]] = True
        return self.backend.xp.where(self.backend.mask(mask[:, None], y_stop), y[table], y_stop)

    def _with_gradients(
        self, i: int, problem: BatchProblem, segment: BatchSegment, r: Any, t: Floats
    ) -> tuple[Array, Array]:
        """Return times and states of events, the first of each row together, then the second..."""
        nth = _nth(r)
        groups = [np.flatnonzero(nth == k) for k in range(nth.max() + 1)]
        found = [self._with_gradient(i, problem, segment, r[k], t[k]) for k in groups]
        back = np.argsort(np.concatenate(groups))
        times, states = (self.backend.xp.concatenate([pair[k] for pair in found]) for k in (0, 1))
        return times[back], states[back]

    def _with_gradient(
        self, i: int, problem: BatchProblem, segment: BatchSegment, r: Any, t: Floats
    ) -> tuple[Array, Array]:
        """Return times and states of events as functions of the parameters; no row has two.

        At a root g(t, y(t)) = 0; by the implicit function theorem dt = −dg / (dg/dt along the
        solution), and the state moves on with dt.
        """
        backend = self.backend
        whole_t, y = segment.t_1.copy(), segment.rows(r, t)
        whole_t[r] = t
        whole_y = segment(whole_t)
        g = self._value(i, problem, problem.time(whole_t), whole_y)
        width = 1e-4 * np.abs(segment.t_1 - segment.t_0)
        ahead, behind = (
            self._host(i, problem, whole_t + d, segment(whole_t + d)) for d in (width, -width)
        )
        with np.errstate(all="ignore"):
            slope = (ahead - behind) / (2 * width)
            # Where g only touches zero, values stay and derivatives overflow.
            slope = np.where(np.isfinite(slope) & (slope != 0), slope, backend.tiny(y))
            y_dot = backend.detach(segment(whole_t + width) - segment(whole_t - width)) / (
                backend.real_like(2 * width[:, None], y)
            )
        time = backend.times(t, y)
        move = -(g - backend.detach(g))[r] / backend.real_like(slope[r], y)
        return time + move.to(time.dtype), y + y_dot[r] * move[:, None]

    def records(self) -> tuple[EventRecord, ...]:
        """All events found: for each function times (m, B) and states (m, B, *shape)."""
        return tuple(self._padded(i) for i in range(len(self.functions)))

    def _padded(self, i: int) -> EventRecord:
        backend, n = self.backend, self.y0.shape[1]
        m = int(self.count[i].max(initial=0))
        t = backend.times(np.full(m * self.size, math.nan), self.y0)
        y = backend.full((m * self.size, n), math.nan, self.y0)
        if self.pieces[i]:
            place, samples = (np.concatenate([p[k] for p in self.pieces[i]]) for k in (0, 1))
            times = [p[2] if self.record else backend.times(p[2], self.y0) for p in self.pieces[i]]
            rows = place * self.size + samples
            t = backend.scatter(t, rows, backend.xp.concatenate(times))
            y = backend.scatter(y, rows, backend.xp.concatenate([p[3] for p in self.pieces[i]]))
        return EventRecord(t.reshape((m, self.size)), y.reshape((m, self.size, *self.shape)))


def _nth(samples: Any) -> Any:
    """How many times each entry has come before."""
    order = np.argsort(samples, kind="stable")
    ordered = samples[order]
    first = np.searchsorted(ordered, ordered, side="left")
    nth = np.empty(len(samples), int)
    nth[order] = np.arange(len(samples)) - first
    return nth
