"""What a solve returns: always, and with all that was computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._array import Array, backend_of, is_torch, to_numpy
from ._tree import tree_map
from .dense import DenseOutput

if TYPE_CHECKING:
    from .batch.dense import BatchDenseOutput

__all__ = [
    "BatchSolution",
    "EventRecord",
    "Solution",
    "Status",
    "Switch",
    "log_column",
    "plain_solution",
]


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


_PLANNED = (Status.success, Status.event)
_NO_DENSE = "there is no dense output: call solve(..., dense=True)"


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
        return self.status in _PLANNED

    def __call__(self, t: Any) -> Array:
        """Evaluate the dense output.

        Raises
        ------
        ValueError
            If the solve was made without ``dense=True``, or t is outside the interval solved.
        """
        if self.interpolant is None:
            raise ValueError(_NO_DENSE)
        return self.interpolant(t)

    def __repr__(self) -> str:
        counts = ", ".join(f"{key} {value}" for key, value in self.stats.items() if value)
        reach = f"t = {float(self.t[0]):g} … {float(self.t[-1]):g}" if len(self.t) else "no times"
        return f"<Solution {self.status.name}: {len(self.t)} times, {reach}; {counts}>"


def plain_solution(
    t: Array, y: Array, status: Status, message: str, counts: Sequence[int]
) -> Solution:
    """Return a solution with nothing but these, and `counts` of its `stats` in their order."""
    nfev, accepted, rejected, njev, nlu = counts
    solution = object.__new__(Solution)  # its own way in costs three times as much
    vars(solution).update(
        t=t,
        y=y,
        status=status,
        message=message,
        stats={
            "nfev": nfev,
            "accepted": accepted,
            "rejected": rejected,
            "njev": njev,
            "nlu": nlu,
        },
    )
    return solution


@dataclass(frozen=True, eq=False)
class BatchSolution:
    """Result of `stiffkit.solve` with ``batched=True``: B solutions, each with its own end.

    ``solution[i]`` is the `Solution` of sample i.
    """

    t: Array
    """Times, shape (n_t, B); NaN past what a sample has reached, unless they were asked for."""
    y: Array
    """States, shape ``(n_t, B, *shape)``; NaN where a sample has not come."""
    status: tuple[Status, ...]
    """How each sample ended."""
    message: tuple[str, ...]
    """The same in words."""
    stats: Mapping[str, Any]
    """Counts: ``nfev`` (a call with a batch is one), ``njev`` and ``nlu`` of all together,
    ``accepted`` and ``rejected`` of each sample, shape (B,)."""
    count: np.ndarray[Any, Any]
    """Times that each sample has reached, shape (B,)."""
    log: Mapping[str, Any] | None = None
    """Arrays ``t``, ``h``, ``ratio``, ``accepted`` of shape (attempts, B), if asked for, and each
    observer's readings under its name; NaN where a sample had ended or has no reading."""
    events: tuple[EventRecord, ...] = ()
    """One record per event function: times (m, B) and states (m, B, *shape), NaN where a sample
    has fewer."""
    stiffness: tuple[tuple[Any, ...], ...] = ()
    """What the stiffness detector proved of each sample: `stiffkit.stiffness.Evidence`."""
    switches: tuple[tuple[Switch, ...], ...] = ()
    """With ``method="auto"``, each sample's changes of method."""
    interpolant: BatchDenseOutput | None = None
    """The solutions as functions of time, with ``dense=True``."""

    @property
    def success(self) -> bool:
        """Whether all samples ended as planned."""
        return all(status in _PLANNED for status in self.status)

    @property
    def succeeded(self) -> np.ndarray[Any, Any]:
        """Which samples ended as planned, shape (B,)."""
        return np.array([status in _PLANNED for status in self.status], dtype=bool)

    def __call__(self, t: Any) -> Array:
        """Evaluate the dense output at a time, at times (m,), or at each sample's own (m, B).

        Raises
        ------
        ValueError
            If the solve was made without ``dense=True``, or t is outside the interval solved.
        """
        if self.interpolant is None:
            raise ValueError(_NO_DENSE)
        return self.interpolant(t)

    def __len__(self) -> int:
        return len(self.status)

    def __getitem__(self, i: int) -> Solution:
        """Return the solution of one sample."""
        i = range(len(self))[index(i)]
        n = int(self.count[i])
        per_sample = ("accepted", "rejected")
        stats = {k: int(v[i]) if k in per_sample else int(v) for k, v in self.stats.items()}
        log = None
        if self.log is not None:
            tried = ~np.isnan(self.log["t"][:, i])
            log = {key: column[tried, i] for key, column in self.log.items()}
        events = []
        for record in self.events:
            known = to_numpy(record.t[:, i])
            m = int((~np.isnan(known)).sum())
            events.append(EventRecord(record.t[:m, i], _sample(record.y, m, i)))
        dense = None if self.interpolant is None else self.interpolant.sample(i)
        return Solution(
            t=self.t[:n, i],
            y=_sample(self.y, n, i),
            status=self.status[i],
            message=self.message[i],
            stats=stats,
            log=log,
            events=tuple(events),
            stiffness=self.stiffness[i] if self.stiffness else (),
            switches=self.switches[i] if self.switches else (),
            interpolant=dense,
        )

    def __repr__(self) -> str:
        names = [status.name for status in self.status]
        ends = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
        return f"<BatchSolution of {len(self)}: {ends}; nfev {self.stats['nfev']}>"


def _sample(y: Any, n: int, i: int) -> Any:
    """Return the first n states of sample i."""
    return tree_map(lambda a: a[:n, i], y)


def freeze_log(rows: list[dict[str, Any]], columns: Sequence[str]) -> dict[str, Any]:
    """Turn a list of step entries into one array per key (a list where readings are no numbers).

    A reading that is missing, at a rejected step or where an observer says None, is NaN. Readings
    that are arrays or tensors of one shape, for instance of a value per sample, are stacked along
    the steps.
    """
    keys = dict.fromkeys([*columns, *(key for row in rows for key in row)])
    return {key: log_column([row.get(key) for row in rows]) for key in keys}


def log_column(readings: list[Any]) -> Any:
    """Return what one key holds over all steps: an array, or the list where there is none."""
    known = [_array(x) for x in readings if x is not None]
    shapes = {x.shape for x in known if x is not None}
    plain = len(shapes) == 1 and all(x is not None and x.dtype.kind in "biufcU" for x in known)
    if len(known) == len(readings):
        return np.asarray(known) if plain or not known else readings
    if known and not (plain and all(x is not None and x.dtype.kind != "U" for x in known)):
        return readings
    missing = np.full(shapes.pop() if shapes else (), math.nan)
    values = iter(known)
    return np.stack([missing if x is None else next(values) for x in readings])


def _array(x: Any) -> Any:
    """Return a number, text, array or tensor as an array; None of anything else."""
    if isinstance(x, (*_NUMBERS, str, np.ndarray)):
        return np.asarray(x)
    return backend_of(x).numpy(x) if is_torch(x) else None


_NUMBERS = (bool, int, float, np.number, np.bool_)
