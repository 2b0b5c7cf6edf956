"""The loop: fixed steps through a grid, or steps chosen by error control."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .._array import Array
from .control import ErrorRatio, first_step, norm_of_flat
from .dense import DenseOutput, Segment
from .events import EventFinder
from .methods import METHODS
from .options import LOG_COLUMNS, Hooks, Progress, StepOptions, counted
from .problem import Problem, check_times, first_bad
from .solution import Solution, Status, freeze_log
from .stabilised import stabilised_pays
from .step import Probe, Step, StepFailed, make_stages
from .stiff_limit import with_inside
from .tableau import ButcherTableau

if TYPE_CHECKING:
    from ..stiffness.detect import StiffnessDetector
    from .switch import Switcher

__all__ = ["Run", "trial"]

_LOGGER = logging.getLogger("stiffkit")

FAILED = {
    "newton": Status.newton_failed,
    "singular": Status.newton_failed,
    "non_finite": Status.non_finite,
    "stability": Status.unstable,
}
"""By what a step failed for, how a solve ends that cannot do without the step."""

_STUCK = {Status.newton_failed, Status.max_steps, Status.step_too_small, Status.non_finite}
"""Ends that a wrong Jacobian may be the cause of, or a component without tolerance."""

FIRST_LOOK, LOOKS, INTERVAL = 3, 2, 20
"""With ``method="auto"``: accepted steps before the first look for stiffness, suspicious looks in a
row that make a case, and accepted steps between looks where nothing is suspected."""

TRIAL = 0.05
"""Share of a solve's calls that may be spent to find what another method would have cost."""

MAX_FAILURES = 20
"""Failures in a row of Newton's method, or of stability, before the solve gives up."""

MAX_NON_FINITE = 5
"""Rejections of steps towards one time for NaN or inf in f, before the solve gives up."""

DENSE_IS_DEAR = (
    "a dense Jacobian makes implicit methods too dear: give jac_sparsity, bandwidth or jvp"
)
"""Advice where ``method="auto"`` stays at the explicit method's limit of stability."""


