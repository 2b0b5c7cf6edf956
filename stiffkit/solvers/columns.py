"""Solutions that were made by one call: arrays of all, until somebody asks for one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .solution import Solution, Status, plain_solution

__all__ = ["SolutionColumns"]


@dataclass(frozen=True, eq=False)
class SolutionColumns:
    """Solutions that have all ended in one way; each is made when it is asked for.

    It then has arrays of its own: one that is kept does not keep the others.
    """

    t: np.ndarray[Any, Any]
    """Times of each, one after the other; or those that all have."""
    y: np.ndarray[Any, Any]
    """States of each, one after the other: shape ``(rows, *shape)``."""
    bounds: np.ndarray[Any, Any]
    """The i-th has rows ``bounds[i]`` to ``bounds[i + 1]``."""
    counts: np.ndarray[Any, Any]
    """Its `stats`, in their order: shape (len(self), 5)."""
    status: Status
    message: str

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, i: int) -> Solution:
        """Make a solution."""
        start, end = self.bounds[i : i + 2].tolist()
        return self._made(start, end, self.counts[i].tolist())

    def __iter__(self) -> Iterator[Solution]:
        bounds = self.bounds.tolist()
        return map(self._made, bounds, bounds[1:], self.counts.tolist())

    def _made(self, start: int, end: int, counts: Sequence[int]) -> Solution:
        t = self.t[start:end] if len(self.t) == len(self.y) else self.t
        y = self.y[start:end]
        return plain_solution(t.copy(), y.copy(), self.status, self.message, counts)

    def final_states(self) -> Any:
        """Return the last state of each, shape ``(len(self), *shape)``."""
        return self.y[self.bounds[1:] - 1]
