"""The watch for events within the kernel, by the rules of `stiffkit.solvers.events`.

Nearly always a step holds no event or one that does not end the solve: those the kernel locates. It
returns to Python with a step where `EventFinder` has to look closer, or may end the solve.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from .. import events
from .calls import OPTIONS, compiled, function_at
from .parts import Y_NEW, Z, evaluate, polynomial

__all__ = ["Watch", "happens"]

_SAMPLES, _MOST = events.SAMPLES, events.MOST
_ROOM, _NUMBERS = 256, 2**18
"""Events that are kept until Python takes them, and the numbers that their states may hold."""

_crosses = compiled(events.crosses)
_may_dip = compiled(events.may_dip)
_next_time = compiled(events.next_time)
_narrowed = compiled(events.narrowed)
_far_end = compiled(events.far_end)


class Watch(NamedTuple):
    """Event functions, and their values across a step."""

    addresses: Any
    """Of the functions, shape (m,)."""
    direction: Any
    g: Any
    """At the step's start, at the samples, and at its end, shape (m, 5)."""
    t: Any
    """Those times, shape (5,)."""
    root: Any
    """Function and sample before the last change of sign that was seen."""
    budget: Any
    """How many more events of each do not yet end the solve, less one."""
    found_i: Any
    """Which function an event is of, shape (room,); when and where it is after that."""
    found_t: Any
    found_y: Any


def watch(addresses: list[int], finder: events.EventFinder, y: Any) -> Watch:
    """Return the arrays for the functions of a finder that has started from y."""
    m, points = len(addresses), len(_SAMPLES) + 2
    values = np.zeros((m, points))
    values[:, 0] = finder.g_old
    room = max(1, min(_ROOM, _NUMBERS // y.size))
    return Watch(
        np.array(addresses),
        np.array(finder.direction),
        values,
        np.zeros(points),
        np.zeros(2, np.int64),
        np.array(finder.budget, dtype=float),
        np.zeros(room, np.int64),
        np.zeros(room),
        np.zeros((room, y.size), y.dtype),
    )


def happens(
    f: Any, args: Any, g: Any, watch: Any, m: Any, keeps: bool, s: Any, w: Any, h: float, path: Any
) -> bool:
    """Locate what happens in an accepted step, or return True: it is for Python."""
    raise NotImplementedError


@compiled
def _value(g, args, watch, i, t, w):
    return function_at(g, watch.addresses[i])(t, w.W_f[Z], *args)


@compiled
def _count(watch, i):
    """Count the roots of function i that `EventFinder` finds; 2 where it looks closer."""
    t, g, last, count = watch.t, watch.g, len(watch.t) - 1, 0
    for j in range(last):
        if g[i, j] == 0:
            return 2
        if _crosses(g[i, j], g[i, j + 1], watch.direction[i]):
            count += 1
            watch.root[0], watch.root[1] = i, j
    for j in range(1, last):
        if _may_dip(t[j - 1], t[j], t[j + 1], g[i, j - 1], g[i, j], g[i, j + 1]):
            return 2
    return count


@compiled
def _locate(g, args, watch, w, s, h, path, place):
    """Find the one event there is, and keep it."""
    i, j = watch.root[0], watch.root[1]
    t_a, t_b, g_a, g_b = watch.t[j], watch.t[j + 1], watch.g[i, j], watch.g[i, j + 1]
    bracket = (t_a, t_b, t_a, g_a, g_b, g_a)
    if g_b != 0:
        for m in range(_MOST):
            t = _next_time(bracket, m)
            if t == bracket[0]:
                break
            evaluate((t - s.t) / h, w.W, path, place, w.W, Z)
            bracket = _narrowed(bracket, t, _value(g, args, watch, i, t, w))
    t = t_b if g_b == 0 else _far_end(bracket, g_a)
    watch.budget[i] -= 1
    watch.found_i[s.found], watch.found_t[s.found] = i, t
    evaluate((t - s.t) / h, w.W, path, place, watch.found_y, s.found)
    s.found += 1


@overload(happens, jit_options=OPTIONS)
def _happens(f, args, g, watch, m, keeps, s, w, h, path):
    if watch == types.none:
        return lambda f, args, g, watch, m, keeps, s, w, h, path: False

    def sampled(f, args, g, watch, m, keeps, s, w, h, path):
        place, last, count = s.accepted if keeps else 0, len(watch.t) - 1, 0
        many = len(watch.addresses)
        polynomial(m, f, args, s, w, h, path, place)
        watch.t[0], watch.t[last] = s.t, s.t_new
        for j in range(1, last):
            watch.t[j] = s.t + _SAMPLES[j - 1] * h
            evaluate((watch.t[j] - s.t) / h, w.W, path, place, w.W, Z)
            for i in range(many):
                watch.g[i, j] = _value(g, args, watch, i, watch.t[j], w)
        for k in range(w.W.shape[1]):
            w.W[Z, k] = w.W[Y_NEW, k]
        for i in range(many):
            watch.g[i, last] = _value(g, args, watch, i, s.t_new, w)
            count += _count(watch, i)
        full = s.found == len(watch.found_t)
        if count > 1 or (count == 1 and (full or watch.budget[watch.root[0]] == 1)):
            return True
        if count == 1:
            _locate(g, args, watch, w, s, h, path, place)
        for i in range(many):
            watch.g[i, 0] = watch.g[i, last]
        return False

    return sampled
