"""The step of several samples at once, as observers of a batch see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .._array import Array, backend_of
from .step import Step

__all__ = ["BatchStep", "cut", "of_samples"]


@dataclass(frozen=True, eq=False)
class BatchStep(Step):
    """The step that r samples of a batch accept together, each from its own t by its own h.

    `t`, `h` and `t_new` are arrays of shape (r,); states and slopes have shape ``(r, *shape)``.
    """

    samples: Any = None
    """Which samples these are, shape (r,)."""
    size: int = 0
    """Number of samples in the batch."""

    batched: ClassVar[bool] = True

    @property
    def _factor(self) -> Array:
        h = np.asarray(self.h).reshape((-1, *[1] * (self.y.ndim - 1)))
        return backend_of(self.y).real_like(h, self.y)

    def cut(self, args: Sequence[Any]) -> tuple[Any, ...]:
        """Return arguments of f for these samples: arrays of length `size` belong to samples."""
        return cut(args, of_samples(args, self.size), self.samples)

    def take(self, rows: Any) -> BatchStep:
        """Return the step of some of the samples: of those at these places."""
        t, h, t_new = (np.asarray(x)[rows] for x in (self.t, self.h, self.t_new))
        own = backend_of(self.y).index(rows, self.y)
        estimate = None if self.estimate is None else self.estimate[own]
        k, y, y_new = [k_j[own] for k_j in self.k], self.y[own], self.y_new[own]
        samples = self.samples[rows]
        return BatchStep(
            self.tableau, t, h, y, k, y_new, t_new, estimate, samples=samples, size=self.size
        )

    def row(self, i: int) -> Step:
        """Return the step of one sample."""
        t, h, t_new = (float(np.asarray(x)[i]) for x in (self.t, self.h, self.t_new))
        estimate = None if self.estimate is None else self.estimate[i]
        k = [k_j[i] for k_j in self.k]
        return Step(self.tableau, t, h, self.y[i], k, self.y_new[i], t_new, estimate)


def of_samples(args: Sequence[Any], size: int) -> list[bool]:
    """Return which arguments have an entry for each of so many samples."""
    shapes = [tuple(getattr(a, "shape", ())) for a in args]
    return [len(shape) > 0 and shape[0] == size for shape in shapes]


def cut(args: Sequence[Any], mine: Sequence[bool], rows: Any) -> tuple[Any, ...]:
    """Return the arguments for some rows: of those that belong to samples, these entries."""
    return tuple(
        a[backend_of(a).index(rows, a)] if own else a for a, own in zip(args, mine, strict=True)
    )
