"""The loop over a batch: every row has its own time, step size, controller memory and end."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..._array import Array
from ..control import first_step, norm_of_rows
from ..loop import MAX_FAILURES, MAX_NON_FINITE
from ..options import StepOptions
from ..problem import first_bad
from ..solution import BatchSolution, Status
from ..stiff_limit import with_inside
from .control import BatchControl, BatchErrorRatio
from .dense import BatchDenseOutput, BatchSegment
from .events import BatchEvents
from .looks import ExplicitStep
from .observe import Observers
from .problem import BatchProblem, Floats
from .records import Records, log_arrays
from .rows import BatchProgress, Rows, not_finite, out_of_steps, too_small
from .stages import BatchStages, ExplicitBatch
from .switching import SwitchingBatch
from .watch import Watch

__all__ = ["BatchRun"]

COMPACT = 0.75
"""When fewer than this share of the rows still run, the others leave the batch."""


class BatchRun:
    """One batched solve in progress; all that the solution needs is kept here, step by step.

    Parameters
    ----------
    problem : BatchProblem
        The problem.
    make_stages : callable
        ``make_stages(problem, record=...)``, the method's stages, with the history that autograd
        needs or without.
    rtol, atol : float or array
        Tolerances, numbers or shape (B, n).
    steps : StepOptions
        What decides the step sizes.
    events : BatchEvents or None
        Events to look for.
    t_eval : array, shape (n_t, B), or None
        Times to return the solution at.
    dense, log : bool
        Whether to keep an interpolant and the log.
    observers : Observers or None
        Who reads the accepted steps, into the log.
    callback : callable, optional
        ``callback(t, y, accepted)`` after each step of the batch, of its rows that still run; a
        true return value stops the solve.
    on_attempt : callable, optional
        ``on_attempt(t, y, h, accepted)`` before each attempted step of the batch, with None for
        `accepted`, and after it with which rows accepted it.
    tape : Tape, optional
        Where the accepted steps are noted.
    on_step : callable, optional
        ``on_step(index, accept, stages, t, t_new, y, y_new)`` for each step of the batch that some
        rows accept, before an event cuts it short; the others rest, with t_new = t. `index` tells
        the rows' samples.
    watch : Watch, optional
        Looks for stiffness, where the method is explicit and the steps are controlled.
    """

    def __init__(
        self,
        problem: BatchProblem,
        make_stages: Callable[..., BatchStages],
        rtol: Any,
        atol: Any,
        steps: StepOptions,
        *,
        events: BatchEvents | None = None,
        t_eval: Floats | None = None,
        dense: bool = False,
        log: bool = False,
        observers: Observers | None = None,
        callback: Callable[..., Any] | None = None,
        on_attempt: Callable[..., Any] | None = None,
        tape: Any = None,
        on_step: Callable[..., Any] | None = None,
        watch: Watch | None = None,
    ) -> None:
        B = problem.size
        self.whole = self.problem = problem
        self.backend, self.make_stages, self.steps = problem.backend, make_stages, steps
        self.rtol, self.atol, self.events, self.t_eval = rtol, atol, events, t_eval
        self.record, self.callback, self.tape, self.on_step = False, callback, tape, on_step
        self.on_attempt, self.watch = on_attempt, watch
        self.norm = norm_of_rows(steps.norm, problem.shape)
        self.table = steps.table(problem.t0, problem.t1)
        self.t, self.y, self.t1 = problem.t0.copy(), problem.y0, problem.t1.copy()
        self.rows = Rows(B)
        self.accepted, self.rejected = np.zeros(B, int), np.zeros(B, int)
        self.records = Records(problem, t_eval)
        self.segments: list[tuple[BatchSegment, Any, Floats]] | None = [] if dense else None
        self.log: list[dict[str, Any]] | None = [] if log or observers is not None else None
        self.observers = observers
        self.may_compact: bool | None = None
        """Whether f can be called with some of the rows; None before that is known."""
        self.spoilt = False
        """Whether autograd meets f where it is not finite: 0 · NaN would spoil all gradients."""
        self.nfev_first = 0
        self.stages: BatchStages | None = None

    # The loop -------------------------------------------------------------------------------------

    def integrate(self, bar: BatchProgress | None = None) -> None:
        """Step until every sample has ended."""
        if self._start():
            if self.table is None:
                self._control_steps(bar)
            else:
                self._follow_grid(self.table, bar)

    def _start(self) -> bool:
        """Evaluate at t0, and get the stages ready; return whether there is a step to take."""
        p, backend = self.problem, self.backend
        f_0 = p.first_slopes()
        self.record = record = backend.wants_grad(p.y0, f_0)
        if self.events is not None:
            self.events.start(p, record=record)
        broken = ~backend.rows_finite(f_0)
        self.rows.finish(broken, Status.non_finite, self._bad_start(f_0))
        self.spoilt = (record or self.tape is not None) and bool(broken.any())
        self.rows.finish(self.rows.running & (p.t0 == p.t1), Status.success)
        if not self.rows.left:
            return False
        self.stages = self.make_stages(p, record=record)
        self.stages.start(f_0)
        return True

    def _follow_grid(self, table: Floats, bar: BatchProgress | None) -> None:
        backend, stages = self.backend, self.stages
        assert stages is not None
        stages.fixed = True
        for times in table[1:]:
            if self._should_compact():
                self._compact(np.flatnonzero(self.rows.running))
            active, t, y = self.rows.running, self.t, self.y
            h = np.where(active, times[self.rows.index] - t, 0.0)
            self._tell(h, None)
            y_new = stages.attempt(t, h, y)
            failed = np.zeros_like(active) if stages.failed is None else stages.failed
            broken = ~backend.rows_finite(y_new)
            accept = active & ~(failed | broken)
            self._log(active, h, np.full(len(h), math.nan), accept)
            self._tell(h, accept)
            self.rows.finish(active & failed, stages.failure)
            self.rows.finish(active & broken, Status.non_finite, not_finite(self.t, np.abs(h)))
            if not accept.any():
                return
            if self.record and not accept.all():
                y_new = stages.attempt(t, np.where(accept, h, 0.0), y)
            t_new = np.where(accept, times[self.rows.index], t)
            if self._accept(accept, t, t_new, y, y_new, bar):
                return

    def _control_steps(self, bar: BatchProgress | None) -> None:
        p, backend, steps, stages = self.problem, self.backend, self.steps, self.stages
        assert stages is not None
        direction, rows = p.direction, self.rows
        limit = np.minimum if direction > 0 else np.maximum
        switching = stages if isinstance(stages, SwitchingBatch) else None
        if switching is not None:
            switching.watch(p, steps.max_step)
        h_abs = self._first_steps(stages.f_0, stages.error_order)
        ratio_of = BatchErrorRatio(self.rtol, self.atol, p.y0, backend, self.norm)
        control = BatchControl(steps.controller, p.size)
        B = p.size
        retry = none = np.zeros(B, bool)
        attempts, troubled = 0, False
        failures, refused, non_finite = (np.zeros(B, int) for _ in range(3))
        wall, beyond = self.t1.copy(), self.t1.copy()
        spacing = 10 * np.spacing(max(np.abs(p.t0).max(), np.abs(p.t1).max()))
        while rows.left:
            if self._should_compact():
                kept = np.flatnonzero(rows.running)
                if self._compact(kept):
                    ratio_of.take(kept)
                    control.take(kept)
                    h_abs, retry, none, failures, non_finite, wall, refused, beyond = (
                        x[kept]
                        for x in (h_abs, retry, none, failures, non_finite, wall, refused, beyond)
                    )
            t, y = self.t, self.y
            if steps.max_step < math.inf:
                h_abs = np.minimum(h_abs, steps.max_step)
            if h_abs.min() < spacing:  # some step may be too short; else it need not be looked for
                least = 10 * np.spacing(np.abs(t))
                short = rows.running & (h_abs < least)
                stuck = short & (retry | (steps.max_step < least))
                rows.finish(stuck, Status.step_too_small, too_small(t, h_abs, non_finite))
                h_abs = np.where(short, least, h_abs)
            if attempts >= steps.max_steps:
                why = out_of_steps(t, self.t1, h_abs, steps.max_steps)
                rows.finish(rows.running, Status.max_steps, why)
            if not rows.left:
                break
            active, all_active = rows.running, rows.all_run
            attempts += 1  # of each row that still runs: all began together
            t_new = limit(t + direction * h_abs, self.t1)
            if not all_active:
                t_new = np.where(active, t_new, t)
            h = t_new - t
            self._tell(h, None)
            y_new = stages.attempt(t, h, y)
            ratio = ratio_of(stages.errors(), y, y_new)
            failed, order = stages.failed, stages.error_order
            inside_error = getattr(stages, "inside_error", None)  # of implicit methods only
            if failed is not None and failed.any():
                ratio = np.where(failed, math.inf, ratio)
            if inside_error is not None:
                looked = active & (ratio < 1)
                if self.segments is None and self.events is None:
                    looked = self.records.inside(rows.index, looked, t_new)
                if looked.any():
                    inside = ratio_of([inside_error(t, t_new, y, y_new, looked)], y, y_new)
                    ratio = np.where(looked, with_inside(ratio, inside, refused), ratio)
                    worse = looked & (ratio >= 1)
                    refused, beyond = refused + worse, np.where(worse, t_new, beyond)
            accept, factor = control(ratio, active, order)
            if not all_active:
                accept &= active
            self._log(active, h, ratio, accept)
            self._tell(h, accept)
            bad = None if ratio.max() < math.inf else ~np.isfinite(ratio)
            if bad is not None:
                troubled = True
                factor = np.where(bad, 0.1, factor)
                failures, non_finite = self._judge_bad(active & bad, failures, non_finite, h_abs)
                wall = np.where(bad, t_new, wall)
            low, high = stages.hold
            if low is not high and np.any(low < high):
                factor = np.where(accept & (low < factor) & (factor < high), 1.0, factor)
            length = np.abs(h)
            h_abs = length * factor if all_active else np.where(active, length * factor, h_abs)
            if failed is not None and failed.any():
                h_abs = np.where(failed, np.minimum(stages.longest, 0.5 * length), h_abs)
            retry, all_accepted = none, np.count_nonzero(accept) == len(accept)
            if not all_accepted:
                retry = ~accept
                self.rejected[rows.index] += active & retry
                if not accept.any():
                    continue
            if inside_error is not None and refused.any():
                refused = np.where(accept & ((t_new - beyond) * direction >= 0), 0, refused)
            if troubled:
                failures = np.where(accept, 0, failures)
                non_finite = np.where(accept & ((t_new - wall) * direction >= 0), 0, non_finite)
            if self.record and bad is not None:  # what is not finite would poison all gradients
                y_new = stages.attempt(t, np.where(accept, h, 0.0), y)
            t_end = t_new if all_accepted else np.where(accept, t_new, t)
            if self.watch is not None and not self.watch.waits():
                self._look(self.watch, accept, (t_end, h, y_new), ratio, ratio_of)
            if self._accept(accept, t, t_end, y, y_new, bar):
                return
            if switching is not None and switching.leaving:
                first = self._switch(switching)
                h_abs = np.where(np.isnan(first), h_abs, first)
                control.forget(~np.isnan(first))

    def _look(
        self,
        watch: Watch,
        accept: Any,
        step: tuple[Floats, Floats, Array],
        ratio: Floats,
        ratio_of: BatchErrorRatio,
    ) -> None:
        """Show the watch a step of the batch: its ends, its sizes, and the states at its ends."""
        stages, index, backend = self.stages, self.rows.index, self.backend
        rows = watch.rows_due(index, accept, self.rows.running)
        if not len(rows):
            return
        assert isinstance(stages, ExplicitBatch)
        t_end, h, y_new = step
        if not accept.all():
            y_new = backend.xp.where(backend.mask(accept[:, None], y_new), y_new, self.y)
        stages.slope_at_end(t_end, y_new)  # the next step starts with it: autograd included
        with backend.no_grad():
            some = rows if len(rows) < len(index) else None
            scale = ratio_of.outward(ratio_of.scale)
            seen = ExplicitStep(stages, some, t_end, h, self.y, y_new, scale)
            watch.look(seen, index[rows], ratio[rows], self.accepted, apart=self._takes)

    def _switch(self, stages: SwitchingBatch) -> Floats:
        """Let rows go on by another method; return their first steps, NaN of the others."""
        family, first = stages.changes()
        some = np.flatnonzero(family)
        apart = len(some) > 0 and self._takes(some)
        stages.go_by(family, apart=apart)
        return first

    def _accept(
        self, accept: Any, t: Floats, t_new: Floats, y: Array, y_new: Array, bar: Any
    ) -> bool:
        """Take a step of the batch; return whether nothing runs any more."""
        self._commit(accept, t, t_new, y, y_new)
        if bar is not None:
            bar.update(self.rows.left)
        if self.callback is not None:
            state = self.y.reshape((len(self.rows.index), *self.problem.shape))
            if self.callback(self.t, state, accept):
                self.rows.finish(
                    self.rows.running, Status.interrupted, lambda _: "stopped by the callback"
                )
        return not self.rows.left

    def _tell(self, h: Floats, accept: Any) -> None:
        """Show an attempt: before it, and with the verdict."""
        if self.on_attempt is not None:
            state = self.backend.copy(self.y).reshape((len(self.rows.index), *self.problem.shape))
            self.on_attempt(self.t, state, h, accept)

    def _log(self, active: Any, h: Floats, ratio: Floats, accept: Any) -> None:
        if self.log is not None:
            row = {"index": self.rows.index, "active": active, "t": self.t}
            self.log.append({**row, "h": h, "ratio": ratio, "accepted": accept})

    def _commit(self, accept: Any, t: Floats, t_new: Floats, y: Array, y_new: Array) -> None:
        """Take the accepted rows' steps: outputs, events, the next step's start."""
        stages, backend, rows = self.stages, self.backend, self.rows
        index = rows.index
        assert stages is not None
        all_accepted = np.count_nonzero(accept) == len(accept)
        mask = None if all_accepted else backend.mask(accept[:, None], y)
        y_end = y_new if mask is None else backend.xp.where(mask, y_new, y)
        if self.on_step is not None:
            self.on_step(index, accept, stages, t, t_new, y, y_end)
        if self.observers is not None and self.log is not None:
            self.observers.step(len(self.log) - 1, index, accept, stages, t, t_new, y, y_end)
        segment = None
        reached, inside = self.records.reaches(index, t_new)
        if inside or self.segments is not None or self.events is not None:
            segment = stages.segment(t, t_new, y, y_end)
        ended = None
        if segment is not None and self.events is not None:
            ended = self.events.step(self.problem, segment, index, accept)
            if ended is not None:
                stop, t_stop, y_stop = ended
                t_new = np.where(stop, t_stop, t_new)
                y_end = backend.xp.where(backend.mask(stop[:, None], y), y_stop, y_end)
        if segment is not None and self.segments is not None:
            made = np.flatnonzero(accept)
            self.segments.append((segment.take(made), index[made], t_new[made]))
        if len(index) == len(self.accepted):
            self.accepted += accept
        else:
            self.accepted[index] += accept
        if self.tape is not None:
            family = np.broadcast_to(stages.family, len(index))[accept]
            self.tape.add(index[accept], t[accept], t_new[accept], family)
        if reached:
            self.records.step(index, accept, t_new, y_end, segment)
        done = (t_new == self.t1) & rows.running
        over = done if ended is None else (done | ended[0]) & rows.running
        goes_on = rows.left > np.count_nonzero(over)
        if goes_on:
            stages.advance(mask, t_new, y_end)
        self.t, self.y = t_new, backend.protect(y_end)
        if ended is not None:
            rows.finish(
                ended[0],
                Status.event,
                lambda i: f"a terminal event occurred at t = {float(t_new[i])!r}",
            )
        if done.any():
            rows.finish(rows.running & done, Status.success)
        if goes_on and (self.record or self.tape is not None):
            self._leave_spoilt()

    def _first_steps(self, f_0: Array, order: int) -> Floats:
        p, steps, detach = self.problem, self.steps, self.backend.detach
        if steps.first is not None:
            return np.full(p.size, float(steps.first))
        self.nfev_first += 1

        def f(t: Floats, y: Array) -> Array:
            with self.backend.no_grad():
                return p(p.time(t), y)

        h: Floats = first_step(
            f,
            p.t0,
            detach(p.y0),
            detach(f_0),
            direction=p.direction,
            order=order,
            rtol=self.rtol,
            atol=self.atol,
            longest=np.abs(p.t1 - p.t0),
            max_step=steps.max_step,
            backend=self.backend,
            batched=True,
            norm=self.norm,
        )
        return h

    # Ends -----------------------------------------------------------------------------------------

    def _judge_bad(
        self, bad: Any, failures: Any, non_finite: Any, h_abs: Floats
    ) -> tuple[Any, Any]:
        """End rows whose attempts came to nothing too often; return the counts."""
        stages = self.stages
        assert stages is not None
        failed = bad & stages.failed if stages.failed is not None else np.zeros_like(bad)
        broken = bad & ~failed
        failures, non_finite = failures + failed, non_finite + broken
        stuck = broken & ~self.backend.rows_finite(stages.f_0)
        least = 10 * np.spacing(np.abs(self.t))
        self.rows.finish(
            failed & ((failures >= MAX_FAILURES) | (stages.longest < least)),
            stages.failure,
            lambda i: (
                f"{stages.failure.value}: after t = {float(self.t[i])!r}, {failures[i]} times in a "
                "row"
            ),
        )
        self.rows.finish(
            stuck | (broken & (non_finite >= MAX_NON_FINITE)),
            Status.non_finite,
            not_finite(self.t, h_abs),
        )
        return failures, non_finite

    def _leave_spoilt(self) -> None:
        """End rows whose next step would start from an f that is not finite."""
        assert self.stages is not None
        broken = ~self.backend.rows_finite(self.stages.f_0)
        self.spoilt = self.spoilt or bool(broken.any())
        self.rows.finish(
            self.rows.running & broken,
            Status.non_finite,
            lambda i: f"f is not finite at t = {float(self.t[i])!r}",
        )

    def _bad_start(self, f_0: Array) -> Callable[[int], str]:
        def why(i: int) -> str:
            bad = first_bad(f_0[i].reshape(self.problem.shape), self.backend)
            return f"f(t0, y0) is not finite at component {bad}"

        return why

    def interrupt(self, error: BaseException) -> None:
        """End whatever still runs: an exception came through."""
        self.rows.finish(
            self.rows.running,
            Status.interrupted,
            lambda i: f"interrupted at t = {float(self.t[i])!r} by {error!r}",
        )

    # Compaction -----------------------------------------------------------------------------------

    def _should_compact(self) -> bool:
        left, size = self.rows.left, len(self.rows.running)
        few = left <= COMPACT * size or (self.spoilt and left < size)
        return self.may_compact is not False and few

    def _compact(self, rows: Any) -> bool:
        """Let only `rows` go on, if f does not mind; return whether it does not.

        An f that has values for every sample of the whole batch in itself cannot be called with
        some of them. Whether it can is seen at the first attempt, where its values are known.
        """
        stages = self.stages
        assert stages is not None
        if not self._takes(rows):
            return False
        part = self.problem = self.problem.take(rows)
        if self.events is not None:
            self.events.take(rows)
        stages.take(part, rows)
        if self.spoilt:
            stages.start(part.lasting(part.time(self.t[rows]), self.y[rows]))
            self.spoilt = False
        self.t, self.y, self.t1 = self.t[rows], self.y[rows], self.t1[rows]
        self.rows.take(rows)
        return True

    def _takes(self, rows: Any) -> bool:
        """Whether f can be called with some of the rows; tried once."""
        if self.may_compact is None and len(rows) < self.problem.size:
            self.may_compact = self._same(self.problem.take(rows), rows)
        return self.may_compact is not False

    def _same(self, part: BatchProblem, rows: Any) -> bool:
        """Whether f of some rows is what it was of all."""
        backend, stages = self.backend, self.stages
        assert stages is not None
        with backend.no_grad(), contextlib.suppress(Exception):
            known = backend.host(abs(backend.detach(stages.f_0[rows])))
            again = part(part.time(self.t[rows]), backend.detach(self.y[rows]))
            off = backend.host(abs(again - backend.detach(stages.f_0[rows])))
            eps = float(backend.xp.finfo(self.y.dtype).eps)
            return bool((off <= 1e3 * eps * (known.max() + 1e-300)).all())
        return False

    # The result -----------------------------------------------------------------------------------

    def solution(self) -> BatchSolution:
        """Return all that was computed."""
        p, stages = self.whole, self.stages
        t, y = self.records.arrays()
        found: dict[str, Any] = {}
        interpolant = None
        message = list(self.rows.message)
        if isinstance(stages, SwitchingBatch) and stages.judge is not None:
            found = stages.judge.found()
        if self.watch is not None:
            found["stiffness"] = self.watch.evidence()
            for i, told in self.watch.summaries(self).items():
                message[i] = f"{message[i]}; {told}"
        if self.segments is not None:
            interpolant = BatchDenseOutput(self.segments, p.shape, p.y0, p.t0, self.backend)
        return BatchSolution(
            t=t,
            y=y,
            status=tuple(s if s is not None else Status.interrupted for s in self.rows.status),
            message=tuple(message),
            stats={
                "nfev": self.problem.nfev,
                "accepted": self.accepted,
                "rejected": self.rejected,
                "njev": 0 if stages is None else stages.njev,
                "nlu": 0 if stages is None else stages.nlu,
            },
            log=self._columns(),
            events=() if self.events is None else self.events.records(),
            interpolant=interpolant,
            count=self.records.count,
            **found,
        )

    def _columns(self) -> dict[str, Any] | None:
        if self.log is None:
            return None
        size = self.whole.size
        columns = log_arrays(self.log, size)
        observers = self.observers
        return columns if observers is None else columns | observers.columns(len(self.log), size)
