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

__all__ = ["Costs", "Stopwatch", "departure"]

CALLS = {"python": 20_000.0, "compiled": 100.0, "tensor": 200_000.0}
"""Operations of dense linear algebra that take as long as a call of f of few components: of one
of Python and NumPy, of a compiled one, and of one of tensors."""

PER_COMPONENT = 20.0
"""And for each component more."""

SPARSE = 50.0
"""Operations a row that a factorisation of a sparse or banded matrix takes, and so do the solutions
with it for a stage."""

SMALL_CALLS = 3.0
"""An implicit step of a tensor, or of a batch, takes so many times the time of its calls of f: it
makes many small ones besides."""

LOOP = {"python": 400_000.0, "tensor": 1_000_000.0}
"""Operations that take as long as what the loop of a batch does for each call of f."""

PER_MATRIX, PER_ENTRY = 1_000.0, 50.0
"""Operations that each matrix of a batch takes beyond those of its factorisation, and so each of
its entries; a tenth of the latter and half of the former for a solution with it."""

MODES = 50.0
"""Calls of f of few components that a Jacobian by torch's derivatives takes as long as, beyond one
for each column: backward passes take 15, forward ones up to 150."""

PLAIN = 4.0
"""A compiled solve's operations, plain loops over few rows, take so many times LAPACK's time."""

CLEARLY = 20.0
"""Times more or less than was counted that a measured time must be to be believed. Ordinary f take
0.2 to 15 times what is counted, and a load on the machine makes the least of a few times twice as
long."""

SAMPLES, ENOUGH = 3, 50
"""Times before the least of them is believed, and after which no more calls are timed."""

ENTRY, DISPATCH = 5_000, 1_000
"""Nanoseconds that it takes about to enter a compiled solve, or a compiled f from the interpreted
loop, and to call another compiled function."""

STRETCH = 10
"""Least calls of f of a stretch that is timed, unless it takes as many times as long as `ENTRY`."""

LOAD, FIRST = 50_000, 100_000
"""Nanoseconds that a stretch of implicit steps may take for what others do on the machine, and that
the first call of a compiled function from Python may take for numba's sake."""

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
    from scipy.linalg.lapack import dgetrf  # explicit methods need none of it

    n = 100
    A, watch = np.eye(n) + 1 / (1.0 + np.arange(n * n).reshape(n, n)), Stopwatch()
    for _ in range(5):
        watch(dgetrf, A)
    return watch.least / (2 / 3 * n**3)


class Stopwatch:
    """Calls functions, and keeps the least time that a call took.

    Parameters
    ----------
    entry : float
        Nanoseconds of each call that are not the function's.
    wait : callable, optional
        Returns when all work that was begun is done, where calls return before.
    """

    def __init__(self, entry: float = 0.0, wait: Callable[[], Any] | None = None) -> None:
        self.entry, self.wait = entry, wait
        self.shortest, self.samples = math.inf, 0
        """The least time, and how many there are."""

    @property
    def least(self) -> float:
        """Nanoseconds; NaN before there are `SAMPLES`."""
        return self.shortest if self.samples >= SAMPLES else math.nan

    @property
    def rests(self) -> bool:
        """Whether it times no more calls."""
        return self.samples >= ENOUGH

    def __call__(self, function: Callable[..., Any], /, *arguments: Any) -> Any:
        """Return ``function(*arguments)``."""
        return self.part(1.0, function, *arguments)

    def part(self, share: float, function: Callable[..., Any], /, *arguments: Any) -> Any:
        """Return the same of a call that is counted for a share of what the others are."""
        if self.rests:
            return function(*arguments)
        if self.wait is not None:
            self.wait()
        start = clock()
        value = function(*arguments)
        if self.wait is not None:
            self.wait()
        self.add((clock() - start - self.entry) / share)
        return value

    def add(self, time: float) -> None:
        """Take note of a time."""
        self.samples += 1
        self.shortest = min(self.shortest, max(time, 0.0))


