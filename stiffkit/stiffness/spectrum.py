"""Eigenvalues from products alone: power iteration, Lanczos, Arnoldi, and exact ones.

All algorithms take ``matvec(v) -> A v`` and either the size n or a start vector, on NumPy arrays
or torch tensors. With ``batched=True`` the start vector has shape (B, n) and `matvec` applies B
independent matrices at once; results then have a leading axis B.

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
    increment,
    row_norm,
    slope,
    time_like,
)

__all__ = [
    "Eigenpair",
    "Spectrum",
    "arnoldi",
    "eigenvalues",
    "lanczos",
    "nonlinear_power_iteration",
    "power_iteration",
    "spectral_abscissa",
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


# Start vectors and rows ---------------------------------------------------------------------------


class _Rows:
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
        self.products += 1
        return self.matvec(v if self.batched else v[0]).reshape((self.samples, self.n))

    def norm(self, x: Array) -> Array:
        return row_norm(x, self.xp)

    def dot(self, x: Array, y: Array) -> Array:
        """⟨x, y⟩ of each row, shape (B, 1)."""
        return (self.xp.conj(x) * y).sum(axis=-1, keepdims=True)

    def give(self, x: NumpyArray) -> Any:
        """Drop the sample axis unless the caller has one; scalars become Python's."""
        if self.batched:
            return x
        return x[0] if x[0].ndim else x[0].item()


# Power iteration ----------------------------------------------------------------------------------


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
        Stop when the residual is below ``tol · |value|``.
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

    References
    ----------
    Y. Saad, Numerical Methods for Large Eigenvalue Problems, 2nd ed., SIAM (2011), sections 4.1
    and 4.3.3, doi:10.1137/1.9781611970739. L. F. Shampine, Diagnosing stiffness for Runge-Kutta
    methods, SIAM J. Sci. Stat. Comput. 12 (1991) 260-272, doi:10.1137/0912015.
    """
    _positive("max_iterations", max_iterations)
    rows = _Rows(matvec, n, batched=batched, seed=seed)
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

    def __init__(self, rows: _Rows) -> None:
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
        1.2. `residual` is the last change.

    References
    ----------
    B. P. Sommeijer, L. F. Shampine, J. G. Verwer, RKC: an explicit solver for parabolic PDEs, J.
    Comput. Appl. Math. 88 (1998) 315-326, doi:10.1016/S0377-0427(97)00219-7.
    """
    _positive("max_iterations", max_iterations)
    backend = backend_of(y)
    xp, y = backend.xp, backend.state(y)
    t = time_like(t, y)
    shape = (len(y), -1) if batched else (1, -1)
    calls = 0

    def rows(x: Array) -> Array:
        return x.reshape(shape)

    def call(z: Array) -> Array:
        nonlocal calls
        calls += 1
        z = z.reshape(y.shape)
        return rows(slope("f(t, y)", f(t, z), z))

    base = call(y) if f_0 is None else rows(slope("f_0", f_0, y))
    flat = rows(y)
    direction = base if start is None else rows(backend.vector(backend_of(start).numpy(start), y))
    # Without a slope any direction must do: all components alike.
    size = row_norm(direction, xp)
    direction = xp.where(size > 0, direction, xp.ones_like(direction))
    radius = increment(flat, float(xp.finfo(y.dtype).eps) ** 0.5)
    step = direction / row_norm(direction, xp) * radius
    value = np.zeros(len(flat))
    change = np.full(len(flat), np.inf)
    done = np.zeros(len(flat), dtype=bool)
    counts = np.zeros(len(flat), dtype=int)
    for iteration in range(1, max_iterations + 1):
        difference = call(flat + step) - base
        norm = row_norm(difference, xp)
        new = backend.numpy(norm / radius)[:, 0].astype(np.float64)
        running = ~done
        change[running] = np.abs(new - value)[running]
        value[running] = new[running]
        counts[running] = iteration
        if iteration >= 2:
            done |= change <= tol * np.maximum(value, smallest)
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

    return Eigenpair(give(value), give(vector), give(change), give(counts), calls, give(done))


# Krylov spaces ------------------------------------------------------------------------------------


