"""The compiled kernel's arguments while one method is in use, and what is done between calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np

from .. import costs
from ..control import ErrorRatio
from ..dense import Segment
from ..loop import FAILED, in_a_row
from ..solution import Status
from ..stabilised import RadiusKeeper, StabilisedStages
from ..tableau import ButcherTableau
from . import events, explicit, parts, stabilised
from .functions import Function, entry
from .kernel import integrate
from .parts import K
from .segments import Joined, Segments

if TYPE_CHECKING:
    from .run import CompiledRun

__all__ = ["Rows", "Stretches"]

_FIRST_ROOM, _MOST_ROOM = 1024, 16384
_RECORDS = 2**22
"""Numbers that the records of one stretch may hold, about."""

_CARRIED = ("t", "wall", "i_eval", "attempts_left", "non_finite", "refused", "beyond")
"""What of the kernel's state is of the solve, and not of the method in use."""


@final
class Rows:
    """The stages of an explicit method as the kernel writes them, and their account."""

    def __init__(self, tableau: ButcherTableau, f_0: Any) -> None:
        self.s, self.error_order = tableau.n_stages, tableau.error_order
        self.nfev = self.njev = self.nlu = 0
        self.hold = (1.0, 1.0)
        # After the stages f_new, where it is none of them, the dense output's and the detector's.
        rows = K + self.s + (not tableau.fsal) + len(tableau.dense.c) + 1
        self.W = np.zeros((rows, len(f_0)), f_0.dtype)
        self.W[K] = f_0
        self.K = self.W[K:]

    def start(self, y: Any, k_1: Any) -> None:  # noqa: ARG002
        """Get ready to step from y, given k_1 = f(t, y)."""
        self.K[0] = k_1

    def get(self, i: int) -> Any:
        """Return stage derivative i."""
        return self.K[i]

    def slopes(self) -> Sequence[Any]:
        """Return the stage derivatives of the last attempt."""
        return list(self.K[: self.s])


