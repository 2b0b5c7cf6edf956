"""The loop of an explicit adaptive solve, as numba compiles it.

It takes the steps that `stiffkit.solvers.loop.Run` takes, in the order in which that takes them:
the tableau comes as arrays, the rules of control and of the detector's look are compiled from
their one text. All that has to survive a pause is in the arguments: the kernel returns to Python
when its room for records is full, when the detector has something to prove, and at the end.

Arrays: y, y_new, z (n,); K (stages, n), whose row 0 is f(t, y); errs (1 or 2, n).
"""

from __future__ import annotations

import hashlib
import inspect
import math
from typing import Any

import numba
import numpy as np

from ...stiffness import detect
from .. import control
from ..loop import MAX_NON_FINITE

__all__ = [
    "DONE",
    "LIMITS",
    "LOOK",
    "NOT_FINITE",
    "OUT_OF_STEPS",
    "PAUSE",
    "STATE",
    "TOO_SMALL",
    "integrate",
]

LIMITS = ("first_step", "max_step", "end", "accuracy", "non_finite")
"""What set a step's size, by the number that the kernel logs."""
FIRST_STEP, MAX_STEP, END, ACCURACY, NON_FINITE = range(len(LIMITS))

STATE = np.dtype(
    [
        # Where the solve stands.
        *((name, np.float64) for name in ("t", "t_new", "h_abs", "wall", "ratio")),
        *((name, np.float64) for name in ("r_1", "r_2", "f_1", "f_2")),  # the controller's memory
        *((name, np.bool_) for name in ("rejected_last", "retry", "pending", "have_new")),
        *((name, np.int64) for name in ("limit", "non_finite", "i_eval", "attempts_left")),
        # What was done since the kernel was entered.
        *((name, np.int64) for name in ("accepted", "rejected", "nfev", "room")),
        # The detector's account, and what it looks at.
        *((name, np.int64) for name in ("countdown", "wait", "interval", "passed", "nfev_look")),
        ("calm", np.bool_),
        *((name, np.float64) for name in ("rise", "turn", "stage")),
    ]
)
"""All that changes from step to step and is no array: one record."""

DONE, PAUSE, LOOK, OUT_OF_STEPS, TOO_SMALL, NOT_FINITE = range(6)
"""Why the kernel returned."""

_EPS, _TINY = np.finfo(np.float64).eps, np.finfo(np.float64).tiny
_SHORT = 24
"""States up to this size are combined component by component, longer ones stage by stage."""


def _compile(function: Any) -> Any:
    # NumPy's error model: a division by zero is inf or NaN, which the loop deals with.
    return numba.njit(error_model="numpy", nogil=True)(function)


_pid_rule = _compile(control.pid_rule)
_hairer_combination = _compile(control.hairer_combination)
_smooth_error = _compile(detect.smooth_error)
_signs = _compile(detect.signs)


@_compile
def _slope(f, args, shape, t, z, out):
    """out = f(t, z), z and out flat."""
    value = f(t, z.reshape(shape), *args).reshape(-1)
    if len(value) != len(out):
        raise ValueError("f returns an array of another size than at (t0, y0)")
    for i in range(len(out)):
        out[i] = value[i]


@_compile
def _weigh(row, m, K, out):
    """out = Σ_(j<m) row_j K_j, without the exact zeros."""
    n = len(out)
    if n <= _SHORT:
        for i in range(n):
            total = out.dtype.type(0)
            for j in range(m):
                if row[j] != 0.0:
                    total += row[j] * K[j, i]
            out[i] = total
        return
    out[:] = 0
    for j in range(m):
        if row[j] != 0.0:
            weight = row[j]
            for i in range(n):
                out[i] += weight * K[j, i]


@_compile
def _weigh_changes(row, m, K, out):
    """out = Σ_(j<m) row_j (K_j − K_0)."""
    out[:] = 0
    for j in range(1, m):
        if row[j] != 0.0:
            for i in range(len(out)):
                out[i] += row[j] * (K[j, i] - K[0, i])


@_compile
def _move(y, h, slope, out):
    """out = y + h slope; they may be one array."""
    for i in range(len(out)):
        out[i] = y[i] + h * slope[i]


@_compile
def _square_sum(x):
    total = 0.0
    for i in range(len(x)):
        total += x[i].real ** 2 + x[i].imag ** 2
    return total


@_compile
def _rms(x, scale):
    """Return the rms of x / scale; NaN or inf only where x holds such."""
    n, total, top = len(x), 0.0, 0.0
    for i in range(n):
        part = x[i] / scale[i]
        total += part.real**2 + part.imag**2
    if math.isfinite(total):
        return math.sqrt(total / n)
    for i in range(n):
        size = abs(x[i]) / scale[i]
        if not size <= top:  # NaN too
            top = size
    if not math.isfinite(top):
        return top
    total = 0.0
    for i in range(n):
        total += (abs(x[i]) / scale[i] / top) ** 2
    return top * math.sqrt(total / n)


