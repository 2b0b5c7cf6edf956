"""What an implicit step takes besides its calls of f: counted first, then as the clock corrects it.

Everything is in calls of f. A call is taken for so many operations of dense algebra as one of its
kind and size is worth, a given Jacobian for one call, and a factorisation for its operations. These
counts stand unless a time that was measured departs from them clearly, and what it departs by is
rounded: on machines alike two runs weigh the same, and an ordinary problem is weighed by counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from time import perf_counter_ns
from typing import Any

import numpy as np
from scipy.linalg.lapack import dgetrf

__all__ = ["Costs", "Stopwatch", "departure"]

CALL, COMPILED_CALL, PER_COMPONENT = 20_000.0, 100.0, 20.0
"""Operations of dense linear algebra that take as long as a call of f: of a Python function, of a
compiled one, and for each component more."""

SPARSE = 50.0
"""Operations a row that a factorisation of a sparse or banded matrix takes, and so do the solutions
with it for a stage."""

PLAIN = 4.0
"""A compiled solve's operations, plain loops over few rows, take so many times LAPACK's time."""

CLEARLY = 20.0
"""Times more or less than was counted that a measured time must be to be believed. Ordinary f take
0.2 to 15 times what is counted, and a load on the machine makes the least of a few times twice as
long."""

SAMPLES = 3
"""Times before the least of them is believed."""

ENTRY, STRETCH = 5_000, 10
"""Nanoseconds that entering a compiled solve takes, about; least calls of f of one that is
timed."""

clock: Callable[[], int] = perf_counter_ns
"""Nanoseconds; there is no other clock here."""


def departure(ratio: float) -> float:
    """Return what a time departs by from the count, to the nearest power of 4; 1 if not clearly."""
    if not (0 < ratio < math.inf) or 1 / CLEARLY < ratio < CLEARLY:
        return 1.0
    return 4.0 ** round(math.log(ratio, 4))


@cache
def pace() -> float:
    """Return the nanoseconds that an operation of dense algebra takes on this machine."""
    n = 100
    A, watch = np.eye(n) + 1 / (1.0 + np.arange(n * n).reshape(n, n)), Stopwatch()
    for _ in range(5):
        watch(dgetrf, A)
    return watch.least / (2 / 3 * n**3)


class Stopwatch:
    """Calls functions, and keeps the least time that a call took."""

    def __init__(self) -> None:
        self._least, self.samples = math.inf, 0

    @property
    def least(self) -> float:
        """Nanoseconds; NaN before there are `SAMPLES`."""
        return self._least if self.samples >= SAMPLES else math.nan

    def __call__(self, function: Callable[..., Any], /, *arguments: Any) -> Any:
        """Return ``function(*arguments)``."""
        start = clock()
        value = function(*arguments)
        self.add(clock() - start)
        return value

    def add(self, time: float) -> None:
        """Take note of a time."""
        self.samples += 1
        self._least = min(self._least, time)


class Costs:
    """What work takes, in calls of f.

    Parameters
    ----------
    n : int
        Components.
    stages : int
        Stages of the implicit method.
    dense : bool
        Whether the Jacobian has no structure that factorisations profit from.
    compiled : bool
        Whether f is compiled.
    """

    def __init__(self, n: int, stages: int, *, dense: bool, compiled: bool = False) -> None:
        self.n, self.stages, self.is_dense = n, stages, dense
        self.base = COMPILED_CALL if compiled else CALL
        self.slower = PLAIN if compiled else 1.0
        self.f, self.jac, self.factorisation = Stopwatch(), Stopwatch(), Stopwatch()

    def timed(self, jac: Any) -> Any:
        """Return the user's Jacobian, on the watch if it is a function."""
        return partial(self.jac, jac) if callable(jac) else jac

    def stretch(self, time: int, calls: int) -> None:
        """Take note of a stretch of a compiled solve, most of which were calls of f."""
        if calls >= STRETCH:
            self.f.add(max(time - ENTRY, 0) / calls)

    @property
    def call(self) -> float:
        """Operations that a call of f is counted for."""
        return self.base + PER_COMPONENT * self.n

    @property
    def pace_f(self) -> float:
        """Nanoseconds for each of them, no less than an operation takes: loops take time too."""
        operation, measured = self.slower * pace(), self.f.least / self.call
        return measured if measured > operation else operation  # which is so of no NaN

    @property
    def jacobian(self) -> float:
        """Calls of f that a Jacobian takes whose function is given."""
        return departure(self.jac.least / (self.pace_f * self.call))

    @property
    def cheapness(self) -> float:
        """How cheap a counted operation is beside a counted call: 1, or less where f is dear."""
        return departure(self.slower * pace() / self.pace_f)

    def algebra(self, *, dense: bool | None = None) -> float:
        """Return the calls of f that take as long as all else that an implicit step does.

        Parameters
        ----------
        dense : bool, optional
            As if the Jacobian were dense, or not.
        """
        n, is_dense = self.n, self.is_dense if dense is None else dense
        if is_dense:
            factor, solve = 2 / 3 * n**3, 2.0 * self.stages * n**2
        else:
            factor, solve = SPARSE * n, SPARSE * (self.stages - 1) * n
        # Python's part of a factorisation is counted like f's: small matrices take no operations.
        seen = self.factorisation.least / (factor + self.base)
        if is_dense != self.is_dense or math.isnan(seen):
            seen = self.slower * pace()
        return (departure(seen / self.pace_f) * factor + self.cheapness * solve) / self.call
