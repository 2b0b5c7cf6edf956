"""Eigenvalues from products: what the estimators share, and the exact ones.

The algorithms of `power` and `krylov` take ``matvec(v) -> A v`` and either the size n or a start
vector, on NumPy arrays or torch tensors. With ``batched=True`` the start vector has shape (B, n)
and `matvec` applies B independent matrices at once; results then have a leading axis B.

A Ritz pair (θ, x), ‖x‖ = 1, comes with its residual r = ‖A x − θ x‖. It is an exact eigenpair of a
matrix at distance r from A, whatever A is; for a normal A an eigenvalue lies within r of θ.

`converged` says that r is small, no more. That no other eigenvalue is larger, or further right, is
likely after a random start and cannot be known: products show nothing of a direction that no vector
has had. Eigenvalues of multiplicity m may be found once or up to m times.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._array import Array, backend_of, is_torch
from ..solvers.jacobian import (
    JacobianOperator,
    dense_jacobian,
    row_norm,
    unchanged,
)
from ..solvers.problem import check_callable, check_positive

__all__ = [
    "Eigenpair",
    "MatVec",
    "NotFiniteError",
    "NumpyArray",
    "Rows",
    "Spectrum",
    "check_tolerance",
    "eigenvalues",
    "finite_matrix",
    "halved_sum",
]

MatVec = Callable[[Array], Array]
NumpyArray = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Eigenpair:
    """An estimate of one eigenvalue. Batched: every field but `products` has a leading axis."""

    value: Any
    """The eigenvalue: complex, or the spectral radius where the estimator sees no more (float)."""
    vector: NumpyArray
    """Eigenvector of Euclidean norm 1, shape (n,)."""
    residual: Any
    """‖A x − value · x‖: the estimate is exact for a matrix this close to A. For the nonlinear
    power iteration, the last change of the value."""
    iterations: Any
    """Iterations made."""
    products: int
    """Products with A (calls of f for the nonlinear power iteration)."""
    converged: Any
    """Whether the residual is within tolerance of the value."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Estimates of several eigenvalues, those wanted most first. Batched: a leading axis."""

    values: NumpyArray
    """Ritz values, shape (k,)."""
    vectors: NumpyArray
    """Ritz vectors of norm 1 as columns, shape (n, k)."""
    residuals: NumpyArray
    """‖A x − θ x‖ of each, shape (k,)."""
    iterations: int
    """Steps of the Krylov process, over all restarts."""
    products: int
    """Products with A."""
    converged: NumpyArray
    """Whether each residual is within tolerance of the largest Ritz value's modulus, (k,)."""
    field_of_values: tuple[Any, Any]
    """Least and largest real part of the numerical range of A on the Krylov space: bounds from
    inside of those of A; the second is a lower bound of the logarithmic norm μ₂."""


class NotFiniteError(ValueError):
    """A matrix, or a product with it, holds NaN or inf: it has no eigenvalues to estimate."""


# Start vectors and rows ---------------------------------------------------------------------------


class Rows:
    """`matvec` on one row per sample, whatever the caller's layout, and what it returns checked."""

    def __init__(self, matvec: MatVec, n: int | Array, *, batched: bool, seed: Any) -> None:
        check_callable("matvec", matvec)
        self.matvec, self.batched = matvec, batched
        self.products = 0
        like = getattr(matvec, "y", None)
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            msg = f"seed must be an integer from 0 on, not {seed!r}"
            raise ValueError(msg)
        start: Array
        if not _is_vector(n):
            start = self._random(check_positive("n", n, whole=True), like, int(seed))
        else:
            n = backend_of(n).state(n, "n")
            if not math.prod(n.shape):
                msg = f"n must not be empty, as a start vector of shape {tuple(n.shape)} is"
                raise ValueError(msg)
            start = n.reshape((len(n), -1)) if batched else n.reshape((1, -1))
        self.backend = backend_of(start)
        self.xp = self.backend.xp
        size = self.xp.amax(self.xp.abs(start), axis=-1, keepdims=True)
        if not bool((self.xp.isfinite(size) & (size > 0)).all()):
            msg = "n, a start vector, must be finite and not zero"
            raise ValueError(msg)
        start = start / size  # so that no norm overflows
        self.start = start / row_norm(start, self.xp)
        self.samples, self.n = self.start.shape
        self.eps = float(self.xp.finfo(self.start.dtype).eps)

    def _random(self, n: int, like: Array | None, seed: int) -> Array:
        """Return normal random rows: almost surely no eigenvector is missed, for any matrix."""
        if self.batched and like is None:
            msg = "a batched matvec needs a start vector of shape (B, n), not a size"
            raise ValueError(msg)
        rows = len(like) if self.batched and like is not None else 1
        values = np.random.default_rng(seed).standard_normal((rows, n))
        return values if like is None else backend_of(like).vector(values, like)

    def apply(self, v: Array) -> Array:
        """Return A v of each row, and count the product."""
        self.products += 1
        given = self.backend.protect((v if self.batched else v[0])[...])
        w = unchanged("matvec", self.matvec, given)
        if not is_torch(given):
            w = np.asarray(w)
            known = w.dtype.kind in "biufc"
        else:
            known = is_torch(w)
        if not known:
            kind = type(given).__name__
            msg = f"matvec must return numbers in a {kind}, not {getattr(w, 'dtype', type(w))}"
            raise TypeError(msg)
        if math.prod(w.shape) != math.prod(given.shape):
            msg = f"matvec returned shape {tuple(w.shape)} for a vector of {tuple(given.shape)}"
            raise ValueError(msg)
        w = w.reshape((self.samples, self.n))
        good = self.backend.numpy(self.xp.isfinite(w).all(-1))
        if not good.all():
            which = f" in sample {int(np.argmin(good))}" if self.batched else ""
            msg = f"A v is not finite{which}, product {self.products}: A has no spectrum there"
            raise NotFiniteError(msg)
        return w

    def norm(self, x: Array) -> Array:
        """‖x‖ of each row, shape (B, 1)."""
        return row_norm(x, self.xp)

    def dot(self, x: Array, y: Array) -> Array:
        """⟨x, y⟩ of each row, shape (B, 1)."""
        return (self.xp.conj(x) * y).sum(axis=-1, keepdims=True)

    def give(self, x: NumpyArray) -> Any:
        """Drop the sample axis unless the caller has one; scalars become Python's."""
        if self.batched:
            return x
        return x[0] if x[0].ndim else x[0].item()


