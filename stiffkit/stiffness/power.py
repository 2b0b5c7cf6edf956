"""Power iteration, on products and on differences of the right-hand side."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .._array import Array, Backend, backend_of
from ..solvers.jacobian import (
    increment,
    row_norm,
    slope,
    slope_at,
    time_like,
)
from ..solvers.problem import check_callable, check_positive, first_bad
from .spectrum import Eigenpair, MatVec, NumpyArray, Rows, check_tolerance

__all__ = ["nonlinear_power_iteration", "power_iteration", "settled"]


def power_iteration(
    matvec: MatVec,
    n: int | Array,
    *,
    tol: float = 1e-2,
    max_iterations: int = 100,
    batched: bool = False,
    seed: int = 0,
) -> Eigenpair:
    """Estimate the eigenvalue of largest modulus, real or one of a complex or ± pair.

    Every iteration takes the Ritz pair of larger modulus from the span of the last two vectors,
    so pairs λ, λ̄ and λ, −λ, on which the plain quotient never settles, are seen as they are.

    Parameters
    ----------
    matvec : callable
        ``v -> A v``.
    n : int or array
        Size, or a start vector, shape (n,), or (B, n) with `batched`.
    tol : float
        Stop when the residual is below ``tol · |value|``; 0 for all iterations.
    max_iterations : int
        Bound of the products.
    batched : bool
        Treat rows as samples with a matrix of their own.
    seed : int
        Of the random start.

    Returns
    -------
    Eigenpair
        For A = 0 the value 0. Converges as ``(|λ₃|/|λ₁|)^k`` for a pair λ₁, λ₂ of equal modulus,
        else as ``(|λ₂|/|λ₁|)^k``; slowly (1/k) for a defective eigenvalue.

    Raises
    ------
    TypeError, ValueError
        If an argument is unusable or `matvec` changes its own, or a product is not finite.

    References
    ----------
    Y. Saad, Numerical Methods for Large Eigenvalue Problems, 2nd ed., SIAM (2011), sections 4.1
    and 4.3.3, doi:10.1137/1.9781611970739. L. F. Shampine, Diagnosing stiffness for Runge-Kutta
    methods, SIAM J. Sci. Stat. Comput. 12 (1991) 260-272, doi:10.1137/0912015.
    """
    max_iterations = check_positive("max_iterations", max_iterations, whole=True)
    rows = Rows(matvec, n, batched=batched, seed=seed)
    check_tolerance(tol)
    pair = _PowerPair(rows)
    done = np.zeros(rows.samples, dtype=bool)
    counts = np.zeros(rows.samples, dtype=int)
    best: tuple[NumpyArray, NumpyArray, NumpyArray] | None = None
    for iteration in range(1, max_iterations + 1):
        value, vector, residual = pair.advance()
        if best is None:
            best = value, vector, residual
        for new, kept in zip((value, vector, residual), best, strict=True):
            kept[~done] = new[~done]
        counts[~done] = iteration
        done |= residual <= tol * np.abs(value)
        if done.all():
            break
    assert best is not None
    value, vector, residual = best
    return Eigenpair(
        rows.give(value),
        rows.give(vector),
        rows.give(residual),
        rows.give(counts),
        rows.products,
        rows.give(done),
    )


class _PowerPair:
    """Successive vectors of the power method, and the Ritz pair of the last two."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.v = rows.start
        self.p: Array | None = None  # the vector before v, and ‖A p‖: A p = p_norm v
        self.p_norm: Array | None = None

    def advance(self) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
        """Return value (B,), vector (B, n) and residual (B,) after one more product."""
        rows, v = self.rows, self.v
        w = rows.apply(v)
        norm = rows.norm(w)
        ones = rows.xp.ones_like(norm)
        # Work with w/‖w‖, so that no scale of A overflows; a vanishing w leaves v where it is.
        u = rows.xp.where(norm > 0, w / rows.xp.where(norm > 0, norm, ones), v * 0.0)
        result = self._ritz(v, u, norm)
        self.p, self.p_norm = v, norm
        self.v = rows.xp.where(norm > 0, u, v)
        return result

    def _ritz(self, v: Array, u: Array, norm: Array) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
        rows, numpy = self.rows, self.rows.backend.numpy
        scale = numpy(norm)[:, 0].astype(np.float64)
        theta = numpy(rows.dot(v, u))[:, 0]
        v_n, u_n = numpy(v), numpy(u)
        value = theta.astype(np.complex128)
        vector = v_n.astype(np.complex128)
        residual = np.linalg.norm(u_n - theta[:, None] * v_n, axis=1)
        if self.p is not None and self.p_norm is not None:
            p, p_scale = numpy(self.p), numpy(self.p_norm)[:, 0].astype(np.float64)
            for b in range(rows.samples):
                two = _ritz_pair_of_two(p[b], p_scale[b], v_n[b], u_n[b], scale[b], rows.eps)
                if two is not None and two[2] < residual[b]:
                    value[b], vector[b], residual[b] = two
        return value * scale, vector, residual * scale


