"""Jacobians and LU decompositions within the kernel: the rules are those of `Differences`.

n is small here: plain loops beat LAPACK's calls, and make no arrays. A dense matrix is to them a
band of all its diagonals. Entry (i, j) stands in row i, column `_place(i, j, band)` of an array: a
band's are j − i + ml, so that its rows are short.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .. import differences
from ..linalg import Banded
from .calls import compiled, inlined
from .parts import ATOL, K, Y, Z, slope

__all__ = ["Linear", "decompose", "jacobian", "linear", "matrix", "solve", "solve_apart"]

_EPS = float(np.finfo(np.float64).eps)
_LEAST = float(np.finfo(np.float64).tiny) / _EPS
_ROUNDS = differences.ROUNDS

_first_sizes = compiled(differences.first_sizes)
_increments = compiled(differences.increments)
_noisy = compiled(differences.noisy)
_better_sizes = compiled(differences.better_sizes)
_disagreement = compiled(differences.disagreement)
_learnt_sizes = compiled(differences.learnt_sizes)

ZERO, ONE, TWO, THREE = map(np.uint64, range(4))
SMALL_BAND = TWO, TWO, ZERO
"""Sizes whose linear algebra the compiler is told, and unrolls: an LU decomposition then takes a
fifth of the time. A dense matrix of these has no more diagonals than this band."""

OWN, SIZE, DELTA, LEARNT, COLUMN, NOISE, TERMS, BETTER, AGAIN = map(np.int64, range(9))
"""Rows of `Linear.D`, a number for each column of J; TERMS for each row. While J is made, LEARNT
holds the sizes s. Increments of a second look are in AGAIN, 0 where there is none."""


class Linear(NamedTuple):
    """A Jacobian, its LU decomposition, and what its differences work on."""

    J: Any
    """Shape (n, n), or (n, ml + mu + 1) of a band; so is `fresh`."""
    LU: Any
    """U, with the reciprocals of its diagonal; shape (n, n), or (n, 2 ml + mu + 1). Below stand the
    multipliers where J is dense."""
    L: Any
    """Row k holds the multipliers of a band's column k; shape (n, ml), or (n, 0)."""
    pivots: Any
    fresh: Any
    """Columns that had a second look."""
    D: Any
    """Shape (9, n)."""
    seen: Any
    """Which entries were ever nonzero, of J's shape."""
    band: tuple[np.uint64, np.uint64, np.uint64]
    """ml, mu, skew: n − 1, n − 1, 0 where J is dense, else the numbers of diagonals below and above
    the main one, and 1."""
    constant: bool


def linear(n: int, dtype: Any, band: Any, J: Any, *, constant: bool) -> Linear:
    """Return the arrays for n components.

    Parameters
    ----------
    n : int
        Components.
    dtype : dtype
        Of the state.
    band : (ml, mu) or None
        The Jacobian's bandwidth; None where it is dense.
    J : ndarray, Banded or None
        The first Jacobian, if it is given.
    constant : bool
        Whether it is the last one, too.
    """
    ml, mu = band or (n - 1, n - 1)
    skew = int(band is not None)
    width = ml + mu + 1 if skew else n
    made = np.zeros((n, width), dtype)
    if isinstance(J, Banded):
        for d in range(-ml, mu + 1):
            inside = slice(max(0, -d), n - max(0, d))
            made[inside, ml + d] = np.roll(J.ab[mu - d], -d)[inside]
    elif J is not None:
        made[:] = J
    return Linear(
        made,
        np.empty((n, width + skew * ml), dtype),
        np.empty((n, skew * ml), dtype),
        np.empty(n, np.int64),
        np.zeros_like(made),
        np.zeros((9, n)),
        np.ones((n, width), np.bool_),
        (np.uint64(ml), np.uint64(mu), np.uint64(skew)),
        constant,
    )


def matrix(a: Linear) -> Any:
    """Return a copy of J, in the form that the interpreted loop keeps it in."""
    ml, mu, skew = map(int, a.band)
    if not skew:
        return a.J.copy()
    n = len(a.J)
    ab = np.zeros((ml + mu + 1, n), a.J.dtype)
    for d in range(-ml, mu + 1):
        inside = slice(max(0, -d), n - max(0, d))
        ab[mu - d, max(0, d) : n + min(0, d)] = a.J[inside, ml + d]
    return Banded(ab, ml, mu)


