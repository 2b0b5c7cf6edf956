"""The parts of stabilised methods, whose coefficients are made when a stage count is first met."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ...stiffness import power, radius
from .. import stabilised as methods
from .calls import compiled, inlined, part_of
from .parts import (
    ASK,
    ERR,
    NON_FINITE,
    STABILITY,
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

__all__ = ["ROWS", "Stabilised", "learn", "stabilised"]

_ROOT = float(np.finfo(np.float64).eps) ** 0.5
_TINY = float(np.finfo(np.float64).tiny)
_TOLERANCE, _MOST = radius.TOLERANCE, radius.MOST
_STAGES = 5
"""The most that follow a recurrence."""

END, VECTOR, VALUE, OLD, LAST, SUMS = (K + i for i in range(1, 7))
"""Rows of W: f_new, the direction of power iteration, a value of f, Y_(j−2), Y_(j−1), and the sums
that become stages, y_new and err."""
ROWS = int(SUMS) + _STAGES

_settled = compiled(power.settled)
_is_stale = compiled(methods.is_stale)
_longest_step = compiled(methods.longest_step)


class Stabilised(NamedTuple):
    """A stabilised method, a row for each stage count, and how its spectral radius is found."""

    beta: Any
    """β(s); NaN where the row is not known yet."""
    first: Any
    n: Any
    """How many rows the recurrence has."""
    rows: Any
    """Those rows, shape (counts, most rows, 6)."""
    c: Any
    columns: Any
    """Shape (counts, 5, 5): entry (q, r) is what h k_q is weighted with in sum r."""
    stages: Any
    """How many k_q, and how many sums there are, shape (counts, 2)."""
    defect: Any
    end: int
    """Row of W for f(t_new, y_new)."""
    n_errors: int
    radius: float
    """A bound that was given as a number, or NaN."""
    smallest: float
    """Below this a radius does not matter."""
    safety: float
    every: int


@lru_cache(maxsize=16)
def _tables(method: methods.StabilisedMethod) -> Stabilised:
    counts, most = len(method.degrees), method.max_stages
    tables = Stabilised(
        beta=np.full(counts, np.nan),
        first=np.empty(counts),
        n=np.empty(counts, np.int64),
        rows=np.empty((counts, most, 6)),
        c=np.empty((counts, _STAGES)),
        columns=np.zeros((counts, _STAGES, _STAGES)),
        stages=np.zeros((counts, 2), np.int64),
        defect=np.empty(counts),
        end=int(END),
        n_errors=1,
        radius=math.nan,
        smallest=0.0,
        safety=1.0,
        every=1,
    )
    learn(tables, method, counts - 1)
    return tables


def stabilised(method: methods.StabilisedMethod, keeper: methods.RadiusKeeper, given: Any) -> Any:
    """Return a method as the kernel takes it, `given` being the user's radius."""
    return _tables(method)._replace(
        radius=math.nan if given is None or callable(given) else float(given),
        smallest=float(getattr(keeper.estimate, "smallest", 0.0)),
        safety=float(keeper.safety),
        every=int(keeper.every),
    )


def learn(m: Stabilised, method: methods.StabilisedMethod, i: int) -> None:
    """Enter stage count i."""
    s = method.degrees[i]
    recurrence, c, columns, defect = methods.SCHEMES[method.step](s)
    m.first[i], m.n[i], m.defect[i] = recurrence.first, len(recurrence.rows), defect
    if recurrence.rows:
        m.rows[i, : len(recurrence.rows)] = recurrence.rows
    m.c[i, : len(c)] = c
    m.stages[i] = len(columns), len(columns[0]) if columns else 0
    for q, column in enumerate(columns):
        m.columns[i, q, q : q + len(column)] = column
    m.beta[i] = method.beta(s)  # at last: with it the row is known to other threads


# The spectral radius ------------------------------------------------------------------------------


@compiled
def _norm(W, row):
    """Return ‖W_row‖; see `stiffkit.solvers.jacobian.row_norm`."""
    n, top, total = W.shape[1], 0.0, 0.0
    for i in range(n):
        size = abs(W[row, i])
        if size > top or math.isnan(size):
            top = size
    scale = top if top > 0 else 1.0
    for i in range(n):
        total += (abs(W[row, i]) / scale) ** 2
    return top * math.sqrt(total)


@compiled
def _power(m, f, args, s, w):
    """See `stiffkit.stiffness.power.nonlinear_power_iteration`, as `PowerRadius` calls it."""
    W, n, value = w.W, w.W.shape[1], 0.0
    step = _ROOT * _norm(W, Y)
    step = step if step > _TINY else _ROOT
    start = K if s.first_jac else VECTOR
    s.first_jac = False
    size = _norm(W, start)
    usable = 0 < size < math.inf
    size = size if usable else math.sqrt(n)
    for i in range(n):
        W[VECTOR, i] = (W[start, i] if usable else 1.0) / size * step
    for iteration in range(1, _MOST + 1):
        for i in range(n):
            W[Z, i] = W[Y, i] + W[VECTOR, i]
        s.nfev += 1
        slope(f, s.t, w, VALUE, args)
        for i in range(n):
            W[VALUE, i] -= W[K, i]
        norm = _norm(W, VALUE)
        new = norm / step
        if not math.isfinite(new):
            value = math.inf
            break
        change, value = abs(new - value), new
        if norm > 0:
            for i in range(n):
                W[VECTOR, i] = W[VALUE, i] / norm * step
        else:
            W[VECTOR, iteration % n] = -W[VECTOR, iteration % n]
        if iteration >= 2 and _settled(change, value, m.smallest, _TOLERANCE):
            break
    for i in range(n):
        W[VECTOR, i] /= step
    return value


