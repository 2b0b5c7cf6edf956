"""Jacobians for implicit steps: given, by torch, by products, or by differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, final

import numpy as np
import scipy.sparse as sps

from .._array import Array, backend_of, is_torch
from .colouring import banded, coloured, full
from .differences import Differences
from .jacobian import JacobianOperator
from .linalg import Banded

__all__ = ["JacobianSource", "check_jacobian", "is_finite", "make_jacobian"]

RHS = Callable[[Any, Array], Array]


class JacobianSource(Protocol):
    """(t, y, f(t, y)) ↦ J, counting what it costs."""

    nfev: int
    """Calls of f (or of a given jvp) so far; torch's batched products count as one."""
    njev: int
    """Jacobians so far."""
    constant: bool
    """Whether J is the same everywhere."""

    def __call__(self, t: float, y: Array, f_y: Array, /) -> Any:
        """Return J at (t, y): an array, CSC array, `Banded`, or JacobianOperator."""


def make_jacobian(
    f: RHS,
    y0: Array,
    *,
    jac: Any = None,
    jvp: Callable[[Any, Array, Array], Array] | None = None,
    jac_sparsity: Any = None,
    bandwidth: tuple[int, int] | None = None,
    matrix_free: bool = False,
    scale: Any = 0.0,
    batched: bool = False,
) -> JacobianSource:
    """Return the source of Jacobians ∂f/∂y that the arguments describe.

    Parameters
    ----------
    f : callable
        Right-hand side ``f(t, y)``, on states like `y0`.
    y0 : array, shape (n,), or (B, n) if `batched`
        A state, for its size and dtype: NumPy or torch.
    jac : callable or matrix, optional
        ``jac(t, y)``, or the constant matrix: shape (n, n), dense or sparse; with `bandwidth`, its
        diagonals, shape (ml + mu + 1, n), entry (i, j) in row mu + i − j of column j; if `batched`,
        a tensor of shape (B, n, n).
    jvp : callable, optional
        The product ``jvp(t, y, v)``, for a matrix-free Jacobian.
    jac_sparsity : array_like or sparse matrix, shape (n, n), optional
        Nonzero where the Jacobian may be: differences then take one call for each of as few groups
        of columns as share no row, and the Jacobian is sparse. For NumPy states.
    bandwidth : (ml, mu), optional
        Diagonals below and above the main one that the Jacobian may have: differences take
        ml + mu + 1 calls, and the Jacobian is `Banded`. For NumPy states.
    matrix_free : bool
        Products by differences, or torch's, where no `jvp` is given.
    scale : float or array, shape (n,)
        Sizes below which components are as good as zero, for differences; see `Differences`.
    batched : bool
        The first axis counts independent samples; torch only.

    Returns
    -------
    JacobianSource
        Without any of `jac`, `jvp`, `jac_sparsity`, `bandwidth`, `matrix_free`: forward-mode
        differentiation of a torch f, and dense differences for NumPy.

    Raises
    ------
    ValueError
        If arguments have wrong shapes, are out of range or contradict each other. The source
        raises it if a given Jacobian has a wrong shape, or the first one is not finite.
    """
    _check_state(y0, batched=batched)
    _check_choice(y0, jac, jvp, jac_sparsity, bandwidth, matrix_free=matrix_free)
    n = int(y0.shape[-1])
    band = None if bandwidth is None else _check_bandwidth(bandwidth, n)
    if jac is not None:
        return _Given(jac, band) if callable(jac) else _Constant(jac, y0, band)
    if jvp is not None or matrix_free:
        if batched:
            msg = "batched=True takes matrices; jvp and matrix_free are for one state"
            raise ValueError(msg)
        return _Products(f, jvp)
    if is_torch(y0):
        return _Forward(f)
    if jac_sparsity is not None:
        pattern = coloured(_check_sparsity(jac_sparsity, n))
    else:
        pattern = full(n) if band is None else banded(n, *band)
    return Differences(f, pattern, scale=_check_scale(scale, y0))


