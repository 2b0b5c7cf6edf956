"""Step size control of a batch: what `solvers.control` decides for one solve, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._array import Array, Backend, is_torch
from ..control import Controller, PIDController, hairer_combination
from .problem import Floats

__all__ = ["BatchControl", "BatchErrorRatio"]


class BatchErrorRatio:
    """Rms over the components of each row of err_i / (atol_i + rtol_i max|y_i|).

    A `norm` of the rows, from shape (b, n) to (b,), may take the rms's place.
    """

    def __init__(self, rtol: Any, atol: Any, y: Array, backend: Backend, norm: Any = None) -> None:
        # As for one solve: with atol = 0 a component at rest at zero has the ratio 0, not 0/0.
        self.rtol, self.atol, self.backend = rtol, atol + backend.tiny(y), backend
        self.norm = norm
        self.inward: Any = lambda x: backend.detach(backend.array(x))
        self.scale: Array = None
        """Tolerances of the last attempt; `outward` leads to the library of the states."""
        self.outward: Any = lambda x: x
        if norm is None:
            self.norm = self._rms
            self.backend, inward, self.outward = backend.bridge(y)
            self.inward = lambda x: inward(backend.detach(x)) if is_torch(x) else x
            self.rtol, self.atol = (
                tol if isinstance(tol, float) else self.inward(tol) for tol in (rtol, self.atol)
            )
        self.known: tuple[Array, ...] = (None, None, None, None)
        """States at the start and the end of the last attempt, and their moduli: one of them is
        where the next one starts."""

    def take(self, rows: Any) -> None:
        """Go on with some of the rows."""
        if not isinstance(self.rtol, float):
            self.rtol = self.rtol[rows]
        if not isinstance(self.atol, float):
            self.atol = self.atol[rows]

    def __call__(self, errors: list[Array], y: Array, y_new: Array) -> Floats:
        """Return the ratios, shape (b,); NaN or inf where the error estimate is."""
        backend, inward = self.backend, self.inward
        start, end, size, size_end = self.known
        if y is end:
            size = size_end
        elif y is not start:
            size = backend.absolute(inward(y))
        size_new = backend.absolute(inward(y_new))
        self.known = y, y_new, size, size_new
        scale = self.scale = backend.xp.maximum(size, size_new)
        scale *= self.rtol
        scale += self.atol
        ratios: list[Floats] = [self.norm(inward(err) / scale) for err in errors]
        if len(ratios) == 1:
            return ratios[0]
        pairs = zip(*(ratio.tolist() for ratio in ratios), strict=True)
        return np.array([hairer_combination(*pair) for pair in pairs])

    def _rms(self, x: Array) -> Floats:
        """Rms of each row: NaN or inf only where the row holds such."""
        backend = self.backend
        rms: Floats = backend.row_rms(x)
        if rms.max() < np.inf:
            return rms
        top = backend.host(backend.xp.amax(backend.absolute(x), 1))  # squares may have overflown
        careful = np.isfinite(top) & (top > 0)
        scale = backend.real_like(np.where(careful, top, 1.0)[:, None], x)
        return np.where(careful, top * backend.row_rms(x / scale), top)


class BatchControl:
    """A controller with a memory for each row."""

    def __init__(self, controller: Controller, size: int) -> None:
        self.controller, self.together = controller, type(controller) is PIDController
        start = controller.init()
        self.memory: Any = [start] * size
        if self.together:
            self.memory = [*(np.full(size, part) for part in start[:-1]), None]
            # The last entry, which rows were rejected, is None where none was.

    def take(self, rows: Any) -> None:
        """Go on with some of the rows."""
        if self.together:
            self.memory = [None if part is None else part[rows] for part in self.memory]
        else:
            self.memory = [self.memory[i] for i in rows]

    def forget(self, rows: Any) -> None:
        """Start anew in some rows: their method is another."""
        start = self.controller.init()
        if self.together:
            known = zip(self.memory[:-1], start, strict=False)
            self.memory[:-1] = [np.where(rows, first, part) for part, first in known]
            return
        for i in np.flatnonzero(rows):
            self.memory[i] = start

    def __call__(self, ratio: Floats, active: Any, order: Any) -> tuple[Any, Floats]:
        """Judge a step of the `active` rows; return where to accept, and the factors.

        `order` is that of the error estimate: one number, or one for each row.
        """
        if self.together:
            return self._filter(ratio, order)
        orders = np.broadcast_to(order, len(ratio))
        accept, factor = np.zeros(len(ratio), bool), np.ones(len(ratio))
        known = np.where(np.isnan(ratio), np.inf, ratio)  # what is not known is a rejection
        for i in np.flatnonzero(active):
            answer = self.controller(float(known[i]), self.memory[i], int(orders[i]))
            accept[i], factor[i], self.memory[i] = answer
            if not factor[i] > 0:
                msg = (
                    f"controller returned factor={answer[1]!r} for the ratio {ratio[i]!r}; "
                    "must be > 0"
                )
                raise ValueError(msg)
        return accept, factor

    def _filter(self, ratio: Floats, order: Any) -> tuple[Any, Floats]:
        """`pid_rule` on arrays; where no row is rejected, half of it."""
        pid: PIDController = self.controller  # type: ignore[assignment]
        k = order + 1
        r_1, r_2, f_1, f_2, rejected = self.memory
        set_point = pid.safety**k
        accept = ratio < 1.0
        bounded = np.fmin(ratio, 1.0)  # of NaN, too
        factor = np.maximum(bounded, 1e-12)
        factor /= set_point
        factor **= -pid.beta_1 / k
        if pid.beta_2:
            factor *= r_1 ** (-pid.beta_2 / k)
        if pid.beta_3:
            factor *= r_2 ** (-pid.beta_3 / k)
        if pid.alpha_2:
            factor *= f_1**-pid.alpha_2
        if pid.alpha_3:
            factor *= f_2**-pid.alpha_3
        longest = pid.max_factor if rejected is None else np.where(rejected, 1.0, pid.max_factor)
        np.maximum(factor, pid.min_factor, out=factor)
        np.minimum(factor, longest, out=factor)
        r = np.maximum(bounded, 1e-4, out=bounded)
        r /= set_point
        if np.count_nonzero(accept) == len(accept):
            self.memory = [r, r_1, factor, f_1, None]
            return accept, factor
        known = np.where(np.isfinite(ratio), ratio, np.inf)
        shrunk = np.maximum(pid.safety * np.maximum(known, 1.0) ** (-1 / k), pid.min_factor)
        factor = np.where(accept, factor, shrunk)
        self.memory = [
            np.where(accept, r, r_1),
            np.where(accept, r_1, r_2),
            np.where(accept, factor, f_1 * shrunk),
            np.where(accept, f_1, f_2),
            ~accept,
        ]
        return accept, factor
