"""Steps that solve nonlinear systems by Newton's method: ESDIRK methods and Radau IIA."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import cache, partial
from typing import Any, final

import numpy as np

from .._array import Array
from .algebra import Algebra
from .dense import Segment
from .implicit import AdditiveTableau
from .problem import Problem
from .radau import radau_transformation
from .step import SHORTER, StepFailed
from .stiff_limit import error_factor, stiff_interpolant
from .stiff_step import StiffStages
from .tableau import ButcherTableau, bubble

__all__ = [
    "DirkStages",
    "NewtonStages",
    "RadauStages",
    "derivative_guesses",
    "radau_iterations",
    "radau_stop",
]

MAX_ITERATIONS = 8
"""Newton iterations of a stage. RADAU5 allows 7 and cuts the step sooner."""

PATIENT = 50
"""The same on a grid."""

STOP = 1e-2
"""Where the iteration of an ESDIRK stage may stop, in units of the tolerance.

Hairer's √rtol takes a third more calls of f at rtol 1e-7, and brings no digits to methods whose
error estimates are about as large as their errors; 0.03 costs some of them half a digit.
"""

REUSE_RATE = 1e-2
"""A Jacobian that lets Newton's method contract by this much is good enough for another step."""

HOPELESS, SLOW, CONVERGED = range(3)
"""What an iteration is after a correction."""

F_NOT_FINITE, NO_CONVERGENCE = "f is not finite", "Newton's method did not converge"

GROWTH = 1.5
"""A Jacobian serves ESDIRK steps that are so many times as long as the one it was made for.

Over a long rest the step grows, and in the end it may reach over an outbreak: L-stable methods damp
growing modes too. Newton's method with a Jacobian of long ago then settles on a solution that is
not the one that the step started on, and the error estimate, with few stages near the outbreak, has
nothing to say. With one of the step's own start the iteration diverges, and the step is refused.
"""


class NewtonStages(StiffStages):
    """Simplified Newton iteration with Hairer's control of its contraction (HW II, IV.8)."""

    hold = (1.0, 1.2)

    def __init__(self, problem: Problem, tableau: Any, linear: Algebra) -> None:
        super().__init__(problem, tableau, linear)
        least = float(np.min(problem.rtol))
        self.tol = max(10 * self.eps / least, self.kappa(least))
        """How far from its solution an iteration may stop, in units of the tolerance."""
        self.rate, self.iterations = 1.0, 0
        """Worst contraction of the step, and most iterations of a stage."""
        self.eta = 1.0
        """What the next iteration may hope to leave after its first correction, in units of it."""
        self.most = MAX_ITERATIONS
        self.square_sum = self.backend.square_sum(problem.y0)

    @abstractmethod
    def kappa(self, rtol: float) -> float:
        """Return how far an iteration may stop from its solution, but for rounding."""

    def start(self, y: Array, f_0: Array) -> None:
        """Get ready to step from y, given f_0 = f(t, y), whatever was before."""
        super().start(y, f_0)
        self.eta = 1.0

    def begin(self, y: Array, f_0: Array) -> None:
        """Forget the attempts before, and a Jacobian that has had its day."""
        super().begin(y, f_0)
        if outdated(self.iterations, self.rate):
            self.known = False

    def doubt(self, t: float, y: Array) -> str:
        """Say which component has no tolerance at (t, y), or what contradicts a given Jacobian."""
        bare = np.flatnonzero(self.atol + self.rtol * np.abs(y) <= self.backend.tiny(y))
        if bare.size:
            i = bare[0]
            return f"component {i} is zero there and has no atol: Newton's iteration needs one"
        return super().doubt(t, y)

    def attempt(self, t: float, y: Array, t_new: float) -> Array:
        """Solve for the stages; a failure with an old Jacobian has another go with a new one.

        Raises
        ------
        StepFailed
            If the iteration fails with the Jacobian of the step's own start.
        """
        h = t_new - t
        if not self.known:
            self.jacobian(t, y, h)
        try:
            return self.solve_stages(t, y, t_new)
        except StepFailed:
            if self.fresh:
                raise
        self.jacobian(t, y, h)
        return self.solve_stages(t, y, t_new)

    @abstractmethod
    def solve_stages(self, t: float, y: Array, t_new: float) -> Array:
        """Solve the nonlinear systems of the step; return y_new."""

    def iterate(self, h: float, correct: Callable[[], float]) -> None:
        """Call `correct`, which makes one correction and returns its norm, until it converges."""
        old, worst, eta = 0.0, 0.0, first_eta(self.eta, self.eps)
        for m in range(1, self.most + 1):
            norm = correct()
            if not math.isfinite(norm):
                raise StepFailed(F_NOT_FINITE, SHORTER["non_finite"] * abs(h), "non_finite")
            rate, eta, verdict = contraction(m, self.most, norm, old, eta, self.tol)
            worst, self.rate = max(worst, rate), max(self.rate, rate)
            if verdict == HOPELESS:
                break
            old, self.iterations = norm, max(self.iterations, m)
            if verdict == CONVERGED:
                self.eta = kept_eta(eta, worst)
                return
        self.eta = 1.0
        raise StepFailed(NO_CONVERGENCE, SHORTER["newton"] * abs(h), "newton")


