"""What implicit and Rosenbrock steps share, and Rosenbrock steps themselves.

All of them solve systems with M − cJ, c = hγ: the matrix is made once and kept as long as it
serves, its factorisation as long as the step size stays. M is the mass matrix of M y' = f(t, y);
what is called f there stays f, and y' where the text says slope.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, final

import numpy as np

from .._array import Array
from .algebra import Algebra
from .dense import Segment
from .problem import Problem
from .rosenbrock import RosenbrockTableau
from .step import RHS
from .stiff_limit import INSIDE

__all__ = ["RosenbrockStages", "StiffStages"]


SAME = 1e-12
"""Steps that differ by this much, relatively, as those of a uniform grid do by roundings, share a
factorisation."""


KEPT, LONGER = 20, 10.0
"""A W-method's steps that one Jacobian serves at most, and how many times as long as the one that
it was made for they may be."""


def serves(age: int, retry: bool, h: float, h_known: float) -> bool:
    """Whether a Jacobian of some steps ago is good enough for a W-method's step.

    Its order does not need a new one; its stability does, and what is left of the error shows that:
    a step that was refused is tried again with a new one. `stiffkit.solvers.compiled` compiles this
    very text.
    """
    return not retry and age < KEPT and abs(h) <= LONGER * h_known


class StiffStages(ABC):
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
        self.solves: dict[int, Callable[[Array], Array]] = {}
        """The factorisations for the last step size, by which of the method's c they are of."""
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

    def matrix(self) -> Any:
        """Return the last Jacobian, in the form that it has."""
        return self.linear.J

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

    def solver(self, c: complex, h: float, which: int = 0) -> Callable[[Array], Array]:
        """Return r ↦ (M − cJ)⁻¹ r, factorised once for each c; the real one is number 0."""
        if abs(h - self.h_solved) > SAME * abs(h):
            self.solves.clear()
            self.h_solved = h
        solve = self.solves.get(which)
        if solve is None:
            solve = self.solves[which] = self.linear.factorise(c, h)
        return solve

    def doubt(self, t: float, y: Array) -> str:
        """Say what contradicts a given Jacobian at (t, y); empty where nothing does."""
        return self.linear.doubt(t, y, self.f(t, y), self.atol) if self.linear.given else ""

    def norm(self, x: Array, scale: Array) -> float:
        """Return the rms of `x` in units of the tolerance."""
        ratio = np.abs(x) / scale
        return math.sqrt(float(ratio.dot(ratio)) / max(len(x), 1))

    @abstractmethod
    def shift(self, h: float) -> float:
        """Return the real c of M − cJ in a step of size h."""

    def inside_error(self, t: float, y: Array, t_new: float, y_new: Array) -> Array:
        """Estimate dense output's error at `INSIDE`, in the last attempt; yours to change."""
        segment = self.segment(t, y, t_new, y_new)
        h = t_new - t
        time, c = t + INSIDE * h, self.shift(h)
        defect = self.whole_f(time, segment(time))
        defect -= self.times_mass(segment.slope(time))
        defect *= c
        return self.solver(c, h)(defect)

    def whole_f(self, t: float, y: Array) -> Array:
        """Return all of the right-hand side at (t, y)."""
        return self.f(t, y)

    def segment(self, t: float, y: Array, t_new: float, y_new: Array) -> Segment:
        """Cubic Hermite dense output over the accepted step, of order 3."""
        h = t_new - t
        slope = self.slope_at(t, y, self.first_slope(), h)
        slope_new = self.slope_at(t_new, y_new, self.f_new(t_new, y_new), -h)
        return Segment.hermite(t, t_new, y, y_new, h * slope, h * slope_new)


