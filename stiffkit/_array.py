"""What NumPy and torch spell differently, and nothing else.

The solvers write their numerics once, with operators and the names that both libraries share. What
is left (making arrays, a dot product's cheapest spelling, a scalar on its way in or out) is here.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from operator import attrgetter
from typing import Any

import numpy as np

__all__ = ["Array", "Backend", "backend_of", "is_torch", "to_numpy"]

Array = Any
"""A NumPy array or a torch tensor."""

Way = Callable[[Array], Array]
"""From an array to another."""


@contextmanager
def quiet_arithmetic() -> Iterator[None]:
    """Silence NumPy's floating-point warnings for calls made by stiffkit, and for no others.

    A trial step may overflow: that is a rejection, and the loop deals with it. What the user's f
    does with NaN or inf inside is the user's affair: it warns, or raises, as it would outside.
    """
    modes, handler = np.geterr(), np.geterrcall()
    keys = {"divide by zero": "divide", "overflow": "over", "invalid value": "invalid"}

    def called(kind: str, flag: int) -> None:
        caller = sys._getframe(1)
        while caller.f_code is called.__code__ and caller.f_back is not None:
            caller = caller.f_back  # a solve inside f hands on what its own f does
        if str(caller.f_globals.get("__name__", "")).startswith("stiffkit."):
            return
        mode = modes[keys.get(kind, "invalid")]  # type: ignore[literal-required]
        if mode == "raise":
            msg = f"{kind} encountered"
            raise FloatingPointError(msg)
        if mode == "call" and callable(handler):
            handler(kind, flag)
        elif mode != "ignore":
            warnings.warn(f"{kind} encountered", RuntimeWarning, stacklevel=2)

    heard = {key: "call" for key in keys.values() if modes[key] != "ignore"}  # type: ignore[literal-required]
    with np.errstate(call=called, **heard):  # type: ignore[arg-type]
        yield


SMALL = 32768
"""Tensors with fewer numbers torch works on by one thread (its grain size), as NumPy does."""

_KINDS = ("float32", "float64", "complex64", "complex128")


def is_torch(x: object) -> bool:
    """Whether `x` is a torch tensor; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def to_numpy(x: Any) -> np.ndarray[Any, Any]:
    """Return numbers (array_like or tensor) as a float64 NumPy array."""
    return np.asarray(x.detach().cpu() if is_torch(x) else x, dtype=np.float64)


