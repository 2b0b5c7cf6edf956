"""Linear systems (M − c J) x = r of implicit steps: the solver is chosen by what J is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sps
import scipy.sparse.linalg as spla
from scipy.linalg import get_lapack_funcs

from .._array import Array, is_torch
from .jacobian import JacobianOperator
from .mass import Mass

__all__ = [
    "Banded",
    "LinearSolveError",
    "LinearSolver",
    "SingularMatrix",
    "linear_solver_for",
    "singular",
]

Solve = Callable[[Array], Array]
"""r ↦ x with (M − c J) x = r."""


_CYCLES = 5
"""Restarts of GMRES, of 30 products each: where more are needed, a smaller step costs less."""


class LinearSolveError(ArithmeticError):
    """A linear system was not solved: the step that needs it should be tried again, smaller."""


class SingularMatrix(LinearSolveError):
    """M − c J is singular, or not finite."""


@dataclass(frozen=True, eq=False)
class Banded:
    """A square matrix by its diagonals: ``ab[mu + i - j, j]`` is its entry (i, j).

    This is the layout of LAPACK and of `scipy.linalg.solve_banded`. Row mu of `ab` is the main
    diagonal, the rows above it the upper ones. The corners, outside the matrix, are not looked at.

    Raises
    ------
    ValueError
        If a width is not in 0, ..., n − 1, or the shape of `ab` is not (ml + mu + 1, n).
    """

    ab: npt.NDArray[Any]
    """Shape (ml + mu + 1, n)."""
    ml: int
    """Diagonals below the main one."""
    mu: int
    """Diagonals above it."""

    def __post_init__(self) -> None:
        if self.ab.ndim != 2 or len(self.ab) != self.ml + self.mu + 1:
            rows = f"ml + mu + 1 = {self.ml + self.mu + 1} rows"
            msg = f"ab has shape {self.ab.shape}; bandwidth={(self.ml, self.mu)} asks for {rows}"
            raise ValueError(msg)
        if not (0 <= self.ml < self.n and 0 <= self.mu < self.n):
            msg = f"bandwidth={(self.ml, self.mu)} must hold two numbers from 0 to {self.n - 1}"
            raise ValueError(msg)

    @property
    def n(self) -> int:
        """Rows, and columns."""
        return int(self.ab.shape[1])

    def toarray(self) -> npt.NDArray[Any]:
        """Return the matrix with its zeros, shape (n, n)."""
        rows = np.arange(-self.mu, self.ml + 1)[:, None] + np.arange(self.n)
        inside = (rows >= 0) & (rows < self.n)
        dense = np.zeros((self.n, self.n), dtype=self.ab.dtype)
        cols = np.broadcast_to(np.arange(self.n), rows.shape)
        dense[rows[inside], cols[inside]] = self.ab[inside]
        return dense

    def tosparse(self) -> Any:
        """Return the matrix as a CSC array."""
        offsets = self.mu - np.arange(len(self.ab))
        return sps.csc_array(sps.dia_array((self.ab, offsets), shape=(self.n, self.n)))


class LinearSolver(Protocol):
    """Factorises M − c J, for one structure of J and one M."""

    nlu: int
    """Factorisations so far."""

    def factorise(self, J: Any, c: Any, /) -> Solve:
        """Return r ↦ x with (M − c J) x = r.

        Parameters
        ----------
        J : array, sparse matrix, Banded or JacobianOperator
            Jacobian; it is left as it is.
        c : float or complex
            For a batch also an array of shape (B,). A complex c asks for complex r.

        Raises
        ------
        SingularMatrix
            If a pivot is exactly zero, or an entry is not finite. A sample of a batch does not
            raise: its solutions are NaN.
        """


def linear_solver_for(
    J: Any,
    mass: Mass | None = None,
    *,
    rtol: float = 1e-4,
    precond: Callable[[Any, Array, Any], Solve] | None = None,
) -> LinearSolver:
    """Return the solver that fits J.

    Parameters
    ----------
    J : array, sparse matrix, Banded or JacobianOperator
        A Jacobian as the solver is going to get them: arrays, of shape (n, n), take a dense LU
        decomposition, and tensors, of shape (n, n) or (B, n, n), torch's; the others a sparse or
        banded one, or GMRES.
    mass : Mass, optional
        The identity by default.
    rtol : float
        GMRES stops at ``‖(M − c J) x − r‖ ≤ rtol ‖r‖``.
    precond : callable, optional
        ``precond(t, y, c)`` for GMRES: it returns a function r ↦ x, or a SciPy LinearOperator, that
        solves (M − c J) x = r roughly.

    Returns
    -------
    LinearSolver
        Its `factorise` takes Jacobians of the same kind and size.

    Raises
    ------
    ValueError
        If J is none of these, does not fit M, or there is a `precond` where none is used.
    """
    if isinstance(J, JacobianOperator):
        mass = _fitting(mass, J.n)
        if J.batched:
            msg = "J is a batch of operators; GMRES solves for one state"
            raise ValueError(msg)
        return _Krylov(mass, rtol, precond)
    if precond is not None:
        msg = "precond is for matrix-free Jacobians; this one is a matrix"
        raise ValueError(msg)
    if isinstance(J, Banded):
        return _Band(_fitting(mass, J.n), J)
    if sps.issparse(J):
        return _Sparse(_fitting(mass, J.shape[0]))
    if is_torch(J):
        return _Torch(_fitting(mass, J.shape[-1]), J)
    if isinstance(J, np.ndarray) and J.ndim == 2:
        return _Dense(_fitting(mass, len(J)), J)
    msg = f"J must be a matrix or a JacobianOperator, not {type(J).__name__}"
    raise ValueError(msg)


def _fitting(mass: Mass | None, n: int) -> Mass:
    if mass is None:
        return Mass("identity", None, n, n)
    if mass.n != n:
        msg = f"M has {mass.n} rows, but J has {n}"
        raise ValueError(msg)
    return mass


@cache
def _dtype(J: np.dtype[Any], is_complex: bool) -> np.dtype[Any]:
    """Return the dtype of c J."""
    return np.result_type(J, 1j if is_complex else 1.0)


@cache
def _lapack(names: tuple[str, ...], dtype: np.dtype[Any]) -> Any:
    return get_lapack_funcs(names, dtype=dtype)


def _scalar(c: Any) -> Any:
    """`c` as Python's number: NumPy's would make float64 of a float32 system."""
    return complex(c) if isinstance(c, complex | np.complexfloating) else float(c)


def singular(c: Any) -> SingularMatrix:
    """Return the error that says so of M − c J."""
    return SingularMatrix(f"M − c J is singular or not finite at c = {c!r}")


@final
class _Dense:
    """LAPACK's getrf and getrs called directly: a tenth of lu_solve's time at n = 3."""

    def __init__(self, mass: Mass, J: Array) -> None:
        self.nlu, self.n = 0, mass.n
        self.diagonal = {"identity": np.array(1.0, J.dtype), "diagonal": mass.matrix}.get(mass.kind)
        self.full = mass.toarray(J) if self.diagonal is None else None

    def factorise(self, J: npt.NDArray[Any], c: Any, /) -> Solve:
        c = _scalar(c)
        if isinstance(c, complex):
            with np.errstate(invalid="ignore"):  # of infinite J: told below
                A = np.multiply(J, -c, order="F")
        else:
            A = np.multiply(J, -c, order="F")
        if self.full is None:
            diagonal = A.ravel("K")[:: self.n + 1]
            diagonal += self.diagonal
        else:
            A += self.full
        getrf, getrs = _lapack(("getrf", "getrs"), A.dtype)
        finite = np.count_nonzero(np.isfinite(A)) == A.size  # half of all()'s time where n is small
        self.nlu += 1
        lu, pivots, info = getrf(A, overwrite_a=True)
        if info > 0 or not finite:
            raise singular(c)
        return lambda r: getrs(lu, pivots, r)[0]


@final
class _Band:
    """LAPACK's gbtrf and gbtrs, in a band wide enough for M and J."""

    def __init__(self, mass: Mass, J: Banded) -> None:
        self.nlu, self.n = 0, mass.n
        M = mass.tosparse().tocoo()
        rows, cols = M.coords
        self.ml = ml = int(max(J.ml, (rows - cols).max(initial=0)))
        self.mu = mu = int(max(J.mu, (cols - rows).max(initial=0)))
        self.M = np.zeros((ml + mu + 1, self.n), M.dtype)
        self.M[mu + rows - cols, cols] = M.data
        place = np.arange(-J.mu, J.ml + 1)[:, None] + np.arange(self.n)
        self.outside = (place < 0) | (place >= self.n)

    def factorise(self, J: Banded, c: Any, /) -> Solve:
        c, ml, mu = _scalar(c), self.ml, self.mu
        # The decomposition fills ml more diagonals, which are the first rows here.
        A = np.zeros(
            (2 * ml + mu + 1, self.n), _dtype(J.ab.dtype, isinstance(c, complex)), order="F"
        )
        A[ml:] = self.M
        with np.errstate(all="ignore"):
            A[ml + mu - J.mu : ml + mu + J.ml + 1] -= c * np.where(self.outside, 0, J.ab)
        gbtrf, gbtrs = _lapack(("gbtrf", "gbtrs"), A.dtype)
        finite = np.isfinite(A).all()
        self.nlu += 1
        lu, pivots, info = gbtrf(A, ml, mu, overwrite_ab=True)
        if info > 0 or not finite:
            raise singular(c)
        return lambda r: gbtrs(lu, ml, mu, r, pivots)[0]