def _is_vector(n: Any) -> bool:
    try:
        return np.ndim(n) > 0
    except ValueError:  # rows of different lengths
        return True


def check_tolerance(tol: Any, name: str = "tol") -> float:
    """Return a number that is zero or positive, or name it in a ValueError."""
    return float(tol) if isinstance(tol, (int, float)) and tol == 0 else check_positive(name, tol)


def halved_sum(A: NumpyArray) -> NumpyArray:
    """Return (A + A*)/2, halves first: their sum does not overflow."""
    return 0.5 * A + 0.5 * np.conj(np.swapaxes(A, -1, -2))


def finite_matrix(A: npt.ArrayLike) -> NumpyArray:
    """Return a square matrix, or a stack of such, in double precision, if its entries are finite.

    Raises
    ------
    ValueError
        If it is not square, empty, or holds NaN or inf.
    """
    given: Any = A
    if is_torch(given):
        backend = backend_of(given)
        kind = backend.xp.complex128 if given.is_complex() else backend.xp.float64
        given = backend.numpy(given.to(kind))
    try:
        matrix = np.asarray(given)
    except ValueError as error:
        msg = f"A is not an array: its rows have different lengths ({error})"
        raise ValueError(msg) from error
    if matrix.dtype.kind not in "biufc" or matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        msg = f"A must be square, of numbers, not of shape {matrix.shape}, dtype {matrix.dtype}"
        raise ValueError(msg)
    if not matrix.size:
        msg = f"A must not be empty, as shape {matrix.shape} is"
        raise ValueError(msg)
    # Of small integers |A| and sums would overflow, and LAPACK knows no half precision.
    matrix = matrix.astype(np.complex128 if matrix.dtype.kind == "c" else np.float64)
    if not np.isfinite(matrix).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(matrix))[0])
        msg = f"A is not finite at {where}"
        raise NotFiniteError(msg)
    return matrix


def eigenvalues(operator: JacobianOperator | npt.ArrayLike) -> Spectrum:
    """All eigenvalues of a small Jacobian, or matrix, to rounding (LAPACK).

    Parameters
    ----------
    operator : JacobianOperator or array_like, shape (n, n) or (B, n, n)
        An operator costs n products.

    Returns
    -------
    Spectrum
        Values from the largest modulus to the smallest.

    Raises
    ------
    ValueError
        If the matrix is empty, not square or not finite.

    References
    ----------
    E. Anderson et al., LAPACK Users' Guide, 3rd ed., SIAM (1999), doi:10.1137/1.9780898719604.
    """
    if isinstance(operator, JacobianOperator):
        before = operator.products
        A = finite_matrix(dense_jacobian(operator))
        products = operator.products - before
    else:
        A, products = finite_matrix(operator), 0
    # Scaled by a power of two, exactly, so that no square of a residual over- or underflows.
    size = np.abs(A).max(axis=(-2, -1))
    scale = np.where(size > 0, np.exp2(np.floor(np.log2(np.where(size > 0, size, 1.0)))), 1.0)
    A = A / scale[..., None, None]
    values, vectors = np.linalg.eig(A)
    order = np.argsort(-np.abs(values), axis=-1, kind="stable")
    values = np.take_along_axis(values, order, -1).astype(np.complex128)
    vectors = np.take_along_axis(vectors, order[..., None, :], -1).astype(np.complex128)
    residuals = np.linalg.norm(A @ vectors - vectors * values[..., None, :], axis=-2)
    symmetric = np.linalg.eigvalsh(halved_sum(A))
    return Spectrum(
        values * scale[..., None],
        vectors,
        residuals * scale[..., None],
        0,
        products,
        np.ones(values.shape, dtype=bool),
        (symmetric[..., 0] * scale, symmetric[..., -1] * scale),
    )
