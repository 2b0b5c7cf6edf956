"""A step of rows by an explicit method, as the stiffness detector looks at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._array import Array
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
        Theirs, before they move on; f at the ends of the step is known to them.
    t, h : array, shape (b,)
        Ends and signed sizes.
    y, y_new : array, shape (b, n)
        States at both ends. Of a row that rests or was rejected nothing is to be asked.
    rtol, atol : float or array of shape (b, n)
        Tolerances of these rows.
    """

    def __init__(
        self,
        stages: ExplicitBatch,
        t: Floats,
        h: Floats,
        y: Array,
        y_new: Array,
        rtol: Any,
        atol: Any,
    ) -> None:
        backend = self.backend = stages.outer
        self.stages, self.t, self.h = stages, t, h
        self.y, self.y_new = backend.detach(y), backend.detach(y_new)
        self.f_new = backend.detach(stages.outward(stages.slope_at_end(t, y_new)))
        size = backend.xp.maximum(abs(self.y), abs(self.y_new))
        self.scale = size * rtol + (atol + backend.tiny(y))

    def norm(self, x: Array, rows: Any = None) -> Floats:
        """Return the rms of rows in units of the tolerance."""
        backend = self.backend
        scale = self.scale if rows is None else backend.take(self.scale, rows, 0)
        rms: Floats = backend.host(backend.row_norm(x / scale)) / max(x.shape[1], 1) ** 0.5
        return rms

    @property
    def rise(self) -> Array:
        """Changes of the state."""
        return self.y_new - self.y

    @property
    def turn(self) -> Array:
        """Changes of the slope."""
        return self.f_new - self.backend.detach(self.stages.f_0)

    def stage_ratio(self) -> Floats:
        """Return ‖Δf‖ / ‖Δy‖ of two states at the end of the step, in units of the tolerance."""
        change, bend = self.stages.same_time(self.t, self.h, self.y, self.y_new)
        above, below = self.norm(bend), self.norm(change)
        return np.divide(above, below, out=np.zeros(len(below)), where=below > 0)

    def prove(self, rows: Any, *, apart: bool) -> tuple[list[Mode | None], int]:
        """Find the modes of some rows, and how many calls of f that has cost; see `proof.prove`.

        `apart` says whether f takes some of the rows alone.
        """
        from ...stiffness.proof import prove

        calls, lost = self.stages.problem.nfev, np.zeros(len(rows), bool)
        modes = prove(self._rows(rows, lost, apart=apart))
        found = [None if bad else mode for mode, bad in zip(modes, lost, strict=True)]
        return found, self.stages.problem.nfev - calls

    def rates_along(self, rows: Any, directions: Array, *, apart: bool) -> Floats:
        """Return ‖J v‖ / ‖v‖ of a direction in each of some rows; NaN where f is not finite."""
        from ...stiffness.proof import rates_along

        lost = np.zeros(len(rows), bool)
        rates = rates_along(self._rows(rows, lost, apart=apart), directions)
        return np.where(lost, np.nan, rates)

    def _rows(self, rows: Any, lost: Any, *, apart: bool) -> StepRows:
        """Return some rows for `stiffness.proof`; `lost` is told where f is not finite."""
        from ...stiffness.proof import StepRows

        backend = self.backend
        err = backend.detach(self.stages.errors()[0])
        arrays = (self.y_new, self.f_new, self.rise, self.turn, err)
        y, f_new, rise, turn, err = (backend.take(x, rows, 0) for x in arrays)
        call = self._alone(rows) if apart else self._among_all(rows)

        def f(t: Floats, state: Array) -> Array:
            value = call(t, state)
            bad = ~backend.rows_finite(value)
            if not bad.any():
                return value
            lost[bad] = True  # the other rows go on
            return backend.xp.where(backend.mask(bad[:, None], value), f_new, value)

        def norm(x: Array) -> Floats:
            return self.norm(x, rows)

        return StepRows(f, self.t[rows], self.h[rows], y, f_new, rise, turn, err, norm)

    def _alone(self, rows: Any) -> Callable[[Floats, Array], Array]:
        part = self.stages.problem.take(rows)
        return lambda t, y: part.lasting(part.time(t), y)

    def _among_all(self, rows: Any) -> Callable[[Floats, Array], Array]:
        problem, backend = self.stages.problem, self.backend

        def f(t: Floats, y: Array) -> Array:
            times, states = self.t.copy(), backend.copy(self.y_new)
            times[rows] = t
            states[backend.index(rows, states)] = y
            return backend.take(problem.lasting(problem.time(times), states), rows, 0)

        return f
