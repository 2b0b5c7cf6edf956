"""The stages of Rosenbrock and ESDIRK methods, for a batch of rows with their own step sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from ..._array import Array
from ..newton_step import MAX_ITERATIONS, PATIENT, STOP, derivative_guesses
from ..rosenbrock import RosenbrockTableau
from ..step import combine
from ..stiff_limit import INSIDE, error_factor, stiff_interpolant
from ..tableau import ButcherTableau, bubble
from .linear import BatchAlgebra
from .problem import BatchProblem, Floats
from .stages import BatchStages

__all__ = ["Contraction", "DirkBatch", "LinearStages", "RosenbrockBatch", "iterate"]


@dataclass
class Contraction:
    """How an iteration went, row by row; rows that it left alone have what they came with."""

    eta: Floats
    """Where it converged what `kept_eta` keeps for the next one, and 1 where it did not."""
    failed: Any
    """Where it did not converge."""
    broken: Any
    """Where that is because something is not finite."""
    rate: Floats
    """The worst contraction of the rows that took part."""
    iterations: Any
    """How many they took; 0 of the others."""


def iterate(
    correct: Callable[[Any], Floats], work: Any, eta: Floats, tol: Any, most: int
) -> Contraction:
    """Correct until every row converges, with Hairer's control of the contraction (HW II, IV.8).

    Parameters
    ----------
    correct : callable
        ``correct(moves)`` makes one correction of the rows where `moves`, if it is finite; returns
        its norms, shape (b,).
    work : array of bool, shape (b,)
        The rows to work on.
    eta : array, shape (b,)
        Estimates before the first change can be compared with another.
    tol : float or array of shape (b,)
        How far from its solution an iteration may stop.
    most : int
        Bound of the number of corrections.
    """
    done, old, now = ~work, None, eta
    broken, converged = np.zeros_like(work), np.zeros_like(work)
    worst, iterations = np.zeros(len(work)), np.zeros(len(work), int)
    for m in range(1, most + 1):
        if done.all():
            break
        norm = correct(~done)
        lost = ~done & ~np.isfinite(norm)
        broken |= lost
        with np.errstate(all="ignore"):
            if old is not None:
                rate = np.where(old > 0, norm / old, 0.0)
                worst = np.where(done | lost, worst, np.maximum(worst, rate))
                hopeless = (rate >= 1) | (rate ** (most - m) / (1 - rate) * norm > tol)
                now, lost = rate / (1 - rate), lost | (~done & hopeless)
            good = ~(done | lost) & ((now * norm <= tol) | (norm == 0))
            eta = np.where(good, np.maximum(now, worst / (1 - worst)), eta)  # as by `kept_eta`
        iterations = np.where(done | lost, iterations, m)
        converged |= good
        done, old = done | lost | good, norm
    failed = work & ~converged
    return Contraction(np.where(failed, 1.0, eta), failed, broken, worst, iterations)


class LinearStages(BatchStages):
    """What the families share: the Jacobian, and its age."""

    def __init__(self, problem: BatchProblem, tableau: Any, linear: BatchAlgebra) -> None:
        super().__init__(problem, tableau)
        self.linear = linear
        self.J: Array = None
        self.rtol: Any = None
        self.atol: Any = None
        self.fresh = False
        """Whether J belongs to the states that the steps start from."""
        self.h: Array = None
        self.gamma: float
        self.solve: Any = None
        """r ↦ (I − hγJ)⁻¹ r for the last attempt."""

    @property
    def njev(self) -> int:  # type: ignore[override]
        """Jacobians made, one call for all rows."""
        return self.linear.njev

    @property
    def nlu(self) -> int:  # type: ignore[override]
        """Factorisations, one call for all rows."""
        return self.linear.nlu

    def damping(self, h: Floats, y: Array, y_new: Array) -> Floats:  # noqa: ARG002
        """Return −h tr J of each row: in few dimensions the stiffest component rules the trace."""
        trace = self.backend.xp.einsum("bii->b", self.backend.detach(self.J).real)
        shrunk: Floats = -h * self.backend.host(trace)
        return shrunk

    def inside_error(self, t: Floats, t_new: Floats, y: Array, y_new: Array, looked: Any) -> Array:
        """Estimate dense output's error at `INSIDE`, in the last attempt of rows `looked` at."""
        end, detach = self._end, self.backend.detach
        mask = self.backend.mask(looked[:, None], y)
        with self.backend.no_grad():
            segment = self.segment(t, t_new, detach(y), detach(y_new))
            time = t + INSIDE * (t_new - t)
            u = self.backend.xp.where(mask, segment(time), detach(y))  # f may not bear the others
            defect = self.problem(self.problem.time(time), u) - segment.slope(time)
            error = self.smoothed(defect)
        self._end = end  # one without a history would cut the next step's
        return error

    def smoothed(self, slope: Array) -> Array:
        """Return (I − cJ)⁻¹ c x for a slope x, with the real c of the last attempt."""
        return self.solve(self.h * self.gamma * slope)

    def start(self, f_0: Array) -> None:
        """Get ready to step, given f at the rows' times and states."""
        super().start(f_0)
        self.fresh = False

    def tolerate(self, rtol: Any, atol: Any) -> None:
        """Set the tolerances that iterations go by."""
        self.rtol, self.atol = rtol, atol + self.backend.tiny(self.problem.y0)

    def forget(self, rows: Any) -> None:
        """Start anew in some rows: what was known of the steps before is not theirs."""

    def advance(self, accept: Any, t: Floats, y: Array) -> None:
        """Get ready for the next step."""
        super().advance(accept, t, y)
        self.fresh = False

    def take(self, problem: BatchProblem, rows: Any) -> None:
        """Go on with some of the rows."""
        super().take(problem, rows)
        self.linear.take(problem)
        self.fresh = False


