"""Sampling: a grid solve of the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._array import Array, backend_of
from ..solvers import ButcherTableau, StepHook, solve
from .schedule import karras_sigmas

__all__ = ["probability_flow", "sample"]

Denoiser = Callable[[Array, Any], Array]
"""``D(x, sigma)``: the expected clean sample, x of shape ``(B, *shape)``."""


def probability_flow(denoiser: Denoiser) -> Callable[[Any, Array], Array]:
    """Return the right-hand side dx/dσ = (x − D(x, σ)) / σ, with σ in the place of time."""

    def f(sigma: Any, x: Array) -> Array:
        return (x - denoiser(x, sigma)) / sigma

    return f


def sample(
    denoiser: Denoiser,
    noise: Array,
    sigmas: Any = None,
    *,
    steps: int = 18,
    sampler: str | ButcherTableau = "heun",
    guide: StepHook | None = None,
) -> Array:
    """Draw samples: solve from σ_max to σ_min on a fixed grid, then take D(x, σ_min).

    Parameters
    ----------
    denoiser : callable
        ``D(x, sigma)``.
    noise : array, shape ``(B, *shape)``
        Unit normal noise, NumPy or torch.
    sigmas : array_like, shape (n,), optional
        Falling noise levels, without a final zero; by default `karras_sigmas(steps)`.
    steps : int
        Number of noise levels of the default grid. Heun's method then makes 2·steps − 1 calls.
    sampler : str or ButcherTableau
        An explicit method.
    guide : StepHook, optional
        For example `stiffkit.guidance.ERKGuidance`.

    Returns
    -------
    array, shape ``(B, *shape)``

    Raises
    ------
    ValueError
        If the noise levels are not positive and falling.
    RuntimeError
        If the denoiser returned NaN or inf; the partial Solution is in its ``solution`` attribute.
    """
    levels = [float(s) for s in (karras_sigmas(steps) if sigmas is None else sigmas)]
    if len(levels) < 2 or not levels[-1] > 0:
        msg = f"sigmas must be at least two positive noise levels, not {levels!r}"
        raise ValueError(msg)
    first, last = levels[0], levels[-1]
    flow = probability_flow(denoiser)
    solution = solve(
        flow, (first, last), noise * first, sampler, grid=levels, t_eval=[last], guide=guide
    )
    if not solution.success:
        error = RuntimeError(f"sampling stopped: {solution.message}")
        error.solution = solution  # type: ignore[attr-defined]
        raise error
    x = solution.y[-1]
    return denoiser(x, backend_of(x).real_like(last, x))