class Backend:
    """The NumPy spelling; `_Torch` overrides what differs."""

    xp: Any = np
    absolute: Any = staticmethod(np.abs)
    """|x|, into ``out`` if that is given, as autograd does not see it."""

    def state(self, y0: Any, name: str = "y0") -> Array:
        """Return a copy of `y0` as an array of a supported dtype; integers become float64."""
        try:
            y = np.array(y0)
        except ValueError as error:
            msg = f"{name} is not an array: its rows have different lengths ({error})"
            raise ValueError(msg) from error
        if y.dtype.kind in "iub":
            y = y.astype(np.float64)
        if y.dtype.char not in "fdFD":
            msg = f"{name} has dtype {y.dtype}; it must be one of {', '.join(_KINDS)}"
            raise ValueError(msg)
        return y

    def empty(self, shape: tuple[int, ...], like: Array) -> Array:
        return np.empty(shape, dtype=like.dtype)

    def full(self, shape: tuple[int, ...], value: float, like: Array) -> Array:
        return np.full(shape, value, dtype=like.dtype)

    def mask(self, values: np.ndarray[Any, Any], like: Array) -> Array:  # noqa: ARG002
        """Return a boolean NumPy array as one that lives where `like` does."""
        return values

    def index(self, rows: np.ndarray[Any, Any], like: Array) -> Array:  # noqa: ARG002
        """Return indices as `like` takes them."""
        return rows

    def take(self, x: Array, rows: np.ndarray[Any, Any], axis: int) -> Array:
        """Return some rows of `x` along an axis."""
        return x.take(rows, axis)

    def overwrite(self, target: Array, values: Array, where: Array) -> None:
        """Put `values` into `target` in some places."""
        np.copyto(target, values, where=where)

    def scatter(self, target: Array, rows: Any, values: Array) -> Array:
        """Return `target`, used up, with ``values[k]`` in row ``rows[k]``; autograd may follow."""
        target[rows] = values
        return target

    def rows_finite(self, x: Array) -> np.ndarray[Any, Any]:
        """Return which rows of x, shape (b, n), are finite, as a boolean NumPy array."""
        return np.asarray(np.isfinite(x).all(1))

    def vector(self, values: Any, like: Array) -> Array:
        """`values` in the dtype and on the device of `like`."""
        return np.array(values, dtype=like.dtype)

    def real_like(self, values: Any, like: Array) -> Array:
        """`values` in the real dtype of `like`."""
        return np.asarray(values, dtype=like.real.dtype)

    def along_first(self, x: Array) -> Any:
        """Return the parts of x along its first axis."""
        return x

    def host(self, x: Array) -> np.ndarray[Any, Any]:
        """Return real numbers as a float64 NumPy array, not to be written to."""
        return np.asarray(x, dtype=np.float64)

    def times(self, values: Any, like: Array) -> Array:  # noqa: ARG002
        """Points of time, float64."""
        return np.asarray(values, dtype=np.float64)

    def product(self, row: Array, k: Array, out: Array | None = None) -> Any:
        """Return a function of nothing for Σ_j row_j k_j, k of shape (m, n)."""
        if k.shape[1] > 10_000:  # dot clears its result first, matmul does not; dot starts sooner
            return partial(np.matmul, row, k) if out is None else partial(np.matmul, row, k, out)
        return partial(row.dot, k) if out is None else partial(row.dot, k, out)

    def scaled(self, rows: Any, like: Array) -> tuple[Array, Callable[[float], None]]:
        """Return the matrix [1 | h rows], and the function of h that sets it."""
        source = np.ones((rows.shape[0], rows.shape[1] + 1), dtype=like.dtype)
        source[:, 1:] = rows
        target, multiply = source.copy(), np.multiply
        fill_first = target[:, 0].fill

        def scale(h: float) -> None:
            multiply(source, h, out=target)  # the whole of it: twice as fast as a part
            fill_first(1.0)

        return target, scale

    def bridge(self, y: Array, *, stay: bool = False) -> tuple[Backend, Way, Way]:  # noqa: ARG002
        """Return the library whose calls cost least on arrays like `y`, the way there, and back.

        A call of NumPy costs a third of torch's: small tensors on the CPU are better worked on
        there, in the same memory, wherever autograd need not see it: tensors with a history are
        refused. With `stay` the library is this one.
        """
        return self, _itself, _itself

    def weighted_sum(self, terms: list[tuple[float, Array]]) -> Array:
        """Return Σ w x over the pairs (w, x), from the first to the last."""
        total: Any = 0.0
        for weight, x in terms:
            total = total + weight * x
        return total

    def along(self, h: np.ndarray[Any, Any], y: Array) -> Array:
        """Return h, shape (b,), as a factor of arrays like y, shape (b, n)."""
        column = self.real_like(h[:, None], y)
        # Repeated: of short rows, NumPy multiplies one at a time.
        return column if y.shape[1] > 16 else column.repeat(y.shape[1], 1)

    def move(self, y: Array, slope: Array, h: Array) -> Array:
        """Return y + h·slope; `slope` is used up."""
        slope *= h
        return y + slope

    def row_rms(self, x: Array) -> np.ndarray[Any, Any]:
        """Return the rms of each row of x, shape (b, n): float64 of shape (b,), not to write to."""
        squares = x.real**2 + x.imag**2 if x.dtype.kind == "c" else x * x
        n = squares.shape[1]
        # A product with ones: sum(1) of short rows takes four times as long.
        norms: np.ndarray[Any, Any] = np.sqrt(squares.dot(_ones(n, squares.dtype)))
        return norms.astype(np.float64, copy=False) / float(max(n, 1) ** 0.5)

    def detach(self, x: Array) -> Array:
        """Return `x` as autograd does not see it."""
        return x

    def writer(self, k: Array) -> Any:
        """Return the function that copies an array into `k`."""
        return partial(k.__setitem__, ...)

    def time(self, t: float, like: Array) -> Any:  # noqa: ARG002
        """Return a time as right-hand sides and events get it: a float."""
        return t

    def call(self, f: Any, shape: tuple[int, ...], like: Array) -> Any:  # noqa: ARG002
        """`f` as a function of flat states."""
        if len(shape) == 1:
            return f

        def on_flat(t: float, y: Array) -> Array:
            value = np.asarray(f(t, y.reshape(shape)))
            if value.shape != shape:
                msg = f"f returned shape {value.shape} at t = {t!r} for a state of shape {shape}"
                raise ValueError(msg)
            return value.reshape(-1)

        return on_flat

    def slope(self, value: Any, y: Array, at: str = "(t0, y0)", name: str = "f") -> Array:
        """Return what f gave as an array like y.

        Raises
        ------
        ValueError
            If it is not numeric, or complex where y is real.
        """
        try:
            f = np.asarray(value)
        except ValueError as error:
            msg = f"{name}{at} is not an array: {error}"
            raise ValueError(msg) from error
        if f.dtype.kind not in "iubfc":
            msg = f"{name}{at} has dtype {f.dtype}; it must return numbers"
            raise ValueError(msg)
        if f.dtype.kind == "c" and y.dtype.kind != "c":
            msg = f"{name}{at} is complex for a real y0: give y0 as a complex array"
            raise ValueError(msg)
        return f.astype(y.dtype)  # a copy: f may return one and the same buffer each time

    def array(self, value: Any) -> Array:
        """Return what f gave as an array; a tensor keeps its history."""
        return np.asarray(value)

    def copy(self, x: Array) -> Array:
        return x.copy()

    def protect(self, x: Array) -> Array:
        """Make `x` read-only where the library can, so that f cannot change a state we keep."""
        x.setflags(write=False)
        return x

    def __reduce__(self) -> Any:
        return _backend_named, (type(self).__name__,)

    def no_grad(self) -> AbstractContextManager[None]:
        """Keep autograd out."""
        return nullcontext()

    def waiting(self, like: Array) -> Callable[[], Any] | None:  # noqa: ARG002
        """Return what waits for work begun on `like`'s device; None where calls wait themselves."""
        return None

    def differentiable_once(self, x: Array) -> Array:
        """Return x; a derivative through it that is to be differentiated again is an error."""
        return x

    def quiet(self) -> AbstractContextManager[None]:
        """Silence the floating-point warnings of stiffkit's own arithmetic, and only those."""
        return quiet_arithmetic()

    def version(self, x: Array) -> Any:  # noqa: ARG002
        """Return a number that changes when `x` is written to, where the library counts."""
        return None

    def counter(self, x: Array) -> Callable[[Array], int] | None:  # noqa: ARG002
        """Return `version` of arrays made as `x` was, without a detour, where there is such."""
        return None

    def keeping(self, f: Any) -> Any:
        """Return `f` for states that are kept, once a step: where it breaks its word it is told.

        It cannot change NumPy's states, which are read-only; what it returns must be a slope.
        """

        def call(t: float, y: Array) -> Array:
            value = f(t, y)
            if getattr(value, "shape", None) != y.shape or value.dtype != y.dtype:
                value = self.slope(value, y, at=f"(t={t!r}, y)")
                if value.shape != y.shape:
                    msg = (
                        f"f returned shape {value.shape} at t = {t!r} for a state of shape "
                        f"{y.shape}"
                    )
                    raise ValueError(msg)
            return value

        return call

    def square_sum(self, y: Array) -> Callable[[Array], float]:
        """Return the cheapest x -> ‖x‖² for arrays like `y`."""
        if y.dtype.kind == "c":
            return lambda x: float(np.vdot(x, x).real)
        return lambda x: float(x.dot(x))

    def tiny(self, x: Array) -> float:
        return float(np.finfo(x.dtype).tiny)

    def numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """Return a NumPy view or copy, for messages and logs."""
        return np.asarray(x)

    def grad_enabled(self) -> bool:
        return False

    def wants_grad(self, *arrays: Array) -> bool:  # noqa: ARG002
        return False