class _Krylov:
    """A V_m = V_m H_m + v_(m+1) b*, V orthonormal, for every sample; H is kept in NumPy."""

    def __init__(self, rows: _Rows, k: int) -> None:
        self.rows = rows
        self.k = min(k, rows.n)
        # numpy's and torch's empty differ in keywords; a list of rows needs neither.
        self.V: list[Array] = [rows.start]
        kind = np.complex128 if rows.backend.numpy(rows.start).dtype.kind == "c" else np.float64
        self.H = np.zeros((rows.samples, self.k + 1, self.k), dtype=kind)
        self.length = np.full(rows.samples, self.k)
        """Dimension of each sample's space: less than k where it is invariant (breakdown)."""
        self.steps = 0

    def extend(self, upto: int | None = None) -> None:
        """Run the Arnoldi process up to dimension `upto` (k), orthogonalising twice."""
        rows, xp, numpy = self.rows, self.rows.xp, self.rows.backend.numpy
        for j in range(len(self.V) - 1, self.k if upto is None else min(upto, self.k)):
            w = rows.apply(self.V[j])
            self.steps += 1
            size = numpy(rows.norm(w))[:, 0].astype(np.float64)
            basis = xp.stack(self.V)  # (j + 1, B, n)
            for _ in range(2):
                h = (xp.conj(basis) * w).sum(axis=-1)  # (j + 1, B)
                w = w - (h[..., None] * basis).sum(axis=0)
                # A complex matrix may have a real start vector.
                self.H = self.H.astype(np.result_type(self.H, numpy(h)), copy=False)
                self.H[:, : j + 1, j] += numpy(h).T
            norm = rows.norm(w)
            beta = numpy(norm)[:, 0].astype(np.float64)
            # What is left of w is rounding: the space is invariant, and its Ritz pairs exact.
            spent = beta <= 10 * rows.eps * size
            self.length[spent & (self.length > j + 1)] = j + 1
            alive = self.length > j + 1
            self.H[:, j + 1, j] = np.where(spent, 0.0, beta)
            if not alive.any() and j + 1 < self.k:
                self.V.append(w * 0.0)
                break
            keep = rows.backend.vector(np.where(spent, 0.0, 1.0)[:, None], w)
            self.V.append(keep * w / xp.where(norm > 0, norm, xp.ones_like(norm)))

    def ritz(self, b: int, *, symmetric: bool) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
        """Ritz values (m,), coordinates (m, m) and residuals (m,) of sample b."""
        m = min(int(self.length[b]), len(self.V) - 1)
        H = self.H[b, :m, :m]
        if symmetric:
            values, weights = np.linalg.eigh((H + H.conj().T) / 2)
        else:
            scale = np.abs(H).max()
            values, weights = np.linalg.eig(H / scale if scale > 0 else H)
            values = values * scale if scale > 0 else values
        # No residual is known better than to the rounding of the products.
        floor = self.rows.eps * np.abs(H).max()
        return values, weights, np.maximum(np.abs(self.H[b, m, :m] @ weights), floor)

    def vectors(self, b: int, weights: NumpyArray) -> NumpyArray:
        """Ritz vectors of sample b as columns, norm 1."""
        basis = np.stack([self.rows.backend.numpy(v[b]) for v in self.V[: len(weights)]], axis=-1)
        x: NumpyArray = basis @ weights
        norms = np.linalg.norm(x, axis=0)
        return x / np.where(norms > 0, norms, 1.0)

    @property
    def closed(self) -> bool:
        """Whether the first sample's space is invariant: nothing is left to extend it by."""
        return not self.H[0, self.length[0]].any()

    def restart(self, keep: int, wanted: Callable[[NumpyArray], NumpyArray]) -> None:
        """Compress to the `keep` Schur vectors wanted most (Stewart's Krylov-Schur; one sample).

        A complex pair of a real matrix stays together, so that one more may be kept.
        """
        from scipy.linalg import schur
        from scipy.linalg.lapack import get_lapack_funcs

        H = self.H[0, : self.k, : self.k]
        scale = np.abs(H).max() or 1.0
        T, Q = schur(H / scale, output="complex" if H.dtype.kind == "c" else "real")
        order = np.argsort(-wanted(_schur_values(T)), kind="stable")
        selected = np.zeros(self.k, dtype=np.int32)
        selected[order[:keep]] = 1
        # schur(sort=...) judges each value anew after rounding, and fails where two are close.
        (trsen,) = get_lapack_funcs(("trsen",), (T,))
        T, Q, *_, p, _, _, _ = trsen(selected, T, Q, job=b"N")
        p += bool(T[p, p - 1])  # never through a 2 x 2 block, however the reordering went
        tail = self.H[0, self.k, : self.k] @ Q
        rows = self.rows
        basis = rows.xp.stack(self.V[: self.k])[:, 0]  # (k, n)
        new = rows.backend.vector(Q[:, :p].T, basis) @ basis
        self.V = [*(new[i : i + 1] for i in range(p)), self.V[self.k]]
        self.H[:] = 0.0
        self.H[0, :p, :p] = T[:p, :p] * scale
        self.H[0, p, :p] = tail[:p]


