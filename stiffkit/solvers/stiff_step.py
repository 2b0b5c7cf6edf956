"""Steps of implicit and Rosenbrock methods, behind the same door as the explicit ones.

All of them solve systems with M − cJ, c = hγ: the matrix is made once and kept as long as it
serves, its factorisation as long as the step size stays. M is the mass matrix of M y' = f(t, y);
what is called f there stays f, and y' where the text says slope.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, final

import numpy as np

from .._array import Array
from .algebra import Algebra
from .dense import Segment
from .implicit import AdditiveTableau, RadauTransformation, radau_transformation
from .problem import Problem
from .rosenbrock import RosenbrockTableau
from .step import RHS, StepFailed
from .stiff_limit import error_factor, stiff_interpolant
from .tableau import ButcherTableau, bubble

__all__ = ["DirkStages", "RadauStages", "RosenbrockStages", "make_stiff_stages"]

MAX_ITERATIONS = 8
"""Newton iterations of a stage. RADAU5 allows 7 and cuts the step sooner."""

PATIENT = 50
"""The same on a grid."""

REUSE_RATE = 1e-2
"""A Jacobian that lets Newton's method contract by this much is good enough for another step."""


GROWTH = 1.5
"""A Jacobian serves ESDIRK steps that are so many times as long as the one it was made for.

Over a long rest the step grows, and in the end it may reach over an outbreak: L-stable methods damp
growing modes too. Newton's method with a Jacobian of long ago then settles on a solution that is
not the one that the step started on, and the error estimate, with few stages near the outbreak, has
nothing to say. With one of the step's own start the iteration diverges, and the step is refused.
"""