class Costs:
    """What work takes, in calls of f; in a batch, with what its loop does for each of them.

    Parameters
    ----------
    n : int
        Components.
    stages : int
        Stages of the implicit method.
    columns : float
        Calls of f that a Jacobian is counted for.
    derived : bool
        Whether it is made by torch's derivatives, where f is one of tensors.
    dense : bool
        Whether the Jacobian has no structure that factorisations profit from.
    kind : {"python", "compiled", "tensor"}
        What f is.
    rows : int, optional
        Rows of a batch, which a call of f, a Jacobian and a factorisation serve all at once.
    wait : callable, optional
        As for `Stopwatch`.
    """

    def __init__(
        self,
        n: int,
        stages: int,
        *,
        columns: float = 1.0,
        derived: bool = False,
        dense: bool = True,
        kind: str = "python",
        rows: int | None = None,
        wait: Callable[[], Any] | None = None,
    ) -> None:
        self.n, self.stages, self.columns, self.is_dense = n, stages, columns, dense
        self.base, self.rows = CALLS[kind], rows
        self.slower = PLAIN if kind == "compiled" else 1.0
        self.loop = LOOP[kind] if rows is not None else 0.0
        self.many = kind == "tensor" or rows is not None
        """Whether an implicit step is many small calls."""
        self.anew = stages if rows is not None and kind == "python" else 1
        """Factorisations in a step: NumPy keeps none for a batch."""
        self.modes = MODES * self.base if kind == "tensor" and derived else 0.0
        compiled = kind == "compiled"
        self.f = Stopwatch(ENTRY if compiled else 0, wait)
        self.jac = Stopwatch(DISPATCH if compiled else 0, wait)
        self.factorisation = Stopwatch(wait=wait)

    # What is timed --------------------------------------------------------------------------------

    def timed(self, jac: Any) -> Any:
        """Return the user's Jacobian, on the watch if it is a function."""
        return partial(self.jac, jac) if callable(jac) else jac

    def of_rows(
        self, watch: Stopwatch, rows: int, function: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Return a function of so many rows of the batch, timed as if it were of all."""
        if watch.rests:
            return function
        counted = self.call - self.base
        if watch is self.factorisation:
            counted, _ = self._operations(dense=True)
        share = (self.base + counted * rows / (self.rows or 1)) / (self.base + counted)
        return partial(watch.part, share, function)

    def stretch(
        self, time: int, calls: int, *, jacobians: int = 0, factorisations: int = 0
    ) -> None:
        """Take note of a stretch of a compiled solve, and of what it called.

        Most of an explicit one were calls of f. Of an implicit one, what is left after its calls of
        f and its Jacobians, and after what solutions are counted for, was factorisations.
        """
        if calls == 0 or (calls < STRETCH and time < STRETCH * ENTRY):
            return  # too short to tell
        if not factorisations:
            self.f.add((time - ENTRY) / calls)
        elif self.f.samples:
            operation, solve = self.slower * pace(), self._operations(dense=self.is_dense)[1]
            f = max(self.f.shortest, operation * self.call)
            jac = self.jac.shortest if self.jac.samples else f
            beside = operation * (self.base + solve / self.stages)  # of each call
            rest = time - ENTRY - LOAD - (f + beside) * calls - jac * jacobians
            self.factorisation.add(rest / factorisations)

    # What it takes --------------------------------------------------------------------------------

    @property
    def call(self) -> float:
        """Operations that a call of f is counted for."""
        return self.base + PER_COMPONENT * self.n * (self.rows or 1)

    @property
    def pace_f(self) -> float:
        """Nanoseconds for each of them, no less than an operation takes: loops take time too."""
        operation, measured = self.slower * pace(), self.f.least / self.call
        return measured if measured > operation else operation  # which is so of no NaN

    @property
    def jacobian(self) -> float:
        """Calls of f that a Jacobian takes."""
        return max(self.columns, 1.0) * departure(self.jac.least / self._counted_jacobian)

    @property
    def doubts_jacobian(self) -> bool:
        """Whether the few times that there are of a Jacobian make it seem dear."""
        seen = (self.jac.shortest - FIRST) / self._counted_jacobian
        return 0 < self.jac.samples < SAMPLES and departure(seen) > 1

    @property
    def _counted_jacobian(self) -> float:
        """Nanoseconds that a Jacobian is counted for."""
        loop = self.slower * pace() * self.loop
        return max(self.columns, 1.0) * (self.pace_f * self.call + loop) + self.pace_f * self.modes

    @property
    def cheapness(self) -> float:
        """How cheap a counted operation is beside a counted call: 1, or less where f is dear."""
        return departure(self.slower * pace() / self.pace_f)

    def step(self, calls: float) -> float:
        """Return what an implicit step with so many calls of f takes, all its work included."""
        weight = max(1.0, SMALL_CALLS * self.cheapness) if self.many else 1.0
        return weight * calls + self.algebra()

    def algebra(self, *, dense: bool | None = None) -> float:
        """Return the calls of f that take as long as a step's factorisations and solutions.

        Parameters
        ----------
        dense : bool, optional
            As if the Jacobian were dense, or not.
        """
        is_dense = self.is_dense if dense is None else dense
        factor, solve = self._operations(dense=is_dense)
        # Python's part of a factorisation is counted like f's: small matrices take no operations,
        # unless they are seen to take clearly more than both.
        operation, seen = self.slower * pace(), self.factorisation.least / (factor + self.base)
        if is_dense != self.is_dense or math.isnan(seen):
            seen = operation
        if departure(seen / operation) > 1:
            factor += self.base
        factors = departure(seen / self.pace_f) * self.anew * factor
        cheapness = self.cheapness
        return (factors + cheapness * solve) / (self.call + cheapness * self.loop)

    def _operations(self, *, dense: bool) -> tuple[float, float]:
        """Return the operations of a factorisation, and of a step's solutions with it."""
        n, s = self.n, self.stages
        if not dense:
            return SPARSE * n, SPARSE * (s - 1) * n
        factor, solve = 2 / 3 * n**3, 2.0 * s * n**2
        if self.rows is None:
            return factor, solve
        factor += PER_ENTRY * n**2 + PER_MATRIX
        solve += s * (PER_ENTRY / 10 * n**2 + PER_MATRIX / 2)
        return self.rows * factor, self.rows * (solve if self.anew == 1 else 0.0)
