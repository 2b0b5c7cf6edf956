"""The parts of Rosenbrock methods."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .. import differences
from ..rosenbrock import RosenbrockTableau
from ..step import SHORTER
from ..stiff_step import SAME, serves
from .calls import compiled, inlined, part_of
from .interior import examine
from .linear import Linear, decompose, jacobian, solve
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
    hermite,
    inside,
    look,
    polynomial,
    slope,
)

__all__ = ["Rosenbrock", "rosenbrock"]

_EPS = float(np.finfo(np.float64).eps)
_SHORTER, _HALF = SHORTER["non_finite"], SHORTER["singular"]

F_T, U = K + 3, K + 4
"""Rows of W: ∂f/∂t, and the first of the u_i. Between K and these are f_new and a row that is free
for values of f."""

_time_increment = compiled(differences.time_increment)
_serves = compiled(serves)


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
    keeps: bool
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
    return Rosenbrock(rows, c, d, float(tableau.gamma), s, int(K) + 1, 1, tableau.w_method, None)


def rosenbrock(tableau: RosenbrockTableau, a: Linear) -> tuple[Rosenbrock, int, int]:
    """Return a method as the kernel takes it, its rows of W, and those of its polynomials."""
    return _coefficients(tableau)._replace(linear=a), int(U) + len(tableau.c), len(tableau.H) or 2


@inlined
def _sum(m, row, stages, W, k):
    """Σ_j rows_row,j u_j of component k."""
    total = W.dtype.type(0)
    for j in range(stages):
        total += m.rows[row, j] * W[U + j, k]
    return total


@inlined
def _prepare(m, f, jac, args, s, w, h):
    """Make J and ∂f/∂t at the start of a step; return whether J is finite."""
    W, n = w.W, w.W.shape[1]
    if not m.linear.constant:
        if not jacobian(f, jac, args, s, w, m.linear, K + 2):
            return False
        s.h_solved = 0.0
    s.fresh, s.known, s.h_known, s.age = True, True, abs(h), 0
    time = s.t + _time_increment(s.t, h, _EPS)
    step = time - s.t
    s.nfev_time += 1
    s.moving = False
    if step != 0:
        for i in range(n):
            W[Z, i] = W[Y, i]
        slope(f, time, w, K + 2, args)
        moved = False
        for i in range(n):
            W[F_T, i] = (W[K + 2, i] - W[K, i]) / step
            moved |= W[F_T, i] != 0
        s.moving = moved
    return True


@part_of(Rosenbrock, attempt, forceinline=True)
def _attempt(m, f, jac, args, s, w, h):
    W, a, rows, weight = w.W, m.linear, m.rows, h * m.gamma
    n = W.shape[1]
    old = m.keeps and s.known and _serves(s.age, s.retry, h, s.h_known)
    if not (s.fresh or old) and not _prepare(m, f, jac, args, s, w, h):
        s.longest = _SHORTER * abs(h)
        return NON_FINITE
    if abs(h - s.h_solved) > SAME * abs(h):
        s.h_solved, s.c = h, weight
        s.nlu += 1
        if not decompose(a.J, a.band, a.LU, a.L, a.pivots, weight):
            s.h_solved, s.longest = 0.0, _HALF * abs(h)
            return SINGULAR
    for i in range(m.s):
        u, value = U + i, K + 2 if i > 0 else K
        for k in range(n):
            change = carried = W.dtype.type(0)
            for j in range(i):
                change += rows[i, j] * W[U + j, k]
                carried += rows[m.s + i, j] * W[U + j, k]
            W[Z, k], W[u, k] = W[Y, k] + change, carried
        if i > 0:
            s.nfev += 1
            slope(f, s.t_new - (1 - m.c[i]) * h, w, value, args)
        for k in range(n):
            W[u, k] += weight * W[value, k]
        if s.moving:
            for k in range(n):
                W[u, k] += (h * weight * m.d[i]) * W[F_T, k]
        solve(a.LU, a.L, a.pivots, a.band, W, u)
    for k in range(n):
        W[Y_NEW, k] = W[Y, k] + _sum(m, 2 * m.s, m.s, W, k)
    s.have_new = False
    return 0


@part_of(Rosenbrock, errors, forceinline=True)
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
    examine(m, f, args, s, w, h, path, place, h * m.gamma, K + 2)


@part_of(Rosenbrock, look)
def _look(m, f, args, s, w, h):
    return False
