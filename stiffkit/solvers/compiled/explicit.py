"""The parts of explicit Runge-Kutta methods."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ...stiffness import trigger
from ..tableau import ButcherTableau
from .calls import inlined, part_of, pasted
from .parts import (
    ERR,
    SCALE,
    Y_NEW,
    K,
    Y,
    Z,
    attempt,
    change,
    end_slope,
    errors,
    inside,
    look,
    polynomial,
    slope,
    square,
)

__all__ = ["Explicit", "explicit"]

_EPS = np.finfo(np.float64).eps

_smooth_error = pasted(trigger.smooth_error)
_unexplained = pasted(trigger.unexplained)
_turned = pasted(trigger.turned)
_signs = pasted(trigger.signs)


class Explicit(NamedTuple):
    """An explicit tableau, and what the detector knows of it."""

    rows: Any
    """The rows of A, b, one or two rows of the error, `ButcherTableau.error_slope` where there is
    one, the rows of the dense output's A, and those of its polynomial (`ButcherTableau.bubble`)."""
    first: Any
    """Where the entries of each row of A and of b begin that are not zero; where the last one's
    end."""
    entries: Any
    sources: Any
    """Rows of W that those weigh."""
    c: Any
    """Nodes, those of the dense output's stages behind the method's."""
    s: int
    fsal: bool
    end: int
    """Row of W for f(t_new, y_new); behind it the dense output's stages, and a spare one."""
    n_errors: int
    order: int
    probe: int
    """Stage, or -1."""
    error_norm: float
    limit: float
    least: float
    error_slope: int
    """Row of `rows`, or -1."""
    dense: int
    """The dense output's first."""


@lru_cache(maxsize=64)
def explicit(tableau: ButcherTableau) -> Explicit:
    """Return a tableau as the kernel takes it."""
    dense, quality, s = tableau.dense, tableau.pair_quality, tableau.n_stages
    error_slope = [] if tableau.error_slope is None else [tableau.error_slope]
    assert tableau.error_order is not None
    assert quality is not None
    of_step = [*tableau.A, *tableau.rows[s:], *error_slope]
    given = [*of_step, *dense.A, *tableau.bubble]
    rows = np.zeros((len(given), s + 1 + len(dense.c)))
    for row, entries in zip(rows, given, strict=True):
        row[: len(entries)] = entries
    weights = rows[: s + 1]
    return Explicit(
        rows,
        np.cumsum([0, *np.count_nonzero(weights, axis=1)], dtype=np.uint64),
        weights[weights != 0],
        (K + np.nonzero(weights)[1]).astype(np.uint64),
        np.array([*tableau.c, *dense.c], dtype=float),
        s,
        bool(tableau.fsal),
        int(K) + s - (1 if tableau.fsal else 0),
        len(tableau.rows) - s - 1,
        int(tableau.error_order),
        -1 if tableau.probe is None else int(tableau.probe),
        float(quality.A_hat),
        float(tableau.real_stability_limit),
        trigger.least_share(tableau),
        len(of_step) - 1 if error_slope else -1,
        len(of_step),
    )


@inlined
def _state(m, i, w, h, out):
    """W_out = y + h Σ_j rows_ij K_j, without the exact zeros."""
    W, n = w.W, w.W.shape[1]
    for k in range(0, n, 2):  # two components in turn take little longer than one
        other = k + 1 if k + 1 < n else k
        total = total_other = W.dtype.type(0)
        for p in range(m.first[i], m.first[i + 1]):
            total += m.entries[p] * W[m.sources[p], k]
            total_other += m.entries[p] * W[m.sources[p], other]
        W[out, k] = W[Y, k] + h * total
        W[out, other] = W[Y, other] + h * total_other


@part_of(Explicit, attempt, forceinline=True)
def _attempt(m, f, jac, args, s, w, h):
    W = w.W
    for i in range(1, m.s):
        _state(m, i, w, h, Z)
        if i == m.s - 1 and m.fsal:
            for k in range(W.shape[1]):
                W[Y_NEW, k] = W[Z, k]
        s.nfev += 1
        slope(f, s.t_new - (1 - m.c[i]) * h, w, K + i, args)
    if not m.fsal:
        _state(m, m.s, w, h, Y_NEW)
    s.have_new = m.fsal
    return 0


