"""The stages of Radau IIA methods, for a batch of rows with their own step sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import numpy as np

from ..._array import Array
from ..newton_step import PATIENT, REUSE_RATE, RadauStages, radau_iterations, radau_stop
from ..radau import radau_transformation
from ..step import combine
from ..tableau import ButcherTableau
from .linear import BatchAlgebra
from .problem import BatchProblem, Floats
from .stiff import LinearStages, iterate

__all__ = ["RadauBatch"]


@final
class RadauBatch(LinearStages):
    """Steps of a Radau IIA method: what `RadauStages` does, each row at its own pace.

    Every row keeps its Jacobian as long as Newton's method contracts with it. Where autograd looks
    on, the stages get one more correction, by all of them together: see `_differentiable`.
    """

    hold = RadauStages.hold

    def __init__(
        self,
        problem: BatchProblem,
        tableau: ButcherTableau,
        linear: BatchAlgebra,
        rtol: Any,
        atol: Any,
        *,
        correct: bool = False,
    ) -> None:
        super().__init__(problem, tableau, linear)
        y, backend = problem.y0, self.backend
        b, n = problem.size, y.shape[1]
        s = self.error_order = tableau.n_stages
        self.correct = correct
        self.tolerate(rtol, atol)
        self.real = y.real.dtype == y.dtype
        data = radau_transformation(tableau)
        self.data = data = data if self.real else data.full()
        self.gamma, self.pairs = float(data.eigenvalues[0].real), data.eigenvalues[1:]
        self.share = math.sqrt((1 + len(self.pairs)) / s)
        """Of a pair one half is in the vectors whose rms is that of all stages."""
        plane = backend.detach(y[:1]) + 0j
        self.S, self.S_inv = (backend.vector(x, plane) for x in (data.S, data.S_inv))
        self.inverses = backend.vector(1 / data.eigenvalues, plane)[:, None, None]
        self.A = backend.vector(tableau.A, y)
        self.e, self.bubble = (data.e / self.gamma).tolist(), data.bubble.tolist()
        self.eps = float(backend.xp.finfo(y.dtype).eps)
        self.Z: Array = backend.full((s, b, n), 0.0, y)
        """Y_i − y of the last attempt, as autograd knows them."""
        self.found: Array = self.Z
        """The same, as Newton's method left them."""
        self.Z_old: Array = self.Z
        """The same of the step before."""
        self.y: Array = None
        self.y_new: Array = None
        self.err: Array = None
        self.made = np.full(b, math.nan), np.zeros(b)
        """Times and step sizes of the last attempt, where it succeeded."""
        self.t, self.h_now = self.made
        self.h_old = np.full(b, math.nan)
        """Step sizes of the step before; NaN where there was none."""
        self.eta = np.ones(b)
        self.rate, self.iterations = np.ones(b), np.zeros(b, int)
        self.known, self.current = np.zeros(b, bool), np.zeros(b, bool)
        """Where J may be used, and where it belongs to the state that the step starts from."""
        self.careful = np.ones(b, bool)
        """Where the step is the first, or follows a rejection: then the estimate may be filtered
        twice."""
        self.solves: tuple[Callable[[Array], Array], ...] | None = None
        self.h_solved = np.zeros(b)

    # The stages -----------------------------------------------------------------------------------

    def attempt(self, t: Floats, h: Floats, y: Array) -> Array:
        """Compute the stages; see `BatchStages`."""
        backend, xp = self.backend, self.backend.xp
        # Steps that are made again, for autograd's sake, are those that Newton's method found.
        again = (t == self.made[0]) & (h == self.made[1]) & (h != 0)
        work = (h != 0) & ~again
        self.y, self.t, self.h_now, self.err, self._end = y, t, h, None, None
        with backend.no_grad():
            start, f_0 = backend.detach(y), backend.detach(self.f_0)
            self._renew(work & ~self.known, t, start, f_0)
            guess = xp.where(self._rows(again), self.found, self._predict(h))
            failed, broken = self._newton(work, t, h, start, guess)
            old = failed & ~self.current
            if old.any():  # another go, with a Jacobian of the step's own start
                self._renew(old, t, start, f_0)
                guess = xp.where(self._rows(old), self._predict(h), self.found)
                failed_again, broken_again = self._newton(old, t, h, start, guess)
                failed = np.where(old, failed_again, failed)
                broken = np.where(old, broken_again, broken)
            if broken.any():
                self.found = xp.where(self._rows(broken), math.nan * self.found, self.found)
        self.failed, self.longest = failed & ~broken, 0.25 * np.abs(h)
        self.made = np.where(failed, math.nan, t), h
        self.Z = self._differentiable(t, h, y, self.found) if self.correct else self.found
        self.y_new = y + self.Z[-1]
        return self.y_new

    def _rows(self, mask: Any) -> Array:
        """Return a mask of rows for arrays of shape (..., b, n)."""
        return self.backend.mask(np.asarray(mask)[:, None], self.found)

    def _column(self, h: Floats) -> Array:
        return self.backend.real_like(h[:, None], self.Z_old)

    def _renew(self, rows: Any, t: Floats, y: Array, f_0: Array) -> None:
        """Make the Jacobians of some rows."""
        if rows.any():
            J = self.backend.detach(self.linear.jacobian(t, y, f_0))
            if not rows.all() and self.J is not None:
                J = self.backend.xp.where(self._rows(rows)[..., None], J, self.J)
            self.J, self.solves = J, None
            self.known, self.current = self.known | rows, self.current | rows

    def _solves(self, h: Floats) -> tuple[Callable[[Array], Array], ...]:
        """Return the solutions of the real systems and of the complex ones, factorised once."""
        # Steps of a uniform grid differ by roundings: they share a factorisation.
        if self.solves is None or (np.abs(h - self.h_solved) > 1e-12 * np.abs(h)).any():
            solver = self.linear.solver
            c = h / self.pairs[:, None]
            self.solves = solver(self.J, h / self.gamma), solver(self.J, c)
            self.h_solved = h
        return self.solves

    def _predict(self, h: Floats) -> Array:
        """Return Z by extrapolation of the collocation polynomial of the step before."""
        after = np.isfinite(self.h_old)
        if not after.any():
            return 0 * self.Z_old
        ratio = np.divide(h, self.h_old, out=np.zeros_like(h), where=after)
        weights = self.backend.vector(self.data.extrapolation(ratio), self.Z_old)
        return self.backend.xp.einsum("bij,jbn->ibn", weights, self.Z_old)

    def _values(self, t: Floats, h: Floats, Y: Array) -> Array:
        """Return f of all stages, shape (s, b, n)."""
        p = self.problem
        times = [p.time(t + h - (1 - c_i) * h) for c_i in self.tableau.c.tolist()]
        return self.backend.xp.stack(
            [p.lasting(time, Y_i) for time, Y_i in zip(times, Y, strict=True)]
        )

    def _newton(self, work: Any, t: Floats, h: Floats, y: Array, Z: Array) -> tuple[Any, Any]:
        """Solve for the stages of some rows, from Z on; return where that failed, and was broken.

        Unknown are W = S⁻¹ Z, in the coordinates in which A⁻¹ is diagonal.
        """
        self.found = Z
        if not work.any():
            return np.zeros_like(work), np.zeros_like(work)
        backend, xp, S, S_inv = self.backend, self.backend.xp, self.S, self.S_inv
        (solve, solve_pairs), weights = self._solves(h), self.inverses * self._column(h)
        scale = self.atol + self.rtol * backend.absolute(y)
        W = xp.tensordot(S_inv, Z + 0j, 1)

        def correct(moves: Any) -> Floats:
            nonlocal W
            F = self._values(t, h, y + self.found)
            right = xp.tensordot(S_inv, F + 0j, 1) * weights - W
            first = solve(right[0].real if self.real else right[0])
            change = xp.concatenate([first[None] + 0j, solve_pairs(right[1:])])
            rows = xp.moveaxis(change / scale, 0, 1).reshape((len(h), -1))
            norm = self.share * backend.row_rms(rows)
            moved = self._rows(moves & np.isfinite(norm))
            W = xp.where(moved, W + change, W)
            Z = xp.tensordot(S, W, 1)
            self.found = xp.where(moved, Z.real if self.real else Z, self.found)
            return norm

        least = self.rtol
        if not isinstance(least, float):
            least = backend.host(least).min(axis=1, initial=1.0)
        tol = np.maximum(10 * self.eps / least, radau_stop(least))
        eta = np.maximum(self.eta, self.eps) ** 0.8
        most = PATIENT if self.fixed else radau_iterations(self.tableau.n_stages)
        run = iterate(correct, work, eta, tol, most)
        self.eta = np.where(work, run.eta, self.eta)
        self.rate = np.where(work, run.rate, self.rate)
        self.iterations = np.where(work, run.iterations, self.iterations)
        return run.failed, run.broken

    def _differentiable(self, t: Floats, h: Floats, y: Array, Z: Array) -> Array:
        """Make one more correction, by Newton's own method, with the Jacobians of all stages.

        By the implicit function theorem its derivatives are those of the solution. The simplified
        method's matrix would leave them wrong by what J changes over the step.
        """
        backend, xp, (s, b, n) = self.backend, self.backend.xp, Z.shape
        F = self._values(t, h, y + Z)
        with backend.no_grad():
            Y, known = backend.detach(y) + Z, backend.detach(F)
            J = xp.stack(
                [
                    backend.detach(self.linear.jacobian(t + h - (1 - c_i) * h, Y_i, f_i))
                    for c_i, Y_i, f_i in zip(self.tableau.c.tolist(), Y, known, strict=True)
                ]
            )
            blocks = xp.einsum("ij,jbkl->bikjl", self.A, J).reshape((b, s * n, s * n))
            solve = self.linear.solver(blocks, h)
        right = self._column(h) * xp.tensordot(self.A, F, 1) - Z
        change = solve(xp.moveaxis(right, 0, 1).reshape((b, s * n)))
        # J is a constant here, so that second derivatives would be wrong.
        return backend.differentiable_once(Z + xp.moveaxis(change.reshape((b, s, n)), 1, 0))

    # The end of the step --------------------------------------------------------------------------

    def errors(self) -> list[Array]:
        """Return Hairer's estimate (IV.8.19), (IV.8.20) after a rejection and at the start."""
        if self.err is None:
            with self.backend.no_grad():
                self.err = self._estimate()
        return [self.backend.copy(self.err)]

    def _estimate(self) -> Array:
        backend, xp, t, h = self.backend, self.backend.xp, self.t, self.h_now
        y, y_new, f_0 = (backend.detach(x) for x in (self.y, self.y_new, self.f_0))
        solve, weight = self._solves(h)[0], self._column(h / self.gamma)
        rest = combine(self.e, list(backend.detach(self.Z)))
        err = solve(weight * f_0 + rest)
        tried = (h != 0) & np.isfinite(self.made[0])
        if self.careful.any():
            size = xp.maximum(backend.absolute(y), backend.absolute(y_new))
            ratio = backend.row_rms(err / (self.atol + self.rtol * size))
            again = self.careful & tried & (ratio >= 1)
            if again.any():
                rows, p = self._rows(again), self.problem
                moved = p(p.time(t), xp.where(rows, y + err, y))
                err = xp.where(rows, solve(weight * moved + rest), err)
        self.careful = self.careful | tried
        return err

    def advance(self, accept: Any, t: Floats, y: Array) -> None:
        """Get ready for the next step; see `BatchStages`."""
        super().advance(accept, t, y)
        Z, rows = self.backend.detach(self.Z), np.ones(len(t), bool)
        if accept is not None:
            Z, rows = self.backend.xp.where(accept, Z, self.Z_old), self.backend.numpy(accept)[:, 0]
        rows = rows & (self.h_now != 0)
        self.Z_old, self.h_old = Z, np.where(rows, self.h_now, self.h_old)
        self.careful = self.careful & ~rows
        self.current = self.current & ~rows
        slow = (self.iterations > 2) & (self.rate > REUSE_RATE)
        self.known = self.known & ~(rows & slow)
        self.made = np.full(len(t), math.nan), self.h_now

    def forget(self, rows: Any) -> None:
        """Start anew in some rows; see `LinearStages`."""
        self.h_old = np.where(rows, math.nan, self.h_old)
        self.eta, self.rate = np.where(rows, 1.0, self.eta), np.where(rows, 1.0, self.rate)
        self.iterations = np.where(rows, 0, self.iterations)
        self.known, self.current = self.known & ~rows, self.current & ~rows
        self.careful = self.careful | rows
        self.made = np.where(rows, math.nan, self.made[0]), self.made[1]

    def smoothed(self, slope: Array) -> Array:
        """Return (I − cJ)⁻¹ c x for a slope x; see `LinearStages`."""
        return self._solves(self.h_now)[0](self._column(self.h_now / self.gamma) * slope)

    def bubbles(self, t: Floats, t_new: Floats, y: Array, y_new: Array) -> list[Array]:  # noqa: ARG002
        """Return those of the collocation polynomial, of order s."""
        inverse = self.inverse(t_new - t, y)
        return [inverse * combine(row, list(self.Z)) for row in self.bubble]

    def take(self, problem: BatchProblem, rows: Any) -> None:
        """Go on with some of the rows."""
        super().take(problem, rows)
        take = self.backend.take
        if self.J is not None:
            self.J = take(self.J, rows, 0)
        for name in ("Z", "found", "Z_old"):
            setattr(self, name, take(getattr(self, name), rows, 1))
        for name in (
            *("t", "h_now", "h_old", "eta", "rate", "iterations"),
            *("known", "current", "careful", "h_solved"),
        ):
            setattr(self, name, getattr(self, name)[rows])
        self.made = self.made[0][rows], self.made[1][rows]
        self.solves = self.err = self.y = self.y_new = None
        for name in ("rtol", "atol"):
            if not isinstance(getattr(self, name), float):
                setattr(self, name, getattr(self, name)[rows])