@inlined
def _top(x, top):
    """Return the larger one; NaN where one is."""
    return x if x > top or math.isnan(x) else top


@inlined
def _place(i, j, band):
    """Return the column of an array where entry (i, j) stands."""
    return j - band[2] * (i - band[0])


@inlined
def _columns(i, n, band):
    """Return the columns first, ..., end − 1 in which row i has entries."""
    return i - min(i, band[0]), min(n, i + band[1] + ONE)


@inlined
def _rows(j, n, band):
    """Return the rows first, ..., end − 1 in which column j has entries."""
    return j - min(j, band[1]), min(n, j + band[0] + ONE)


@inlined
def _groups(n, band):
    """Return how many columns apart those are that one difference can give."""
    return min(n, band[0] + band[1] + ONE) if band[2] else n


@inlined
def _size_of(W):
    """Return n. Indices that follow from it are unsigned: none is checked for being negative."""
    return np.uint64(W.shape[1])


@inlined
def _finite(A):
    """Whether every entry of a matrix is finite."""
    for i in range(len(A)):
        for j in range(A.shape[1]):
            if not (math.isfinite(A[i, j].real) and math.isfinite(A[i, j].imag)):
                return False
    return True


@inlined
def _quotients(f, args, s, w, A, delta, band, g, row):
    """A_·j = (f(t, y + δ) − f(t, y)) / δ_j for those columns j of group g that have a δ_j."""
    W, n = w.W, _size_of(w.W)
    apart = _groups(n, band)
    for i in range(n):
        W[Z, i] = W[Y, i]
    j = g
    while j < n:
        W[Z, j] += delta[j]
        j += apart
    s.nfev_jac += 1
    slope(f, s.t, w, row, args)
    j = g
    while j < n:
        if delta[j] != 0:
            inverse, (first, end) = 1 / delta[j], _rows(j, n, band)
            for i in range(first, end):
                A[i, _place(i, j, band)] = (W[row, i] - W[K, i]) * inverse
        j += apart


@partial(inlined, fastmath={"reassoc", "contract"})
def _judge(W, D, J, seen, band):
    """F of each row, the top and the noise of each column, and which entries were ever seen."""
    n = _size_of(W)
    for j in range(n):
        D[COLUMN, j] = D[NOISE, j] = 0.0
    for i in range(n):
        first, end = _columns(i, n, band)
        terms = abs(W[K, i])
        for j in range(first, end):
            terms += abs(J[i, _place(i, j, band)]) * D[SIZE, j]
        D[TERMS, i] = terms
        terms *= _EPS
        for j in range(first, end):
            p = _place(i, j, band)
            entry = abs(J[i, p])
            if entry != 0:
                seen[i, p] |= entry > 0
                D[COLUMN, j] = _top(entry, D[COLUMN, j])
            if seen[i, p]:
                D[NOISE, j] = _top(terms, D[NOISE, j])


@inlined
def _doubted(y, D, j, top):
    """Choose a better increment for column j, if it is a poor one; return whether it is."""
    column, size = D[COLUMN, j], D[LEARNT, j]
    wrong, empty = not math.isfinite(column), column == 0 and size < 0.1 * top
    D[AGAIN, j] = 0.0
    if not (wrong or empty or _noisy(D[NOISE, j], abs(D[DELTA, j]) * column, _EPS)):
        return False
    sign = -1.0 if (D[DELTA, j] < 0) != wrong else 1.0
    D[BETTER, j] = _better_sizes(size, D[NOISE, j], column, wrong, empty, top, _EPS, _LEAST)
    D[AGAIN, j] = _increments(y, sign, D[BETTER, j], _EPS)
    return True