# The rules of the iteration: `stiffkit.solvers.compiled` compiles this very text. η estimates what
# is left after a correction, in units of it.


def outdated(iterations: int, rate: float) -> bool:
    """Whether a Jacobian has had its day, given how a step's iterations went."""
    return iterations > 2 and rate > REUSE_RATE


def first_eta(eta: float, eps: float) -> float:
    """Return η of the first correction, from that of the last one before."""
    return max(eta, eps) ** 0.8  # type: ignore[no-any-return]


def kept_eta(eta: float, worst: float) -> float:
    """Return η for the next iteration, from that of the last correction and the worst contraction.

    Where one stiff part of a system drives another, the second correction is often exact. What it
    contracted by says nothing of a first one, which is what the next iteration may stop after.
    """
    return max(eta, worst / (1 - worst))


def contraction(
    m: int, most: int, norm: float, old: float, eta: float, tol: float
) -> tuple[float, float, int]:
    """Judge the m-th correction, of size `norm` after one of size `old`; return rate, η, verdict.

    It is hopeless where the iteration diverges, or is going to miss `tol` after `most` corrections.
    """
    rate = 0.0
    if m > 1:
        rate = norm / old if old > 0 else 0.0
        if rate >= 1 or rate ** (most - m) / (1 - rate) * norm > tol:
            return rate, eta, HOPELESS
        eta = rate / (1 - rate)
    return rate, eta, CONVERGED if eta * norm <= tol or norm == 0 else SLOW


def radau_iterations(s: int) -> int:
    """Return how many iterations the Radau method of s stages may take."""
    return MAX_ITERATIONS + 5 * (s - 3) // 2


def radau_stop(rtol: Any) -> Any:
    """Return Hairer's value of where they may stop: the error is often far below the tolerance."""
    return np.minimum(0.03, np.sqrt(rtol))


@cache
def derivative_guesses(tableau: ButcherTableau) -> Array:
    """Return rows of weights that extrapolate stage derivatives from those before.

    Row i is the least one with Σ_j w_j c_j^m = c_i^m for m = 0, 1, 2, or as many as there are
    derivatives.
    """
    c = tableau.c
    W = np.zeros((len(c), len(c)))
    for i in range(1, len(c)):
        powers = c[: i + 1] ** np.arange(min(i, 3))[:, None]
        W[i, :i] = np.linalg.pinv(powers[:, :i]) @ powers[:, i]
    W.setflags(write=False)
    return W


