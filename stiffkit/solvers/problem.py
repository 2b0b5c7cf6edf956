"""An initial value problem, checked before any work begins."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._array import Array, Backend, backend_of, to_numpy
from .tableau import ButcherTableau

__all__ = [
    "Problem",
    "bind",
    "check_method",
    "check_positive",
    "check_times",
    "first_bad",
    "make_problem",
]

SCIPY_NAMES = {"RK23": "bosh3", "RK45": "dopri5", "DOP853": "dop853"}


@dataclass(frozen=True, eq=False)
class Problem:
    """y' = f(t, y), y(t0) = y0, in the form the loop works with: flat states."""

    f: Callable[[float, Array], Array]
    """Right-hand side on flat states, extra arguments bound."""
    t0: float
    t1: float
    y0: Array
    """Initial state, flat; read-only for NumPy."""
    f0: Array
    """f(t0, y0), flat."""
    shape: tuple[int, ...]
    """The user's shape of the state."""
    backend: Backend
    rtol: Any
    """A float, or a flat array."""
    atol: Any

    @property
    def direction(self) -> float:
        """+1 forward in time, -1 backward."""
        return 1.0 if self.t1 >= self.t0 else -1.0


def make_problem(
    f: Any, t_span: Any, y0: Any, args: Sequence[Any], rtol: Any, atol: Any
) -> Problem:
    """Check the arguments, call f once, and return the problem.

    Raises
    ------
    TypeError
        If f is not callable or `args` not a sequence.
    ValueError
        If a value is out of range, of a wrong shape or dtype, or f changes its argument.
    """
    if not callable(f):
        msg = f"f must be callable, f(t, y), not {type(f).__name__}"
        raise TypeError(msg)
    t0, t1 = _span(t_span)
    backend = backend_of(y0)
    y = backend.state(y0)
    shape = tuple(y.shape)
    if not bool(backend.xp.isfinite(y).all()):
        msg = f"y0 is not finite at component {first_bad(y, backend)}"
        raise ValueError(msg)
    rtol = _tolerance("rtol", rtol, y, backend)
    atol = _tolerance("atol", atol, y, backend)
    bound = bind(f, args)
    f0 = _first_call(bound, t0, y, backend)
    flat = backend.protect(y.reshape(-1))
    return Problem(backend.call(bound, shape, flat), t0, t1, flat, f0, shape, backend, rtol, atol)


def bind(f: Callable[..., Any], args: Sequence[Any]) -> Callable[..., Any]:
    """Return ``f(t, y)`` for ``f(t, y, *args)``; `f` itself when there is nothing to bind."""
    try:
        extra = tuple(args)
    except TypeError as error:
        msg = f"args must be a tuple of f's extra arguments, e.g. args=({args!r},)"
        raise TypeError(msg) from error
    return f if not extra else lambda t, y: f(t, y, *extra)


def _span(t_span: Any) -> tuple[float, float]:
    try:
        t0, t1 = (float(t) for t in t_span)
    except (TypeError, ValueError) as error:
        msg = f"t_span must be two numbers (t0, t1), not {t_span!r}"
        raise ValueError(msg) from error
    if not math.isfinite(t0) or math.isnan(t1):
        msg = f"t_span must start at a finite time and end at a number, not {t_span!r}"
        raise ValueError(msg)
    return t0, t1


def _tolerance(name: str, value: Any, y: Array, backend: Backend) -> Any:
    """Return a positive rtol or non-negative atol: a float, or a flat real array like y."""
    numbers = to_numpy(value)
    if numbers.ndim > 0 and numbers.shape != tuple(y.shape):
        msg = (
            f"{name} has shape {numbers.shape}; it must be a number or have y0's, {tuple(y.shape)}"
        )
        raise ValueError(msg)
    good = np.isfinite(numbers) & ((numbers > 0) if name == "rtol" else (numbers >= 0))
    if not good.all():
        sign = "positive" if name == "rtol" else "zero or positive"
        msg = f"{name} must be finite and {sign}, not {value!r}"
        raise ValueError(msg)
    if numbers.ndim == 0:
        return float(numbers)
    return backend.real_like(numbers.reshape(-1), y)


