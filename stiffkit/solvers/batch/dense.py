"""Dense output of a batch: one polynomial per row and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from ..._array import Array, Backend, to_numpy
from ..dense import DenseOutput, Segment
from .problem import Floats

__all__ = ["BatchDenseOutput", "BatchSegment"]


@dataclass(frozen=True, eq=False)
class BatchSegment:
    """y(θ) = (1−θ) P_0 + θ P_1 + h θ(1−θ) Σ_m P_(m+2) θ^m, θ = (t − t_0)/h, row by row."""

    t_0: Floats
    """Shape (b,)."""
    t_1: Floats
    P: Array
    """The states at both ends, and the coefficients of the bubble, shape (m + 2, b, n)."""
    backend: Backend

    def __call__(self, t: Floats) -> Array:
        """Evaluate each row at its own time; t of shape (b,), result of shape (b, n)."""
        return self._at(t, self.t_0, self.t_1, self.P)

    def slope(self, t: Floats) -> Array:
        """Return each row's derivative at its own time; 0 where h is 0."""
        h = self.t_1 - self.t_0
        inverse = np.divide(1.0, h, out=np.zeros_like(h), where=h != 0)
        theta = (t - self.t_0) * inverse
        weights = np.empty((len(self.P), len(t), 1))
        weights[0, :, 0], weights[1, :, 0] = -inverse, inverse
        for m, w in enumerate(weights[2:, :, 0], 1):  # (θ^m (1 − θ))'
            w[:] = m * theta ** (m - 1) - (m + 1) * theta**m
        return (self.backend.real_like(weights, self.P) * self.P).sum(0)

    def rows(self, rows: Any, t: Floats) -> Array:
        """Evaluate row ``rows[i]`` at time ``t[i]``; result of shape (len(rows), n)."""
        P = self.backend.take(self.P, rows, 1)
        return self._at(t, self.t_0[rows], self.t_1[rows], P)

    def take(self, rows: Any) -> BatchSegment:
        """Return some of the rows."""
        P = self.backend.take(self.P, rows, 1)
        return BatchSegment(self.t_0[rows], self.t_1[rows], P, self.backend)

    def single(self, row: int) -> Segment:
        """Return one row alone."""
        t_0, t_1, P = float(self.t_0[row]), float(self.t_1[row]), self.P[:, row]
        return Segment(t_0, t_1, P[0], P[1], list((t_1 - t_0) * P[2:]))

    @staticmethod
    def joined(parts: Sequence[BatchSegment]) -> BatchSegment:
        """Return the rows of all parts, one below the other; at least one part.

        Polynomials of lower degree get zeros for what they lack.
        """
        if len(parts) == 1:
            return parts[0]
        backend, most = parts[0].backend, max(len(part.P) for part in parts)
        padded = [
            part.P
            if len(part.P) == most
            else backend.xp.concatenate(
                [part.P, backend.full((most - len(part.P), *part.P.shape[1:]), 0.0, part.P)]
            )
            for part in parts
        ]
        return BatchSegment(
            np.concatenate([part.t_0 for part in parts]),
            np.concatenate([part.t_1 for part in parts]),
            backend.xp.concatenate(padded, 1),
            backend,
        )

    def _at(self, t: Floats, t_0: Floats, t_1: Floats, P: Array) -> Array:
        h = t_1 - t_0
        theta = np.divide(t - t_0, h, out=np.zeros_like(h), where=h != 0)
        weights = np.empty((len(P), len(t), 1))
        weights[0, :, 0], weights[1, :, 0] = 1 - theta, theta
        bubble = h * theta * (1 - theta)
        for w in weights[2:, :, 0]:
            w[:] = bubble
            bubble = bubble * theta
        return (self.backend.real_like(weights, P) * P).sum(0)


class BatchDenseOutput:
    """The solutions of a batch as functions of time.

    Parameters
    ----------
    steps : list of (BatchSegment, array of int, array of float)
        Accepted steps, the sample that each row belongs to, and where the row's step ended: at an
        event it is cut short. In the order of integration.
    shape : tuple of int
        Shape of one sample's state.
    y0 : array, shape (B, n)
        Initial states: the values of samples that made no step.
    t0 : array, shape (B,)
        Where the samples start.
    backend : Backend
        Of the states.
    """

    def __init__(
        self,
        steps: list[tuple[BatchSegment, Any, Floats]],
        shape: tuple[int, ...],
        y0: Array,
        t0: Floats,
        backend: Backend,
    ) -> None:
        self.steps, self.shape, self.y0, self.t0, self.backend = steps, shape, y0, t0, backend

    @cached_property
    def _joined(self) -> tuple[BatchSegment, Floats, list[Any]]:
        """All steps one below the other, their ends, and each sample's rows in order of time."""
        owner, ends = (np.concatenate([step[k] for step in self.steps]) for k in (1, 2))
        whole = BatchSegment.joined([step[0] for step in self.steps])
        order = np.argsort(owner, kind="stable")
        cuts = np.searchsorted(owner[order], np.arange(len(self.t0) + 1))
        return whole, ends, [order[a:b] for a, b in pairwise(cuts)]

    def sample(self, i: int) -> DenseOutput:
        """Return the dense output of sample i alone."""
        breaks, segments = [float(self.t0[i])], []
        if self.steps:
            whole, ends, rows = self._joined
            breaks += ends[rows[i]].tolist()
            for r in rows[i]:
                segments.append(whole.single(r))
        return DenseOutput(breaks, segments, self.shape, self.backend, self.y0[i])

    def __call__(self, t: Any) -> Array:
        """Evaluate the solutions.

        Parameters
        ----------
        t : float or array_like, shape (m,) or (m, B)
            Times: for all samples, or for each its own.

        Returns
        -------
        array
            Shape ``(B, *shape)`` for one time, ``(m, B, *shape)`` for many.

        Raises
        ------
        ValueError
            If a time is outside what was solved of a sample.
        """
        times, B = to_numpy(t), len(self.t0)
        if times.ndim > 2 or (times.ndim == 2 and times.shape[1] != B):
            msg = f"t must be a number or have shape (m,) or (m, {B}), not {times.shape}"
            raise ValueError(msg)
        table = np.broadcast_to(
            times.reshape((-1, 1 if times.ndim < 2 else B)),
            (1 if times.ndim == 0 else len(times), B),
        )
        columns = [self._sample_at(i, np.ascontiguousarray(table[:, i])) for i in range(B)]
        y = self.backend.xp.stack(columns, 1).reshape((*table.shape, *self.shape))
        return y[0] if times.ndim == 0 else y

    def _sample_at(self, i: int, t: Floats) -> Array:
        empty: Any = (None, np.zeros(0), [[]] * len(self.t0))
        whole, last, rows = self._joined if self.steps else empty
        ends = [float(self.t0[i])] + ([] if whole is None else last[rows[i]].tolist())
        outside = ~((t >= min(ends[0], ends[-1])) & (t <= max(ends[0], ends[-1])))
        if outside.any():
            msg = (
                f"t = {float(t[outside][0])!r} is outside [{min(ends[0], ends[-1])!r}, "
                f"{max(ends[0], ends[-1])!r}], the interval solved of sample {i}"
            )
            raise ValueError(msg)
        if whole is None or not len(rows[i]):
            return self.y0[i] * self.backend.real_like(np.ones((len(t), 1)), self.y0)
        sign = 1.0 if ends[-1] >= ends[0] else -1.0
        index = np.searchsorted(sign * np.asarray(ends), sign * t, side="left") - 1
        return whole.rows(rows[i][np.clip(index, 0, len(rows[i]) - 1)], t)
