"""A solve in progress whose steps the compiled kernel takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, final

import numpy as np

from ..control import ErrorRatio, PIDController
from ..dense import Segment
from ..loop import Run
from ..options import Progress
from ..solution import Status
from ..tableau import ButcherTableau
from .functions import Function, entry, rhs

__all__ = ["CompiledRun"]

_FIRST_ROOM, _MOST_ROOM = 1024, 16384
_RECORDS = 2**22
"""Numbers that the records of one stretch may hold, about."""


@final
class CompiledRun(Run):
    """`Run`, with the steps of an explicit adaptive solve compiled; all else is inherited.

    Parameters
    ----------
    f : numba dispatcher
        The user's right-hand side.
    args : sequence
        Its further arguments.
    *arguments, **options
        As for `Run`.
    """

    def __init__(self, f: Any, args: Sequence[Any], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.f, self.args = f, tuple(args)
        self.unseen = bool(self.hooks.wanted or self.finder or options["progress"])

    def _control_steps(self, bar: Progress) -> None:
        p, tableau, controller = self.problem, self.tableau, self.steps.controller
        fits = (
            not (self.auto or self.unseen)
            and isinstance(tableau, ButcherTableau)
            and tableau.explicit
            and type(controller) is PIDController
            and p.split is None
            and p.y0.dtype.char in "dD"
            and p.y0.shape[0] > 0
            and p.shape != ()
        )
        function = rhs(self.f, p.y0.reshape(p.shape).copy(), self.args) if fits else None
        if function is None:
            super()._control_steps(bar)
        else:
            _Stretches(self, function).take()


@final
class _Stretches:
    """The kernel's arguments, and what is done between its calls."""

    def __init__(self, run: CompiledRun, f: Function) -> None:
        # Imported here, as it compiles nothing until it is called but takes numba's import.
        from . import kernel

        p, tableau, steps, n = run.problem, run.tableau, run.steps, run.problem.y0.shape[0]
        self.run, self.f, self.kernel = run, f, kernel
        self.stages, self.n, self.dtype = run.stages, n, p.y0.dtype
        self.tableau, self.dense, self.watch = _arrays(tableau)
        self.y, self.y_new, z = p.y0.copy(), np.empty_like(p.y0), np.empty_like(p.y0)
        self.errs = np.empty((len(self.tableau[3]), n), self.dtype)
        scale, spare = np.empty(n), np.empty((1, n), self.dtype)
        K = run.stages.K
        self.work = self.y, self.y_new, K, z, z.reshape(p.shape), self.errs, scale, spare
        m = len(self.dense[2])
        self.tolerances = np.full(n, p.rtol), np.full(n, p.atol)
        self.t_eval = np.array(run.t_eval or (), dtype=float)
        self.y_eval = np.empty((len(self.t_eval), n), self.dtype)
        self.keeps_dense = run.segments is not None
        self.keeps_steps = run.t_eval is None or self.keeps_dense
        self.keeps_log = run.hooks.rows is not None
        width = n * (self.keeps_steps + m * self.keeps_dense) + 5 * self.keeps_log + 1
        self.most_room = max(1, min(_MOST_ROOM, _RECORDS // width))
        self.chunks: list[tuple[Any, ...]] = []
        self.state = np.zeros(1, kernel.STATE)
        self.s = s = self.state[0]
        s["t"], s["wall"], s["i_eval"] = p.t0, p.t1, run.i_eval
        s["h_abs"], s["attempts_left"] = run._first_step(run.stages.error_order), steps.max_steps
        s["r_1"], s["r_2"], s["f_1"], s["f_2"], s["rejected_last"] = steps.controller.init()
        if run.detector is not None:
            s["calm"], s["interval"] = True, run.detector.interval
            s["countdown"] = s["wait"] = run.detector.wait

    def take(self) -> None:
        """Step until something ends the solve."""
        kernel, run, room = self.kernel, self.run, min(_FIRST_ROOM, self.most_room)
        code = kernel.PAUSE
        try:
            while code in (kernel.PAUSE, kernel.LOOK):
                if code == kernel.PAUSE:
                    self._collect()
                    self._make_room(room)
                    room = min(4 * room, self.most_room)
                else:
                    self._look()
                code = self._call()
        finally:
            self._collect()
            self._hand_over()
        h_abs = float(self.s["h_abs"])
        if code == kernel.OUT_OF_STEPS:
            run.end(Status.max_steps, run._why_no_further(h_abs))
        elif code == kernel.TOO_SMALL:
            why = run._why_too_small(h_abs, int(self.s["non_finite"]))
            run.end(Status.step_too_small, why)
        elif code == kernel.NOT_FINITE:
            run.end(Status.non_finite, run._where_not_finite(self.y_new))

    def _call(self) -> int:
        p, steps = self.run.problem, self.run.steps
        arguments = (
            self.f.type,
            self.f.address,
            self.run.args,
            self.tableau,
            self.dense,
            self.watch,
            tuple(map(float, steps.controller.constants)),  # type: ignore[attr-defined]
            self.stages.error_order,
            (p.t1, p.direction, float(steps.max_step)),
            self.tolerances,
            self.keeps_dense,
            self.state,
            self.work,
            self.t_eval,
            self.y_eval,
            self.records,
            self.log,
        )
        return int(entry(self.kernel.integrate, self.f, arguments)(*arguments))

    def _make_room(self, room: int) -> None:
        kept = room if self.keeps_steps else 0
        Q = (room if self.keeps_dense else 1, len(self.dense[2]), self.n)
        self.records = np.empty(kept), np.empty((kept, self.n), self.dtype), np.empty(Q, self.dtype)
        logged = room if self.keeps_log else 0
        self.log = np.empty((logged, 3)), np.empty((logged, 2), np.int64)
        self.s["room"] = room

    def _collect(self) -> None:
        """Move the records and counts of the last stretch to where the solution is made from."""
        s, run = self.s, self.run
        accepted, tried = int(s["accepted"]), int(s["accepted"] + s["rejected"])
        run.accepted, run.rejected = run.accepted + accepted, run.rejected + tried - accepted
        self.stages.nfev += int(s["nfev"])
        s["accepted"] = s["rejected"] = s["nfev"] = 0
        if run.detector is not None:
            self._settle(run.detector)
        if accepted and self.keeps_steps:
            self.chunks.append(tuple(column[:accepted] for column in self.records))
        if tried and run.hooks.rows is not None:
            limits = self.kernel.LIMITS
            run.hooks.rows += [
                {"t": t, "h": h, "ratio": r, "accepted": bool(good), "limit": limits[limit]}
                for (t, h, r), (limit, good) in zip(
                    self.log[0][:tried].tolist(), self.log[1][:tried].tolist(), strict=True
                )
            ]

    def _hand_over(self) -> None:
        """Give the run all that the solution is made from."""
        run, s = self.run, self.s
        run.t, run.y = float(s["t"]), self.y
        if run.t_eval is not None:
            first, last = run.i_eval, int(s["i_eval"])
            run.t_out += run.t_eval[first:last]
            run.y_out.append(self.y_eval[first:last].reshape(-1))
            run.i_eval = last
        if not self.chunks:
            return
        t, y, Q = (np.concatenate(column) for column in zip(*self.chunks, strict=True))
        times = t.tolist()
        if run.t_eval is None:
            run.t_out += times
            run.y_out.append(y.reshape(-1))
        if self.keeps_dense:
            run.breaks += times
            run.segments = _Segments(run.breaks, np.vstack([run.problem.y0, y]), Q)

    def _settle(self, detector: Any) -> None:
        """Tell the detector of the looks that found no signs."""
        s = self.s
        detector.nfev += int(s["nfev_look"])
        if s["passed"]:
            detector.pass_over(int(s["passed"]))
        s["passed"] = s["nfev_look"] = 0

    def _look(self) -> None:
        """Show the detector a step with signs of stiffness, and let it prove its case."""
        s, detector, stages, p = self.s, self.run.detector, self.stages, self.run.problem
        assert detector is not None
        self._settle(detector)
        t_new = float(s["t_new"])
        h = t_new - float(s["t"])
        if detector.suspicious(h, *(float(s[key]) for key in ("ratio", "rise", "turn", "stage"))):
            ratio_of = ErrorRatio(p.rtol, p.atol, self.y, p.backend)
            ratio_of(list(self.errs.copy()), self.y_new)
            f_new = stages.K[stages.f_new_slot]
            changes = self.y_new - self.y, f_new - stages.K[0], ratio_of.norm
            detector.examine(p.f, t_new, self.y_new, f_new, self.errs[0], h, changes)
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
    """

    def __init__(self, t: list[float], y: Any, Q: Any) -> None:
        self.t, self.y, self.Q = t, y, Q

    def __len__(self) -> int:
        return len(self.Q)

    def __getitem__(self, i: Any) -> Any:
        i = range(len(self))[i]
        return Segment(self.t[i], self.t[i + 1], self.y[i], self.y[i + 1], list(self.Q[i]))


@lru_cache(maxsize=64)
def _arrays(tableau: ButcherTableau) -> tuple[Any, Any, Any]:
    """Return a method as the kernel takes it: tableau, dense output, detector's constants."""
    dense, quality = tableau.dense, tableau.pair_quality
    slots = tableau.n_stages + (not tableau.fsal)
    A = np.zeros((len(dense.A), slots + len(dense.c)))
    for row, given in zip(A, dense.A, strict=True):
        row[: len(given)] = given
    assert tableau.error_order is not None
    assert quality is not None
    rows = tableau.rows[tableau.n_stages :].copy()
    return (
        (np.array(tableau.A), rows[:1], np.array(tableau.c), rows[1:], bool(tableau.fsal)),
        (np.array(dense.c, dtype=float), A, np.array(tableau.bubble)),
        (
            float(quality.A_hat),
            int(tableau.error_order),
            float(tableau.real_stability_limit),
            -1 if tableau.probe is None else int(tableau.probe),
            slots - 1,
        ),
    )
