"""Lanczos and Arnoldi with restarts: several eigenvalues from one space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._array import Array
from ..solvers.problem import check_positive
from .spectrum import (
    Eigenpair,
    MatVec,
    NumpyArray,
    Rows,
    Spectrum,
    check_tolerance,
    halved_sum,
)

__all__ = ["Krylov", "arnoldi", "lanczos", "spectral_abscissa"]

REACH = 0.1
"""Share of its residual by which a Ritz value may yet move to the right. With all of it no pair is
found beside a spectrum that is close to it, with a thirtieth the ends of a wave's pass for it."""


class Krylov:
    """A V_m = V_m H_m + v_(m+1) b*, V orthonormal, for every sample; H is kept in NumPy."""

    def __init__(self, rows: Rows, k: int) -> None:
        self.rows = rows
        self.k = min(check_positive("k", k, whole=True), rows.n)
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
        scale = np.abs(self.H[b, :m, :m]).max() or 1.0
        H = self.H[b, :m, :m] / scale  # no square of an entry overflows
        values, weights = np.linalg.eigh((H + H.conj().T) / 2) if symmetric else np.linalg.eig(H)
        # No residual is known better than to the rounding of the products.
        floor = self.rows.eps * np.abs(H).max()
        residuals = np.maximum(np.abs(self.H[b, m, :m] / scale @ weights), floor)
        # Part of it lies in the space: where A is not symmetric, H − H* was left out, and eig,
        # which balances H, is far from backward stable where the space is nearly invariant.
        inside = np.linalg.norm(H @ weights - weights * values, axis=0)
        residuals = np.hypot(residuals, inside)
        return values * scale, weights, residuals * scale

    def dominant(self) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
        """Ritz values of largest modulus (B,), coordinates (B, m) and residuals (B,)."""
        m = len(self.V) - 1
        H = self.H[:, :m, :m]
        scale = np.abs(H).max((1, 2))
        scale[scale == 0] = 1.0
        # A space that closed early has zeros behind it, which are no larger than its values.
        values, weights = np.linalg.eig(H / scale[:, None, None])
        rows = np.arange(len(H))
        i = np.abs(values).argmax(1)
        chosen = weights[rows, :, i]
        last = (self.H[:, m, :m] / scale[:, None] * chosen).sum(1)
        floor = self.rows.eps * np.abs(H / scale[:, None, None]).max((1, 2))
        return values[rows, i] * scale, chosen, np.maximum(np.abs(last), floor) * scale

    def combined(self, weights: NumpyArray) -> NumpyArray:
        """Vectors with these coordinates (B, m), one for each sample, norm 1: shape (B, n)."""
        numpy = self.rows.backend.numpy
        x: NumpyArray = np.zeros(())
        for w, v in zip(weights.T, self.V, strict=False):
            x = x + w[:, None] * numpy(v)
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        return x / np.where(norms > 0, norms, 1.0)

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
        modulus, or 10 times its rounding in the dtype; never for 0.
    batched : bool
        Treat rows as samples with a matrix of their own.
    seed : int
        Of the random start.

    Returns
    -------
    Spectrum
        Values from the largest modulus to the smallest; real. Every value has an eigenvalue of A
        within its residual. For a matrix that is not symmetric the residuals stay large: they tell.
        The basis is kept orthogonal by full reorthogonalisation, twice: no ghost copies appear.
        Where the space closes early (an invariant subspace) there are fewer
        values; a batched sample then repeats its last one.

    Raises
    ------
    TypeError, ValueError
        If an argument is unusable or `matvec` changes its own, or a product is not finite.

    References
    ----------
    Saad (2011), section 6.6 (Kaniel-Paige-Saad bounds), doi:10.1137/1.9781611970739.
    """
    rows = Rows(matvec, n, batched=batched, seed=seed)
    krylov = Krylov(rows, k)
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
        modulus, or 10 times its rounding in the dtype; never for 0.
    batched : bool
        Treat rows as samples with a matrix of their own.
    seed : int
        Of the random start.

    Returns
    -------
    Spectrum

    Raises
    ------
    TypeError, ValueError
        If an argument is unusable or `matvec` changes its own, restarts are asked for with
        `batched`, or a product is not finite.

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
    if restarts != 0:
        check_positive("restarts", restarts, whole=True)
    if restarts and batched:
        msg = "restarts are for one sample; with batched=True take a larger k"
        raise ValueError(msg)
    krylov = Krylov(Rows(matvec, n, batched=batched, seed=seed), k)
    return _restarted(krylov, orders[which], tol, int(restarts), lambda found: found.converged[0])


def _restarted(
    krylov: Krylov,
    wanted: Callable[[NumpyArray], NumpyArray],
    tol: float,
    restarts: int,
    enough: Callable[[Spectrum], bool],
) -> Spectrum:
    """Return the spectrum of a sweep, and of restarts until it is enough."""
    krylov.extend()
    result = _spectrum(krylov, wanted, tol, symmetric=False)
    for _ in range(restarts):
        whole = krylov.closed or krylov.k == krylov.rows.n
        if enough(result) or whole or krylov.k < 3:
            break
        krylov.restart(max(krylov.k // 2, 1), wanted)
        krylov.extend()
        result = _spectrum(krylov, wanted, tol, symmetric=False)
    return result


def _spectrum(
    krylov: Krylov, wanted: Callable[[NumpyArray], NumpyArray], tol: float, *, symmetric: bool
) -> Spectrum:
    rows = krylov.rows
    tol = max(tol, 10 * rows.eps) if check_tolerance(tol) else 0.0
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
        inner[:, b] = np.linalg.eigvalsh(halved_sum(H))[[0, -1]]
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
    batched: bool = False,
    seed: int = 0,
) -> Eigenpair:
    """Estimate the rightmost eigenvalue: its real part is the rate that solutions grow at last.

    Parameters
    ----------
    matvec, n, batched, seed
        As in `arnoldi`. Samples of a batch share the first sweep; those that have not converged
        then have restarts of their own, where a product of the batch serves one sample.
    k, restarts : int
        Dimension of the Krylov space, and the most restarts.
    tol : float
        Relative to the largest modulus in the space.

    Returns
    -------
    Eigenpair
        `converged` compares the residual with the largest modulus in the space, and is False too
        where another Ritz value would lie further right if it moved by a tenth of its residual. The
        true abscissa may well lie there then: a rightmost eigenvalue that is small beside the
        spectral radius is found last. If it is True that is rare, and rarer the larger k.

    Raises
    ------
    TypeError, ValueError
        If an argument is unusable or `matvec` changes its own, or a product is not finite.

    References
    ----------
    Saad (2011), section 6.2; Stewart (2002): see `arnoldi`.
    """
    if batched:
        return _abscissae(matvec, n, k=k, restarts=restarts, tol=tol, seed=seed)
    if restarts != 0:
        check_positive("restarts", restarts, whole=True)
    krylov = Krylov(Rows(matvec, n, batched=False, seed=seed), k)
    found = _restarted(krylov, np.real, tol, int(restarts), _is_rightmost)
    return Eigenpair(
        complex(found.values[0]),
        found.vectors[:, 0],
        float(found.residuals[0]),
        found.iterations,
        found.products,
        bool(_is_rightmost(found)),
    )


def _is_rightmost(found: Spectrum) -> Any:
    """Whether the first pair has converged, and no unconverged one is likely to pass it by.

    A Ritz value moves by less than its residual as the space grows, mostly by far less.
    """
    known, values = found.converged, found.values.real
    reach = np.where(known, -np.inf, values + REACH * found.residuals).max(-1)
    return known[..., 0] & (reach <= values[..., 0])


def _abscissae(
    matvec: MatVec, n: int | Array, *, k: int, restarts: int, tol: float, seed: int
) -> Eigenpair:
    """Return the rightmost pairs of a batch."""
    rows = Rows(matvec, n, batched=True, seed=seed)
    found = arnoldi(matvec, rows.start, k=k, which="LR", tol=tol, batched=True)
    values, vectors = found.values[:, 0], found.vectors[:, :, 0].copy()
    residuals, converged = found.residuals[:, 0], _is_rightmost(found)
    iterations, products = np.full(rows.samples, found.iterations), found.products
    for b in np.flatnonzero(~converged).tolist() if restarts else ():

        def alone(v: Array, b: int = b) -> Array:
            whole = 0 * rows.start
            whole[b] = v
            return rows.apply(whole)[b]

        pair = spectral_abscissa(alone, rows.start[b], k=k, restarts=restarts, tol=tol)
        values[b], vectors[b], residuals[b] = pair.value, pair.vector, pair.residual
        converged[b], iterations[b] = pair.converged, pair.iterations
        products += pair.products
    return Eigenpair(values, vectors, residuals, iterations, products, converged)