@compiled
def _radius(m, f, jac, args, s, w):
    """Return the spectral radius at (t, y), where f is in K."""
    if jac is not None:  # known when this is compiled
        for i in range(w.W.shape[1]):
            w.W[Z, i] = w.W[Y, i]
        return jac(s.t, w.W_f[Z], *args)
    return _power(m, f, args, s, w) if math.isnan(m.radius) else m.radius


# The step -----------------------------------------------------------------------------------------


@inlined
def _slope_at(f, c, s, w, h, row, args):
    """W_row = f(t + c h, Z)."""
    time = s.t + c * h
    s.nfev += 1
    slope(f, s.t_new if time == s.t + h else time, w, row, args)


@compiled
def _recur(m, i, f, args, s, w, h):
    """Z = the last Y_j of stage count i."""
    W, n = w.W, w.W.shape[1]
    for k in range(n):
        W[OLD, k] = W[Y, k]
        W[LAST, k] = W[Z, k] = W[Y, k] + (h * m.first[i]) * W[K, k]
    for j in range(m.n[i]):
        one, mu, nu = m.rows[i, j, 0], m.rows[i, j, 1], m.rows[i, j, 2]
        mu_h, gamma_h = h * m.rows[i, j, 3], h * m.rows[i, j, 4]
        _slope_at(f, m.rows[i, j, 5], s, w, h, VALUE, args)
        for k in range(n):
            new = mu * W[LAST, k] + nu * W[OLD, k] + mu_h * W[VALUE, k]
            if gamma_h != 0.0:
                new += one * W[Y, k] + gamma_h * W[K, k]
            W[OLD, k] = W[LAST, k]
            W[LAST, k] = W[Z, k] = new


@compiled
def _with_defect(m, i, f, args, s, w, h):
    W, weight = w.W, m.defect[i]
    for k in range(W.shape[1]):
        W[Y_NEW, k] = W[LAST, k]
    _slope_at(f, 1.0, s, w, h, m.end, args)
    for k in range(W.shape[1]):
        err = (6 * weight * h) * (W[K, k] + W[m.end, k])
        W[ERR, k] = err + (12 * weight) * (W[Y, k] - W[Y_NEW, k])
    s.have_new = True


@compiled
def _with_stages(m, i, f, args, s, w, h):
    W, n, sums = w.W, w.W.shape[1], m.stages[i, 1]
    for r in range(sums):
        for k in range(n):
            W[SUMS + r, k] = W[LAST, k] if r < sums - 1 else 0.0
    for q in range(m.stages[i, 0]):
        row = VALUE if q < sums - 1 else m.end
        _slope_at(f, m.c[i, q], s, w, h, row, args)
        for r in range(q, sums):
            weight = h * m.columns[i, q, r]
            for k in range(n):
                W[SUMS + r, k] += weight * W[row, k]
        if q < sums - 1:
            for k in range(n):
                W[Z, k] = W[SUMS + q, k]
    for k in range(n):
        W[Y_NEW, k], W[ERR, k] = W[SUMS + sums - 2, k], W[SUMS + sums - 1, k]
    s.have_new = m.stages[i, 0] == sums


@part_of(Stabilised, attempt)
def _attempt(m, f, jac, args, s, w, h):
    if _is_stale(s.age, m.every, s.fresh):
        s.rho = _radius(m, f, jac, args, s, w)
        if s.rho < 0:
            s.ask = -1
            return ASK
        s.rho, s.age = m.safety * s.rho, 0
    if not math.isfinite(s.rho):
        s.longest = 0.1 * abs(h)
        return NON_FINITE
    z, low, high = abs(h) * s.rho, 0, len(m.beta)
    if z > m.beta[high - 1]:
        s.longest = _longest_step(m.beta[high - 1], s.rho)
        return STABILITY
    while low < high:  # the least s with β(s) ≥ z
        middle = (low + high) // 2
        if math.isnan(m.beta[middle]):
            s.ask = middle
            return ASK
        if m.beta[middle] < z:
            low = middle + 1
        else:
            high = middle
    s.degree = low
    s.fresh = True  # a step was made from here: if there is another one, this was rejected
    _recur(m, low, f, args, s, w, h)
    if m.defect[low] > 0:
        _with_defect(m, low, f, args, s, w, h)
    else:
        _with_stages(m, low, f, args, s, w, h)
    return 0


@part_of(Stabilised, errors)
def _errors(m, s, w, h):
    pass


@part_of(Stabilised, polynomial)
def _polynomial(m, f, args, s, w, h, path, place):
    hermite(m, f, args, s, w, h, path, place)


@part_of(Stabilised, inside)
def _inside(m, f, args, s, w, h, path, place):
    pass


@part_of(Stabilised, look)
def _look(m, f, args, s, w, h):
    return False