@compiled
def _replaced(D, J, fresh, seen, band, j, top):
    """Take column j's second look if it agrees with the first, or that was none."""
    column = D[COLUMN, j]
    wrong, empty = not math.isfinite(column), column == 0 and D[LEARNT, j] < 0.1 * top
    first, end = _rows(j, np.uint64(len(J)), band)
    tops = gap = 0.0
    for i in range(first, end):
        tops = _top(abs(fresh[i, _place(i, j, band)]), tops)
    for i in range(first, end):
        p = _place(i, j, band)
        moved = abs(fresh[i, p] - J[i, p])
        rounding = _EPS * D[TERMS, i] * (1.0 if seen[i, p] else 0.0)
        gap = _top(_disagreement(moved, rounding, abs(D[DELTA, j]), tops, _EPS), gap)
    if not (math.isfinite(tops) and (wrong or empty or gap <= 0)):
        return False
    D[LEARNT, j], D[DELTA, j] = D[BETTER, j], D[AGAIN, j]
    for i in range(first, end):
        p = _place(i, j, band)
        J[i, p] = fresh[i, p]
    return True


@inlined
def _differences(f, args, s, w, a, row):
    """J by `stiffkit.solvers.differences.Differences`; f(t, y) is in K, `row` of W is free."""
    W, R, D, J, fresh, seen, band = w.W, w.R, a.D, a.J, a.fresh, a.seen, a.band
    n, top = _size_of(W), 0.0
    apart = _groups(n, band)
    for j in range(n):
        D[SIZE, j] = abs(W[Y, j])
        D[OWN, j] = max(D[SIZE, j], R[ATOL, j])
        top = max(top, D[SIZE, j])
    top = top if top > 0 else 1.0
    for j in range(n):
        sign = -1.0 if W[K, j].real < 0 else 1.0
        if D[SIZE, j] > 0 and D[LEARNT, j] == 0:  # nearly always; it takes no roots
            D[LEARNT, j] = max(D[OWN, j], _LEAST)
        else:
            D[LEARNT, j] = _first_sizes(D[SIZE, j], D[OWN, j], D[LEARNT, j], top, _EPS, _LEAST)
        D[DELTA, j] = D[AGAIN, j] = _increments(W[Y, j], sign, D[LEARNT, j], _EPS)
    for g in range(apart):
        _quotients(f, args, s, w, J, D[AGAIN], band, g, row)
    _judge(W, D, J, seen, band)
    for _ in range(_ROUNDS):  # once more at doubtful columns
        some = False
        for g in range(apart):
            again, j = False, g
            while j < n:
                again = _doubted(W[Y, j], D, j, top) or again
                j += apart
            if again:
                _quotients(f, args, s, w, fresh, D[AGAIN], band, g, row)
                j = g
                while j < n:
                    if D[AGAIN, j] != 0:
                        some = _replaced(D, J, fresh, seen, band, j, top) or some
                    j += apart
        if not some:
            break
        _judge(W, D, J, seen, band)
    for j in range(n):
        poor = _noisy(D[NOISE, j], _EPS**0.5 * D[OWN, j] * D[COLUMN, j], _EPS)
        D[LEARNT, j] = _learnt_sizes(D[LEARNT, j], D[NOISE, j], D[COLUMN, j], poor, _EPS)
    if s.first_jac:
        s.first_jac = False
        for i in range(n):
            for p in range(J.shape[1]):
                seen[i, p] = abs(J[i, p]) > 0
    s.njev += 1


@inlined
def jacobian(f, jac, args, s, w, a, row):
    """Make J at (t, y), where f is in K; return whether it is finite. `row` of W is free.

    A band is not looked at here: its decomposition fails.
    """
    if jac is None:  # known when this is compiled
        _differences(f, args, s, w, a, row)
    elif s.first_jac:  # Python made it, and checked it
        s.first_jac = False
    else:
        _given(jac, args, s, w, a.J, a.band)
    return a.band[2] == 1 or _finite(a.J)


@partial(compiled, _nrt=True)
def _given(jac, args, s, w, J, band):
    W, (_, mu, skew) = w.W, band
    n = _size_of(W)
    for i in range(n):
        W[Z, i] = W[Y, i]
    value = jac(s.t, w.W_f[Z], *args)
    if value.shape[0] != J.shape[1] or value.shape[1] != n:
        msg = "jac returned a matrix of another shape than at (t0, y0)"
        raise ValueError(msg)
    for i in range(n):
        first, end = _columns(i, n, band)
        for j in range(first, end):
            J[i, _place(i, j, band)] = value[mu + i - j if skew else i, j]
    s.njev += 1


@inlined
def _size(x):
    """|x|, or of complex x what is no less than it, and at most √2 times as much."""
    return abs(x.real) + abs(x.imag)