def _first_call(f: Callable[..., Any], t0: float, y: Array, backend: Backend) -> Array:
    """f(t0, y0), flat, after all that can be asked of a right-hand side was asked."""
    argument = backend.copy(y)
    value = backend.call(f, (1,), y)(t0, argument)
    if not bool((argument == y).all()):
        msg = "f changes its argument y in place; it must return dy/dt and leave y as it is"
        raise ValueError(msg)
    f0 = backend.slope(value, y)
    if tuple(f0.shape) != tuple(y.shape):
        msg = f"f(t0, y0) has shape {tuple(f0.shape)}, but y0 has shape {tuple(y.shape)}"
        raise ValueError(msg)
    return f0.reshape(-1)


def check_method(
    method: Any, methods: dict[str, ButcherTableau], *, adaptive: bool
) -> ButcherTableau:
    """Return the tableau that `method` names, or is.

    Raises
    ------
    ValueError
        If there is none of that name, it is implicit, or it has no embedded row where the step
        size is to be controlled.
    """
    if isinstance(method, ButcherTableau):
        tableau = method
    else:
        name = SCIPY_NAMES.get(method, method)
        if name not in methods:
            near = difflib.get_close_matches(str(method).lower(), methods, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            msg = f"unknown method {method!r}{hint} Known are: {', '.join(methods)}"
            raise ValueError(msg)
        tableau = methods[name]
    if not tableau.explicit:
        msg = f"method {tableau.name!r} is implicit; solve runs explicit tableaus"
        raise ValueError(msg)
    if adaptive and tableau.error_order is None:
        paired = ", ".join(name for name, other in methods.items() if other.error_order)
        msg = (
            f"method {tableau.name!r} has no embedded row, so it cannot control its error: give "
            f"the steps with grid=..., or choose one of {paired}"
        )
        raise ValueError(msg)
    return tableau


def check_times(name: str, times: Any, t0: float, t1: float) -> list[float]:
    """Return `times` as floats: one-dimensional, within the span, strictly monotone towards t1.

    Raises
    ------
    ValueError
        If they are not.
    """
    try:
        values = to_numpy(times)
    except (TypeError, ValueError) as error:
        msg = f"{name} must be a one-dimensional array of times, not {times!r}"
        raise ValueError(msg) from error
    if values.ndim != 1:
        msg = f"{name} must be one-dimensional, not of shape {values.shape}"
        raise ValueError(msg)
    outside = ~((values >= min(t0, t1)) & (values <= max(t0, t1)))
    if outside.any():
        msg = f"{name} holds {float(values[outside][0])!r}, outside t_span ({t0!r}, {t1!r})"
        raise ValueError(msg)
    if (np.diff(values) * (1.0 if t1 >= t0 else -1.0) <= 0).any():
        msg = f"{name} must be strictly monotone in the direction of integration"
        raise ValueError(msg)
    return [float(t) for t in values]


def check_positive(name: str, value: Any, *, whole: bool = False) -> Any:
    """Return `value` if it is a positive number (an integer if `whole`).

    Raises
    ------
    ValueError
        If it is not.
    """
    try:
        good = float(value) > 0 and (not whole or float(value) == math.inf or int(value) == value)
    except (TypeError, ValueError):
        good = False
    if not good:
        msg = f"{name} must be a positive {'integer' if whole else 'number'}, not {value!r}"
        raise ValueError(msg)
    return value


def first_bad(y: Array, backend: Backend) -> str:
    """Index and value of the first component that is not finite."""
    values = backend.numpy(y)
    where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
    return f"{where if len(where) != 1 else where[0]} (value {values[where]})"