@_compile
def _attempt(f, args, shape, tableau, s, y, h, K, z, y_new):
    """The stages of the step from (s.t, y) to s.t_new, k_1 in place, and y_new."""
    A, b, c, fsal = tableau
    last = len(c) - 1
    for i in range(1, last if fsal else last + 1):
        _weigh(A[i], i, K, z)
        _move(y, h, z, z)
        s.nfev += 1
        _slope(f, args, shape, s.t_new - (1 - c[i]) * h, z, K[i])
    _weigh(b, last if fsal else last + 1, K, z)
    _move(y, h, z, y_new)
    s.have_new = fsal
    if fsal:
        z[:] = y_new  # f gets no array that is kept
        s.nfev += 1
        _slope(f, args, shape, s.t_new, z, K[last])


@_compile
def _f_new(f, args, shape, s, row, K, z, y_new):
    """K_row = f(s.t_new, y_new), unless it is there."""
    if not s.have_new:
        z[:] = y_new
        s.nfev += 1
        _slope(f, args, shape, s.t_new, z, K[row])
        s.have_new = True


@_compile
def _error_ratio(rtol, atol, y, y_new, h, E, K, errs, scale):
    """Error over tolerance; see `stiffkit.solvers.control.ErrorRatio`."""
    for i in range(len(y)):
        old, new = abs(y[i]), abs(y_new[i])
        scale[i] = atol[i] + _TINY + rtol[i] * (old if new <= old else new)  # NaN stays
    for m in range(len(E)):
        err = errs[m]
        err[:] = 0
        for j in range(E.shape[1]):  # zeros included: NaN or inf in any stage shows in the sum
            for i in range(len(err)):
                err[i] += h * E[m, j] * K[j, i]
    first = _rms(errs[0], scale)
    return first if len(E) == 1 else _hairer_combination(first, _rms(errs[1], scale))


@_compile
def _look(f, args, shape, tableau, watch, s, y, h, K, z, y_new, err, scale):
    """Take the measures of `StiffnessDetector.suspicious`; return whether there are signs."""
    error_norm, order, limit, probe, row = watch
    A, n = tableau[0], len(y)
    for i in range(n):
        z[i] = y_new[i] - y[i]
    s.rise = _rms(z, scale)
    for i in range(n):
        z[i] = K[row, i] - K[0, i]
    s.turn = _rms(z, scale)
    s.stage = 0.0
    if probe >= 0:
        _weigh(A[probe], probe, K, z)
        _move(y, h, z, z)
        above = below = 0.0
        for i in range(n):
            dy, df = y_new[i] - z[i], K[row, i] - K[probe, i]
            below += dy.real**2 + dy.imag**2
            above += df.real**2 + df.imag**2
        if below > 0:
            s.stage = math.sqrt(above / below)
    else:  # `StiffnessDetector.along`
        size = math.sqrt(_square_sum(err))
        if 0 < size < math.inf:
            radius = math.sqrt(_EPS * _square_sum(y_new))
            radius = radius if radius > 0 else math.sqrt(_EPS)
            _move(y_new, radius / size, err, z)
            s.nfev_look += 1
            change = np.empty_like(z)
            _slope(f, args, shape, s.t_new, z, change)
            for i in range(n):
                change[i] -= K[row, i]
            s.stage = math.sqrt(_square_sum(change)) / radius
    smooth = _smooth_error(h, s.rise, s.turn, error_norm, order)
    return _signs(h, s.ratio, smooth, s.stage, limit)[1]


@_compile
def _polynomial(f, args, shape, dense, s, row, h, y, K, z, Q):
    """Coefficients of the step's dense output, as in `stiffkit.solvers.dense.Segment`."""
    c, A, bubble = dense
    for m in range(len(c)):
        _weigh_changes(A[m], row + 1 + m, K, z)
        for i in range(len(z)):
            z[i] = y[i] + h * (c[m] * K[0, i] + z[i])
        s.nfev += 1
        _slope(f, args, shape, s.t_new - (1 - c[m]) * h, z, K[row + 1 + m])
    for m in range(len(bubble)):
        _weigh_changes(bubble[m], bubble.shape[1], K, Q[m])
        for i in range(len(z)):
            Q[m, i] *= h


