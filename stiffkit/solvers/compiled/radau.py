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

E, FROM_OWN, TO_OWN = map(np.int64, (-3, -2, -1))
"""The last of `Radau.rows`: e / γ, and S's column and S⁻¹'s row of the real eigenvalue."""


class Radau(NamedTuple):
    """A Radau method, and the solve's linear algebra: see `RadauTransformation` for the letters.

    What is of the real eigenvalue stands apart from what is of the others: it is real where the
    state is.
    """

    rows: Any
    """The rows of `coefficients`, those of the dense output's polynomial, and three more: see E."""
    c: Any
    gamma: float
    S: Any
    """Shape (s, m − 1)."""
    S_inv: Any
    """Shape (m − 1, s)."""
    eigenvalues: Any
    """Shape (m − 1,)."""
    s: int
    end: int
    """Row of W for f(t_new, y_new)."""
    F: int
    """First of the rows of W with f's values at the stages, Z, the coefficients of the last step's
    collocation polynomial, and two that are free but for Newton's iteration: the correction of the
    real eigenvalue's unknown, and that unknown."""
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
    """Their unknowns and the corrections of those, shape (2 m − 2, n)."""
    weights: Any
    """h over the eigenvalues."""


def radau(stages: RadauStages, a: Linear) -> tuple[Radau, int, int]:
    """Return a method as the kernel takes it, its rows of W, and those of its polynomials."""
    s, others, (n, width) = stages.tableau.n_stages, len(stages.eigenvalues) - 1, a.LU.shape
    F = int(K) + 2
    LU, pivots = np.empty((others, n, width), complex), np.empty((others, n), np.int64)
    data, S, S_inv = stages.data, stages.S, stages.S_inv
    own = stages.e.real, S[:, 0].real, S_inv[0].real
    method = Radau(
        np.vstack([data.coefficients, stages.bubble.real, *own]),
        stages.tableau.c,
        stages.gamma,
        # One layout for all: the kernel is chosen by the type of the method, not of its arrays.
        np.ascontiguousarray(S[:, 1:]),
        np.ascontiguousarray(S_inv[1:]),
        np.array(stages.eigenvalues[1:]),
        s,
        F - 1,
        F,
        1,
        stages.most,
        stages.tol,
        a,
        LU,
        np.empty((others, *a.L.shape), complex),
        pivots,
        np.zeros((2 * others, n), complex),
        np.zeros(others, complex),
    )
    return method, F + 3 * s + 2, s - 1


def _times(c: complex, x: complex) -> complex:
    """Return c x, without products by zero where x is real."""
    raise NotImplementedError


@overload(_times, jit_options=OPTIONS)
def _times_of(c, x):
    if isinstance(x, types.Float):
        return lambda c, x: complex(c.real * x, c.imag * x)
    return lambda c, x: c * x


def _like(x: complex, z: complex) -> complex:
    """Return z, or where x is real the real part."""
    raise NotImplementedError


@overload(_like, jit_options=OPTIONS)
def _like_of(x, z):
    if isinstance(x, types.Float):
        return lambda x, z: z.real
    return lambda x, z: z


@inlined
def _sum(rows, row, W, first, k):
    """Σ_i rows_row,i W_(first + i) of component k; the rows are real."""
    total = W.dtype.type(0)
    for i in range(rows.shape[1]):
        total += rows[row, i] * W[np.uint64(first + i), k]
    return total


@inlined
def _turned(rows, row, W, first, k):
    """Do the same with complex rows."""
    total = 0j
    for i in range(rows.shape[1]):
        total += _times(rows[row, i], W[np.uint64(first + i), k])
    return total


@inlined
def _predict(m, W, ratio):
    """Write Z by extrapolation of the step before, and the unknowns S⁻¹ Z."""
    c, C, S_inv = m.c, m.C, m.S_inv
    n, stages = W.shape[1], len(c)
    first = m.F + stages
    last, own = first + stages, first + 2 * stages + 1
    for i in range(stages):
        theta = 1 + ratio * c[i]
        for k in range(n):
            total, power = W.dtype.type(0), 1.0
            for j in range(stages):
                power *= theta
                total += (power - 1) * W[np.uint64(last + j), k]
            W[first + i, k] = total
    for k in range(n):
        W[own, k] = _sum(m.rows, TO_OWN, W, first, k)
    for r in range(len(S_inv)):
        for k in range(n):
            C[r, k] = _turned(S_inv, r, W, first, k)


@part_of(Radau, correct, forceinline=True)
def _correct(m, f, args, s, w, h, i):
    W, scale, rows, C, S, S_inv, c = w.W, w.R[SCALE], m.rows, m.C, m.S, m.S_inv, m.c
    a, F, weight, weights = m.linear, m.F, h / m.gamma, m.weights
    n, stages, others, total = W.shape[1], len(c), len(weights), 0.0
    first = F + stages
    change, own = first + 2 * stages, first + 2 * stages + 1
    for i in range(stages):
        for k in range(n):
            W[Z, k] = W[Y, k] + W[first + i, k]
        s.nfev += 1
        slope(f, s.t_new - (1 - c[i]) * h, w, F + i, args)
    for k in range(n):
        W[change, k] = weight * _sum(rows, TO_OWN, W, F, k) - W[own, k]
    solve(a.LU, a.L, a.pivots, a.band, W, change)
    for r in range(others):
        for k in range(n):
            C[others + r, k] = weights[r] * _turned(S_inv, r, W, F, k) - C[r, k]
        solve(m.LU[r], m.L[r], m.pivots[r], a.band, C, others + r)
    for k in range(n):
        W[own, k] += W[change, k]
        total += square(W[change, k] * scale[k])
    for r in range(others):
        for k in range(n):
            C[r, k] += C[others + r, k]
            total += square(C[others + r, k] * scale[k])
    for i in range(stages):
        for k in range(n):
            z = rows[FROM_OWN, i] * W[own, k]
            for r in range(others):
                z += _like(z, S[i, r] * C[r, k])
            W[first + i, k] = z
    return math.sqrt(total / (stages * n))


@part_of(Radau, solve_stages, forceinline=True)
def _solve_stages(m, f, args, s, w, h):
    W, a, weights, eigenvalues, last = w.W, m.linear, m.weights, m.eigenvalues, m.F + 2 * m.s - 1
    if not factorised(a, s, W, w.R, h, h / m.gamma):
        return SINGULAR
    for r in range(len(weights)):
        c = weights[r] = h / eigenvalues[r]
        if s.solved == 1 + r:
            s.nlu += 1
            if not decompose(a.J, a.band, m.LU[r], m.L[r], m.pivots[r], c):
                s.c, s.c_imag = c.real, c.imag
                return SINGULAR
            s.solved += 1
    s.h_made, s.rate, s.iterations = h, 0.0, 0
    # Before the first step there was none: from zeros it is extrapolated to zeros.
    _predict(m, W, h / s.h_last if s.h_last != 0 else 0.0)
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
        W[rest, k] = _sum(rows, E, W, m.F + m.s, k)
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
