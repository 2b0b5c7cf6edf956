"""The loop of an explicit adaptive solve, as numba compiles it.

It takes the steps that `stiffkit.solvers.loop.Run` takes, in the order in which that takes them:
the tableau comes as arrays, the rules of control and of the detector's look are compiled from
their one text. All that has to survive a pause is in the arguments: the kernel returns to Python
when its room for records is full, when the detector has something to prove, and at the end.

Arrays: y, y_new, z, scale (n,); z_f, which is z in the user's shape; K (stages, n), whose row 0 is
f(t, y); errs (1 or 2, n). Rows are passed by their number: a view costs more than a short state.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

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


def _at(_: Any, reference: Any, address: Any) -> Any:
    """Return the compiled function at an address; the type that is referred to is its signature.

    numba's own way to pass a function looks its address up by two calls of Python: a third of what
    a short solve takes.
    """
    function = reference.instance_type

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        value = cgutils.create_struct_proxy(function)(context, builder)
        pointer = builder.inttoptr(values[1], context.get_value_type(types.voidptr))
        value.c_addr = value.jit_addr = pointer
        return value._getvalue()

    return function(reference, address), generate


_function_at: Any = intrinsic(_at)


def _compile(function: Any) -> Any:
    # NumPy's error model: a division by zero is inf or NaN, which the loop deals with.
    return numba.njit(error_model="numpy", nogil=True)(function)


_pid_rule = _compile(control.pid_rule)
_hairer_combination = _compile(control.hairer_combination)
_smooth_error = _compile(detect.smooth_error)
_signs = _compile(detect.signs)


@_compile
def _flat(value, K, row):
    """K_row = value, of the user's shape."""
    n = K.shape[1]
    if value.size != n:
        msg = "f returned an array of another size than at (t0, y0)"
        raise ValueError(msg)
    if value.ndim == 1:  # known when this is compiled
        for i in range(n):
            K[row, i] = value[i]
    else:
        flat = value.reshape(-1)
        for i in range(n):
            K[row, i] = flat[i]


@_compile
def _state(y, h, rows, i, m, K, z):
    """Z = y + h Σ_(j<m) rows_ij K_j, without the exact zeros."""
    for k in range(len(y)):
        total = y.dtype.type(0)
        for j in range(m):
            if rows[i, j] != 0.0:
                total += rows[i, j] * K[j, k]
        z[k] = y[k] + h * total


@_compile
def _change(rows, i, m, K, k):
    """Σ_(j<m) rows_ij (K_j − K_0), of component k."""
    total = K.dtype.type(0)
    for j in range(1, m):
        if rows[i, j] != 0.0:
            total += rows[i, j] * (K[j, k] - K[0, k])
    return total


@_compile
def _attempt(f, args, A, b, c, fsal, s, y, h, K, z, z_f, y_new):
    """Compute the stages of the step from (s.t, y) to s.t_new, k_1 in place, and y_new.

    z_f is z in the user's shape.
    """
    last = len(c) - 1
    for i in range(1, last if fsal else last + 1):
        _state(y, h, A, i, i, K, z)
        s.nfev += 1
        _flat(f(s.t_new - (1 - c[i]) * h, z_f, *args), K, i)
    _state(y, h, b, 0, last if fsal else last + 1, K, y_new)
    s.have_new = False
    if fsal:
        _f_new(f, args, s, last, K, z, z_f, y_new)


@_compile
def _f_new(f, args, s, row, K, z, z_f, y_new):
    """K_row = f(s.t_new, y_new), unless it is there; f gets no array that is kept."""
    if not s.have_new:
        for i in range(len(z)):
            z[i] = y_new[i]
        s.nfev += 1
        _flat(f(s.t_new, z_f, *args), K, row)
        s.have_new = True


@_compile
def _error_ratio(rtol, atol, y, y_new, h, E, K, errs, scale):
    """Error over tolerance; see `stiffkit.solvers.control.ErrorRatio`."""
    n, first, second = len(y), 0.0, 0.0
    for i in range(n):
        old, new = abs(y[i]), abs(y_new[i])
        scale[i] = atol[i] + _TINY + rtol[i] * (old if new <= old else new)  # NaN stays
    for m in range(len(E)):
        square_sum = 0.0
        for i in range(n):
            err = y.dtype.type(0)
            for j in range(E.shape[1]):  # zeros included: NaN or inf in any stage shows
                err += E[m, j] * K[j, i]
            errs[m, i] = h * err
            square_sum += _square(errs[m, i] / scale[i])
        first, second = math.sqrt(square_sum / n), first
        if not math.isfinite(first):
            first = _careful(errs, m, scale)
    return first if len(E) == 1 else _hairer_combination(second, first)


