"""What the kernel keeps, and what it asks of a family of methods.

A family is a NamedTuple of arrays and numbers; its parts are chosen by its type when the kernel is
compiled. Rows of arrays are passed by their number.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from .calls import OPTIONS, compiled, inlined, release

__all__ = [
    "ASK",
    "AT_EVENT",
    "CONSIDER",
    "DONE",
    "EVENT",
    "FAILED",
    "LIMITS",
    "LOOK",
    "NOT_FINITE",
    "OUT_OF_STEPS",
    "PAUSE",
    "STABILITY",
    "STATE",
    "SWITCH",
    "TOO_SMALL",
    "Work",
    "attempt",
    "change",
    "end_slope",
    "errors",
    "evaluate",
    "hermite",
    "inside",
    "look",
    "polynomial",
    "rms",
    "slope",
    "square",
]

LIMITS = (
    *("first_step", "max_step", "end", "accuracy", "non_finite", "singular", "stability"),
    *("newton", "non_finite", "event", "switch"),
)
"""What set a step's size, by the number that the kernel logs; the last two Python does."""
FIRST_STEP, MAX_STEP, END, ACCURACY, NON_FINITE, SINGULAR, STABILITY = range(7)
NEWTON, F_NON_FINITE, AT_EVENT, SWITCH = range(7, len(LIMITS))

DONE, PAUSE, LOOK, OUT_OF_STEPS, TOO_SMALL, NOT_FINITE, FAILED, EVENT, CONSIDER = range(9)
"""Why the kernel returned."""
ASK = -1
"""The same, and what an attempt returns that has to ask Python first: for `ask`."""

STATE = np.dtype(
    [
        # Where the solve stands.
        *((name, np.float64) for name in ("t", "t_new", "h_abs", "wall", "ratio")),
        *((name, np.float64) for name in ("r_1", "r_2", "f_1", "f_2")),  # the controller's memory
        *((name, np.bool_) for name in ("rejected_last", "retry", "have_new", "fresh")),
        # What was done about an accepted step, and whether path holds its polynomial.
        *((name, np.bool_) for name in ("pending", "watched", "formed")),
        *((name, np.int64) for name in ("limit", "non_finite", "i_eval", "attempts_left")),
        # What was done since the kernel was entered.
        *((name, np.int64) for name in ("accepted", "rejected", "tried", "nfev", "room")),
        *((name, np.int64) for name in ("nfev_jac", "nfev_time", "njev", "nlu")),
        # Of implicit methods: what the matrix was decomposed for, whether J was ever made.
        *((name, np.float64) for name in ("h_solved", "c", "c_imag")),
        *((name, np.bool_) for name in ("first_jac", "moving")),
        # Of Newton's method: see the attributes of `NewtonStages` and its heirs, of these names.
        *((name, np.float64) for name in ("rate", "eta", "h_known", "h_made", "h_last")),
        *((name, np.bool_) for name in ("begun", "known", "exact", "careful")),
        *((name, np.int64) for name in ("iterations", "solved")),
        # Of stabilised methods: the spectral radius, the steps accepted since, the row to learn,
        # and that of the last attempt.
        ("rho", np.float64),
        *((name, np.int64) for name in ("age", "ask", "degree")),
        ("due", np.int64),  # accepted steps until Python is asked whether to change the method
        # Of failures: how many in a row, and what the last one proposes.
        ("failures", np.int64),
        *((name, np.float64) for name in ("longest",)),
        # Of steps that are examined inside: refusals, and the time of the last one.
        ("refused", np.int64),
        ("found", np.int64),  # events that wait for Python
        ("beyond", np.float64),
        # The detector's account, and what it looks at.
        *((name, np.int64) for name in ("countdown", "wait", "passed", "nfev_look")),
        *((name, np.int64) for name in ("looked", "first_wait", "interval")),
        ("calm", np.bool_),
        *((name, np.float64) for name in ("rise", "turn", "stage")),
    ],
    align=True,
)
"""All that changes from step to step and is no array: one record."""


Y, Y_NEW, Z, ERR, K = map(np.int64, (0, 1, 2, 3, 5))  # numba compiles anew for every literal
"""Rows of `Work.W`: the two ends of the step, what f is called with, the error estimates (one or
two), and the first of the stage derivatives, which is f(t, y)."""

SCALE, RTOL, ATOL = map(np.int64, range(3))
"""Rows of `Work.R`."""


class Work(NamedTuple):
    """The vectors that every family works on, as rows of few arrays: those compile sooner."""

    W: Any
    """Of the state's dtype, shape (rows, n)."""
    W_f: Any
    """The same memory, each row in the user's shape."""
    R: Any
    """Real numbers, shape (3, n)."""


class Records(NamedTuple):
    """Where the kernel writes what is kept; empty where nothing is."""

    t: Any
    """Ends of the accepted steps, shape (room,)."""
    path: Any
    """y_new and the polynomial of each, shape (room, 1 or more, n); one place is always there."""
    t_eval: Any
    y_eval: Any
    """Shape (n_t, n)."""
    log: Any
    """The columns of the log, shape (room, 5)."""


