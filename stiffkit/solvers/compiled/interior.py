"""Stiff steps that are looked into, examined inside: `StiffStages.inside_error` as compiled."""

from __future__ import annotations

from .. import dense, stiff_limit
from .calls import compiled
from .linear import solve_apart
from .parts import ERR, Y_NEW, Y, Z, evaluate, polynomial, rms, slope

__all__ = ["examine"]

_INSIDE = stiff_limit.INSIDE

_with_inside = compiled(stiff_limit.with_inside)
_bubble_slope = compiled(dense.bubble_slope)


@compiled
def examine(m, f, args, s, w, h, path, place, c, row):
    """Let s.ratio know of the polynomial's error; I − cJ is decomposed, `row` of W is free."""
    W, a, time = w.W, m.linear, s.t + _INSIDE * h
    theta = (time - s.t) / h
    polynomial(m, f, args, s, w, h, path, place)
    evaluate(theta, W, path, place, W, Z)
    s.nfev += 1
    slope(f, time, w, row, args)
    for k in range(W.shape[1]):
        rise = W[Y_NEW, k] - W[Y, k]
        for i in range(1, path.shape[1]):
            rise += _bubble_slope(i, theta) * path[place, i, k]
        W[ERR, k] = (W[row, k] - rise / h) * c
    solve_apart(a.LU, a.L, a.pivots, a.band, W, ERR)
    s.ratio = _with_inside(s.ratio, rms(w, ERR), s.refused)
    if s.ratio >= 1:
        s.refused += 1
        s.beyond = s.t_new
