"""Functions that numba compiles, and the kernel compiled for their types."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..._optional import require

__all__ = [
    "Function",
    "InPlace",
    "entry",
    "given_jacobian",
    "given_number",
    "jit",
    "rhs",
    "writes",
]


def jit(f: Callable[..., Any]) -> Any:
    """Compile a right-hand side, so that `solve` compiles its loop around it.

    This is ``numba.njit(f, cache=True)``, or without the cache where numba can keep none, as for
    a function that was typed at Python's prompt.

    Parameters
    ----------
    f : callable
        ``f(t, y, *args)``, or ``f(t, y, dy, *args)`` that writes dy/dt to dy and returns nothing:
        of the Python and NumPy that numba knows. The second form makes no array at each call.

    Returns
    -------
    numba dispatcher
        The compiled function; `f` itself if it is one.

    Raises
    ------
    ImportError
        If numba is not installed (``pip install stiffkit[fast]``).
    TypeError
        If `f` is not a Python function.

    Examples
    --------
    >>> import numpy as np
    >>> import stiffkit as sk
    >>> decay = sk.jit(lambda t, y, rate: -rate * y)
    >>> solution = sk.solve(decay, (0.0, 1.0), np.ones(1), "tsit5", args=(2.0,))
    >>> round(float(solution.y[-1, 0]), 5)
    0.13534
    """
    numba = require("numba", "fast", "jit")
    if numba.extending.is_jitted(f):
        return f
    if not hasattr(f, "__code__"):
        msg = f"f must be a Python function to be compiled, not {f!r}"
        raise TypeError(msg)
    try:
        return numba.njit(f, cache=True)
    except RuntimeError:  # there is no file to keep the cache beside
        return numba.njit(f)


class InPlace:
    """A compiled ``f(t, y, dy, *args)``, which writes dy and returns nothing, as ``f(t, y)``.

    Parameters
    ----------
    f : numba dispatcher
        The user's function.
    """

    def __init__(self, f: Any) -> None:
        self.f = f

    def __call__(self, t: Any, y: Any, *args: Any) -> Any:
        """Return dy/dt in an array of its own; what f leaves unwritten is NaN."""
        dy = np.full(y.shape, np.nan, y.dtype)
        value = self.f(t, y, dy, *args)
        if value is not None:
            n = 3 + len(args)
            msg = (
                f"f takes {n} arguments, that is f(t, y, dy{', ...' * bool(args)}), which writes "
                f"dy and returns nothing; it returned {type(value).__name__}. If it is meant as "
                f"f(t, y, ...), give the value of its last argument in args"
            )
            raise TypeError(msg)
        return dy


def writes(f: Any, args: Sequence[Any]) -> bool:
    """Whether a compiled f is of the form ``f(t, y, dy, *args)``: it asks for an argument more.

    Parameters
    ----------
    f : numba dispatcher
        The user's function.
    args : sequence
        Its further arguments.
    """
    code, defaults = f.py_func.__code__, f.py_func.__defaults__ or ()
    takes_any = bool(code.co_flags & inspect.CO_VARARGS)
    return not takes_any and code.co_argcount - len(defaults) == 3 + len(args)


class Function(NamedTuple):
    """A compiled function as the kernel gets it."""

    dispatcher: Any
    """To be kept for as long as the address is used."""
    address: int
    type: Any
    """The type of a reference to numba's function type: its signature."""


_ENTRIES: dict[Any, Any] = {}


def rhs(f: Any, y: Any, args: Sequence[Any]) -> Function | None:
    """Return `f` for the kernel, with its result made a state if it is not; None if that fails.

    Parameters
    ----------
    f : numba dispatcher
        The user's function.
    y : ndarray
        A state of the user's shape.
    args : sequence
        f's further arguments.
    """
    import numba

    try:
        further = tuple(map(numba.typeof, args))
    except ValueError:  # an argument that numba has no type for
        return None
    return _of_type(f, y.dtype.char, y.ndim, further, writes(f, args))


def given_jacobian(jac: Any, y: Any, args: Sequence[Any]) -> Function | None:
    """Return a compiled ``jac(t, y, *args)`` for the kernel; None if it returns no such matrix."""
    return _given(jac, y, args, 2)


