"""The proof of `detect`, for some rows at once: which mode limits a step, and what lies beneath it.

An Arnoldi process starts from each row's error estimate, and the mode that it finds is taken out of
what the solution has changed by over the step. All that is asked of f are calls with these rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .._array import Array, backend_of
from ..solvers.jacobian import JacobianOperator, increment, row_norm
from .krylov import Krylov
from .spectrum import NumpyArray, Rows

__all__ = ["Mode", "StepRows", "prove", "rates_along", "slow_path"]

RITZ_TOLERANCE = 0.05
"""Residual over ``|θ|`` that ends a row's search."""

DIMENSION = 20
"""Largest Krylov space."""

NOTHING = 0.05
"""h ‖J err‖ / ‖err‖ in units of the tolerance below which no fast mode has made the error."""


class StepRows(NamedTuple):
    """Steps that have been made, one in each row; states and slopes have shape (b, n)."""

    f: Callable[[NumpyArray, Array], Array]
    """``f(t, y)`` of these rows, t of shape (b,) in NumPy's float64."""
    t: NumpyArray
    """Ends, shape (b,)."""
    h: NumpyArray
    """Signed sizes, shape (b,)."""
    y: Array
    """States at the ends."""
    f_new: Array
    """Slopes there."""
    rise: Array
    """Changes of the state over the step."""
    turn: Array
    """Changes of the slope."""
    err: Array
    """Error estimates."""
    norm: Callable[[Array], NumpyArray]
    """Rms of rows in units of the tolerance, shape (b,)."""

    def column(self, values: NumpyArray) -> Array:
        """Return a number for each row so that it multiplies the row."""
        return backend_of(self.y).real_like(values[:, None], self.y)


class Mode(NamedTuple):
    """The mode that may limit a step, and what the solution does without it."""

    value: complex
    """Dominant Ritz value of the Jacobian at the end of the step."""
    vector: NumpyArray
    """Its vector, shape (n,)."""
    residual: float
    """Its residual."""
    slow: tuple[float, float]
    """Norms of the changes of y and y' over the step without the mode."""


def prove(step: StepRows, least: float = NOTHING) -> list[Mode | None]:
    """Find the mode of each row; None where the error estimate is rich in no fast one.

    Parameters
    ----------
    step : StepRows
        The steps.
    least : float
        h ‖J err‖ / ‖err‖ from which on the error is one of a fast mode.

    Raises
    ------
    ValueError
        If f beside the path is not finite.
    """
    operator = _operator(step)
    values, vectors, residuals, fast = _dominant(step, operator, least)
    if not fast.any():
        return [None] * len(fast)
    before = step._replace(t=step.t - step.h, y=step.y - step.rise, f_new=step.f_new - step.turn)
    bend = _second(step) - _second(before)
    slow = _above_rounding(step, *slow_path(step.rise, step.turn, bend, values, operator))
    rise, turn = (step.norm(x).tolist() for x in slow)
    return [
        Mode(complex(values[i]), vectors[i], float(residuals[i]), (rise[i], turn[i]))
        if fast[i]
        else None
        for i in range(len(fast))
    ]


def _operator(step: StepRows) -> JacobianOperator:
    return JacobianOperator(
        lambda _, y: step.f(step.t, y),
        0.0,
        step.y,
        method="difference",
        batched=True,
        f_0=step.f_new,
    )


def _dominant(
    step: StepRows, operator: JacobianOperator, least: float
) -> tuple[NumpyArray, NumpyArray, NumpyArray, NumpyArray]:
    """Return Ritz values, vectors and residuals of the rows, and which errors are of fast modes."""
    xp, err = operator.backend.xp, step.err
    # Without an error estimate the slope must do, and without one all components alike.
    slopes = xp.where((step.f_new != 0).any(1)[:, None], step.f_new, xp.ones_like(err))
    start = xp.where((err != 0).any(1)[:, None], err, slopes)
    krylov = Krylov(Rows(operator, start, batched=True, seed=0), DIMENSION)
    b, n = step.err.shape
    values, residuals = np.zeros(b, complex), np.zeros(b)
    vectors, left = np.zeros((b, n), complex), np.ones(b, bool)
    fast = left
    for m in range(1, krylov.k + 1):
        krylov.extend(m)
        if m == 1:
            left = fast = np.abs(step.h) * _growth(step, krylov) >= least
        if m > 1 or krylov.k == 1:
            found, weights, missing = krylov.dominant()
            values[left], residuals[left] = found[left], missing[left]
            vectors[left] = krylov.combined(weights)[left]
            left = left & (missing > RITZ_TOLERANCE * np.abs(found)) & (krylov.length > m)
        if not left.any():
            break
    return values, vectors, residuals, fast