class _StiffStages(ABC):
    """What the three families share: the Jacobian's age, the account, dense output."""

    error_order: int
    err: Array = None
    """Error estimate of the last attempt."""
    hold = (1.0, 1.0)
    """Between these factors a step size is kept, and the factorisation with it."""

    def __init__(self, problem: Problem, tableau: Any, linear: Algebra) -> None:
        y, self.backend = problem.y0, problem.backend
        self.tableau, self.linear, self.mass = tableau, linear, linear.mass
        self.to_slope: Callable[[Array], Array] | None = None
        """f ↦ y' near the start, where there is a mass matrix."""
        # Of a split problem f is the implicit part from here on.
        self.f_explicit: RHS | None
        self.f_explicit, f = problem.split or (None, problem.f)
        self.call = self.backend.keeping(f)
        self.rtol, self.atol = problem.rtol, problem.atol + self.backend.tiny(y)
        self.eps = float(np.finfo(y.dtype).eps)
        self.calls = self.calls_explicit = 0
        self.f_0: Array = None
        self.f_end: Array = None
        self.f_end_at: Array = None
        self.exact = True
        """Whether f_0 is f(t, y), and not a stage derivative that Newton's method left."""
        self.fresh = False
        """Whether the Jacobian belongs to the state that the step starts from."""
        self.known = False
        """Whether there is a Jacobian at all."""
        self.h_known = 0.0
        """Length of the step that it was made for."""
        self.solves: dict[float, Callable[[Array], Array]] = {}
        """By the direction of c in the plane, the factorisations for the last step size."""
        self.h_solved = 0.0

    @property
    def nfev(self) -> int:
        """Calls of f, those for Jacobians and of both parts of a split one included."""
        return self.calls + self.calls_explicit + self.linear.nfev

    @property
    def njev(self) -> int:
        """Jacobians made."""
        return self.linear.njev

    @property
    def nlu(self) -> int:
        """Matrices factorised."""
        return self.linear.nlu

    def f(self, t: float, y: Array) -> Array:
        """Return f(t, y) as an array of our own."""
        self.calls += 1
        y.setflags(write=False)
        return np.array(self.call(t, y), dtype=y.dtype)

    def start(self, y: Array, f_0: Array) -> None:
        """Get ready to step from y, given f_0 = f(t, y), whatever was before."""
        self.known, self.exact = False, True
        self.begin(y, f_0)

    def advance(self, t: float, y: Array) -> None:
        """Get ready to step from the end (t, y) of the step before."""
        self.begin(y, self.f_new(t, y))

    def begin(self, y: Array, f_0: Array) -> None:  # noqa: ARG002
        """Forget the attempts before; f_0 is f(t, y), or as good."""
        self.f_0, self.fresh, self.err = f_0, False, None

    def f_new(self, t: float, y: Array) -> Array:
        """Return f(t, y) at the end of the step."""
        if self.f_end_at is not y:
            self.f_end, self.f_end_at = self.f(t, y), y
        return self.f_end

    def times_mass(self, v: Array) -> Array:
        """Return M v, along the last axis."""
        return v if self.mass is None else self.mass @ v

    def slope_at(self, t: float, y: Array, f: Array, h: float) -> Array:
        """Return y' at (t, y), an end of a step of size h, where f is known."""
        return f if self.mass is None else self.linear.slopes(t, y, f, h)(f)

    def get(self, i: int) -> Array:
        """Return stage derivative i."""
        return self.slopes()[i]

    def first_slope(self) -> Array:
        """Return what the step's start is known by: f(t, y), or its slope."""
        return self.f_0

    def slopes(self) -> list[Array]:
        """Return the stage derivatives of the last attempt that are known, f(t, y) first."""
        return [self.f_0]

    def errors(self) -> list[Array]:
        """Return the local error estimate of the last attempt; yours to change."""
        self.err = self.estimate_error()
        return [self.err.copy()]

    def estimate(self) -> Array:
        """Return the same, for a Step."""
        return self.estimate_error() if self.err is None else self.err

    @abstractmethod
    def estimate_error(self) -> Array:
        """Estimate the local error of the last attempt."""

    def probe_state(self) -> Array | None:
        """Return no probe: stages of implicit methods are no two independent evaluations."""
        return None

    def jacobian(self, t: float, y: Array, h: float) -> None:
        """Make the Jacobian at the start of a step of size h."""
        if not self.linear.settled:
            # Differences divide by small increments: they need f itself, to the last digit.
            f_y = self.f_0 if self.exact else self.f(t, y)
            if self.linear.update(t, y, f_y, h):
                self.solves.clear()
        self.fresh = self.known = True
        self.h_known = abs(h)

    def solver(self, c: complex, h: float) -> Callable[[Array], Array]:
        """Return r ↦ (M − cJ)⁻¹ r, factorised once for each c."""
        # Steps of a uniform grid differ by roundings: they share a factorisation.
        if abs(h - self.h_solved) > 1e-12 * abs(h):
            self.solves.clear()
            self.h_solved = h
        key = round(c.imag / abs(c), 6)
        if key not in self.solves:
            self.solves[key] = self.linear.factorise(c, h)
        return self.solves[key]

    def doubt(self, t: float, y: Array) -> str:
        """Say what contradicts a given Jacobian at (t, y); empty where nothing does."""
        return self.linear.doubt(t, y, self.f(t, y), self.atol) if self.linear.given else ""

    def norm(self, x: Array, scale: Array) -> float:
        """Return the rms of `x` in units of the tolerance."""
        ratio = np.abs(x) / scale
        return math.sqrt(float(ratio.dot(ratio)) / max(len(x), 1))

    def segment(self, t: float, y: Array, t_new: float, y_new: Array) -> Segment:
        """Cubic Hermite dense output over the accepted step, of order 3."""
        h = t_new - t
        slope = self.slope_at(t, y, self.first_slope(), h)
        slope_new = self.slope_at(t_new, y_new, self.f_new(t_new, y_new), -h)
        return Segment.hermite(t, t_new, y, y_new, h * slope, h * slope_new)


