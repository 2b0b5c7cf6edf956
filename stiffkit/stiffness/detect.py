"""Is a solve limited by stability rather than accuracy? A free trigger, then a Krylov proof.

Every few accepted steps two quotients are formed from evaluations that the step has paid for,
with Δ in units of the tolerance (divided by atol + rtol |y|):

* the smooth path: κ = h ‖f_new − f‖ / ‖y_new − y‖ is how much the slope turns in a step. A
  solution that turns at this rate has a local error near ``Â κ^q ‖Δy‖``, Â the error norm of the
  embedded method and q its order. Where this is far below the error that the pair reports, the
  error is not the solution's own: it is what is left of fast modes that the step barely damps.
* Hairer's stage ratio: h ‖f_new − f(z)‖ / ‖y_new − z‖ of two states at one time, which comes
  near the stability limit when such a mode dominates the difference. A method without such a
  stage takes a state that is off by the error estimate instead, which costs one call of f, if the
  error is unexplained or the path has `trigger.turned` much; or none, where the stages tell it.

Three looks in a row that suspect either, at steps that do not grow fast, make a case. It is then
put to the proof: an Arnoldi process started from the error estimate, which is rich in the mode that
limits the step, runs until its dominant Ritz pair is good to 5 %, and the step is called limited by
stability if hλ lies beyond 62 % of the method's limit along its own direction in the left half
plane, where the smooth path would allow twice the step. It is told without the mode, by 1 − D/λ,
D = d/dt along the solution, for two more calls of f. A case that fails makes the next one wait
longer; meanwhile a look spends one call of f on the mode that was found, and the case is reopened
when that comes near the limit. All calls that lead nowhere have a budget: `trigger.Budget`.

References
----------
E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., Springer (1996), section
IV.2, doi:10.1007/978-3-642-05221-7. L. F. Shampine, Diagnosing stiffness for Runge-Kutta methods,
SIAM J. Sci. Stat. Comput. 12 (1991) 260-272, doi:10.1137/0912015.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from .._array import Array, backend_of
from ..solvers.problem import check_positive
from ..solvers.tableau import ButcherTableau
from .indicators import as_damped, stability_ratio
from .proof import Mode, StepRows, prove
from .trigger import (
    ROOM,
    Budget,
    calm_wait,
    counted,
    lately,
    least_share,
    signs,
    smooth_error,
    turned,
    unexplained,
)

__all__ = ["Evidence", "Stiffness", "StiffnessDetector"]


MANY_STAGES = 50
"""From so many stages of a stabilised method on a problem is more than mildly stiff."""


class Stiffness(Enum):
    """What the detector makes of a problem, for the method and tolerances at hand."""

    non_stiff = "non-stiff"
    mildly_stiff = "mildly stiff, real spectrum"
    stiff = "stiff"
    oscillatory = "oscillatory"


@dataclass(frozen=True)
class Evidence:
    """One proof: what was found at a step that was suspected."""

    t: float
    """End of the step."""
    h: float
    """Its signed size."""
    eigenvalue: complex
    """Dominant eigenvalue of the Jacobian there (a Ritz value)."""
    residual: float
    """Of the Ritz pair: the eigenvalue is exact for a Jacobian this close."""
    stability_ratio: float
    """hλ over the method's limit in its direction."""
    accuracy_step: float
    """The step that the smooth path's error would allow: an estimate of the order of magnitude."""
    products: int
    """Calls of f that the proof cost."""
    verdict: Stiffness
    """What follows from it."""


class _Failed(NamedTuple):
    """What a proof that failed has left."""

    mode: Array
    """Dominant eigenvector; of a complex pair, its real part."""
    share: float
    """Share of the stability limit that a step uses, per unit of ``|hλ|``."""
    room: float
    """Step that accuracy allows without the mode, over the one that it allows with it."""


