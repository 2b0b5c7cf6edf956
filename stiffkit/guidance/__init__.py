"""Guidance: hooks that move a step's result, and functions of denoisers that move the field."""

from .erk import ERKGuidance, ModeCorrection
from .extrapolation import FittedExtrapolation
from .field import (
    GuidedDenoiser,
    adaptive_projected_guidance,
    autoguidance,
    cfg_plus_plus,
    cfg_zero_star,
    classifier_free_guidance,
)

__all__ = [
    "ERKGuidance",
    "FittedExtrapolation",
    "GuidedDenoiser",
    "ModeCorrection",
    "adaptive_projected_guidance",
    "autoguidance",
    "cfg_plus_plus",
    "cfg_zero_star",
    "classifier_free_guidance",
]