@final
class RosenbrockStages(_StiffStages):
    """Steps of a Rosenbrock method: s solves with one matrix, and no iteration."""

    def __init__(self, problem: Problem, tableau: RosenbrockTableau, linear: Algebra) -> None:
        super().__init__(problem, tableau, linear)
        y = problem.y0
        self.error_order = min(tableau.order, tableau.order_hat)
        self.u = np.empty((len(tableau.c), len(y)), dtype=y.dtype)
        # Row by row α's part and, times γ, the part that C has in the right side.
        self.rows = [
            np.array([a, np.multiply(tableau.gamma, c)], dtype=y.dtype)
            for a, c in zip(tableau.A, tableau.C, strict=True)
        ]
        self.m = np.array(tableau.m, dtype=y.dtype)
        self.e = np.array(tableau.m, dtype=y.dtype) - np.array(tableau.m_hat, dtype=y.dtype)
        self.f_t: Array = None
        self.y_new: Array = None

    def attempt(self, t: float, y: Array, t_new: float) -> Array:
        """Compute the stages of the step from (t, y) to t_new; return y_new."""
        h, tableau, u = t_new - t, self.tableau, self.u
        if not self.fresh:
            self.jacobian(t, y, h)
            self.f_t = self.linear.time_slope(t, y, self.f_0, h)
        weight = h * tableau.gamma
        solve, moving = self.solver(weight, h), bool(self.f_t.any())
        right = weight * self.f_0
        for i, (c_i, d_i) in enumerate(zip(tableau.c, tableau.d, strict=True)):
            if i > 0:
                change, rest = self.rows[i] @ u[:i]
                right = self.f(t_new - (1 - c_i) * h, y + change)
                right *= weight
                right += self.times_mass(rest)
            if moving:
                right += (h * weight * d_i) * self.f_t
            u[i] = solve(right)
        self.y_new = self.backend.protect(y + self.m @ u)
        return self.y_new

    def estimate_error(self) -> Array:
        """Return Σ (m_i − m̂_i) u_i."""
        return self.e @ self.u

    def segment(self, t: float, y: Array, t_new: float, y_new: Array) -> Segment:
        """Return the method's own dense output, or the cubic Hermite."""
        if not len(self.tableau.H) or y_new is not self.y_new:
            return super().segment(t, y, t_new, y_new)
        return Segment(t, t_new, y, y_new, list(np.array(self.tableau.H, dtype=y.dtype) @ self.u))


class _NewtonStages(_StiffStages):
    """Simplified Newton iteration with Hairer's control of its contraction (HW II, IV.8)."""

    hold = (1.0, 1.2)

    def __init__(self, problem: Problem, tableau: Any, linear: Algebra) -> None:
        super().__init__(problem, tableau, linear)
        least = float(np.min(problem.rtol))
        self.tol = max(10 * self.eps / least, min(0.03, math.sqrt(least)))
        """How far from its solution an iteration may stop, in units of the tolerance."""
        self.rate, self.iterations = 1.0, 0
        """Worst contraction of the step, and most iterations of a stage."""
        self.eta = 1.0
        self.most = MAX_ITERATIONS

    def begin(self, y: Array, f_0: Array) -> None:
        """Forget the attempts before, and a Jacobian that has had its day."""
        super().begin(y, f_0)
        if self.iterations > 2 and self.rate > REUSE_RATE:
            self.known = False

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
        old, eta = 0.0, max(self.eta, self.eps) ** 0.8
        for m in range(1, self.most + 1):
            norm = correct()
            if not math.isfinite(norm):
                msg = "f is not finite"
                raise StepFailed(msg, 0.1 * abs(h), "non_finite")
            if m > 1:
                rate = norm / old if old > 0 else 0.0
                self.rate = max(self.rate, rate)
                if rate >= 1 or rate ** (self.most - m) / (1 - rate) * norm > self.tol:
                    break
                eta = rate / (1 - rate)
            old, self.iterations = norm, max(self.iterations, m)
            if eta * norm <= self.tol or norm == 0:
                self.eta = eta
                return
        self.eta = 1.0
        msg = "Newton's method did not converge"
        raise StepFailed(msg, 0.25 * abs(h), "newton")