def _growth(step: StepRows, krylov: Krylov) -> NumpyArray:
    """Return ‖J v‖ / ‖v‖ of the start vectors, by the first product."""
    v, backend = krylov.V[0], backend_of(step.y)
    a, b = (backend.vector(x[:, None], step.y) for x in krylov.H[:, :2, 0].T)
    w = a * v + b * krylov.V[1]
    return _quotient(step.norm(w), step.norm(v), np.inf)


def rates_along(step: StepRows, directions: Array) -> NumpyArray:
    """Return ‖J v‖ / ‖v‖ of a direction in each row, by one call of f; shape (b,)."""
    xp = backend_of(step.y).xp
    radius = increment(step.y, float(xp.finfo(step.y.dtype).eps) ** 0.5)
    moved = radius * (directions / row_norm(directions, xp))
    change = step.f(step.t, step.y + moved) - step.f_new
    return _quotient(step.norm(change), step.norm(moved), 0.0)


def _quotient(above: NumpyArray, below: NumpyArray, otherwise: float) -> NumpyArray:
    quotient: NumpyArray = np.full(len(below), otherwise)
    np.divide(above, below, out=quotient, where=below > 0)
    return quotient


def _second(step: StepRows) -> Array:
    """Return y'' at the ends along the solution, by a difference over a small share of a step."""
    delta = float(backend_of(step.y).xp.finfo(step.y.dtype).eps) ** 0.25 * step.h
    size = step.column(delta)
    return (step.f(step.t + delta, step.y + size * step.f_new) - step.f_new) / size


def _above_rounding(step: StepRows, rise: Array, turn: Array) -> tuple[Array, Array]:
    """Return changes of y and y' without those that rounding makes: of y, and of `_second`.

    At rest nothing else is left of a stiff component's slow path, and it would look very fast.
    """
    xp = backend_of(step.y).xp
    eps, size = float(xp.finfo(step.y.dtype).eps), 4 * xp.abs(step.y)
    rise = xp.where(xp.abs(rise) > eps * size, rise, 0 * rise)
    least = eps**0.75 * size / abs(step.column(step.h))
    return rise, xp.where(xp.abs(turn) > least, turn, 0 * turn)


def slow_path(
    rise: Array,
    turn: Array,
    bend: Array,
    values: NumpyArray,
    operator: Callable[[Array], Array],
) -> tuple[Array, Array]:
    """Return the changes of y and y' over a step without their part along a mode.

    Parameters
    ----------
    rise, turn, bend : array of shape (b, n)
        Changes of y, y' and y''.
    values : array of shape (b,)
        Each row's eigenvalue λ. With D = d/dt along the solution ``1 − D/λ`` removes the mode and
        leaves what is slow, forced or not, nearly as it is; for a pair of a real Jacobian
        ``(1 − D/λ)(1 − D/λ̄)`` does. Where λ = 0 nothing is removed.
    operator : callable
        v ↦ J v at the step's end, of all rows: for a pair ``J bend`` stands for the change of the
        third derivative, which is true of the mode, and small for the rest.
    """
    backend, size = backend_of(rise), np.abs(values)
    inverse = np.divide(1.0, size, out=np.zeros(len(size)), where=size > 0)
    unit = np.conj(values) * inverse  # |λ| / λ
    column = backend.real_like(inverse[:, None], rise)
    turn_1, bend_1 = turn * column, bend * column
    if rise.dtype != rise.real.dtype:
        first = backend.vector(unit[:, None], rise)
        return rise - first * turn_1, turn - first * bend_1
    pair = values.imag != 0
    first = backend.real_like(np.where(pair, 2.0, 1.0)[:, None] * unit.real[:, None], rise)
    rise, turn = rise - first * turn_1, turn - first * bend_1
    if not pair.any():
        return rise, turn
    second = backend.real_like(np.where(pair, inverse, 0.0)[:, None], rise)
    return rise + second * bend_1, turn + second * operator(bend_1)
