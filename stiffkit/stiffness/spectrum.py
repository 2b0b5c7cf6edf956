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
)

__all__ = ["Eigenpair", "MatVec", "NumpyArray", "Rows", "Spectrum", "eigenvalues", "positive"]

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


# Start vectors and rows ---------------------------------------------------------------------------


class Rows:
    """`matvec` on one row per sample, whatever the caller's layout."""

    def __init__(self, matvec: MatVec, n: int | Array, *, batched: bool, seed: int) -> None:
        self.matvec, self.batched = matvec, batched
        self.products = 0
        like = getattr(matvec, "y", None)
        if isinstance(n, (int, np.integer)):
            start = self._random(int(n), like, seed)
        else:
            start = n if is_torch(n) else np.asarray(n)
            start = start.reshape((len(start), -1)) if batched else start.reshape((1, -1))
        self.backend = backend_of(start)
        self.xp = self.backend.xp
        size = self.xp.amax(self.xp.abs(start), axis=-1, keepdims=True)
        if not bool((self.xp.isfinite(size) & (size > 0)).all()):
            msg = "the start vector must be finite and not zero"
            raise ValueError(msg)
        start = start / size  # so that no norm overflows
        self.start = start / row_norm(start, self.xp)
        self.samples, self.n = self.start.shape
        self.eps = float(self.xp.finfo(self.start.dtype).eps)

    def _random(self, n: int, like: Array | None, seed: int) -> Array:
        """Return normal random rows: almost surely no eigenvector is missed, for any matrix."""
        if n < 1:
            msg = f"n={n!r} must be at least 1"
            raise ValueError(msg)
        if self.batched and like is None:
            msg = "a batched matvec needs a start vector of shape (B, n), not a size"
            raise ValueError(msg)
        rows = len(like) if self.batched and like is not None else 1
        values = np.random.default_rng(seed).standard_normal((rows, n))
        return values if like is None else backend_of(like).vector(values, like)

    def apply(self, v: Array) -> Array:
        """Return A v of each row, and count the product."""
        self.products += 1
        return self.matvec(v if self.batched else v[0]).reshape((self.samples, self.n))

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


def positive(name: str, value: int) -> int:
    """Return a count that is at least 1, or name it in a ValueError."""
    if value < 1:
        msg = f"{name}={value!r} must be at least 1"
        raise ValueError(msg)
    return int(value)


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
    """
    if isinstance(operator, JacobianOperator):
        before = operator.products
        A = dense_jacobian(operator)
        products = operator.products - before
    else:
        A, products = np.asarray(operator), 0
    values, vectors = np.linalg.eig(A)
    order = np.argsort(-np.abs(values), axis=-1, kind="stable")
    values = np.take_along_axis(values, order, -1).astype(np.complex128)
    vectors = np.take_along_axis(vectors, order[..., None, :], -1).astype(np.complex128)
    residuals = np.linalg.norm(A @ vectors - vectors * values[..., None, :], axis=-2)
    symmetric = np.linalg.eigvalsh((A + np.conj(np.swapaxes(A, -1, -2))) / 2)
    return Spectrum(
        values,
        vectors,
        residuals,
        0,
        products,
        np.ones(values.shape, dtype=bool),
        (symmetric[..., 0], symmetric[..., -1]),
    )
