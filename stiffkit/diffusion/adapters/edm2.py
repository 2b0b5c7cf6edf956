"""EDM2's calling convention: a ``sampler_fn`` for its ``generate_images``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...guidance import autoguidance
from ...solvers import StepHook
from ..arguments import Method
from ..denoiser import EDMDenoiser
from ..sample import sample
from ..schedule import karras_sigmas
from ..stepping import Churn
from .noise import CallersNoise

__all__ = ["edm_sampler"]


def edm_sampler(
    net: Callable[..., Tensor],
    noise: Tensor,
    labels: Tensor | None = None,
    gnet: Callable[..., Tensor] | None = None,
    num_steps: int = 32,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    guidance: float = 1.0,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
    dtype: torch.dtype = torch.float32,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
    *,
    sampler: str | Method = "heun",
    guide: StepHook | None = None,
    interval: tuple[float, float] = (0.0, math.inf),
) -> Tensor:
    """Draw samples, called as EDM2 calls its own sampler; by default the same samples.

    Parameters
    ----------
    net : callable
        ``net(x, sigma, labels)``, the denoiser.
    noise : Tensor, shape (B, C, H, W)
        Unit normal.
    labels : Tensor, shape (B, label_dim), optional
        One-hot, handed to both networks.
    gnet : callable, optional
        The guiding network, needed if `guidance` is not 1.
    num_steps : int
        Noise levels before the final zero.
    sigma_min, sigma_max, rho : float
        Of Karras' grid.
    guidance : float
        Strength g of D_gnet + g (D_net − D_gnet).
    S_churn, S_min, S_max, S_noise : float
        See `stiffkit.diffusion.Churn`.
    dtype : torch.dtype
        Of the state.
    randn_like : callable
        Source of the noise of churn.
    sampler : str, ButcherTableau or Multistep
        A name in `SAMPLERS`, or a method of your own; EDM2's is Heun's.
    guide : StepHook, optional
        Of the step, such as `stiffkit.guidance.ERKGuidance`.
    interval : (float, float)
        Noise levels low < σ ≤ high at which the guiding network acts.

    Returns
    -------
    Tensor, shape (B, C, H, W)
        Of `dtype`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `stiffkit.diffusion.sample`; ValueError, too, for guidance without `gnet`.

    References
    ----------
    T. Karras et al., Elucidating the design space of diffusion-based generative models, NeurIPS
    2022, algorithm 2, doi:10.48550/arXiv.2206.00364; T. Karras et al., Analyzing and improving the
    training dynamics of diffusion models, CVPR 2024, doi:10.48550/arXiv.2312.02696.
    """
    denoiser: Callable[..., Tensor] = _in(dtype, net)
    if guidance != 1:
        if gnet is None:
            msg = f"guidance {guidance!r} needs gnet, the guiding network"
            raise ValueError(msg)
        denoiser = autoguidance(denoiser, _in(dtype, gnet), guidance, interval=interval)
    levels = karras_sigmas(num_steps, sigma_min, sigma_max, rho).tolist()
    churn, x = Churn(S_churn, S_min, S_max, S_noise), noise.to(dtype)
    source = CallersNoise(randn_like, x, levels, churn) if S_churn else None
    out: Tensor = sample(
        denoiser, x, levels, labels=labels, sampler=sampler, guide=guide, churn=churn, seeds=source
    )
    return out


def _in(dtype: torch.dtype, net: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the network as a denoiser whose result has the state's dtype."""
    denoiser = EDMDenoiser(net)

    def D(x: Tensor, sigma: Any, labels: Any = None) -> Tensor:
        return denoiser(x, sigma, labels).to(dtype)  # type: ignore[no-any-return]

    return D
