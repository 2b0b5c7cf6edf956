"""Fingerprints: whether a stored sweep and this one are the same."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from ..._array import is_torch

__all__ = ["fingerprint"]

_SCALARS = (type(None), bool, int, float, complex, str, bytes)


def fingerprint(x: Any, what: str) -> str:
    """Return a digest of a value, equal in every process that has an equal value.

    Numbers, strings, containers and arrays count by value. A Python function counts by its
    bytecode, defaults and closure, and by the functions and constants of its own module that it
    names; comments and line numbers do not count. Functions and classes of other modules count by
    name, other objects by what they would be pickled as. Bytecode differs between minor versions of
    Python.

    Raises
    ------
    TypeError
        If x holds something without a fingerprint.
    """
    try:
        return _Walk().digest(x).hex()
    except Exception as error:
        msg = f"{what} cannot be fingerprinted for the store: {error}"
        raise TypeError(msg) from error


class _Walk:
    """Digests nested values; a value inside itself is written as how deep it was first seen."""

    def __init__(self) -> None:
        self.open: dict[int, int] = {}

    def digest(self, x: Any) -> bytes:
        if id(x) in self.open:
            return _hash("again", str(self.open[id(x)]))
        self.open[id(x)] = len(self.open)
        try:
            return _hash(type(x).__qualname__, *self.parts(x))
        finally:
            del self.open[id(x)]

    def parts(self, x: Any) -> list[bytes | str]:
        """Return what tells x from other values of its type."""
        if isinstance(x, _SCALARS) and type(x) in _SCALARS:
            return [repr(x)]
        if is_torch(x):
            return [self.digest(x.detach().cpu().numpy())]
        if isinstance(x, np.ndarray) and not x.dtype.hasobject:
            return [x.dtype.str, str(x.shape), np.ascontiguousarray(x).tobytes()]
        for kinds, parts in _PARTS:
            if isinstance(x, kinds):
                return parts(self, x)
        return self.pickled(x)

    def function(self, f: types.FunctionType) -> list[bytes | str]:
        cells = [cell.cell_contents for cell in f.__closure__ or ()]
        known = [self.digest(v) for v in (f.__code__, f.__defaults__, f.__kwdefaults__, cells)]
        used = [
            self.digest([name, f.__globals__[name]])
            for name in sorted(_names(f.__code__) & f.__globals__.keys())
            if _is_ours(f.__globals__[name], f.__module__)
        ]
        return [f.__qualname__, *known, *used]

    def pickled(self, x: Any) -> list[bytes | str]:
        reduced = x.__reduce_ex__(4)
        if isinstance(reduced, str):
            return [reduced]
        make, args, state, items, pairs = (*reduced, None, None, None)[:5]
        parts = [self.digest(v) for v in (make, args, state)]
        parts += [self.digest(list(v)) for v in (items, pairs) if v is not None]
        call = getattr(type(x), "__call__", None)  # noqa: B004 - the function, not whether
        if isinstance(call, types.FunctionType):
            parts.append(self.digest(call))
        return [*parts]


def _hash(*parts: bytes | str) -> bytes:
    h = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else part.encode()
        h.update(len(raw).to_bytes(8, "big") + raw)
    return h.digest()


def _names(code: types.CodeType) -> set[str]:
    """Names that a function and those inside it look up."""
    inner = [_names(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*inner)


def _is_ours(x: Any, module: str) -> bool:
    """Whether a global is a constant, or a function of the same module."""
    if isinstance(x, types.FunctionType):
        return x.__module__ == module
    if isinstance(x, tuple):
        return all(_is_ours(v, module) for v in x)
    return isinstance(x, (*_SCALARS, np.ndarray, np.generic))


_PARTS: list[tuple[Any, Callable[[_Walk, Any], list[bytes | str]]]] = [
    ((list, tuple), lambda w, x: [w.digest(v) for v in x]),
    ((set, frozenset), lambda w, x: sorted(w.digest(v) for v in x)),
    (dict, lambda w, x: sorted(w.digest([k, v]) for k, v in x.items())),
    (types.FunctionType, _Walk.function),
    (types.MethodType, lambda w, x: [w.digest(x.__func__), w.digest(x.__self__)]),
    (types.CodeType, lambda w, x: [x.co_code, *(w.digest(v) for v in (x.co_names, x.co_consts))]),
    (types.ModuleType, lambda _, x: [x.__name__]),
    ((type, types.BuiltinFunctionType), lambda _, x: [f"{x.__module__}.{x.__qualname__}"]),
]
