"""The watch for events within the kernel: what happens in a step is for Python to find.

The kernel samples the functions where `EventFinder` does, and returns from a step in which that
would find something, or look closer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from .. import events
from .calls import OPTIONS, compiled, function_at
from .parts import Y_NEW, Z, evaluate, form

__all__ = ["Watch", "happens"]

_SAMPLES = events.SAMPLES

_crosses = compiled(events.crosses)
_may_dip = compiled(events.may_dip)


class Watch(NamedTuple):
    """Event functions, and their values across a step."""

    addresses: Any
    """Of the functions, shape (m,)."""
    direction: Any
    g: Any
    """At the step's start, at the samples, and at its end, shape (m, 5)."""
    t: Any
    """Those times, shape (5,)."""


def watch(addresses: list[int], direction: list[float], g: list[float]) -> Watch:
    """Return the arrays for functions whose values at the start are `g`."""
    m, points = len(g), len(_SAMPLES) + 2
    values = np.zeros((m, points))
    values[:, 0] = g
    return Watch(np.array(addresses), np.array(direction), values, np.zeros(points))


def happens(
    f: Any, args: Any, g: Any, watch: Any, m: Any, keeps: bool, s: Any, w: Any, h: float, path: Any
) -> bool:
    """Whether there may be an event in an accepted step."""
    raise NotImplementedError


@compiled
def _sample(g, args, watch, w, j):
    """Enter the values at point j, where Z is the state."""
    for i in range(len(watch.addresses)):
        watch.g[i, j] = function_at(g, watch.addresses[i])(watch.t[j], w.W_f[Z], *args)


@compiled
def _eventful(t, g, i, direction):
    """Whether `EventFinder` would find a root among five values, or look closer."""
    last = len(t) - 1
    for j in range(last):
        if g[i, j] == 0 or _crosses(g[i, j], g[i, j + 1], direction):
            return True
    for j in range(1, last):
        if _may_dip(t[j - 1], t[j], t[j + 1], g[i, j - 1], g[i, j], g[i, j + 1]):
            return True
    return False


@overload(happens, jit_options=OPTIONS)
def _happens(f, args, g, watch, m, keeps, s, w, h, path):
    if watch == types.none:
        return lambda f, args, g, watch, m, keeps, s, w, h, path: False

    def sampled(f, args, g, watch, m, keeps, s, w, h, path):
        place, last, some = s.accepted if keeps else 0, len(watch.t) - 1, False
        form(m, f, args, s, w, h, path, place)
        watch.t[0], watch.t[last] = s.t, s.t_new
        for j in range(1, last):
            watch.t[j] = s.t + _SAMPLES[j - 1] * h
            evaluate((watch.t[j] - s.t) / h, w.W, path, place, w.W, Z)
            _sample(g, args, watch, w, j)
        for k in range(w.W.shape[1]):
            w.W[Z, k] = w.W[Y_NEW, k]
        _sample(g, args, watch, w, last)
        for i in range(len(watch.addresses)):
            some = some or _eventful(watch.t, watch.g, i, watch.direction[i])
        if not some:
            for i in range(len(watch.addresses)):
                watch.g[i, 0] = watch.g[i, last]
        return some

    return sampled