@final
class _Sparse:
    """SuperLU.

    Its two column orderings were compared on the five-point Laplacian (n = 3600): minimum degree
    on AᵀA's pattern by COLAMD left 1.6 times the entries of minimum degree on A + Aᵀ, which is for
    patterns that are symmetric. Keeping the ordering of the first factorisation saves a tenth of
    the time: not worth its lines.
    """

    def __init__(self, mass: Mass) -> None:
        self.nlu, self.M, self.ordering = 0, mass.tosparse(), ""

    def factorise(self, J: Any, c: Any, /) -> Solve:
        c = _scalar(c)
        dtype = _dtype(J.dtype, isinstance(c, complex))
        with np.errstate(all="ignore"):
            A = sps.csc_array(self.M - c * J).astype(dtype, copy=False)
        self.ordering = self.ordering or _ordering(A)
        self.nlu += 1
        try:
            lu = _splu(A, self.ordering)
        except SingularMatrix as error:
            raise singular(c) from error
        return lambda r: lu.solve(np.asarray(r, dtype))


def _ordering(A: Any) -> str:
    pattern = A.astype(bool)
    return "MMD_AT_PLUS_A" if (pattern != pattern.T).nnz == 0 else "COLAMD"


def _splu(A: Any, ordering: str) -> Any:
    if not np.isfinite(A.data).all():
        msg = "not finite"
        raise SingularMatrix(msg)
    try:
        return spla.splu(A, permc_spec=ordering)
    except RuntimeError as error:  # SciPy's word for an exactly singular factor
        raise SingularMatrix(str(error)) from error