def _ritz_pair_of_two(
    p: NumpyArray, p_scale: float, v: NumpyArray, u: NumpyArray, scale: float, eps: float
) -> tuple[complex, NumpyArray, float] | None:
    """Ritz pair of larger modulus of A/scale on span{p, v}, from A p = p_scale v, A v = scale u."""
    if scale <= eps**2 * p_scale:  # A v vanishes beside A p: v itself is a null vector
        return None
    overlap = np.vdot(v, p)
    q = p - overlap * v
    size = float(np.linalg.norm(q))
    if size < eps**0.5:  # p and v agree: their difference is rounding
        return None
    q = q / size
    image = (p_scale / scale * v - overlap * u) / size  # A q / scale
    small = np.array(
        [[np.vdot(v, u), np.vdot(v, image)], [np.vdot(q, u), np.vdot(q, image)]]
    ).astype(np.complex128)
    if not np.isfinite(small).all():
        return None
    thetas, weights = np.linalg.eig(small)
    i = int(np.argmax(np.abs(thetas)))
    a, b = weights[:, i]
    x = a * v + b * q
    norm = float(np.linalg.norm(x))  # q is orthogonal to v only as far as cancellation allows
    residual = float(np.linalg.norm(a * u + b * image - thetas[i] * x)) / norm
    return complex(thetas[i]), x / norm, residual


