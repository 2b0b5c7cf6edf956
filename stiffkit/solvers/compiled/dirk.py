"""The parts of ESDIRK methods."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..newton_step import GROWTH, DirkStages, derivative_guesses
from ..tableau import ButcherTableau
from .calls import inlined, part_of
from .interior import examine
from .linear import Linear, solve
from .newton import attempt_stages, begin, correct, factorised, iterate, solve_stages
from .parts import (
    ERR,
    SCALE,
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
    square,
)

__all__ = ["Dirk", "dirk"]


class Dirk(NamedTuple):
    """An ESDIRK tableau, and the solve's linear algebra. Stage i's iterate is in row Y_NEW."""

    rows: Any
    """The rows of A, those of `derivative_guesses`, b, the error's weights, those of the dense
    output's polynomial (`ButcherTableau.bubble`)."""
    c: Any
    gamma: float
    s: int
    end: int
    """Row of W for f(t_new, y_new): that of the last stage, where the method is stiffly
    accurate."""
    psi: int
    """Row of W for what stage i has of the others; behind it one for corrections, and a spare
    one."""
    filtered: bool
    """Whether the error estimate has no `ButcherTableau.error_stage`."""
    n_errors: int
    most: int
    tol: float
    linear: Linear


@lru_cache(maxsize=64)
def _rows(tableau: ButcherTableau) -> Any:
    s = tableau.n_stages
    rows = np.zeros((2 * s, s))
    rows[:s], rows[s:] = tableau.A, derivative_guesses(tableau)
    return rows


def dirk(stages: DirkStages, a: Linear) -> tuple[Dirk, int, int]:
    """Return a method as the kernel takes it, its rows of W, and those of its polynomials."""
    tableau = stages.tableau
    s, bubble = tableau.n_stages, () if stages.bubble is None else stages.bubble.real
    rows = np.vstack([_rows(tableau), stages.b.real, stages.e.real, *bubble])
    last = int(K) + s - 1
    method = Dirk(
        rows,
        tableau.c,
        stages.gamma,
        s,
        last if tableau.stiffly_accurate else last + 1,
        last + 2,
        tableau.error_stage is None,
        1,
        stages.most,
        stages.tol,
        a,
    )
    return method, last + 5, len(bubble) or 2


@inlined
def _sum(rows, row, stages, W, k):
    """Σ_j rows_row,j K_j of component k."""
    total = W.dtype.type(0)
    for j in range(stages):
        total += rows[row, j] * W[K + j, k]
    return total


@part_of(Dirk, correct, forceinline=True)
def _correct(m, f, args, s, w, h, i):
    W, scale, a, psi, weight = w.W, w.R[SCALE], m.linear, m.psi, h * m.gamma
    n, change, total = W.shape[1], psi + 1, 0.0
    for k in range(n):
        W[Z, k] = W[Y_NEW, k]
    s.nfev += 1
    slope(f, s.t_new - (1 - m.c[i]) * h, w, change, args)
    for k in range(n):
        W[change, k] = weight * W[change, k] + (W[psi, k] - W[Y_NEW, k])
    solve(a.LU, a.L, a.pivots, a.band, W, change)
    for k in range(n):
        W[Y_NEW, k] += W[change, k]
        total += square(W[change, k] * scale[k])
    return math.sqrt(total / n)


@part_of(Dirk, solve_stages, forceinline=True)
def _solve_stages(m, f, args, s, w, h):
    W, rows, stages, psi, weight = w.W, m.rows, m.s, m.psi, h * m.gamma
    n = W.shape[1]
    if not factorised(m.linear, s, W, w.R, h, weight):
        return SINGULAR
    s.rate, s.iterations = 0.0, 0
    for i in range(1, stages):
        for k in range(n):
            W[psi, k] = W[Y, k] + h * _sum(rows, i, i, W, k)
            W[Y_NEW, k] = W[psi, k] + weight * _sum(rows, stages + i, i, W, k)
        failed = iterate(m, f, args, s, w, h, i)
        if failed > 0:
            return failed
        for k in range(n):
            W[K + i, k] = (W[Y_NEW, k] - W[psi, k]) / weight
    s.have_new = m.end < K + stages
    if not s.have_new:
        for k in range(n):
            W[Y_NEW, k] = W[Y, k] + h * _sum(rows, 2 * stages, stages, W, k)
    return 0


@part_of(Dirk, attempt, forceinline=True)
def _attempt(m, f, jac, args, s, w, h):
    if not s.retry:
        s.exact = not begin(s) or m.end == K + m.s
    if not s.fresh and abs(h) > GROWTH * s.h_known:
        s.known = False
    return attempt_stages(m, f, jac, args, s, w, h, m.psi + 1)


@part_of(Dirk, errors, forceinline=True)
def _errors(m, s, w, h):
    W, rows, stages, a = w.W, m.rows, m.s, m.linear
    for k in range(W.shape[1]):
        W[ERR, k] = h * _sum(rows, 2 * stages + 1, stages, W, k)
    if m.filtered:
        solve(a.LU, a.L, a.pivots, a.band, W, ERR)


@part_of(Dirk, polynomial)
def _polynomial(m, f, args, s, w, h, path, place):
    W, rows, stages = w.W, m.rows, m.s
    first = 2 * stages + 2
    if len(rows) == first:
        hermite(m, f, args, s, w, h, path, place)
    s.formed = True
    for r in range(len(rows) - first):
        for k in range(W.shape[1]):
            path[place, 1 + r, k] = h * _sum(rows, first + r, stages, W, k)


@part_of(Dirk, inside)
def _inside(m, f, args, s, w, h, path, place):
    examine(m, f, args, s, w, h, path, place, h * m.gamma, m.psi + 1)


@part_of(Dirk, look)
def _look(m, f, args, s, w, h):
    return False