@_compile
def _square(x):
    return x.real**2 + x.imag**2


@_compile
def _careful(errs, m, scale):
    """Rms of err / scale where its squares overflow; NaN or inf only where err holds such."""
    n, top, total = len(scale), 0.0, 0.0
    for i in range(n):
        size = abs(errs[m, i]) / scale[i]
        if not size <= top:  # NaN too
            top = size
    if not 0 < top < math.inf:
        return top
    for i in range(n):
        total += (abs(errs[m, i]) / scale[i] / top) ** 2
    return top * math.sqrt(total / n)


@_compile
def _look(f, args, A, watch, s, y, h, K, z, z_f, y_new, errs, scale, spare):
    """Take the measures of `StiffnessDetector.suspicious`; return whether there are signs."""
    error_norm, order, limit, probe, row = watch
    n, rise, turn, below, above = len(y), 0.0, 0.0, 0.0, 0.0
    for i in range(n):
        rise += _square((y_new[i] - y[i]) / scale[i])
        turn += _square((K[row, i] - K[0, i]) / scale[i])
    s.rise, s.turn, s.stage = math.sqrt(rise / n), math.sqrt(turn / n), 0.0
    if probe >= 0:
        _state(y, h, A, probe, probe, K, z)
        for i in range(n):
            below += _square(y_new[i] - z[i])
            above += _square(K[row, i] - K[probe, i])
        if below > 0:
            s.stage = math.sqrt(above / below)
    else:  # `StiffnessDetector.along`
        for i in range(n):
            below += _square(errs[0, i])
            above += _square(y_new[i])
        size = math.sqrt(below)
        if 0 < size < math.inf:
            radius = math.sqrt(_EPS * above)
            radius = radius if radius > 0 else math.sqrt(_EPS)
            for i in range(n):
                z[i] = y_new[i] + radius / size * errs[0, i]
            s.nfev_look += 1
            _flat(f(s.t_new, z_f, *args), spare, 0)
            above = 0.0
            for i in range(n):
                above += _square(spare[0, i] - K[row, i])
            s.stage = math.sqrt(above) / radius
    smooth = _smooth_error(h, s.rise, s.turn, error_norm, order)
    return _signs(h, s.ratio, smooth, order, s.stage, limit)[1]


@_compile
def _polynomial(f, args, dense, s, row, h, y, K, z, z_f, Q, place):
    """Q_place: the coefficients of `stiffkit.solvers.dense.Segment` over the step."""
    c, A, bubble = dense
    n = len(z)
    for m in range(len(c)):
        for i in range(n):
            z[i] = y[i] + h * (c[m] * K[0, i] + _change(A, m, row + 1 + m, K, i))
        s.nfev += 1
        _flat(f(s.t_new - (1 - c[m]) * h, z_f, *args), K, row + 1 + m)
    for m in range(len(bubble)):
        for i in range(n):
            Q[place, m, i] = h * _change(bubble, m, bubble.shape[1], K, i)


@_compile
def _evaluate(theta, y, y_new, Q, place, y_eval, row):
    """Evaluate the polynomial at θ."""
    for i in range(len(y)):
        bubble = y.dtype.type(0)
        for m in range(Q.shape[1] - 1, -1, -1):
            bubble = bubble * theta + Q[place, m, i]
        bubble *= theta * (1 - theta)
        y_eval[row, i] = (1 - theta) * y[i] + theta * y_new[i] + bubble


@_compile
def _record(f, args, dense, keeps, s, row, direction, y, y_new, K, z, z_f, t_eval, y_eval, steps):
    """Keep what is wanted of an accepted step: its end, its polynomial, times of t_eval in it."""
    t_steps, y_steps, Q = steps
    n, place, h = len(y), s.accepted if keeps else 0, s.t_new - s.t
    due = s.i_eval < len(t_eval) and (t_eval[s.i_eval] - s.t_new) * direction < 0
    if due or keeps:
        _f_new(f, args, s, row, K, z, z_f, y_new)
        _polynomial(f, args, dense, s, row, h, y, K, z, z_f, Q, place)
    while s.i_eval < len(t_eval) and (t_eval[s.i_eval] - s.t_new) * direction <= 0:
        if t_eval[s.i_eval] == s.t_new:
            for i in range(n):
                y_eval[s.i_eval, i] = y_new[i]
        else:
            _evaluate((t_eval[s.i_eval] - s.t) / h, y, y_new, Q, place, y_eval, s.i_eval)
        s.i_eval += 1
    if len(t_steps) > 0:
        t_steps[s.accepted] = s.t_new
        for i in range(n):
            y_steps[s.accepted, i] = y_new[i]
    s.accepted += 1