@_compile
def _evaluate(theta, y, y_new, Q, out):
    """`Segment` at one θ."""
    for i in range(len(out)):
        bubble = out.dtype.type(0)
        for m in range(len(Q) - 1, -1, -1):
            bubble = bubble * theta + Q[m, i]
        out[i] = (1 - theta) * y[i] + theta * y_new[i] + theta * (1 - theta) * bubble


@_compile
def _record(f, args, shape, dense, s, row, direction, y, y_new, K, z, t_eval, y_eval, steps, Q):
    """Keep what is wanted of an accepted step."""
    t_steps, y_steps, Q_steps = steps
    h = s.t_new - s.t
    due = s.i_eval < len(t_eval) and (t_eval[s.i_eval] - s.t_new) * direction < 0
    keeps = len(Q_steps) > 0
    if due or keeps:
        _f_new(f, args, shape, s, row, K, z, y_new)
        _polynomial(f, args, shape, dense, s, row, h, y, K, z, Q)
        while s.i_eval < len(t_eval) and (t_eval[s.i_eval] - s.t_new) * direction < 0:
            theta = (t_eval[s.i_eval] - s.t) / h
            _evaluate(theta, y, y_new, Q, y_eval[s.i_eval])
            s.i_eval += 1
    if s.i_eval < len(t_eval) and t_eval[s.i_eval] == s.t_new:
        y_eval[s.i_eval] = y_new
        s.i_eval += 1
    if len(t_steps) > 0:
        t_steps[s.accepted] = s.t_new
        y_steps[s.accepted] = y_new
    if keeps:
        Q_steps[s.accepted] = Q
    s.accepted += 1


@_compile
def _log(log, s, h, ratio, accepted):
    numbers, limits = log
    if len(numbers) > 0:
        i = s.accepted + s.rejected
        numbers[i, 0], numbers[i, 1], numbers[i, 2] = s.t, h, ratio
        limits[i, 0], limits[i, 1] = s.limit, accepted


def _with_stamp(stamp):
    """Return the kernel; numba keeps it on disk under the value of `stamp` too."""

    @numba.njit(error_model="numpy", nogil=True, cache=True)
    def integrate(
        f, args, shape, tableau, E, dense, watch, constants, order, span, tolerances, state,
        y, y_new, K, work, t_eval, y_eval, steps, log,
    ):  # fmt: skip
        stamp  # noqa: B018 - part of the key of the cache
        s = state[0]
        t1, direction, max_step = span
        rtol, atol = tolerances
        z, scale, errs, Q = work
        row = len(tableau[2]) - (1 if tableau[3] else 0)  # of f(t_new, y_new) in K
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
                _attempt(f, args, shape, tableau, s, y, h, K, z, y_new)
                s.ratio = _error_ratio(rtol, atol, y, y_new, h, E, K, errs, scale)
                memory = s.r_1, s.r_2, s.f_1, s.f_2, s.rejected_last
                if math.isfinite(s.ratio):
                    accept, factor, memory = _pid_rule(s.ratio, memory, order + 1, constants)
                else:  # to the controller this is a rejection too
                    accept, _, memory = _pid_rule(math.inf, memory, order + 1, constants)
                    factor = 0.1
                s.r_1, s.r_2, s.f_1, s.f_2, s.rejected_last = memory
                _log(log, s, h, s.ratio, accept)
                s.h_abs, s.limit, s.retry = abs(h) * factor, ACCURACY, not accept
                if not accept:
                    s.rejected += 1
                if not math.isfinite(s.ratio):
                    s.non_finite += 1
                    s.wall, s.limit = s.t_new, NON_FINITE
                    if s.non_finite == MAX_NON_FINITE or not np.isfinite(K[0]).all():
                        return NOT_FINITE
                if not accept:
                    continue
                if s.non_finite and (s.t_new - s.wall) * direction >= 0:
                    s.non_finite = 0
                if s.interval > 0:
                    s.countdown -= 1
                    if s.countdown == 0:
                        _f_new(f, args, shape, s, row, K, z, y_new)
                        found = _look(
                            f, args, shape, tableau, watch, s, y, h, K, z, y_new, errs[0], scale
                        )
                        if found or not s.calm:
                            s.pending = True
                            return LOOK
                        s.passed += s.wait
                        s.wait = s.countdown = s.interval
            s.pending = False
            _record(
                f, args, shape, dense, s, row, direction, y, y_new, K, z, t_eval, y_eval, steps, Q
            )
            s.t = s.t_new
            y[:] = y_new
            if s.t_new == t1:
                return DONE
            _f_new(f, args, shape, s, row, K, z, y_new)
            K[0] = K[row]

    return integrate


# numba looks at this file alone to tell whether its cache is stale: the stamp is of the others.
integrate = _with_stamp(
    hashlib.sha256("".join(map(inspect.getsource, (control, detect))).encode()).digest()
)
