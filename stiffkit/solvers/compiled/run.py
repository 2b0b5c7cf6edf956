"""A solve in progress whose steps the compiled kernel takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any, final

import numpy as np

from ..._optional import is_jitted
from ..algebra import NOT_FINITE
from ..control import ErrorRatio, PIDController
from ..dense import Segment
from ..linalg import singular
from ..loop import FAILED, Run
from ..newton_step import F_NOT_FINITE, NO_CONVERGENCE, DirkStages, RadauStages
from ..options import Progress
from ..rosenbrock import RosenbrockTableau
from ..solution import Status
from ..stabilised import SCHEMES, RadiusKeeper, StabilisedMethod, StabilisedStages
from ..tableau import ButcherTableau
from .functions import Function, entry, given_jacobian, given_number, rhs

__all__ = ["CompiledRun"]

_FIRST_ROOM, _MOST_ROOM = 1024, 16384
_RECORDS = 2**22
"""Numbers that the records of one stretch may hold, about."""

_LONGEST = 600
"""Components up to which the kernel's loops over them cost less than NumPy's calls. Those of
stabilised methods always do: a stage is one loop."""

_LARGEST = 128
"""Entries in a row of J whose LU decomposition is plain loops: LAPACK's, which the interpreted
loop calls, is faster from some 150 on."""


@final
class CompiledRun(Run):
    """`Run`, with the steps of an adaptive solve compiled where they can be; all else is inherited.

    Parameters
    ----------
    f : numba dispatcher
        The user's right-hand side.
    given : mapping
        `jac`, `radius` and `events` as the user gave them.
    args : sequence
        Further arguments of both.
    *arguments, **options
        As for `Run`.
    """

    def __init__(
        self,
        f: Any,
        given: Mapping[str, Any],
        args: Sequence[Any],
        *arguments: Any,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.f, self.jac, self.radius, self.args = f, given["jac"], given["radius"], tuple(args)
        self.events = _functions(given["events"])
        self.unseen = bool(self.hooks.wanted or options["progress"])
        self.function: Function | None = None
        self.function_jac: Function | None = None
        self.watched: list[Function] = []

    def _make_stages(self, f_0: Any) -> Any:
        p, steps = self.problem, self.steps
        fits = (
            not self.unseen
            and steps.grid is None
            and steps.norm is None
            and type(steps.controller) is PIDController
            and self.hooks.on_attempt is None
            and p.split is None
            and p.y0.dtype.char in "dD"
            and p.y0.size > 0
            and p.shape != ()
        )
        tableau, y = self.tableau, p.y0.reshape(p.shape)
        fits = fits and self._events_fit(y)
        if fits and isinstance(tableau, StabilisedMethod) and self._radius_fits(tableau, y):
            self.function = rhs(self.f, y, self.args)
        fits = fits and y.size <= _LONGEST
        if fits and isinstance(tableau, ButcherTableau) and tableau.explicit:
            self.function = rhs(self.f, y, self.args)
            return super()._make_stages(f_0) if self.function is None else _Rows(tableau, f_0)
        fits = fits and isinstance(tableau, RosenbrockTableau | ButcherTableau)
        if fits and self._jacobian_fits(y):
            self.function = rhs(self.f, y, self.args)
        return super()._make_stages(f_0)

    def _jacobian_fits(self, y: Any) -> bool:
        """Whether the kernel makes J: dense or a band, by differences or a compiled function."""
        band = self.stiff.get("bandwidth")
        if min(y.size, y.size if band is None else sum(band) + 1) > _LARGEST:
            return False
        others = (self.stiff[name] for name in self.stiff.keys() - {"jac", "bandwidth"})
        if any(value is not None for value in others):
            return False
        if is_jitted(self.jac):
            self.function_jac = given_jacobian(self.jac, y, self.args)
            return self.function_jac is not None
        return self.jac is None or (isinstance(self.jac, np.ndarray) and self.jac.ndim == 2)

    def _events_fit(self, y: Any) -> bool:
        """Whether the kernel can watch: compiled functions that return a number."""
        count = 0 if self.finder is None else len(self.finder.functions)
        # An iterator has been used up by now.
        if len(self.events) != count or not all(map(is_jitted, self.events)):
            return False
        found = [given_number(g, y, self.args) for g in self.events]
        self.watched = [g for g in found if g is not None]
        return len(self.watched) == len(found)

    def _radius_fits(self, method: StabilisedMethod, y: Any) -> bool:
        """Whether the kernel finds the spectral radius itself: a number, or a compiled function."""
        if is_jitted(self.radius):
            self.function_jac = given_number(self.radius, y, self.args)
            return self.function_jac is not None and method.step in SCHEMES
        return not callable(self.radius) and method.step in SCHEMES

    def _control_steps(self, bar: Progress) -> None:
        if self.function is None:
            super()._control_steps(bar)
        else:
            _Stretches(self, self.function).take()


def _functions(events: Any) -> list[Any]:
    """Return the user's event functions, which are known to be such."""
    if events is None:
        return []
    return [events] if callable(events) else list(events)


