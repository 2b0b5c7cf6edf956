"""The dense output of compiled solves: segments that are made when they are asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, final

import numpy as np

from ..dense import Segment

__all__ = ["Joined", "Segments"]


@final
class Segments(Sequence[Segment]):
    """The segments of a solve, each made when it is asked for.

    Parameters
    ----------
    t : list of float
        The accepted times, the first one included.
    y : ndarray of shape (N + 1, n)
        The states there.
    Q : ndarray of shape (N, m, n)
        Coefficients of each step's polynomial.
    last : Segment, optional
        The last one where an event cut its step.
    """

    def __init__(self, t: list[float], y: Any, Q: Any, last: Segment | None) -> None:
        self.t, self.y, self.Q, self.last = t, y, Q, last

    def __len__(self) -> int:
        return len(self.Q)

    def __getitem__(self, i: Any) -> Any:
        i = range(len(self))[i]
        if self.last is not None and i == len(self) - 1:
            return self.last
        return Segment(self.t[i], self.t[i + 1], self.y[i], self.y[i + 1], list(self.Q[i]))


@final
class Joined(Sequence[Segment]):
    """The segments of one stay after the other."""

    def __init__(self, parts: list[Segments]) -> None:
        self.parts = parts
        self.ends = np.cumsum([0, *map(len, parts)]).tolist()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, i: Any) -> Any:
        i = range(len(self))[i]
        stay = bisect_right(self.ends, i) - 1
        return self.parts[stay][i - self.ends[stay]]
