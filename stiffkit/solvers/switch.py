"""``method="auto"``: explicit, stabilised or implicit, by what each would cost from here on.

A family's cost is what it spends per unit of time: calls of f per step, Jacobians and
factorisations counted as the calls that take as long, over the step that it could take. That step
is bounded by accuracy for all of them, and by stability too for the explicit one; a stabilised
method buys stability with √(hρ) stages. What takes other time than counts say is in `costs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sps

from .._array import Array, is_torch
from .costs import Costs
from .jacobian_source import check_jacobian
from .methods import METHODS
from .problem import Problem
from .solution import Switch
from .stabilised import StabilisedMethod, stabilised_pays
from .tableau import ButcherTableau

if TYPE_CHECKING:
    from ..stiffness.detect import Evidence, StiffnessDetector

__all__ = [
    "Switcher",
    "calls_of_step",
    "choose_explicit",
    "choose_implicit",
    "choose_recorded",
    "reach",
    "reach_of_proof",
    "words_of_proof",
]

EVERY = 5
"""Accepted steps of a stiff family between two looks at what the explicit one would cost."""

CLEARLY = 0.7
"""A family must cost less than this share of the one in use to replace it."""

BROKEN = 1.5
"""A stabilised family that costs so many times what was promised is left for good: its order is
reduced, or the spectrum is not as real as it looked."""

LOOKS = 2
"""Looks in a row that must agree before a stiff family is left."""

STAY = 15
"""Steps of the explicit family that have paid for the changes to it and back, about: 15 to 25 do
alike on the problems of benchmarks/auto.py."""

FARTHEST = 100.0
"""Times the present step that accuracy is believed to allow at most: the estimate tells the order
of magnitude, and is infinite on a straight path."""

FAST = 0.3
"""hρ from which on a fast mode may be what makes the error."""

TRIAL = 0.2
"""Share of the calls so far that the trials of the implicit method that fail may cost together."""

SHORTEST, LONGEST = 3, 12
"""Steps of a trial: before it may win, and after which it has failed."""

LARGEST = 500
"""Most components of a tensor for which a dense Jacobian is worth its memory."""

BANDED = 3.0
"""Calls of f that a sparse Jacobian may cost: as many as one of three diagonals."""


def choose_explicit(rtol: float) -> ButcherTableau:
    """Return the explicit method for a tolerance."""
    return METHODS["tsit5" if rtol >= 1e-6 else "vern7"]  # type: ignore[return-value]


def choose_implicit(n: int, rtol: float, *, operator: bool = False) -> Any:
    """Return the implicit or Rosenbrock method; `operator`: J is given by products.

    Rosenbrock methods need a Jacobian in every step, exact ones above all; Radau methods keep one
    for as long as it serves. At rtol 5e-5 those of order 5 and 9 take about as many calls, below it
    radau9 takes fewer.
    """
    if n > 200 or operator:
        return METHODS["kencarp4"]
    return METHODS["radau5" if rtol > 2e-5 else "radau9"]


def choose_recorded(implicit: Any) -> Any:
    """Return what takes the implicit member's place where its steps are to be differentiated.

    A Rosenbrock method does not iterate: derivatives of its steps are exact, and of any order.
    """
    return METHODS["rodas5p"] if implicit.name.startswith("radau") else implicit


def calls_of_step(implicit: Any, columns: float) -> float:
    """Return the calls of f that an implicit step takes, a Jacobian taking `columns`."""
    stages = float(getattr(implicit, "n_stages", 3))
    if implicit.name == "rodas5p":
        return stages + columns
    # Radau9's Newton iterations are the ones to fail for want of a new Jacobian.
    return 2.5 * stages + (0.4 if implicit.name == "radau9" else 0.2) * columns


def reach(h: Any, rtol: float, order: int, other: int) -> Any:
    """Return the step that accuracy would allow a method of another order, given the present one's.

    An error of C h^(q+1) at the tolerance makes steps that go as its (q+1)-th root.
    """
    return h * rtol ** (1 / (other + 1) - 1 / (order + 1))


def reach_of_proof(proof: Evidence, h: float) -> float:
    """Return the step that accuracy would allow where stability allows h, within `FARTHEST`."""
    return min(proof.accuracy_step, FARTHEST * h)


def words_of_proof(proof: Evidence, h: float, explicit: ButcherTableau, saving: float) -> str:
    """Say why `explicit`, whose steps are of size h, is left for what takes `saving` times less."""
    free = reach_of_proof(proof, h)
    step = f"about {free:.2g}" if free == proof.accuracy_step else f"{free:.2g} or more"
    return (
        f"hρ = {abs(proof.eigenvalue * proof.h):.3g} is at the limit of {explicit.name}; accuracy "
        f"would allow a step of {step} instead of {h:.2g}, and {saving:.3g} times fewer calls"
    )


class Switcher:
    """The families of one solve, and the choice between them.

    Parameters
    ----------
    problem : Problem
        The problem.
    make : callable
        ``make(problem, method, f_0)`` returns a method's stages at the start of a problem.
    options : mapping
        What was said of Jacobians.
    compiled : bool
        Whether f is compiled: factorisations cost more of its calls then.
    longest : float
        The longest step that any family may take.
    """

    def __init__(
        self,
        problem: Problem,
        make: Callable[[Problem, Any, Array], Any],
        options: Mapping[str, Any],
        *,
        compiled: bool = False,
        longest: float = math.inf,
    ) -> None:
        p = problem
        rtol = float(np.min(np.asarray(p.rtol)))
        self.problem, self.make, self.options, self.longest = p, make, dict(options), longest
        self.n = int(p.y0.shape[0])
        ways = {key: options.get(key) for key in ("jac", "jvp", "jac_sparsity", "bandwidth")}
        if not is_torch(p.y0):  # now, not when an implicit method is wanted: perhaps none ever is
            check_jacobian(p.y0, **ways)
        self.dense_is_dear = False
        """Whether only a dense Jacobian's cost keeps the explicit family in use."""
        structured = any(options.get(key) is not None for key in ("jac_sparsity", "bandwidth"))
        structured |= sps.issparse(options.get("jac"))
        operator = options.get("jvp") is not None
        self.explicit = choose_explicit(rtol)
        self.stabilised: StabilisedMethod = METHODS["rkc2" if rtol > 2e-5 else "rock4"]  # type: ignore[assignment]
        self.implicit = choose_implicit(self.n, rtol, operator=operator)
        self.torch = is_torch(p.y0)
        self.dense = not (self.torch or structured or operator)
        self.has_implicit = not self.torch or (
            self.n <= LARGEST and not structured and not operator
        )
        self.method: Any = self.explicit
        self.rtol = rtol
        self.stages: dict[str, Any] = {}
        self.switches: list[Switch] = []
        self.last_step: dict[str, float] = {}
        self.promise = math.inf
        self.since = problem.t0, (0, 0)
        """When the family in use was chosen, and the counts then."""
        self.trusted = stabilised_pays(self.n, rtol)
        """Whether the stabilised family is one to go to: so far it has kept its promises."""
        self.steps = self.votes = 0
        self.looked = 0, (0, 0)
        """Steps of the family in use and the counts at its last look."""
        self.doubt = dict.fromkeys(("explicit", "stabilised", "implicit"), 1.0)
        """How many times what it had promised each family has cost when it was last in use."""
        self.case: tuple[float, float] | None = None
        """hρ and the calls per unit of time of explicit steps that a trial may do better than."""
        self.tried = 0.0
        """Calls of trials that failed."""
        self.trial = False
        """Whether the steps being made are a trial's."""
        self.usable = 0.9 * self.explicit.real_stability_limit
        """hρ that explicit steps are taken to reach: less, once it was seen to cost accuracy."""
        self.patience = EVERY
        self.seen = 0
        stages = int(getattr(self.implicit, "n_stages", 3))
        self.kind = "compiled" if compiled else "tensor" if self.torch else "python"
        """What f is: see `Costs`."""
        self.costs = Costs(
            self.n,
            stages,
            columns=self._columns(structured=structured, operator=operator),
            dense=not (structured or operator),
            kind=self.kind,
        )
        self.price = 0.0
        """Calls of f that a Jacobian was counted for when the family in use was chosen."""

    def _columns(self, *, structured: bool, operator: bool) -> float:
        """Return the calls of f that a Jacobian costs, roughly."""
        if self.options.get("jac") is not None or operator:
            return 1.0
        band = self.options.get("bandwidth")
        if band is not None:
            return float(sum(band)) + 1
        if structured:
            pattern = sps.csr_array(self.options["jac_sparsity"])
            return float(np.diff(pattern.indptr).max(initial=1))
        return float(self.n)

    # What it costs --------------------------------------------------------------------------------

    @property
    def jacobian_price(self) -> float:
        """Calls of f that a Jacobian takes without making them."""
        return self.costs.jacobian if callable(self.options.get("jac")) else 0.0

    @property
    def implicit_cost(self) -> float:
        """What an implicit step is going to cost, in calls."""
        return self.costs.step(calls_of_step(self.implicit, self.costs.jacobian))

    @property
    def banded_cost(self) -> float:
        """What it would cost if J had few diagonals and that were said."""
        return calls_of_step(self.implicit, BANDED) + self.costs.algebra(dense=False)

    def reach(self, method: Any, h: float) -> float:
        """Return the step that accuracy would allow `method`, given the present one's."""
        order = getattr(method, "error_order", None) or method.n_stages  # Radau's has no row
        free = reach(h, self.rtol, self.stages[self.family].error_order, order)
        return min(float(free), self.longest)

    def stabilised_rate(self, h: float, rho: float) -> float:
        """Return the calls of f per unit of time of stabilised steps of at most h."""
        method = self.stabilised
        h = min(h, method.growth * method.max_stages**2 / (1.2 * rho) if rho > 0 else h)
        stages = max(method.degrees[0], math.sqrt(1.0 + 1.2 * h * rho / method.growth))
        return (1.0 + stages) / h

    # The choice -----------------------------------------------------------------------------------

    def members(self) -> list[Any]:
        """Return the methods that there is a choice of."""
        return [self.explicit, self.stabilised, *([self.implicit] if self.has_implicit else [])]

    def start(self, f_0: Array) -> Any:
        """Return the explicit family's stages at the start."""
        p = self.problem
        if p.backend.wants_grad(p.y0, f_0):
            self.implicit = choose_recorded(self.implicit)
        self.stages["explicit"] = self.make(p, self.explicit, f_0)
        return self.stages["explicit"]

    def due(self) -> int:
        """Return the accepted steps to the next one that `consider` has to be asked after.

        It has to be asked after the step of a new proof, too; 0 is for never else.
        """
        if self.trial:
            return 1
        if self.family == "explicit" and self.case is None:
            return 0
        least = 0 if self.family == "explicit" else self.patience
        return max(self.steps // EVERY + 1, -(-least // EVERY)) * EVERY - self.steps

    def consider(
        self,
        t: float,
        y: Array,
        h: float,
        detector: StiffnessDetector | None,
        made: int = 1,
    ) -> tuple[Any, float] | None:
        """Return the stages and the step size to go on with from (t, y), if that is another way.

        Parameters
        ----------
        t, y : float, flat array
            Where the solution is; the present family is ready to step from there.
        h : float
            Size of the step it would take.
        detector : StiffnessDetector, optional
            The explicit family's.
        made : int
            Accepted steps since it was asked last.
        """
        self.steps += made
        h = min(h, self.longest)
        if self.family == "explicit":
            return None if detector is None else self._leave_explicit(t, y, h, detector)
        if self.trial:
            return self._judge_trial(t, y, h)
        if self.steps % EVERY or self.steps < self.patience:
            return None
        return self._leave_stiff(t, y, h)

    @property
    def family(self) -> str:
        """Name of the family in use."""
        if self.method is self.explicit:
            return "explicit"
        return "stabilised" if self.method is self.stabilised else "implicit"

    def _leave_explicit(
        self, t: float, y: Array, h: float, detector: StiffnessDetector
    ) -> tuple[Any, float] | None:
        from ..stiffness.detect import Stiffness

        if len(detector.evidence) == self.seen:
            return None if self.steps % EVERY else self._begin_trial(t, y, h)
        self.seen = len(detector.evidence)
        proof, self.case = detector.evidence[-1], None
        if proof.verdict is Stiffness.non_stiff:
            return self._try_implicit(t, y, h, proof)
        rho = abs(proof.eigenvalue)
        reach = reach_of_proof(proof, h)
        costs = {"explicit": self.explicit.n_stages / h}
        if self.has_implicit:
            costs["implicit"] = self.implicit_cost / self.reach(self.implicit, reach)
        real = abs(proof.eigenvalue.imag) <= 0.1 * abs(proof.eigenvalue.real)
        if real and (self.trusted or not self.has_implicit):
            costs["stabilised"] = self.stabilised_rate(self.reach(self.stabilised, reach), rho)
        costs = {family: cost * self.doubt[family] for family, cost in costs.items()}
        best = min(costs, key=lambda family: costs[family])
        self.dense_is_dear = False
        if costs[best] > CLEARLY * costs["explicit"]:
            banded = self.banded_cost / self.reach(self.implicit, reach)
            self.dense_is_dear = self.dense and banded <= CLEARLY * costs["explicit"]
            return self._try_implicit(t, y, h, proof)
        self.promise = costs[best]
        first = max(min(reach / 4, self.last_step.get(best, math.inf)), h)
        why = words_of_proof(proof, h, self.explicit, costs["explicit"] / costs[best])
        return self._go(best, t, y, h, first, why)

    def _try_implicit(
        self, t: float, y: Array, h: float, proof: Evidence
    ) -> tuple[Any, float] | None:
        """Try some implicit steps where the proof alone does not tell whether they would pay.

        For many digits the fast modes, kept alive by what each step leaves of them, make the error
        long before hρ comes near the limit; no estimate from the smooth path sees by how much.
        """
        mode = proof.eigenvalue
        fast = abs(proof.h * mode) > FAST and mode.real * proof.h < 0
        trusted = proof.residual <= 0.2 * abs(mode)
        if not (
            self.has_implicit
            and fast
            and trusted
            and min(proof.accuracy_step, self.longest) > 2 * h
        ):
            return None
        self.case = abs(proof.h * mode), self.explicit.n_stages / h
        return self._begin_trial(t, y, h)

    def _begin_trial(self, t: float, y: Array, h: float) -> tuple[Any, float] | None:
        """Begin the trial that there is a case for, as soon as its calls are no great loss."""
        least = SHORTEST * self.implicit_cost + self.costs.columns
        if self.case is None or TRIAL * self._spent((0, 0)) - self.tried < least:
            return None
        self.trial = True
        first = min(2 * h, abs(self.problem.t1 - t), self.longest)
        why = f"hρ = {self.case[0]:.3g} may spoil accuracy: {self.implicit.name} is tried"
        return self._go("implicit", t, y, h, first, why)

    def _judge_trial(self, t: float, y: Array, h: float) -> tuple[Any, float] | None:
        """Go on with the implicit family, or go back; a trial's steps are steps of the solve."""
        assert self.case is not None
        share, before = self.case
        spent = self._spent(self.since[1])
        rate = self.costs.step(spent / self.steps) / h
        if self.steps >= SHORTEST and rate <= CLEARLY * before:
            self.trial, self.case = False, None
            self.promise, self.usable = rate, min(share, self.usable)
            return None
        if self.steps < LONGEST and spent < TRIAL * (self._spent((0, 0)) - spent) - self.tried:
            return None
        self.trial, self.case = False, None
        self.tried += spent
        why = f"the trial cost {rate / before:.3g} times as many calls"
        return self._go("explicit", t, y, h, self.last_step["explicit"], why)

    def _leave_stiff(self, t: float, y: Array, h: float) -> tuple[Any, float] | None:
        stages = self.stages[self.family]
        rho = self._radius(stages)
        if rho is None:
            return None
        t_go, counts_go = self.since
        spent = self._spent(counts_go, self.price) / max(abs(t - t_go), 1e-300)
        broken = self.family == "stabilised" and spent > BROKEN * self.promise
        if broken and self.has_implicit and spent > self.implicit_cost / h:
            self.trusted = False
            why = f"it takes {spent / self.promise:.3g} times the calls that were promised"
            return self._go("implicit", t, y, h, h, why)
        steps_looked, counts_looked = self.looked
        per_step = self._spent(counts_looked) / (self.steps - steps_looked)
        self.looked = self.steps, self._counts()
        stable = self.usable / rho if rho > 0 else math.inf
        stable = min(self.reach(self.explicit, h), stable)
        costs = {"explicit": self.explicit.n_stages / stable}
        if self.family == "stabilised":
            costs["stabilised"] = (1.0 + stages.s) / h
            if self.has_implicit:
                costs["implicit"] = self.implicit_cost / self.reach(self.implicit, h)
        else:
            costs["implicit"] = self.costs.step(per_step) / h
        best = min(costs, key=lambda family: costs[family])
        if best == self.family or costs[best] > CLEARLY * costs[self.family]:
            self.votes = 0
            return None
        self.votes += 1
        if self.votes < LOOKS:
            return None
        self.doubt[self.family] = max(1.0, spent / self.promise)
        first = min(h, stable) if best == "explicit" else h
        why = (
            f"with ρ = {rho:.3g} {best} steps of {first:.2g} cost "
            f"{costs[self.family] / costs[best]:.3g} times fewer calls"
        )
        return self._go(best, t, y, h, first, why)

    def _radius(self, stages: Any) -> float | None:
        """Spectral radius at a stiff family's last Jacobian; None where it is not known."""
        if self.family == "stabilised":
            return float(stages.radius.value / stages.radius.safety)
        J = stages.matrix()
        if isinstance(J, np.ndarray) and len(J) <= 100:
            return float(np.abs(np.linalg.eigvals(J)).max(initial=0.0))
        if isinstance(J, np.ndarray):
            return float(np.abs(J).sum(axis=1).max())
        if sps.issparse(J):
            return float(abs(J).sum(axis=1).max())
        if hasattr(J, "ab"):
            return float(np.abs(J.ab).sum(axis=0).max())  # columns: a bound as good as rows
        return None

    def _counts(self) -> tuple[int, int]:
        """Return the calls of f and the Jacobians of all families so far."""
        used = self.stages.values()
        return sum(int(stages.nfev) for stages in used), sum(int(stages.njev) for stages in used)

    def _spent(self, since: tuple[int, int], price: float | None = None) -> float:
        """Return the calls since such counts, Jacobians at a price of so many, or today's."""
        nfev, njev = self._counts()
        price = self.jacobian_price if price is None else price
        return nfev - since[0] + price * (njev - since[1])

    def _go(
        self, family: str, t: float, y: Array, h: float, first: float, why: str
    ) -> tuple[Any, float]:
        p, old = self.problem, self.stages[self.family]
        self.last_step[self.family] = h
        f_y = p.backend.copy(old.get(0))
        source = self.method.name
        self.method = {
            "explicit": self.explicit,
            "stabilised": self.stabilised,
            "implicit": self.implicit,
        }[family]
        if family in self.stages:
            self.stages[family].start(y, f_y)
        else:
            self.stages[family] = self.make(p.at(t, y), self.method, f_y)
            if family == "implicit" and self.kind == "python":
                self.stages[family].linear.watch = self.costs.factorisation
        # Who comes back soon is looked at later each time: two families that cost the same are no
        # reason to change for ever. A stay that has paid is no such case, however often it comes.
        if source == self.explicit.name and len(self.switches) > 3:
            self.patience = EVERY if self.steps >= STAY else min(2 * self.patience, 1000)
        self.steps = self.votes = self.seen = 0
        self.since, self.price = (t, self._counts()), self.jacobian_price
        self.looked = 0, self._counts()
        self.switches.append(Switch(float(t), source, self.method.name, why))
        return self.stages[family], first