@cache
def _rooms() -> Any:
    """Return what needs numba, which is imported when a solve does."""
    from . import dirk, events, explicit, kernel, linear, parts, radau, rosenbrock, stabilised

    return SimpleNamespace(
        dirk=dirk,
        linear=linear,
        radau=radau,
        events=events,
        explicit=explicit,
        kernel=kernel,
        parts=parts,
        rosenbrock=rosenbrock,
        stabilised=stabilised,
    )


@final
class _Rows:
    """The stages of an explicit method as the kernel writes them, and their account."""

    def __init__(self, tableau: ButcherTableau, f_0: Any) -> None:
        K = _rooms().parts.K
        self.s, self.error_order = tableau.n_stages, tableau.error_order
        self.nfev = self.njev = self.nlu = 0
        self.hold = (1.0, 1.0)
        # After the stages f_new, where it is none of them, the dense output's and the detector's.
        rows = K + self.s + (not tableau.fsal) + len(tableau.dense.c) + 1
        self.W = np.zeros((rows, len(f_0)), f_0.dtype)
        self.W[K] = f_0
        self.K = self.W[K:]

    def slopes(self) -> Sequence[Any]:
        """Return the stage derivatives of the last attempt."""
        return list(self.K[: self.s])


def _stiff_method(run: CompiledRun) -> Any:
    """Return the method as the kernel takes it, its rows of W, and those of its polynomials."""
    p, stages, rooms = run.problem, run.stages, _rooms()
    source, band, J = stages.linear.source, run.stiff.get("bandwidth"), None
    if run.jac is not None:
        J = source(p.t0, p.y0, stages.f_0)
    a = rooms.linear.linear(len(p.y0), p.y0.dtype, band, J, constant=source.constant)
    if isinstance(stages, DirkStages):
        return rooms.dirk.dirk(stages, a)
    if isinstance(stages, RadauStages):
        return rooms.radau.radau(stages, a)
    return rooms.rosenbrock.rosenbrock(run.tableau, a)


