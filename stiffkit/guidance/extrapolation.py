"""FX: extrapolation between a pair's two results, fitted to the probability-flow ODE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .._array import Array, backend_of
from ..solvers.step import Probe, Step, combine
from ._samples import inner, norm, quotient
from .pairs import find_pair

__all__ = ["FittedExtrapolation", "fitted_factor"]

LARGEST = 3.0
"""Bound of the estimate of a. An exact denoiser has a ≥ 0; a > 1 where modes part."""


@dataclass(frozen=True)
class FittedExtrapolation:
    """Extrapolate an embedded pair's two results as the flow of Gaussian data asks for.

    For the probability-flow ODE f = (x − D)/σ, with σ in the place of time. The two states that the
    previous step left at this step's start s give, per sample and free of charge, a mean eigenvalue
    of the denoiser's Jacobian along the error,

        a = ⟨Δx, ΔD⟩/⟨Δx, Δx⟩ = 1 − s ⟨Δx, Δf⟩/⟨Δx, Δx⟩,    kept in [0, 3].

    Data of variance S² = s² a/(1 − a) have this a at s, and their flow is y' = σ y/(S² + σ²). From
    y = 1 the pair's methods give 1 + H and 1 + E there, and the solution is 1 + G; the step's
    result x moves by

        ρ (x − x̂),    ρ = (G − H)/(H − E),    kept in [−1, 1],

    x̂ the embedded method's result: Gaussian data of one variance are solved exactly, with the
    `guard` from the step on that ends below S. It has no parameter to tune and adds no call of f.
    The order of the method is kept: ρ is of the order of the step. Where there is no such pair (the
    first step, methods without a probe), a is that of data with the standard deviation `std`.

    Parameters
    ----------
    std : float
        Standard deviation of the data, 0.5 by EDM's convention.
    guard : bool
        Whether to move only the steps that end within the data's scale as measured, σ' ≤ S, which
        is a ≥ (1 − a) (σ'/σ)². Above it, modes may still have to part, and there the lag of Euler's
        predictor and the overshoot of Heun's result cancel in part, so that more exact steps end at
        other modes than the flow. The factor is then ρ + u (ρ' − ρ), ρ' from the a with which the
        closure has the change of f that is seen between the step's first two stages. Its share u is
        1 − c², c being the cosine of the angle between Δx and x − x̂, but at most (1 − σ'/σ)²: a
        direction turns by no more in a step where the flow is smooth.

    Raises
    ------
    ValueError
        If `std` is not positive and finite.

    Notes
    -----
    For Heun's method with r = s'/s and q = √(a + (1 − a) r²) = 1 + G,
    ρ = 2 q² (1 + r)/((1 + q)(q + r)) − 1, without the quotient 0/0 at a = 0 and a = 1.
    """

    std: float = 0.5
    guard: bool = True
    pair: ClassVar[str] = "embedded"
    """What it needs of a method: an embedded row."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.std) and self.std > 0):
            msg = f"std must be positive and finite, not {self.std!r}"
            raise ValueError(msg)

    def __call__(self, step: Step, probe: Probe | None) -> Array:
        """Return the state to commit at the step's end."""
        if step.err is None:
            msg = f"method {step.tableau.name!r} has no embedded row to extrapolate with"
            raise ValueError(msg)
        if step.t <= 0 or step.t_new < 0:
            msg = f"times must be noise levels, not negative, not {step.t!r} and {step.t_new!r}"
            raise ValueError(msg)
        return step.y_new + self._factor(step, probe, self.estimate(step, probe)) * step.err

    def estimate(self, step: Step, probe: Probe | None) -> Array:
        """Return a of each sample, shaped to broadcast against the state."""
        xp, pair = backend_of(step.y).xp, find_pair("stage", step, probe)
        known = self.std**2 / (self.std**2 + step.t**2)  # of the data as a whole
        if pair is None:
            return known + 0 * inner(step.y, step.y)
        size = norm(pair.dx, xp)
        rate = quotient(inner(quotient(pair.dx, size, xp), pair.df), size, xp)
        a = xp.clip(1 - step.t * rate, 0.0, LARGEST)
        return xp.where(size > 0, a, known + 0 * a)

    def reading(self, step: Step, probe: Probe | None) -> dict[str, Array]:
        """Return a and ρ, an entry per sample."""
        a = self.estimate(step, probe)
        factor = self._factor(step, probe, a)
        return {"a": a.reshape(-1), "factor": factor.reshape(-1)}

    def _factor(self, step: Step, probe: Probe | None, a: Array) -> Array:
        xp, r = backend_of(a).xp, step.t_new / step.t
        factor = fitted_factor(step.tableau, a, r)
        if not self.guard:
            return factor
        pair = find_pair("stage", step, probe)
        if pair is not None:
            # What was seen of the error's direction before says as much as that direction is kept.
            # On a smooth flow it turns by O(1 − r). The sine may be larger where a network is
            # rough; neither direction is better than the other there.
            u, v = (quotient(x, norm(x, xp), xp) for x in (pair.dx, step.err))
            share = xp.clip(1 - inner(u, v) ** 2, 0.0, (1 - r) ** 2)
            factor = factor + share * (fitted_factor(step.tableau, seen_slope(step), r) - factor)
        return xp.where(a >= (1 - a) * r**2, factor, 0.0)


def seen_slope(step: Step) -> Array:
    """Return the a of each sample for which the closure has the change of f seen within the step.

    From y = 1, y' = y σ/(S² + σ²) and an Euler step to r times the noise level its slope is
    κ = r (1 − (1 − r) b)/(1 − (1 − r²) b) times that at the start, b = 1 − a; here
    κ = ⟨f_2, f_1⟩/⟨f_1, f_1⟩ of the first two stages, kept where a is in [0, 3].
    """
    xp, (f, f_2) = backend_of(step.y).xp, step.k[:2]
    r = 1 + float(step.tableau.c[1]) * step.h / step.t
    size = norm(f, xp)
    kappa = quotient(inner(quotient(f, size, xp), f_2), size, xp)
    b = 1 - LARGEST
    kappa = xp.clip(kappa, r * (1 - (1 - r) * b) / (1 - (1 - r**2) * b), 1.0)
    return 1 - quotient(kappa - r, (1 - r) * (kappa * (1 + r) - r), xp)


def fitted_factor(tableau: Any, a: Array, r: float) -> Array:
    """ρ = (G − H)/(H − E) in [−1, 1], see `FittedExtrapolation`.

    Parameters
    ----------
    tableau : ButcherTableau
        An explicit pair.
    a : array
        Eigenvalues of the denoiser's Jacobian at the step's start, ≥ 0.
    r : float
        End of the step over its start, 0 ≤ r < 1.

    Returns
    -------
    array, the shape of a
    """
    backend = backend_of(a)
    if tableau.name == "heun":
        q = (a + (1 - a) * r**2) ** 0.5
        rho = 2 * (1 + r) * q / (1 + q) * quotient(q, q + r, backend.xp) - 1
        return backend.xp.clip(rho, -1.0, 1.0)
    wide = backend.numpy(a).astype(float)
    h, k = r - 1.0, [1 - wide]
    for c_i, a_i in zip(tableau.c[1:].tolist(), tableau.A[1:].tolist(), strict=True):
        y = 1 + h * combine(a_i, k)
        t = 1 + c_i * h
        # At σ = 0 the rate σ/(S² + σ²) is 0, unless S = 0: then the flow ends there.
        rate = t * (1 - wide) / np.maximum(wide + (1 - wide) * t**2, 1e-300)
        k.append(y * rate)
    G = np.sqrt(wide + (1 - wide) * r**2) - 1
    H, E = (h * combine(row.tolist(), k) for row in (tableau.b, tableau.b_hat))
    # Where the pair agrees to rounding (a = 0, a = 1: f is linear in σ) there is nothing to move.
    gap = np.where(abs(H - E) < 1e-13, np.inf, H - E)
    return backend.real_like(np.clip((G - H) / gap, -1.0, 1.0), a)
