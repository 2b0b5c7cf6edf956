"""Guidance: hooks that move a step's result, and functions of denoisers that move the field."""

from .erk import ERKGuidance, ModeCorrection
from .extrapolation import FittedExtrapolation

__all__ = ["ERKGuidance", "FittedExtrapolation", "ModeCorrection"]