@final
class _Stretches:
    """The kernel's arguments, and what is done between its calls."""

    def __init__(self, run: CompiledRun, f: Function) -> None:
        p, steps, n, rooms = run.problem, run.steps, run.problem.y0.shape[0], _rooms()
        self.run, self.f, self.jac, self.rooms = run, f, run.function_jac, rooms
        self.parts = parts = rooms.parts
        self.stages, self.n, self.dtype = run.stages, n, p.y0.dtype
        self.method: Any
        if isinstance(run.stages, _Rows):
            self.method, W = rooms.explicit.explicit(run.tableau), run.stages.W
            self.coefficients = len(run.tableau.bubble)
        elif isinstance(run.stages, StabilisedStages):
            stabilised = rooms.stabilised
            self.method = stabilised.stabilised(run.tableau, run.stages.radius, run.radius)
            W = np.zeros((stabilised.ROWS, n), self.dtype)
            W[parts.K] = run.stages.f_0
            self.coefficients = 2
        else:
            self.method, rows, self.coefficients = _stiff_method(run)
            W = np.zeros((rows, n), self.dtype)
            W[parts.K] = run.stages.f_0
        R = np.empty((3, n))
        W[parts.Y], R[parts.RTOL], R[parts.ATOL] = p.y0, p.rtol, p.atol
        self.W, self.y, self.y_new = W, W[parts.Y], W[parts.Y_NEW]
        self.work = parts.Work(W, W.reshape(-1, *p.shape), R)
        self.t_eval = np.array(run.t_eval or (), dtype=float)
        self.y_eval = np.empty((len(self.t_eval), n), self.dtype)
        self.keeps_dense = run.segments is not None
        self.watch: Any = None
        self.last: Segment | None = None
        if run.finder is not None:
            addresses = [g.address for g in run.watched]
            self.watch = rooms.events.watch(addresses, run.finder, p.y0)
        self.keeps_steps = run.t_eval is None or self.keeps_dense
        self.keeps_log = run.hooks.rows is not None
        width = (
            n * (self.keeps_steps + self.coefficients * self.keeps_dense) + 5 * self.keeps_log + 1
        )
        self.most_room = max(1, min(_MOST_ROOM, _RECORDS // width))
        self.chunks: list[tuple[Any, ...]] = []
        self.records: Any = None
        self.state = np.zeros(1, parts.STATE)
        self.s = s = self.state[0]
        s["t"], s["wall"], s["i_eval"] = p.t0, p.t1, run.i_eval
        s["h_abs"], s["attempts_left"] = steps.first or 0.0, steps.max_steps
        s["r_1"], s["r_2"], s["f_1"], s["f_2"], s["rejected_last"] = steps.controller.init()
        s["first_jac"], s["age"] = True, getattr(self.method, "every", 0)
        if run.detector is not None:
            s["calm"], s["interval"] = True, run.detector.interval
            s["countdown"] = s["wait"] = run.detector.wait

    def take(self) -> None:
        """Step until something ends the solve."""
        parts, run, room = self.parts, self.run, min(_FIRST_ROOM, self.most_room)
        code = parts.PAUSE
        try:
            while code in (parts.PAUSE, parts.LOOK, parts.ASK, parts.EVENT):
                if code == parts.PAUSE:
                    if self.records is not None:
                        self._collect()
                    self._make_room(room)
                    room = min(4 * room, self.most_room)
                elif code == parts.LOOK:
                    self._look()
                elif code == parts.EVENT:
                    if self._ends_at_event():
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
            limit_code, c = int(self.s["limit"]), complex(self.s["c"], self.s["c_imag"])
            if isinstance(self.stages, StabilisedStages):
                failed = self.stages.why_not(float(self.s["rho"]))
            else:
                failed = {
                    parts.NON_FINITE: NOT_FINITE,
                    parts.F_NON_FINITE: F_NOT_FINITE,
                    parts.NEWTON: NO_CONVERGENCE,
                }.get(limit_code) or singular(c if c.imag else c.real)
            run.end(FAILED[limit], f"{failed} after t = {run.t!r}, {failures} times in a row")

    def _call(self) -> int:
        p, steps = self.run.problem, self.run.steps
        arguments = (
            self.f.type,
            self.f.address,
            None if self.jac is None else self.jac.type,
            0 if self.jac is None else self.jac.address,
            self.run.args,
            self.method,
            tuple(map(float, steps.controller.constants)),  # type: ignore[attr-defined]
            self.stages.error_order,
            self.stages.hold,
            (p.t1, p.direction, float(steps.max_step)),
            self.keeps_dense,
            self.state,
            self.work,
            self.records,
            self.run.watched[0].type if self.watch else None,
            self.watch,
        )
        return int(entry(self.rooms.kernel.integrate, arguments)(*arguments))

    def _make_room(self, room: int) -> None:
        forms = self.keeps_dense or len(self.t_eval) > 0 or self.watch is not None
        path = (room if self.keeps_steps else 1, 1 + self.coefficients * forms, self.n)
        self.records = self.parts.Records(
            np.empty(room if self.keeps_steps else 0),
            np.empty(path, self.dtype),
            self.t_eval,
            self.y_eval,
            np.empty((room if self.keeps_log else 0, 5)),
        )
        self.s["room"] = room

    def _collect(self) -> None:
        """Move the records and counts of the last stretch to where the solution is made from."""
        s, run = self.s, self.run
        accepted, tried = int(s["accepted"]), int(s["tried"])
        spent = {name: int(s[name]) for name in ("nfev", "nfev_jac", "nfev_time", "njev", "nlu")}
        if not (tried or any(spent.values())):
            return
        run.accepted, run.rejected = run.accepted + accepted, run.rejected + int(s["rejected"])
        if isinstance(self.stages, _Rows):
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
        for name in ("accepted", "rejected", "tried", *spent):
            s[name] = 0
        if run.detector is not None:
            self._settle(run.detector)
        if accepted and self.keeps_steps:
            self.chunks.append((self.records.t[:accepted], self.records.path[:accepted]))
        if tried and run.hooks.rows is not None:
            limits = self.parts.LIMITS
            run.hooks.rows += [
                {"t": t, "h": h, "ratio": r, "accepted": bool(good), "limit": limits[int(limit)]}
                for t, h, r, good, limit in self.records.log[:tried].tolist()
            ]

    def _hand_over(self) -> None:
        """Give the run all that the solution is made from."""
        run, s = self.run, self.s
        run.t, run.y = float(s["t"]), self.y
        self._take_events()
        if not isinstance(self.stages, _Rows):
            self.stages.f_0 = self.W[self.parts.K]
        if isinstance(self.stages, DirkStages):
            self.stages.K_flat[:] = self.W[self.parts.K :][: len(self.stages.K)]
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
            run.breaks += t.tolist()
            y = np.vstack([run.problem.y0, y])
            run.segments = _Segments(run.breaks, y, path[:, 1:], self.last)

    def _settle(self, detector: Any) -> None:
        """Tell the detector of the looks that found no signs."""
        s = self.s
        detector.nfev += int(s["nfev_look"])
        if s["passed"]:
            detector.pass_over(int(s["passed"]))
        s["passed"] = s["nfev_look"] = 0

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
            records.log[int(s["tried"]) - 1, 4] = self.parts.AT_EVENT
        s["accepted"], s["i_eval"], s["t"], self.last = place + 1, i, t, segment
        self.y[:] = y
        return True

    def _answer(self) -> None:
        """Give the method the row that it asked for, or refuse the radius."""
        i = int(self.s["ask"])
        if i < 0:
            RadiusKeeper.check(float(self.s["t"]), float(self.s["rho"]))
        self.rooms.stabilised.learn(self.method, self.run.tableau, i)

    def _look(self) -> None:
        """Show the detector a step with signs of stiffness, and let it prove its case."""
        s, detector, p = self.s, self.run.detector, self.run.problem
        assert detector is not None
        self._settle(detector)
        t_new = float(s["t_new"])
        h = t_new - float(s["t"])
        ratio, rise, turn, stage = (float(s[key]) for key in ("ratio", "rise", "turn", "stage"))
        if detector.suspicious(h, ratio, rise, turn, stage):
            ratio_of = ErrorRatio(p.rtol, p.atol, self.y, p.backend)
            errs = self.W[self.parts.ERR : self.parts.ERR + self.method.n_errors]
            ratio_of(list(errs.copy()), self.y_new)
            f_new = self.W[self.method.end]
            changes = self.y_new - self.y, f_new - self.W[self.parts.K], ratio_of.norm
            detector.examine(p.f, t_new, self.y_new, f_new, errs[0], h, changes)
        s["calm"] = detector.state.name == "non_stiff"
        s["countdown"] = s["wait"] = detector.wait


@final
class _Segments(Sequence[Segment]):
    """The segments of a solve, each made when it is asked for.

    Parameters
    ----------
    t : list of float
        The accepted times, the first one included.
    y : ndarray of shape (N + 1, n)
        The states there.
    Q : ndarray of shape (N, m, n)
        Coefficients of each step's polynomial.
    last : Segment, optional
        The last one where an event cut its step.
    """

    def __init__(self, t: list[float], y: Any, Q: Any, last: Segment | None) -> None:
        self.t, self.y, self.Q, self.last = t, y, Q, last

    def __len__(self) -> int:
        return len(self.Q)

    def __getitem__(self, i: Any) -> Any:
        i = range(len(self))[i]
        if self.last is not None and i == len(self) - 1:
            return self.last
        return Segment(self.t[i], self.t[i + 1], self.y[i], self.y[i + 1], list(self.Q[i]))
