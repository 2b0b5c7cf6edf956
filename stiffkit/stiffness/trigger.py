"""What makes `detect` suspicious of a step, and what suspicion may cost.

The formulas serve one step, rows of steps, and `stiffkit.solvers.compiled`.
"""

from __future__ import annotations

from typing import Any

from ..solvers.tableau import ButcherTableau

__all__ = [
    "ROOM",
    "SLOW",
    "STAGE_RATIO",
    "Budget",
    "calm_wait",
    "counted",
    "least_share",
    "signs",
    "smooth_error",
]

ROOM = 2.0
"""Accuracy would have to allow so many times the step for stability to be what limits it."""

GROWTH = 1.1
"""Steps that grow faster than this have not met their limit yet."""

STAGE_RATIO = 0.7
"""Share of the real stability limit from which on the stage ratio is suspicious."""

QUIET = 0.5
"""Share of that limit below which an error that the path does not explain is no fast mode's, where
the stage ratio is that of the error estimate itself. The path explains less than an eighth, so that
a mode which a proof would accept, at 0.62 of the limit, makes it 0.54 or more."""

SLOW = 0.25
"""The same for a proof that seeks nothing but a limited step; the error may be of several modes."""


def calm_wait(steps: int, first: int, interval: int) -> int:
    """Return the accepted steps to the next look where nothing is suspected after so many."""
    # Comparisons: numba compiles min and max as functions over tuples.
    wait = steps // 4
    if wait < first:
        wait = first
    return wait if wait < interval else interval


def smooth_error(h: Any, rise: Any, turn: Any, error_norm: float, order: int) -> Any:
    """Error over tolerance that the smooth path explains."""
    bend = abs(h) * turn
    # Bounded by 1e30: a path that turns faster than any method can follow overflows no power.
    kappa = bend / (rise + 1e-30 * bend + 1e-300)
    return error_norm * kappa**order * rise


def signs(
    h: Any, ratio: Any, smooth: Any, order: int, stage: Any, limit: float, least: float
) -> tuple[Any, Any]:
    """Return Hairer's stage ratio over the limit, and whether the step looks like a stiff one.

    `smooth` is what `smooth_error` says for an estimate of order `order`, `limit` the method's on
    the real axis, `least` a share of it, the others are as in `StiffnessDetector.suspicious`.
    """
    near = abs(h) * stage / limit
    # Steps `ROOM` times as long would make the smooth path's error as large as the one reported.
    unexplained = (ratio > 1e-3) & (ratio > ROOM ** (order + 1) * smooth) & (near >= least)
    return near, unexplained | (near > STAGE_RATIO)


def counted(hits: Any, last: Any, h: Any, looks: int) -> tuple[Any, Any, Any]:
    """Count a suspicious look; return hits and step size to remember, and whether it is a case.

    `hits` suspicious looks have come before it, the last at a step of size `last`, 0 without one.
    """
    # Steps that still grow fast follow a transient that dies out: no limit has been reached.
    settled = (last == 0) | (abs(h) <= GROWTH * last)
    return hits + 1, abs(h), (hits + 1 >= looks) & settled


def least_share(tableau: ButcherTableau) -> float:
    """Return what `signs` asks for as `least`."""
    return 0.0 if tableau.probe is not None else QUIET


class Budget:
    """Calls of f that lead nowhere: beyond their share of all calls, suspicion has to wait.

    Parameters
    ----------
    tableau : ButcherTableau
        The method.
    interval : int
        Steps between regular looks.
    """

    WASTED = 0.027
    """Share of all calls for regular looks, further ones, and proofs that fail, together."""
    CREDIT = 8
    """About two proofs: calls before there is anything to have a share of."""

    def __init__(self, tableau: ButcherTableau, interval: int) -> None:
        self.look = 0 if tableau.probe is not None else 1
        """Calls of a look."""
        stages = tableau.n_stages - bool(tableau.fsal)
        self.rate = self.WASTED * stages - self.look / interval
        self.spent = 0
        """Calls so far, without those of regular looks."""

    def left(self, steps: int) -> float:
        """Return the calls that are left after so many accepted steps; less than 0 if overdrawn."""
        return self.CREDIT + self.rate * steps - self.spent

    def overdrawn(self, steps: int, reserve: int = 0) -> bool:
        """Whether so many accepted steps do not bear it, nor `reserve` calls beyond."""
        return self.left(steps) + reserve < 0