def _schur_values(T: NumpyArray) -> NumpyArray:
    """Eigenvalues of a Schur form in their order; a real one has pairs in 2 x 2 blocks."""
    values = np.diag(T).astype(np.complex128)
    # LAPACK's blocks [[a, b], [c, a]], bc < 0, have the eigenvalues a ± i √(−bc).
    for i in np.flatnonzero(np.diag(T, -1)):
        values[i : i + 2] += np.array([1j, -1j]) * np.sqrt(abs(T[i, i + 1] * T[i + 1, i]))
    return values


def lanczos(
    matvec: MatVec,
    n: int | Array,
    *,
    k: int = 20,
    tol: float = 1e-8,
    batched: bool = False,
    seed: int = 0,
) -> Spectrum:
    """Estimate eigenvalues of a symmetric (Hermitian) matrix by the Lanczos process.

    Parameters
    ----------
    matvec : callable
        ``v -> A v`` with A symmetric.
    n : int or array
        Size, or a start vector, shape (n,), or (B, n) with `batched`.
    k : int
        Dimension of the Krylov space, and number of Ritz values (at most n).
    tol : float
        A Ritz value counts as converged when its residual is below ``tol`` times the largest
        modulus.
    batched : bool
        Treat rows as samples with a matrix of their own.
    seed : int
        Of the random start.

    Returns
    -------
    Spectrum
        Values from the largest modulus to the smallest; real. Every value has an eigenvalue of A
        within its residual. The basis is kept orthogonal by full reorthogonalisation, twice: no
        ghost copies appear. Where the space closes early (an invariant subspace) there are fewer
        values; a batched sample then repeats its last one.

    References
    ----------
    Saad (2011), section 6.6 (Kaniel-Paige-Saad bounds), doi:10.1137/1.9781611970739.
    """
    rows = _Rows(matvec, n, batched=batched, seed=seed)
    krylov = _Krylov(rows, _positive("k", k))
    krylov.extend()
    return _spectrum(krylov, np.abs, tol, symmetric=True)