@compiled
def decompose(J, band, LU, L, pivots, c):
    """LU decomposition of I − cJ with partial pivoting; return whether it is regular.

    Multipliers are exchanged with the rows but for a band's, where there is no room for it.
    """
    n, dense = np.uint64(len(LU)), not band[2]
    if dense and n == TWO:
        return _decompose(J, SMALL_BAND, LU, L, pivots, c, TWO)
    if dense and n == THREE:
        return _decompose(J, SMALL_BAND, LU, L, pivots, c, THREE)
    if dense:
        return _decompose(J, (n, n, ZERO), LU, L, pivots, c, n)
    return _decompose(J, band, LU, L, pivots, c, n)


@inlined
def _decompose(J, band, LU, L, pivots, c, n):
    (ml, mu, skew), good = band, True
    for i in range(n):
        first, end = _columns(i, n, band)
        if skew:
            for p in range(LU.shape[1]):
                LU[i, p] = 0
        for j in range(first, end):
            p = _place(i, j, band)
            LU[i, p] = -c * J[i, p]
            good = good & (_size(LU[i, p]) < math.inf)
        LU[i, _place(i, i, band)] += 1.0
    if not good:
        return False
    for k in range(n):
        below, end = min(n, k + ml + ONE), min(n, k + ml + mu + ONE)
        pivot, largest = k, _size(LU[k, _place(k, k, band)])
        for i in range(k + ONE, below):
            size = _size(LU[i, _place(i, k, band)])
            if size > largest:
                pivot, largest = i, size
        pivots[k] = pivot
        if largest == 0:
            return False
        if pivot != k:
            for j in range(k if skew else ZERO, end):
                p, q = _place(k, j, band), _place(pivot, j, band)
                LU[k, p], LU[pivot, q] = LU[pivot, q], LU[k, p]
        inverse = LU[k, _place(k, k, band)] = 1 / LU[k, _place(k, k, band)]
        for i in range(k + ONE, below):
            factor = LU[i, _place(i, k, band)] * inverse
            if skew:
                L[k, i - k - ONE] = factor
            else:
                LU[i, k] = factor
            if n <= THREE or factor != 0:  # small systems are often sparse, the smallest unrolled
                for j in range(k + ONE, end):
                    LU[i, _place(i, j, band)] -= factor * LU[k, _place(k, j, band)]
    return True


def _solve(LU, L, pivots, band, x, n):
    ml, mu, skew = band
    for k in range(n - ONE):  # the last row has none to be exchanged with
        p = np.uint64(pivots[k])
        x_k, x[p] = x[p], x[k]
        x[k] = x_k
        if skew:
            for i in range(k + ONE, min(n, k + ml + ONE)):
                x[i] -= L[k, i - k - ONE] * x_k
    if not skew:
        for i in range(ONE, n):
            x_i = x[i]
            for j in range(i):
                x_i -= LU[i, j] * x[j]
            x[i] = x_i
    for behind in range(ONE, n + ONE):
        row = n - behind
        end, total = min(n, row + ml + mu + ONE), x[row]
        for q in range(ONE, end - row):  # the last of them was found just now
            total -= LU[row, _place(row, end - q, band)] * x[end - q]
        x[row] = total * LU[row, _place(row, row, band)]


# Sums in another order become vectors, which wait for components that were just written one by one.
# Three components are unrolled.
_solve_any = partial(inlined, fastmath={"contract"})(_solve)
_solve_three = partial(inlined, fastmath={"reassoc", "contract"})(_solve)


@inlined
def solve(LU, L, pivots, band, W, row):
    """Solve (I − cJ) x = r in place, r being a row of W."""
    n, dense = np.uint64(len(LU)), not band[2]
    if dense and n == TWO:
        _solve_any(LU, L, pivots, SMALL_BAND, W[row], TWO)
    elif dense and n == THREE:
        _solve_three(LU, L, pivots, SMALL_BAND, W[row], THREE)
    else:
        _solve_any(LU, L, pivots, (n, n, ZERO) if dense else band, W[row], n)


@compiled
def solve_apart(LU, L, pivots, band, W, row):
    """Do the same where time matters less than the kernel's size."""
    solve(LU, L, pivots, band, W, row)
