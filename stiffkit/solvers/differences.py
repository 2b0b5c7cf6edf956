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
from .control import where

__all__ = ["Differences", "time_derivative"]

Floats = npt.NDArray[Any]

NOTHING = 0.0
"""What was learnt of sizes where the components' own serve."""

ROUNDS = 3
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
    of what f may add to it, and small beside the rest of the state. With a `scale` s is the
    geometric mean of both: the absolute tolerance of a species that is yet to come may be as small
    as 1e-30, where three second looks do not lead out of the noise, and what the first Jacobian of
    a reaction loses of its conserved sums is lost for good.

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
        self._learnt: Any = NOTHING
        """Sizes s that the last Jacobian asks for in place of |y|."""
        self._seen: Any = True
        """Which entries were ever nonzero; before the first Jacobian that is any of them."""

    def __call__(self, t: float, y: Floats, f_y: Floats) -> Any:
        """Return J at (t, y), where f is `f_y`; an array, CSC array or `Banded`."""
        self.njev += 1
        return self.pattern.matrix(self._entries(t, y, f_y))

    def _entries(self, t: float, y: Floats, f_y: Floats) -> Floats:
        pattern, seen, n = self.pattern, self._seen, len(y)
        eps, least = _units(y.dtype)
        size, size_f = np.abs(y), np.abs(f_y)
        toward = f_y.real
        own = np.maximum(size, self.scale)
        plain = self._learnt is NOTHING and np.count_nonzero(size) == n
        if plain:
            s = np.maximum(own, least)
        else:
            s = first_sizes(size, own, self._learnt, _top(size), eps, least).astype(size.dtype)
        delta = increments(y, toward, s, eps)
        f_near = self._f_near(t, y, delta, range(len(pattern.groups)))
        for left in reversed(range(ROUNDS + 1)):
            with np.errstate(all="ignore"):
                if left == ROUNDS:
                    entries = self._quotients(f_near, f_y, delta)
                magnitude = np.abs(entries)
                column = pattern.column_tops(magnitude)
                terms = size_f + pattern.row_products(magnitude, size)  # F
                seen = seen | (magnitude > 0)
                rounding = seen * pattern.of_rows(eps * terms)
                noise = pattern.column_tops(rounding)
                change = np.abs(delta) * column
                # Nearly always all is well, and this says so: finite, and neither poor nor zero.
                if left == 0 or np.count_nonzero(noise < eps**0.375 * change) == n:
                    break
                poor, top = noisy(noise, change, eps), _top(size)
                wrong, empty = ~np.isfinite(column), (column == 0) & (s < 0.1 * top)
                again = wrong | empty | poor
                if not np.count_nonzero(again):
                    break
                s_new = better_sizes(s, noise, column, wrong, empty, top, eps, least)
                delta_new = increments(y, where(wrong, -toward, toward), s_new, eps)
                groups = pattern.groups_with(again)
                shifts = again * delta_new
            f_near = self._f_near(t, y, shifts, groups)  # f warns as it would elsewhere
            with np.errstate(all="ignore"):
                fresh = self._quotients(f_near, f_y, delta_new)
                column_new = pattern.column_tops(np.abs(fresh))
                gap = disagreement(
                    np.abs(fresh - entries),
                    rounding,
                    pattern.of_columns(np.abs(delta)),
                    pattern.of_columns(column_new),
                    eps,
                )
                agree = pattern.column_tops(gap) <= 0
                take = again & np.isfinite(column_new) & (wrong | empty | agree)
                if not np.count_nonzero(take):
                    break
                entries = np.where(pattern.of_columns(take), fresh, entries)
                s, delta = np.where(take, s_new, s), np.where(take, delta_new, delta)
                toward = np.where(take & wrong, -toward, toward)
        if not plain or left < ROUNDS:
            with np.errstate(all="ignore"):
                poor = noisy(noise, eps**0.5 * own * column, eps)
                learnt = learnt_sizes(s, noise, column, poor, eps)
            self._learnt = learnt if np.count_nonzero(learnt) else NOTHING
        self._seen = magnitude > 0 if self._seen is True else seen
        return entries

    def _f_near(self, t: float, y: Floats, delta: Floats, groups: Iterable[int]) -> Floats:
        """Values f(t, y + δ), δ of one group of columns only, for each of `groups`; else 0."""
        columns, near, f, copy = self.pattern.groups, y + delta, self.f, y.copy
        values = np.zeros((len(columns), len(y)), dtype=y.dtype)
        for g in groups:
            group, moved = columns[g], copy()
            moved[group] = near[group]
            self.nfev += 1
            values[g] = f(t, moved)
        return values.T

    def _quotients(self, f_near: Floats, f_y: Floats, delta: Floats) -> Floats:
        return self.pattern.spread(f_near - f_y[:, None]) / self.pattern.of_columns(delta)


