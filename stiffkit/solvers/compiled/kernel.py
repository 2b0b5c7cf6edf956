"""The loop of an adaptive solve, as numba compiles it.

It takes the steps that `stiffkit.solvers.loop.Run` takes, in the order in which that takes them.
What families of methods do of their own stands in the modules beside this one; the rules of control
and of the detector's look are compiled from their one text. All that has to survive a pause is in
the arguments: the kernel returns to Python when its room for records is full, when the detector has
something to prove, after as many steps as the choice of the method waits for, and at the end.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numba
import numpy as np
from numba.extending import overload

from ...stiffness import trigger
from .. import control, loop
from . import calls
from .calls import compiled, function_at, inlined, optional_at, pasted
from .events import happens
from .parts import (
    ACCURACY,
    ASK,
    ATOL,
    CONSIDER,
    DONE,
    END,
    ERR,
    EVENT,
    FAILED,
    LOOK,
    MAX_STEP,
    NON_FINITE,
    NOT_FINITE,
    OUT_OF_STEPS,
    PAUSE,
    RTOL,
    SCALE,
    STABILITY,
    TOO_SMALL,
    Y_NEW,
    K,
    Y,
    Z,
    attempt,
    end_slope,
    errors,
    evaluate,
    inside,
    look,
    polynomial,
    rms,
    slope,
    square,
)

__all__ = ["STAMP", "integrate"]

MAX_FAILURES, MAX_NON_FINITE = loop.MAX_FAILURES, loop.MAX_NON_FINITE
_TINY = np.finfo(np.float64).tiny

_pid_rule = compiled(control.pid_rule)
_hairer_combination = pasted(control.hairer_combination)
_calm_wait = pasted(trigger.calm_wait)
_first_guess = pasted(control.first_guess)
_first_size = pasted(control.first_size)


@overload(control.where, jit_options=calls.OPTIONS)
def _where(condition, x, y):
    return lambda condition, x, y: x if condition else y


@pasted
def _first_step(f, args, m, order, span, s, w):
    """Choose the first step; see `stiffkit.solvers.control.first_step`."""
    t1, direction, max_step = span
    W, R, n, longest, d_0, d_1, d_2 = w.W, w.R, w.W.shape[1], abs(t1 - s.t), 0.0, 0.0, 0.0
    for i in range(n):
        scale = R[ATOL, i] + abs(W[Y, i]) * R[RTOL, i]
        R[SCALE, i] = scale if scale > _TINY else 1.0
        d_0 += square(W[Y, i] / R[SCALE, i])
        d_1 += square(W[K, i] / R[SCALE, i])
    d_0, d_1 = math.sqrt(d_0 / n), math.sqrt(d_1 / n)
    h_0 = _first_guess(d_0, d_1, longest, max_step)
    for i in range(n):
        W[Z, i] = W[Y, i] + (h_0 * direction) * W[K, i]
    s.nfev += 1
    slope(f, s.t + h_0 * direction, w, m.end, args)
    for i in range(n):
        d_2 += square((W[m.end, i] - W[K, i]) / R[SCALE, i])
    s.h_abs = _first_size(h_0, d_1, math.sqrt(d_2 / n) / h_0, order, longest, max_step)


@pasted
def _error_ratio(n_errors, w):
    """Error over tolerance; see `stiffkit.solvers.control.ErrorRatio`."""
    W, R = w.W, w.R
    first, second = 0.0, 0.0
    for i in range(W.shape[1]):
        old, new = abs(W[Y, i]), abs(W[Y_NEW, i])
        top = old if new <= old else new  # NaN stays
        R[SCALE, i] = R[ATOL, i] + _TINY + R[RTOL, i] * top
    for r in range(n_errors):
        first, second = rms(w, ERR + r), first
    return first if n_errors == 1 else _hairer_combination(second, first)


@inlined
def _ahead(s, t_eval, direction):
    """How far behind the step's end the next of the times lies that are asked for."""
    return (t_eval[s.i_eval] - s.t_new) * direction if s.i_eval < len(t_eval) else math.inf


@pasted
def _record_inside(f, args, m, keeps, s, w, h, direction, records):
    """Keep what is wanted of an accepted step besides its end: its polynomial, times of t_eval."""
    W, t_eval, y_eval, path = w.W, records.t_eval, records.y_eval, records.path
    n, place = W.shape[1], s.accepted if keeps else 0
    if keeps or _ahead(s, t_eval, direction) < 0:
        polynomial(m, f, args, s, w, h, path, place)
    while _ahead(s, t_eval, direction) <= 0:
        if t_eval[s.i_eval] == s.t_new:
            for i in range(n):
                y_eval[s.i_eval, i] = W[Y_NEW, i]
        else:
            evaluate((t_eval[s.i_eval] - s.t) / h, W, path, place, y_eval, s.i_eval)
        s.i_eval += 1


@pasted
def _log(log, s, h):
    if len(log) > 0:
        row = s.tried
        log[row, 0], log[row, 1], log[row, 2] = s.t, h, s.ratio
        log[row, 3], log[row, 4] = s.ratio < 1.0, s.limit
    s.tried += 1


@pasted
def _finite(W, row):
    for i in range(W.shape[1]):
        if not (math.isfinite(W[row, i].real) and math.isfinite(W[row, i].imag)):
            return False
    return True


@inlined
def _ruled(s, ratio, k, constants):
    """Ask the controller about an attempt; return whether it is accepted, and the factor."""
    memory = s.r_1, s.r_2, s.f_1, s.f_2, s.rejected_last
    accept, factor, memory = _pid_rule(ratio, memory, k, constants)
    s.r_1, s.r_2, s.f_1, s.f_2, s.rejected_last = memory
    return accept, factor