def check_jacobian(
    y0: Array,
    *,
    jac: Any = None,
    jvp: Any = None,
    jac_sparsity: Any = None,
    bandwidth: Any = None,
) -> None:
    """Check what can be known of these arguments of `make_jacobian` before a Jacobian is needed.

    Raises
    ------
    ValueError
        If they have wrong shapes, are out of range or contradict each other.
    """
    _check_choice(y0, jac, jvp, jac_sparsity, bandwidth, matrix_free=False)
    n = int(y0.shape[-1])
    band = None if bandwidth is None else _check_bandwidth(bandwidth, n)
    if jac_sparsity is not None:
        _check_sparsity(jac_sparsity, n)
    if jac is not None and not callable(jac):
        _Constant(jac, y0, band)


def _check_state(y0: Array, *, batched: bool) -> None:
    if y0.ndim != 1 + batched:
        expected = "(B, n)" if batched else "(n,)"
        msg = f"y0 has shape {tuple(y0.shape)}; with batched={batched} it must be {expected}"
        raise ValueError(msg)
    if batched and not is_torch(y0):
        msg = "batched=True is for torch states"
        raise ValueError(msg)


def _check_choice(
    y0: Array, jac: Any, jvp: Any, jac_sparsity: Any, bandwidth: Any, *, matrix_free: bool
) -> None:
    given = {"jac": jac, "jvp": jvp, "jac_sparsity": jac_sparsity, "bandwidth": bandwidth}
    names = [name for name, value in given.items() if value is not None]
    names += ["matrix_free"] if matrix_free else []
    if len(names) > 1 and set(names) not in ({"jac", "bandwidth"}, {"jvp", "matrix_free"}):
        msg = f"give one of {' and '.join(names)}: each of them says how the Jacobian is made"
        raise ValueError(msg)
    if is_torch(y0) and set(names) & {"jac_sparsity", "bandwidth"}:
        msg = f"{names[-1]} is for NumPy states; torch's Jacobians are dense"
        raise ValueError(msg)


def _check_bandwidth(bandwidth: Any, n: int) -> tuple[int, int]:
    try:
        ml, mu = (int(width) for width in bandwidth)
        good = (ml, mu) == tuple(bandwidth) and 0 <= ml < n and 0 <= mu < n
    except (TypeError, ValueError):
        good = False
    if not good:
        msg = f"bandwidth must be two integers (ml, mu) from 0 to {n - 1}, not {bandwidth!r}"
        raise ValueError(msg)
    return ml, mu


def _check_sparsity(jac_sparsity: Any, n: int) -> Any:
    pattern = (
        sps.csc_array(jac_sparsity) if sps.issparse(jac_sparsity) else np.asarray(jac_sparsity)
    )
    if pattern.shape != (n, n):
        msg = f"jac_sparsity has shape {pattern.shape}; for {n} components it must be ({n}, {n})"
        raise ValueError(msg)
    return pattern


def _check_scale(scale: Any, y0: Array) -> Any:
    sizes = np.asarray(scale)
    fits = sizes.shape in ((), y0.shape) and sizes.dtype.kind in "iuf"
    if not (fits and np.isfinite(sizes).all() and (sizes >= 0).all()):
        msg = f"scale must be a number or an array of {len(y0)}, zero or positive, not {scale!r}"
        raise ValueError(msg)
    return sizes.astype(y0.real.dtype)