@final
class DirkStages(_NewtonStages):
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
        self.rows = np.stack([part.A for part in pair], axis=2).reshape(s, -1).astype(dtype)
        self.gamma = float(tableau.A[1, 1])
        self.b = np.repeat(tableau.b, m).astype(dtype)
        self.e = np.repeat(error_factor(tableau) * np.asarray(tableau.e), m).astype(dtype)
        self.rest = self.b - self.rows[-1]
        """What y_new has beyond the last stage, of its explicit part."""
        self.bubble: Array = None
        dense = tableau.interpolant or stiff_interpolant(*pair)
        if dense is not None and not bubble(dense, tableau.b)[:, s:].any():  # stages are enough
            self.bubble = np.repeat(bubble(dense, tableau.b)[:, :s], m, axis=1).astype(dtype)
        self.h = 0.0
        self.y_new: Array = None

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
        h, c, f_explicit = t_new - t, self.tableau.c, self.f_explicit
        K, K_flat, rows, m = self.K, self.K_flat, self.rows, self.K.shape[1]
        weight = h * self.gamma
        solve, scale = self.solver(weight, h), self.atol + self.rtol * np.abs(y)
        self.h, self.rate, self.iterations = h, 0.0, 0
        Y = y
        for i in range(1, len(c)):
            psi = y + h * (rows[i, : i * m] @ K_flat[: i * m])
            t_i = t_new - (1 - float(c[i])) * h
            Y = psi + weight * K[i - 1, 0]

            def correct(t_i: float = t_i, psi: Array = psi) -> float:
                nonlocal Y
                change = solve(self.times_mass(psi - Y) + weight * self.f(t_i, Y))
                Y = Y + change
                return self.norm(change, scale)

            self.iterate(h, correct)
            K[i, 0] = (Y - psi) / weight
            if f_explicit is not None:
                K[i, 1] = self.explicit_slope(t_i, Y)
        if not self.tableau.stiffly_accurate:
            y_new = y + h * (self.b @ K_flat)
        elif f_explicit is not None:
            y_new = Y + h * (self.rest[1::2] @ K[:, 1])
        else:
            y_new, self.f_end = Y, K[-1, 0].copy()
            self.f_end_at = y_new
        self.y_new = self.backend.protect(y_new)
        return self.y_new

    def estimate_error(self) -> Array:
        """Return the filtered estimate (M − hγJ)⁻¹ M h Σ e_i k_i, times `error_factor`.

        Without the filter stiff modes would count by z times their size (Hosea and Shampine 1996).
        """
        rest = self.times_mass(self.h * (self.e @ self.K_flat))
        return self.solver(self.h * self.gamma, self.h)(rest)