def _with_stamp(stamp):
    """Return the kernel; numba keeps it on disk under the value of `stamp` too."""

    @numba.njit(**calls.ENTRY)
    def integrate(
        reference, address, jac_reference, jac_address, args, m, constants, order, hold, span,
        keeps, state, w, records, g, watch,
    ):  # fmt: skip
        stamp  # noqa: B018 - part of the key of the cache
        # Where keeps is None, nothing wants a polynomial: numba then leaves out what makes them, a
        # sixth of what it compiles.
        f = function_at(reference, address)
        jac = optional_at(jac_reference, jac_address)
        s = state[0]
        t1, direction, max_step = span
        W = w.W
        if s.h_abs == 0.0:
            _first_step(f, args, m, order, span, s, w)
        while True:
            if not s.pending:
                min_step = 10 * np.spacing(abs(s.t))
                if s.h_abs > max_step:
                    s.h_abs, s.limit = max_step, MAX_STEP
                if s.h_abs < min_step:
                    if s.retry or max_step < min_step:
                        return TOO_SMALL
                    s.h_abs = min_step
                if s.attempts_left == 0:
                    return OUT_OF_STEPS
                if s.room == 0:
                    return PAUSE
                s.room -= 1
                s.attempts_left -= 1
                s.t_new = s.t + s.h_abs * direction
                if (s.t_new - t1) * direction >= 0:
                    s.t_new, s.limit = t1, END
            h = s.t_new - s.t
            if not s.pending:
                s.formed = False
                failed = attempt(m, f, jac, args, s, w, h)
                if failed == ASK:  # and once more from here
                    s.room += 1
                    s.attempts_left += 1
                    return ASK
                if failed > 0:
                    s.ratio = math.inf
                    _log(records.log, s, h)
                    s.failures += 1
                    s.h_abs, s.limit, s.retry = s.longest, failed, True
                    if s.failures == MAX_FAILURES or s.h_abs < min_step:
                        return FAILED
                    if failed == STABILITY:
                        s.attempts_left += 1  # refused before any work was done
                    else:
                        s.rejected += 1
                        _ruled(s, s.ratio, order + 1, constants)
                    continue
                errors(m, s, w, h)
                s.ratio = _error_ratio(m.n_errors, w)
                if keeps is not None:
                    looks = keeps or watch is not None
                    if s.ratio < 1 and (looks or _ahead(s, records.t_eval, direction) < 0):
                        inside(m, f, args, s, w, h, records.path, s.accepted if keeps else 0)
                _log(records.log, s, h)
                if not math.isfinite(s.ratio):
                    s.rejected += 1
                    s.non_finite += 1
                    # To the controller this is a rejection too: the next step does not grow.
                    _ruled(s, math.inf, order + 1, constants)
                    s.wall, s.h_abs, s.limit, s.retry = s.t_new, 0.1 * abs(h), NON_FINITE, True
                    if s.non_finite == MAX_NON_FINITE or not _finite(W, K):
                        return NOT_FINITE
                    continue
                accept, factor = _ruled(s, s.ratio, order + 1, constants)
                if accept and hold[0] < factor < hold[1]:
                    factor = 1.0
                s.h_abs, s.limit, s.retry, s.failures = abs(h) * factor, ACCURACY, not accept, 0
                if not accept:
                    s.rejected += 1
                    continue
                if s.refused and (s.t_new - s.beyond) * direction >= 0:
                    s.refused = 0
                if s.non_finite and (s.t_new - s.wall) * direction >= 0:
                    s.non_finite = 0
                s.countdown -= 1
                if s.countdown == 0:
                    end_slope(m, f, args, s, w)
                    if look(m, f, args, s, w, h) or not s.calm:
                        s.pending = True
                        return LOOK
                    s.passed += s.wait
                    s.wait = _calm_wait(s.looked + s.passed, s.first_wait, s.interval)
                    s.countdown = s.wait
            if not s.watched and happens(f, args, g, watch, m, keeps, s, w, h, records.path):
                s.pending = s.watched = True
                return EVENT
            s.pending = s.watched = False
            if keeps is not None and (keeps or _ahead(s, records.t_eval, direction) <= 0):
                _record_inside(f, args, m, keeps, s, w, h, direction, records)
            if len(records.t) > 0:
                records.t[s.accepted] = s.t_new
                for i in range(W.shape[1]):
                    records.path[s.accepted, 0, i] = W[Y_NEW, i]
            s.accepted += 1
            s.t, s.fresh = s.t_new, False
            s.age += 1
            for i in range(W.shape[1]):
                W[Y, i] = W[Y_NEW, i]
            if s.t_new == t1:
                return DONE
            if not s.have_new:
                end_slope(m, f, args, s, w)
            for i in range(W.shape[1]):
                W[K, i] = W[m.end, i]
            s.due -= 1
            if s.due == 0:
                return CONSIDER

    return integrate


# numba looks at this file alone to tell whether its cache is stale: the stamp is of all whose text
# is compiled. They are not imported for it: the families come with their methods.
_HERE = Path(__file__).parent
_RULES = {
    _HERE.parent: (
        *("control", "dense", "differences", "events", "loop", "newton_step", "stabilised"),
        *("step", "stiff_limit", "stiff_step"),
    ),
    _HERE.parents[1] / "stiffness": ("power", "radius", "trigger"),
}
_SOURCES = (
    *sorted(_HERE.glob("*.py")),
    *(room / f"{name}.py" for room, names in _RULES.items() for name in names),
)
STAMP = hashlib.sha256(b"".join(source.read_bytes() for source in _SOURCES)).digest()
integrate = _with_stamp(STAMP)
