"""What a solve returns: always, and with all that was computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from .._array import Array
from .dense import DenseOutput

__all__ = ["EventRecord", "Solution", "Status", "Switch"]


class Status(Enum):
    """How a solve ended."""

    success = "reached the end of the time span"
    event = "a terminal event occurred"
    max_steps = "made max_steps attempts without reaching the end"
    non_finite = "the right-hand side is not finite"
    step_too_small = "the step size fell below the spacing of floating-point times"
    unstable = "the steps that are asked for are longer than the method is stable for"
    newton_failed = "the nonlinear equations of a step could not be solved"
    interrupted = "stopped by the callback or by an exception"


class EventRecord(NamedTuple):
    """Where one event function was zero."""

    t: Array
    """Times, shape (m,)."""
    y: Array
    """States, shape ``(m, *shape)``."""


class Switch(NamedTuple):
    """Where ``method="auto"`` went on with another method."""

    t: float
    """Time."""
    source: str
    """Name of the method that it left."""
    target: str
    """Name of the method that it took."""
    why: str
    """The evidence in words."""


@dataclass(frozen=True, eq=False)
class Solution:
    """Result of `stiffkit.solve`."""

    t: Array
    """Times, shape (n_t,): those of `t_eval`, or every accepted step's."""
    y: Array
    """States, shape ``(n_t, *shape)``: time is the first axis."""
    status: Status
    """How the solve ended."""
    message: str
    """The same in words, with times and components."""
    stats: Mapping[str, int]
    """Counts: ``nfev``, ``accepted``, ``rejected``, ``njev``, ``nlu``. Of a split right-hand side
    ``nfev`` is the sum of ``nfev_explicit`` and ``nfev_implicit``."""
    log: Mapping[str, Any] | None = None
    """One entry per attempted step, if asked for: arrays ``t``, ``h``, ``ratio``, ``accepted``,
    ``limit`` (what set h), and each observer's readings under its name."""
    events: tuple[EventRecord, ...] = ()
    """One record per event function."""
    stiffness: tuple[Any, ...] = ()
    """What the stiffness detector proved: `stiffkit.stiffness.Evidence`, in the order of time."""
    switches: tuple[Switch, ...] = ()
    """Changes of method, with ``method="auto"``."""
    interpolant: DenseOutput | None = None
    """The solution as a function of time, with ``dense=True``."""

    @property
    def success(self) -> bool:
        """Whether the solve ended as planned: at the end of the span or at a terminal event."""
        return self.status in (Status.success, Status.event)

    def __call__(self, t: Any) -> Array:
        """Evaluate the dense output.

        Raises
        ------
        ValueError
            If the solve was made without ``dense=True``, or t is outside the interval solved.
        """
        if self.interpolant is None:
            msg = "this Solution has no dense output: call solve(..., dense=True)"
            raise ValueError(msg)
        return self.interpolant(t)

    def __repr__(self) -> str:
        counts = ", ".join(f"{key} {value}" for key, value in self.stats.items() if value)
        reach = f"t = {float(self.t[0]):g} … {float(self.t[-1]):g}" if len(self.t) else "no times"
        return f"<Solution {self.status.name}: {len(self.t)} times, {reach}; {counts}>"


def freeze_log(rows: list[dict[str, Any]], columns: Sequence[str]) -> dict[str, Any]:
    """Turn a list of step entries into one array per key (a list where readings are no numbers).

    A reading that is missing, at a rejected step or where an observer says None, is NaN.
    """
    keys = dict.fromkeys([*columns, *(key for row in rows for key in row)])
    log: dict[str, Any] = {}
    for key in keys:
        column = [row.get(key) for row in rows]
        known = [x for x in column if x is not None]
        if len(known) < len(column) and all(isinstance(x, _NUMBERS) for x in known):
            column = [math.nan if x is None else x for x in column]
            known = column
        plain = all(isinstance(x, (*_NUMBERS, str)) for x in column)
        log[key] = np.asarray(column) if plain else column
    return log


_NUMBERS = (bool, int, float, np.number, np.bool_)
