"""A step of rows by an explicit method, as the stiffness detector looks at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._array import Array, is_torch
from .problem import Floats
from .stages import ExplicitBatch

if TYPE_CHECKING:
    from ...stiffness.proof import Mode, StepRows

__all__ = ["ExplicitStep"]


class ExplicitStep:
    """The last step of rows that go by an explicit method, apart from autograd.

    Parameters
    ----------
    stages : ExplicitBatch
        Those of the whole step, before it moves on; f at its ends is known to them.
    rows : array of int, shape (r,), or None
        Which of the step's rows are looked at; by default all.
    t, h : array, shape (b,)
        Ends and signed sizes.
    y, y_new : array, shape (b, n)
        States at both ends. Of a row that rests or was rejected nothing is to be asked.
    scale : array, shape (b, n)
        Tolerances of the step.
    """

    def __init__(
        self,
        stages: ExplicitBatch,
        rows: Any,
        t: Floats,
        h: Floats,
        y: Array,
        y_new: Array,
        scale: Array,
    ) -> None:
        outer = self.outer = stages.outer
        self.stages, self.places = stages, np.arange(len(t)) if rows is None else rows
        self.rows, self.ends, self.sizes, self.y_new = rows, t, h, outer.detach(y_new)
        self.backend, self.inward, self.outward = stages.aside
        given = (y, y_new, stages.slope_at_end(t, y_new), stages.f_0, scale)
        self.y, self.y_end, self.f_new, self.f_0, self.scale = (self._own(x) for x in given)
        self.t: Floats = t if rows is None else t[rows]
        self.h: Floats = h if rows is None else h[rows]

    def _own(self, x: Array) -> Array:
        x = self.inward(self.outer.detach(x)) if is_torch(x) else x
        return x if self.rows is None else self.backend.take(x, self.rows, 0)

    def changes(self) -> tuple[Floats, Floats]:
        """Return how much the state and the slope change: rms in units of the tolerance."""
        return self._norm_of_own(self.y_end - self.y), self._norm_of_own(self.f_new - self.f_0)

    def _norm_of_own(self, x: Array) -> Floats:
        """Return the rms of rows in units of the tolerance; x is used up."""
        x /= self.scale
        return self.backend.row_rms(x)

    def stage_ratio(self) -> Floats:
        """Return ‖Δf‖ / ‖Δy‖ of two states at the end of the step, in units of the tolerance."""
        given = self.ends, self.sizes, self.y_new, self.rows
        change, bend = map(self.inward, self.stages.same_time(*given))
        above, below = self._norm_of_own(bend), self._norm_of_own(change) * np.abs(self.h)
        ratio: Floats = np.divide(above, below, out=np.zeros(len(below)), where=below > 0)
        return ratio

    def prove(self, rows: Any, *, apart: bool) -> tuple[list[Mode | None], int]:
        """Find the modes of some of these rows, as `proof.prove`, and count the calls of f.

        `apart` says whether f takes some of the rows alone.
        """
        from ...stiffness.proof import prove
        from ...stiffness.trigger import SLOW

        least = SLOW * self.stages.tableau.real_stability_limit
        calls, lost = self.stages.problem.nfev, np.zeros(len(rows), bool)
        modes = prove(self._rows(rows, lost, apart=apart), least)
        found = [None if bad else mode for mode, bad in zip(modes, lost, strict=True)]
        return found, self.stages.problem.nfev - calls

    def rates_along(self, rows: Any, directions: Array, *, apart: bool) -> Floats:
        """Return ‖J v‖ / ‖v‖ of a direction in some of these rows; NaN where f is not finite."""
        from ...stiffness.proof import rates_along

        lost = np.zeros(len(rows), bool)
        rates = rates_along(self._rows(rows, lost, apart=apart), directions)
        return np.where(lost, np.nan, rates)

    def _rows(self, rows: Any, lost: Any, *, apart: bool) -> StepRows:
        """Return some rows for `stiffness.proof`; `lost` is told where f is not finite."""
        from ...stiffness.proof import StepRows

        backend, inward = self.backend, self.inward
        err = self._own(self.stages.errors()[0])
        arrays = (self.y_end, self.y, self.f_new, self.f_0, err, self.scale)
        y, y_0, f_new, f_0, err, scale = (backend.take(x, rows, 0) for x in arrays)
        places = self.places[rows]
        call = self._alone(places) if apart else self._among_all(places)

        def f(t: Floats, state: Array) -> Array:
            value = inward(call(t, self.outward(state)))
            bad = ~backend.rows_finite(value)
            if not bad.any():
                return value
            lost[bad] = True  # the other rows go on
            return backend.xp.where(backend.mask(bad[:, None], value), f_new, value)

        def norm(x: Array) -> Floats:
            return backend.row_rms(x / scale)

        return StepRows(f, self.t[rows], self.h[rows], y, f_new, y - y_0, f_new - f_0, err, norm)

    def _alone(self, rows: Any) -> Callable[[Floats, Array], Array]:
        part = self.stages.problem.take(rows)
        return lambda t, y: part.lasting(part.time(t), y)

    def _among_all(self, rows: Any) -> Callable[[Floats, Array], Array]:
        problem, outer = self.stages.problem, self.outer

        def f(t: Floats, y: Array) -> Array:
            times, states = self.ends.copy(), outer.copy(self.y_new)
            times[rows] = t
            states[outer.index(rows, states)] = y
            return outer.take(problem.lasting(problem.time(times), states), rows, 0)

        return f