def nonlinear_power_iteration(
    f: Callable[[Any, Array], Array],
    t: Any,
    y: Array,
    *,
    f_0: Array | None = None,
    start: Array | None = None,
    tol: float = 1e-2,
    max_iterations: int = 50,
    smallest: float = 0.0,
    batched: bool = False,
) -> Eigenpair:
    """Estimate the spectral radius of ∂f/∂y by power iteration on differences of f (RKC's).

    Parameters
    ----------
    f : callable
        Right-hand side.
    t : float or array
        Time.
    y : array
        State, any shape; with `batched` the first axis counts samples.
    f_0 : array, optional
        f(t, y) where it is known.
    start : array, optional
        A direction in the state's shape; best the `vector` of the estimate before (reshaped),
        with which two or three calls of f suffice. Default f_0.
    tol : float
        Stop, after the second iteration at the earliest, when the value changes by less than
        ``tol · max(value, smallest)``.
    max_iterations : int
        Bound of the calls of f, the one for f(t, y) not counted.
    smallest : float
        Values below this do not matter: RKC takes 1/h_max.
    batched : bool
        Estimate for each sample.

    Returns
    -------
    Eigenpair
        `value` is a float, and an estimate from below for normal Jacobians: RKC multiplies by
        1.2. `residual` is the last change. Where f is not finite beside y the value is inf, and
        has not converged.

    Raises
    ------
    TypeError, ValueError
        If an argument is unusable, y or `start` is not finite, or f changes y in place.

    References
    ----------
    B. P. Sommeijer, L. F. Shampine, J. G. Verwer, RKC: an explicit solver for parabolic PDEs, J.
    Comput. Appl. Math. 88 (1998) 315-326, doi:10.1016/S0377-0427(97)00219-7.
    """
    max_iterations = check_positive("max_iterations", max_iterations, whole=True)
    check_callable("f", f)
    check_tolerance(tol)
    check_tolerance(smallest, "smallest")
    backend = backend_of(y)
    xp, y = backend.xp, backend.protect(backend.state(y, "y"))
    if not math.prod(y.shape) or (batched and not y.ndim):
        msg = f"y must hold a number (with batched, a row of them), not have shape {tuple(y.shape)}"
        raise ValueError(msg)
    if not bool(xp.isfinite(y).all()):
        msg = f"y is not finite at component {first_bad(y, backend)}"
        raise ValueError(msg)
    t = time_like(t, y)
    shape = (len(y), -1) if batched else (1, -1)
    calls = 0

    def rows(x: Array) -> Array:
        return x.reshape(shape)

    def call(z: Array) -> Array:
        nonlocal calls
        calls += 1
        return rows(slope_at(f, t, z.reshape(y.shape)))

    base = call(y) if f_0 is None else rows(slope("f_0", f_0, y))
    flat = rows(y)
    direction = base if start is None else _direction(start, y, backend).reshape(shape)
    # Without a slope any direction must do: all components alike.
    usable = xp.isfinite(direction).all(-1)[:, None] & (direction != 0).any(-1)[:, None]
    direction = xp.where(usable, direction, xp.ones_like(direction))
    radius = increment(flat, float(xp.finfo(y.dtype).eps) ** 0.5)
    step = direction / row_norm(direction, xp) * radius
    value = np.zeros(len(flat))
    change = np.full(len(flat), np.inf)
    done, lost = np.zeros((2, len(flat)), dtype=bool)
    counts = np.zeros(len(flat), dtype=int)
    with backend.quiet():  # what is not finite beside y is told by the value
        for iteration in range(1, max_iterations + 1):
            difference = call(flat + step) - base
            norm = row_norm(difference, xp)
            new = backend.numpy(norm / radius)[:, 0].astype(np.float64)
            lost |= ~(done | np.isfinite(new))
            value[lost], change[lost] = np.inf, np.inf
            done |= lost
            running = ~done
            change[running] = np.abs(new - value)[running]
            value[running] = new[running]
            counts[running] = iteration
            if iteration >= 2:
                done |= settled(change, value, smallest, tol)
            flipped = backend.copy(step)
            index = iteration % flat.shape[1]
            flipped[:, index] = -flipped[:, index]
            unit = difference / xp.where(norm > 0, norm, xp.ones_like(norm))
            moved = xp.where(norm > 0, unit * radius, flipped)
            step = xp.where(backend.real_like(running[:, None], y) > 0, moved, step)
            if done.all():
                break
    vector = backend.numpy(step / radius)

    def give(x: NumpyArray) -> Any:
        if batched:
            return x
        return x[0] if x[0].ndim else x[0].item()

    found = done & ~lost
    return Eigenpair(give(value), give(vector), give(change), give(counts), calls, give(found))


def settled(change: Any, value: Any, smallest: Any, tol: float) -> Any:
    """Whether an estimate stays; `stiffkit.solvers.compiled` compiles this very text."""
    return change <= tol * np.maximum(value, smallest)


def _direction(start: Array, y: Array, backend: Backend) -> Array:
    """Return a start vector as an array like y."""
    values = backend_of(start).numpy(start)
    if values.size != math.prod(y.shape) or not np.isfinite(values).all():
        msg = f"start must be finite and of y's shape {tuple(y.shape)}; it has {values.shape}"
        raise ValueError(msg)
    return backend.vector(values, y)