@cache
def _ones(n: int, dtype: Any) -> np.ndarray[Any, Any]:
    return np.ones(n, dtype)


def _itself(x: Array) -> Array:
    return x


def _without_history(value: Array) -> Array:
    """Return what f gave, detached; refuse it where autograd should have followed the solve."""
    if value.requires_grad:
        if sys.modules["torch"].is_grad_enabled():
            msg = (
                "f returns tensors that require gradients, but f(t0, y0) did not: give y0 with "
                "requires_grad=True, or solve under torch.no_grad()"
            )
            raise ValueError(msg)
        value = value.detach()
    return value


def _as_numpy(x: Array) -> Array:
    """Return a tensor on the CPU as an array, in the same memory."""
    try:
        return x.numpy()
    except RuntimeError:  # it has a history, or is the conjugate of what is in memory
        return _without_history(x).resolve_conj().resolve_neg().numpy()


@cache
def _once() -> Any:
    """Return an identity whose derivative has no derivative."""
    import torch

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:  # noqa: ARG004
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:  # noqa: ARG004
            if torch.is_grad_enabled():
                msg = (
                    "derivatives through ESDIRK and Radau methods are of first order only, "
                    "without create_graph; Rosenbrock methods have those of second order"
                )
                raise RuntimeError(msg)
            return grad

    return Once