@final
class _Krylov:
    """GMRES with products J v; `nlu` counts the preconditioners that were made."""

    def __init__(self, mass: Mass, rtol: float, precond: Any) -> None:
        self.nlu, self.mass, self.rtol, self.precond = 0, mass, rtol, precond

    def factorise(self, J: JacobianOperator, c: Any, /) -> Solve:
        c, n, mass, backend = _scalar(c), self.mass.n, self.mass, J.backend
        dtype = _dtype(backend.numpy(J.y).dtype, isinstance(c, complex))
        split = dtype.kind == "c" and backend.numpy(J.y).dtype.kind != "c"

        def products(v: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
            at_v = backend.vector(v, J.y)
            return backend.numpy(mass @ at_v), backend.numpy(J(at_v))

        def matvec(v: npt.NDArray[Any]) -> Any:
            m, j = products(v.real if split else v)
            if split:
                m_i, j_i = products(v.imag)
                m, j = m + 1j * m_i, j + 1j * j_i
            return m - c * j

        A = spla.LinearOperator((n, n), matvec, dtype=dtype)
        P = None
        if self.precond is not None:
            self.nlu += 1
            P = _preconditioner(self.precond(J.t, J.y, c), n, dtype)

        def solve(r: Array) -> Array:
            right = backend.numpy(r)
            with np.errstate(all="ignore"):
                x, info = spla.gmres(
                    A, right, rtol=self.rtol, atol=0.0, restart=min(n, 30), maxiter=_CYCLES, M=P
                )
            if info != 0 or not np.isfinite(x).all():
                msg = f"GMRES did not reach rtol = {self.rtol} at c = {c!r}"
                raise LinearSolveError(msg)
            return backend.vector(x, r) if is_torch(r) else x

        return solve


def _preconditioner(given: Any, n: int, dtype: np.dtype[Any]) -> Any:
    """Return what a `precond` returned as an operator."""
    if isinstance(given, spla.LinearOperator):
        if given.shape != (n, n):
            msg = f"precond returned an operator of shape {given.shape}; it must be ({n}, {n})"
            raise ValueError(msg)
        return given
    if not callable(given):
        kind = type(given).__name__
        msg = f"precond must return a function r ↦ x or a LinearOperator, not {kind}"
        raise TypeError(msg)

    def apply(r: npt.NDArray[Any]) -> npt.NDArray[Any]:
        x = np.asarray(given(r))
        if x.shape != r.shape:
            msg = f"precond's function returned shape {x.shape} for a vector of {r.shape}"
            raise ValueError(msg)
        return x

    return spla.LinearOperator((n, n), apply, dtype=dtype)


@final
class _Torch:
    """torch's batched LU decomposition; autograd sees it."""

    def __init__(self, mass: Mass, J: Array) -> None:
        self.nlu, self.M = 0, mass.toarray(J)

    def factorise(self, J: Array, c: Any, /) -> Solve:
        import torch

        c = c[:, None, None] if is_torch(c) and c.ndim == 1 else c
        A = self.M - c * J
        bad = ~torch.isfinite(A).all(-1).all(-1)
        self.nlu += 1
        lu, pivots, info = torch.linalg.lu_factor_ex(torch.where(bad[..., None, None], self.M, A))
        bad = bad | (info > 0)
        if J.ndim == 2 and bool(bad):
            raise singular(c)

        def solve(r: Array) -> Array:
            x = torch.linalg.lu_solve(lu, pivots, r.to(lu.dtype)[..., None])[..., 0]
            return x if J.ndim == 2 else torch.where(bad[:, None], torch.nan, x)

        return solve
