"""The parts of Rosenbrock methods."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .. import dense, differences, stiff_limit
from ..rosenbrock import RosenbrockTableau
from .calls import compiled, inlined, part_of
from .linear import Linear, factorise, finite, jacobian, linear, solve
from .parts import (
    ERR,
    NON_FINITE,
    SINGULAR,
    Y_NEW,
    K,
    Y,
    Z,
    attempt,
    errors,
    evaluate,
    hermite,
    inside,
    look,
    polynomial,
    rms,
    slope,
)

__all__ = ["Rosenbrock", "rosenbrock"]

_EPS = float(np.finfo(np.float64).eps)
_SAME = 1e-12
"""Steps that differ by this much, relatively, share a decomposition."""

F_T, U = K + 3, K + 4
"""Rows of W: ∂f/∂t, and the first of the u_i. Between K and these are f_new and a row that is free
for values of f."""

_INSIDE = stiff_limit.INSIDE

_with_inside = compiled(stiff_limit.with_inside)
_bubble_slope = compiled(dense.bubble_slope)
_time_increment = compiled(differences.time_increment)


class Rosenbrock(NamedTuple):
    """A Rosenbrock tableau, and the solve's linear algebra."""

    rows: Any
    """The rows of A, those of γ C, m, m − m̂, and those of H."""
    c: Any
    d: Any
    gamma: float
    s: int
    end: int
    """Row of W for f(t_new, y_new)."""
    n_errors: int
    linear: Linear | None


@lru_cache(maxsize=64)
def _coefficients(tableau: RosenbrockTableau) -> Rosenbrock:
    s = tableau.n_stages
    m, C = np.array(tableau.m), [np.multiply(tableau.gamma, row) for row in tableau.C]
    given = [*tableau.A, *C, m, m - np.array(tableau.m_hat), *tableau.H]
    rows = np.zeros((len(given), s))
    for row, entries in zip(rows, given, strict=True):
        row[: len(entries)] = entries
    c, d = (np.array(row, dtype=float) for row in (tableau.c, tableau.d))
    return Rosenbrock(rows, c, d, float(tableau.gamma), s, int(K) + 1, 1, None)


def rosenbrock(tableau: RosenbrockTableau, n: int, dtype: Any, J: Any = None) -> Rosenbrock:
    """Return a method as the kernel takes it, J being a constant Jacobian where there is one."""
    return _coefficients(tableau)._replace(linear=linear(n, dtype, J))


@inlined
def _sum(m, row, stages, W, k):
    """Σ_j rows_row,j u_j of component k."""
    total = W.dtype.type(0)
    for j in range(stages):
        total += m.rows[row, j] * W[U + j, k]
    return total


@compiled
def _prepare(m, f, jac, args, s, w, h):
    """Make J and ∂f/∂t at the start of a step; return whether J is finite."""
    W, n = w.W, w.W.shape[1]
    if not m.linear.constant:
        jacobian(f, jac, args, s, w, m.linear, K + 2)
        if not finite(m.linear.J):
            return False
        s.h_solved = 0.0
    s.fresh = True
    time = s.t + _time_increment(s.t, h, _EPS)
    step = time - s.t
    s.nfev_time += 1
    s.moving = False
    if step != 0:
        for i in range(n):
            W[Z, i] = W[Y, i]
        slope(f, time, w, K + 2, args)
    for i in range(n):
        W[F_T, i] = (W[K + 2, i] - W[K, i]) / step if step != 0 else 0.0
        s.moving = s.moving or W[F_T, i] != 0
    return True


@part_of(Rosenbrock, attempt)
def _attempt(m, f, jac, args, s, w, h):
    W, n, weight = w.W, w.W.shape[1], h * m.gamma
    if not s.fresh and not _prepare(m, f, jac, args, s, w, h):
        s.longest = 0.1 * abs(h)
        return NON_FINITE
    if abs(h - s.h_solved) > _SAME * abs(h):
        s.h_solved, s.c = h, weight
        if not factorise(s, m.linear, weight):
            s.h_solved, s.longest = 0.0, 0.5 * abs(h)
            return SINGULAR
    for i in range(m.s):
        if i > 0:
            for k in range(n):
                W[Z, k] = W[Y, k] + _sum(m, i, i, W, k)
            s.nfev += 1
            slope(f, s.t_new - (1 - m.c[i]) * h, w, K + 2, args)
        for k in range(n):
            right = weight * W[K if i == 0 else K + 2, k]
            right += _sum(m, m.s + i, i, W, k)
            if s.moving:
                right += (h * weight * m.d[i]) * W[F_T, k]
            W[U + i, k] = right
        solve(m.linear, W, U + i)
    for k in range(n):
        W[Y_NEW, k] = W[Y, k] + _sum(m, 2 * m.s, m.s, W, k)
    s.have_new = False
    return 0


@part_of(Rosenbrock, errors)
def _errors(m, s, w, h):
    for k in range(w.W.shape[1]):
        w.W[ERR, k] = _sum(m, 2 * m.s + 1, m.s, w.W, k)


@part_of(Rosenbrock, polynomial)
def _polynomial(m, f, args, s, w, h, path, place):
    W, first = w.W, 2 * m.s + 2
    if len(m.rows) == first:
        hermite(m, f, args, s, w, h, path, place)
    s.formed = True
    for r in range(len(m.rows) - first):
        for k in range(W.shape[1]):
            path[place, 1 + r, k] = _sum(m, first + r, m.s, W, k)


@part_of(Rosenbrock, inside)
def _inside(m, f, args, s, w, h, path, place):
    """See `stiffkit.solvers.stiff_step.StiffStages.inside_error`."""
    W, time = w.W, s.t + _INSIDE * h
    theta = (time - s.t) / h
    polynomial(m, f, args, s, w, h, path, place)
    evaluate(theta, W, path, place, W, Z)
    s.nfev += 1
    slope(f, time, w, K + 2, args)
    for k in range(W.shape[1]):
        rise = W[Y_NEW, k] - W[Y, k]
        for i in range(1, path.shape[1]):
            rise += _bubble_slope(i, theta) * path[place, i, k]
        W[ERR, k] = (W[K + 2, k] - rise / h) * (h * m.gamma)
    solve(m.linear, W, ERR)
    s.ratio = _with_inside(s.ratio, rms(w, ERR), s.refused)
    if s.ratio >= 1:
        s.refused += 1
        s.beyond = s.t_new


@part_of(Rosenbrock, look)
def _look(m, f, args, s, w, h):
    return False
