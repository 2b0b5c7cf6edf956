"""The parts of Radau IIA methods."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from ..newton_step import RadauStages
from .calls import OPTIONS, inlined, part_of
from .interior import examine
from .linear import Linear, decompose, solve
from .newton import attempt_stages, begin, correct, factorised, iterate, solve_stages
from .parts import (
    ATOL,
    ERR,
    RTOL,
    SCALE,
    SINGULAR,
    Y_NEW,
    K,
    Y,
    Z,
    attempt,
    errors,
    inside,
    look,
    polynomial,
    slope,
    square,
)

__all__ = ["Radau", "radau"]

_TINY = float(np.finfo(np.float64).tiny)


class Radau(NamedTuple):
    """A Radau method, and the solve's linear algebra: see `RadauTransformation` for the letters."""

    rows: Any
    """The rows of `coefficients`, those of the dense output's polynomial, and e / γ."""
    c: Any
    gamma: float
    S: Any
    S_inv: Any
    eigenvalues: Any
    s: int
    end: int
    """Row of W for f(t_new, y_new)."""
    F: int
    """First of the rows of W with f's values at the stages, Z, the coefficients of the last step's
    collocation polynomial, and two that are free."""
    n_errors: int
    most: int
    tol: float
    linear: Linear
    """J, and the decomposition for the real eigenvalue."""
    LU: Any
    """Those for the others, shape (m − 1, n, width)."""
    L: Any
    pivots: Any
    C: Any
    """W and its corrections, shape (2 m, n)."""
    weights: Any
    """h over the eigenvalues."""


def radau(stages: RadauStages, a: Linear) -> tuple[Radau, int, int]:
    """Return a method as the kernel takes it, its rows of W, and those of its polynomials."""
    s, m, (n, width) = stages.tableau.n_stages, len(stages.eigenvalues), a.LU.shape
    F = int(K) + 2
    LU, pivots = np.empty((m - 1, n, width), complex), np.empty((m - 1, n), np.int64)
    method = Radau(
        np.vstack([stages.data.coefficients, stages.bubble.real, stages.e.real]),
        stages.tableau.c,
        stages.gamma,
        # One layout for all: the kernel is chosen by the type of the method, not of its arrays.
        np.ascontiguousarray(stages.S),
        np.ascontiguousarray(stages.S_inv),
        np.array(stages.eigenvalues),
        s,
        F - 1,
        F,
        1,
        stages.most,
        stages.tol,
        a,
        LU,
        np.empty((m - 1, *a.L.shape), complex),
        pivots,
        np.zeros((2 * m, n), complex),
        np.zeros(m, complex),
    )
    return method, F + 3 * s + 2, s - 1


def _put(W: Any, row: int, k: int, value: complex) -> None:
    """W_row,k = the value, or of a real W its real part."""
    raise NotImplementedError


@overload(_put, jit_options=OPTIONS)
def _of_dtype(W, row, k, value):
    if isinstance(W.dtype, types.Float):

        def real(W, row, k, value):
            W[row, k] = value.real

        return real

    def whole(W, row, k, value):
        W[row, k] = value

    return whole


@inlined
def _sum(rows, row, W, first, k):
    """Σ_i rows_row,i W_(first + i) of component k."""
    total = rows[0, 0] * 0 * W[0, k]
    for i in range(rows.shape[1]):
        total += rows[row, i] * W[np.uint64(first + i), k]
    return total


@inlined
def _predict(ratio, c, S_inv, C, W, first):
    """Write Z by extrapolation of the step before, and W = S⁻¹ Z."""
    s, n = len(c), W.shape[1]
    for i in range(s):
        theta, power = 1 + ratio * c[i], 1.0
        for k in range(n):
            W[first + i, k] = 0
        for j in range(s):
            power *= theta
            for k in range(n):
                W[first + i, k] += (power - 1) * W[first + s + j, k]
    for r in range(len(S_inv)):
        for k in range(n):
            C[r, k] = _sum(S_inv, r, W, first, k)