def given_number(g: Any, y: Any, args: Sequence[Any]) -> Function | None:
    """Return a compiled ``g(t, y, *args)`` for the kernel; None if it returns no float."""
    return _given(g, y, args, 0)


def _given(g: Any, y: Any, args: Sequence[Any], axes: int) -> Function | None:
    import numba

    try:
        further = tuple(map(numba.typeof, args))
    except ValueError:  # an argument that numba has no type for
        return None
    return _given_of_type(g, y.dtype.char, y.ndim, further, axes)


@lru_cache(maxsize=256)
def _given_of_type(
    g: Any, dtype: str, ndim: int, further: tuple[Any, ...], axes: int
) -> Function | None:
    import numba

    scalar = numba.float64 if dtype == "d" else numba.complex128
    state = numba.types.Array(scalar, ndim, "C")
    if axes:
        return _function(g, numba.types.Array(scalar, axes, "C")(numba.float64, state, *further))
    signature = numba.float64(numba.float64, state, *further)
    return _function(g, signature) or _function(_adapted(g, len(further), _as_float), signature)


@lru_cache(maxsize=256)
def _of_type(
    f: Any, dtype: str, ndim: int, further: tuple[Any, ...], in_place: bool
) -> Function | None:
    import numba

    state = numba.types.Array(numba.float64 if dtype == "d" else numba.complex128, ndim, "C")
    if in_place:
        return _function(f, numba.void(numba.float64, state, state, *further))
    signature = state(numba.float64, state, *further)
    # As it is, f can come from numba's cache; what adapts it is compiled in each process.
    adapted = _adapted(f, len(further), _as_state)
    return _function(f, signature) or _function(adapted, signature)


def _function(f: Any, signature: Any) -> Function | None:
    """Return `f` as compiled for a signature; None where it has no such form."""
    import numba

    try:
        f.compile(signature.args)
        compiled = f.overloads[signature.args]
    except (numba.core.errors.NumbaError, RuntimeError, KeyError, TypeError):
        return None  # as an f of fixed signatures does, which others convert to, or of defaults
    if compiled.signature.return_type != signature.return_type:
        return None
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    return Function(f, address, numba.types.TypeRef(numba.types.FunctionType(signature)))


def _as_state(value: Any, y: Any) -> Any:
    return np.ascontiguousarray(np.asarray(value).astype(y.dtype))


def _as_float(value: Any, y: Any) -> Any:
    return float(value)


def _adapted(f: Any, n: int, convert: Any) -> Any:
    """Return f, of `n` further arguments, with its result converted."""
    import numba

    # numba passes no ``*args`` on by address: the function is written with its very arguments.
    names = ", ".join(["t", "y", *(f"a{i}" for i in range(n))])
    text = f"lambda {names}: convert(f({names}), y)"
    return numba.njit(eval(text, {"f": f, "convert": numba.njit(convert)}))


@contextmanager
def without_collection() -> Iterator[None]:
    """Look for no garbage: compilation makes many objects that stay, which costs a tenth of it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if gc.get_freeze_count() == 0:
                # What was made goes to the oldest generation without a look, which costs as much.
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def entry(kernel: Any, arguments: Sequence[Any]) -> Any:
    """Return the kernel compiled for `arguments`.

    The first is a reference to f's type, and f's type is its signature alone: a kernel serves all
    functions of one signature, and can be kept on disk. So is the third one for a Jacobian. The
    fifth and sixth are f's further arguments and the method. To be called with arguments of these
    very types: the entry point checks none, which saves more than a short solve takes. The eleventh
    is None where nothing is wanted of what happens inside steps. The last but one refers to the
    type of the event functions.
    """
    import numba

    inside = arguments[10] is not None
    key = kernel, arguments[0], arguments[2], type(arguments[5]), inside, arguments[-2]
    if key not in _ENTRIES:
        types = [numba.typeof(argument) for argument in arguments]
        for i in (0, 2, -2):
            types[i] = types[i] if arguments[i] is None else arguments[i]
        with without_collection():
            kernel.compile(tuple(types))
        _ENTRIES[key] = kernel.overloads[tuple(types)].entry_point
    return _ENTRIES[key]
