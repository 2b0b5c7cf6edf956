"""An initial value problem, checked before any work begins."""

from __future__ import annotations

import difflib
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._array import Array, Backend, backend_of, is_torch, to_numpy
from .implicit import AdditiveTableau
from .radau import RADAU
from .tableau import ButcherTableau

__all__ = [
    "Problem",
    "bind",
    "check_compiles",
    "check_method",
    "check_pair",
    "check_positive",
    "check_stiff",
    "check_takes_mass",
    "check_times",
    "first_bad",
    "is_split",
    "make_problem",
    "needs_batch",
    "refuse_batched",
    "span",
]

SCIPY_NAMES = {"RK23": "bosh3", "RK45": "dopri5", "DOP853": "dop853", "Radau": "radau5"}


@dataclass(frozen=True, eq=False)
class Problem:
    """y' = f(t, y), y(t0) = y0, in the form the loop works with: flat states."""

    f: Callable[[float, Array], Array]
    """Right-hand side on flat states, extra arguments bound."""
    t0: float
    t1: float
    y0: Array
    """Initial state, flat; read-only for NumPy."""
    raw: Mapping[str, Callable[..., Any]]
    """Right-hand side, or its two parts, by the argument's name: in the user's shape, extra
    arguments bound."""
    shape: tuple[int, ...]
    """The user's shape of the state."""
    backend: Backend
    rtol: Any
    """A float, or a flat array."""
    atol: Any
    split: tuple[Callable[[float, Array], Array], Callable[[float, Array], Array]] | None = None
    """(f_explicit, f_implicit) on flat states, where f is given as their sum."""

    def first_slope(self) -> Array:
        """Return f(t0, y0), flat, after all that can be asked of a right-hand side was asked.

        Raises
        ------
        ValueError
            If f, or a part of it, changes its argument, or returns a wrong shape or dtype.
        """
        first, *other = (self._slope(name, f) for name, f in self.raw.items())
        return sum(other, start=first)

    def _slope(self, name: str, f: Callable[..., Any]) -> Array:
        backend, y = self.backend, self.y0.reshape(self.shape)
        argument = backend.copy(y)
        value = f(backend.time(self.t0, y), argument)
        if not bool((argument == y).all()):
            msg = (
                f"{name} changes its argument y in place; it must return dy/dt and leave y as it is"
            )
            raise ValueError(msg)
        slope = backend.slope(value, y, name=name)
        if tuple(slope.shape) != self.shape:
            msg = f"{name}(t0, y0) has shape {tuple(slope.shape)}, but y0 has shape {self.shape}"
            if not slope.shape:
                msg += f" ({name} is called as {name}(t, y), the time first)"
            raise ValueError(msg)
        return slope.reshape(-1)

    def at(self, t: float, y: Array) -> Problem:
        """Return the same problem from (t, y) on."""
        return replace(self, t0=t, y0=y)

    @property
    def direction(self) -> float:
        """+1 forward in time, -1 backward."""
        return 1.0 if self.t1 >= self.t0 else -1.0


def make_problem(
    f: Any, t_span: Any, y0: Any, args: Sequence[Any], rtol: Any, atol: Any, *, depth: int = 2
) -> Problem:
    """Check the arguments and return the problem. f is not called.

    A warning is of the code that is so many calls above this one.

    Raises
    ------
    TypeError
        If f is not callable or `args` not a sequence.
    ValueError
        If a value is out of range, or of a wrong shape or dtype.
    """
    raw = {name: bind(part, args) for name, part in _parts(f).items()}
    t0, t1 = span(t_span)
    backend = backend_of(y0)
    y = backend.state(y0)
    shape = tuple(y.shape)
    if not bool(backend.xp.isfinite(y).all()):
        msg = f"y0 is not finite at component {first_bad(y, backend)}"
        raise ValueError(msg)
    rtol = _tolerance("rtol", rtol, y, backend)
    atol = _tolerance("atol", atol, y, backend)
    _warn_unreachable(rtol, atol, y, backend, 2 + depth)
    flat = backend.protect(y.reshape(-1))
    on_flat, *other = (backend.call(part, shape, flat) for part in raw.values())
    if not other:
        return Problem(on_flat, t0, t1, flat, raw, shape, backend, rtol, atol)
    # Added as they are, two lists would make a longer one, and shapes would broadcast.
    first, second = backend.keeping(on_flat), backend.keeping(*other)

    def both(t: float, y: Array) -> Array:
        return backend.copy(first(t, y)) + second(t, y)  # they may share one buffer

    split = first, second
    return Problem(both, t0, t1, flat, raw, shape, backend, rtol, atol, split)