@final
class DirkStages(NewtonStages):
    """Steps of a singly diagonally implicit method with an explicit first stage (ESDIRK).

    Each stage of an additive pair has two derivatives, f_implicit's and f_explicit's.
    """

    def __init__(
        self, problem: Problem, method: ButcherTableau | AdditiveTableau, linear: Algebra
    ) -> None:
        pair = (
            (method,) if isinstance(method, ButcherTableau) else (method.implicit, method.explicit)
        )
        tableau, m = pair[0], len(pair)
        super().__init__(problem, tableau, linear)
        s, dtype = tableau.n_stages, problem.y0.dtype
        self.error_order = tableau.error_order or 0
        self.K = np.zeros((s, m, len(problem.y0)), dtype=dtype)
        self.K_flat = self.K.reshape(s * m, -1)
        """Row i m + j is stage i's derivative of part j; the rows of weights fit it."""
        rows = np.stack([part.A for part in pair], axis=2).reshape(s, -1).astype(dtype)
        guesses = derivative_guesses(tableau).astype(dtype)
        self.plan = [
            (
                1 - float(tableau.c[i]),
                partial(rows[i, : i * m].dot, self.K_flat[: i * m]),
                partial(guesses[i, :i].dot, self.K[:i, 0]),
            )
            for i in range(1, s)
        ]
        self.gamma = float(tableau.A[1, 1])
        self.b = np.repeat(tableau.b, m).astype(dtype)
        self.e = np.repeat(error_factor(tableau) * np.asarray(tableau.e), m).astype(dtype)
        self.rest = self.b - rows[-1]
        """What y_new has beyond the last stage, of its explicit part."""
        self.bubble: Array = None
        dense = tableau.interpolant or stiff_interpolant(*pair)
        if dense is not None and not bubble(dense, tableau.b)[:, s:].any():  # stages are enough
            self.bubble = np.repeat(bubble(dense, tableau.b)[:, :s], m, axis=1).astype(dtype)
        self.h = 0.0
        self.y_new: Array = None

    def kappa(self, rtol: float) -> float:  # noqa: ARG002
        """Return a share of the tolerance that is as good as none."""
        return STOP

    def first_slope(self) -> Array:
        """Return the first stage's derivative, of both parts together."""
        return self.K[0].sum(axis=0)

    def slopes(self) -> list[Array]:
        """Return all stage derivatives, of both parts together."""
        return list(self.times_mass(self.K.sum(axis=1)))

    def start(self, y: Array, f_0: Array) -> None:
        """Get ready to step from y, given f_0 = f(t, y), whatever was before."""
        super().start(y, f_0 if self.to_slope is None else self.to_slope(f_0))
        self.exact = self.mass is None

    def begin(self, y: Array, f_0: Array) -> None:
        """Forget the attempts before; f_0 is the first stage, a slope."""
        super().begin(y, f_0)
        self.K[0] = 0
        self.K[0, 0] = f_0

    def f_new(self, t: float, y: Array) -> Array:
        """Return the slope at the end of the step; of two parts, each is kept."""
        if self.f_explicit is None:
            if self.f_end_at is not y:
                self.f_end, self.f_end_at = super().slope_at(t, y, self.f(t, y), -self.h), y
            return self.f_end
        if self.f_end_at is not y:
            self.ends, self.f_end_at = [self.f(t, y), self.explicit_slope(t, y)], y
            self.f_end = self.ends[0] + self.ends[1]
        return self.f_end

    def segment(self, t: float, y: Array, t_new: float, y_new: Array) -> Segment:
        """Return the method's own dense output, or the cubic Hermite."""
        if self.bubble is None or y_new is not self.y_new:
            return super().segment(t, y, t_new, y_new)
        return Segment(t, t_new, y, y_new, list((t_new - t) * (self.bubble @ self.K_flat)))

    def shift(self, h: float) -> float:
        """Return hγ."""
        return h * self.gamma

    def whole_f(self, t: float, y: Array) -> Array:
        """Return the right-hand side at (t, y), of both parts together."""
        return self.f(t, y) if self.f_explicit is None else self.f(t, y) + self.explicit_slope(t, y)

    def explicit_slope(self, t: float, y: Array) -> Array:
        """Return f_explicit(t, y) as an array of our own."""
        assert self.f_explicit is not None
        self.calls_explicit += 1
        y.setflags(write=False)
        return np.array(self.f_explicit(t, y))

    def attempt(self, t: float, y: Array, t_new: float) -> Array:
        """Solve for the stages, with a Jacobian that was made for steps as long as this one."""
        if not self.fresh and abs(t_new - t) > GROWTH * self.h_known:
            self.known = False
        if self.f_explicit is not None:
            self.f_new(t, y)
            self.K[0], self.f_0 = self.ends, self.ends[0]
        return super().attempt(t, y, t_new)

    def slope_at(self, t: float, y: Array, f: Array, h: float) -> Array:  # noqa: ARG002
        """Return `f`: what the ends of a step are known by are slopes."""
        return f

    def advance(self, t: float, y: Array) -> None:
        """Get ready to step from the end (t, y) of the step before."""
        # f(t, y) itself would amplify what Newton's method left of the stiff modes; the stage's
        # own derivative, (Y − ψ)/(hγ), does not.
        if self.tableau.stiffly_accurate and self.f_explicit is None and self.f_end_at is y:
            self.begin(y, self.f_end)
            self.exact = False
        else:
            super().advance(t, y)
            self.exact = self.mass is None

    def solve_stages(self, t: float, y: Array, t_new: float) -> Array:
        """Solve stage after stage; return y_new."""
        h, K, call, mass = t_new - t, self.K, self.call, self.mass
        solve, inverse = self.solver(h * self.gamma, h), 1 / (self.atol + self.rtol * np.abs(y))
        # NumPy's numbers multiply arrays faster than Python's.
        length, weight = np.array(h, y.dtype), np.array(h * self.gamma, y.dtype)
        self.h, self.rate, self.iterations = h, 0.0, 0
        Y, psi, size = y, y, max(len(y), 1)

        def correct() -> float:
            nonlocal Y
            rest = psi - Y
            change = weight * call(t_i, Y)
            change += rest if mass is None else mass @ rest
            change = solve(change)
            self.calls += 1
            Y = Y + change
            change = change * inverse
            return math.sqrt(self.square_sum(change) / size)

        for i, (rest, increment, guess) in enumerate(self.plan, 1):
            t_i = t_new - rest * h
            psi = increment()
            psi *= length
            psi += y
            Y = guess()
            Y *= weight
            Y += psi
            self.iterate(h, correct)
            K[i, 0] = (Y - psi) / weight
            if self.f_explicit is not None:
                K[i, 1] = self.explicit_slope(t_i, Y)
        if not self.tableau.stiffly_accurate:
            y_new = y + h * (self.b @ self.K_flat)
        elif self.f_explicit is not None:
            y_new = Y + h * (self.rest[1::2] @ K[:, 1])
        else:
            y_new, self.f_end = Y, K[-1, 0].copy()
            self.f_end_at = y_new
        self.y_new = self.backend.protect(y_new)
        return self.y_new

    def estimate_error(self) -> Array:
        """Return the estimate h Σ e_i k_i, times `error_factor`, filtered by (M − hγJ)⁻¹ M.

        Without the filter stiff modes would count by z times their size, but see
        `ButcherTableau.error_stage`.
        """
        if self.tableau.error_stage is not None:
            return self.h * (self.e @ self.K_flat)
        rest = self.times_mass(self.h * (self.e @ self.K_flat))
        return self.solver(self.h * self.gamma, self.h)(rest)


