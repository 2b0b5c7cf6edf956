"""Guidance: hooks that move the result of a step."""

from .erk import ERKGuidance

__all__ = ["ERKGuidance"]
