"""The mass matrix of M y' = f(t, y)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import scipy.sparse as sps
import scipy.sparse.linalg as spla
from scipy.linalg import lu_factor, lu_solve

from .._array import Array, backend_of, is_torch

__all__ = ["Mass", "mass_structure", "scaled_rank"]

LARGE = 1000
"""Rows of a sparse matrix from which its rank is no longer computed from all its entries."""


@dataclass(frozen=True, eq=False)
class Mass:
    """The mass matrix M of M y' = f(t, y), constant, in its simplest form."""

    kind: Literal["identity", "diagonal", "dense", "sparse"]
    """What `matrix` holds."""
    matrix: Any
    """None; the diagonal, shape (n,); an array, shape (n, n); a CSC array."""
    n: int
    """Rows, and columns."""
    rank: int
    """Numerical rank; for a singular sparse matrix of more than 1000 rows an upper bound."""

    @property
    def singular(self) -> bool:
        """Whether the equation is differential-algebraic."""
        return self.rank < self.n

    def __matmul__(self, v: Array) -> Array:
        """M v, along the last axis of an array, or the only one."""
        if self.kind == "identity":
            return v
        if self.kind == "diagonal":
            return self.matrix * v
        return self.matrix @ v if v.ndim == 1 else v @ self.matrix.T

    @cached_property
    def solve(self) -> Callable[[Array], Array]:
        """Function v ↦ M⁻¹ v, for a regular M and NumPy vectors; factorised once."""
        if self.kind == "identity":
            return lambda v: v
        if self.kind == "diagonal":
            return lambda v: v / self.matrix
        if self.kind == "sparse":
            return cast(Callable[[Array], Array], spla.splu(self.matrix).solve)
        factors = lu_factor(self.matrix)
        return lambda v: lu_solve(factors, v, check_finite=False)

    def toarray(self, like: Array) -> Array:
        """Return M as a full array of the kind of `like`, shape (n, n)."""
        if self.kind == "identity":
            return backend_of(like).vector(np.eye(self.n), like)
        if self.kind == "diagonal":
            return backend_of(like).xp.diag(self.matrix)
        return self.matrix.toarray() if self.kind == "sparse" else self.matrix

    def tosparse(self) -> Any:
        """Return M as a CSC array."""
        if self.kind == "identity":
            return sps.csc_array(sps.eye_array(self.n))
        diagonal = self.kind == "diagonal"
        return sps.csc_array(sps.diags_array(self.matrix) if diagonal else self.matrix)


def mass_structure(M: Any, y: Array) -> Mass:
    """Return the simplest form of a mass matrix for states like `y`, and its rank.

    Parameters
    ----------
    M : None, array_like of shape (n, n), sparse matrix, `Banded`, or array_like of shape (n,)
        None is the identity, a vector the diagonal. For a torch state it becomes a tensor.
    y : array, shape (n,) or (B, n)
        State; M is one and the same for all samples.

    Returns
    -------
    Mass
        In the state's dtype.

    Raises
    ------
    ValueError
        If M has a wrong shape, is not finite, or is complex where y is real.
    TypeError
        If M is a function.
    """
    n = int(y.shape[-1])
    if M is None:
        return Mass("identity", None, n, n)
    if callable(M):
        msg = (
            f"mass={M!r} is a function; M must be constant. For a regular M(t, y) solve y' = z, "
            "0 = f(t, y) - M(t, y) z, with ones and zeros for the mass"
        )
        raise TypeError(msg)
    backend = backend_of(y)
    M = M.tosparse() if hasattr(M, "tosparse") else M
    sparse = sps.issparse(M)
    entries: Any = sps.csc_array(M) if sparse else _numbers("mass", backend_of(M).numpy(M))
    if entries.shape not in ((n, n), (n,)):
        msg = f"mass has shape {entries.shape}; for states of {n} components it must be ({n}, {n})"
        raise ValueError(msg)
    dtype = backend.numpy(y).dtype
    if entries.dtype.kind == "c" and dtype.kind != "c":
        msg = "mass is complex, but the state is real"
        raise ValueError(msg)
    entries = entries.astype(dtype)
    if not np.isfinite(entries.data if sparse else entries).all():
        msg = "mass must be finite"
        raise ValueError(msg)
    diagonal = entries if entries.ndim == 1 else entries.diagonal()
    if entries.ndim == 1 or _off_diagonal(entries) == 0:
        if (diagonal == 1).all():
            return Mass("identity", None, n, n)
        rank = int(np.count_nonzero(diagonal))
        return Mass("diagonal", backend.vector(diagonal, y), n, rank)
    if sparse and not is_torch(y):
        return Mass("sparse", entries, n, scaled_rank(entries))
    full = entries.toarray() if sparse else entries
    return Mass("dense", backend.vector(full, y), n, scaled_rank(full))


def _numbers(name: str, value: Any) -> npt.NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.kind not in "iubfc":
        msg = f"{name} must hold numbers, not {array.dtype}"
        raise ValueError(msg)
    return array


def _off_diagonal(entries: Any) -> int:
    every = entries.data if sps.issparse(entries) else entries
    return int(np.count_nonzero(every)) - int(np.count_nonzero(entries.diagonal()))


def scaled_rank(entries: Any, rtol: float | None = None) -> int:
    """Rank after rows and columns were scaled to a largest entry of one: units do not count.

    Singular values below `rtol` times the largest are zero; by default that is the rounding error.
    """
    n = int(entries.shape[0])
    if sps.issparse(entries) and n > LARGE:
        try:
            spla.splu(entries)
        except RuntimeError:  # exactly singular
            return min(int(sps.csgraph.structural_rank(entries)), n - 1)
        return n
    dense = entries.toarray() if sps.issparse(entries) else entries
    for axis in (1, 0):
        top = np.abs(dense).max(axis=axis, keepdims=True)
        dense = dense / np.where(top > 0, top, 1)
    return int(np.linalg.matrix_rank(dense, rtol=rtol))