@_compile
def _log(log, s, h, accepted):
    numbers, limits = log
    if len(numbers) > 0:
        i = s.accepted + s.rejected
        numbers[i, 0], numbers[i, 1], numbers[i, 2] = s.t, h, s.ratio
        limits[i, 0], limits[i, 1] = s.limit, accepted


@_compile
def _finite(K, row):
    for i in range(K.shape[1]):
        if not (math.isfinite(K[row, i].real) and math.isfinite(K[row, i].imag)):
            return False
    return True


@_compile
def _judge(s, h, order, constants):
    """Let the controller decide about the attempt; return whether it is accepted."""
    memory = s.r_1, s.r_2, s.f_1, s.f_2, s.rejected_last
    finite = math.isfinite(s.ratio)
    # To the controller NaN is a rejection too: the next step does not grow.
    ratio = s.ratio if finite else math.inf
    accept, factor, memory = _pid_rule(ratio, memory, order + 1, constants)
    s.r_1, s.r_2, s.f_1, s.f_2, s.rejected_last = memory
    s.h_abs, s.limit, s.retry = abs(h) * (factor if finite else 0.1), ACCURACY, not accept
    if not accept:
        s.rejected += 1
    if not finite:
        s.non_finite += 1
        s.wall, s.limit = s.t_new, NON_FINITE
    return accept


def _with_stamp(stamp):
    """Return the kernel; numba keeps it on disk under the value of `stamp` too."""

    @numba.njit(error_model="numpy", nogil=True, cache=True)
    def integrate(
        reference, address, args, tableau, dense, watch, constants, order, span, tolerances,
        keeps, state, work, t_eval, y_eval, steps, log,
    ):  # fmt: skip
        stamp  # noqa: B018 - part of the key of the cache
        f = _function_at(reference, address)
        s = state[0]
        A, b, c, E, fsal = tableau
        t1, direction, max_step = span
        rtol, atol = tolerances
        y, y_new, K, z, z_f, errs, scale, spare = work
        n, row = len(y), len(c) - (1 if fsal else 0)  # K_row is f(t_new, y_new)
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
                _attempt(f, args, A, b, c, fsal, s, y, h, K, z, z_f, y_new)
                s.ratio = _error_ratio(rtol, atol, y, y_new, h, E, K, errs, scale)
                _log(log, s, h, s.ratio < 1.0)
                if not _judge(s, h, order, constants):
                    stuck = s.non_finite == MAX_NON_FINITE or not _finite(K, 0)
                    if stuck and not math.isfinite(s.ratio):
                        return NOT_FINITE
                    continue
                if s.non_finite and (s.t_new - s.wall) * direction >= 0:
                    s.non_finite = 0
                s.countdown -= 1
                if s.countdown == 0:
                    _f_new(f, args, s, row, K, z, z_f, y_new)
                    found = _look(f, args, A, watch, s, y, h, K, z, z_f, y_new, errs, scale, spare)
                    if found or not s.calm:
                        s.pending = True
                        return LOOK
                    s.passed += s.wait
                    s.wait = s.countdown = s.interval
            s.pending = False
            _record(
                f, args, dense, keeps, s, row, direction, y, y_new, K, z, z_f, t_eval, y_eval, steps
            )  # fmt: skip
            s.t = s.t_new
            for i in range(n):
                y[i] = y_new[i]
            if s.t_new == t1:
                return DONE
            _f_new(f, args, s, row, K, z, z_f, y_new)
            for i in range(n):
                K[0, i] = K[row, i]

    return integrate


# numba looks at this file alone to tell whether its cache is stale: the stamp is of the others.
_SOURCES = [*map(inspect.getsource, (control, detect)), str(MAX_NON_FINITE)]
integrate = _with_stamp(hashlib.sha256("".join(_SOURCES).encode()).digest())