def is_split(f: Any) -> bool:
    """Whether `f` is meant as (f_explicit, f_implicit)."""
    return isinstance(f, tuple)


def _parts(f: Any) -> dict[str, Callable[..., Any]]:
    """Return the functions that `f` consists of, by name.

    Raises
    ------
    TypeError
        If it is neither a function nor two of them.
    """
    parts = dict(zip(("f_explicit", "f_implicit"), f, strict=False)) if is_split(f) else {"f": f}
    if is_split(f) and len(f) != 2:
        msg = f"a split f must be two functions (f_explicit, f_implicit), not {len(f)}"
        raise TypeError(msg)
    for name, part in parts.items():
        if not callable(part):
            msg = f"{name} must be callable, {name}(t, y), not {type(part).__name__}"
            raise TypeError(msg)
    return parts


def _warn_unreachable(rtol: Any, atol: Any, y: Array, backend: Backend, stacklevel: int) -> None:
    """Warn of a tolerance below the rounding error of the state that it is for."""
    eps = float(backend.xp.finfo(y.dtype).eps)
    if isinstance(rtol, float) and rtol >= eps:
        return
    size = backend.numpy(backend.xp.abs(y)).reshape(-1)
    tolerance = np.asarray(to_numpy(atol) + to_numpy(rtol) * size)
    if (tolerance < eps * size).any():
        i = int(np.argmax(eps * size - tolerance))
        text = (
            f"rtol and atol ask for {tolerance[i]:.1e} at a component of size {size[i]:.1e}, "
            f"which is below the rounding error of {y.dtype}: steps may be refused for ever "
            "smaller sizes"
        )
        warnings.warn(text, UserWarning, stacklevel=stacklevel)


def bind(f: Callable[..., Any], args: Sequence[Any]) -> Callable[..., Any]:
    """Return ``f(t, y)`` for ``f(t, y, *args)``; `f` itself when there is nothing to bind."""
    try:
        extra = tuple(args)
    except TypeError as error:
        msg = f"args must be a tuple of f's extra arguments, e.g. args=({args!r},)"
        raise TypeError(msg) from error
    return f if not extra else lambda *arguments: f(*arguments, *extra)


def span(t_span: Any) -> tuple[float, float]:
    """Return t0 and t1, checked; an infinite t1 as the largest float.

    Raises
    ------
    ValueError
        If they are not two numbers, or t0 is not finite.
    """
    try:
        t0, t1 = (float(t) for t in t_span)
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"t_span must be two numbers (t0, t1), not {_short(t_span)}"
        raise ValueError(msg) from error
    if not math.isfinite(t0) or math.isnan(t1):
        msg = f"t_span must start at a finite time and end at a number, not {t_span!r}"
        raise ValueError(msg)
    # No step reaches infinity; the largest float is as far as times go.
    return t0, max(min(t1, sys.float_info.max), -sys.float_info.max)


def _numbers(name: str, value: Any) -> np.ndarray[Any, Any]:
    """`value` as a real float64 array, or a ValueError that names the argument."""
    try:
        kind = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
        if "complex" in str(kind):
            msg = f"{name} must be real"
            raise ValueError(msg)  # noqa: TRY301 - told like every other failure below
        return to_numpy(value)
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"{name} must be real numbers, not {_short(value)}"
        raise ValueError(msg) from error


def _short(value: Any) -> str:
    """Write a value for a message: not the 400 digits of an integer, nor a large array."""
    try:
        text = repr(value)
    except ValueError:  # an integer of too many digits
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _tolerance(name: str, value: Any, y: Array, backend: Backend) -> Any:
    """Return a positive rtol or non-negative atol: a float, or a flat real array like y."""
    if type(value) is float and 0 < value < math.inf:  # the common case
        return value
    numbers = _numbers(name, value)
    if numbers.ndim > 0 and numbers.shape != tuple(y.shape):
        allowed = f"a number or an array of y0's shape {tuple(y.shape)}"
        msg = f"{name} has shape {numbers.shape}; it must be {allowed}"
        raise ValueError(msg)
    good = np.isfinite(numbers) & ((numbers > 0) if name == "rtol" else (numbers >= 0))
    if not good.all():
        sign = "positive" if name == "rtol" else "zero or positive"
        msg = f"{name} must be finite and {sign}, not {_short(value)}"
        raise ValueError(msg)
    if numbers.ndim == 0:
        return float(numbers)
    return backend.real_like(numbers.flatten(), y)  # a copy: the caller's array may change


