"""Products with the Jacobian of a right-hand side, without the matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._array import Array, backend_of, is_torch
from .problem import bind, check_callable, first_bad

__all__ = [
    "JacobianOperator",
    "dense_jacobian",
    "increment",
    "row_norm",
    "slope",
    "slope_at",
    "time_like",
    "unchanged",
]

_METHODS = ("auto", "jvp", "torch", "difference", "central", "complex-step")


class JacobianOperator:
    """v ↦ J v with J = ∂f/∂y at (t, y).

    Parameters
    ----------
    f : callable
        Right-hand side ``f(t, y, *args)``, as for `stiffkit.solve`.
    t : float or array
        Time; shape (B,) is allowed with `batched`. For a torch state f gets a tensor.
    y : array
        State, NumPy or torch, any shape.
    args : sequence
        Further arguments of f.
    jvp : callable, optional
        ``jvp(t, y, v, *args)``, the product itself.
    method : {"auto", "jvp", "torch", "difference", "central", "complex-step"}
        How products are made. ``torch`` is forward-mode differentiation, exact. ``difference``
        is ``(f(y + εv) − f(y)) / ε`` with ``ε‖v‖ = √u ‖y‖`` (√u for y = 0): one call of f, relative
        error of the order √u. ``central`` takes two calls, has error u^(2/3), and is exact up to
        rounding where f is quadratic. ``complex-step`` is ``Im f(y + iεv) / ε``: one call, exact to
        rounding, for NumPy functions that are real-analytic in y: what is not (``abs``, a cast to
        float, ``np.maximum``) gives a wrong product without notice. ``auto`` takes `jvp` if
        given, ``torch`` for tensors and ``difference`` for NumPy.
    batched : bool
        The first axis counts independent samples, and increments are chosen for each.
    f_0 : array, optional
        f(t, y) if it is known already: saves a call of ``difference``.

    Attributes
    ----------
    nfev : int
        Calls of f so far (a call of `jvp`, or of torch's, counts as one).
    products : int
        Products so far.

    Raises
    ------
    TypeError
        If f or `jvp` is not callable.
    ValueError
        If y is not finite, `method` is unknown or does not fit the arguments, `f_0`, a direction
        or what f returns does not fit y, or f or `jvp` changes an argument in place.
    """

    def __init__(
        self,
        f: Callable[..., Array],
        t: Any,
        y: Array,
        *,
        args: Sequence[Any] = (),
        jvp: Callable[[Any, Array, Array], Array] | None = None,
        method: str = "auto",
        batched: bool = False,
        f_0: Array | None = None,
    ) -> None:
        self.backend = backend_of(y)
        self.y = self.backend.protect(self.backend.state(y, "y"))
        check_callable("f", f)
        if jvp is not None:
            check_callable("jvp", jvp)
            jvp = bind(jvp, args)
        if not bool(self.backend.xp.isfinite(self.y).all()):
            msg = f"y is not finite at component {first_bad(self.y, self.backend)}"
            raise ValueError(msg)
        self.f, self.t, self.jvp = bind(f, args), time_like(t, self.y), jvp
        self.batched = batched
        if method == "auto":
            method = "jvp" if jvp is not None else "torch" if is_torch(y) else "difference"
        self._check(method)
        self.method = method
        self.nfev = self.products = 0
        self._f_0 = None if f_0 is None else slope("f_0", f_0, self.y)
        self._unit = self._increment(method)

    def _check(self, method: str) -> None:
        if method not in _METHODS:
            msg = f"method={method!r} is not one of {', '.join(_METHODS)}"
        elif method == "jvp" and self.jvp is None:
            msg = "method='jvp' needs the argument jvp"
        elif method == "torch" and not is_torch(self.y):
            msg = "method='torch' needs a torch state"
        elif method == "complex-step" and (is_torch(self.y) or self.y.dtype.kind == "c"):
            msg = "method='complex-step' needs a real NumPy state"
        elif self.batched and self.y.ndim == 0:
            msg = "batched=True needs a state with a first axis"
        else:
            return
        raise ValueError(msg)

    @property
    def n(self) -> int:
        """Size of one sample's state."""
        sizes = self.y.shape[1:] if self.batched else self.y.shape
        return math.prod(sizes)

    def _increment(self, method: str) -> Any:
        """‖εv‖ of the difference quotients, shaped to broadcast against one row per sample."""
        eps = float(self.backend.xp.finfo(self.y.dtype).eps)
        # A complex step has no cancellation to fear: it need only be small.
        relative = {"central": eps ** (1 / 3), "complex-step": eps**2}.get(method, eps**0.5)
        return increment(self.rows(self.y), relative)

    def rows(self, x: Array) -> Array:
        """One flat row per sample."""
        return x.reshape((len(x), -1)) if self.batched else x.reshape((1, -1))

    @property
    def f_0(self) -> Array:
        """f(t, y); called once, and only where it is needed."""
        if self._f_0 is None:
            self._f_0 = self._call(self.y)
        return self._f_0

    def _call(self, y: Array) -> Array:
        self.nfev += 1
        return slope_at(self.f, self.t, y)

    def __call__(self, v: Array) -> Array:
        """Return J v; `v` has the state's shape, or is flat (of one sample, or a row for each)."""
        if is_torch(v) != is_torch(self.y):
            msg = f"v must be of y's kind, {type(self.y).__name__}, not {type(v).__name__}"
            raise TypeError(msg)
        v = v if is_torch(v) else np.asarray(v)
        if math.prod(v.shape) != math.prod(self.y.shape):
            msg = f"v has shape {tuple(v.shape)}, which does not fit y's {tuple(self.y.shape)}"
            raise ValueError(msg)
        self.products += 1
        shaped = v.reshape(self.y.shape)
        if self.method == "jvp" and self.jvp is not None:
            self.nfev += 1
            product = unchanged("jvp", self.jvp, self.t, self.y, shaped)
            return slope("jvp(t, y, v)", product, self.y).reshape(v.shape)
        if self.method == "torch":
            return self._torch_product(shaped).reshape(v.shape)
        rows, xp = self.rows(shaped), self.backend.xp
        norm = row_norm(rows, xp)
        direction = rows / xp.where(norm > 0, norm, xp.ones_like(norm))
        step = (self._unit * direction).reshape(self.y.shape)
        quotient = self.rows(self._difference(step)) / self._unit
        return (quotient * norm).reshape(v.shape)

    def _torch_product(self, v: Array) -> Array:
        import torch

        def f(y: Array) -> Array:
            value = unchanged("f", self.f, self.t, y)
            # Of a number times a 0-d tensor torch makes float64: that dtype is let pass.
            return slope("f(t, y)", value.to(y.dtype) if is_torch(value) else value, y)

        self.nfev += 1
        return torch.func.jvp(f, (self.y,), (v,))[1].to(v.dtype)

    def _difference(self, step: Array) -> Array:
        if self.method == "complex-step":
            return self._call(self.y + 1j * step).imag
        if self.method == "central":
            return 0.5 * (self._call(self.y + step) - self._call(self.y - step))
        return self._call(self.y + step) - self.f_0


def dense_jacobian(operator: JacobianOperator) -> np.ndarray[Any, Any]:
    """Return the matrix itself, by n products; shape (n, n), or (B, n, n) if batched.

    Parameters
    ----------
    operator : JacobianOperator
        Of a state of moderate size: the cost is n products.

    Returns
    -------
    ndarray
        A NumPy array, float64 or complex128.
    """
    y, n = operator.y, operator.n
    xp = operator.backend.xp
    rows = operator.rows(y)
    columns = []
    for j in range(n):
        unit = xp.zeros_like(rows)
        unit[:, j] = 1.0
        columns.append(operator.backend.numpy(operator(unit)))
    matrix = np.stack(columns, axis=-1) if columns else np.zeros((len(rows), 0, 0))
    matrix = matrix.astype(np.result_type(matrix.dtype, np.float64))
    return matrix if operator.batched else matrix[0]


def unchanged(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that must leave its arguments as they are; NumPy's may be read-only.

    Raises
    ------
    ValueError
        If it changes a tensor in place; the message calls it `name`.
    """
    before = [backend_of(x).version(x) for x in arguments]
    value = function(*arguments)
    if any(backend_of(x).version(x) != b for x, b in zip(arguments, before, strict=True)):
        msg = f"{name} changes its argument in place; it must leave it as it is"
        raise ValueError(msg)
    return value


def slope_at(f: Callable[[Any, Array], Any], t: Any, y: Array) -> Array:
    """Return f(t, y), checked, as an array of its own."""
    return slope("f(t, y)", unchanged("f", f, t, y), y)


def slope(name: str, value: Any, y: Array) -> Array:
    """Return f's value as an array of its own, like y: f may use one and the same buffer.

    Raises
    ------
    ValueError
        If it does not fit y; the message calls it `name`.
    """
    try:
        result = backend_of(y).slope(value, y)
    except ValueError as error:
        msg = f"{name} does not fit y: {error}"
        raise ValueError(msg) from error
    if tuple(result.shape) != tuple(y.shape):
        msg = f"{name} has shape {tuple(result.shape)}, but y has shape {tuple(y.shape)}"
        raise ValueError(msg)
    return result


def time_like(t: Any, y: Array) -> Any:
    """Return the time as `solve` gives it to f: a tensor beside a tensor state."""
    return backend_of(y).real_like(t, y) if is_torch(y) and not is_torch(t) else t


def increment(y: Array, relative: float) -> Array:
    """`relative` times each row's norm, shape (B, 1); `relative` itself where that underflows."""
    backend = backend_of(y)
    size = relative * row_norm(y, backend.xp)
    return backend.xp.where(size > backend.tiny(y), size, relative * backend.xp.ones_like(size))


def row_norm(x: Array, xp: Any) -> Array:
    """Euclidean norms of rows, shape (B, 1); no overflow or underflow in the squares."""
    size = xp.abs(x)
    top = xp.amax(size, axis=-1, keepdims=True) if x.shape[-1] else size.sum(-1, keepdims=True)
    scale = xp.where(top > 0, top, xp.ones_like(top))
    return top * xp.sqrt(((size / scale) ** 2).sum(axis=-1, keepdims=True))