def _like_state(value: Any, y: Array, band: tuple[int, int] | None) -> Any:
    """Return a given Jacobian as a copy in the state's dtype, and of its kind."""
    n = int(y.shape[-1])
    if is_torch(y):
        if not is_torch(value) or value.shape != (*y.shape, n):
            given = f"shape {tuple(value.shape)}" if is_torch(value) else type(value).__name__
            msg = f"jac must be a tensor of shape {(*y.shape, n)} for this y, not {given}"
            raise ValueError(msg)
        return value.to(y.dtype, copy=True)
    if sps.issparse(value) and band is None:
        J = sps.csc_array(value)
    else:
        try:
            J = np.asarray(value.toarray() if sps.issparse(value) else value)
        except ValueError as error:
            msg = f"jac is not a matrix: {error}"
            raise ValueError(msg) from error
        J = J.reshape(1, 1) if J.size == n == 1 else J
    shape = (n, n) if band is None else (sum(band) + 1, n)
    if J.shape != shape:
        of = "" if band is None else f" with bandwidth={band}"
        msg = f"jac has shape {J.shape}; for {n} components{of} it must be {shape}"
        raise ValueError(msg)
    if J.dtype.kind not in ("iubfc" if y.dtype.kind == "c" else "iubf"):
        msg = f"jac has dtype {J.dtype}, which does not fit a state of {y.dtype}"
        raise ValueError(msg)
    J = J.astype(y.dtype)  # a copy: jac may return one and the same buffer each time
    return J if band is None else Banded(J, *band)


def is_finite(J: Any) -> bool:
    """Whether all entries of a matrix are finite."""
    entries = J.toarray() if isinstance(J, Banded) else J.data if sps.issparse(J) else J
    return bool(backend_of(entries).xp.isfinite(entries).all())


def _check_finite(J: Any) -> None:
    if not is_finite(J):
        msg = "jac is not finite at the start"
        raise ValueError(msg)


@final
class _Given:
    """The user's jac(t, y)."""

    constant, nfev = False, 0

    def __init__(self, jac: Any, band: tuple[int, int] | None) -> None:
        self.jac, self.band, self.njev = jac, band, 0

    def __call__(self, t: float, y: Array, f_y: Array, /) -> Any:  # noqa: ARG002
        time = backend_of(y).time(t, y)
        J = _like_state(self.jac(time, y), y, self.band)
        if self.njev == 0:
            _check_finite(J)
        self.njev += 1
        return J


@final
class _Constant:
    """One matrix for all times and states."""

    constant, nfev = True, 0

    def __init__(self, jac: Any, y0: Array, band: tuple[int, int] | None) -> None:
        self.J, self.njev = _like_state(jac, y0, band), 0
        _check_finite(self.J)

    def __call__(self, t: float, y: Array, f_y: Array, /) -> Any:  # noqa: ARG002
        return self.J


@final
class _Products:
    """A JacobianOperator; the calls that its products make are counted as they happen."""

    constant = False

    def __init__(self, f: RHS, jvp: Any) -> None:
        self.nfev = self.njev = 0
        self.f = self._counted(f)
        self.jvp = None if jvp is None else self._counted(jvp)

    def _counted(self, function: Any) -> Any:
        def call(*args: Any) -> Any:
            self.nfev += 1
            return function(*args)

        return call

    def __call__(self, t: float, y: Array, f_y: Array, /) -> JacobianOperator:
        self.njev += 1
        return JacobianOperator(self.f, t, y, jvp=self.jvp, f_0=f_y)


@final
class _Forward:
    """torch's forward mode: all columns at once, of all samples at once.

    A direction e_j for every sample of a batch gives column j of every sample's Jacobian, since
    samples are independent. f is called with the batch that it is made for.
    """

    constant = False

    def __init__(self, f: RHS) -> None:
        self.f, self.nfev, self.njev = f, 0, 0

    def __call__(self, t: float, y: Array, f_y: Array, /) -> Array:  # noqa: ARG002
        import torch

        def column(e: Array) -> Array:
            return torch.func.jvp(lambda x: self.f(t, x), (y,), (e.expand_as(y),))[1]

        self.nfev += 1
        self.njev += 1
        units = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
        columns = torch.func.vmap(column)(units)
        return columns.movedim(0, -1).to(y.dtype)  # times a 0-d tensor, torch makes float64