@final
class RosenbrockBatch(LinearStages):
    """Steps of a Rosenbrock method: s solves with one matrix per row."""

    def __init__(
        self, problem: BatchProblem, tableau: RosenbrockTableau, linear: BatchAlgebra
    ) -> None:
        super().__init__(problem, tableau, linear)
        self.error_order, self.gamma = tableau.error_order, float(tableau.gamma)
        m, m_hat = np.asarray(tableau.m), np.asarray(tableau.m_hat)
        self.ends = self.backend.vector([[0.0, *m], [0.0, *(m - m_hat)]], problem.y0)
        """Weights of the u in the step and in the error estimate."""
        sums = zip(tableau.A, tableau.C, tableau.d, strict=True)
        self.sums = [
            self.backend.vector([[0.0, *A_i], [d_i, *(self.gamma * c for c in C_i)]], problem.y0)
            for A_i, C_i, d_i in sums
        ]
        """Weights of h²γ ∂f/∂t and of the u before, for the state and for the right-hand side."""
        self.f_t: Array = None
        self.u: list[Array] = []
        self.err: Array = None

    def attempt(self, t: Floats, h: Floats, y: Array) -> Array:
        """Compute the stages; see `BatchStages`."""
        tableau, problem, linear = self.tableau, self.problem, self.linear
        if not self.fresh:
            self.J, self.f_t = linear.derivatives(t, y, self.f_0, h)
            self.fresh = True
        solve = self.solve = linear.solver(self.J, h * self.gamma)
        self.h, self._end = self.backend.real_like(h[:, None], y), None
        weight = self.h * self.gamma
        times = problem.time(t + h - (1 - np.asarray(tableau.c)[:, None]) * h)
        known = [weight * self.h * self.f_t]
        for i, sums in enumerate(self.sums):
            moved, right = self._weigh(sums, known)
            f_i = self.f_0 if i == 0 else problem(times[i], y + moved)
            known.append(solve(weight * f_i + right))
        self.u = known[1:]
        rise, self.err = self._weigh(self.ends, known)
        return y + rise

    def _weigh(self, weights: Array, known: list[Array]) -> Array:
        """Return two sums at once: one by one they take half of a small batch's time."""
        rows = self.backend.xp.stack(known)
        return (weights @ rows.reshape((len(known), -1))).reshape((2, *rows.shape[1:]))

    def errors(self) -> list[Array]:
        """Return Σ (m_i − m̂_i) u_i."""
        return [self.backend.copy(self.backend.detach(self.err))]

    def bubbles(self, t: Floats, t_new: Floats, y: Array, y_new: Array) -> list[Array]:
        """Return the method's own dense output, or the cubic Hermite."""
        if not len(self.tableau.H):
            return super().bubbles(t, t_new, y, y_new)
        inverse = self.inverse(t_new - t, y)
        return [inverse * combine(row, self.u) for row in self.tableau.H]


