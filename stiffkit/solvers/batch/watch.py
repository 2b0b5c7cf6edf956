"""The stiffness detector on a batch that goes by one explicit method.

What is free is looked at, and suspicious looks are counted, for all rows at once. A sample has a
`StiffnessDetector` of its own from its first proof on, which is asked where there is a case, and
where a verdict may lapse; what else the rules need of it is noted in arrays. Proofs of one step are
made together.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..._array import quiet_arithmetic
from ..methods import METHODS
from ..options import StepOptions
from ..solution import Status
from ..stabilised import stabilised_pays
from ..tableau import ButcherTableau
from .looks import ExplicitStep
from .make import make_stages
from .problem import BatchProblem, Floats

if TYPE_CHECKING:
    from ...stiffness.detect import StiffnessDetector
    from .loop import BatchRun

__all__ = ["Watch", "is_watched"]

_LOGGER = logging.getLogger("stiffkit")

PACE = 3
"""Steps of the batch from one look to the next while some rows are suspected: whoever is looked at
then, the step of the whole batch is prepared for it."""

INTERVAL = 6 * PACE
"""Steps of the batch between looks at rows that are not: all of them at the same steps."""

AT_FIRST = 16
"""Cases that are put to the proof at first; the others follow at once where one of these holds."""

PROOF = 40
"""Calls that a proof which fails counts for, beyond those it makes: so much work is it, most of it
the same for one row and for many, where a call of f costs little."""

RESERVE = 5 * PROOF
"""Calls beyond the budget of the batch for samples whose stage ratio is near the limit, half
of it for those that were put to the proof in vain: that of one must not wait for what others have
spent."""

NUMBERS = 2e5
"""Most numbers that the Jacobians of a trial may have."""

_TOLD = (Status.success, Status.max_steps)


def is_watched(method: Any) -> bool:
    """Whether a batch goes by a method that can be looked at."""
    return isinstance(method, ButcherTableau) and method.explicit


class Looked(NamedTuple):
    """What a look at r rows has found; arrays of shape (r,)."""

    samples: Any
    """Whose they are."""
    taken: Any
    """Steps that these have accepted, this one included."""
    near: Floats
    """Stage ratio over the stability limit."""
    h: Floats
    """Signed step size."""
    ratio: Floats
    """Error estimate over tolerance."""
    rise: Floats
    """Change of the state, rms in units of the tolerance."""
    turn: Floats
    """Change of the slope."""
    stage: Floats
    """Stage ratio; see `StiffnessDetector.suspicious`."""
    hits: Any
    """Suspicious looks in a row before this one."""
    last: Floats
    """Size of the step at the last of them."""


class Watch:
    """What is known of the samples of one solve.

    Parameters
    ----------
    problem : BatchProblem
        The whole batch.
    tableau : ButcherTableau
        The method; explicit, with an embedded row.
    auto : bool
        Whether ``method="auto"`` is worth advising.
    rtol : float or array, shape (B, 1) or (B, n)
        Relative tolerance.
    """

    def __init__(self, problem: BatchProblem, tableau: Any, *, auto: bool, rtol: Any) -> None:
        # The detector stands above the solvers: it is fetched when a solve asks for it.
        from ...stiffness import trigger
        from ...stiffness.detect import StiffnessDetector

        self.problem, self.tableau, self.auto = problem, tableau, auto
        self.rtol = rtol
        self.make = partial(StiffnessDetector, tableau, interval=INTERVAL)
        self.calm: StiffnessDetector = self.make()
        """The detector of all samples that were never suspected."""
        self.detectors: dict[int, StiffnessDetector] = {}
        """Those of the samples that have been put to the proof."""
        size = problem.size
        self.known = np.zeros(size, bool)
        """Which samples these are."""
        self.hits, self.last = np.zeros(size, int), np.zeros(size)
        """Suspicious looks in a row at each sample, and the size of the step at the last."""
        self.seen, self.spent = np.zeros(size, int), np.zeros(size, int)
        """Steps accepted up to the last look that was noted, and calls that led nowhere."""
        self.pauses, self.near_failed = np.zeros(size, int), np.zeros(size)
        """How many of its steps a case waits for one that has failed, and at what stage ratio."""
        self.moded, self.grew = np.zeros(size, bool), np.zeros(size, bool)
        """Where such a case has left a mode to watch, and where one that grows."""
        self.quiet = np.zeros(size, bool)
        """Whose last look found no signs: nothing but that is noted of it."""
        self.stands = np.zeros(size, bool)
        """Of which samples a verdict stands; each look at them is noted."""
        self.due = np.full(size, INTERVAL)
        """The step of the batch from which on each sample is to be looked at."""
        self.made, self.next = 0, INTERVAL
        self.trigger, self.budget = trigger, trigger.Budget(tableau, INTERVAL)
        self.pause, self.resume = INTERVAL, 0
        """After proofs that have all failed there are looks at regular steps alone, until `resume`;
        longer each time, for the samples may take turns at looking stiff."""

    def waits(self) -> bool:
        """Count a step of the batch, and tell whether it is one to pass over."""
        self.made += 1
        return self.made < self.next

    def rows_due(self, index: Any, accept: Any, running: Any) -> Any:
        """Return which rows of those that `accept` the step are to be looked at."""
        due = self.due[index]
        rows = np.flatnonzero(accept & (due <= self.made))
        later = due[running & (due > self.made)].min(initial=self.made + INTERVAL)
        waiting = np.count_nonzero(running & (due <= self.made)) > len(rows)
        self.next = self.made + PACE if waiting else int(later)
        return rows

    def look(
        self,
        step: ExplicitStep,
        samples: Any,
        ratio: Floats,
        taken: Any,
        *,
        apart: Callable[[Any], bool],
    ) -> None:
        """Look at rows that have accepted a step of the batch.

        Parameters
        ----------
        step : ExplicitStep
            The step of these rows.
        samples : array of int, shape (r,)
            Whose they are.
        ratio : array, shape (r,)
            Error estimate over tolerance.
        taken : array of int, shape (B,)
            Steps that each sample has accepted, without this one.
        apart : callable
            Tells whether f takes some rows of the batch alone.
        """
        trigger, calm = self.trigger, self.calm
        if self.made % INTERVAL:
            self.budget.spent += 1  # where f costs little it takes as long as some calls do
        h, (rise, turn) = step.h, step.changes()
        smooth = trigger.smooth_error(h, rise, turn, calm.error_norm, calm.order)
        left = trigger.unexplained(ratio, smooth, calm.order)
        asks = left | trigger.turned(h, ratio, rise, turn, calm.order)
        if self.tableau.probe is not None:
            stage = step.stage_ratio()
        else:
            stage = np.where(asks, step.stage_ratio(), 0.0) if asks.any() else np.zeros(len(h))
        near, doubtful = trigger.signs(h, left, stage, calm.limit, calm.least)
        asked = doubtful | self.stands[samples]
        self.due[samples] = after = self._after(INTERVAL)
        if not asked.any():
            self.hits[samples], self.last[samples], self.quiet[samples] = 0, 0.0, True
            self.pauses[samples[self.grew[samples]]] = 0
            self.next = min(self.next, after)
            return
        self.quiet[samples] |= ~asked
        self.pauses[samples[~asked & self.grew[samples]]] = 0  # the next case is another
        counted = self.hits[samples], self.last[samples]
        rows = Looked(samples, taken[samples] + 1, near, h, ratio, rise, turn, stage, *counted)
        known = self.known[samples]
        self.seen[samples[asked]] = rows.taken[asked]
        counts, cases, rests = self._count(rows, doubtful)
        self._look_soon(rows, counts & ~known)
        shown = np.flatnonzero(asked & ~doubtful).tolist()  # a verdict stands, and may lapse
        for k in shown:
            self._suspects(rows, k)
        if len(cases):
            shown += self._examine(step, rows, cases, rests, apart=apart)
        counts &= known
        counts[shown] = False
        self.spent[samples[counts]] += calm.budget.look
        self._look_soon(rows, counts)
        waits = [self._note(sample) for sample in samples[shown].tolist()]
        reserves = self._reserve(samples[shown], near[shown]).tolist()
        self.due[samples[shown]] = [*map(self._after, waits, reserves)]
        self.next = min(self.next, int(self.due[samples].min()))

    def _count(self, rows: Looked, doubtful: Any) -> tuple[Any, Any, Any]:
        """Count suspicious looks, as `StiffnessDetector.suspicious` does.

        Return which looks count, which rows are cases, and of these which are of cases that rest.
        """
        samples, trigger = rows.samples, self.trigger
        paused, spent = self.pauses[samples], self.spent[samples]
        overdrawn = self.calm.budget.left(rows.taken, spent) < 0
        lately = trigger.lately(rows.taken, paused, rows.near, self.near_failed[samples])
        rests = self.known[samples] & (lately | overdrawn)
        hits, last, case = trigger.counted(rows.hits, rows.last, rows.h, self.calm.looks)
        counts = doubtful & ~rests
        self.hits[samples] = np.where(counts, hits, 0)
        self.last[samples] = np.where(counts, last, 0.0)
        followed = doubtful & rests & self.moded[samples] & ~overdrawn
        cases = np.flatnonzero((counts & case) | followed)
        return counts, cases, rests[cases]

    def _look_soon(self, rows: Looked, some: Any) -> None:
        """Look at some rows again as soon as there is budget for it."""
        reserves = self._reserve(rows.samples, rows.near)
        for reserve in set(reserves[some].tolist()):
            self.due[rows.samples[some & (reserves == reserve)]] = self._after(1, reserve)

    def _note(self, sample: int) -> int:
        """Note what has become of a detector that was asked; return for how many steps it waits."""
        detector = self.detectors[sample]
        self.quiet[sample], self.hits[sample], self.last[sample] = False, *detector.counted
        self.spent[sample], self.pauses[sample] = detector.budget.spent, detector.resume
        self.near_failed[sample], self.grew[sample] = detector.near_failed, detector.grew
        self.moded[sample] = detector.failed is not None
        self.stands[sample] = detector.state is not type(detector.state).non_stiff
        return detector.wait

    def _suspects(self, rows: Looked, k: int) -> bool:
        """Show a row to its detector, which is made if there is none; return whether it is a case.

        The detector is told what has been counted.
        """
        sample = int(rows.samples[k])
        detector = self.detectors.get(sample)
        if detector is None:
            detector = self.detectors[sample] = self.make(stabilised=self._stabilised_pays(sample))
            self.known[sample] = True
        elif self.quiet[sample]:
            detector.pass_over(0)
        detector.take_over(int(rows.hits[k]), float(rows.last[k]), int(self.spent[sample]))
        h, ratio, rise, turn, stage = (float(x[k]) for x in rows[3:8])
        passed = int(rows.taken[k]) - detector.steps
        return detector.suspicious(h, ratio, rise, turn, stage, steps=passed)

    def _stabilised_pays(self, sample: int) -> bool:
        rtol = self.rtol if isinstance(self.rtol, float) else float(self.rtol[sample].min())
        return stabilised_pays(self.problem.y0.shape[1], rtol)

    def _after(self, wait: int, reserve: int = 0) -> int:
        """Return the step of the batch at which a row is looked at next that waits for so many."""
        calm = self.made >= self.resume or reserve > 0
        if wait < INTERVAL and calm and not self.budget.overdrawn(self.made, reserve):
            return self.made + PACE
        return max((self.made + wait) // INTERVAL, self.made // INTERVAL + 1) * INTERVAL

    def _reserve(self, samples: Any, near: Any) -> Any:
        """By how many calls each sample may overdraw the budget."""
        vain = self.known[samples] & ~self.stands[samples]
        return np.where(near > self.trigger.STAGE_RATIO, np.where(vain, RESERVE // 2, RESERVE), 0)

    def _examine(
        self,
        step: ExplicitStep,
        rows: Looked,
        cases: Any,
        rests: Any,
        *,
        apart: Callable[[Any], bool],
    ) -> list[int]:
        """Put cases to the proof; of those that rest, see how fast their modes are.

        Those whose stage ratio is nearest to the limit come first. Return the rows whose detectors
        were asked.
        """
        made, near, samples = self.made, rows.near[cases], rows.samples[cases]
        borne = self._reserve(samples, near) >= -self.budget.left(made)
        order = np.argsort(np.abs(np.log(near + 1e-300)), kind="stable")
        order = order[borne[order]]
        cases, rests = cases[order], rests[order]
        resting, fresh = cases[rests][:AT_FIRST], cases[~rests]
        problem = step.stages.problem
        before = problem.nfev
        if len(resting):
            self._reopen(step, rows, resting, apart=apart)
        tried = fresh[:AT_FIRST]
        led = len(fresh) > 0 and self._prove(step, rows, tried, apart=apart)
        if led and len(fresh) > AT_FIRST:
            self._prove(step, rows, fresh[AT_FIRST:], apart=apart)
            tried = fresh
        if led:
            self.pause, self.resume = INTERVAL, 0
        else:
            self.budget.spent += problem.nfev - before + (PROOF if len(fresh) else 0)
            if len(cases):
                self.pause = min(2 * self.pause, self.calm.LONGEST_PAUSE)
                self.resume = made + self.pause
        return [*resting.tolist(), *tried.tolist()]

    def _reopen(
        self, step: ExplicitStep, rows: Looked, some: Any, *, apart: Callable[[Any], bool]
    ) -> None:
        """Take up the cases that rest and whose modes come near the limit now."""
        for k in some.tolist():
            self._suspects(rows, k)
        detectors = [self.detectors[int(sample)] for sample in rows.samples[some]]
        before = step.stages.problem.nfev
        try:
            directions = step.backend.xp.stack([d.failed_mode for d in detectors])
            rates = step.rates_along(some, directions, apart=apart(step.places[some]))
        except Exception:  # f was asked where the solve did not ask it
            for detector in detectors:
                detector.rest(step.stages.problem.nfev - before)
            return
        for detector, h, rate in zip(detectors, rows.h[some], rates, strict=True):
            detector.reopen(float(h), float(rate))

    def _prove(
        self, step: ExplicitStep, rows: Looked, some: Any, *, apart: Callable[[Any], bool]
    ) -> bool:
        """Put rows to the proof; return whether stability limits one of them."""
        for k in some.tolist():
            self._suspects(rows, k)
        before, led = step.stages.problem.nfev, False
        detectors = [self.detectors[int(sample)] for sample in rows.samples[some]]
        try:
            found, calls = step.prove(some, apart=apart(step.places[some]))
        except Exception:  # f was asked where the solve did not ask it
            for detector in detectors:
                detector.rest(step.stages.problem.nfev - before)
            return False
        for k, detector, mode in zip(some.tolist(), detectors, found, strict=True):
            end = float(step.t[k]), float(step.h[k]), step.y_end[k]
            detector.conclude(*end, mode, calls)
            led = led or detector.state is not type(detector.state).non_stiff
        return led

    # What is told ---------------------------------------------------------------------------------

    def evidence(self) -> tuple[tuple[Any, ...], ...]:
        """Return the proofs of each sample."""
        of = self.detectors
        return tuple(tuple(of[i].evidence) if i in of else () for i in range(self.problem.size))

    def summaries(self, run: BatchRun) -> dict[int, str]:
        """Say of each sample that was limited by stability what was found, and what would do."""
        for i, detector in self.detectors.items():
            detector.steps = int(self.seen[i])
        limited = {i: d for i, d in sorted(self.detectors.items()) if d.limited}
        if not limited:
            return {}
        tried = self._try_others(run, limited)
        k, B = len(limited), self.problem.size
        told: dict[int, str] = {}
        for i, detector in limited.items():
            of = f" ({k} of {B} samples)"
            told[i] = detector.summary(tried.get(i, ""), auto=self.auto, of=of) or ""
        first = min(limited, key=lambda i: limited[i].evidence[0].t * self.problem.direction)
        _LOGGER.info(
            "%d of %d samples were limited by stability; sample %d: %s", k, B, first, told[first]
        )
        return told

    def _try_others(self, run: BatchRun, limited: dict[int, StiffnessDetector]) -> dict[int, str]:
        """Say how many steps other methods take on the stretches that were limited.

        They are tried, in batches, as `solvers.loop.Run` tries one.
        """
        from ..loop import trial_steps

        n, nfev = self.problem.y0.shape[1], run.problem.nfev
        if run.may_compact is False or Status.interrupted in run.rows.status:
            return {}
        told: dict[int, str] = {}
        by_method: dict[str, list[int]] = {}
        for i, detector in limited.items():
            by_method.setdefault(detector.stretch[0], []).append(i)
        for method, samples in by_method.items():
            if method != "rock4":
                samples.sort(key=lambda i: -limited[i].stretch[-1])
                del samples[int(NUMBERS / n**2) :]
            most = trial_steps(method, nfev, n)
            if most < 1:
                continue
            try:
                told |= self._try(run, method, samples, limited, most)
            except Exception:  # it is advice, and no more
                continue
        return told

    def _try(
        self,
        run: BatchRun,
        method: str,
        samples: list[int],
        limited: dict[int, StiffnessDetector],
        most: int,
    ) -> dict[int, str]:
        from ..loop import steps_until, trial_text
        from .loop import BatchRun

        backend, rows = self.problem.backend, np.array(samples)
        _, starts, states, ends, made = zip(*(limited[i].stretch for i in samples), strict=True)
        part = self.problem.take(rows)
        part.t0, part.t1, part.y0 = np.array(starts), np.array(ends), backend.xp.stack(states)
        rtol, atol = (x if isinstance(x, float) else x[rows] for x in (run.rtol, run.atol))
        make = partial(
            make_stages,
            METHODS[method],
            dense=False,
            tolerances=(rtol, atol),
            radius=None,
            jac=None,
            correct=False,
        )
        steps = StepOptions(None, None, math.inf, most, None)
        with quiet_arithmetic(), backend.no_grad():
            there = BatchRun(part, make, rtol, atol, steps)
            there.integrate()
            found = there.solution()
        told = {}
        for i, sample in enumerate(samples):
            if found.status[i] in _TOLD:
                taken = steps_until(ends[i], found.t[: found.count[i], i].tolist())
                if taken is not None and taken < made[i]:
                    mine, status = self.tableau.name, found.status[i]
                    told[sample] = trial_text(method, status, taken, mine, made[i])
        return told
