"""ERK-Guid: guidance of the step by what an embedded pair says of the Jacobian."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .._array import Array, backend_of
from ..solvers.step import Probe, Step

__all__ = ["ERKGuidance"]


@dataclass(frozen=True)
class ERKGuidance:
    """ERK-Guid for Heun's method, as published.

    The previous step left two states at this step's time: its result x and its Euler predictor
    x̂, with slopes f and f̂. With Δx = x − x̂ and Δf = f − f̂ (per sample, first axis),

        ρ̂ = ‖Δf‖ / (‖Δx‖ + eps),    v̂ = Δf / (‖Δf‖ + eps),    z = w_stiff h ρ̂,

    and where ρ̂ > w_con the step's result moves by h z² ⟨v̂, f⟩ v̂, h being the signed step size.
    No call of f is added; the first step, which has no predecessor, is left alone.

    Parameters
    ----------
    w_stiff : float
        Scale of the stiffness estimate, ≥ 0; 0 leaves every step as it is.
    w_con : float
        Confidence gate: samples with ρ̂ ≤ w_con are left alone. Its unit is 1/σ.
    eps : float
        Published guard against division by zero. With 0 the rule is free of scale, and 0/0
        counts as 0.

    Raises
    ------
    ValueError
        If a parameter is negative or not finite.

    References
    ----------
    Error as Signal: Stiffness-Aware Diffusion Sampling via Embedded Runge-Kutta Guidance, ICLR
    2026.
    """

    w_stiff: float
    w_con: float
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("w_stiff", "w_con", "eps"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                msg = f"{name} must be finite and not negative, not {value!r}"
                raise ValueError(msg)

    def __call__(self, step: Step, probe: Probe | None) -> Array:
        """Return the state to commit at the step's end."""
        if probe is None or self.w_stiff == 0:
            return step.y_new
        xp, f = backend_of(step.y).xp, step.k[0]
        df = f - probe.f
        df_norm, dx_norm = _norm(df, xp), _norm(step.y - probe.z, xp)
        rho = _quotient(df_norm, dx_norm + self.eps, xp)
        v = _quotient(df, df_norm + self.eps, xp)
        z = self.w_stiff * step.h * rho
        move = step.h * z**2 * _inner(v, f) * v
        return xp.where(rho > self.w_con, step.y_new + move, step.y_new)


def _axes(x: Array) -> tuple[int, ...]:
    """All axes but the first, which counts samples."""
    return tuple(range(1, x.ndim))


def _inner(x: Array, y: Array) -> Array:
    """⟨x, y⟩ of each sample, shaped to broadcast against x."""
    return (x * y).sum(axis=_axes(x), keepdims=True) if x.ndim > 1 else x * y


def _norm(x: Array, xp: Any) -> Array:
    return xp.sqrt(_inner(x, x))


def _quotient(a: Array, b: Array, xp: Any) -> Array:
    """a/b, and 0 where b is 0."""
    zero = b == 0
    return xp.where(zero, 0.0, a / xp.where(zero, 1.0, b))
