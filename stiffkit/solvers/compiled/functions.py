"""Functions that numba compiles, and the kernel compiled for their types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from ..._optional import require

__all__ = ["entry", "jit", "rhs"]


def jit(f: Callable[..., Any]) -> Any:
    """Compile a right-hand side, so that `solve` compiles its loop around it.

    This is ``numba.njit(f, cache=True)``, or without the cache where numba can keep none, as for
    a function that was typed at Python's prompt.

    Parameters
    ----------
    f : callable
        ``f(t, y, *args)``: of the Python and NumPy that numba knows.

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


_RHS: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()
_ENTRIES: dict[Any, Any] = {}


def rhs(f: Any, y: Any, args: Sequence[Any]) -> Any:
    """Return `f`, or `f` with its result made a state, and its type: a pair, or None.

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

    known: dict[Any, Any] = _RHS.setdefault(f, {})
    try:
        further = tuple(map(numba.typeof, args))
    except ValueError:  # an argument that numba has no type for
        return None
    key = y.dtype.char, y.ndim, further  # numba.typeof(y) takes longer than a short solve
    if key not in known:
        known[key] = _of_type(f, (numba.float64, numba.typeof(y), *further))
    return known[key]


def _of_type(f: Any, types: tuple[Any, ...]) -> tuple[Any, Any] | None:
    import numba

    # As it is, f can come from numba's cache; what adapts it is compiled in each process.
    for function in (f, _adapted(f, len(types) - 2)):
        try:
            function.compile(types)
            result = function.overloads[types].signature.return_type
        except (numba.core.errors.NumbaError, RuntimeError, KeyError):
            continue  # as an f of fixed signatures does, which others convert to
        if result == types[1]:
            return function, numba.types.FunctionType(result(*types))
    return None


def _adapted(f: Any, n: int) -> Any:
    """Return f, of `n` further arguments, with its result made an array of y's dtype."""
    import numba
    import numpy as np

    @numba.njit
    def as_state(value, y):  # type: ignore[no-untyped-def]
        return np.ascontiguousarray(np.asarray(value).astype(y.dtype))

    # numba passes no ``*args`` on by address: the function is written with its very arguments.
    names = ", ".join(["t", "y", *(f"a{i}" for i in range(n))])
    text = f"lambda {names}: as_state(f({names}), y)"
    return numba.njit(eval(text, {"f": f, "as_state": as_state}))


def entry(kernel: Any, f_type: Any, arguments: Sequence[Any]) -> Any:
    """Return the kernel compiled for `arguments`, the first of them, f, of type `f_type`.

    f is passed as an address, its type being its signature alone: a kernel serves all functions of
    one signature, and can be kept on disk. To be called with arguments of these very types: the
    entry point checks none, which saves more than a short solve takes.
    """
    import numba

    key = kernel, f_type
    if key not in _ENTRIES:
        types = (f_type, *map(numba.typeof, arguments[1:]))
        kernel.compile(types)
        _ENTRIES[key] = kernel.overloads[types].entry_point
    return _ENTRIES[key]
