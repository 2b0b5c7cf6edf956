"""Diffusion: the probability-flow ODE as a right-hand side, a grid of noise levels, and a hook."""

from .denoiser import Denoiser, DiscreteTimes, EDMDenoiser, NetworkDenoiser, vp_time
from .exact import DataDenoiser, GaussianMixture, gaussian
from .sample import probability_flow, sample
from .schedule import (
    ALIGN_YOUR_STEPS,
    exponential_sigmas,
    flow_sigmas,
    interpolated_sigmas,
    karras_sigmas,
    logsnr_sigmas,
    time_uniform_sigmas,
)

__all__ = [
    "ALIGN_YOUR_STEPS",
    "DataDenoiser",
    "Denoiser",
    "DiscreteTimes",
    "EDMDenoiser",
    "GaussianMixture",
    "NetworkDenoiser",
    "exponential_sigmas",
    "flow_sigmas",
    "gaussian",
    "interpolated_sigmas",
    "karras_sigmas",
    "logsnr_sigmas",
    "probability_flow",
    "sample",
    "time_uniform_sigmas",
    "vp_time",
]