@part_of(Radau, correct, forceinline=True)
def _correct(m, f, args, s, w, h, i):
    W, scale, C, S, S_inv, weights, c = w.W, w.R[SCALE], m.C, m.S, m.S_inv, m.weights, m.c
    a, LU, L, pivots, F, band = m.linear, m.LU, m.L, m.pivots, m.F, m.linear.band
    n, stages, systems, total = W.shape[1], len(c), len(weights), 0.0
    first, right = F + stages, F + 3 * stages
    for i in range(stages):
        for k in range(n):
            W[Z, k] = W[Y, k] + W[first + i, k]
        s.nfev += 1
        slope(f, s.t_new - (1 - c[i]) * h, w, F + i, args)
    for r in range(systems):
        for k in range(n):
            C[systems + r, k] = weights[r] * _sum(S_inv, r, W, F, k) - C[r, k]
    for k in range(n):
        _put(W, right, k, C[systems, k])
    solve(a.LU, a.L, a.pivots, band, W, right)
    for k in range(n):
        C[systems, k] = W[right, k]
    for r in range(1, systems):
        solve(LU[r - 1], L[r - 1], pivots[r - 1], band, C, systems + r)
    for r in range(systems):
        for k in range(n):
            C[r, k] += C[systems + r, k]
            total += square(C[systems + r, k] * scale[k])
    for i in range(stages):
        for k in range(n):
            _put(W, first + i, k, _sum(S, i, C, 0, k))
    return math.sqrt(total / (stages * n))


@part_of(Radau, solve_stages, forceinline=True)
def _solve_stages(m, f, args, s, w, h):
    W, a, weights, eigenvalues, last = w.W, m.linear, m.weights, m.eigenvalues, m.F + 2 * m.s - 1
    if not factorised(a, s, W, w.R, h, h / m.gamma):
        return SINGULAR
    for r in range(len(weights)):
        c = weights[r] = h / eigenvalues[r]
        if s.solved == r:
            s.nlu += 1
            if not decompose(a.J, a.band, m.LU[r - 1], m.L[r - 1], m.pivots[r - 1], c):
                s.c, s.c_imag = c.real, c.imag
                return SINGULAR
            s.solved += 1
    s.h_made, s.rate, s.iterations = h, 0.0, 0
    # Before the first step there was none: from zeros it is extrapolated to zeros.
    _predict(h / s.h_last if s.h_last != 0 else 0.0, m.c, m.S_inv, m.C, W, m.F + m.s)
    failed = iterate(m, f, args, s, w, h, 0)
    if failed > 0:
        return failed
    for k in range(W.shape[1]):
        W[Y_NEW, k] = W[Y, k] + W[last, k]
    s.have_new = False
    return 0


@inlined
def _estimate(m, f, args, s, w, h):
    """Write Hairer's estimate, filtered twice after a rejection and at the start."""
    W, R, rows, a, c = w.W, w.R, m.rows, m.linear, h / m.gamma
    n, rest = W.shape[1], m.F + 3 * m.s
    value, total, careful = rest + 1, 0.0, s.careful
    for k in range(n):
        W[rest, k] = _sum(rows, len(rows) - 1, W, m.F + m.s, k)
        W[value, k] = W[K, k]
    s.careful = True
    while True:
        for k in range(n):
            W[ERR, k] = c * W[value, k] + W[rest, k]
        solve(a.LU, a.L, a.pivots, a.band, W, ERR)
        if not careful:
            return
        careful = False
        for k in range(n):
            size = max(abs(W[Y, k]), abs(W[Y_NEW, k]))
            total += (abs(W[ERR, k]) / (R[ATOL, k] + _TINY + R[RTOL, k] * size)) ** 2
            W[Z, k] = W[Y, k] + W[ERR, k]
        if not math.sqrt(total / n) >= 1:
            return
        s.nfev += 1
        slope(f, s.t, w, value, args)


@part_of(Radau, attempt, forceinline=True)
def _attempt(m, f, jac, args, s, w, h):
    if not s.retry:
        s.exact, s.careful = True, not begin(s)
        if not s.careful:
            W, rows, first = w.W, m.rows, m.F + m.s
            s.h_last = s.h_made
            for j in range(m.s):
                for k in range(W.shape[1]):
                    W[first + m.s + j, k] = _sum(rows, j, W, first, k)
    failed = attempt_stages(m, f, jac, args, s, w, h, m.F + 3 * m.s)
    if failed == 0:
        _estimate(m, f, args, s, w, h)
    return failed


@part_of(Radau, errors, forceinline=True)
def _errors(m, s, w, h):
    """Nothing is left to do: the estimate may call f, and the attempt made it."""


@part_of(Radau, polynomial)
def _polynomial(m, f, args, s, w, h, path, place):
    W, rows, stages, first = w.W, m.rows, m.s, m.F + m.s
    s.formed = True
    for r in range(stages - 1):
        for k in range(W.shape[1]):
            path[place, 1 + r, k] = _sum(rows, stages + r, W, first, k)


@part_of(Radau, inside)
def _inside(m, f, args, s, w, h, path, place):
    examine(m, f, args, s, w, h, path, place, h / m.gamma, m.F + 3 * m.s)


@part_of(Radau, look)
def _look(m, f, args, s, w, h):
    return False
