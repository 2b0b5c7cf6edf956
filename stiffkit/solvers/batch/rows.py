"""The rows of a batch: whose they are, which still run, and how the others have ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..._optional import require
from ..options import counted
from ..solution import Status
from .problem import BatchProblem, Floats

__all__ = ["BatchProgress", "Rows", "not_finite", "out_of_steps", "too_small"]


class Rows:
    """Whose the rows are, which of them still run, and how samples have ended.

    Parameters
    ----------
    size : int
        Number of samples.
    """

    def __init__(self, size: int) -> None:
        self.index = np.arange(size)
        """The sample that each row belongs to."""
        self.running = np.ones(size, bool)
        """Never written to: a row that ends makes a new array."""
        self.left = size
        """How many rows run."""
        self.status: list[Status | None] = [None] * size
        self.message = [""] * size

    @property
    def all_run(self) -> bool:
        """Whether no row rests."""
        return self.left == len(self.running)

    def finish(self, rows: Any, status: Status, why: Callable[[int], str] | None = None) -> None:
        """End some rows; `why` tells the message of a row."""
        ended = np.flatnonzero(rows & self.running)
        if not len(ended):
            return
        for i in ended.tolist():
            sample = self.index[i]
            self.status[sample] = status
            self.message[sample] = status.value if why is None else why(i)
        self.running = self.running & ~rows
        self.left -= len(ended)

    def take(self, rows: Any) -> None:
        """Go on with some of the rows."""
        self.index, self.running = self.index[rows], self.running[rows]
        self.left = int(self.running.sum())


def not_finite(t: Floats, h_abs: Floats) -> Callable[[int], str]:
    """Return the message of a row whose step gave what is not finite."""
    return lambda i: (
        f"f, or the state, is not finite within the step after t = {float(t[i])!r} by "
        f"{float(h_abs[i])!r}"
    )


def too_small(t: Floats, h_abs: Floats, non_finite: Any) -> Callable[[int], str]:
    """Return the message of a row whose step size vanished."""

    def why(i: int) -> str:
        cause = (
            "f is not finite beyond it" if non_finite[i] else "the solution may be singular there"
        )
        return (
            f"the step size {float(h_abs[i]):.3g} fell below the spacing of times at "
            f"t = {float(t[i])!r}: {cause}, or f is discontinuous, or the tolerances are too tight "
            "for the dtype"
        )

    return why


def out_of_steps(t: Floats, t1: Floats, h_abs: Floats, max_steps: float) -> Callable[[int], str]:
    """Return the message of a row that has made all the attempts it may."""
    return lambda i: (
        f"made max_steps = {counted(max_steps, 'attempt')} and reached t = {float(t[i])!r} of "
        f"{float(t1[i])!r}; the last step size was {float(h_abs[i]):.3g}"
    )


class BatchProgress:
    """A tqdm bar that counts the samples that have ended, or nothing."""

    def __init__(self, problem: BatchProblem, *, enabled: bool) -> None:
        self.problem, self.bar = problem, None
        if enabled:
            tqdm = require("tqdm.auto", "diffusion", "progress=True").tqdm
            layout = "{l_bar}{bar}| {n:.0f} of {total:.0f} samples done [{elapsed}<{remaining}]"
            self.bar = tqdm(total=problem.size, bar_format=layout)

    def update(self, left: int) -> None:
        """Show how many samples have ended."""
        if self.bar is not None:
            self.bar.update(self.problem.size - left - self.bar.n)

    def __enter__(self) -> BatchProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.update(self.bar.total - self.bar.n)
            self.bar.close()
