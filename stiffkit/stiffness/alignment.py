"""Where a step's error lies beside the dominant eigenvector, and how near its limit the step is.

Products with the Jacobian at the step's end, (t + h, y_new), give its eigenvalue of largest
modulus. They cost calls of f, which the solve's statistics do not count: these are measurements.
Hooks that are given the same `DominantEigenpair` share one estimate per step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._array import Array, backend_of
from ..solvers.jacobian import JacobianOperator
from ..solvers.problem import check_positive
from ..solvers.step import Probe, Step
from .indicators import stability_ratio
from .krylov import arnoldi
from .spectrum import NotFiniteError

__all__ = ["Alignment", "DominantEigenpair", "SpectralRadius", "StabilityRatio"]

NumpyArray = npt.NDArray[Any]


class DominantEigenpair:
    """The eigenvalue of largest modulus of ∂f/∂y at a step's end, and its vector, by Arnoldi.

    Parameters
    ----------
    f : callable
        Right-hand side ``f(t, y)``, the one that is solved.
    products : int
        Jacobian products per step, at least 1.
    batched : bool
        The first axis of the state counts samples.

    Raises
    ------
    ValueError
        If `products` is no positive integer.

    References
    ----------
    Saad (2011), section 6.2, doi:10.1137/1.9781611970739.
    """

    def __init__(
        self, f: Callable[[Any, Array], Array], *, products: int = 20, batched: bool = False
    ) -> None:
        self.products = check_positive("products", products, whole=True)
        self.f, self.batched = f, batched
        self._step: Step | None = None
        self._pair: tuple[NumpyArray, NumpyArray] | None = None

    def __call__(self, step: Step) -> tuple[NumpyArray, NumpyArray] | None:
        """Return values (B,) and vectors (B, n), B = 1 unless batched; None if not finite."""
        if step is not self._step:
            self._step, self._pair = step, self._estimate(step)
        return self._pair

    def _estimate(self, step: Step) -> tuple[NumpyArray, NumpyArray] | None:
        y = step.y_new
        if not np.isfinite(backend_of(y).numpy(y)).all():
            return None
        operator = JacobianOperator(self.f, step.t + step.h, y, batched=self.batched)
        if not np.isfinite(backend_of(y).numpy(operator.f_0)).all():
            return None
        try:
            found = arnoldi(operator, operator.n, k=self.products, batched=self.batched)
        except NotFiniteError:
            return None
        if self.batched:
            return found.values[:, 0], found.vectors[:, :, 0]
        return found.values[:1], found.vectors[:, 0][None]

    def rows(self, x: Array) -> NumpyArray:
        """One flat NumPy row per sample."""
        values = backend_of(x).numpy(x)
        return values.reshape((len(values) if self.batched else 1, -1))

    def reading(self, values: NumpyArray) -> Any:
        """Return a float, or one entry per sample."""
        return values if self.batched else float(values[0])


@dataclass(frozen=True)
class Alignment:
    """``|cos|`` of the angle between a step's error estimate and the dominant eigenvector.

    For a complex pair of a real problem: the angle with the plane that the pair spans, which a
    random direction meets more often than a line. Where two moduli are nearly equal the vector, and
    so the reading, is arbitrary. None for a method without an estimate, and where error or Jacobian
    is zero; a single such sample of a batch reads 0.
    """

    eigen: DominantEigenpair
    name: str = "alignment"

    def __call__(self, step: Step, probe: Probe | None) -> Any:  # noqa: ARG002
        """Return the reading, or None."""
        if step.err is None:
            return None
        pair = self.eigen(step)
        if pair is None:
            return None
        values, vectors = pair
        errors = self.eigen.rows(step.err)
        cosines = np.array([_cosine(*row) for row in zip(errors, values, vectors, strict=True)])
        # The least cosine that is computed is 0, so that -1 can stand for "none".
        return self.eigen.reading(np.maximum(cosines, 0.0)) if (cosines >= 0).any() else None


def _cosine(error: NumpyArray, value: complex, vector: NumpyArray) -> float:
    """``|cos|`` between an error and a vector, or the plane of a complex pair; -1 if undefined."""
    size = np.abs(error).max(initial=0.0)
    if not (np.isfinite(size) and size > 0 and value != 0):
        return -1.0
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

    def __call__(self, step: Step, probe: Probe | None) -> Any:  # noqa: ARG002
        """Return the reading, or None."""
        pair = self.eigen(step)
        return None if pair is None else self.eigen.reading(np.abs(pair[0]))


@dataclass(frozen=True)
class StabilityRatio:
    """``|h λ₁|`` over the method's stability limit in its direction; inf for a growing mode."""

    eigen: DominantEigenpair
    name: str = "stability_ratio"

    def __call__(self, step: Step, probe: Probe | None) -> Any:  # noqa: ARG002
        """Return the reading, or None."""
        pair = self.eigen(step)
        if pair is None:
            return None
        h = np.broadcast_to(np.ravel(backend_of(step.h).numpy(step.h)), pair[0].shape)
        ratios = [
            stability_ratio(float(h_b), complex(value), step.tableau)
            for h_b, value in zip(h, pair[0], strict=True)
        ]
        return self.eigen.reading(np.array(ratios))