def check_method(method: Any, methods: Mapping[str, Any], *, adaptive: bool) -> Any:
    """Return the method that `method` names, or is.

    Raises
    ------
    ValueError
        If there is none of that name, it is an additive pair or an implicit tableau that has no
        kernel, or it has no error estimate where the step size is to be controlled.
    """
    if method is not None and type(method) in {type(other) for other in methods.values()}:
        tableau = method
    else:
        name = SCIPY_NAMES.get(method, method) if isinstance(method, str) else None
        if name is None or name not in methods:
            aliases = {alias.lower(): alias for alias in (*SCIPY_NAMES, *methods)}
            near = difflib.get_close_matches(str(method).lower(), aliases, n=1, cutoff=0.5)
            hint = f"; did you mean {aliases[near[0]]!r}?" if near else "."
            if isinstance(method, str) and method in ("BDF", "LSODA"):
                hint = ", which is SciPy's: stiffkit.solve_ivp runs it."
            if isinstance(method, str) and method == "auto":
                hint = ", which is a choice of methods: stiffkit.solve makes it."
            msg = f"unknown method {_short(method)}{hint} Known are: {', '.join(methods)}"
            raise ValueError(msg)
        tableau = methods[name]
    if isinstance(tableau, AdditiveTableau):
        msg = (
            f"method {tableau.name!r} is an additive pair: give f as (f_explicit, f_implicit), or "
            f"take its implicit half, {tableau.implicit.name!r}"
        )
        raise ValueError(msg)  # noqa: TRY004 - a value of the argument, mostly a name
    if isinstance(tableau, ButcherTableau) and not (tableau.explicit or has_kernel(tableau)):
        msg = (
            f"method {tableau.name!r} is implicit; of those solve runs ESDIRK methods with one "
            f"diagonal entry, and {' and '.join(RADAU)}"
        )
        raise ValueError(msg)
    if adaptive and tableau.error_order is None and tableau.name not in RADAU:
        paired = ", ".join(
            name
            for name, other in methods.items()
            if getattr(other, "error_order", None) or name in RADAU
        )
        msg = (
            f"method {tableau.name!r} has no embedded row, so it cannot control its error: give "
            f"the steps with grid=..., or choose one of {paired}"
        )
        raise ValueError(msg)
    return tableau


def check_pair(method: Any, pairs: Mapping[str, AdditiveTableau]) -> AdditiveTableau:
    """Return the additive pair that `method` names, or is, or is the implicit half of.

    Raises
    ------
    ValueError
        If there is none, or its implicit method has no kernel.
    """
    named = isinstance(method, str)
    meant = (
        other
        for other in pairs.values()
        if (method in (other.name, other.implicit.name) if named else method is other.implicit)
    )
    pair = next(meant, method)
    if not isinstance(pair, AdditiveTableau):
        halves = ", ".join(f"{other.implicit.name} ({other.name})" for other in pairs.values())
        msg = (
            f"f is split, (f_explicit, f_implicit), and method "
            f"{_short(getattr(method, 'name', method))} has no explicit half; those that have one: "
            f"{halves}"
        )
        raise ValueError(msg)  # noqa: TRY004 - a value of the argument, mostly a name
    if not has_kernel(pair.implicit):
        msg = (
            f"method {pair.name!r}: its implicit part must be an ESDIRK method with one diagonal "
            "entry and an embedded row"
        )
        raise ValueError(msg)
    return pair


def check_stiff(method: Any, options: Mapping[str, Any], *, auto: bool) -> None:
    """Check what only some methods have a use for.

    Raises
    ------
    ValueError
        If `radius` is no positive number and no function, `precond` comes without `jvp`, or a
        method is given what it has no use for.
    """
    radius = options.get("radius")
    if radius is not None and not callable(radius):
        check_positive("radius", radius)
    if options.get("precond") is not None and options.get("jvp") is None:
        msg = "precond is for GMRES, that is for a Jacobian given by its products: give jvp too"
        raise ValueError(msg)
    if auto:
        return
    stabilised = hasattr(method, "degrees")
    explicit = isinstance(method, ButcherTableau) and method.explicit
    for name, value in options.items():
        fits = stabilised if name == "radius" else not (stabilised or explicit)
        if value is not None and not fits:
            kind = "stabilised" if name == "radius" else "implicit and Rosenbrock"
            msg = f"{name} is for {kind} methods; {method.name!r} has no use for it"
            raise ValueError(msg)