class StiffnessDetector:
    """Watches a solve from step to step.

    Parameters
    ----------
    tableau : ButcherTableau
        The method; explicit, with an embedded row.
    interval : int
        Accepted steps between looks while nothing is suspected.
    looks : int
        Suspicious looks in a row, at successive steps, that make a case.
    first : int, optional
        Accepted steps before the first look, by default `interval`. From fewer the looks become
        rarer with the steps made, until there are `interval` between two.
    stabilised : bool
        Whether to advise a stabilised method where the problem is mildly stiff.

    Raises
    ------
    TypeError, ValueError
        If the tableau is not explicit or has no embedded row, or a count is no positive integer.

    Attributes
    ----------
    state : Stiffness
        The verdict that stands.
    since : float or None
        Where it was reached.
    evidence : list of Evidence
        All proofs, successful or not.
    nfev : int
        Calls of f that proofs have cost.
    wait : int
        Accepted steps from one look to the next.
    steps : int
        Accepted steps up to the last look.
    """

    PROOF = 0.62
    """Least share of the stability limit that a proof needs."""
    TRUSTED = 0.2
    """Residual over ``|θ|`` up to which an eigenvalue counts."""
    LONGEST_PAUSE = 1000
    """Most accepted steps between a proof that failed and the next."""

    def __init__(
        self,
        tableau: ButcherTableau,
        *,
        interval: int = 25,
        looks: int = 3,
        first: int | None = None,
        stabilised: bool = True,
    ) -> None:
        if not hasattr(tableau, "pair_quality"):
            msg = f"tableau must be an explicit Runge-Kutta method of METHODS, not {tableau!r}"
            raise TypeError(msg)
        for name, value in (("interval", interval), ("looks", looks), ("first", first)):
            if value is not None or name != "first":
                check_positive(name, value, whole=True)
        quality = tableau.pair_quality
        if quality is None or tableau.error_order is None:
            msg = f"method {tableau.name!r} has no embedded row to detect stiffness with"
            raise ValueError(msg)
        self.tableau, self.interval, self.looks = tableau, interval, looks
        self.stabilised = stabilised
        self.order, self.error_norm = tableau.error_order, quality.A_hat
        self.limit = tableau.real_stability_limit
        self.least, self.probes = least_share(tableau), tableau.probe is not None
        self.stage_first = tableau.error_slope is not None
        """Whether `passes` may spare a look all else: where the stages tell what it asks for."""
        self.budget = Budget(tableau, interval)
        self.state = Stiffness.non_stiff
        self.since: float | None = None
        self.evidence: list[Evidence] = []
        self.nfev = self.steps = 0
        self._stiff_steps = self._entered = 0
        self.hits = self.misses = 0
        self.first = min(interval, first or interval)
        self.wait = self.first
        self.pause = self.resume = interval
        self.near = self.near_failed = 0.0
        self._h_seen = self._rate = 0.0
        self.failed: _Failed | None = None
        """What the last proof that failed has left."""
        self.grew = False
        """Whether the mode of the case that rests grows, so that no limit of stability is near."""
        self._h = self._smooth = 0.0
        self.start: tuple[float, Array] | None = None
        """Time and state of the first proof of stiffness."""
        self._proved: list[int] = []
        """Accepted steps up to each such proof."""

    @property
    def stiff_steps(self) -> int:
        """Accepted steps made under a verdict other than non-stiff."""
        running = self.steps - self._entered if self.state is not Stiffness.non_stiff else 0
        return self._stiff_steps + running

    def along(
        self, f: Any, t: float, y: Array, f_new: Array, err: Array, norm: Callable[[Array], float]
    ) -> float:
        """Return ‖J err‖ / ‖err‖ for a method without a probe: a second state costs it one call."""
        # By hand: an operator object at every look would cost more than the call of f.
        backend = backend_of(y)
        square_sum, eps = backend.square_sum(y), float(backend.xp.finfo(y.dtype).eps)
        size = math.sqrt(square_sum(err))
        if not 0 < size < math.inf:
            return 0.0
        radius = math.sqrt(eps * square_sum(y)) or math.sqrt(eps)
        self.nfev += 1
        moved = (radius / size) * err
        change, below = norm(f(t, y + moved) - f_new), norm(moved)
        return change / below if below > 0 else 0.0

    def passes(self, h: float, stage: float) -> bool:
        """Look at the stage ratio alone; return whether it is enough, with nothing suspected."""
        if self.state is not Stiffness.non_stiff or abs(h) * stage >= self.least * self.limit:
            return False
        self.pass_over(self.wait)
        return True

    def suspicious(
        self,
        h: float,
        ratio: float,
        rise: float,
        turn: float,
        stage: float | Callable[[], float],
        steps: int | None = None,
    ) -> bool:
        """Look at a step.

        Parameters
        ----------
        h : float
            Signed size.
        ratio : float
            Error estimate over tolerance.
        rise, turn : float
            ‖y_new − y‖ and ‖f_new − f‖, rms in units of the tolerance.
        stage : float or callable
            ‖f_new − f(z)‖ / ‖y_new − z‖ of two states at one time; or a function that returns it,
            which is called only if it matters: a probe's always does.
        steps : int, optional
            Accepted steps since the last look; by default as many as it asked for.

        Returns
        -------
        bool
            Whether there is a case to examine now.
        """
        self.steps += self.wait if steps is None else steps
        self._h, self._smooth = h, smooth_error(h, rise, turn, self.error_norm, self.order)
        left = unexplained(ratio, self._smooth, self.order)
        if callable(stage):
            matters = self.probes or left or turned(h, ratio, rise, turn, self.order)
            stage = stage() if matters else 0.0
        self.near, doubtful = signs(h, left, stage, self.limit, self.least)
        if not doubtful:
            self._calm()
            if self.state is not Stiffness.non_stiff and (
                self._rate * abs(h) < self.PROOF or self.accuracy_step < ROOM * abs(h)
            ):
                self._relax()
            return False
        if self.rests:
            self.hits, self.wait, self._h_seen = 0, self.calm_wait, 0.0
            return self.failed is not None and not self.budget.overdrawn(self.steps)
        self.wait = 1
        self.budget.spent += self.budget.look
        self.hits, self._h_seen, case = counted(self.hits, self._h_seen, h, self.looks)
        return bool(case)

    @property
    def calm_wait(self) -> int:
        """Accepted steps to the next look where nothing is suspected."""
        return calm_wait(self.steps, self.first, self.interval)

    @property
    def rests(self) -> bool:
        """Whether the next case waits: one has failed lately, or failures have cost too much."""
        waits = lately(self.steps, self.resume, self.near, self.near_failed)
        return bool(waits) or self.budget.overdrawn(self.steps)

    @property
    def counted(self) -> tuple[int, float]:
        """Suspicious looks in a row, and the size of the step at the last of them."""
        return self.hits, self._h_seen

    def take_over(self, hits: int, h: float, spent: int) -> None:
        """Go on from `hits` suspicious looks, the last at a step of size h, counted elsewhere.

        They have left so many calls `spent`.
        """
        self.hits, self._h_seen, self.budget.spent = hits, h, spent

    def pass_over(self, steps: int) -> None:
        """Count accepted steps whose looks found no `signs`, where nothing is suspected."""
        self.steps += steps
        self._calm()

    def _calm(self) -> None:
        """Take note of looks that found no signs."""
        self.hits, self._h_seen, self.wait = 0, 0.0, self.calm_wait
        if self.grew:  # the path has left the stretch where it grew: the next case is another
            self.grew, self.resume = False, self.steps

    @property
    def accuracy_step(self) -> float:
        """Step that the smooth path of the last look or proof would allow."""
        if self._smooth == 0:
            return math.inf
        allowed: float = abs(self._h) * (0.5 / self._smooth) ** (1 / (self.order + 1))
        return allowed

    def _relax(self) -> None:
        """Let a verdict lapse after as many quiet looks as it took suspicious ones."""
        self.misses += 1
        if self.misses >= self.looks:
            self._stiff_steps = self.stiff_steps
            self.state, self.since, self.misses = Stiffness.non_stiff, None, 0

    def examine(
        self,
        f: Any,
        t: float,
        y: Array,
        f_new: Array,
        err: Array,
        h: float,
        changes: tuple[Array, Array, Callable[[Array], float]],
    ) -> None:
        """Put a case to the proof, or see whether one that rests may pass now; as in `prove`.

        Where f fails beside the path nothing is proved: the solve goes on, since it may never come
        there.
        """
        # Whatever f raises: it was asked where the solve did not ask it.
        calls = self.nfev
        try:
            if self.failed_mode is not None:
                self.reopen(h, self.along(f, t, y, f_new, self.failed_mode, changes[2]))
            else:
                self.prove(f, t, y, f_new, err, h, changes)
        except Exception:
            self.rest(self.nfev - calls)

    @property
    def failed_mode(self) -> Array | None:
        """While a case rests, the mode that came nearest to limiting the step: one to watch."""
        return self.failed.mode if self.rests and self.failed is not None else None

    def reopen(self, h: float, rate: float) -> None:
        """Take up a case that rests, if its mode, of this rate now, comes near the limit."""
        assert self.failed is not None
        self.budget.spent += 1
        share = self.failed.share * abs(h) * rate
        if share >= self.PROOF and self.failed.room * self.accuracy_step >= ROOM * abs(h):
            self.resume, self.hits, self.wait = self.steps, 1, 1

    def prove(
        self,
        f: Any,
        t: float,
        y: Array,
        f_new: Array,
        err: Array,
        h: float,
        changes: tuple[Array, Array, Callable[[Array], float]],
    ) -> Evidence | None:
        """Find the dominant eigenvalue from the error estimate on, and judge.

        Parameters
        ----------
        f : callable
            Right-hand side on flat states.
        t : float
            End of the step.
        y, f_new, err : flat array
            State, slope, and error estimate there.
        h : float
            Signed step size.
        changes : (flat array, flat array, callable)
            y_new − y, f_new − f, and the rms in units of the tolerance: without their part along
            the mode that is found, they tell the step that the rest of the solution would allow.

        Returns
        -------
        Evidence or None
            Also appended to `evidence`; None where the error estimate is rich in no fast mode.
        """
        calls = self.nfev

        def of_rows(at: Any, states: Array) -> Array:
            self.nfev += 1
            return f(float(at[0]), states[0])[None]

        rise, turn, norm = changes
        step = StepRows(
            of_rows,
            np.array([t]),
            np.array([h]),
            y[None],
            f_new[None],
            rise[None],
            turn[None],
            err[None],
            lambda x: np.array([norm(x[0])]),
        )
        return self.conclude(t, h, y, prove(step)[0], self.nfev - calls)

    def conclude(
        self, t: float, h: float, y: Array, mode: Mode | None, calls: int
    ) -> Evidence | None:
        """Judge what `stiffness.proof` has found at the end (t, y) of a step of size h."""
        if mode is None:
            self._leave(calls)
            return None
        free = self.accuracy_step
        found = self.judge(t, h, mode.slow, mode.value, mode.residual, calls)
        self.evidence.append(found)
        if found.verdict is Stiffness.non_stiff:
            self._leave(calls)
            self.grew = as_damped(h * mode.value).real > 0
            if self._trusts(mode.value, mode.residual) and 0 < found.stability_ratio < math.inf:
                vector = mode.vector if y.dtype != y.real.dtype else mode.vector.real
                room = found.accuracy_step / free if free < math.inf else 1.0
                share = found.stability_ratio / abs(h * mode.value)
                self.failed = _Failed(backend_of(y).vector(vector, y), share, room)
            return found
        if self.state is Stiffness.non_stiff:
            self.since, self._entered = t, self.steps
        if self.start is None:
            self.start = t, backend_of(y).copy(y)
        self.budget.spent -= self.hits * self.budget.look  # they have led here
        self.state, self._rate = found.verdict, found.stability_ratio / abs(h)
        # The longer a stretch, the rarer its proofs: its end is known to a quarter all the same.
        self.hits, self.misses = 0, 0
        self.wait = max(5 * self.interval, (self.steps - self._entered) // 4)
        self.pause = self.interval
        self._proved.append(self.steps)
        return found

    def _leave(self, calls: int) -> None:
        """Take back a verdict: a proof has failed."""
        self._stiff_steps, self.state = self.stiff_steps, Stiffness.non_stiff
        self.rest(calls)

    def rest(self, calls: int) -> None:
        """Let the next case wait, longer each time: a path may look stiff for long and not be.

        `calls` is what a proof has cost that led nowhere.
        """
        self.budget.spent += calls
        self.hits, self.wait = 0, self.calm_wait
        self.pause = min(2 * self.pause, self.LONGEST_PAUSE)
        self.resume, self.near_failed = self.steps + self.pause, self.near
        self.failed, self.grew = None, False

    @property
    def limited(self) -> bool:
        """Whether stability has limited a stretch that is worth a sentence.

        It is not where no other method would shorten it by much: fewer than 20 steps, or less than
        a tenth of all.
        """
        return len(self._successes()) > 1 and self.stiff_steps >= max(20, 0.1 * self.steps)

    def _successes(self) -> list[Evidence]:
        return [found for found in self.evidence if found.verdict is not Stiffness.non_stiff]

    @property
    def stretch(self) -> tuple[str, float, Array, float, int]:
        """A method to try, time and state where the stretch begins, its end, and steps made on it.

        There is one after the first success.
        """
        assert self.start is not None
        last = self._successes()[-1]
        return self._other(last), *self.start, last.t, self._proved[-1] - self._proved[0]

    def _other(self, last: Evidence) -> str:
        """Return the method to try in place of this one, and to advise."""
        mild = last.verdict is Stiffness.mildly_stiff
        return "rock4" if mild and self.stabilised else "rodas5p"

    def summary(
        self, tried: str = "", *, auto: bool = True, of: str = "", advice: str = ""
    ) -> str | None:
        """Say in one sentence what was found; None where nothing was `limited`.

        Parameters
        ----------
        tried : str
            What another method makes of the `stretch`.
        auto : bool
            Whether to advise ``method="auto"``.
        of : str
            Of how many solves this is one.
        advice : str
            What to do; by default to try another method.
        """
        if not self.limited:
            return None
        first, *_, last = self._successes()
        ratio = f"hρ = {abs(last.h * last.eigenvalue):.3g}"
        limit = f"{abs(last.h * last.eigenvalue) / last.stability_ratio:.3g}"
        now = "" if self.state is not Stiffness.non_stiff else f" until about t = {last.t:.6g}"
        other = self._other(last)
        kind = "a stabilised" if other == "rock4" else "an implicit"
        auto_too = "method='auto', or " if auto else ""
        advice = advice or f"try {auto_too}{kind} method such as {other!r}"
        return (
            f"limited by stability since t = {first.t:.6g}{now}: {last.verdict.value}, {ratio} at "
            f"the limit {limit} of {self.tableau.name}{of}; {tried}{advice}"
        )

    def judge(
        self,
        t: float,
        h: float,
        slow: tuple[float, float],
        value: complex,
        residual: float,
        products: int,
    ) -> Evidence:
        """Judge a step, given a mode and what the others change: `accuracy_step` is theirs.

        Parameters
        ----------
        t, h : float
            End and signed size.
        slow : (float, float)
            Changes of the solution and of its slope without the mode, rms in units of the
            tolerance: see `proof.slow_path`.
        value : complex
            The mode's eigenvalue.
        residual : float
            Its residual.
        products : int
            Calls of f that it has cost.
        """
        self._h, self._smooth = h, smooth_error(h, *slow, self.error_norm, self.order)
        z, room = as_damped(h * value), self.accuracy_step
        share = stability_ratio(1.0, z, self.tableau)
        limits = self.PROOF <= share < math.inf and z.real < 0 and room >= ROOM * abs(h)
        verdict = Stiffness.non_stiff
        if limits and self._trusts(value, residual):
            if abs(value.imag) > abs(value.real):
                verdict = Stiffness.oscillatory
            elif abs(value.imag) > 0.1 * abs(value.real):
                verdict = Stiffness.stiff
            else:
                # A stabilised method covers hρ with about √(hρ/0.65) calls (RKC).
                stages = math.sqrt(abs(value) * min(room, 1e300))
                mild = stages < MANY_STAGES
                verdict = Stiffness.mildly_stiff if mild else Stiffness.stiff
        return Evidence(t, h, value, residual, share, room, products, verdict)

    def _trusts(self, value: complex, residual: float) -> bool:
        return residual <= self.TRUSTED * abs(value)