def _top(size: Floats) -> float:
    """Return the largest of sizes, 1 if all are zero."""
    return float(size.max(initial=0.0)) or 1.0


@cache
def _units(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the unit of rounding, and the least size of a component."""
    info = np.finfo(dtype)
    return float(info.eps), float(info.tiny / info.eps)


# The rules of the increments, component by component: `stiffkit.solvers.compiled` compiles this
# very text for single numbers. u is `eps`, and `least` keeps δ a normal number; see the notes of
# `Differences`.


def first_sizes(size: Any, own: Any, learnt: Any, top: Any, eps: float, least: float) -> Any:
    """Return the sizes s, from the components' own and those that the last Jacobian asks for."""
    most = eps**0.25 * top
    zeros = where(own > 0, np.sqrt(own) * np.sqrt(most), most)
    s = where((size > 0) | (learnt > 0), learnt, zeros)
    return np.maximum(np.maximum(own, s), least)


def increments(y: Any, sign: Any, s: Any, eps: float) -> Any:
    """Return δ = ±√u s, of that sign, as y + δ holds it: exactly, and so no source of error."""
    return ((y + np.copysign(eps**0.5 * s, sign)) - y).real


def noisy(noise: Any, change: Any, eps: float) -> Any:
    """Whether a column's relative error, where it changes f by `change`, exceeds u^(3/8)."""
    return noise > eps**0.375 * change


def better_sizes(
    s: Any, noise: Any, column: Any, wrong: Any, empty: Any, top: Any, eps: float, least: float
) -> Any:
    """Return the sizes for a second look."""
    most = eps**-0.25 * s
    better = np.minimum(np.maximum(np.sqrt(s) * np.sqrt(4 / eps * noise / column), s), most)
    return np.maximum(where(empty, np.minimum(most, top), where(wrong, s, better)), least)


def disagreement(moved: Any, rounding: Any, delta: Any, column_new: Any, eps: float) -> Any:
    """Return by how much entries differ that agree but for noise, or little of the new column."""
    return moved * delta - np.maximum(2 * rounding, eps**0.375 * delta * column_new)


def learnt_sizes(s: Any, noise: Any, column: Any, poor: Any, eps: float) -> Any:
    """Return the sizes that the next Jacobian is to start from, zero where the own ones do."""
    wanted = where(column > 0, np.minimum(s, 4 / eps * noise / column), s)
    return where(poor | (column == 0), wanted, 0.0)


def time_increment(t: float, h: float, eps: float) -> float:
    """Return the increment of `time_derivative`."""
    return math.copysign(min(math.sqrt(eps * abs(h) * max(abs(t), abs(h))), abs(h)), h)


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
    eps = float(backend.xp.finfo(y.dtype).eps) if is_torch(y) else _units(y.dtype)[0]
    time = t + time_increment(t, h, eps)
    # f gets a tensor's times in the state's precision.
    given = (lambda s: float(backend.time(s, y))) if is_torch(y) else float
    step = given(time) - given(t)
    return 0 * f_y if step == 0 else (f(time, y) - f_y) / step
