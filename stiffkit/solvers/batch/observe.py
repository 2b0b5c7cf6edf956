"""What observers see of a batch: the step of one sample after the other, or of all at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..._array import Array, backend_of
from ..batch_step import BatchStep
from ..options import Hooks
from ..solution import log_column
from ..step import Probe
from .problem import BatchProblem
from .stages import BatchStages, ExplicitBatch

__all__ = ["Observers", "batch_step"]


def batch_step(
    size: int,
    shape: tuple[int, ...],
    index: Any,
    accept: Any,
    stages: BatchStages,
    t: Any,
    t_new: Any,
    y: Array,
    y_new: Array,
) -> BatchStep:
    """Return the step of the rows that accept it, in arrays that later steps leave alone."""
    rows, stages = np.flatnonzero(accept), stages.sole
    take = stages.problem.backend.take

    def own(x: Array) -> Array:
        return take(x, rows, 0).reshape((len(rows), *shape))

    estimate = None if isinstance(stages, ExplicitBatch) else own(stages.errors()[0])
    t, t_new = t[rows], t_new[rows]
    k = [own(k_i) for k_i in stages.slopes()]
    h, samples = t_new - t, index[rows]
    return BatchStep(
        stages.tableau, t, h, own(y), k, own(y_new), t_new, estimate, samples=samples, size=size
    )


class Observers:
    """The observers of a batch, the probes they are given, and what they say.

    Parameters
    ----------
    hooks : Hooks
        Has the observers, and their readings by the step of the batch.
    problem : BatchProblem
        The whole batch.
    """

    def __init__(self, hooks: Hooks, problem: BatchProblem) -> None:
        self.hooks, self.size, self.shape = hooks, problem.size, problem.shape
        self.backend = problem.backend
        self.whole: dict[str, Any] = {}
        self.single: dict[str, Any] = {}
        for name, hook in hooks.observers.items():
            kind = self.whole if getattr(hook, "whole_batch", False) else self.single
            kind[name] = hook
        self.lines: list[int] = []
        """Line of the log of each entry of ``hooks.rows``."""
        self.known = np.zeros(self.size, bool)
        """Which samples have a probe; the others' are NaN."""
        like = problem.y0.reshape((self.size, *self.shape))
        self.probe = Probe(*(self.backend.full(like.shape, math.nan, like) for _ in range(2)))

    def step(self, line: int, index: Any, accept: Any, stages: BatchStages, *step: Any) -> None:
        """Show the observers a step of the batch; `line` is its place in the log."""
        for part in stages.parts(index, accept, *step):
            self._show(line, batch_step(self.size, self.shape, *part))

    def _show(self, line: int, shown: BatchStep) -> None:
        if len(shown.samples) == 0:
            return
        readings: dict[str, tuple[Any, Any]] = {}
        assert self.hooks.rows is not None
        self.lines.append(line)
        self.hooks.rows.append(readings)
        samples, known = shown.samples, self.known[shown.samples]
        before = None
        if known.any():
            before = Probe(*(self.backend.take(x, samples, 0) for x in self.probe))
        for name, hook in self.whole.items():
            for key, values in self.hooks.by_column(name, hook(shown, before)).items():
                if values is not None:
                    values = self._one_for_each(name, values, len(samples))
                readings[key] = samples, values
        if self.single:
            self._one_by_one(shown, before, known, readings)
        self._keep(shown)

    def _one_by_one(
        self, shown: BatchStep, before: Probe | None, known: Any, readings: dict[str, Any]
    ) -> None:
        for i, sample in enumerate(shown.samples.tolist()):
            step, probe = shown.row(i), None
            if before is not None and known[i]:
                probe = Probe(before.z[i], before.f[i])
            for name, hook in self.single.items():
                for key, value in self.hooks.by_column(name, hook(step, probe)).items():
                    samples, values = readings.setdefault(key, ([], []))
                    samples.append(sample)
                    values.append(value)

    def _one_for_each(self, name: str, values: Any, rows: int) -> Any:
        array = np.array(backend_of(values).numpy(values))  # the observer may use its own again
        if array.shape[:1] != (rows,):
            msg = (
                f"observer {name!r}, which has whole_batch set, returned shape {array.shape} for "
                f"{rows} samples; the first axis must count them"
            )
            raise ValueError(msg)
        return array

    def _keep(self, shown: BatchStep) -> None:
        probe = shown.probe
        self.known[shown.samples] = probe is not None
        if probe is not None:
            rows = self.backend.index(shown.samples, shown.y)
            for kept, new in zip(self.probe, probe, strict=True):
                kept[rows] = self.backend.detach(new)

    def columns(self, lines: int, size: int) -> dict[str, Any]:
        """Return all readings, a column for each name: shape (lines, B, ...).

        NaN where there is none, or None where readings are no numbers of one shape.
        """
        rows = self.hooks.rows or []
        entries: dict[str, list[tuple[int, Any, Any]]] = {name: [] for name in self.hooks.observers}
        for line, row in zip(self.lines, rows, strict=True):
            for key, (samples, values) in row.items():
                entries.setdefault(key, []).append((line, samples, values))
        for name in self.hooks.keyed & entries.keys():
            if not entries[name]:  # it spoke in dicts alone
                del entries[name]
        return {key: _scattered(found, lines, size) for key, found in entries.items()}


def _scattered(found: list[tuple[int, Any, Any]], lines: int, size: int) -> Any:
    """Return one column of the log, from its readings line by line."""
    found = [entry for entry in found if entry[2] is not None]
    if not found:
        return np.full((lines, size), math.nan)
    at = np.repeat([line for line, _, _ in found], [len(samples) for _, samples, _ in found])
    samples = np.concatenate([samples for _, samples, _ in found])
    parts = [values for _, _, values in found]
    if all(isinstance(part, np.ndarray) for part in parts):
        same = len({part.shape[1:] for part in parts}) == 1
        values: Any = np.concatenate(parts) if same else [x for part in parts for x in part]
    else:
        values = log_column([x for part in parts for x in part])
    if isinstance(values, np.ndarray) and values.dtype.kind in "biufc":
        kind = np.result_type(values.dtype, np.float64)
        column = np.full((lines, size, *values.shape[1:]), math.nan, kind)
        column[at, samples] = values
        return column
    column = np.full((lines, size), None, object)
    for line, sample, value in zip(at, samples, values, strict=True):
        column[line, sample] = value
    return column