class Run:
    """One solve in progress. All that the Solution needs is kept here, step by step."""

    compiled = False
    """Whether f is compiled."""

    def __init__(
        self,
        problem: Problem,
        tableau: Any,
        steps: StepOptions,
        hooks: Hooks,
        events: list[Callable[..., Any]],
        t_eval: Any,
        *,
        dense: bool,
        progress: bool,
        stiff: Mapping[str, Any] | None = None,
        auto: bool = False,
    ) -> None:
        p, backend = problem, problem.backend
        self.problem, self.tableau, self.steps, self.hooks = problem, tableau, steps, hooks
        self.t, self.y = p.t0, p.y0
        self.status, self.message = Status.success, Status.success.value
        self.accepted = self.rejected = 0
        self.probe: Probe | None = None
        self.advises = True
        """Whether a solve by a choice of methods says what would help it."""
        self.detector: StiffnessDetector | None = None
        self.detectors: list[StiffnessDetector] = []
        self.finder = EventFinder(events, p.y0, p.shape, backend) if events else None
        self.segments: Any = [] if dense else None
        self.breaks = [p.t0]
        self.t_eval = None if t_eval is None else check_times("t_eval", t_eval, p.t0, p.t1)
        self.i_eval = 0
        self.t_out: Any = []
        self.y_out: list[Array] = []
        self.may_interpolate = dense or bool(events) or t_eval is not None
        self.nfev_first = 0
        self.stiff = dict(stiff or {})
        self.auto = auto
        self.switcher: Switcher | None = None
        self.stages: Any = None
        self._record_time(p.t0, p.y0)
        self.plain = t_eval is None and not (dense or events or hooks.wanted or progress)

    # The loop -------------------------------------------------------------------------------------

    def integrate(self, bar: Progress) -> None:
        """Step until something ends the solve."""
        if self._start():
            if self.steps.grid is not None:
                self._follow_grid(self.steps.grid, bar)
            else:
                self._control_steps(bar)

    def _start(self) -> bool:
        """Evaluate at t0, and get the stages ready; return whether there is a step to take."""
        p, backend = self.problem, self.problem.backend
        self.nfev_first = 1
        f_0 = p.first_slope()
        if not bool(backend.xp.isfinite(f_0).all()):
            bad = first_bad(f_0.reshape(p.shape), backend)
            self.end(Status.non_finite, f"f(t0, y0) is not finite at component {bad}")
            return False
        if self.finder is not None:
            self.finder.start(p.t0)
        if p.t0 == p.t1:
            return False
        if self.auto:
            from .switch import Switcher

            known = {"compiled": self.compiled, "longest": self.steps.max_step}
            self.switcher = Switcher(p, self._make_stages, self.stiff, **known)
            self.stiff["jac"] = self.switcher.costs.timed(self.stiff.get("jac"))
            self.stages, self.tableau = self.switcher.start(f_0), self.switcher.explicit
            self.watch()
        else:
            self.stages = self._make_stages(p, self.tableau, f_0)
        return True

    def _make_stages(self, p: Problem, tableau: Any, f_0: Array) -> Any:
        """Return a method's stages at the start of `p`, which may be on the way."""
        if isinstance(tableau, ButcherTableau) and tableau.explicit:
            return make_stages(
                p.f,
                tableau,
                p.y0,
                f_0,
                p.backend,
                dense=self.may_interpolate,
                record=self.hooks.guide is not None,
            )
        # The rooms of the stiff methods are entered when a solve needs them.
        from .stiff import start_stiff

        return start_stiff(p, tableau, f_0, fixed=self.steps.grid is not None, **self.stiff)

    def watch(self) -> StiffnessDetector | None:
        """Begin to look for stiffness, where the method is one to look at."""
        # The detector stands above the solvers: it is fetched when a solve asks for it.
        from ..stiffness.detect import StiffnessDetector

        self.detector, p = None, self.problem
        if isinstance(self.tableau, ButcherTableau) and self.tableau.explicit:
            # Where a switch is at stake early looks pay, though more of the proofs fail.
            early = {"first": FIRST_LOOK, "looks": LOOKS, "interval": INTERVAL} if self.auto else {}
            pays = stabilised_pays(p.y0.shape[0], float(np.min(np.asarray(p.rtol))))
            self.detector = StiffnessDetector(self.tableau, **early, stabilised=pays)
            self.detectors.append(self.detector)
        return self.detector

    def _follow_grid(self, grid: list[float], bar: Progress) -> None:
        stages, isfinite = self.stages, self.problem.backend.xp.isfinite
        for t_new in grid[1:]:
            h = t_new - self.t
            if self.accepted:
                stages.advance(self.t, self.y)
            self._tell(h, accepted=None)
            try:
                y_new = stages.attempt(self.t, self.y, t_new)
            except StepFailed as failed:
                self._log(h, math.nan, failed.limit, accepted=False)
                self._tell(h, accepted=False)
                self.end(FAILED[failed.limit], f"{failed} in the step from t = {self.t!r} by {h!r}")
                return
            if not bool(isfinite(y_new).all()):
                self._tell(h, accepted=False)
                self.end(Status.non_finite, self._where_not_finite(y_new))
                return
            self._log(h, math.nan, "grid", accepted=True)
            self._tell(h, accepted=True)
            if self._commit(t_new, y_new, bar):
                return

    def _control_steps(self, bar: Progress) -> None:
        p, steps, stages, controller = self.problem, self.steps, self.stages, self.steps.controller
        t, y, t1, direction = self.t, self.y, p.t1, p.direction
        isfinite = p.backend.xp.isfinite
        order = stages.error_order
        hold = stages.hold
        inside_error = getattr(stages, "inside_error", None)  # of implicit methods only
        wall = t1  # the nearest time towards which f was not finite
        beyond = t1  # and that of the last step that was refused for its inside
        h_abs, limit, non_finite = self._first_step(order), "first_step", 0
        ratio_of = ErrorRatio(p.rtol, p.atol, y, p.backend, norm_of_flat(steps.norm, p.shape))
        told = self.hooks.on_attempt is not None
        memory, max_step, logging = controller.init(), steps.max_step, self.hooks.rows is not None
        attempts_left, retry, detector = steps.max_steps, False, self.detector
        failures = refused = 0
        countdown = detector.wait if detector is not None else 0
        while True:
            min_step = 10 * math.ulp(t)
            if h_abs > max_step:
                h_abs, limit = max_step, "max_step"
            if h_abs < min_step:
                if retry or max_step < min_step:
                    self.end(Status.step_too_small, self._why_too_small(h_abs, non_finite))
                    return
                h_abs = min_step
            if attempts_left == 0:
                self.end(Status.max_steps, self._why_no_further(h_abs))
                return
            attempts_left -= 1
            t_new = t + h_abs * direction
            if (t_new - t1) * direction >= 0:
                t_new, limit = t1, "end"
            h = t_new - t
            if told:
                self._tell(h, accepted=None)
            try:
                y_new = stages.attempt(t, y, t_new)
                errors = stages.errors()
            except StepFailed as failed:
                self._log(h, math.inf, limit, accepted=False)
                self._tell(h, accepted=False)
                failures += 1
                h_abs, limit, retry = failed.longest, failed.limit, True
                if failures == MAX_FAILURES or h_abs < min_step:
                    why = f"{failed} after t = {t!r}, {in_a_row(failures)}"
                    self.end(FAILED[failed.limit], why)
                    return
                if failed.limit == "stability":
                    attempts_left += 1  # refused before any work was done
                else:
                    self.rejected += 1
                    _, _, memory = controller(math.inf, memory, order)
                continue
            ratio = ratio_of(errors, y_new)
            if not math.isfinite(ratio):
                self.rejected += 1
                non_finite += 1
                self._log(h, ratio, limit, accepted=False)
                self._tell(h, accepted=False)
                stuck = not bool(isfinite(stages.get(0)).all())  # a smaller step starts there too
                if non_finite == MAX_NON_FINITE or stuck:
                    self.end(Status.non_finite, self._where_not_finite(y_new))
                    return
                # To the controller this is a rejection too: the next step does not grow.
                _, _, memory = controller(math.inf, memory, order)
                wall, h_abs, limit, retry = t_new, 0.1 * abs(h), "non_finite", True
                continue
            if inside_error is not None and ratio < 1 and self._looks_inside(t_new):
                inside = ratio_of.of(inside_error(t, y, t_new, y_new))
                ratio = float(with_inside(ratio, inside, refused))
                if ratio >= 1:
                    refused, beyond = refused + 1, t_new
            accept, factor, memory = controller(ratio, memory, order)
            if not factor > 0:
                msg = f"controller returned factor={factor!r} for the ratio {ratio!r}; must be > 0"
                raise ValueError(msg)
            if logging:
                self._log(h, ratio, limit, accepted=accept)
            if told:
                self._tell(h, accepted=accept)
            if accept and hold[0] < factor < hold[1]:
                factor = 1.0
            h_abs, limit, retry = abs(h) * factor, "accuracy", not accept
            failures = 0
            if retry:
                self.rejected += 1
                continue
            if refused and (t_new - beyond) * direction >= 0:
                refused = 0
            if non_finite and (t_new - wall) * direction >= 0:
                non_finite = 0  # past it: the next trouble is another
            if detector is not None:
                countdown -= 1
                if countdown == 0:
                    stages.f_new(t_new, y_new)  # the next step starts with it: autograd included
                    with p.backend.no_grad():
                        self._look(detector, ratio_of, errors[0], ratio, t_new, y_new)
                    countdown = detector.wait
            if self._commit(t_new, y_new, bar) or t_new == t1:
                return
            t, y = t_new, self.y
            ratio_of.accept(y)
            stages.advance(t, y)
            if self.switcher is not None:
                change = self.switcher.consider(t, y, h_abs, detector)
                if change is not None:
                    (stages, h_abs), limit = change, "switch"
                    self.stages, self.tableau = stages, self.switcher.method
                    inside_error = getattr(stages, "inside_error", None)
                    order, hold, memory = stages.error_order, stages.hold, controller.init()
                    detector = self.watch()
                    countdown = detector.wait if detector is not None else 0

    def _first_step(self, order: int) -> float:
        p, steps = self.problem, self.steps
        if steps.first is not None:
            return float(steps.first)
        self.nfev_first += 1
        f, f_0 = p.f, self.stages.get(0)
        to_slope = getattr(self.stages, "to_slope", None)
        if to_slope is not None:  # of M y' = f
            f, f_0 = (lambda t, y: to_slope(p.f(t, y))), to_slope(f_0)
        h: float = first_step(
            f,
            p.t0,
            p.y0,
            f_0,
            direction=p.direction,
            order=order,
            rtol=p.rtol,
            atol=p.atol,
            longest=abs(p.t1 - p.t0),
            max_step=steps.max_step,
            backend=p.backend,
            norm=norm_of_flat(steps.norm, p.shape),
        )
        return h

    def _look(
        self,
        detector: StiffnessDetector,
        ratio_of: ErrorRatio,
        err: Array,
        ratio: float,
        t_new: float,
        y_new: Array,
    ) -> None:
        """Show the detector an accepted step, `err` being in units of the tolerance."""
        p, stages, h = self.problem, self.stages, t_new - self.t
        detach, f = p.backend.detach, p.f
        if self.switcher is not None:  # what follows is timed: no call is made for it
            f = partial(self.switcher.costs.f, p.f)
        f_new, y_end = detach(stages.f_new(t_new, y_new)), detach(y_new)

        def stage() -> float:
            if self.tableau.error_slope is not None:
                return ratio_of.quotient(detach(stages.bend()) / ratio_of.scale, err)
            z, i = stages.probe_state(), self.tableau.probe
            if z is not None and i is not None:
                return ratio_of.quotient(f_new - detach(stages.get(i)), y_end - detach(z))
            return detector.along(f, t_new, y_end, f_new, err * ratio_of.scale, ratio_of.norm)

        if detector.stage_first and detector.passes(h, stage()):
            return
        rise, turn = y_end - detach(self.y), f_new - detach(stages.get(0))
        if detector.suspicious(h, ratio, ratio_of.norm(rise), ratio_of.norm(turn), stage):
            path = rise, turn, ratio_of.norm
            detector.examine(f, t_new, y_end, f_new, err * ratio_of.scale, h, path)

    # An accepted step -----------------------------------------------------------------------------

    def _commit(self, t_new: float, y_new: Array, bar: Progress) -> bool:
        """Take an accepted step: hooks, outputs, events. Return whether the solve ends here."""
        t, y = self.t, self.y
        if self.plain:  # the common case, and the whole of it
            self.accepted += 1
            self.t, self.y = t_new, y_new
            self.t_out.append(t_new)
            self.y_out.append(y_new)
            return False
        step = self._show(t_new, y_new) if self.hooks.wanted else None
        if step is not None:
            y_new = self._guide(step, y_new)
            if not bool(self.problem.backend.xp.isfinite(y_new).all()):
                bad = first_bad(y_new.reshape(self.problem.shape), self.problem.backend)
                self.end(Status.non_finite, f"guide returned {bad} after t = {t!r}")
                return True
        due = self.t_eval is not None and self._due_inside(t_new)
        segment = None
        if due or self.segments is not None or self.finder is not None:
            segment = self.stages.segment(t, y, t_new, y_new)
            if due or self.segments is not None:
                segment = segment.settle()
        stop = None
        if segment is not None and self.finder is not None:
            stop = self.finder.step(segment)
        if segment is not None and self.segments is not None:
            self.segments.append(segment)
        if stop is not None:
            t_new, y_new = stop
            if self.hooks.rows is not None:
                self.hooks.rows[-1]["limit"] = "event"
            self.end(Status.event, f"a terminal event occurred at t = {t_new!r}")
        if due and segment is not None:
            self._record_inside(segment, t_new)
        self.accepted += 1
        self.t, self.y = t_new, y_new
        self.breaks.append(t_new)
        self._record_time(t_new, y_new)
        bar.update(t_new)
        stopped = self.hooks.callback is not None and self.hooks.callback(step)
        if stopped and stop is None:
            self.end(Status.interrupted, f"stopped by the callback at t = {t_new!r}")
        return stopped or stop is not None

    def _due_inside(self, t_new: float) -> bool:
        """Whether the next of the times that are asked for lies before `t_new`."""
        i, t_eval, sign = self.i_eval, self.t_eval, self.problem.direction
        return t_eval is not None and i < len(t_eval) and bool((t_eval[i] - t_new) * sign < 0)

    def _looks_inside(self, t_new: float) -> bool:
        """Whether the step's dense output will be used."""
        return self.segments is not None or self.finder is not None or self._due_inside(t_new)

    def _show(self, t_new: float, y_new: Array) -> Step:
        """Make the record of the step for hooks; whatever they do to it, the solve goes on."""
        shape, copy = self.problem.shape, self.problem.backend.copy
        k = [copy(k_i).reshape(shape) for k_i in self.stages.slopes()]
        y, y_new = (copy(state).reshape(shape) for state in (self.y, y_new))
        estimate = self.stages.estimate()
        if estimate is not None:
            estimate = estimate.reshape(shape)
        return Step(self.tableau, self.t, t_new - self.t, y, k, y_new, t_new, estimate)

    def _guide(self, step: Step, y_new: Array) -> Array:
        hooks, backend, probe = self.hooks, self.problem.backend, self.probe
        for name, observer in hooks.observers.items():
            hooks.record(name, observer(step, probe))
        if hooks.observers or hooks.guide is not None:
            self.probe = step.probe
        if hooks.guide is None:
            return y_new
        moved = hooks.guide(step, probe)
        if moved is step.y_new and bool((moved.reshape(-1) == y_new).all()):
            return y_new  # nothing was moved: the slope at y_new stands
        like = self.problem.y0
        if not (hasattr(moved, "shape") and getattr(moved, "dtype", None) == like.dtype):
            kind = getattr(moved, "dtype", type(moved).__name__)
            msg = f"guide must return a state of {like.dtype}, not {kind}"
            raise TypeError(msg)
        if tuple(moved.shape) != self.problem.shape:
            msg = f"guide returned shape {tuple(moved.shape)} for a state of {self.problem.shape}"
            raise ValueError(msg)
        return backend.protect(backend.copy(moved).reshape(-1))

    # Records --------------------------------------------------------------------------------------

    def _record_time(self, t: float, y: Array) -> None:
        """Keep a step's end: always without t_eval, else if it is the next of its times."""
        if self.t_eval is not None:
            if self.i_eval == len(self.t_eval) or self.t_eval[self.i_eval] != t:
                return
            self.i_eval += 1
        self.t_out.append(t)
        self.y_out.append(y)

    def _record_inside(self, segment: Segment, t_end: float) -> None:
        """Interpolate to the times of t_eval strictly before `t_end`."""
        times, sign = self.t_eval or [], self.problem.direction
        start = self.i_eval
        while self.i_eval < len(times) and (times[self.i_eval] - t_end) * sign < 0:
            self.i_eval += 1
        if self.i_eval > start:
            inside = times[start : self.i_eval]
            self.t_out += inside
            self.y_out += list(segment.many(np.array(inside), self.problem.backend))

    def _log(self, h: float, ratio: float, limit: str, *, accepted: bool) -> None:
        if self.hooks.rows is not None:
            self.hooks.rows.append(
                {"t": self.t, "h": h, "ratio": ratio, "accepted": accepted, "limit": limit}
            )

    def _tell(self, h: float, *, accepted: bool | None) -> None:
        """Show an attempt from where the solve is: before it, and with the verdict."""
        if self.hooks.on_attempt is not None:
            backend = self.problem.backend
            y = backend.copy(self.y).reshape(self.problem.shape)
            self.hooks.on_attempt(self.t, y, h, accepted)

    def end(self, status: Status, message: str) -> None:
        """Set how the solve ends."""
        # An implicit method that failed may be why ``method="auto"`` stays with another one.
        used = [self.stages] if self.switcher is None else self.switcher.stages.values()
        doubts = [stages.doubt for stages in used if hasattr(stages, "doubt")]
        if doubts and status in _STUCK:
            # The message is worth a try, but no exception: f may have failed right here.
            with contextlib.suppress(Exception):
                message = "; ".join(filter(None, (message, doubts[-1](self.t, self.y))))
        self.status, self.message = status, message

    def _where_not_finite(self, y_new: Array) -> str:
        """Say which stage and component of the last attempt was not finite."""
        backend, shape = self.problem.backend, self.problem.shape
        for i, k_i in enumerate(self.stages.slopes()):
            if not bool(backend.xp.isfinite(k_i).all()):
                bad = first_bad(k_i.reshape(shape), backend)
                return f"f is not finite after t = {self.t!r}: stage {i + 1}, component {bad}"
        if len(self.stages.slopes()) == 1:
            return f"f, or the state, is not finite within the step after t = {self.t!r}"
        if bool(backend.xp.isfinite(y_new).all()):
            return f"the error estimate overflows after t = {self.t!r}"
        bad = first_bad(y_new.reshape(shape), backend)
        return f"the state overflows after t = {self.t!r}, component {bad}"

    def _why_no_further(self, h_abs: float) -> str:
        attempts = counted(self.steps.max_steps, "attempt")
        return (
            f"made max_steps = {attempts} and reached t = {self.t!r} of {self.problem.t1!r}; "
            f"the last step size was {h_abs:.3g}"
        )

    def _why_too_small(self, h_abs: float, non_finite: int) -> str:
        cause = "f is not finite beyond it" if non_finite else "the solution may be singular there"
        return (
            f"the step size {h_abs:.3g} fell below the spacing of times at t = {self.t!r}: "
            f"{cause}, or f is discontinuous, or the tolerances are too tight for the dtype"
        )

    def stats(self) -> dict[str, int]:
        """Count what all families together have spent."""
        used = [] if self.stages is None else [self.stages]
        if self.switcher is not None:
            used = list(self.switcher.stages.values())
        first = self.nfev_first + sum(detector.nfev for detector in self.detectors)
        stats = {
            "nfev": first + sum(stages.nfev for stages in used),
            "accepted": self.accepted,
            "rejected": self.rejected,
            "njev": sum(stages.njev for stages in used),
            "nlu": sum(stages.nlu for stages in used),
        }
        if self.problem.split is not None:  # what came first called both parts
            explicit = first + sum(stages.calls_explicit for stages in used)
            stats["nfev"] += first
            stats |= {"nfev_explicit": explicit, "nfev_implicit": stats["nfev"] - explicit}
        return stats

    def _attempt(self, method: str, t: float, y: Array, t_end: float, made: int) -> str:
        """Say how many steps another method takes from (t, y) to t_end, where `made` were made.

        It is tried: no estimate is as good. The trial may take a twentieth of the calls that the
        solve has taken; the rest is estimated by `steps_until`.
        """
        p, nfev = self.problem, self.stats()["nfev"]
        most = trial_steps(method, nfev, p.y0.shape[0])
        if most < 1 or self.status is Status.interrupted:
            return ""
        with contextlib.suppress(Exception), p.backend.no_grad():  # it is advice, and no more
            there = trial(replace(p.at(t, y), t1=t_end), METHODS[method], most)
            self.nfev_first += there.stats()["nfev"]
            taken = steps_until(t_end, there.t_out)
            over = there.status in (Status.success, Status.max_steps)
            if over and taken is not None and taken < made:
                return trial_text(method, there.status, taken, self.tableau.name, made)
        return ""

    def solution(self) -> Solution:
        """Return all that was computed; the run is over."""
        p, backend = self.problem, self.problem.backend
        switches = () if self.switcher is None else tuple(self.switcher.switches)
        found = None
        if self.detectors and not self.auto and self.detectors[0].limited:
            found = self.detectors[0].summary(self._attempt(*self.detectors[0].stretch))
        elif self.detector and self.advises and self.switcher and self.switcher.dense_is_dear:
            found = self.detector.summary(advice=DENSE_IS_DEAR)
        stats = self.stats()
        # Their buffers are large, and the stack of all states is made next.
        self.stages = self.switcher = None
        shape = (len(self.t_out), *p.shape)
        y = backend.xp.concatenate(self.y_out) if self.y_out else backend.empty(shape, p.y0)
        interpolant = None
        if self.segments is not None:
            interpolant = DenseOutput(self.breaks, self.segments, p.shape, backend, p.y0)
        message = self.message
        for change in switches:
            _LOGGER.info("t = %r: %s to %s, since %s", *change)
        if found:
            message = f"{message}; {found}"
            _LOGGER.info("%s", found)
        return Solution(
            t=backend.times(self.t_out, p.y0),
            y=y.reshape(shape),
            status=self.status,
            message=message,
            stiffness=tuple(proof for detector in self.detectors for proof in detector.evidence),
            switches=switches,
            stats=stats,
            log=None if self.hooks.rows is None else freeze_log(self.hooks.rows, LOG_COLUMNS),
            events=() if self.finder is None else self.finder.records(),
            interpolant=interpolant,
        )