def arnoldi(
    matvec: MatVec,
    n: int | Array,
    *,
    k: int = 20,
    which: str = "LM",
    restarts: int = 0,
    tol: float = 1e-8,
    batched: bool = False,
    seed: int = 0,
) -> Spectrum:
    """Estimate eigenvalues of any matrix, complex pairs included, by the Arnoldi process.

    Parameters
    ----------
    matvec : callable
        ``v -> A v``.
    n : int or array
        Size, or a start vector, shape (n,), or (B, n) with `batched`.
    k : int
        Dimension of the Krylov space, and number of Ritz values (at most n).
    which : {"LM", "LR", "SR", "LI"}
        What comes first, and what restarts keep: largest modulus, largest or smallest real part,
        largest imaginary part.
    restarts : int
        Krylov-Schur restarts, each keeping half the space, until the first value has converged;
        for one sample only.
    tol : float
        A Ritz value counts as converged when its residual is below ``tol`` times the largest
        modulus.
    batched : bool
        Treat rows as samples with a matrix of their own.
    seed : int
        Of the random start.

    Returns
    -------
    Spectrum

    Raises
    ------
    ValueError
        If `which` is unknown, k < 1, or restarts are asked for with `batched`.

    References
    ----------
    Saad (2011), sections 6.2 and 7.3; G. W. Stewart, A Krylov-Schur algorithm for large
    eigenproblems, SIAM J. Matrix Anal. Appl. 23 (2002) 601-614, doi:10.1137/S0895479800371529.
    """
    orders: dict[str, Callable[[NumpyArray], NumpyArray]] = {
        "LM": np.abs,
        "LR": np.real,
        "SR": lambda z: -np.real(z),
        "LI": lambda z: np.abs(np.imag(z)),
    }
    if which not in orders:
        msg = f"which={which!r} is not one of {', '.join(orders)}"
        raise ValueError(msg)
    if restarts and batched:
        msg = "restarts are for one sample; with batched=True take a larger k"
        raise ValueError(msg)
    rows = _Rows(matvec, n, batched=batched, seed=seed)
    krylov = _Krylov(rows, _positive("k", k))
    krylov.extend()
    result = _spectrum(krylov, orders[which], tol, symmetric=False)
    for _ in range(restarts):
        whole = krylov.closed or krylov.k == rows.n
        if result.converged[0] or whole or krylov.k < 3:
            break
        krylov.restart(max(krylov.k // 2, 1), orders[which])
        krylov.extend()
        result = _spectrum(krylov, orders[which], tol, symmetric=False)
    return result


def _positive(name: str, value: int) -> int:
    if value < 1:
        msg = f"{name}={value!r} must be at least 1"
        raise ValueError(msg)
    return int(value)


def _spectrum(
    krylov: _Krylov, wanted: Callable[[NumpyArray], NumpyArray], tol: float, *, symmetric: bool
) -> Spectrum:
    rows = krylov.rows
    kinds = (np.float64, krylov.H.dtype) if symmetric else (np.complex128, np.complex128)
    width = int(krylov.length.max())
    values = np.zeros((rows.samples, width), dtype=kinds[0])
    vectors = np.zeros((rows.samples, rows.n, width), dtype=kinds[1])
    residuals = np.zeros((rows.samples, width))
    inner = np.zeros((2, rows.samples))
    for b in range(rows.samples):
        theta, weights, residual = krylov.ritz(b, symmetric=symmetric)
        order = np.argsort(-wanted(theta), kind="stable")
        # A space that closed early has fewer values: the last one stands for the missing.
        order = np.concatenate([order, np.repeat(order[-1:], width - len(order))])
        values[b], residuals[b] = theta[order], residual[order]
        vectors[b] = krylov.vectors(b, weights)[:, order]
        m = int(krylov.length[b])
        H = krylov.H[b, :m, :m]
        inner[:, b] = np.linalg.eigvalsh((H + H.conj().T) / 2)[[0, -1]]
    top = np.abs(values).max(axis=1, keepdims=True)
    return Spectrum(
        rows.give(values),
        rows.give(vectors),
        rows.give(residuals),
        krylov.steps,
        rows.products,
        rows.give(residuals <= tol * top),
        (rows.give(inner[0]), rows.give(inner[1])),
    )


def spectral_abscissa(
    matvec: MatVec,
    n: int | Array,
    *,
    k: int = 30,
    restarts: int = 20,
    tol: float = 1e-6,
    seed: int = 0,
) -> Eigenpair:
    """Estimate the rightmost eigenvalue: its real part is the rate that solutions grow at last.

    Parameters
    ----------
    matvec, n, seed
        As in `arnoldi`.
    k, restarts : int
        Dimension of the Krylov space, and the most restarts.
    tol : float
        Relative to the largest modulus in the space.

    Returns
    -------
    Eigenpair
        `converged` compares the residual with the largest modulus in the space and speaks of this
        pair alone. If it is False the true abscissa may well lie further right: a rightmost
        eigenvalue that is small beside the spectral radius is found last. If it is True that is
        rare, and rarer the larger k.
    """
    found = arnoldi(matvec, n, k=k, which="LR", restarts=restarts, tol=tol, seed=seed)
    return Eigenpair(
        complex(found.values[0]),
        found.vectors[:, 0],
        float(found.residuals[0]),
        found.iterations,
        found.products,
        bool(found.converged[0]),
    )


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
