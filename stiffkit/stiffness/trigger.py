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
    "lately",
    "least_share",
    "pays_looks",
    "signs",
    "smooth_error",
    "turned",
    "unexplained",
]

ROOM = 2.0
"""Accuracy would have to allow so many times the step for stability to be what limits it."""

LEAST_RATIO = 1e-3
"""Error over tolerance below which it may be rounding, or the start of a solve."""

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


def unexplained(ratio: Any, smooth: Any, order: int) -> Any:
    """Whether the smooth path's error leaves an error estimate unexplained."""
    # Steps `ROOM` times as long would make the smooth path's error as large as the one reported.
    return (ratio > LEAST_RATIO) & (ratio > ROOM ** (order + 1) * smooth)


def turned(h: Any, ratio: Any, rise: Any, turn: Any, order: int) -> Any:
    """Whether the path turns so much that a fast mode may be what turns it, and explains the error.

    A mode z = hλ that makes up a share ξ of the change turns the path by κ = ξ|z|, and makes an
    error near Â |z|^q ξ ‖Δy‖. Of this κ explains 1/`ROOM`^(q+1) or more only if ξ^(q−1) is that
    large too; and |z| is about 1 or more where stability limits a step.
    """
    least = ROOM ** ((order + 1) / (1 - order)) if order > 1 else 0.0
    return (ratio > LEAST_RATIO) & (abs(h) * turn > least * rise)


def signs(h: Any, left: Any, stage: Any, limit: float, least: float) -> tuple[Any, Any]:
    """Return Hairer's stage ratio over the limit, and whether the step looks like a stiff one.

    `left` says whether the error is `unexplained`; `limit` is the method's on the real axis,
    `least` a share of it; `h` and `stage` are as in `StiffnessDetector.suspicious`. Of a step whose
    error is explained, and which is not `turned`, no stage ratio is needed: 0 will do.
    """
    near = abs(h) * stage / limit
    return near, (left & (near >= least)) | (near > STAGE_RATIO)


def counted(hits: Any, last: Any, h: Any, looks: int) -> tuple[Any, Any, Any]:
    """Count a suspicious look; return hits and step size to remember, and whether it is a case.

    `hits` suspicious looks have come before it, the last at a step of size `last`, 0 without one.
    """
    # Steps that still grow fast follow a transient that dies out: no limit has been reached.
    settled = (last == 0) | (abs(h) <= GROWTH * last)
    return hits + 1, abs(h), (hits + 1 >= looks) & settled


def lately(steps: Any, resume: Any, near: Any, near_failed: Any) -> Any:
    """Whether a case waits for one that has failed, until so many steps, at this stage ratio."""
    return (steps < resume) & (near <= 1.5 * near_failed)


def pays_looks(tableau: ButcherTableau) -> bool:
    """Return whether the stage ratio of a method costs a call of f."""
    return tableau.probe is None and tableau.error_slope is None


def least_share(tableau: ButcherTableau) -> float:
    """Return what `signs` asks for as `least`."""
    return 0.0 if tableau.probe is not None and tableau.error_slope is None else QUIET


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
        self.look = int(pays_looks(tableau))
        """Calls of a look."""
        stages = tableau.n_stages - bool(tableau.fsal)
        self.rate = self.WASTED * stages - self.look / interval
        self.spent = 0
        """Calls so far, without those of regular looks."""

    def left(self, steps: Any, spent: Any = None) -> Any:
        """Return the calls that are left after so many accepted steps; less than 0 if overdrawn.

        Instead of those of this one, `spent` may give the calls of many budgets like it.
        """
        return self.CREDIT + self.rate * steps - (self.spent if spent is None else spent)

    def overdrawn(self, steps: int, reserve: int = 0) -> bool:
        """Whether so many accepted steps do not bear it, nor `reserve` calls beyond."""
        return bool(self.left(steps) + reserve < 0)
