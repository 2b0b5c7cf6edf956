"""Diffusion: the probability-flow ODE as a right-hand side, a grid of noise levels, and a hook."""

from .arguments import DEFAULT_SAMPLER, SAMPLERS
from .bases import Polynomials, Spectrum, natural_spectrum
from .denoiser import Denoiser, DiscreteTimes, EDMDenoiser, NetworkDenoiser, vp_time
from .exact import DataDenoiser, GaussianMixture, gaussian
from .multistep import MULTISTEP, Multistep
from .sample import SampleStep, probability_flow, sample
from .schedule import (
    ALIGN_YOUR_STEPS,
    exponential_sigmas,
    flow_sigmas,
    interpolated_sigmas,
    karras_sigmas,
    logsnr_sigmas,
    time_uniform_sigmas,
)
from .stepping import Churn, SeededNoise
from .trace import Trace

__all__ = [
    "ALIGN_YOUR_STEPS",
    "DEFAULT_SAMPLER",
    "MULTISTEP",
    "SAMPLERS",
    "Churn",
    "DataDenoiser",
    "Denoiser",
    "DiscreteTimes",
    "EDMDenoiser",
    "GaussianMixture",
    "Multistep",
    "NetworkDenoiser",
    "Polynomials",
    "SampleStep",
    "SeededNoise",
    "Spectrum",
    "Trace",
    "exponential_sigmas",
    "flow_sigmas",
    "gaussian",
    "interpolated_sigmas",
    "karras_sigmas",
    "logsnr_sigmas",
    "natural_spectrum",
    "probability_flow",
    "sample",
    "time_uniform_sigmas",
    "vp_time",
]
