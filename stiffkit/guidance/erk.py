"""ERK-Guid: guidance of the step by what two states and their slopes say of the Jacobian."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import numpy as np

from .._array import Array, backend_of
from ..solvers.step import Probe, Step
from ._samples import inner, norm, quotient
from .pairs import Pair, PairName, find_pair

__all__ = ["ERKGuidance", "ModeCorrection"]


@dataclass(frozen=True)
class ERKGuidance:
    """ERK-Guid as published: for Heun's method, and its variants for DPM-Solver-2 and DEIS.

    Two states x, x̂ with slopes f, f̂ are at hand. With Δx = x − x̂ and Δf = f − f̂ (per sample,
    first axis),

        ρ̂ = ‖Δf‖ / (‖Δx‖ + eps),    v̂ = Δf / (‖Δf‖ + eps),    z = w_stiff h ρ̂,

    and where ρ̂ > w_con the step's result moves by h z² ⟨v̂, f⟩ v̂, f the slope at the step's start
    and h the signed step size. No call of f is added. Which two states these are, and which h it
    is, `pair` says:

    ``"stage"`` (Heun)
        The previous step's result x and its Euler predictor x̂, both at this step's start. The
        first step, which has no predecessor, is left alone.
    ``"midpoint"`` (DPM-Solver-2)
        This step's start and its middle stage. Their times differ: ρ̂ is the curvature of the path.
    ``"path"`` (DEIS)
        This step's start and the start of the step before. Their times differ, too; h is the
        **previous** step's size, and the step's result moves the other way, by −h z² ⟨v̂, f⟩ v̂.

    Parameters
    ----------
    w_stiff : float
        Scale of the stiffness estimate, ≥ 0; 0 leaves every step as it is.
    w_con : float
        Confidence gate: samples with ρ̂ ≤ w_con are left alone. Its unit is 1/σ.
    eps : float
        Published guard against division by zero. With 0 the rule is free of scale, and 0/0
        counts as 0.
    pair : {"stage", "midpoint", "path"}
        See above.

    Raises
    ------
    ValueError
        If a number is negative or not finite, or `pair` is none of these.

    References
    ----------
    Error as Signal: Stiffness-Aware Diffusion Sampling via Embedded Runge-Kutta Guidance, ICLR
    2026.
    """

    w_stiff: float
    w_con: float
    eps: float = 1e-8
    pair: PairName = "stage"

    def __post_init__(self) -> None:
        for name in ("w_stiff", "w_con", "eps"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                msg = f"{name} must be finite and not negative, not {value!r}"
                raise ValueError(msg)
        if self.pair not in get_args(PairName):
            msg = f"pair must be one of {', '.join(get_args(PairName))}, not {self.pair!r}"
            raise ValueError(msg)

    def __call__(self, step: Step, probe: Probe | None) -> Array:
        """Return the state to commit at the step's end."""
        if self.w_stiff == 0:
            return step.y_new
        pair = find_pair(self.pair, step, probe)
        if pair is None:
            return step.y_new
        xp, f = backend_of(step.y).xp, step.k[0]
        rho, v = self._estimate(pair, xp)
        z = self.w_stiff * pair.h * rho
        move = pair.sign * pair.h * z**2 * inner(v, f) * v
        return xp.where(rho > self.w_con, step.y_new + move, step.y_new)

    def _estimate(self, pair: Pair, xp: Any) -> tuple[Array, Array]:
        df_norm = norm(pair.df, xp)
        rho = quotient(df_norm, norm(pair.dx, xp) + self.eps, xp)
        return rho, quotient(pair.df, df_norm + self.eps, xp)

    def reading(self, step: Step, probe: Probe | None) -> dict[str, Array] | None:
        """Return ρ̂, z and whether the gate is open, an entry per sample; None without a pair."""
        pair = find_pair(self.pair, step, probe)
        if pair is None:
            return None
        rho, _ = self._estimate(pair, backend_of(step.y).xp)
        rho = rho.reshape(-1)
        return {"rho": rho, "z": self.w_stiff * abs(pair.h) * rho, "gate": rho > self.w_con}


@dataclass(frozen=True)
class ModeCorrection:
    """The correction that an embedded pair admits for one autonomous linear mode, exactly.

    If y' = λ y along a unit vector v, a method with stability function R errs there by
    (R(z) − e^z) ⟨v, y⟩, z = hλ, with ⟨v, f⟩ = λ ⟨v, y⟩. The step's result therefore moves by

        weight · h φ(z) ⟨v, f⟩ v,    φ(z) = (e^z − R(z))/z = C z^p + …,

    where p is the tableau's order and C its error constant: φ is of the order of the local error,
    whatever the method. (z²/6, Heun's, would cost a method of order 5 three orders.) v is the
    direction of Δy and λ the signed quotient ⟨Δy, Δf⟩/⟨Δy, Δy⟩ between the two states that the
    previous step left at this step's start, see `Step.probe`. Methods without one, and the first
    step, are left alone.

    On the probability-flow ODE, where ∂f/∂t is as large as J f, the model does not hold: use
    `FittedExtrapolation` there.

    Parameters
    ----------
    weight : float
        1 is consistent with the model.
    w_con : float
        Samples with ``|λ|`` ≤ w_con are left alone.

    Raises
    ------
    ValueError
        If a parameter is not finite, or `w_con` negative.
    """

    weight: float = 1.0
    w_con: float = 0.0
    pair: ClassVar[PairName] = "stage"

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            msg = f"weight must be finite, not {self.weight!r}"
            raise ValueError(msg)
        if not (math.isfinite(self.w_con) and self.w_con >= 0):
            msg = f"w_con must be finite and not negative, not {self.w_con!r}"
            raise ValueError(msg)

    def __call__(self, step: Step, probe: Probe | None) -> Array:
        """Return the state to commit at the step's end."""
        pair = find_pair("stage", step, probe)
        if pair is None or self.weight == 0:
            return step.y_new
        xp = backend_of(step.y).xp
        size = norm(pair.dx, xp)
        v = quotient(pair.dx, size, xp)  # scaled before it is squared: no underflow
        rate = quotient(inner(v, pair.df), size, xp)
        move = (
            self.weight * step.h * _phi(step.tableau, step.h * rate, xp) * inner(v, step.k[0]) * v
        )
        return xp.where(abs(rate) > self.w_con, step.y_new + move, step.y_new)


def _phi(tableau: Any, z: Array, xp: Any) -> Array:
    """(e^z − R(z))/z for an explicit tableau: by its series where the difference would cancel."""
    r = tableau.stability_polynomial
    series = np.array([1 / math.factorial(j) for j in range(24)])
    series[: len(r)] -= r
    series[: tableau.order + 1] = 0.0  # what is left there is rounding
    small, near = abs(z) < 1, xp.where(abs(z) < 1, z, xp.zeros_like(z))
    far = xp.where(small, xp.ones_like(z), z)
    return xp.where(small, _horner(series[1:], near), (xp.exp(far) - _horner(r, far)) / far)


def _horner(coefficients: Any, z: Array) -> Array:
    total = 0 * z
    for c in reversed(coefficients.tolist()):
        total = total * z + c
    return total
