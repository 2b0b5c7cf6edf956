"""Free estimates: what an embedded pair, already paid for, says of the Jacobian.

A step leaves two states at one and the same time: y_new, and the state z of the last stage at
c = 1 (`Step.probe`). With Δy = y_new − z and Δf = f(y_new) − f(z), Δf = J̄ Δy exactly, J̄ the mean
Jacobian between the two. No call of f is added. Where a tableau has no such stage the estimators
say None: they never mix times, since a difference over time measures ∂f/∂t as well.

All are step hooks for ``solve(..., observe=...)``. With ``solve(..., batched=True)`` every sample
has readings of its own, made for all at once. Otherwise the first axis of a state counts samples if
`batched` is set, and readings have one entry for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from .._array import Array, backend_of
from ..solvers.jacobian import row_norm
from ..solvers.step import Probe, Step

__all__ = ["NormRatio", "PathSecant", "RayleighQuotient", "Secant", "StageRatio", "secant_at_start"]


class Secant(NamedTuple):
    """Two differences over the same pair of points."""

    dy: Array
    df: Array


def secant_at_start(step: Step, probe: Probe | None) -> Secant | None:
    """Return the secant between the step's start (y, k_1) and the previous step's probe."""
    return None if probe is None else Secant(step.y - probe.z, step.k[0] - probe.f)


def _secant_at_end(step: Step) -> Secant | None:
    """Return the secant between (y_new, f_new) and this step's probe, if f_new is known (FSAL)."""
    probe = step.probe
    if probe is None or step.f_new is None:
        return None
    return Secant(step.y_new - probe.z, step.f_new - probe.f)


@dataclass(frozen=True)
class NormRatio:
    """ρ̂ = ‖Δf‖ / ‖Δy‖ at the step's start: ERK-Guid's estimate of the spectral radius.

    At most ‖J̄‖, and so at most the spectral radius of a normal Jacobian; it is the radius itself
    only as far as Δy lies along the dominant eigenvector. 0 where Δy = 0.
    """

    batched: bool = False
    name: str = "rho"
    whole_batch: ClassVar[bool] = True

    def __call__(self, step: Step, probe: Probe | None) -> Any:
        """Return the reading, or None without a probe."""
        pair = secant_at_start(step, probe)
        return None if pair is None else norm_ratio(pair, batched=self.batched or step.batched)


@dataclass(frozen=True)
class RayleighQuotient:
    """λ̂ = ⟨Δy, Δf⟩ / ⟨Δy, Δy⟩ at the step's start: signed, real part only for complex states.

    A weighted mean of the eigenvalues for a symmetric Jacobian. The norm ratio loses the sign:
    for a growing mode this one is positive. 0 where Δy = 0.
    """

    batched: bool = False
    name: str = "rayleigh"
    whole_batch: ClassVar[bool] = True

    def __call__(self, step: Step, probe: Probe | None) -> Any:
        """Return the reading, or None without a probe."""
        pair = secant_at_start(step, probe)
        return (
            None if pair is None else rayleigh_quotient(pair, batched=self.batched or step.batched)
        )


@dataclass(frozen=True)
class StageRatio:
    """h ‖Δf‖ / ‖Δy‖ at the step's end: Hairer's test of stiffness in DOPRI5, for FSAL methods.

    Near the stability limit in a stiff phase, smaller where the fast mode is damped: a trigger,
    not a radius.

    References
    ----------
    E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., Springer (1996),
    section IV.2, doi:10.1007/978-3-642-05221-7.
    """

    batched: bool = False
    name: str = "h_rho"
    whole_batch: ClassVar[bool] = True

    def __call__(self, step: Step, probe: Probe | None) -> Any:  # noqa: ARG002
        """Return the reading, or None without a probe or f(t + h, y_new)."""
        pair = _secant_at_end(step)
        return (
            None
            if pair is None
            else abs(step.h) * norm_ratio(pair, batched=self.batched or step.batched)
        )


@dataclass(frozen=True)
class PathSecant:
    """‖f_new − f‖ / ‖y_new − y‖ along the path: curvature of the trajectory, not a Jacobian.

    The two ends have different times, so ∂f/∂t is mixed in; the name says so. Needs FSAL.
    """

    batched: bool = False
    name: str = "path_curvature"
    whole_batch: ClassVar[bool] = True

    def __call__(self, step: Step, probe: Probe | None) -> Any:  # noqa: ARG002
        """Return the reading, or None for methods without f(t + h, y_new)."""
        if step.f_new is None:
            return None
        pair = Secant(step.y_new - step.y, step.f_new - step.k[0])
        return norm_ratio(pair, batched=self.batched or step.batched)


def norm_ratio(pair: Secant, *, batched: bool = False) -> Any:
    """‖Δf‖/‖Δy‖, 0 where Δy = 0; a float, or one entry per sample."""
    dy, df = (_rows(x, batched=batched) for x in pair)
    return _reading(_norms(df), _norms(dy), batched=batched)


def rayleigh_quotient(pair: Secant, *, batched: bool = False) -> Any:
    """Re⟨Δy, Δf⟩/⟨Δy, Δy⟩, 0 where Δy = 0; a float, or one entry per sample."""
    dy, df = (_rows(x, batched=batched) for x in pair)
    size = _norms(dy)
    xp = backend_of(dy).xp
    unit = dy / xp.where(size > 0, size, xp.ones_like(size))[:, None]
    # Scaled once here and once below: no square of a small Δy underflows.
    return _reading((xp.conj(unit) * df).sum(axis=-1).real, size, batched=batched)


def _rows(x: Array, *, batched: bool) -> Array:
    return x.reshape((len(x), -1)) if batched else x.reshape((1, -1))


def _norms(rows: Array) -> Array:
    return row_norm(rows, backend_of(rows).xp)[:, 0]


def _reading(top: Array, bottom: Array, *, batched: bool) -> Any:
    xp = backend_of(top).xp
    zero = bottom == 0
    values = backend_of(top).numpy(
        xp.where(zero, xp.zeros_like(top), top / xp.where(zero, xp.ones_like(bottom), bottom))
    )
    return values if batched else float(values[0])
