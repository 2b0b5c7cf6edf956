"""What compiled ESDIRK and Radau methods share: Newton's iteration, and the age of the Jacobian."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import newton_step
from ..step import SHORTER
from ..stiff_step import SAME
from .calls import compiled, inlined
from .linear import decompose, jacobian
from .parts import (
    ATOL,
    F_NON_FINITE,
    NEWTON,
    NON_FINITE,
    RTOL,
    SCALE,
    K,
    Work,
    Y,
    Z,
    slope,
)

__all__ = ["attempt_stages", "begin", "correct", "factorised", "iterate", "solve_stages"]

_EPS = float(np.finfo(np.float64).eps)
_TINY = float(np.finfo(np.float64).tiny)
_HOPELESS, _CONVERGED = newton_step.HOPELESS, newton_step.CONVERGED
_TENTH, _QUARTER, _HALF = (SHORTER[limit] for limit in ("non_finite", "newton", "singular"))

_outdated = compiled(newton_step.outdated)
_first_eta = compiled(newton_step.first_eta)
_contraction = compiled(newton_step.contraction)
_kept_eta = compiled(newton_step.kept_eta)


def correct(m: Any, f: Any, args: Any, s: Any, w: Work, h: float, i: int) -> float:
    """Make one correction of stage i, or of all where they are one system; return its norm."""
    raise NotImplementedError


def solve_stages(m: Any, f: Any, args: Any, s: Any, w: Work, h: float) -> int:
    """Compute the stages and y_new; return 0, or what it failed for."""
    raise NotImplementedError


@inlined
def begin(s):
    """Forget a Jacobian that has had its day, where a step was made; return whether one was."""
    made = s.begun
    if not made:
        s.begun, s.eta = True, 1.0
    elif _outdated(s.iterations, s.rate):
        s.known = False
    return made


@inlined
def _renew(m, f, jac, args, s, w, h, rows):
    """Make J at the step's start; return whether it is finite. Two rows of W are free."""
    W, a, J, LU = w.W, m.linear, m.linear.J, m.linear.LU
    s.longest = _TENTH * abs(h)
    if not a.constant:
        for i in range(len(J)):  # an old J is better than none
            for p in range(J.shape[1]):
                LU[i, p] = J[i, p]
        if not s.exact:  # differences need f itself
            for k in range(W.shape[1]):
                W[rows, k], W[Z, k] = W[K, k], W[Y, k]
            s.nfev += 1
            slope(f, s.t, w, K, args)
        good = jacobian(f, jac, args, s, w, a, rows + 1)
        if not s.exact:
            for k in range(W.shape[1]):
                W[K, k] = W[rows, k]
        s.solved = 0
        if not good:
            for i in range(len(J)):
                for p in range(J.shape[1]):
                    J[i, p] = LU[i, p]
            return False
    s.fresh, s.known, s.h_known = True, True, abs(h)
    return True


@inlined
def attempt_stages(m, f, jac, args, s, w, h, rows):
    """Solve for the stages; a failure with an old Jacobian has another go with a new one."""
    known = s.known
    while True:
        if not known and not _renew(m, f, jac, args, s, w, h, rows):
            return NON_FINITE
        failed = solve_stages(m, f, args, s, w, h)
        if failed == 0 or s.fresh:
            return failed
        known = False


@inlined
def factorised(a, s, W, R, h, c):
    """Get I − cJ decomposed, and the tolerance's reciprocals; return whether it is regular."""
    s.c, s.c_imag, s.longest = c, 0.0, _HALF * abs(h)
    if abs(h - s.h_solved) > SAME * abs(h):
        s.h_solved, s.solved = h, 0
    if s.solved == 0:
        s.nlu += 1
        if not decompose(a.J, a.band, a.LU, a.L, a.pivots, c):
            return False
        s.solved = 1
    for k in range(W.shape[1]):
        R[SCALE, k] = 1 / (R[ATOL, k] + _TINY + R[RTOL, k] * abs(W[Y, k]))
    return True


@inlined
def iterate(m, f, args, s, w, h, i):
    """Correct until the iteration converges; return 0, or what it failed for."""
    old, worst, eta, most, tol = 0.0, 0.0, _first_eta(s.eta, _EPS), m.most, m.tol
    for tried in range(1, most + 1):
        norm = correct(m, f, args, s, w, h, i)
        if not math.isfinite(norm):
            s.longest = _TENTH * abs(h)
            return F_NON_FINITE
        rate, eta, verdict = _contraction(tried, most, norm, old, eta, tol)
        worst, s.rate = max(worst, rate), max(s.rate, rate)
        if verdict == _HOPELESS:
            break
        old, s.iterations = norm, max(s.iterations, tried)
        if verdict == _CONVERGED:
            s.eta = _kept_eta(eta, worst)
            return 0
    s.eta, s.longest = 1.0, _QUARTER * abs(h)
    return NEWTON
