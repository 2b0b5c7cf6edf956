"""The loop: fixed steps through a grid, or steps chosen by error control."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._array import Array
from .._optional import require
from .control import CONTROLLERS, Controller, ErrorRatio, first_step
from .dense import DenseOutput, Segment
from .events import EventFinder
from .methods import METHODS
from .problem import (
    Problem,
    bind,
    check_method,
    check_positive,
    check_times,
    first_bad,
    make_problem,
)
from .solution import Solution, Status, freeze_log
from .step import Probe, Step, StepHook, make_stages
from .tableau import ButcherTableau

if TYPE_CHECKING:
    from ..stiffness.detect import StiffnessDetector

__all__ = ["solve"]

_LOGGER = logging.getLogger("stiffkit")

DEFAULT_CONTROLLER = "PI-DOPRI5"
"""Chosen by measurement: docs/decisions/001-default-controller.md."""

MAX_NON_FINITE = 5
"""Tries at one step while f gives NaN or inf. The k-th divides h by 10^k: 1e15 in all, so that
more tries would ask about a point that floating-point time hardly tells from t."""


def solve(
    f: Callable[..., Any],
    t_span: Sequence[float],
    y0: Any,
    method: str | ButcherTableau = "tsit5",
    *,
    rtol: Any = 1e-6,
    atol: Any = 1e-9,
    t_eval: Any = None,
    grid: Any = None,
    dense: bool = False,
    events: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
    controller: str | Controller | None = None,
    first_step: float | None = None,
    max_step: float = math.inf,
    max_steps: int = 100_000,
    guide: StepHook | None = None,
    observe: StepHook | Sequence[StepHook] = (),
    callback: Callable[[Step], Any] | None = None,
    progress: bool = False,
    log: bool = False,
    detect: bool = True,
    args: Sequence[Any] = (),
) -> Solution:
    """Solve the initial value problem y' = f(t, y), y(t0) = y0.

    Parameters
    ----------
    f : callable
        Right-hand side ``f(t, y, *args)``, returning dy/dt with the shape of y. For a NumPy state
        t is a float; for a torch state it is a 0-d tensor of the state's real dtype. f must not
        change y. What it returns is copied, so it may reuse one buffer.
    t_span : (float, float)
        t0 and t1; t1 < t0 integrates backward. t1 may be infinite if an event or `callback` ends
        the solve. With t0 = t1 the solution is y0.
    y0 : array_like or torch.Tensor
        Initial state: any shape, real or complex, single or double precision. Integers become
        floats (float64 for NumPy, the default dtype for torch). The state keeps this dtype.
    method : str or ButcherTableau
        A name in `stiffkit.METHODS` (SciPy's RK23, RK45 and DOP853 are understood too), or any
        explicit tableau.
    rtol, atol : float or array of y0's shape
        A step is accepted when the rms of ``err / (atol + rtol max(|y|, |y_new|))`` is below 1.
    t_eval : array_like, optional
        Times to return the solution at, monotone within the span; by default every step's end.
        Times inside a step are interpolated to the method's dense order.
    grid : array_like or int, optional
        Take exactly these steps, without error control: times from t0 to t1, or a number of equal
        steps.
    dense : bool
        Keep an interpolant: ``solution(t)``.
    events : callable or sequence of callable, optional
        Functions ``g(t, y, *args)`` whose zeros are wanted, with SciPy's attributes ``terminal``
        (bool or count) and ``direction``. See `stiffkit.solvers.events.EventFinder` for what
        counts as an event.
    controller : str or Controller, optional
        A name in `stiffkit.CONTROLLERS`, or your own.
    first_step : float, optional
        Size of the first step; by default Hairer's estimate, which costs one call of f.
    max_step : float
        Bound of the step size.
    max_steps : int
        Bound of the number of attempted steps.
    guide : StepHook, optional
        Called as ``guide(step, probe)`` after each accepted step; returns the state to commit.
    observe : StepHook or sequence of StepHook
        Called like `guide`, before it; the readings go to ``Solution.log`` under each hook's
        ``name`` or ``__name__``.
    callback : callable, optional
        ``callback(step)`` after each accepted step; a true return value stops the solve.
    progress : bool
        Show a progress bar in t (needs tqdm).
    log : bool
        Keep ``Solution.log``, an entry per attempted step.
    detect : bool
        Watch for stiffness (not with `grid` or `guide`): a solve that was limited by stability
        says so in its message. See `stiffkit.stiffness.detect`.
    args : sequence
        Further arguments of f and of the events.

    Returns
    -------
    Solution
        Always, whether or not t1 was reached: see ``status`` and ``message``. An exception that f
        or a hook raises propagates; the partial Solution is its ``solution`` attribute.

    Raises
    ------
    TypeError, ValueError
        If an argument is unusable; before the first step.

    Examples
    --------
    >>> import stiffkit as sk
    >>> solution = sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0])
    >>> solution.status.name, round(float(solution.y[-1, 0]), 6)
    ('success', 0.367879)
    """
    tableau = check_method(method, METHODS, adaptive=grid is None)
    steps = _Steps(controller, first_step, max_step, max_steps, grid)
    hooks = _Hooks(guide, observe, callback, log=log)
    problem = make_problem(f, t_span, y0, args, rtol, atol)
    steps.check(problem)
    run = _Run(
        problem,
        tableau,
        steps,
        hooks,
        _functions(events, args),
        t_eval,
        dense=dense,
        progress=progress,
    )
    if detect and grid is None and guide is None:
        # The detector stands above the solvers: it is fetched when a solve asks for it.
        from ..stiffness.detect import StiffnessDetector

        run.detector = StiffnessDetector(tableau)
    with _Progress(problem, enabled=progress) as bar:
        try:
            run.integrate(bar)
        except BaseException as error:
            run.status, run.message = (
                Status.interrupted,
                f"interrupted at t = {run.t!r} by {error!r}",
            )
            with contextlib.suppress(AttributeError):  # an exception may have no __dict__
                error.solution = run.solution()  # type: ignore[attr-defined]
                error.add_note(
                    f"stiffkit: solved up to t = {run.t!r}; see the exception's .solution"
                )
            raise
    return run.solution()


def _functions(events: Any, args: Sequence[Any]) -> list[Callable[..., Any]]:
    """Return the event functions with `args` bound and their attributes kept."""
    if events is None:
        return []
    bound = []
    for event in [events] if callable(events) else list(events):
        if not callable(event):
            msg = f"events must be functions g(t, y), not {event!r}"
            raise TypeError(msg)
        g = bind(event, args)
        if g is not event:
            for name in ("terminal", "direction"):
                setattr(g, name, getattr(event, name, None))
        bound.append(g)
    return bound


class _Steps:
    """What decides the step sizes, checked."""

    grid: list[float] | None

    def __init__(
        self, controller: Any, first: Any, max_step: Any, max_steps: Any, grid: Any
    ) -> None:
        chosen = DEFAULT_CONTROLLER if controller is None else controller
        if isinstance(chosen, str):
            if chosen not in CONTROLLERS:
                msg = f"unknown controller {chosen!r}; known are {', '.join(CONTROLLERS)}"
                raise ValueError(msg)
            chosen = CONTROLLERS[chosen]
        self.controller: Controller = chosen
        self.first = None if first is None else float(check_positive("first_step", first))
        self.max_step = float(check_positive("max_step", max_step))
        self.max_steps = check_positive("max_steps", max_steps, whole=True)
        self.grid_argument, self.grid = grid, None

    def check(self, problem: Problem) -> None:
        """Check what depends on the time span."""
        t0, t1 = problem.t0, problem.t1
        if self.first is not None and self.first > abs(t1 - t0) > 0:
            msg = f"first_step={self.first!r} is longer than t_span ({t0!r}, {t1!r})"
            raise ValueError(msg)
        if self.grid_argument is None:
            return
        if np.ndim(self.grid_argument) == 0 and not hasattr(self.grid_argument, "detach"):
            n = check_positive("grid", self.grid_argument, whole=True)
            self.grid = np.linspace(t0, t1, int(n) + 1).tolist()
        else:
            self.grid = check_times("grid", self.grid_argument, t0, t1)
        if not self.grid or self.grid[0] != t0 or self.grid[-1] != t1:
            msg = f"grid must start at t0 = {t0!r} and end at t1 = {t1!r}"
            raise ValueError(msg)


class _Hooks:
    """What looks at steps, checked; `wanted` if anything does."""

    def __init__(self, guide: Any, observe: Any, callback: Any, *, log: bool) -> None:
        observers = [observe] if callable(observe) else list(observe)
        for name, hook in (
            ("guide", guide),
            ("callback", callback),
            *(("observe", o) for o in observers),
        ):
            if hook is not None and not callable(hook):
                msg = f"{name} must be callable, not {hook!r}"
                raise TypeError(msg)
        self.guide, self.callback = guide, callback
        self.observers = {_name(o, i): o for i, o in enumerate(observers)}
        self.wanted = bool(guide or callback or observers)
        self.rows: list[dict[str, Any]] | None = [] if log or observers else None


def _name(hook: Any, i: int) -> str:
    return str(getattr(hook, "name", None) or getattr(hook, "__name__", f"observer_{i}"))


class _Run:
    """One solve in progress. All that the Solution needs is kept here, step by step."""

    def __init__(
        self,
        problem: Problem,
        tableau: ButcherTableau,
        steps: _Steps,
        hooks: _Hooks,
        events: list[Callable[..., Any]],
        t_eval: Any,
        *,
        dense: bool,
        progress: bool,
    ) -> None:
        p, backend = problem, problem.backend
        self.problem, self.tableau, self.steps, self.hooks = problem, tableau, steps, hooks
        self.t, self.y = p.t0, p.y0
        self.status, self.message = Status.success, Status.success.value
        self.accepted = self.rejected = 0
        self.probe: Probe | None = None
        self.detector: StiffnessDetector | None = None
        self.finder = EventFinder(events, p.t0, p.y0, p.shape, backend) if events else None
        self.segments: list[Segment] | None = [] if dense else None
        self.breaks = [p.t0]
        self.t_eval = None if t_eval is None else check_times("t_eval", t_eval, p.t0, p.t1)
        self.i_eval = 0
        self.t_out: list[float] = []
        self.y_out: list[Array] = []
        may_interpolate = dense or bool(events) or t_eval is not None
        self.stages = make_stages(p.f, tableau, p.y0, p.f0, backend, dense=may_interpolate)
        self.stages.nfev = 1  # f(t0, y0), by which the problem was checked
        self._record_time(p.t0, p.y0)
        self.plain = t_eval is None and not (dense or events or hooks.wanted or progress)

    # The loop -------------------------------------------------------------------------------------

    def integrate(self, bar: _Progress) -> None:
        """Step until something ends the solve."""
        problem = self.problem
        if not bool(problem.backend.xp.isfinite(problem.f0).all()):
            f0 = problem.f0.reshape(problem.shape)
            self.end(
                Status.non_finite,
                f"f(t0, y0) is not finite at component {first_bad(f0, problem.backend)}",
            )
            return
        if problem.t0 == problem.t1:
            return
        if self.steps.grid is not None:
            self._follow_grid(self.steps.grid, bar)
        else:
            self._control_steps(bar)

    def _follow_grid(self, grid: list[float], bar: _Progress) -> None:
        stages, isfinite = self.stages, self.problem.backend.xp.isfinite
        for t_new in grid[1:]:
            h = t_new - self.t
            if self.accepted:
                stages.advance(self.t, self.y)
            y_new = stages.attempt(self.t, self.y, t_new)
            if not bool(isfinite(y_new).all()):
                self.end(Status.non_finite, self._where_not_finite(y_new))
                return
            self._log(h, math.nan, "grid", accepted=True)
            if self._commit(t_new, y_new, bar):
                return

    def _control_steps(self, bar: _Progress) -> None:
        p, steps, stages, controller = self.problem, self.steps, self.stages, self.steps.controller
        t, y, t1, direction = self.t, self.y, p.t1, p.direction
        order = self.tableau.error_order or 0
        ratio_of = ErrorRatio(p.rtol, p.atol, y, p.backend)
        memory, max_step, logging = controller.init(), steps.max_step, self.hooks.rows is not None
        h_abs, limit, non_finite = self._first_step(order), "first_step", 0
        attempts_left, retry, detector = steps.max_steps, False, self.detector
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
                self.end(
                    Status.max_steps,
                    f"made max_steps = {steps.max_steps} attempts and reached t = {t!r} of {t1!r}; "
                    f"the last step size was {h_abs:.3g}",
                )
                return
            attempts_left -= 1
            t_new = t + h_abs * direction
            if (t_new - t1) * direction >= 0:
                t_new, limit = t1, "end"
            h = t_new - t
            y_new = stages.attempt(t, y, t_new)
            errors = stages.errors()
            ratio = ratio_of(errors, y_new)
            if not math.isfinite(ratio):
                self.rejected += 1
                non_finite += 1
                self._log(h, ratio, limit, accepted=False)
                if non_finite == MAX_NON_FINITE:
                    self.end(Status.non_finite, self._where_not_finite(y_new))
                    return
                h_abs, limit, retry = abs(h) * 10.0**-non_finite, "non_finite", True
                continue
            accept, factor, memory = controller(ratio, memory, order)
            if logging:
                self._log(h, ratio, limit, accepted=accept)
            h_abs, limit, retry = abs(h) * factor, "accuracy", not accept
            if retry:
                self.rejected += 1
                continue
            non_finite = 0
            if detector is not None and detector.due():
                self._look(detector, ratio_of, errors[0], ratio, t_new, y_new)
            ratio_of.accept()
            if self._commit(t_new, y_new, bar) or t_new == t1:
                return
            t, y = t_new, self.y
            if y is not y_new:
                ratio_of.moved(y)
            stages.advance(t, y)

    def _first_step(self, order: int) -> float:
        p, steps = self.problem, self.steps
        if steps.first is not None:
            return steps.first
        self.stages.nfev += 1
        return first_step(
            p.f,
            p.t0,
            p.y0,
            p.f0,
            direction=p.direction,
            order=order,
            rtol=p.rtol,
            atol=p.atol,
            longest=abs(p.t1 - p.t0),
            max_step=steps.max_step,
            backend=p.backend,
        )

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
        p, stages, y, h = self.problem, self.stages, self.y, t_new - self.t
        detach = p.backend.detach
        f_new, z, i = detach(stages.f_new(t_new, y_new)), stages.probe_state(), self.tableau.probe
        y_end = detach(y_new)
        rise = ratio_of.norm(y_end - detach(y))
        turn = ratio_of.norm(f_new - detach(stages.get(0)))
        stage = None
        if z is not None and i is not None:
            below = ratio_of.square_sum(y_end - detach(z))
            above = ratio_of.square_sum(f_new - detach(stages.get(i)))
            stage = math.sqrt(above / below) if below > 0 else 0.0
        if detector.suspicious(h, ratio, rise, turn, stage):
            detector.prove(p.f, t_new, y_end, f_new, err * ratio_of.scale, h, p.backend)

    # An accepted step -----------------------------------------------------------------------------

    def _commit(self, t_new: float, y_new: Array, bar: _Progress) -> bool:
        """Take an accepted step: hooks, outputs, events. Return whether the solve ends here."""
        t, y = self.t, self.y
        self.accepted += 1
        if self.plain:  # the common case, and the whole of it
            self.t, self.y = t_new, y_new
            self.t_out.append(t_new)
            self.y_out.append(y_new)
            return False
        step = self._show(t_new, y_new) if self.hooks.wanted else None
        if step is not None:
            y_new = self._guide(step, y_new)
        i, t_eval, sign = self.i_eval, self.t_eval, self.problem.direction
        due = t_eval is not None and i < len(t_eval) and (t_eval[i] - t_new) * sign < 0
        segment = None
        if due or self.segments is not None or self.finder is not None:
            segment = self.stages.segment(t, y, t_new, y_new)
        stop = None
        if segment is not None and self.finder is not None:
            stop = self.finder.step(segment)
        if segment is not None and self.segments is not None:
            self.segments.append(segment)
        if stop is not None:
            t_new, y_new = stop
            self.end(Status.event, f"a terminal event occurred at t = {t_new!r}")
        if due and segment is not None:
            self._record_inside(segment, t_new)
        self.t, self.y = t_new, y_new
        self.breaks.append(t_new)
        self._record_time(t_new, y_new)
        bar.update(t_new)
        if self.hooks.callback is not None and stop is None and self.hooks.callback(step):
            self.end(Status.interrupted, f"stopped by the callback at t = {t_new!r}")
            return True
        return stop is not None

    def _show(self, t_new: float, y_new: Array) -> Step:
        """Make the record of the step for hooks; its arrays are copies or never written again."""
        shape, s, copy = self.problem.shape, self.tableau.n_stages, self.problem.backend.copy
        k = [copy(self.stages.get(i)).reshape(shape) for i in range(s)]
        y = self.y.reshape(shape)
        return Step(self.tableau, self.t, t_new - self.t, y, k, y_new.reshape(shape), t_new)

    def _guide(self, step: Step, y_new: Array) -> Array:
        hooks = self.hooks
        for name, observer in hooks.observers.items():
            reading = observer(step, self.probe)
            if hooks.rows is not None:
                hooks.rows[-1][name] = reading
        moved = step.y_new if hooks.guide is None else hooks.guide(step, self.probe)
        if hooks.observers or hooks.guide is not None:
            self.probe = step.probe
        if moved is step.y_new:
            return y_new
        if tuple(moved.shape) != self.problem.shape:
            msg = f"guide returned shape {tuple(moved.shape)} for a state of {self.problem.shape}"
            raise ValueError(msg)
        return moved.reshape(-1)

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

    def end(self, status: Status, message: str) -> None:
        self.status, self.message = status, message

    def _where_not_finite(self, y_new: Array) -> str:
        """Say which stage and component of the last attempt was not finite."""
        backend, shape = self.problem.backend, self.problem.shape
        for i in range(self.tableau.n_stages):
            k_i = self.stages.get(i)
            if not bool(backend.xp.isfinite(k_i).all()):
                bad = first_bad(k_i.reshape(shape), backend)
                return f"f is not finite after t = {self.t!r}: stage {i + 1}, component {bad}"
        if bool(backend.xp.isfinite(y_new).all()):
            return f"the error estimate overflows after t = {self.t!r}"
        bad = first_bad(y_new.reshape(shape), backend)
        return f"the state overflows after t = {self.t!r}, component {bad}"

    def _why_too_small(self, h_abs: float, non_finite: int) -> str:
        cause = "f is not finite beyond it" if non_finite else "the solution may be singular there"
        return (
            f"the step size {h_abs:.3g} fell below the spacing of times at t = {self.t!r}: "
            f"{cause}, or f is discontinuous, or the tolerances are too tight for the dtype"
        )

    def solution(self) -> Solution:
        """Return all that was computed; the run is over."""
        p, backend = self.problem, self.problem.backend
        nfev = self.stages.nfev + (0 if self.detector is None else self.detector.nfev)
        del self.stages  # its buffer is large, and the stack of all states is made next
        shape = (len(self.y_out), *p.shape)
        y = backend.xp.concatenate(self.y_out) if self.y_out else backend.empty(shape, p.y0)
        interpolant = None
        if self.segments is not None:
            interpolant = DenseOutput(self.breaks, self.segments, p.shape, backend, p.y0)
        message, found = self.message, self.detector and self.detector.summary(self.t)
        if found:
            message = f"{message}; {found}"
            _LOGGER.info("%s", found)
        return Solution(
            t=backend.times(self.t_out, p.y0),
            y=y.reshape(shape),
            status=self.status,
            message=message,
            stiffness=() if self.detector is None else tuple(self.detector.evidence),
            stats={
                "nfev": nfev,
                "accepted": self.accepted,
                "rejected": self.rejected,
                "njev": 0,
                "nlu": 0,
            },
            log=None if self.hooks.rows is None else freeze_log(self.hooks.rows),
            events=() if self.finder is None else self.finder.records(),
            interpolant=interpolant,
        )


class _Progress:
    """A tqdm bar over the time span, or nothing."""

    def __init__(self, problem: Problem, *, enabled: bool) -> None:
        self.t, self.bar = problem.t0, None
        if enabled:
            tqdm = require("tqdm.auto", "plot", "progress=True").tqdm
            length = abs(problem.t1 - problem.t0)
            layout = "{l_bar}{bar}| t = {n:.4g} of {total:.4g} [{elapsed}<{remaining}]"
            self.bar = tqdm(total=length if math.isfinite(length) else None, bar_format=layout)

    def update(self, t: float) -> None:
        if self.bar is not None:
            self.bar.update(abs(t - self.t))
            self.t = t

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
