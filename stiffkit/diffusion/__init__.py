"""Diffusion: the probability-flow ODE as a right-hand side, a grid of noise levels, and a hook."""

from .exact import DataDenoiser, GaussianMixture, gaussian
from .sample import probability_flow, sample
from .schedule import karras_sigmas

__all__ = [
    "DataDenoiser",
    "GaussianMixture",
    "gaussian",
    "karras_sigmas",
    "probability_flow",
    "sample",
]
