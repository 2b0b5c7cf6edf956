"""Jacobians and dense LU decompositions within the kernel: the rules are those of `Differences`.

n is small here: plain loops beat LAPACK's calls, and make no arrays.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .. import differences
from .calls import compiled, inlined
from .parts import ATOL, K, Y, Z, slope

__all__ = ["Linear", "factorise", "finite", "jacobian", "linear", "solve"]

_EPS = float(np.finfo(np.float64).eps)
_LEAST = float(np.finfo(np.float64).tiny) / _EPS
_ROUNDS = differences.ROUNDS

_first_sizes = compiled(differences.first_sizes)
_increments = compiled(differences.increments)
_noisy = compiled(differences.noisy)
_better_sizes = compiled(differences.better_sizes)
_disagreement = compiled(differences.disagreement)
_learnt_sizes = compiled(differences.learnt_sizes)

OWN, SIZE, DELTA, LEARNT, COLUMN, NOISE, TERMS = map(np.int64, range(7))
"""Rows of `Linear.D`, a number for each column of J; TERMS for each row. While J is made, LEARNT
holds the sizes s."""


class Linear(NamedTuple):
    """A dense Jacobian, its LU decomposition, and what its differences work on."""

    J: Any
    """Shape (n, n), like the two after it."""
    LU: Any
    fresh: Any
    """Columns that had a second look."""
    pivots: Any
    D: Any
    """Shape (7, n)."""
    seen: Any
    """Which entries were ever nonzero, shape (n, n)."""
    constant: bool


def linear(n: int, dtype: Any, J: Any = None) -> Linear:
    """Return the arrays for n components, J being a constant Jacobian where there is one."""
    made = np.empty((n, n), dtype) if J is None else np.array(J, dtype)
    return Linear(
        made,
        np.empty((n, n), dtype),
        np.empty((n, n), dtype),
        np.empty(n, np.int64),
        np.zeros((7, n)),
        np.ones((n, n), np.bool_),
        J is not None,
    )


@inlined
def _top(x, top):
    """Return the larger one; NaN where one is."""
    return x if x > top or math.isnan(x) else top


@compiled
def finite(A):
    """Whether every entry of a matrix is finite."""
    for i in range(len(A)):
        for j in range(A.shape[1]):
            if not (math.isfinite(A[i, j].real) and math.isfinite(A[i, j].imag)):
                return False
    return True


@compiled
def _quotient(f, args, s, w, A, j, delta, row):
    """A_·j = (f(t, y + δ e_j) − f(t, y)) / δ."""
    W = w.W
    for i in range(W.shape[1]):
        W[Z, i] = W[Y, i]
    W[Z, j] += delta
    s.nfev_jac += 1
    slope(f, s.t, w, row, args)
    for i in range(W.shape[1]):
        A[i, j] = (W[row, i] - W[K, i]) / delta


@compiled
def _differences(f, args, s, w, a, row):
    """J by `stiffkit.solvers.differences.Differences`; f(t, y) is in K, `row` of W is free."""
    W, D, J, n, top = w.W, a.D, a.J, w.W.shape[1], 0.0
    for j in range(n):
        D[SIZE, j] = abs(W[Y, j])
        D[OWN, j] = max(D[SIZE, j], w.R[ATOL, j])
        top = max(top, D[SIZE, j])
    top = top if top > 0 else 1.0
    for j in range(n):
        sign = -1.0 if W[K, j].real < 0 else 1.0
        D[LEARNT, j] = _first_sizes(D[SIZE, j], D[OWN, j], D[LEARNT, j], top, _EPS, _LEAST)
        D[DELTA, j] = _increments(W[Y, j], sign, D[LEARNT, j], _EPS)
        _quotient(f, args, s, w, J, j, D[DELTA, j], row)
    for left in range(_ROUNDS, -1, -1):
        for j in range(n):
            D[COLUMN, j] = D[NOISE, j] = 0.0
        for i in range(n):
            terms = 0.0
            for j in range(n):
                terms += abs(J[i, j]) * D[SIZE, j]
            D[TERMS, i] = abs(W[K, i]) + terms
            for j in range(n):
                D[COLUMN, j] = _top(abs(J[i, j]), D[COLUMN, j])
                if not s.first_jac:
                    a.seen[i, j] = a.seen[i, j] or abs(J[i, j]) > 0
                rounding = _EPS * D[TERMS, i] * (1.0 if a.seen[i, j] else 0.0)
                D[NOISE, j] = _top(rounding, D[NOISE, j])
        if left == 0:
            break
        some = False
        for j in range(n):
            column, size = D[COLUMN, j], D[LEARNT, j]
            wrong, empty = not math.isfinite(column), column == 0 and size < 0.1 * top
            doubt = _noisy(D[NOISE, j], abs(D[DELTA, j]) * column, _EPS)
            if not (wrong or empty or doubt):
                continue
            sign = -1.0 if (D[DELTA, j] < 0) != wrong else 1.0
            better = _better_sizes(size, D[NOISE, j], column, wrong, empty, top, _EPS, _LEAST)
            delta = _increments(W[Y, j], sign, better, _EPS)
            _quotient(f, args, s, w, a.fresh, j, delta, row)
            tops, gap = 0.0, 0.0
            for i in range(n):
                tops = _top(abs(a.fresh[i, j]), tops)
            for i in range(n):
                moved = abs(a.fresh[i, j] - J[i, j])
                rounding = _EPS * D[TERMS, i] * (1.0 if a.seen[i, j] else 0.0)
                change = abs(D[DELTA, j])
                gap = _top(_disagreement(moved, rounding, change, tops, _EPS), gap)
            if math.isfinite(tops) and (wrong or empty or gap <= 0):
                some = True
                D[LEARNT, j], D[DELTA, j] = better, delta
                for i in range(n):
                    J[i, j] = a.fresh[i, j]
        if not some:
            break
    for j in range(n):
        poor = _noisy(D[NOISE, j], _EPS**0.5 * D[OWN, j] * D[COLUMN, j], _EPS)
        D[LEARNT, j] = _learnt_sizes(D[LEARNT, j], D[NOISE, j], D[COLUMN, j], poor, _EPS)
    if s.first_jac:
        s.first_jac = False
        for i in range(n):
            for j in range(n):
                a.seen[i, j] = abs(J[i, j]) > 0
    s.njev += 1


@compiled
def jacobian(f, jac, args, s, w, a, row):
    """Make J at (t, y), where f is in K; `row` of W is free."""
    if jac is None:  # known when this is compiled
        _differences(f, args, s, w, a, row)
    elif s.first_jac:  # Python made it, and checked it
        s.first_jac = False
    else:
        _given(jac, args, s, w, a)


@partial(compiled, _nrt=True)
def _given(jac, args, s, w, a):
    n = w.W.shape[1]
    for i in range(n):
        w.W[Z, i] = w.W[Y, i]
    value = jac(s.t, w.W_f[Z], *args)
    if value.shape[0] != n or value.shape[1] != n:
        msg = "jac returned a matrix of another shape than (n, n)"
        raise ValueError(msg)
    for i in range(n):
        for j in range(n):
            a.J[i, j] = value[i, j]
    s.njev += 1


@compiled
def factorise(s, a, c):
    """LU decomposition of I − cJ with partial pivoting; return whether it is regular."""
    LU, n = a.LU, len(a.LU)
    for i in range(n):
        for j in range(n):
            LU[i, j] = -c * a.J[i, j]
        LU[i, i] += 1.0
    s.nlu += 1
    if not finite(LU):
        return False
    for k in range(n):
        pivot, largest = k, abs(LU[k, k])
        for i in range(k + 1, n):
            if abs(LU[i, k]) > largest:
                pivot, largest = i, abs(LU[i, k])
        a.pivots[k] = pivot
        if largest == 0:
            return False
        if pivot != k:
            for j in range(n):
                LU[k, j], LU[pivot, j] = LU[pivot, j], LU[k, j]
        for i in range(k + 1, n):
            LU[i, k] /= LU[k, k]
            for j in range(k + 1, n):
                LU[i, j] -= LU[i, k] * LU[k, j]
    return True


@inlined
def solve(a, W, row):
    """Solve (I − cJ) x = r in place, r being a row of W."""
    LU, n = a.LU, len(a.LU)
    for k in range(n):
        W[row, k], W[row, a.pivots[k]] = W[row, a.pivots[k]], W[row, k]
        for j in range(k):
            W[row, k] -= LU[k, j] * W[row, j]
    for k in range(n - 1, -1, -1):
        for j in range(k + 1, n):
            W[row, k] -= LU[k, j] * W[row, j]
        W[row, k] /= LU[k, k]