def attempt(m: Any, f: Any, jac: Any, args: Any, s: Any, w: Work, h: float) -> int:
    """Compute y_new of the step from (s.t, y) to s.t_new; return 0, what it failed for, or ASK."""
    raise NotImplementedError


def errors(m: Any, s: Any, w: Work, h: float) -> None:
    """Write the error estimates of the last attempt to W, from row ERR on."""
    raise NotImplementedError


def polynomial(m: Any, f: Any, args: Any, s: Any, w: Work, h: float, path: Any, place: int) -> None:
    """path_place, from row 1 on: coefficients of the step's `stiffkit.solvers.dense.Segment`.

    Nothing is done where s.formed says that they are there.
    """
    raise NotImplementedError


def inside(m: Any, f: Any, args: Any, s: Any, w: Work, h: float, path: Any, place: int) -> None:
    """Let s.ratio know of the error of the step's polynomial, where the family's is looked at."""
    raise NotImplementedError


def look(m: Any, f: Any, args: Any, s: Any, w: Work, h: float) -> bool:
    """Take the measures of `StiffnessDetector.suspicious`; return whether there are signs."""
    raise NotImplementedError


def slope(f: Any, t: float, w: Work, row: Any, args: Any) -> None:
    """W_row = f(t, Z); f gets no memory that it could keep."""
    raise NotImplementedError


_FORM: Any = {**OPTIONS, "forceinline": True}
_COUNTED: Any = {**_FORM, "_nrt": True}


@overload(slope, jit_options=_FORM)
def _of_form(f, t, w, row, args):
    if f.signature.return_type == types.none:

        def in_place(f, t, w, row, args):
            f(t, w.W_f[Z], w.W_f[row], *args)

        return in_place

    def returned(f, t, w, row, args):
        _keep(f(t, w.W_f[Z], *args), w, row)

    return returned


def _flat(value: Any) -> Any:
    """Return what f returned as one row."""
    raise NotImplementedError


@overload(_flat, jit_options=_COUNTED)
def _flat_of(value):
    if value.ndim == 1:  # to reshape takes numba longer than all else about f
        return lambda value: value
    return lambda value: value.reshape(-1)


@partial(inlined, _nrt=True)
def _keep(value, w, row):
    """W_row = what f returned, which is let go."""
    n, size = w.W.shape[1], value.size
    if size == n:
        flat = _flat(value)
        for i in range(n):
            w.W[row, i] = flat[i]
    release(value)
    if size != n:
        msg = "f returned an array of another size than at (t0, y0)"
        raise ValueError(msg)


@compiled
def end_slope(m, f, args, s, w):
    """W_end = f(s.t_new, y_new), unless it is there; the row is the family's."""
    if not s.have_new:
        for i in range(w.W.shape[1]):
            w.W[Z, i] = w.W[Y_NEW, i]
        s.nfev += 1
        slope(f, s.t_new, w, m.end, args)
        s.have_new = True


@compiled
def hermite(m, f, args, s, w, h, path, place):
    """Write the cubic Hermite polynomial, as `polynomial` does."""
    if s.formed:
        return
    W, s.formed = w.W, True
    end_slope(m, f, args, s, w)
    for k in range(W.shape[1]):
        rise = W[Y_NEW, k] - W[Y, k]
        path[place, 1, k] = h * W[K, k] - rise
        path[place, 2, k] = 2 * rise - h * W[K, k] - h * W[m.end, k]


@compiled
def evaluate(theta, W, path, place, out, row):
    """out_row = the polynomial at θ."""
    for i in range(W.shape[1]):
        bubble = W.dtype.type(0)
        for m in range(path.shape[1] - 1, 0, -1):
            bubble = bubble * theta + path[place, m, i]
        bubble *= theta * (1 - theta)
        out[row, i] = (1 - theta) * W[Y, i] + theta * W[Y_NEW, i] + bubble


@compiled
def square(x):
    """Return |x|²."""
    return x.real * x.real + x.imag * x.imag


@compiled
def rms(w, row):
    """Rms of W_row / scale; NaN or inf only where W_row holds such."""
    n, total, top = w.W.shape[1], 0.0, 0.0
    for i in range(n):
        total += square(w.W[row, i] / w.R[SCALE, i])
    total = math.sqrt(total / n)
    if math.isfinite(total):
        return total
    for i in range(n):  # the squares may overflow
        size = abs(w.W[row, i]) / w.R[SCALE, i]
        if not size <= top:  # NaN too
            top = size
    if not 0 < top < math.inf:
        return top
    total = 0.0
    for i in range(n):
        total += (abs(w.W[row, i]) / w.R[SCALE, i] / top) ** 2
    return top * math.sqrt(total / n)


@compiled
def change(rows, i, m, W, k):
    """Σ_(j<m) rows_ij (K_j − K_0), of component k."""
    total = W.dtype.type(0)
    for j in range(1, m):
        if rows[i, j] != 0.0:
            total += rows[i, j] * (W[K + j, k] - W[K, k])
    return total
