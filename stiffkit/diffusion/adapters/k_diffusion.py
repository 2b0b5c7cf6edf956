"""k-diffusion's calling convention, which ComfyUI and others share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ..._array import Array, backend_of
from ...guidance import ERKGuidance, FittedExtrapolation
from ...solvers import StepHook
from ..arguments import DEFAULT_SAMPLER, Method
from ..denoiser import per_sample
from ..multistep import MULTISTEP
from ..sample import SampleStep, sample
from ..stepping import Churn
from .noise import CallersNoise

__all__ = [
    "sample_deis_4",
    "sample_dpm_2",
    "sample_dpmpp_2m",
    "sample_dpmpp_3m",
    "sample_heun",
    "sample_heun_erk",
    "sample_heun_fx",
    "sample_ipndm_4",
    "sample_sk34",
    "sample_sk44",
    "sample_unipc_3",
    "sample_with",
]


def sample_with(
    model: Callable[..., Array],
    x: Array,
    sigmas: Array,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    disable: bool | None = None,
    *,
    sampler: str | Method = DEFAULT_SAMPLER,
    guide: StepHook | None = None,
    churn: Churn | None = None,
) -> Array:
    """Sample with any of stiffkit's samplers, called as k-diffusion's ``sample_*`` functions are.

    Parameters
    ----------
    model : callable
        ``model(x, sigma, **extra_args)``, the denoised x, with sigma of shape (B,).
    x : Tensor, shape ``(B, *shape)``
        The noisy state at the first level.
    sigmas : Tensor, shape (n,)
        Falling noise levels. After a final zero the result is D at the level before; without one
        it is the noisy state at the last level, as for a run in two halves.
    extra_args : mapping, optional
        Keyword arguments of the model.
    callback : callable, optional
        Called after every step with a dict of x, i, sigma, sigma_hat and denoised: the state at the
        step's start and D there.
    disable : bool, optional
        False shows a progress bar.
    sampler : str, ButcherTableau or Multistep
        A name in `stiffkit.diffusion.SAMPLERS`, or a method of your own.
    guide : StepHook, optional
        Of the step, such as `stiffkit.guidance.ERKGuidance`.
    churn : Churn, optional
        Stochastic churn, with noise of torch's global generator.

    Returns
    -------
    Tensor, shape ``(B, *shape)``

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `stiffkit.diffusion.sample`.
    """
    levels = [float(s) for s in sigmas]
    if len(levels) < 2:
        return x
    steps, to_zero, start = len(levels) - 1, levels[-1] == 0, x
    levels = levels[:-1] if to_zero else levels
    options, backend = dict(extra_args or {}), backend_of(x)

    def denoiser(x: Array, sigma: Any) -> Array:
        return model(x, per_sample(sigma, x), **options)

    def tell(i: int, sigma: float, sigma_hat: float, denoised: Array) -> None:
        if callback is not None:
            callback(
                {"x": start, "i": i, "sigma": sigma, "sigma_hat": sigma_hat, "denoised": denoised}
            )

    def passed(step: SampleStep) -> bool:
        nonlocal start
        tell(step.i, step.sigma, step.sigma_hat, step.denoised)
        start = step.x
        return not to_zero and step.i == steps - 1  # the state is wanted: no call for D there

    if len(levels) == 1:
        with backend.no_grad():
            D = denoiser(x, levels[0])
    else:
        noisy, source = churn is not None and churn.S_churn > 0, None
        if churn is not None and noisy:
            # k-diffusion divides by the number of steps, sample by that of the levels.
            share = churn.S_churn * len(levels) / steps
            churn = Churn(share, churn.S_min, churn.S_max, churn.S_noise)
            source = CallersNoise(backend.xp.randn_like, x, levels, churn)
        D = sample(
            denoiser, backend.xp.zeros_like(x), levels, image=x, sampler=sampler, guide=guide,
            churn=churn if churn is not None and noisy else 0.0, seeds=source, callback=passed,
            progress=disable is False,
        )  # fmt: skip
    if not to_zero:
        return start
    tell(steps - 1, levels[-1], levels[-1], D)
    return D


def sample_heun(
    model: Callable[..., Array],
    x: Array,
    sigmas: Array,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    guide: StepHook | None = None,
) -> Array:
    """Heun's method with EDM's churn: `sample_with`, `stiffkit.diffusion.Churn`."""
    return sample_with(
        model, x, sigmas, extra_args, callback, disable,
        sampler="heun", guide=guide, churn=Churn(s_churn, s_tmin, s_tmax, s_noise),
    )  # fmt: skip


def sample_heun_erk(
    model: Callable[..., Array],
    x: Array,
    sigmas: Array,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    disable: bool | None = None,
    w_stiff: float = 1.0,
    w_con: float = 0.5,
    **churn: float,
) -> Array:
    """Heun's method with `stiffkit.guidance.ERKGuidance`; `churn` as in `sample_heun`."""
    guide = ERKGuidance(w_stiff, w_con)
    return sample_heun(model, x, sigmas, extra_args, callback, disable, guide=guide, **churn)


def sample_heun_fx(
    model: Callable[..., Array],
    x: Array,
    sigmas: Array,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    disable: bool | None = None,
    std: float = 1.0,
    **churn: float,
) -> Array:
    """Heun's method with `stiffkit.guidance.FittedExtrapolation`; `churn` as in `sample_heun`.

    `std` is the data's: 1 for the latents of Stable Diffusion, 0.5 by EDM's convention.
    """
    guide = FittedExtrapolation(std)
    return sample_heun(model, x, sigmas, extra_args, callback, disable, guide=guide, **churn)


sample_dpm_2 = partial(sample_with, sampler="dpm2")
# As in k-diffusion, of full order up to the last level: there the final zero is the step that is
# lowered, where `sample` lowers the one before it, as the authors of DPM-Solver++ do.
sample_dpmpp_2m = partial(
    sample_with, sampler=replace(MULTISTEP["dpmpp2m"], lower_order_final=False)
)
sample_dpmpp_3m = partial(sample_with, sampler="dpmpp3m")
sample_unipc_3 = partial(sample_with, sampler="unipc3")
sample_deis_4 = partial(sample_with, sampler="deis4")
sample_ipndm_4 = partial(sample_with, sampler="ipndm4")
sample_sk34 = partial(sample_with, sampler="sk34")
sample_sk44 = partial(sample_with, sampler="sk44")