@final
class Stretches:
    """The kernel's arguments while one method is in use, and what is done between its calls.

    Parameters
    ----------
    run : CompiledRun
        The solve.
    f : Function
        Its right-hand side.
    before : Stretches, optional
        Those of the method in use before this one.
    h_abs : float
        The first step to try; 0.0 to choose it.
    """

    def __init__(
        self, run: CompiledRun, f: Function, before: Stretches | None = None, h_abs: float = 0.0
    ) -> None:
        p, steps, n = run.problem, run.steps, run.problem.y0.shape[0]
        self.run, self.f = run, f
        self.stages, self.n, self.dtype = run.stages, n, p.y0.dtype
        self.t_0, self.y_0 = run.t, run.y
        self.last: Segment | None = None
        self.keeps_dense = run.segments is not None
        self.keeps_steps = run.t_eval is None or self.keeps_dense
        self.keeps_log = run.hooks.rows is not None
        self.chunks: list[tuple[Any, ...]] = []
        self.records: Any = None
        self.watch: Any = None
        self.kernel: Any = None
        """As compiled for the arguments' types, which stay."""
        self.kept: dict[Any, Stretches] = {}
        """By method, the last ones that were: their arrays serve again, and what was learnt."""
        self.state = np.zeros(1, parts.STATE)
        self.s = s = self.state[0]
        if before is None:
            self.t_eval = np.array(run.t_eval or (), dtype=float)
            self.y_eval = np.empty((len(self.t_eval), n), self.dtype)
            if run.finder is not None:
                addresses = [g.address for g in run.watched]
                self.watch = events.watch(addresses, run.finder, p.y0)
            s["t"], s["wall"], s["i_eval"] = p.t0, p.t1, run.i_eval
            s["h_abs"], s["attempts_left"] = steps.first or 0.0, steps.max_steps
        else:
            self.t_eval, self.y_eval = before.t_eval, before.y_eval
            self.watch, self.kept = before.watch, before.kept
            for name in _CARRIED:
                s[name] = before.s[name]
            s["h_abs"], s["limit"] = h_abs, parts.SWITCH
        self.forms = self.keeps_dense or len(self.t_eval) > 0 or self.watch is not None
        """Whether anything is wanted of what happens inside steps."""
        self._set_method()
        self.kept[run.tableau] = self
        R = np.empty((3, n))
        self.W[parts.Y], R[parts.RTOL], R[parts.ATOL] = run.y, p.rtol, p.atol
        self.R = R
        self.use(self.state, self.W, self.method)
        width = (
            n * (self.keeps_steps + self.coefficients * self.keeps_dense) + 5 * self.keeps_log + 1
        )
        self.most_room = max(1, min(_MOST_ROOM, _RECORDS // width))
        s["r_1"], s["r_2"], s["f_1"], s["f_2"], s["rejected_last"] = steps.controller.init()
        s["age"] = getattr(self.method, "every", 0)
        if run.detector is not None:
            s["calm"], s["interval"] = True, run.detector.interval
            s["first_wait"] = run.detector.first
            s["countdown"] = s["wait"] = run.detector.wait
        self.chooses = s["h_abs"] == 0.0
        """Whether the kernel will choose the first step; its call of f is not the method's."""
        self.made = self.due = 0
        """Accepted steps since the switcher was asked, but for those that count down from `due`."""
        self._ask_in(0 if run.switcher is None else run.switcher.due())

    def _set_method(self) -> None:
        """Get the method as the kernel takes it, and its arrays, with f(t, y) in them."""
        run, stages = self.run, self.stages
        old = self.kept.get(run.tableau)
        self.jac: Function | None = None
        self.method: Any
        if isinstance(stages, Rows):
            self.method, self.W = explicit.explicit(run.tableau), stages.W
            self.coefficients = len(run.tableau.bubble)
            return
        stays = isinstance(stages, StabilisedStages)
        self.jac = run.function_radius if stays else run.function_jac
        if old is not None:
            self.method, self.W, self.coefficients = old.method, old.W, old.coefficients
            for name in ("h_solved", "solved", "first_jac"):
                self.s[name] = old.s[name]
        else:
            self.s["first_jac"] = True
            if stays:
                self.method = stabilised.stabilised(run.tableau, stages.radius, run.radius)
                rows, self.coefficients = stabilised.ROWS, 2
            else:
                from .implicit import implicit_method

                self.method, rows, self.coefficients = implicit_method(run)
            self.W = np.zeros((rows, self.n), self.dtype)
        self.W[parts.K] = stages.get(0)

    def use(self, state: Any, W: Any, method: Any) -> None:
        """Let the kernel work on these arrays."""
        self.state, self.s, self.W, self.method = state, state[0], W, method
        self.y, self.y_new = W[parts.Y], W[parts.Y_NEW]
        self.work = parts.Work(W, W.reshape(-1, *self.run.problem.shape), self.R)

    def take(self) -> tuple[Any, float] | None:
        """Step until something ends the solve, or another method is to go on.

        Returns
        -------
        (stages, float), optional
            The other one's stages, and its first step.
        """
        run, room = self.run, min(_FIRST_ROOM, self.most_room)
        code, change = parts.PAUSE, None
        try:
            while code in (parts.PAUSE, parts.LOOK, parts.ASK, parts.EVENT, parts.CONSIDER):
                if code == parts.PAUSE:
                    if self.records is not None:
                        self._collect()
                    self.make_room(room)
                    room = min(4 * room, self.most_room)
                elif code == parts.LOOK:
                    self._look()
                elif code == parts.EVENT:
                    if self._ends_at_event():
                        break
                elif code == parts.CONSIDER:
                    change = self._consider()
                    if change is not None:
                        break
                else:
                    self._answer()
                code = self._call()
        finally:
            self._collect()
            self._hand_over()
        h_abs = float(self.s["h_abs"])
        if code == parts.OUT_OF_STEPS:
            run.end(Status.max_steps, run._why_no_further(h_abs))
        elif code == parts.TOO_SMALL:
            why = run._why_too_small(h_abs, int(self.s["non_finite"]))
            run.end(Status.step_too_small, why)
        elif code == parts.NOT_FINITE:
            run.end(Status.non_finite, run._where_not_finite(self.y_new))
        elif code == parts.FAILED:
            limit, failures = parts.LIMITS[int(self.s["limit"])], int(self.s["failures"])
            failed: object
            if isinstance(self.stages, StabilisedStages):
                failed = self.stages.why_not(float(self.s["rho"]))
            else:
                from .implicit import why_failed

                failed = why_failed(int(self.s["limit"]), complex(self.s["c"], self.s["c_imag"]))
            run.end(FAILED[limit], f"{failed} after t = {run.t!r}, {in_a_row(failures)}")
        return change

    def _ask_in(self, steps: int) -> None:
        """Let the kernel return after so many accepted steps; 0 is for never."""
        self.made += self.due - int(self.s["due"])
        self.due = self.s["due"] = steps

    def _consider(self) -> tuple[Any, float] | None:
        """Ask the switcher whether to go on by another method, from where the solve is."""
        run, s, stages = self.run, self.s, self.stages
        assert run.switcher is not None
        self._account()
        self._show_stages()
        if isinstance(stages, StabilisedStages):
            stages.radius.value, stages.s = float(s["rho"]), stages.method.degrees[int(s["degree"])]
        elif not isinstance(stages, Rows):
            from .implicit import show_jacobian

            show_jacobian(stages, self.method)
        self._ask_in(0)
        t, y, h_abs, made = float(s["t"]), self.y.copy(), float(s["h_abs"]), self.made
        self.made = 0
        change = run.switcher.consider(t, y, h_abs, run.detector, made)
        if change is None:
            self._ask_in(run.switcher.due())
        return change

    def _show_stages(self) -> None:
        """Let the stages know the slope that the next step starts with."""
        if isinstance(self.stages, Rows):
            return
        self.stages.f_0 = self.W[K].copy()
        if not isinstance(self.stages, StabilisedStages):
            from .implicit import show_stages

            show_stages(self.stages, self.W)

    def _call(self) -> int:
        p = self.run.problem
        return self.enter(self.arguments(self.run.args, (p.t1, p.direction), self.records))

    def enter(self, arguments: tuple[Any, ...]) -> int:
        """Let the kernel take steps, until it is done or has something for Python."""
        kernel = self.kernel = self.kernel or entry(integrate, arguments)
        switcher = self.run.switcher
        if switcher is None or isinstance(self.stages, StabilisedStages):
            return int(kernel(*arguments))
        before, start = self._spent(), costs.clock()
        code = int(kernel(*arguments))
        time, now = costs.clock() - start, self._spent()
        calls, jacobians, factorisations = (new - old for new, old in zip(now, before, strict=True))
        switcher.costs.stretch(
            time,
            calls,
            jacobians=0 if self.jac is None else jacobians,
            factorisations=factorisations,
        )
        return code

    def _spent(self) -> tuple[int, int, int]:
        """Return the calls of f, the Jacobians and the factorisations that wait for `_account`."""
        s = self.s
        calls = int(s["nfev"]) + int(s["nfev_jac"]) + int(s["nfev_time"])
        return calls, int(s["njev"]), int(s["nlu"])

    def arguments(
        self, args: tuple[Any, ...], way: tuple[float, float], records: parts.Records
    ) -> tuple[Any, ...]:
        """Return the kernel's arguments, for f's further ones and for t1 and the direction."""
        return (
            self.f.type,
            self.f.address,
            None if self.jac is None else self.jac.type,
            0 if self.jac is None else self.jac.address,
            args,
            self.method,
            *self.control(),
            (*way, float(self.run.steps.max_step)),
            self.keeps_dense if self.forms else None,
            self.state,
            self.work,
            records,
            self.run.watched[0].type if self.watch else None,
            self.watch,
        )

    def control(self) -> tuple[Any, ...]:
        """Return the controller's constants, the error's order, and which factors count as 1."""
        constants = self.run.steps.controller.constants  # type: ignore[attr-defined]
        return tuple(map(float, constants)), self.stages.error_order, self.stages.hold

    def make_room(self, room: int) -> None:
        """Make the arrays of a stretch's records, for so many attempts."""
        path = (room if self.keeps_steps else 1, 1 + self.coefficients * self.forms, self.n)
        self.records = parts.Records(
            np.empty(room if self.keeps_steps else 0),
            np.empty(path, self.dtype),
            self.t_eval,
            self.y_eval,
            np.empty((room if self.keeps_log else 0, 5)),
        )
        self.s["room"] = room

    def _account(self) -> None:
        """Move what was spent since the kernel was entered to the stages' account."""
        s = self.s
        spent = {name: int(s[name]) for name in ("nfev", "nfev_jac", "nfev_time", "njev", "nlu")}
        if self.chooses and spent["nfev"]:
            self.chooses, spent["nfev"] = False, spent["nfev"] - 1
            self.run.nfev_first += 1
        if isinstance(self.stages, Rows):
            self.stages.nfev += spent["nfev"]
        elif isinstance(self.stages, StabilisedStages):
            self.stages.calls += spent["nfev"]
        else:
            linear = self.stages.linear
            self.stages.calls += spent["nfev"]
            linear.calls += spent["nfev_time"]
            linear.spent += spent["nlu"]
            linear.source.nfev += spent["nfev_jac"]
            if not linear.source.constant:
                linear.source.njev += spent["njev"]
        for name in spent:
            s[name] = 0

    def _collect(self) -> None:
        """Move the records and counts of the last stretch to where the solution is made from."""
        s, run = self.s, self.run
        accepted, tried = int(s["accepted"]), int(s["tried"])
        self._account()
        run.accepted, run.rejected = run.accepted + accepted, run.rejected + int(s["rejected"])
        for name in ("accepted", "rejected", "tried"):
            s[name] = 0
        if run.detector is not None:
            self._settle(run.detector)
        if accepted and self.keeps_steps:
            self.chunks.append((self.records.t[:accepted], self.records.path[:accepted]))
        if tried and run.hooks.rows is not None:
            limits = parts.LIMITS
            run.hooks.rows += [
                {"t": t, "h": h, "ratio": r, "accepted": bool(good), "limit": limits[int(limit)]}
                for t, h, r, good, limit in self.records.log[:tried].tolist()
            ]

    def _hand_over(self) -> None:
        """Give the run all that the solution is made from."""
        run, s = self.run, self.s
        run.t, run.y = float(s["t"]), self.y.copy()
        self._take_events()
        self._show_stages()
        if run.t_eval is not None:
            first, last = run.i_eval, int(s["i_eval"])
            run.t_out += run.t_eval[first:last]
            run.y_out.append(self.y_eval[first:last].reshape(-1))
            run.i_eval = last
        if not self.chunks:
            return
        if len(self.chunks) == 1:
            t, path = self.chunks[0]
        else:
            t, path = (np.concatenate(column) for column in zip(*self.chunks, strict=True))
        y = path[:, 0]
        if run.t_eval is None:
            run.t_out = np.concatenate([run.t_out, t])
            run.y_out.append(y.reshape(-1))
        if self.keeps_dense:
            times = t.tolist()
            run.breaks += times
            stay = Segments([self.t_0, *times], np.vstack([self.y_0, y]), path[:, 1:], self.last)
            run.segments = Joined([*getattr(run.segments, "parts", ()), stay])

    def _settle(self, detector: Any) -> None:
        """Tell the detector of the looks that found no signs."""
        s = self.s
        detector.nfev += int(s["nfev_look"])
        if s["passed"]:
            detector.pass_over(int(s["passed"]))
        s["passed"] = s["nfev_look"] = 0
        s["looked"] = detector.steps

    def _take_events(self) -> None:
        """Tell the finder of the events that the kernel has located."""
        finder, watch = self.run.finder, self.watch
        if finder is None or watch is None:
            return
        found = slice(int(self.s["found"]))
        for i, t, y in zip(
            watch.found_i[found].tolist(),
            watch.found_t[found].tolist(),
            watch.found_y[found].copy(),
            strict=True,
        ):
            finder.found[i][0].append(t)
            finder.found[i][1].append(y)
        # An endless budget is math.inf to both.
        finder.budget = watch.budget.tolist()
        self.s["found"] = 0

    def _ends_at_event(self) -> bool:
        """Let Python find the events of a step; if one is terminal, the step is cut there."""
        s, run, records, watch = self.s, self.run, self.records, self.watch
        assert run.finder is not None
        assert watch is not None
        place = int(s["accepted"])
        Q = records.path[place if self.keeps_dense else 0, 1:].copy()
        t_0, t_1 = float(s["t"]), float(s["t_new"])
        segment = Segment(t_0, t_1, self.y.copy(), self.y_new.copy(), list(Q))
        self._take_events()
        run.finder.g_old = watch.g[:, 0].tolist()
        stop = run.finder.step(segment)
        watch.g[:, 0], watch.budget[:] = run.finder.g_old, run.finder.budget
        if stop is None:
            return False
        t, y = stop
        run.end(Status.event, f"a terminal event occurred at t = {t!r}")
        i, times, direction = int(s["i_eval"]), self.t_eval, run.problem.direction
        while i < len(times) and (times[i] - t) * direction <= 0:
            self.y_eval[i] = y if times[i] == t else segment(float(times[i]))
            i += 1
        if self.keeps_steps:
            records.t[place], records.path[place, 0] = t, y
        if self.keeps_log:
            records.log[int(s["tried"]) - 1, 4] = parts.AT_EVENT
        s["accepted"], s["i_eval"], s["t"], self.last = place + 1, i, t, segment
        self.y[:] = y
        return True

    def _answer(self) -> None:
        """Give the method the row that it asked for, or refuse the radius."""
        i = int(self.s["ask"])
        if i < 0:
            RadiusKeeper.check(float(self.s["t"]), float(self.s["rho"]))
        stabilised.learn(self.method, self.run.tableau, i)

    def _look(self) -> None:
        """Show the detector a step with signs of stiffness, and let it prove its case."""
        s, detector, p = self.s, self.run.detector, self.run.problem
        assert detector is not None
        if self.suspects(detector):
            ratio_of = ErrorRatio(p.rtol, p.atol, self.y, p.backend)
            errs = self.W[parts.ERR : parts.ERR + self.method.n_errors]
            ratio_of(list(errs.copy()), self.y_new)
            f_new = self.W[self.method.end]
            changes = self.y_new - self.y, f_new - self.W[parts.K], ratio_of.norm
            t_new = float(s["t_new"])
            h = t_new - float(s["t"])
            detector.examine(p.f, t_new, self.y_new, f_new, errs[0], h, changes)
        self.looked(detector)
        if self.run.switcher is not None and len(detector.evidence) > self.run.switcher.seen:
            self._ask_in(1)

    def suspects(self, detector: Any) -> bool:
        """Tell the detector what was measured of a step; return whether that is a case."""
        self._settle(detector)
        s = self.s
        h = float(s["t_new"]) - float(s["t"])
        measures = (float(s[name]) for name in ("ratio", "rise", "turn", "stage"))
        return bool(detector.suspicious(h, *measures))

    def looked(self, detector: Any) -> None:
        """Let the kernel know when the detector wants to look again."""
        s = self.s
        s["calm"] = detector.state.name == "non_stiff"
        s["countdown"] = s["wait"] = detector.wait
        s["looked"] = detector.steps
