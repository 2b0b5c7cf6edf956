"""Dense output: one polynomial per accepted step, and their union over a solve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .._array import Array, Backend, to_numpy

__all__ = ["DenseOutput", "LiveSegment", "Segment", "bubble_slope"]


@dataclass(frozen=True, eq=False)
class Segment:
    """y(θ) = (1−θ) y_0 + θ y_1 + θ(1−θ) Σ_m Q_m θ^m over one step, θ = (t − t_0)/(t_1 − t_0)."""

    t_0: float
    t_1: float
    y_0: Array
    y_1: Array
    Q: Sequence[Array]

    @classmethod
    def hermite(
        cls, t_0: float, t_1: float, y_0: Array, y_1: Array, hf_0: Array, hf_1: Array
    ) -> Segment:
        """Cubic through both states and slopes (Hairer, Nørsett & Wanner I, II.6, eq. 6.7)."""
        rise = y_1 - y_0
        return cls(t_0, t_1, y_0, y_1, [hf_0 - rise, 2 * rise - hf_0 - hf_1])

    def settle(self) -> Segment:
        """Return a segment that may be kept: itself, if it holds its polynomial."""
        return self

    def __call__(self, t: float) -> Array:
        """Evaluate at one time; shape (n,)."""
        return self._at((t - self.t_0) / (self.t_1 - self.t_0))

    def slope(self, t: float) -> Array:
        """Return the derivative at one time; shape (n,)."""
        h = self.t_1 - self.t_0
        theta = (t - self.t_0) / h
        rise = self.y_1 - self.y_0
        for m, q in enumerate(self.Q, 1):
            rise += bubble_slope(m, theta) * q
        rise /= h
        return rise

    def many(self, times: np.ndarray[Any, Any], backend: Backend) -> Array:
        """Evaluate at `times`, shape (m,); shape (m, n)."""
        theta = (times - self.t_0) / (self.t_1 - self.t_0)
        return self._at(backend.real_like(theta[:, None], self.y_0))

    def _at(self, theta: Any) -> Array:
        y = (1 - theta) * self.y_0
        y += theta * self.y_1
        if self.Q:
            *rest, last = self.Q
            bubble = theta * last
            for q in reversed(rest):
                bubble += q
                bubble *= theta
            bubble *= 1 - theta
            y += bubble
        return y


def bubble_slope(m: int, theta: float) -> float:
    """Return (θ^m (1 − θ))'; `stiffkit.solvers.compiled` compiles this very text."""
    return m * theta ** (m - 1) - (m + 1) * theta**m


@dataclass(frozen=True, eq=False)
class LiveSegment(Segment):
    """A segment that lives on the stages of its step, until the next attempt overwrites them.

    Events look at a step here and there: at one time the polynomial is one weighted sum of the
    stages, and its coefficients, as large as several states, need not be formed.
    """

    bubble: Any = ()
    """Rows of weights of the stages, one for each Q_m / h."""
    weigh: Callable[[Any], Sequence[Array]] = tuple
    """Σ_j row_j (k_j − k_1) for each row."""

    def settle(self) -> Segment:
        """Form the polynomial."""
        h, Q = self.t_1 - self.t_0, self.weigh(self.bubble)
        for q in Q:
            q *= h
        return Segment(self.t_0, self.t_1, self.y_0, self.y_1, Q)

    def __call__(self, t: float) -> Array:
        """Evaluate at one time; shape (n,)."""
        h = self.t_1 - self.t_0
        theta = (t - self.t_0) / h
        powers = theta ** np.arange(len(self.bubble)) * (h * theta * (1 - theta))
        (y,) = self.weigh([powers @ self.bubble])
        y += (1 - theta) * self.y_0
        y += theta * self.y_1
        return y


@dataclass(frozen=True, eq=False)
class DenseOutput:
    """The solution as a function of time, on the interval that was integrated.

    Parameters
    ----------
    breaks : list of float
        t_0, t_1, ..., the accepted times; one more than the segments.
    segments : sequence of Segment
        One polynomial per step, in the order of integration.
    shape : tuple of int
        Shape of the state.
    backend : Backend
        Of the state.
    y0 : array
        The initial state, flat: the value of an interval of length zero.
    """

    breaks: list[float]
    segments: Sequence[Segment]
    shape: tuple[int, ...]
    backend: Backend
    y0: Array

    @property
    def t_min(self) -> float:
        """Earliest time covered."""
        return min(self.breaks[0], self.breaks[-1])

    @property
    def t_max(self) -> float:
        """Latest time covered."""
        return max(self.breaks[0], self.breaks[-1])

    def __call__(self, t: Any) -> Array:
        """Evaluate the solution.

        Parameters
        ----------
        t : float or array_like, shape (m,)
            Times within ``[t_min, t_max]``.

        Returns
        -------
        array
            Shape ``(*shape)`` for one time, ``(m, *shape)`` for many.

        Raises
        ------
        ValueError
            If a time is outside the integrated interval.
        """
        times = to_numpy(t)
        outside = ~((times >= self.t_min) & (times <= self.t_max))
        if outside.any():
            worst = float(times[outside].flat[0])
            msg = f"t = {worst!r} is outside [{self.t_min!r}, {self.t_max!r}], the interval solved"
            raise ValueError(msg)
        if times.ndim > 1:
            msg = f"t must be a number or one-dimensional, not of shape {times.shape}"
            raise ValueError(msg)
        values = self.flat(times.reshape(-1))
        return values.reshape((*times.shape, *self.shape))

    @cached_property
    def _ascending(self) -> tuple[float, np.ndarray[Any, Any]]:
        sign = 1.0 if self.breaks[-1] >= self.breaks[0] else -1.0
        return sign, np.asarray(self.breaks) * sign

    def flat(self, times: np.ndarray[Any, Any]) -> Array:
        """Evaluate at `times`, shape (m,), without a check of the interval; shape (m, n).

        At a break the segment that ends there serves; outside, the nearest one.
        """
        xp, like = self.backend.xp, self.y0
        if not len(self.segments) or not len(times):
            return like * self.backend.real_like(np.ones((len(times), 1)), like)
        sign, ascending = self._ascending
        index = np.searchsorted(ascending, sign * times, side="left") - 1
        index = np.clip(index, 0, len(self.segments) - 1)
        order = np.argsort(index, kind="stable")
        cuts = np.flatnonzero(np.diff(index[order])) + 1
        parts = [
            self.segments[index[group[0]]].many(times[group], self.backend)
            for group in np.split(order, cuts)
        ]
        return xp.concatenate(parts)[np.argsort(order)]