@part_of(Explicit, errors, forceinline=True)
def _errors(m, s, w, h):
    W = w.W
    for r in range(m.n_errors):
        for i in range(W.shape[1]):
            err = W.dtype.type(0)
            for j in range(m.s):  # zeros included: NaN or inf in any stage shows
                err += m.rows[m.s + 1 + r, j] * W[K + j, i]
            W[ERR + r, i] = h * err


@part_of(Explicit, polynomial)
def _polynomial(m, f, args, s, w, h, path, place):
    if s.formed:
        return
    W, first, s.formed = w.W, m.dense, True
    end_slope(m, f, args, s, w)
    for r in range(len(m.c) - m.s):
        end, c = m.end + 1 + r, m.c[m.s + r]
        for i in range(W.shape[1]):
            W[Z, i] = W[Y, i] + h * (c * W[K, i] + change(m.rows, first + r, end - K, W, i))
        s.nfev += 1
        slope(f, s.t_new - (1 - c) * h, w, end, args)
    first += len(m.c) - m.s
    for r in range(len(m.rows) - first):
        for i in range(W.shape[1]):
            path[place, 1 + r, i] = h * change(m.rows, first + r, m.rows.shape[1], W, i)


@part_of(Explicit, inside)
def _inside(m, f, args, s, w, h, path, place):
    pass


@inlined
def _along_error(f, s, w, end, args):
    """`StiffnessDetector.along` the error estimate, f(t_new, y_new) being in row `end` of W."""
    W, scale, spare = w.W, w.R[SCALE], len(w.W) - 1
    n, above, below = W.shape[1], 0.0, 0.0
    for i in range(n):
        below += square(W[ERR, i])
        above += square(W[Y_NEW, i])
    size = math.sqrt(below)
    if not 0 < size < math.inf:
        return 0.0
    radius = math.sqrt(_EPS * above)
    radius = radius if radius > 0 else math.sqrt(_EPS)
    for i in range(n):
        W[Z, i] = W[Y_NEW, i] + radius / size * W[ERR, i]
    s.nfev_look += 1
    slope(f, s.t_new, w, spare, args)
    above = below = 0.0
    for i in range(n):
        above += square((W[spare, i] - W[end, i]) / scale[i])
        below += square(radius / size * W[ERR, i] / scale[i])
    return math.sqrt(above / below) if below > 0 else 0.0


@part_of(Explicit, look)
def _look(m, f, args, s, w, h):
    W, scale = w.W, w.R[SCALE]
    n, rise, turn, below, above = W.shape[1], 0.0, 0.0, 0.0, 0.0
    for i in range(n):
        rise += square((W[Y_NEW, i] - W[Y, i]) / scale[i])
        turn += square((W[m.end, i] - W[K, i]) / scale[i])
    s.rise, s.turn, s.stage = math.sqrt(rise / n), math.sqrt(turn / n), 0.0
    smooth = _smooth_error(h, s.rise, s.turn, m.error_norm, m.order)
    left = _unexplained(s.ratio, smooth, m.order)
    asked = m.probe >= 0 or left or _turned(h, s.ratio, s.rise, s.turn, m.order)
    if asked and m.error_slope >= 0:
        for i in range(n):
            bend = change(m.rows, m.error_slope, m.rows.shape[1], W, i)
            above += square(bend / scale[i])
            below += square(W[ERR, i] / scale[i])
        s.stage = math.sqrt(above / below) if below > 0 else 0.0
    elif m.probe >= 0:
        _state(m, m.probe, w, h, Z)
        for i in range(n):
            below += square(W[Y_NEW, i] - W[Z, i])
            above += square(W[m.end, i] - W[K + m.probe, i])
        s.stage = math.sqrt(above / below) if below > 0 else 0.0
    elif asked:
        s.stage = _along_error(f, s, w, m.end, args)
    return _signs(h, left, s.stage, m.limit, m.least)[1]
