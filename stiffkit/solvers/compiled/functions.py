"""Functions that numba compiles, and the kernel compiled for their types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..._optional import require

__all__ = ["Function", "entry", "jit", "rhs"]


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


class Function(NamedTuple):
    """A compiled right-hand side as the kernel gets it."""

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
        return _of_type(f, y.dtype.char, y.ndim, tuple(map(numba.typeof, args)))
    except ValueError:  # an argument that numba has no type for
        return None


@lru_cache(maxsize=256)
def _of_type(f: Any, dtype: str, ndim: int, further: tuple[Any, ...]) -> Function | None:
    import numba

    scalar = numba.float64 if dtype == "d" else numba.complex128
    state = numba.types.Array(scalar, ndim, "C")
    types = (numba.float64, state, *further)
    # As it is, f can come from numba's cache; what adapts it is compiled in each process.
    for function in (f, _adapted(f, len(further))):
        try:
            function.compile(types)
            compiled = function.overloads[types]
        except (numba.core.errors.NumbaError, RuntimeError, KeyError):
            continue  # as an f of fixed signatures does, which others convert to
        if compiled.signature.return_type == state:
            address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
            reference = numba.types.TypeRef(numba.types.FunctionType(state(*types)))
            return Function(function, address, reference)
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


def entry(kernel: Any, f: Function, arguments: Sequence[Any]) -> Any:
    """Return the kernel compiled for `arguments`, the first of them a reference to f's type.

    f's type is its signature alone: a kernel serves all functions of one signature, and can be kept
    on disk. To be called with arguments of these very types: the entry point checks none, which
    saves more than a short solve takes.
    """
    import numba

    key = kernel, f.type
    if key not in _ENTRIES:
        types = (f.type, *map(numba.typeof, arguments[1:]))
        kernel.compile(types)
        _ENTRIES[key] = kernel.overloads[types].entry_point
    return _ENTRIES[key]