class _Torch(Backend):
    def __init__(self) -> None:
        import torch

        self.xp = torch

    def state(self, y0: Any, name: str = "y0") -> Array:
        y = y0.clone()
        if not (y.is_floating_point() or y.is_complex()):
            y = y.to(self.xp.get_default_dtype())
        if str(y.dtype).removeprefix("torch.") not in _KINDS:
            msg = f"{name} has dtype {y.dtype}; it must be one of {', '.join(_KINDS)}"
            raise ValueError(msg)
        return y

    def empty(self, shape: tuple[int, ...], like: Array) -> Array:
        return self.xp.empty(shape, dtype=like.dtype, device=like.device)

    def full(self, shape: tuple[int, ...], value: float, like: Array) -> Array:
        return self.xp.full(shape, value, dtype=like.dtype, device=like.device)

    def mask(self, values: np.ndarray[Any, Any], like: Array) -> Array:
        return self.xp.from_numpy(values).to(like.device)

    def index(self, rows: np.ndarray[Any, Any], like: Array) -> Array:
        return self.xp.from_numpy(rows).to(like.device)

    def take(self, x: Array, rows: np.ndarray[Any, Any], axis: int) -> Array:
        if x.is_cpu and not x.requires_grad:  # NumPy takes a fifth of the time
            return self.xp.from_numpy(_as_numpy(x).take(rows, axis))
        return x.index_select(axis, self.index(rows, x))

    def overwrite(self, target: Array, values: Array, where: Array) -> None:
        self.xp.where(where, values, target, out=target)

    def scatter(self, target: Array, rows: Any, values: Array) -> Array:
        return target.index_copy_(0, self.index(rows, values), values)

    def rows_finite(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(self.xp.isfinite(x.detach()).all(1).cpu())

    def vector(self, values: Any, like: Array) -> Array:
        return self.xp.tensor(np.asarray(values), dtype=like.dtype, device=like.device)

    def real_like(self, values: Any, like: Array) -> Array:
        if like.is_cpu and like.dtype is self.xp.float64 and type(values) is np.ndarray:
            values = self.xp.from_numpy(values)  # at a third of the price
            return values if values.dtype is like.dtype else values.to(like.dtype)
        return self.xp.as_tensor(values, dtype=like.real.dtype, device=like.device)

    def host(self, x: Array) -> np.ndarray[Any, Any]:
        return to_numpy(x)

    def times(self, values: Any, like: Array) -> Array:
        # Apple's GPUs have no float64.
        dtype = self.xp.float32 if like.device.type == "mps" else self.xp.float64
        return self.xp.as_tensor(np.asarray(values, dtype=np.float64), dtype=dtype).to(like.device)

    def product(self, row: Array, k: Array, out: Array | None = None) -> Any:
        return partial(self.xp.mv, k.t(), row, out=out)

    def scaled(self, rows: Any, like: Array) -> tuple[Array, Callable[[float], None]]:
        source = self.vector(np.column_stack([np.ones(len(rows)), rows]), like)
        target, multiply = source.clone(), self.xp.multiply
        inner, given = target[:, 1:], source[:, 1:]

        def scale(h: float) -> None:
            multiply(given, h, out=inner)

        return target, scale

    def along_first(self, x: Array) -> Any:
        return x.unbind(0)

    def weighted_sum(self, terms: list[tuple[float, Array]]) -> Array:
        weight, x = terms[0]
        total, add = weight * x, self.xp.add
        for weight, x in terms[1:]:
            total = add(total, x, alpha=weight)  # one call, and nothing for autograd to keep
        return total

    def along(self, h: np.ndarray[Any, Any], y: Array) -> Array:
        return self.real_like(h[:, None], y)

    def move(self, y: Array, slope: Array, h: Array) -> Array:
        return self.xp.addcmul(y, slope, h)

    def row_rms(self, x: Array) -> np.ndarray[Any, Any]:
        norms = to_numpy(self.xp.linalg.vector_norm(x, dim=1))
        return norms / float(max(x.shape[1], 1) ** 0.5)

    def detach(self, x: Array) -> Array:
        return x.detach()

    def absolute(self, x: Array, out: Array | None = None) -> Array:
        return self.xp.abs(x.detach(), out=out)

    def writer(self, k: Array) -> Any:
        copy = k.copy_
        return lambda value: copy(_without_history(value))

    def bridge(self, y: Array, *, stay: bool = False) -> tuple[Backend, Way, Way]:
        if not stay and y.device.type == "cpu" and y.numel() < SMALL:
            return _NUMPY, _as_numpy, self.xp.from_numpy
        return self, _itself, _itself

    def time(self, t: float, like: Array) -> Any:
        """Return a 0-d tensor of the state's real dtype, on its device."""
        return self.xp.full((), t, dtype=like.real.dtype, device=like.device)

    def call(self, f: Any, shape: tuple[int, ...], like: Array) -> Any:
        full, dtype, real, device = self.xp.full, like.dtype, like.real.dtype, like.device
        flat = len(shape) == 1
        size = self.xp.Size(shape)

        def on_flat(t: float, y: Array) -> Array:
            time = full((), t, dtype=real, device=device)
            value = f(time, y if flat else y.view(shape))
            if value.shape != size or value.dtype != dtype:
                given = f"{value.dtype} of shape {tuple(value.shape)}"
                msg = f"f returned {given} at t = {t!r} for a state of {dtype} of shape {shape}"
                raise ValueError(msg)
            return value if flat else value.reshape(-1)

        return on_flat

    def slope(self, value: Any, y: Array, at: str = "(t0, y0)", name: str = "f") -> Array:
        if not is_torch(value):
            msg = f"{name}{at} returned {type(value).__name__} for a torch y0; it must be a tensor"
            raise ValueError(msg)
        if value.dtype != y.dtype or value.device != y.device:
            msg = (
                f"{name}{at} returned {value.dtype} on {value.device} for a y0 of {y.dtype} on "
                f"{y.device}; nothing is converted silently"
            )
            raise ValueError(msg)
        return value.clone()

    def array(self, value: Any) -> Array:
        return value if is_torch(value) else self.xp.as_tensor(value)

    def copy(self, x: Array) -> Array:
        return x.clone()

    def protect(self, x: Array) -> Array:
        return x

    def no_grad(self) -> AbstractContextManager[None]:
        return self.xp.no_grad()  # type: ignore[no-any-return]

    def waiting(self, like: Array) -> Callable[[], Any] | None:
        device = like.device
        synchronise = getattr(getattr(self.xp, device.type, None), "synchronize", None)
        if device.type == "cpu" or synchronise is None:
            return None
        return synchronise if device.index is None else lambda: synchronise(device)

    def differentiable_once(self, x: Array) -> Array:
        return _once().apply(x)

    def quiet(self) -> AbstractContextManager[None]:
        return nullcontext()

    def version(self, x: Array) -> Any:
        return None if x.is_inference() else x._version

    def counter(self, x: Array) -> Callable[[Array], int] | None:
        return None if x.is_inference() else attrgetter("_version")

    def keeping(self, f: Any) -> Any:
        def call(t: float, y: Array) -> Array:
            before = self.version(y)
            value = f(t, y)
            if self.version(y) != before:
                msg = f"f changes its argument y in place at t = {t!r}; it must leave y as it is"
                raise ValueError(msg)
            return value

        return call

    def square_sum(self, y: Array) -> Callable[[Array], float]:  # noqa: ARG002
        norm = self.xp.linalg.vector_norm
        return lambda x: float(norm(x.detach()).item()) ** 2

    def tiny(self, x: Array) -> float:
        return float(self.xp.finfo(x.dtype).tiny)

    def numpy(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(x.detach().cpu().resolve_conj())

    def grad_enabled(self) -> bool:
        return bool(self.xp.is_grad_enabled())

    def wants_grad(self, *arrays: Array) -> bool:
        return self.xp.is_grad_enabled() and any(a.requires_grad for a in arrays)


_NUMPY = Backend()


@cache
def _torch() -> _Torch:
    return _Torch()


def _backend_named(name: str) -> Backend:
    """Return the one backend of that class: modules cannot be pickled, and need not be."""
    return _NUMPY if name == "Backend" else _torch()


def backend_of(y: object) -> Backend:
    """Return the backend that handles `y`: torch for tensors, NumPy for everything else."""
    return _torch() if is_torch(y) else _NUMPY
