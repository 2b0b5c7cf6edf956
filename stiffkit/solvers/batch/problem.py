"""Many initial value problems of one shape, checked before any work begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._array import Array, backend_of, to_numpy
from ..batch_step import cut, of_samples
from ..costs import Costs
from ..problem import first_bad

__all__ = [
    "BatchProblem",
    "Floats",
    "broadcast_tolerance",
    "check_batch_times",
    "make_batch_problem",
]

Floats = npt.NDArray[np.float64]
_IN_PLACE = "f changes its argument y in place; it must return dy/dt and leave y as it is"


class BatchProblem:
    """y' = f(t, y) for B samples, in the form the loop works with: states of shape (b, n).

    b counts the samples that still run: `take` leaves others out, and with them the rows of those
    arguments of f that belong to samples.

    Parameters
    ----------
    f : callable
        ``f(t, y, *args)`` with t of shape (b,) and y of shape ``(b, *shape)``.
    t0, t1 : array, shape (B,)
        Spans, all in the same direction.
    y0 : array, shape ``(B, *shape)``
        Initial states, checked.
    args : tuple
        Further arguments of f; arrays whose first axis has length B belong to samples.

    Attributes
    ----------
    mine : list of bool
        Which arguments belong to samples. It is told once, of the whole batch: when b rows are left
        an array that all of them share may happen to have length b.
    """

    def __init__(
        self, f: Callable[..., Any], t0: Floats, t1: Floats, y0: Array, args: tuple[Any, ...]
    ) -> None:
        self.f, self.args, self.backend = f, args, backend_of(y0)
        self.t0, self.t1, self.size = t0, t1, len(t0)
        self.shape = tuple(y0.shape[1:])
        self.flat = len(self.shape) == 1
        """Whether the user's states are what the loop works with."""
        self.y0 = y0.reshape((self.size, math.prod(self.shape)))
        self.mine = of_samples(args, self.size)
        self.direction = -1.0 if (t1 < t0).any() else 1.0
        self._calls = [0]
        self._version = self.backend.counter(self.y0)
        self._full = (self.size, *self.shape)
        self._dtype = self.y0.dtype
        self.costs: Costs | None = None
        """What is known of the time that calls take, where a choice of methods asks for it."""

    @property
    def nfev(self) -> int:
        """Calls of f, those of the problems that were made by `take` included."""
        return self._calls[0]

    @nfev.setter
    def nfev(self, calls: int) -> None:
        self._calls[0] = calls

    def time(self, t: Floats) -> Array:
        """Return times as right-hand sides get them: the state's real dtype, on its device."""
        return self.backend.real_like(t, self.y0)

    def times(self, table: Floats) -> Any:
        """Return times of shape (m, b) as m rows of `time`."""
        return self.backend.along_first(self.time(table))

    def __call__(self, t: Array, y: Array) -> Array:
        """Return f of the rows at hand: t of shape (b,) in the state's dtype, y of shape (b, n).

        f may return one and the same buffer each time: what must last is for `lasting`.
        """
        version = self._version
        if version is None:
            return self._evaluate(t, self.backend.protect(y))
        before = version(y)
        value = self._evaluate(t, y)
        if version(y) != before:
            raise ValueError(_IN_PLACE)
        return value

    def lasting(self, t: Array, y: Array) -> Array:
        """Return f of the rows at hand, which no later call changes."""
        return self.backend.copy(self(t, y))

    def _evaluate(self, t: Array, y: Array) -> Array:
        self._calls[0] += 1
        f = self.f
        if self.costs is not None:
            f = self.costs.of_rows(self.costs.f, self.size, f)
        value = f(t, y if self.flat else y.reshape(self._full), *self.args)
        if getattr(value, "shape", None) != self._full or value.dtype != self._dtype:
            value = self._mend(value, y)
        return value if self.flat else value.reshape(y.shape)

    def _mend(self, value: Any, y: Array) -> Array:
        """Turn what f gave into a slope of y's dtype, or say what is wrong with it."""
        value = self.backend.slope(value, y, at="(t, y)")
        shape = (len(y), *self.shape)
        if tuple(value.shape) != shape:
            msg = f"f returned shape {tuple(value.shape)} for a batch of states of shape {shape}"
            raise ValueError(msg)
        return value

    def take(self, rows: Any) -> BatchProblem:
        """Return the same problem for some of the rows; both count the calls of both."""
        part = object.__new__(BatchProblem)
        part.__dict__.update(self.__dict__)
        part.size = len(rows)
        part._full = (part.size, *self.shape)
        part.args = cut(self.args, self.mine, rows)
        return part

    def first_slopes(self) -> Array:
        """Return f(t0, y0), shape (B, n), after all that can be asked of a right-hand side.

        Raises
        ------
        ValueError
            If f changes its argument, or returns a wrong shape or dtype.
        """
        argument = self.backend.copy(self.y0)
        value = self._evaluate(self.time(self.t0), argument)
        if not bool((argument == self.y0).all()):
            raise ValueError(_IN_PLACE)
        return self.backend.copy(value)


