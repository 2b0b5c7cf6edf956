"""Where a step's error lies beside the dominant eigenvector, and how near its limit the step is.

Products with the Jacobian at the step's end, (t + h, y_new), give its eigenvalue of largest
modulus. They cost calls of f, which the solve's statistics do not count: these are measurements.
Hooks that are given the same `DominantEigenpair` share one estimate per step. What cannot be told
is None, and NaN for one sample of several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._array import Array, backend_of
from ..solvers.batch_step import BatchStep
from ..solvers.jacobian import JacobianOperator
from ..solvers.problem import bind, check_callable, check_positive
from ..solvers.step import Probe, Step
from .indicators import as_damped, stability_ratio
from .krylov import arnoldi
from .spectrum import NotFiniteError

__all__ = ["Alignment", "DominantEigenpair", "SpectralRadius", "StabilityRatio"]

NumpyArray = npt.NDArray[Any]


class DominantEigenpair:
    """The eigenvalue of largest modulus of ∂f/∂y at a step's end, and its vector, by Arnoldi.

    Parameters
    ----------
    f : callable
        Right-hand side ``f(t, y, *args)``, the one that is solved; of the flat state, which is what
        hooks see, where the state is a structure.
    products : int
        Jacobian products per step, at least 1.
    batched : bool
        The first axis of the state counts samples. In a batched solve, f is then the solve's own,
        called with the times and states of the samples that accept a step; without `batched` it is
        the f of one sample, called for one after the other.
    args : sequence
        Further arguments of f. In a batched solve arrays of length B are cut to the samples that f
        is called with: what belongs to samples cannot be in f itself.

    Raises
    ------
    TypeError, ValueError
        If f is not callable, `args` no sequence, or `products` no positive integer.

    References
    ----------
    Saad (2011), section 6.2, doi:10.1137/1.9781611970739.
    """

    def __init__(
        self,
        f: Callable[..., Array],
        *,
        products: int = 20,
        batched: bool = False,
        args: Sequence[Any] = (),
    ) -> None:
        check_callable("f", f)
        bind(f, args)
        self.products = check_positive("products", products, whole=True)
        self.f, self.batched, self.args = f, batched, args
        self._step: Step | None = None
        self._pair: tuple[NumpyArray, NumpyArray] | None = None

    def __call__(self, step: Step) -> tuple[NumpyArray, NumpyArray] | None:
        """Return values (B,) and vectors (B, n), B = 1 unless batched; None if not finite.

        In a batched solve NaN stands for the samples where the Jacobian is not finite.
        """
        if step is not self._step:
            pair = self._estimate(step)
            if pair is None and isinstance(step, BatchStep):
                pair = self._one_by_one(step)
            self._step, self._pair = step, pair
        return self._pair

    def _estimate(self, step: Step) -> tuple[NumpyArray, NumpyArray] | None:
        y, backend = step.y_new, backend_of(step.y_new)
        if not np.isfinite(backend.numpy(y)).all():
            return None
        args = step.cut(self.args) if isinstance(step, BatchStep) else self.args
        operator = JacobianOperator(self.f, step.t + step.h, y, args=args, batched=self.batched)
        if not np.isfinite(backend.numpy(operator.f_0)).all():
            return None
        # One start for all: what a sample reads does not depend on who stands beside it.
        rows = operator.rows(y)
        start = np.tile(np.random.default_rng(0).standard_normal(operator.n), (len(rows), 1))
        start = backend.vector(start, rows)
        try:
            found = arnoldi(operator, start, k=self.products, batched=True)
        except NotFiniteError:
            return None
        return found.values[:, 0], found.vectors[:, :, 0]

    def _one_by_one(self, step: BatchStep) -> tuple[NumpyArray, NumpyArray] | None:
        """Return the same, where the Jacobian of some samples is not finite."""
        count = len(step.samples)
        found = [self._estimate(step.take(np.array([i]))) for i in range(count)] * (count > 1)
        known = [i for i, pair in enumerate(found) if pair is not None]
        if not known:
            return None
        n = step.y_new.reshape((count, -1)).shape[1]
        values, vectors = np.full(count, np.nan + 0j), np.full((count, n), np.nan + 0j)
        for i, pair in enumerate(found):
            if pair is not None:
                values[i], vectors[i] = pair[0][0], pair[1][0]
        return values, vectors

    def rows(self, x: Array) -> NumpyArray:
        """One flat NumPy row per sample."""
        values = backend_of(x).numpy(x)
        return values.reshape((len(values) if self.batched else 1, -1))

    def reading(self, values: NumpyArray) -> Any:
        """Return a float, or one entry per sample; None where all are NaN."""
        if np.isnan(values).all():
            return None
        return values if self.batched else float(values[0])


def _check_eigen(eigen: Any) -> None:
    if not isinstance(eigen, DominantEigenpair):
        msg = f"eigen must be a DominantEigenpair(f, ...), not {eigen!r}"
        raise TypeError(msg)


@dataclass(frozen=True)
class Alignment:
    """``|cos|`` of the angle between a step's error estimate and the dominant eigenvector.

    For a complex pair of a real problem: the angle with the plane that the pair spans, which a
    random direction meets more often than a line. Where two moduli are nearly equal the vector, and
    so the reading, is arbitrary. None for a method without an estimate, and where error or Jacobian
    is zero.
    """

    eigen: DominantEigenpair
    name: str = "alignment"

    def __post_init__(self) -> None:
        """Refuse what is no `DominantEigenpair`."""
        _check_eigen(self.eigen)

    @property
    def whole_batch(self) -> bool:
        """Whether it reads all samples of a batch at once."""
        return self.eigen.batched

    def __call__(self, step: Step, probe: Probe | None) -> Any:  # noqa: ARG002
        """Return the reading, or None."""
        if step.err is None:
            return None
        pair = self.eigen(step)
        if pair is None:
            return None
        values, vectors = pair
        errors = self.eigen.rows(step.err)
        cosines = [_cosine(*row) for row in zip(errors, values, vectors, strict=True)]
        return self.eigen.reading(np.array(cosines))


def _cosine(error: NumpyArray, value: complex, vector: NumpyArray) -> float:
    """``|cos|`` between an error and a vector, or the plane of a complex pair; NaN for none."""
    size = np.abs(error).max(initial=0.0)
    if not (np.isfinite(size) and size > 0 and np.isfinite(value) and value != 0):
        return math.nan
    unit = error / size
    unit = unit / np.linalg.norm(unit)
    if unit.dtype.kind == "c":
        basis = vector[:, None]
    elif value.imag == 0:
        basis = vector.real[:, None]
    else:
        basis = np.stack([vector.real, vector.imag], axis=1)
    q, _ = np.linalg.qr(basis)
    return min(float(np.linalg.norm(q.conj().T @ unit)), 1.0)


@dataclass(frozen=True)
class SpectralRadius:
    """ρ = ``|λ₁|`` of the Jacobian at the step's end, from products; None where f is not finite."""

    eigen: DominantEigenpair
    name: str = "spectral_radius"

    def __post_init__(self) -> None:
        """Refuse what is no `DominantEigenpair`."""
        _check_eigen(self.eigen)

    @property
    def whole_batch(self) -> bool:
        """Whether it reads all samples of a batch at once."""
        return self.eigen.batched

    def __call__(self, step: Step, probe: Probe | None) -> Any:  # noqa: ARG002
        """Return the reading, or None."""
        pair = self.eigen(step)
        return None if pair is None else self.eigen.reading(np.abs(pair[0]))


@dataclass(frozen=True)
class StabilityRatio:
    """``|h λ₁|`` over the method's stability limit in its direction; inf for a growing mode.

    A mode whose real part is less than a thousandth of its modulus counts as damped by so much.
    None for methods that are no explicit tableaus: they have no limit, or choose it in each step.
    """

    eigen: DominantEigenpair
    name: str = "stability_ratio"

    def __post_init__(self) -> None:
        """Refuse what is no `DominantEigenpair`."""
        _check_eigen(self.eigen)

    @property
    def whole_batch(self) -> bool:
        """Whether it reads all samples of a batch at once."""
        return self.eigen.batched

    def __call__(self, step: Step, probe: Probe | None) -> Any:  # noqa: ARG002
        """Return the reading, or None."""
        pair = self.eigen(step) if step.explicit else None
        if pair is None:
            return None
        h = np.broadcast_to(np.ravel(backend_of(step.h).numpy(step.h)), pair[0].shape)
        ratios = [
            stability_ratio(1.0, as_damped(complex(h_b * value)), step.tableau)
            if np.isfinite(value)
            else math.nan
            for h_b, value in zip(h, pair[0], strict=True)
        ]
        return self.eigen.reading(np.array(ratios))
