"""Derivatives of a right-hand side by differences that choose their increments: ∂f/∂y, ∂f/∂t."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .._array import Array, backend_of, is_torch
from .colouring import Pattern

__all__ = ["Differences", "time_derivative"]

Floats = npt.NDArray[Any]

_ROUNDS = 3
"""Second looks that one Jacobian may take at columns whose increment was a poor one."""


class Differences:
    """Forward differences J_ij = (f_i(y + δ_j e_j) − f_i(y)) / δ_j, with increments that learn.

    Parameters
    ----------
    f : callable
        Right-hand side ``f(t, y)`` on flat NumPy states.
    pattern : Pattern
        Places of the entries, and the columns to perturb together.
    scale : float or array, shape (n,)
        Sizes below which components are as good as zero, such as the absolute tolerance. With 0,
        the default, only a component that is exactly zero has no size of its own.

    Attributes
    ----------
    nfev, njev : int
        Calls of f, and Jacobians, so far.

    Notes
    -----
    The increment is δ = √u s with u the unit of rounding and s the size of the component:
    truncation is then of the order √u relative to a column of J, and so is rounding if the
    component matters to f. It may not: f_i is known to u F_i only, where F_i = |f_i| + Σ |J_ij y_j|
    measures its terms before they cancel, and if J_ij y_j is far below F_i, a difference over
    √u |y_j| is noise. F is known as soon as J is. Where it says that a column's relative error
    exceeds u^(3/8), the column is computed once more, with s half of the way (in digits) to
    4 F_i / |J_ij|, a change of y_j that f would notice: curvature unknown, that is where the worst
    case of both errors is least. The new column is kept if it differs from the old one by no more
    than the old one's noise; if it does differ, s is too large for the curvature of f. A column of
    zeros may be lost in noise altogether, and s then grows up to the largest component. What was
    learnt of s is kept for the next Jacobian.

    A component that is zero starts with s = u^(1/4) max|y|: an increment large beside the rounding
    of what f may add to it, and small beside the rest of the state.

    Increments point where the solution is going, which tends to be where f is defined; where f is
    not finite there, the other side is tried.

    Measuring noise by |f_i| alone, as MATLAB's numjac and SciPy's num_jac do, takes sums that
    cancel for exact, and a chemical equilibrium is nothing but such sums.
    """

    constant = False

    def __init__(
        self, f: Callable[[float, Array], Array], pattern: Pattern, *, scale: Any = 0.0
    ) -> None:
        self.f, self.pattern, self.scale = f, pattern, scale
        self.nfev = self.njev = 0
        self._learnt: Any = None
        """Sizes s that the last Jacobian asks for in place of |y|, if any."""
        self._seen: Any = True
        """Which entries were ever nonzero; before the first Jacobian that is any of them."""

    def __call__(self, t: float, y: Floats, f_y: Floats) -> Any:
        """Return J at (t, y), where f is `f_y`; an array, CSC array or `Banded`."""
        self.njev += 1
        return self.pattern.matrix(self._entries(t, y, f_y))

    def _entries(self, t: float, y: Floats, f_y: Floats) -> Floats:
        pattern, seen = self.pattern, self._seen
        eps, root, acceptable, grow = _constants(y.dtype)
        size, size_f = np.abs(y), np.abs(f_y)
        own = np.maximum(size, self.scale)
        s = own if self._learnt is None else np.maximum(own, self._learnt)
        plain = s is own and np.count_nonzero(s) == len(s)
        if not plain:
            s = np.where(s > 0, s, (float(size.max()) or 1.0) / grow)
        s, delta = _increments(y, np.copysign(root, f_y.real + 0.0), s)
        f_near = self._f_near(t, y, delta, range(len(pattern.groups)))
        for left in reversed(range(_ROUNDS + 1)):
            with np.errstate(all="ignore"):
                if left == _ROUNDS:
                    entries = self._quotients(f_near, f_y, delta)
                magnitude = np.abs(entries)
                column = pattern.column_tops(magnitude)
                terms = size_f + pattern.row_products(magnitude, size)  # F
                seen = seen | (magnitude > 0)
                rounding = seen * pattern.of_rows(eps * terms)
                noise = pattern.column_tops(rounding)
                width = np.abs(delta)
                limit = acceptable * width * column
                # Nearly always all is well, and this says so; of NaN, inf − inf and 0 it does not.
                well = np.count_nonzero((noise - limit <= 0) & (column > 0)) == len(y)
                if left == 0 or well:
                    break
                top = float(size.max()) or 1.0
                wrong = ~np.isfinite(column)
                empty = (column == 0) & (s < 0.1 * top)
                again = wrong | empty | (noise > limit)
                if not again.any():
                    break
                better = np.clip(np.sqrt(s) * np.sqrt(4 / eps * noise / column), s, grow * s)
                better = np.where(empty, np.minimum(grow * s, top), np.where(wrong, s, better))
                step = np.copysign(root, np.where(wrong, -delta, delta))
                s_new, delta_new = _increments(y, step, better)
                groups = [g for g, group in enumerate(pattern.groups) if again[group].any()]
                shifts = again * delta_new
            f_near = self._f_near(t, y, shifts, groups)
            with np.errstate(all="ignore"):
                fresh = self._quotients(f_near, f_y, delta_new)
                column_new = pattern.column_tops(np.abs(fresh))
                # Columns agree if they differ by the old one's noise, or by little of the new one.
                little = pattern.of_columns(acceptable * width * column_new)
                moved = np.abs(fresh - entries) * pattern.of_columns(width)
                excess = pattern.column_tops(moved - np.maximum(2 * rounding, little))
                take = again & np.isfinite(column_new) & (wrong | empty | (excess <= 0))
                if not take.any():
                    break
                entries = np.where(pattern.of_columns(take), fresh, entries)
                s, delta = np.where(take, s_new, s), np.where(take, delta_new, delta)
        # Where the sizes are the components' own, a good column is one that asks for no other.
        quick = plain and well and left == _ROUNDS
        self._learnt = None if quick else self._wanted(s, own, column, noise)
        self._seen = magnitude > 0 if self._seen is True else seen
        return entries

    def _wanted(self, s: Floats, own: Floats, column: Floats, noise: Floats) -> Any:
        """Return the sizes to start with in the place of `own` next time, None for none."""
        eps, root, acceptable, _ = _constants(own.dtype)
        with np.errstate(all="ignore"):
            poor = (noise > acceptable * root * own * column) | (column == 0)
            if not poor.any():
                return None
            wanted = np.where(column > 0, np.minimum(s, 4 / eps * noise / column), s)
        return np.where(poor, wanted, 0.0)

    def _f_near(self, t: float, y: Floats, delta: Floats, groups: Iterable[int]) -> Floats:
        """Values f(t, y + δ), δ of one group of columns only, for each of `groups`; else 0."""
        columns, near = self.pattern.groups, y + delta
        values = np.zeros((len(y), len(columns)), dtype=y.dtype, order="F")
        for g in groups:
            group, moved = columns[g], y.copy()
            moved[group] = near[group]
            self.nfev += 1
            values[:, g] = self.f(t, moved)
        return values

    def _quotients(self, f_near: Floats, f_y: Floats, delta: Floats) -> Floats:
        return self.pattern.spread(f_near - f_y[:, None]) / self.pattern.of_columns(delta)


@cache
def _constants(dtype: np.dtype[Any]) -> tuple[float, float, float, float]:
    """Return u, √u, the noise that a column may have, and by how much an increment may grow."""
    eps = float(np.finfo(dtype).eps)
    return eps, eps**0.5, eps**0.375, eps**-0.25


def _increments(y: Floats, step: Floats, s: Floats) -> tuple[Floats, Floats]:
    """Sizes, and δ = ±√u s as y + δ holds it: exactly, so that it is no source of error.

    `step` is ±√u.
    """
    s = np.maximum(s, _least(y.dtype))
    delta = (y + step * s) - y
    return s, delta.real


@cache
def _least(dtype: np.dtype[Any]) -> float:
    """Return the least size of a component."""
    info = np.finfo(dtype)
    return float(info.tiny / info.eps)


def time_derivative(
    f: Callable[[float, Array], Array], t: float, y: Array, f_y: Array, h: float
) -> Array:
    """Return ∂f/∂t at (t, y) by one forward difference; zero, exactly, for an autonomous f.

    Parameters
    ----------
    f : callable
        Right-hand side ``f(t, y)``; it is called once.
    t : float
        Time.
    y, f_y : array
        State, NumPy or torch, and f(t, y).
    h : float
        The signed step about to be tried: f may be called between t and t + h.

    Returns
    -------
    array
        Like `f_y`.

    Notes
    -----
    With f changing over the step as a whole, truncation costs δ/h and the rounding of times
    u max(|t|, |h|) / δ, both relative: δ² = u |h| max(|t|, |h|) balances the two. Where the state's
    precision cannot tell t from t + h, the result is zero.
    """
    backend = backend_of(y)
    eps = float(backend.xp.finfo(y.dtype).eps)
    delta = math.copysign(min(math.sqrt(eps * abs(h) * max(abs(t), abs(h))), abs(h)), h)
    time = t + delta
    # f gets a tensor's times in the state's precision.
    given = (lambda s: float(backend.time(s, y))) if is_torch(y) else float
    step = given(time) - given(t)
    return 0 * f_y if step == 0 else (f(time, y) - f_y) / step
