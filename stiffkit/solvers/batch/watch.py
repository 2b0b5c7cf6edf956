"""The stiffness detector on a batch that goes by one explicit method.

What is free is looked at for all rows at once. A sample has a `StiffnessDetector` of its own from
its first suspicious look on, and the proofs of all cases of one step are made together.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

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
    from ...stiffness.proof import Mode
    from .loop import BatchRun

__all__ = ["Watch", "is_watched"]

_LOGGER = logging.getLogger("stiffkit")

PACE = 3
"""Steps of the batch from one look to the next while some rows are suspected: whoever is looked at
then, the step of the whole batch is prepared for it."""

INTERVAL = 6 * PACE
"""Steps of the batch between looks at rows that are not: all of them at the same steps."""

RESERVE = 30
"""Calls beyond the budget of the batch for samples whose stage ratio is near the limit: the proof
of one must not wait for what others have spent in vain. About what a proof costs that fails."""

NUMBERS = 2e5
"""Most numbers that the Jacobians of a trial may have."""

_TOLD = (Status.success, Status.max_steps)


def is_watched(method: Any) -> bool:
    """Whether a batch goes by a method that can be looked at."""
    return isinstance(method, ButcherTableau) and method.explicit


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
        from ...stiffness.detect import StiffnessDetector
        from ...stiffness.trigger import Budget

        self.problem, self.tableau, self.auto = problem, tableau, auto
        self.rtol = rtol
        self.make = partial(StiffnessDetector, tableau, interval=INTERVAL)
        self.calm: StiffnessDetector = self.make()
        """The detector of all samples that were never suspected."""
        self.detectors: dict[int, StiffnessDetector] = {}
        """Those of the others."""
        self.quiet = np.zeros(problem.size, bool)
        """Whose last look found no signs: nothing but that is noted of it."""
        self.stands = np.zeros(problem.size, bool)
        """Of which samples a verdict stands; each look at them is noted."""
        self.due = np.full(problem.size, INTERVAL)
        """The step of the batch from which on each sample is to be looked at."""
        self.made, self.next = 0, INTERVAL
        self.budget = Budget(tableau, INTERVAL)
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
        from ...stiffness.trigger import signs, smooth_error

        calm = self.calm
        if self.made % INTERVAL:
            self.budget.spent += 1  # it takes as long as a call of f, if it makes none
        h, (rise, turn), stage = step.h, step.changes(), step.stage_ratio()
        with np.errstate(all="ignore"):
            smooth = smooth_error(h, rise, turn, calm.error_norm, calm.order)
            near = signs(h, ratio, smooth, calm.order, stage, calm.limit, calm.least)
        asked = near[1] | self.stands[samples]
        self.due[samples] = self._after(INTERVAL)
        self.quiet[samples] |= ~asked
        rows = np.flatnonzero(asked).tolist()
        cases = []
        for k in rows:
            sample = int(samples[k])
            if sample not in self.detectors:
                self.detectors[sample] = self.make(stabilised=self._stabilised_pays(sample))
            detector = self.detectors[sample]
            if self.quiet[sample]:
                detector.pass_over(0)
            passed = int(taken[sample]) + 1 - detector.steps
            measured = (float(x[k]) for x in (h, ratio, rise, turn, stage))
            if detector.suspicious(*measured, steps=passed):  # type: ignore[misc, arg-type]
                cases.append(k)
        self._examine(step, samples, cases, apart=apart)
        for sample in samples[rows].tolist():
            detector = self.detectors[sample]
            self.due[sample] = self._after(detector.wait, self._reserve(detector))
            self.quiet[sample] = False
            self.stands[sample] = detector.state is not type(detector.state).non_stiff
        self.next = min(self.next, int(self.due[samples].min()))

    def _stabilised_pays(self, sample: int) -> bool:
        rtol = self.rtol if isinstance(self.rtol, float) else float(self.rtol[sample].min())
        return stabilised_pays(self.problem.y0.shape[1], rtol)

    def _after(self, wait: int, reserve: int = 0) -> int:
        """Return the step of the batch at which a row is looked at next that waits for so many."""
        calm = self.made >= self.resume or reserve > 0
        if wait < INTERVAL and calm and not self.budget.overdrawn(self.made, reserve):
            return self.made + PACE
        return max((self.made + wait) // INTERVAL, self.made // INTERVAL + 1) * INTERVAL

    def _reserve(self, detector: StiffnessDetector) -> int:
        from ...stiffness.trigger import STAGE_RATIO

        return RESERVE if detector.near > STAGE_RATIO else 0

    def _examine(
        self,
        step: ExplicitStep,
        samples: Any,
        cases: list[int],
        *,
        apart: Callable[[Any], bool],
    ) -> None:
        """Put cases to the proof; of those that rest, see how fast their modes are."""
        suspects = ((k, self.detectors[int(samples[k])]) for k in cases)
        overdrawn, made = self.budget.overdrawn, self.made
        detectors = {k: d for k, d in suspects if not overdrawn(made, self._reserve(d))}
        modes = {k: detector.failed_mode for k, detector in detectors.items()}
        resting = [k for k, mode in modes.items() if mode is not None]
        fresh = [k for k, mode in modes.items() if mode is None]
        problem = step.stages.problem
        before, led = problem.nfev, False
        found: list[Mode | None] = []
        calls = 0
        try:
            if resting:
                some = np.array(resting)
                directions = step.backend.xp.stack([modes[k] for k in resting])
                rates = step.rates_along(some, directions, apart=apart(step.places[some]))
                for k, rate in zip(resting, rates.tolist(), strict=True):
                    detectors[k].reopen(float(step.h[k]), rate)
            if fresh:
                some = np.array(fresh)
                found, calls = step.prove(some, apart=apart(step.places[some]))
        except Exception:  # f was asked where the solve did not ask it
            for detector in detectors.values():
                detector.rest(problem.nfev - before)
            fresh, found = [], []
        for k, mode in zip(fresh, found, strict=True):
            end = float(step.t[k]), float(step.h[k]), step.y_end[k]
            proof = detectors[k].conclude(*end, mode, calls)
            led = led or (proof is not None and proof.verdict is not type(proof.verdict).non_stiff)
        if led:
            self.pause, self.resume = INTERVAL, 0
            return
        self.budget.spent += problem.nfev - before
        if detectors:
            self.pause = min(2 * self.pause, self.calm.LONGEST_PAUSE)
            self.resume = self.made + self.pause

    # What is told ---------------------------------------------------------------------------------

    def evidence(self) -> tuple[tuple[Any, ...], ...]:
        """Return the proofs of each sample."""
        of = self.detectors
        return tuple(tuple(of[i].evidence) if i in of else () for i in range(self.problem.size))

    def summaries(self, run: BatchRun) -> dict[int, str]:
        """Say of each sample that was limited by stability what was found, and what would do."""
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