def needs_batch(method: Any) -> bool:
    """Whether tensors are solved by the batched loop: by methods with systems to solve."""
    explicit = isinstance(method, ButcherTableau) and method.explicit
    return not explicit and not hasattr(method, "degrees")


def refuse_batched(**given: Any) -> None:
    """Refuse what a batched solve has no way to do.

    Raises
    ------
    ValueError
        If an argument is given that a batch cannot share.
    """
    for name, value in given.items():
        if value is not None:
            why = (
                "a guide moves one step, the rows of a batch make their own"
                if name == "guide"
                else "each row has a dense matrix of its own, by jac, autograd or differences"
            )
            msg = f"{name} is not for batched solves, nor for implicit methods on tensors: {why}"
            raise ValueError(msg)


def check_compiles(y0: Any, method: Any, *, batched: bool, auto: bool, adjoint: Any) -> None:
    """Check that torch.compile can make the steps of a solve.

    Raises
    ------
    ValueError
        If the solve's steps are of another kind.
    """
    explicit = isinstance(method, ButcherTableau) and method.explicit and not auto
    for good, what in (
        (is_torch(y0) and batched, "a batch of tensors, with batched=True"),
        (not (is_torch(y0) and y0.is_complex()), "a real state"),
        (explicit, "an explicit method, by its name"),
        (adjoint is None, "adjoint=None: the steps' own history"),
    ):
        if not good:
            msg = f"compile=True needs {what}"
            raise ValueError(msg)


def check_takes_mass(method: Any) -> None:
    """Check that a method solves M y' = f(t, y).

    Raises
    ------
    ValueError
        If it is explicit or stabilised.
    """
    explicit = isinstance(method, ButcherTableau) and method.explicit
    if explicit or hasattr(method, "degrees"):
        kind = "explicit" if explicit else "stabilised"
        msg = (
            f"mass is for implicit and Rosenbrock methods; {method.name!r} is {kind}: take "
            "rodas5p, radau5 or kencarp4, or, if M is regular, solve y' = M⁻¹ f(t, y)"
        )
        raise ValueError(msg)


def has_kernel(tableau: ButcherTableau) -> bool:
    """Whether an implicit tableau can be run: ESDIRK with one γ and an error row, or Radau IIA."""
    if tableau.name in RADAU:
        return True
    gammas = np.diag(tableau.A)
    one = gammas[0] == 0 and len(gammas) > 1 and bool((abs(gammas[1:] - gammas[1]) < 1e-14).all())
    return one and gammas[1] > 0 and not np.triu(tableau.A, 1).any() and tableau.e is not None


def check_times(name: str, times: Any, t0: float, t1: float) -> list[float]:
    """Return `times` as floats: one-dimensional, within the span, strictly monotone towards t1.

    Raises
    ------
    ValueError
        If they are not.
    """
    values = _numbers(name, times)
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


def check_callable(name: str, value: Any) -> None:
    """Refuse what is no function, by name."""
    if not callable(value):
        msg = f"{name} must be a function, not {_short(value)}"
        raise TypeError(msg)


def check_flags(**flags: Any) -> None:
    """Refuse text where a truth value belongs, by name: "no" would count as True."""
    for name, value in flags.items():
        if isinstance(value, str):
            msg = f"{name} must be True or False, not {_short(value)}"
            raise TypeError(msg)


def check_positive(name: str, value: Any, *, whole: bool = False) -> Any:
    """Return `value` if it is a positive number (an integer if `whole`).

    Raises
    ------
    ValueError
        If it is not.
    """
    limit = 1e15 if whole else math.inf
    try:
        number = float(value)
        good = 0 < number <= limit and (not whole or int(number) == number)
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        kind = "integer" if whole else "number"
        msg = f"{name} must be a positive {kind}, not {_short(value)}"
        raise ValueError(msg)
    return int(number) if whole else number


def first_bad(y: Array, backend: Backend) -> str:
    """Index and value of the first component that is not finite."""
    values = backend.numpy(y)
    where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
    return f"{where if len(where) != 1 else where[0]} (value {values[where]})"