@final
class RosenbrockStages(StiffStages):
    """Steps of a Rosenbrock method: s solves with one matrix, and no iteration."""

    def __init__(self, problem: Problem, tableau: RosenbrockTableau, linear: Algebra) -> None:
        super().__init__(problem, tableau, linear)
        y, s = problem.y0, len(tableau.c)
        self.error_order = min(tableau.order, tableau.order_hat)
        self.terms = np.zeros((s + 2, len(y)), dtype=y.dtype)
        """y, f, u_1, ..., u_s: a stage's state is one product with them, its right side another."""
        self.right_terms = self.terms if self.mass is None else np.zeros_like(self.terms)
        """The same for right sides, where M u_i stands for u_i."""
        self.u = self.terms[2:]
        self.m, m_hat = (np.array(row, dtype=y.dtype) for row in (tableau.m, tableau.m_hat))
        self.e = self.m - m_hat
        self.f_t: Array = None
        self.y_new: Array = None
        self.keeps = tableau.w_method and self.mass is None
        """Whether a Jacobian may serve for more than one step."""
        if self.keeps:  # then a factorisation may, too
            self.hold = (0.91, 1.2)
        self.age, self.retry = 0, False
        """Steps since the Jacobian was made; whether this one was tried before."""

    @cached_property
    def plan(self) -> tuple[Callable[[Array], None], list[tuple[Any, Any, float, float]]]:
        """What sets hγ, f's weight, and for each stage its state, its right side, 1 − c_i and d_i.

        No compiled solve needs it.
        """
        tableau, s, dtype = self.tableau, len(self.u), self.u.dtype
        states, rights = np.zeros((2, s, s + 2), dtype=dtype)
        states[:, 0] = 1
        for i in range(s):
            states[i, 2 : i + 2] = tableau.A[i]
            rights[i, 2 : i + 2] = np.multiply(tableau.gamma, tableau.C[i])
        stages = [
            (
                partial(states[i, : i + 2].dot, self.terms[: i + 2]),
                partial(rights[i, : i + 2].dot, self.right_terms[: i + 2]),
                1 - tableau.c[i],
                tableau.d[i],
            )
            for i in range(s)
        ]
        return rights[:, 1].fill, stages

    def attempt(self, t: float, y: Array, t_new: float) -> Array:
        """Compute the stages of the step from (t, y) to t_new; return y_new."""
        h, tableau, u = t_new - t, self.tableau, self.u
        old = self.keeps and self.known and serves(self.age, self.retry, h, self.h_known)
        self.retry = True
        if not (self.fresh or old):
            self.jacobian(t, y, h)
            self.f_t, self.age = self.linear.time_slope(t, y, self.f_0, h), 0
        weight = h * tableau.gamma
        solve, moving = self.solver(weight, h), np.count_nonzero(self.f_t) > 0
        call, mass, terms = self.call, self.mass, self.right_terms
        set_weight, stages = self.plan
        set_weight(weight)
        self.terms[0], terms[1] = y, self.f_0
        for i, (state, right_side, rest, d_i) in enumerate(stages):
            if i > 0:
                terms[1] = call(t_new - rest * h, state())
            right = right_side()
            if moving:
                right += (h * d_i * weight) * self.f_t
            u[i] = solve(right)
            if mass is not None:
                terms[i + 2] = mass @ u[i]
        self.calls += len(u) - 1
        self.y_new = self.backend.protect(y + self.m.dot(u))
        return self.y_new

    def begin(self, y: Array, f_0: Array) -> None:
        """Forget the attempts before; f_0 is f(t, y), or as good."""
        super().begin(y, f_0)
        self.age, self.retry = self.age + 1, False

    def shift(self, h: float) -> float:
        """Return hγ."""
        return h * float(self.tableau.gamma)

    def estimate_error(self) -> Array:
        """Return Σ (m_i − m̂_i) u_i."""
        return self.e.dot(self.u)

    def segment(self, t: float, y: Array, t_new: float, y_new: Array) -> Segment:
        """Return the method's own dense output, or the cubic Hermite."""
        if not len(self.tableau.H) or y_new is not self.y_new:
            return super().segment(t, y, t_new, y_new)
        return Segment(t, t_new, y, y_new, list(np.array(self.tableau.H, dtype=y.dtype) @ self.u))