@final
class RadauStages(_NewtonStages):
    """Steps of Radau IIA of order 5: Hairer's transformation, his estimate, his start values."""

    error_order = 3
    hold = (0.91, 1.2)

    def __init__(self, problem: Problem, tableau: ButcherTableau, linear: Algebra) -> None:
        super().__init__(problem, tableau, linear)
        y = problem.y0
        self.data = radau_transformation()
        self.Z = np.zeros((3, len(y)), dtype=y.dtype)
        self.h = 0.0
        self.y: Array = y
        self.y_new: Array = y
        self.t_0 = math.nan
        self.careful = True
        """Whether the step is the first, or follows a rejection: then the estimate may be filtered
        twice."""
        self.last: Segment | None = None

    def start(self, y: Array, f_0: Array) -> None:
        """Get ready to step from y, given f_0 = f(t, y), whatever was before."""
        super().start(y, f_0)
        self.last, self.careful = None, True

    def advance(self, t: float, y: Array) -> None:
        """Get ready to step from the end (t, y) of the step before."""
        self.last = self._collocation(self.t_0, self.y, t, self.y_new)
        super().advance(t, y)
        self.careful = False

    def solve_stages(self, t: float, y: Array, t_new: float) -> Array:
        """Solve for the three stages at once; return y_new."""
        data: RadauTransformation = self.data
        h, c, Z = t_new - t, self.tableau.c, self.Z
        scale = self.atol + self.rtol * np.abs(y)
        pair = complex(data.alpha, data.beta)
        real, twin = self.solver(h / data.gamma, h), self.solver(h / pair, h)
        other = self.solver(h / pair.conjugate(), h) if y.dtype.kind == "c" else None
        times = [t_new - (1 - c_i) * h for c_i in c.tolist()]
        if self.last is None:
            Z[:] = 0
        else:
            for i, t_i in enumerate(times):
                Z[i] = self.last(t_i) - y
        W = data.T_inv @ Z
        self.h, self.t_0, self.y, self.rate, self.iterations = h, t, y, 0.0, 0

        def correct() -> float:
            F = data.T_inv @ np.stack([self.f(t_i, y + z) for t_i, z in zip(times, Z, strict=True)])
            change, V = np.empty_like(W), self.times_mass(W)
            change[0] = real((h / data.gamma) * F[0] - V[0])
            both = twin((h / pair) * (F[1] + 1j * F[2]) - (V[1] + 1j * V[2]))
            if other is None:
                change[1], change[2] = both.real, both.imag
            else:  # of a complex state the two are no conjugates
                mirror = h / pair.conjugate()
                rest = other(mirror * (F[1] - 1j * F[2]) - (V[1] - 1j * V[2]))
                change[1], change[2] = (both + rest) / 2, (both - rest) / 2j
            W[:] += change
            Z[:] = data.T @ W
            return self.norm(change.reshape(-1), np.tile(scale, 3))

        self.iterate(h, correct)
        self.y_new = self.backend.protect(y + Z[2])
        return self.y_new

    def estimate_error(self) -> Array:
        """Return Hairer's estimate (IV.8.19), (IV.8.20) after a rejection and at the start."""
        data, h = self.data, self.h
        solve = self.solver(h / data.gamma, h)
        rest = self.times_mass((data.e @ self.Z) / data.gamma)
        err = solve((h / data.gamma) * self.f_0 + rest)
        size = np.maximum(np.abs(self.y), np.abs(self.y_new))
        if self.careful and self.norm(err, self.atol + self.rtol * size) >= 1:
            err = solve((h / data.gamma) * self.f(self.t_0, self.y + err) + rest)
        self.careful = True
        return err

    def segment(self, t: float, y: Array, t_new: float, y_new: Array) -> Segment:
        """Return the collocation polynomial, of order 3."""
        if y_new is not self.y_new:
            return super().segment(t, y, t_new, y_new)
        return self._collocation(t, y, t_new, y_new)

    def _collocation(self, t: float, y: Array, t_new: float, y_new: Array) -> Segment:
        c_1, c_2 = (float(c) for c in self.tableau.c[:2])
        Z = self.Z
        q_1 = (Z[0] - c_1 * Z[2]) / (c_1 * (1 - c_1))
        q_2 = (Z[1] - c_2 * Z[2]) / (c_2 * (1 - c_2))
        Q_1 = (q_2 - q_1) / (c_2 - c_1)
        return Segment(t, t_new, y, y_new, [q_1 - c_1 * Q_1, Q_1])


def make_stiff_stages(
    problem: Problem,
    method: ButcherTableau | AdditiveTableau | RosenbrockTableau,
    f_0: Array,
    linear: Algebra,
    *,
    fixed: bool = False,
) -> _StiffStages:
    """Stages of an implicit or Rosenbrock method, for a solve from y0 with f(t0, y0) = f_0.

    With `fixed` steps an iteration that is slow cannot be helped by a smaller one: it may take
    its time.
    """
    stages: _StiffStages
    if isinstance(method, RosenbrockTableau):
        stages = RosenbrockStages(problem, method, linear)
    else:
        if isinstance(method, ButcherTableau) and method.A[0].any():
            stages = RadauStages(problem, method, linear)
        else:
            stages = DirkStages(problem, method, linear)
        if fixed:
            stages.most = PATIENT
    p, size = problem, abs(problem.t1 - problem.t0)
    # Of an endless span nothing is known of the times at which f changes.
    span = size if size < 1e100 else 1 + abs(p.t0)
    scale = stages.atol + stages.rtol * np.abs(p.y0)
    stages.to_slope = linear.start(p.t0, p.y0, f_0, p.direction * span, scale)
    stages.start(problem.y0, f_0)
    return stages