@final
class RadauStages(NewtonStages):
    """Steps of Radau IIA methods: Hairer's transformation, his estimate, his start values.

    Unknown are W = S⁻¹ Z, Z_i = Y_i − y, in the coordinates in which A⁻¹ is diagonal: a row for its
    real eigenvalue and one for each pair, or for complex states two.
    """

    hold = (0.91, 1.2)

    def __init__(self, problem: Problem, tableau: ButcherTableau, linear: Algebra) -> None:
        super().__init__(problem, tableau, linear)
        y, data, s = problem.y0, radau_transformation(tableau), tableau.n_stages
        self.error_order = s
        self.most = radau_iterations(s)
        self.real = y.dtype.kind != "c"
        data = data if self.real else data.full()
        gamma, *pairs = data.eigenvalues.tolist()
        self.gamma = float(gamma.real)
        self.eigenvalues: list[complex] = [self.gamma, *pairs]
        dtype = np.result_type(y.dtype, np.complex64)
        self.S, self.S_inv = data.S.astype(dtype), data.S_inv.astype(dtype)
        self.F = np.empty((s, len(y)), dtype)
        self.rests = (1 - tableau.c).tolist()
        self.e = (data.e / self.gamma).astype(y.dtype)
        self.data, self.bubble = data, data.bubble.astype(y.dtype)
        self.Z = np.zeros((s, len(y)), dtype=y.dtype)
        self.h = 0.0
        self.y: Array = y
        self.y_new: Array = y
        self.t_0 = math.nan
        self.careful = True
        """Whether the step is the first, or follows a rejection: then the estimate may be filtered
        twice."""
        self.last: tuple[Array, float] | None = None
        """Z and h of the step before."""

    def kappa(self, rtol: float) -> float:
        """Return `radau_stop`."""
        return float(radau_stop(rtol))

    def start(self, y: Array, f_0: Array) -> None:
        """Get ready to step from y, given f_0 = f(t, y), whatever was before."""
        super().start(y, f_0)
        self.last, self.careful = None, True

    def advance(self, t: float, y: Array) -> None:
        """Get ready to step from the end (t, y) of the step before."""
        self.last = self.Z, self.h
        super().advance(t, y)
        self.careful = False

    def solve_stages(self, t: float, y: Array, t_new: float) -> Array:
        """Solve for the stages all at once; return y_new."""
        S, S_inv, F, call, real = self.S, self.S_inv, self.F, self.call, self.real
        h, mass = t_new - t, self.mass
        inverse = 1 / (self.atol + self.rtol * np.abs(y))
        c = [h / value for value in self.eigenvalues]
        solves = [self.solver(c_i, h, i) for i, c_i in enumerate(c)]
        weights = np.array(c, S.dtype)[:, None]
        in_units = np.array(inverse, S.dtype)  # complex: mixed types multiply at half the speed
        times = [t_new - rest * h for rest in self.rests]
        self.h, self.t_0, self.y, self.rate, self.iterations = h, t, y, 0.0, 0
        Z = self.Z = self.predict(h)
        W = S_inv.dot(Z)

        def correct() -> float:
            nonlocal W, Z
            for i, Y in enumerate(y + Z):
                F[i] = call(times[i], Y)
            self.calls += len(times)
            change = S_inv.dot(F)
            change *= weights
            change -= W if mass is None else self.times_mass(W)
            change[0] = solves[0](change[0].real if real else change[0])
            for i, solve in enumerate(solves[1:], 1):
                change[i] = solve(change[i])
            W += change
            Z = S.dot(W)
            if real:
                Z = Z.real
            change *= in_units
            return math.sqrt(np.vdot(change, change).real / max(Z.size, 1))

        self.iterate(h, correct)
        self.Z = Z
        self.y_new = self.backend.protect(y + Z[-1])
        return self.y_new

    def shift(self, h: float) -> float:
        """Return h over the real eigenvalue of A⁻¹."""
        return h / self.gamma

    def predict(self, h: float) -> Array:
        """Return Z by extrapolation of the collocation polynomial of the step before."""
        if self.last is None:
            return np.zeros_like(self.Z)
        Z, h_old = self.last
        return self.data.extrapolation(h / h_old).astype(Z.dtype, copy=False).dot(Z)

    def estimate_error(self) -> Array:
        """Return Hairer's estimate (IV.8.19), (IV.8.20) after a rejection and at the start."""
        c = self.h / self.gamma
        solve = self.solver(c, self.h)
        rest = self.times_mass(self.e.dot(self.Z))
        err = solve(c * self.f_0 + rest)
        if self.careful:
            size = np.maximum(np.abs(self.y), np.abs(self.y_new))
            if self.norm(err, self.atol + self.rtol * size) >= 1:
                err = solve(c * self.f(self.t_0, self.y + err) + rest)
        self.careful = True
        return err

    def segment(self, t: float, y: Array, t_new: float, y_new: Array) -> Segment:
        """Return the collocation polynomial, of order s."""
        if y_new is not self.y_new:
            return super().segment(t, y, t_new, y_new)
        return Segment(t, t_new, y, y_new, list(self.bubble.dot(self.Z)))
