"""Events: zeros of functions g(t, y) along the solution, found on the dense output."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._array import Array, Backend
from .dense import Segment
from .solution import EventRecord

__all__ = [
    "MOST",
    "SAMPLES",
    "EventFinder",
    "crosses",
    "event_direction",
    "event_terminal",
    "far_end",
    "may_dip",
    "narrowed",
    "next_time",
]

SAMPLES = (0.25, 0.5, 0.75)
"""Where inside a step the events are sampled, beside its ends."""


class EventFinder:
    """Follows event functions from step to step.

    An event happens where g changes sign, in the direction asked for, or reaches zero at a step's
    end. A zero at the very start is none: the solution has to come from somewhere. The time that
    is returned lies on the far side of the root, so that a solve that starts again from an event
    does not find it again. Inside a step g is sampled at three points, and where three
    neighbouring values have one sign but their parabola comes near zero in between, its extremum
    is searched: so pairs of roots within one step are found as long as g varies on the scale of a
    quarter of a step.

    Parameters
    ----------
    functions : sequence of callable
        ``g(t, y)``, scalar-valued, with SciPy's attributes: ``terminal`` (bool or int: stop at
        the first or n-th event) and ``direction`` (sign of the slope that counts; 0: both).
    y0 : flat array
        Initial state.
    shape : tuple of int
        The problem's shape of the state.
    backend : Backend
        Of the state.

    Raises
    ------
    ValueError
        If `terminal` is neither a bool nor an integer ≥ 0, or `direction` not a number; and, once
        started, if an event function does not return one number.
    """

    def __init__(
        self,
        functions: Sequence[Callable[[float, Array], Any]],
        y0: Array,
        shape: tuple[int, ...],
        backend: Backend,
    ) -> None:
        self.functions, self.shape, self.backend, self._like = list(functions), shape, backend, y0
        self.direction = [event_direction(g) for g in self.functions]
        self.budget = [event_terminal(g) for g in self.functions]
        self.found: list[tuple[list[float], list[Array]]] = [([], []) for _ in self.functions]
        self.g_old = [0.0] * len(self.functions)

    def start(self, t0: float) -> None:
        """Evaluate at the start."""
        self.g_old = self.values(t0, self._like)

    def values(self, t: float, y: Array) -> list[float]:
        """G of every event at one point."""
        return [self._value(i, t, y) for i in range(len(self.functions))]

    def _value(self, i: int, t: float, y: Array) -> float:
        value = self.functions[i](self.backend.time(t, y), y.reshape(self.shape))
        try:
            return float(value.item() if hasattr(value, "item") else value)
        except (TypeError, ValueError) as error:
            msg = f"event {i} returned {value!r} at t = {t!r}; it must return one real number"
            raise ValueError(msg) from error

    def step(self, segment: Segment) -> tuple[float, Array] | None:
        """Record the events of a step; return where a terminal one ends the solve, if any does."""
        t_0, t_1 = segment.t_0, segment.t_1
        times = [t_0 + theta * (t_1 - t_0) for theta in SAMPLES]
        g_inner = [self.values(t, segment(t)) for t in times]
        g_new = self.values(t_1, segment.y_1)
        times = [t_0, *times, t_1]
        roots: list[tuple[float, int]] = []
        for i in range(len(self.functions)):
            g = [self.g_old[i], *(values[i] for values in g_inner), g_new[i]]
            roots += [(root, i) for root in self._roots(i, segment, times, g)]
        self.g_old = g_new
        return self._record(segment, sorted(roots, key=lambda r: abs(r[0] - t_0)))

    def _record(
        self, segment: Segment, roots: list[tuple[float, int]]
    ) -> tuple[float, Array] | None:
        stop: tuple[float, Array] | None = None
        for t, i in roots:
            if stop is not None and t != stop[0]:
                break
            y = segment(t)
            self.found[i][0].append(t)
            self.found[i][1].append(y)
            self.budget[i] -= 1
            if self.budget[i] == 0:
                stop = t, y
        return stop

    def _roots(self, i: int, segment: Segment, t: list[float], g: list[float]) -> list[float]:
        """Roots of event i, given its values at the times t across the step."""
        t, g = self._add_extrema(i, segment, *self._leave_zeros(i, segment, t, g))
        roots = []
        for t_a, t_b, g_a, g_b in zip(t, t[1:], g, g[1:], strict=False):
            if crosses(g_a, g_b, self.direction[i]):
                roots.append(t_b if g_b == 0 else self._solve(i, segment, t_a, t_b, g_a, g_b))
        return roots

    def _solve(
        self, i: int, segment: Segment, t_a: float, t_b: float, g_a: float, g_b: float
    ) -> float:
        bracket = t_a, t_b, t_a, g_a, g_b, g_a
        for m in range(MOST):
            t = next_time(bracket, m)
            if t == bracket[0]:
                break
            bracket = narrowed(bracket, t, self._value(i, t, segment(t)))
        return far_end(bracket, g_a)

    def _leave_zeros(
        self, i: int, segment: Segment, t: list[float], g: list[float]
    ) -> tuple[list[float], list[float]]:
        """After a sample that is zero insert one close by: its sign is that of what follows."""
        points: list[tuple[float, float]] = []
        for j, (t_j, g_j) in enumerate(zip(t, g, strict=True)):
            points.append((t_j, g_j))
            if g_j == 0 and j + 1 < len(t):
                close = t_j + 1e-6 * (t[j + 1] - t_j)
                points.append((close, self._value(i, close, segment(close))))
        return [point[0] for point in points], [point[1] for point in points]

    def _add_extrema(
        self, i: int, segment: Segment, t: list[float], g: list[float]
    ) -> tuple[list[float], list[float]]:
        """Insert points where g seems to dip through zero and back between samples."""
        extra = []
        for j in range(1, len(t) - 1):
            if may_dip(t[j - 1], t[j], t[j + 1], g[j - 1], g[j], g[j + 1]):
                low, high = sorted((t[j - 1], t[j + 1]))
                dip = self._dip(i, segment, low, high, math.copysign(1.0, g[j]))
                if dip is not None:
                    extra.append(dip)
        if not extra:
            return t, g
        points = sorted({*zip(t, g, strict=True), *extra}, key=lambda point: abs(point[0] - t[0]))
        return [point[0] for point in points], [point[1] for point in points]

    def _dip(
        self, i: int, segment: Segment, low: float, high: float, sign: float
    ) -> tuple[float, float] | None:
        """Return a point in [low, high] where g has the other sign, if there seems to be one."""
        from scipy.optimize import minimize_scalar

        seen: list[tuple[float, float]] = []

        def distance(t: float) -> float:
            value = sign * self._value(i, t, segment(t))
            seen.append((value, t))
            if value < 0:
                raise _CrossedError
            return value

        try:
            options = {"maxiter": 30, "xatol": 1e-6 * (high - low)}
            minimize_scalar(distance, bounds=(low, high), method="bounded", options=options)
        except _CrossedError:
            value, t = seen[-1]
            return t, sign * value
        return None

    def records(self) -> tuple[EventRecord, ...]:
        """All events found, one record per function."""
        like = self.backend
        return tuple(EventRecord(like.times(t, self._like), self._stack(y)) for t, y in self.found)

    def _stack(self, states: list[Array]) -> Array:
        if not states:
            return self.backend.empty((0, *self.shape), self._like)
        return self.backend.xp.stack(states).reshape((len(states), *self.shape))


class _CrossedError(Exception):
    """Leave the minimisation: the sign has changed."""


def event_terminal(g: Callable[..., Any]) -> float:
    """How many events of g end the solve."""
    terminal = getattr(g, "terminal", None)
    if terminal is None or terminal is False:
        return math.inf
    try:
        count = float(terminal)
        if count == 0:
            return math.inf
        if 0 < count < 1e15 and count == int(count):
            return int(count)
    except (TypeError, ValueError, OverflowError):
        pass
    msg = (
        "The `terminal` attribute of each event must be a boolean or positive integer, "
        f"not {terminal!r}"
    )
    raise ValueError(msg)


def event_direction(g: Callable[..., Any]) -> float:
    """Sign of the slope that counts; 0 for both."""
    direction = getattr(g, "direction", None)
    try:
        number = float(0 if direction is None else direction)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        msg = f"The `direction` attribute of each event must be a number, not {direction!r}"
        raise ValueError(msg)
    return number


# `stiffkit.solvers.compiled` compiles the very text of what follows.


def crosses(g_a: float, g_b: float, direction: float) -> bool:
    """Whether g goes through zero between two neighbouring values, in the direction asked for."""
    rises, falls = g_a < 0 <= g_b, g_a > 0 >= g_b
    return (rises and direction >= 0) or (falls and direction <= 0)


MOST = 200
"""Calls of g for one root: halving alone, from the 50th on, takes some 60 to any but t = 0."""

Bracket = tuple[float, float, float, float, float, float]
"""Times a, b and c, and g there: the root is between a and b, a is the latest, c the one before."""


def next_time(bracket: Bracket, m: int) -> float:
    """Return where to look for the root next, after m looks; a, if it is found to rounding.

    The inverse quadratic interpolant's zero where it is to be trusted, else half way: T. R.
    Chandrupatla, A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear
    function without using derivatives, Adv. Eng. Softw. 28 (1997) 145-149,
    doi:10.1016/S0965-9978(96)00051-8. The accuracy is relative to t.
    """
    a, b, c, g_a, g_b, g_c = bracket
    least = 2 * float(np.spacing(max(abs(a), abs(b)))) / abs(b - a) if a != b else 1.0
    if g_a == 0 or least >= 0.5:
        return a
    share = 0.5
    if c in (a, b):
        share = g_a / (g_a - g_b)
    elif m < 50 and g_c not in (g_a, g_b):
        xi, phi = (a - b) / (c - b), (g_a - g_b) / (g_c - g_b)
        if phi * phi < xi and (1 - phi) * (1 - phi) < 1 - xi:
            share = g_a / (g_b - g_a) * g_c / (g_b - g_c)
            share += (c - a) / (b - a) * g_a / (g_c - g_a) * g_b / (g_c - g_b)
    if not 0 <= share <= 1:
        share = 0.5
    # A step of at least a rounding from either end, so that both of them close in.
    return a + min(max(share, least), 1 - least) * (b - a)


def narrowed(bracket: Bracket, t: float, g: float) -> Bracket:
    """Return the bracket with g known at one more time, `next_time`."""
    a, b, _, g_a, g_b, _ = bracket
    if (g < 0) == (g_a < 0):
        return t, b, a, g, g_b, g_a
    return t, a, b, g, g_a, g_b


def far_end(bracket: Bracket, g_start: float) -> float:
    """Return the end of the bracket where g is zero, or has another sign than at the start."""
    a, b, _, g_a, _, _ = bracket
    return a if g_a == 0 or (g_a < 0) != (g_start < 0) else b


def may_dip(t_0: float, t_1: float, t_2: float, g_0: float, g_1: float, g_2: float) -> bool:
    """Whether three values have one sign, but the parabola through them comes near zero."""
    alike = (g_0 > 0 and g_1 > 0 and g_2 > 0) or (g_0 < 0 and g_1 < 0 and g_2 < 0)
    if not alike:
        return False
    g_0, g_1, g_2 = abs(g_0), abs(g_1), abs(g_2)
    slope_1, slope_2 = (g_1 - g_0) / (t_1 - t_0), (g_2 - g_1) / (t_2 - t_1)
    curvature = (slope_2 - slope_1) / (t_2 - t_0)
    if not curvature > 0:  # there is no minimum
        return False
    vertex = (t_0 + t_1) / 2 - slope_1 / (2 * curvature)
    value = g_0 + slope_1 * (vertex - t_0) + curvature * (vertex - t_0) * (vertex - t_1)
    return min(t_0, t_2) < vertex < max(t_0, t_2) and value < 0.5 * max(g_0, g_1, g_2)