def make_batch_problem(f: Any, t_span: Any, y0: Any, args: Sequence[Any]) -> BatchProblem:
    """Check the arguments and return the problem. f is not called.

    Raises
    ------
    TypeError
        If f is not callable or `args` not a sequence.
    ValueError
        If a value is out of range, or of a wrong shape or dtype.
    """
    if not callable(f):
        msg = f"f must be callable, f(t, y), not {type(f).__name__}"
        raise TypeError(msg)
    backend = backend_of(y0)
    y = backend.state(y0)
    if y.ndim == 0:
        msg = "a batched y0 needs a first axis that counts the samples; y0 is a single number"
        raise ValueError(msg)
    if not bool(backend.xp.isfinite(y).all()):
        msg = f"y0 is not finite at component {first_bad(y, backend)}"
        raise ValueError(msg)
    t0, t1 = _spans(t_span, len(y))
    try:
        extra = tuple(args)
    except TypeError as error:
        msg = f"args must be a tuple of f's extra arguments, e.g. args=({args!r},)"
        raise TypeError(msg) from error
    return BatchProblem(f, t0, t1, y, extra)


def _spans(t_span: Any, size: int) -> tuple[Floats, Floats]:
    try:
        ends = [to_numpy(end) for end in t_span]
        if len(ends) != 2:
            raise ValueError  # noqa: TRY301 - told like every other failure below
        t0, t1 = (np.array(np.broadcast_to(end, (size,))) for end in ends)
    except (TypeError, ValueError) as error:
        msg = f"t_span must be (t0, t1), numbers or arrays of shape ({size},), not {t_span!r}"
        raise ValueError(msg) from error
    if not (np.isfinite(t0).all() and np.isfinite(t1).all()):
        msg = f"t_span must be finite in a batched solve, not {t_span!r}"
        raise ValueError(msg)
    if (t1 > t0).any() and (t1 < t0).any():
        msg = "all samples must be integrated in the same direction: t_span goes both ways"
        raise ValueError(msg)
    return t0, t1


def broadcast_tolerance(name: str, value: Any, problem: BatchProblem) -> Any:
    """Return a tolerance as a number, or an array that broadcasts to (B, n).

    Raises
    ------
    ValueError
        If it is not finite and positive (atol: not negative), or does not fit y0's shape.
    """
    numbers = to_numpy(value)
    good = np.isfinite(numbers) & ((numbers > 0) if name == "rtol" else (numbers >= 0))
    if not good.all():
        sign = "positive" if name == "rtol" else "zero or positive"
        msg = f"{name} must be finite and {sign}, not {value!r}"
        raise ValueError(msg)
    if numbers.ndim == 0:
        return float(numbers)
    full = (problem.size, *problem.shape)
    try:
        whole = np.broadcast_to(numbers, full)
    except ValueError as error:
        msg = f"{name} has shape {numbers.shape}, which does not broadcast to y0's shape {full}"
        raise ValueError(msg) from error
    return problem.backend.real_like(whole.reshape(problem.y0.shape).copy(), problem.y0)


def check_batch_times(times: Any, problem: BatchProblem) -> Floats:
    """Return `t_eval` as an array of shape (n_t, B), or (n_t, 1) where the samples share it.

    Raises
    ------
    ValueError
        If a time is outside its sample's span, or times are not strictly monotone towards t1.
    """
    values = to_numpy(times)
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] != problem.size):
        msg = f"t_eval must have shape (n_t,) or (n_t, {problem.size}), not {values.shape}"
        raise ValueError(msg)
    table = values[:, None] if values.ndim == 1 else values
    low, high = np.minimum(problem.t0, problem.t1), np.maximum(problem.t0, problem.t1)
    outside = ~((table >= low) & (table <= high))
    if outside.any():
        j, i = (int(x) for x in np.argwhere(outside)[0])
        span = (float(problem.t0[i]), float(problem.t1[i]))
        at = float(table[j, min(i, table.shape[1] - 1)])
        msg = f"t_eval holds {at!r}, outside t_span {span!r} of sample {i}"
        raise ValueError(msg)
    if (np.diff(table, axis=0) * problem.direction <= 0).any():
        msg = "t_eval must be strictly monotone in the direction of integration"
        raise ValueError(msg)
    return table
