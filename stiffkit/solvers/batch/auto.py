"""``method="auto"`` on a batch: which rows leave which method, and why.

What `solvers.switch` asks of one solve is asked of each row, from the steps that it makes; what it
takes to answer is done for all rows at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._array import is_torch
from ..costs import Costs
from ..solution import Switch
from ..switch import (
    CLEARLY,
    EVERY,
    LARGEST,
    LOOKS,
    calls_of_step,
    choose_explicit,
    choose_implicit,
    choose_recorded,
    reach,
    reach_of_proof,
    words_of_proof,
)
from .looks import ExplicitStep
from .problem import BatchProblem, Floats
from .stages import ExplicitBatch
from .stiff import LinearStages

if TYPE_CHECKING:
    from ...stiffness.detect import Evidence

__all__ = ["Judge", "Pair", "make_pair"]

RARELY = 2
"""Explicit steps are looked at so many times less often than implicit ones."""

ARRIVAL = 10
"""Steps of the implicit method that its first use takes to pay: a row makes explicit steps at the
limit for as long as these would take, for it may leave the limit by itself."""

NEAR = 0.5
"""Share of the stability limit from which on a row is suspected to be at it."""

WASTED = 0.05
"""Share of all calls of f that proofs may take which lead nowhere."""

NUMBERS = 2e7
"""Most numbers that the Jacobians of a batch may have."""

MANY_DIGITS = 1e-7
"""Relative tolerance from which on Rosenbrock methods serve a batch best, in seconds. Newton's
method goes on until the slowest row converges, and a Jacobian is made for all rows or for none;
below, the higher order of radau9 pays for that."""

DENSE = 100
"""Most components for which all eigenvalues are computed."""

EXPLICIT, IMPLICIT = 0, 1


@dataclass(frozen=True)
class Pair:
    """The members between which the rows choose."""

    explicit: Any
    implicit: Any
    recorded: Any
    """The implicit member where the steps are to be differentiated."""

    def members(self, *, record: bool) -> tuple[Any, Any]:
        """Return the explicit and the implicit method."""
        return self.explicit, self.recorded if record else self.implicit


def make_pair(problem: BatchProblem, rtol: Any) -> Any:
    """Return the members for a batch; the explicit method alone where Jacobians are too large."""
    B, n = problem.y0.shape
    least = rtol if isinstance(rtol, float) else float(problem.backend.numpy(rtol).min(initial=1))
    explicit, implicit = choose_explicit(least), choose_implicit(n, least)
    if least >= MANY_DIGITS:
        implicit = choose_recorded(implicit)
    if n == 0 or n > LARGEST or B * n * n > NUMBERS:
        return explicit
    return Pair(explicit, implicit, choose_recorded(implicit))


class Judge:
    """What is known of the samples of one solve, and what follows from it.

    Parameters
    ----------
    problem : BatchProblem
        The whole batch.
    methods : tuple
        The explicit and the implicit member.
    rtol, atol : float or array of shape (B, n)
        Tolerances.
    jac : callable or array, optional
        As for `BatchAlgebra`.
    longest : float
        The longest step that either method may take.
    """

    def __init__(
        self,
        problem: BatchProblem,
        methods: tuple[Any, Any],
        rtol: Any,
        atol: Any,
        jac: Any,
        longest: float = math.inf,
    ) -> None:
        # The detector stands above the solvers: it is fetched when a solve asks for it.
        from ...stiffness.detect import StiffnessDetector

        p = self.problem = problem
        B, n = p.y0.shape
        self.backend, self.methods, self.tolerances = p.backend, methods, (rtol, atol)
        self.longest = longest
        self.least = rtol if isinstance(rtol, float) else float(rtol.min())
        self.detector = StiffnessDetector(methods[EXPLICIT])
        self.limit = methods[EXPLICIT].real_stability_limit
        self.orders = tuple(m.error_order or m.n_stages for m in methods)
        self.costs = p.costs = Costs(
            n,
            int(getattr(methods[IMPLICIT], "n_stages", 3)),
            columns=float(n) if jac is None else 1.0,
            derived=jac is None,
            kind="tensor" if is_torch(p.y0) else "python",
            rows=B,
            wait=p.backend.waiting(p.y0),
        )
        self.wasted = 0
        self.steps = np.zeros(B, int)
        """Accepted steps by the method in use."""
        self.votes = np.zeros(B, int)
        """Looks in a row that were for a change."""
        self.resume = np.zeros(B, int)
        """Steps before the next proof, or before the way back is looked at."""
        self.pause = np.full((2, B), EVERY)
        """How long it is, after the next proof that fails and after the next switch."""
        self.last = np.full((2, B), math.inf)
        """Step sizes at which the methods were left."""
        self.evidence: list[list[Evidence]] = [[] for _ in range(B)]
        self.switches: list[list[Switch]] = [[] for _ in range(B)]

    @property
    def cost(self) -> float:
        """What an implicit step is going to cost, in calls of f."""
        return self.costs.step(calls_of_step(self.methods[IMPLICIT], self.costs.jacobian))

    @property
    def arrival(self) -> float:
        """The price of `ARRIVAL`, in explicit steps."""
        return ARRIVAL * self.cost / float(self.methods[EXPLICIT].n_stages)

    @property
    def looks(self) -> int:
        """Looks in a row at explicit steps that must find them at the limit."""
        return max(LOOKS, round(min(self.arrival, 1000) / (RARELY * EVERY)))

    def found(self) -> dict[str, Any]:
        """Return what a solution tells of it."""
        told: dict[str, list[list[Any]]] = {"stiffness": self.evidence, "switches": self.switches}
        return {key: tuple(tuple(own) for own in samples) for key, samples in told.items()}

    def leave_explicit(
        self,
        stages: ExplicitBatch,
        samples: Any,
        accept: Any,
        step: tuple[Floats, Floats, Any, Any],
    ) -> dict[int, float]:
        """Look at a step of rows that go by the explicit method.

        Parameters
        ----------
        stages : ExplicitBatch
            Theirs, before they move on.
        samples : array of int, shape (b,)
            Whose the rows are.
        accept : array of bool, shape (b,)
            Which of them have made the step.
        step : (t_new, h, y, y_new)
            Its end, signed size, and states.

        Returns
        -------
        dict
            The samples that leave, and the sizes of their first steps.
        """
        t_new, h, y, y_new = step
        with self.backend.no_grad():
            rtol, atol = (x if isinstance(x, float) else x[samples] for x in self.tolerances)
            size = self.backend.xp.maximum(abs(y), abs(y_new))
            scale = size * rtol + (atol + self.backend.tiny(y))
            looked = ExplicitStep(stages, None, t_new, h, y, y_new, scale)
            near = np.abs(h) * looked.stage_ratio()
        with np.errstate(invalid="ignore"):
            suspected = accept & (near > NEAR * self.limit)
        own = samples[accept]
        self.votes[own] = np.where(suspected[accept], self.votes[own] + 1, 0)
        ready = (self.votes[samples] >= self.looks) & (self.steps[samples] >= self.resume[samples])
        saves = self._saves(samples, suspected, t_new, h)
        cases = np.flatnonzero(suspected & ready & (saves > self.arrival))
        if not len(cases) or self.wasted > WASTED * self.problem.nfev:
            return {}
        calls = self.problem.nfev
        leaving = {}
        try:
            proofs = self._prove(looked, cases)
        except Exception:  # f may not bear what lies beside the path
            proofs = [None] * len(cases)
        for i, found in zip(cases, proofs, strict=True):
            sample = int(samples[i])
            first = None
            if found is not None:
                self.evidence[sample].append(found)
                first = self._first_implicit(sample, found, float(saves[i]))
            if first is None:
                self.pause[EXPLICIT, sample] *= 2
                self.resume[sample] = self.steps[sample] + self.pause[EXPLICIT, sample]
            else:
                leaving[sample] = first
        if not leaving:
            self.wasted += self.problem.nfev - calls
        return leaving

    def _prove(self, looked: ExplicitStep, cases: Any) -> list[Evidence | None]:
        """Find what limits the steps of some rows."""
        with self.backend.no_grad():
            modes, calls = looked.prove(cases, apart=False)
        judge, ends = self.detector.judge, zip(looked.t[cases], looked.h[cases], strict=True)
        return [
            None
            if mode is None
            else judge(float(t), float(h), mode.slow, mode.value, mode.residual, calls)
            for mode, (t, h) in zip(modes, ends, strict=True)
        ]

    def _saves(self, samples: Any, suspected: Any, t_new: Floats, h: Floats) -> Floats:
        """Return how many steps of the batch rows save, at most, that leave the explicit method.

        Those that remain to them, but for those that the batch makes all the same, for rows that
        are not at the limit.
        """
        left = np.abs(self.problem.t1[samples] - t_new)
        left = np.divide(left, np.abs(h), out=np.zeros_like(left), where=h != 0)
        rest = float(left[~suspected].max(initial=0.0))
        saves: Floats = CLEARLY * left - rest
        return saves

    def _first_implicit(self, sample: int, found: Evidence, saves: float) -> float | None:
        """Return the size of the first implicit step; None where the explicit method stays."""
        from ...stiffness.detect import Stiffness

        if found.verdict is Stiffness.non_stiff:
            return None
        h = abs(found.h)
        free = min(reach(reach_of_proof(found, h), self.least, *self.orders), self.longest)
        now = self.methods[EXPLICIT].n_stages / h
        steps = abs(float(self.problem.t1[sample]) - found.t) / free
        if self.arrival * (1 + steps / ARRIVAL) > saves:
            return None
        why = words_of_proof(found, h, self.methods[EXPLICIT], now * free / self.cost)
        first = max(min(free / 4, float(self.last[IMPLICIT, sample])), h)
        return self._go(sample, found.t, h, IMPLICIT, first, why)

    def leave_implicit(
        self, stages: LinearStages, samples: Any, accept: Any, step: tuple[Floats, Floats, Any, Any]
    ) -> dict[int, float]:
        """Look at a step of rows that go by the implicit method; see `leave_explicit`."""
        t_new, h, *_ = step
        rows = np.flatnonzero(accept & (self.steps[samples] >= self.resume[samples]))
        if not len(rows):
            return {}
        own, size = samples[rows], np.abs(h[rows])
        rho = radii(self.backend.numpy(stages.J)[rows])
        limit, s = 0.9 * self.limit, self.methods[EXPLICIT].n_stages
        stable = np.divide(limit, rho, out=np.full_like(rho, math.inf), where=rho > 0)
        free = np.minimum(reach(size, self.least, *self.orders[::-1]), self.longest)
        stable = np.minimum(free, stable)
        gain = (self.cost / size) / (s / stable)
        self.votes[own] = np.where(gain * CLEARLY > 1, self.votes[own] + 1, 0)
        leaving = {}
        for i in np.flatnonzero(self.votes[own] >= LOOKS).tolist():
            sample, first = int(own[i]), min(float(size[i]), float(stable[i]))
            why = (
                f"with ρ = {rho[i]:.3g} explicit steps of {first:.2g} cost {gain[i]:.3g} times "
                "fewer calls"
            )
            at = float(t_new[rows[i]])
            leaving[sample] = self._go(sample, at, float(size[i]), EXPLICIT, first, why)
        return leaving

    def _go(self, sample: int, t: float, h: float, to: int, first: float, why: str) -> float:
        source, target = (self.methods[family].name for family in (1 - to, to))
        self.switches[sample].append(Switch(t, source, target, why))
        self.last[1 - to, sample] = h
        # Who comes back is looked at later each time: two methods that cost the same are no reason
        # to change for ever.
        if len(self.switches[sample]) > LOOKS + 1:
            self.pause[IMPLICIT, sample] = min(2 * self.pause[IMPLICIT, sample], 1000)
        self.steps[sample] = self.votes[sample] = 0
        self.resume[sample] = self.pause[IMPLICIT, sample] if to == IMPLICIT else 0
        self.pause[EXPLICIT, sample] = EVERY
        return first


def radii(J: Any) -> Floats:
    """Return the spectral radii of matrices, shape (b, n, n), or bounds of them."""
    if J.shape[-1] > DENSE or not np.isfinite(J).all():
        return np.asarray(np.abs(J).sum(2).max(1), dtype=np.float64)
    return np.asarray(np.abs(np.linalg.eigvals(J)).max(1), dtype=np.float64)