def in_a_row(failures: int) -> str:
    """Say how many times something has failed."""
    return "once" if failures == 1 else f"{failures} times in a row"


def trial_steps(method: str, nfev: int, n: int) -> int:
    """Return how many steps a trial may take, after so many calls of f on states of n numbers."""
    # A step of rodas5p takes 9 with its Jacobian apart, one of rock4 rarely as many as 50.
    most = int(TRIAL * nfev / (min(9 + n, 50) if method == "rock4" else 9 + n))
    return most if most >= 5 else 0  # fewer hardly leave the start


def steps_until(t_end: float, times: Sequence[float]) -> int | None:
    """Return about how many steps lead from times[0] to t_end, given the ends of the first ones.

    The others are as long as the last quarter of these, for a solve begins with short ones. None
    where these are less than a tenth of the way: then the estimate may be off by 10 times.
    """
    way, made = t_end - times[0], len(times) - 1
    if made < 1 or abs(times[-1] - times[0]) < 0.1 * abs(way):
        return None
    last = max(1, made // 4)
    length = (times[-1] - times[-1 - last]) / last
    return made + math.ceil((t_end - times[-1]) / length)


def trial_text(method: str, status: Status, taken: int, mine: str, made: int) -> str:
    """Say what a trial has shown that ended in this way."""
    about = "" if status is Status.success else "about "
    return f"{method} takes {about}{counted(taken, 'step')} from there, {mine} took {made}; "


def trial(
    problem: Problem,
    method: Any,
    most: int,
    first: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> Run:
    """Solve a problem by a method in at most so many steps, and return the run."""
    steps = StepOptions(None, first, math.inf, most, None)
    run = Run(
        problem,
        method,
        steps,
        Hooks(None, (), None, None, log=False),
        [],
        None,
        dense=False,
        progress=False,
        stiff=options,
    )
    with problem.backend.quiet():
        run.integrate(Progress(problem, enabled=False))
    return run