@final
class DirkBatch(LinearStages):
    """Steps of an ESDIRK method: Newton's method stage by stage, each row until it converges."""

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
        self.error_order, self.correct = tableau.error_order or 0, correct
        self.tolerate(rtol, atol)
        eps = float(backend.xp.finfo(y.dtype).eps)
        least = rtol if isinstance(rtol, float) else float(rtol.min())
        self.tol = max(10 * eps / least, STOP)
        """How far from its solution an iteration may stop, in units of the tolerance."""
        self.gamma = float(tableau.A[1, 1])
        self.A, self.b = tableau.A.tolist(), tableau.b.tolist()
        self.guesses = derivative_guesses(tableau).tolist()
        self.e = (error_factor(tableau) * np.asarray(tableau.e)).tolist()
        dense = tableau.interpolant or stiff_interpolant(tableau)
        self.dense = None if dense is None else bubble(dense, tableau.b)
        s = tableau.n_stages
        if self.dense is not None and self.dense[:, s:].any():
            self.dense = None  # it would take more than the stages
        self.K: list[Array] = []

    def attempt(self, t: Floats, h: Floats, y: Array) -> Array:
        """Compute the stages; see `BatchStages`."""
        backend, xp, problem = self.backend, self.backend.xp, self.problem
        if not self.fresh:
            with backend.no_grad():  # the last correction below has the derivatives
                exact = self.f_0 if self.tableau.explicit else problem.lasting(problem.time(t), y)
                self.J = backend.detach(self.linear.jacobian(t, backend.detach(y), exact))
            self.fresh = True
        self.solve = self.linear.solver(self.J, h * self.gamma)
        self.h, self._end = backend.real_like(h[:, None], y), None
        weight, rests = self.h * self.gamma, backend.mask((h == 0)[:, None], y)
        divisor = xp.where(rests, 1 + 0 * weight, weight)
        scale = self.atol + self.rtol * backend.absolute(backend.detach(y))
        self.failed = np.zeros(len(h), bool)
        K, Y = [self.f_0], y
        for i in range(1, self.tableau.n_stages):
            psi = y + self.h * combine(self.A[i][:i], K)
            t_i = t + h - (1 - float(self.tableau.c[i])) * h
            time = problem.time(t_i)
            with backend.no_grad():
                guess = backend.detach(psi + weight * combine(self.guesses[i], K))
                Y = self._newton(time, guess, backend.detach(psi), weight, scale, h == 0)
            if self.correct:
                Y = self._differentiable(t_i, Y, psi, weight, h * self.gamma)
            K.append(xp.where(rests, self.f_0, (Y - psi) / divisor))
        self.K, self.longest = K, 0.25 * np.abs(h)
        return Y if self.tableau.stiffly_accurate else y + self.h * combine(self.b, K)

    def take(self, problem: BatchProblem, rows: Any) -> None:
        """Go on with some of the rows."""
        super().take(problem, rows)
        if not isinstance(self.rtol, float):
            self.rtol = self.rtol[rows]
        if not isinstance(self.atol, float):
            self.atol = self.atol[rows]

    def _newton(
        self, time: Array, Y: Array, psi: Array, weight: Array, scale: Array, rests: Any
    ) -> Array:
        """Solve Y = ψ + hγ f(Y) row by row."""
        backend, problem = self.backend, self.problem

        def correct(moves: Any) -> Floats:
            nonlocal Y
            change = self.solve(psi + weight * problem(time, Y) - Y)
            norm: Floats = backend.row_rms(change / scale)
            mask = backend.mask((moves & np.isfinite(norm))[:, None], Y)
            Y = backend.xp.where(mask, Y + change, Y)
            return norm

        most = PATIENT if self.fixed else MAX_ITERATIONS
        found = iterate(correct, ~(rests | self.failed), np.ones(len(rests)), self.tol, most)
        self.failed = self.failed | found.failed
        return Y

    def _differentiable(self, t: Floats, Y: Array, psi: Array, weight: Array, c: Floats) -> Array:
        """Make one more correction, with the Jacobian of where it is made.

        By the implicit function theorem its derivatives are those of the solution.
        """
        problem, time = self.problem, self.problem.time(t)
        f_Y = problem(time, Y)
        with self.backend.no_grad():
            J = self.backend.detach(self.linear.jacobian(t, Y, self.backend.detach(f_Y)))
        right = psi + weight * f_Y - Y
        # J is a constant here, so that second derivatives would be wrong.
        return self.backend.differentiable_once(Y + self.linear.solver(J, c)(right))

    def errors(self) -> list[Array]:
        """Return the estimate h Σ e_i k_i, filtered by (I − hγJ)⁻¹ if it has no `error_stage`."""
        with self.backend.no_grad():
            K = [self.backend.detach(k) for k in self.K]
            err = self.h * combine(self.e, K)
            return [self.solve(err) if self.tableau.error_stage is None else err]

    def slopes(self) -> list[Array]:
        """Return the last attempt's stage derivatives."""
        return self.K

    def bubbles(self, t: Floats, t_new: Floats, y: Array, y_new: Array) -> list[Array]:
        """Return the method's own dense output, or the cubic Hermite."""
        if self.dense is None:
            return super().bubbles(t, t_new, y, y_new)
        return [combine(row.tolist(), self.K) for row in self.dense]

    def f_end(self, t: Floats, y: Array) -> Array:
        """Return the last stage's own derivative, where it is at the end of the step."""
        return self.K[-1] if self.tableau.stiffly_accurate else super().f_end(t, y)
