"""Two states with their slopes, already paid for: where a guide finds them."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from .._array import Array
from ..solvers.step import Probe, Step, combine

__all__ = ["Pair", "PairName", "Past", "find_pair"]

PairName = Literal["stage", "midpoint", "path"]
"""Which two states a guide compares: see `stiffkit.guidance.ERKGuidance`."""


class Past(NamedTuple):
    """The step before, of a method whose steps have one evaluation each."""

    z: Array
    """State at its start."""
    f: Array
    """Slope there."""
    h: float
    """Its signed size."""


class Pair(NamedTuple):
    """Differences between two states and their slopes."""

    dx: Array
    df: Array
    h: float
    """The step size that belongs to them."""
    sign: float
    """Direction of the published correction."""


def find_pair(name: PairName, step: Step, probe: Any) -> Pair | None:
    """Return the pair of that name, None where the step has none.

    Parameters
    ----------
    name : {"stage", "midpoint", "path"}
        Which two states.
    step : Step
        The step.
    probe : Probe or Past or None
        What the step before left behind.
    """
    if name == "midpoint":
        if len(step.k) < 2:
            return None
        rise = step.h * combine(step.tableau.A[1].tolist(), step.k)
        return Pair(-rise, step.k[0] - step.k[1], step.h, 1.0)
    if not isinstance(probe, Past if name == "path" else Probe):
        return None
    h, sign = (probe.h, -1.0) if isinstance(probe, Past) else (step.h, 1.0)
    return Pair(step.y - probe.z, step.k[0] - probe.f, h, sign)
