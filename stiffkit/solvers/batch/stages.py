"""The stages of explicit and stabilised methods, for a batch of rows with their own step sizes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, final

import numpy as np

from ..._array import Array, to_numpy
from ..jacobian import increment, row_norm
from ..solution import Status
from ..stabilised import StabilisedMethod
from ..step import combine
from ..tableau import ButcherTableau
from .dense import BatchSegment
from .fused import FusedStages
from .problem import BatchProblem, Floats

__all__ = ["BatchStages", "ExplicitBatch", "StabilisedBatch"]

EVERY = 25
"""Steps of the batch that estimates of the spectral radii serve for, as in RKC."""

SAFETY = 1.2
"""Power iteration estimates from below."""


class BatchStages(ABC):
    """What the batched loop needs to know of a method. Rows that rest make a step of size 0."""

    error_order: int
    njev = nlu = 0
    hold = (1.0, 1.0)
    """Between these factors a step size is kept, and what was factorised for it."""
    fixed = False
    """Whether the steps are given: an iteration that is slow cannot be helped by smaller ones."""
    failure = Status.newton_failed
    """How rows end that cannot make a step."""

    def __init__(self, problem: BatchProblem, tableau: Any) -> None:
        self.problem, self.tableau, self.backend = problem, tableau, problem.backend
        self.failed: Any = None
        """Rows that could not make the last attempt, shape (b,), or None."""
        self.longest: Floats = np.full(problem.size, np.inf)
        """What these rows may try next."""
        self._end: Array = None
        self.f_0: Array = None
        """f(t, y) at the start of the step, shape (b, n)."""

    @property
    def sole(self) -> BatchStages:
        """Stages of one method, which the first row goes by."""
        return self

    def parts(self, index: Any, accept: Any, *step: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a step method by method: index, accept, the stages, and the rest."""
        yield index, accept, self, *step

    family: Any = 0
    """By which of two methods the rows go, where there are two."""

    def go_by(self, family: Any, *, apart: bool) -> None:
        """Let each row go by one of two methods; see `SwitchingBatch`."""
        del family, apart  # there is one method

    def start(self, f_0: Array) -> None:
        """Get ready to step, given f at the rows' times and states."""
        self.f_0 = f_0

    @abstractmethod
    def attempt(self, t: Floats, h: Floats, y: Array) -> Array:
        """Compute the stages of steps from (t, y) by h, both of shape (b,); return y_new."""

    def slopes(self) -> list[Array]:
        """Return the last attempt's stage derivatives, k_1 and what else the method has."""
        return [self.f_0]

    @abstractmethod
    def damping(self, h: Floats, y: Array, y_new: Array) -> Floats:
        """Return −hλ of each row's last attempt, λ being of what is damped most; an estimate."""

    @abstractmethod
    def errors(self) -> list[Array]:
        """Local error estimates of the last attempt, one per embedded row; yours to change.

        They may be NumPy's where the stages of tensors lie there: see `Backend.bridge`.
        """

    def advance(self, accept: Any, t: Floats, y: Array) -> None:
        """Get ready to step from (t, y): where `accept`, the end of the last attempt.

        `accept` of shape (b, 1) is None where all rows were accepted.
        """
        end = self.slope_at_end(t, y)
        self.f_0 = end if accept is None else self.backend.xp.where(accept, end, self.f_0)
        self._end = None

    def f_end(self, t: Floats, y: Array) -> Array:
        """Return f at the end of the step."""
        return self.problem.lasting(self.problem.time(t), y)

    def segment(self, t: Floats, t_new: Floats, y: Array, y_new: Array) -> BatchSegment:
        """Return dense output over the step; the slope at its end serves `advance` too."""
        P = self.backend.xp.stack([y, y_new, *self.bubbles(t, t_new, y, y_new)])
        return BatchSegment(t, t_new, P, self.backend)

    def bubbles(self, t: Floats, t_new: Floats, y: Array, y_new: Array) -> list[Array]:
        """Return the bubble's coefficients over h: here those of the cubic Hermite polynomial."""
        f_0, f_1 = self.f_0, self.slope_at_end(t_new, y_new)
        rise = self.inverse(t_new - t, y) * (y_new - y)
        return [f_0 - rise, 2 * rise - f_0 - f_1]

    def inverse(self, h: Floats, like: Array) -> Array:
        """Return 1/h of each row, shape (b, 1); 0 where a row rests."""
        safe = np.divide(1.0, h, out=np.zeros_like(h), where=h != 0)
        return self.backend.real_like(safe[:, None], like)

    def slope_at_end(self, t: Floats, y: Array) -> Array:
        """Return f at the end of the step, evaluated once."""
        if self._end is None:
            self._end = self.f_end(t, y)
        return self._end

    def take(self, problem: BatchProblem, rows: Any) -> None:
        """Go on with some of the rows."""
        self.problem, self.f_0, self._end = problem, self.f_0[rows], None
        self.longest, self.failed = self.longest[rows], None


@final
class ExplicitBatch(BatchStages):
    """Explicit Runge-Kutta steps.

    The stages lie in one buffer of shape (m, b, n), so that each combination is one
    matrix-vector product; where autograd needs their history they are a list, and combined one by
    one. `inward` and `outward` lead to the library that the buffer belongs to, and back. With
    `compiled` torch.compile makes the stages of a step, f included, one function.
    """

    def __init__(
        self,
        problem: BatchProblem,
        tableau: ButcherTableau,
        *,
        dense: bool,
        record: bool,
        compiled: bool = False,
    ) -> None:
        super().__init__(problem, tableau)
        self.error_order, self.record = tableau.error_order or 0, record
        self.compiled = compiled
        self.fused: FusedStages | None = None
        self.s = tableau.n_stages
        self.slot = self.s - 1 if tableau.fsal else self.s
        self.m = self.slot + 1 + (len(tableau.dense.c) if dense else 0)
        self.lists = [[float(a) for a in row] for row in tableau.rows]
        self.outer, y_0 = self.backend, problem.y0
        self.backend, self.inward, self.outward = self.outer.bridge(y_0, stay=record)
        self.aside = self.outer.bridge(y_0)
        """The same where autograd need not see it."""
        self.weights = self.backend.vector(tableau.rows, self.inward(y_0))
        self.bubble: Array = None
        if dense:
            bubble = tableau.bubble.copy()
            bubble[:, 0] -= bubble.sum(1)  # to rounding they weigh differences of the slopes
            self.bubble = self.backend.vector(bubble, self.weights)
        self.rest = 1 - np.asarray(tableau.c)[1:, None]
        i = tableau.probe
        self.apart = [] if i is None else (tableau.b - tableau.A[i]).tolist()
        """Weights of the stages in what lies between the end of a step and its probe, over h."""
        self.twin: Any = None
        self.h: Array = None
        self.y_new: Array = None
        self.K: Any = None
        self._allocate()

    def _allocate(self) -> None:
        b, n = self.problem.size, self.problem.y0.shape[1]
        self.fused = None
        if self.compiled:
            self.fused = FusedStages(self.problem, self.tableau, record=self.record)
        if self.record:
            self.K = [None] * self.m
            return
        empty, product, s = self.backend.empty, self.backend.product, self.s
        self.K = empty((self.m, b, n), self.weights)
        self.f_0 = self.outward(self.K[0])
        flat = self.K.reshape((self.m, b * n))
        # Each combination of stages is made in one and the same place, and used at once.
        flat_sum = empty((b * n,), self.weights)
        self.sum = flat_sum.reshape((b, n))
        self.write = [self.backend.writer(self.K[i]) for i in range(self.m)]
        widths = [*range(s), *[s] * (len(self.lists) - s)]
        """How many stages each row of A, b and the error rows weighs."""
        self.products = [
            product(self.weights[i, :m], flat[:m], flat_sum) for i, m in enumerate(widths)
        ]
        if self.apart:
            self.twin = product(self.backend.vector(self.apart, flat), flat[:s], flat_sum)

    def _weigh(self, row: int) -> Array:
        """Σ_j a_ij k_j, over the stages before, for row i of A; over all for b and error rows."""
        if self.record:
            return combine(self.lists[row], self.K)
        self.products[row]()
        return self.sum

    def _put(self, i: int, value: Array) -> None:
        """Keep f of the problem's own library as stage i."""
        if not self.record:
            self.write[i](self.inward(value))
        else:  # what has no history may be a buffer that f uses again
            self.K[i] = value if value.requires_grad else self.backend.copy(value)

    def start(self, f_0: Array) -> None:
        """Get ready to step, given f at the rows' times and states."""
        self._put(0, f_0)
        if self.record:
            self.f_0 = f_0

    def attempt(self, t: Floats, h: Floats, y: Array) -> Array:
        """Compute the stages; see `BatchStages`."""
        problem, s, move, outward = self.problem, self.s, self.backend.move, self.outward
        y_0 = self.inward(y)
        self._end, self.h = None, self.backend.along(h, y_0)
        if self.fused is not None:
            self.y_new, k = self.fused(self.f_0, problem.time(t + h), problem.time(h), y)
            if self.record:
                self.K[1 : self.s] = k
            else:
                self.K[: self.s] = self.inward(k)
            return self.y_new
        # Times are counted back from the end: t + (t_new − t) may round to a time past the span.
        times = problem.times(t + h - self.rest * h)
        h, y_new = self.h, y
        if self.record:
            for i, time in enumerate(times, 1):
                y_new = move(y_0, self._weigh(i), h)
                self._put(i, problem(time, y_new))
        else:  # the same without a detour
            sum_, inward = self.sum, self.inward
            for time, weigh, write in zip(times, self.products[1:s], self.write[1:s], strict=True):
                weigh()
                y_new = outward(move(y_0, sum_, h))
                write(inward(problem(time, y_new)))
        if not self.tableau.fsal:
            y_new = outward(move(y_0, self._weigh(s), h))
        self.y_new = y_new
        return y_new

    def quadrature(self, t: Floats, h: Floats, y: Array) -> Iterator[tuple[Array, Array, Array]]:
        """Yield times, states and weights h b_i of the last attempt's stages where b_i ≠ 0."""
        weight, still = self.outer.real_like(h[:, None], y), h == 0
        # The stages of a row that was rejected need not be finite.
        rests = self.outer.mask(still[:, None], y) if still.any() else None
        for i, b_i in enumerate(self.lists[self.s]):
            if b_i != 0.0:
                z = y + weight * self.outward(self._weigh(i)) if i else y
                z = z if rests is None else self.outer.xp.where(rests, y, z)
                yield self.problem.time(t + self.tableau.c[i] * h), z, weight * b_i

    def errors(self) -> list[Array]:
        """Estimates of the local error."""
        rows = range(self.s + 1, len(self.lists))
        with self.backend.no_grad():
            errors = [self.h * self._weigh(j) for j in rows]
            if not self.tableau.fsal:  # a state that overflows is in no stage yet
                errors[0] = errors[0] + 0.0 * self.inward(self.y_new)
        return errors

    def slopes(self) -> list[Array]:
        """Return the last attempt's stage derivatives."""
        return [self.outward(self.K[i]) for i in range(self.s)]

    def damping(self, h: Floats, y: Array, y_new: Array) -> Floats:  # noqa: ARG002
        """Return −hλ of each row, λ from two evaluations at the step's end.

        λ = <Δy, Δf>/<Δy, Δy> of the last stage and the probe (see `ButcherTableau.probe`): their
        difference is rich in what is damped most. Zero for a method without a probe.
        """
        if self.tableau.probe is None or not self.tableau.fsal:
            return np.zeros_like(h)
        backend = self.backend
        change, bend = (backend.detach(x) for x in self._probe(self.K[self.slot], None))
        scalar = [backend.host((change * x).sum(1)) for x in (bend, change)]
        good = scalar[1] > 0
        shrunk: Floats = -np.divide(scalar[0], scalar[1], out=np.zeros_like(h), where=good)
        return shrunk

    def _probe(self, f_new: Array, rows: Any) -> tuple[Array, Array]:
        """Return how states of the step's end and of the probe differ, over h, and slopes do."""
        i, s, take = self.tableau.probe, self.s, self.backend.take
        with self.outer.no_grad():
            if self.twin is not None and (rows is None or 4 * len(rows) > len(self.K[i])):
                self.twin()  # of all: to pick these rows from each stage would take longer
                change, slope = self.sum, self.K[i]
                if rows is not None:
                    change, slope = take(change, rows, 0), take(slope, rows, 0)
                return change, f_new - slope
            k = [x if rows is None else take(x, rows, 0) for x in self.K[:s]]
            return combine(self.apart, k), f_new - k[i]

    def same_time(
        self, t: Floats, h: Floats, y_new: Array, rows: Any = None
    ) -> tuple[Array, Array]:
        """Return how two states at the end of the last attempt differ, over h, and their slopes.

        Of a method without a probe the second state is off by the error estimate. Where the stages
        do not tell its slope (`ButcherTableau.error_slope`) it is made small, and costs a call of
        f. Where `rows` is given it is told of these.
        """
        outer, end = self.outer, self.slope_at_end(t, y_new)
        if self.tableau.probe is not None:
            f_new = end if rows is None else self.backend.take(end, rows, 0)
            change, slopes = (self.outward(x) for x in self._probe(f_new, rows))
            return outer.detach(change), outer.detach(slopes)

        def own(x: Array) -> Array:
            return x if rows is None else outer.take(x, rows, 0)

        with outer.no_grad():
            state = outer.detach(y_new)
            f_new = outer.detach(outer.copy(own(self.outward(end))))
            err, y = own(outer.detach(self.outward(self.errors()[0]))), own(state)
            h_own = h if rows is None else h[rows]
            over_h = np.divide(1.0, h_own, out=np.zeros_like(h_own), where=h_own != 0)
            over_h = outer.real_like(over_h[:, None], err)
            slope = self.tableau.error_slope
            if slope is not None:
                k = [*(own(outer.detach(k_i)) for k_i in self.slopes()), f_new]
                return over_h * err, combine(slope.tolist(), k)
            size, eps = row_norm(err, outer.xp), float(outer.xp.finfo(y.dtype).eps)
            share = increment(y, eps**0.5) / outer.xp.where(size > 0, size, 1.0 + 0.0 * size)
            change = share * err
            moved = y + change
            if rows is not None:
                some, moved = moved, outer.copy(state)
                moved[outer.index(rows, moved)] = some
            bend = own(self.problem(self.problem.time(t), moved)) - f_new
            return over_h * change, bend

    def f_end(self, t: Floats, y: Array) -> Array:
        """Return f at the end: the last stage of an FSAL method."""
        if not self.tableau.fsal:
            self._put(self.slot, self.problem(self.problem.time(t), y))
        return self.K[self.slot]

    def advance(self, accept: Any, t: Floats, y: Array) -> None:
        """Get ready for the next step."""
        end = self.slope_at_end(t, y)
        self._end = None
        if self.record:
            self.K[0] = end if accept is None else self.backend.xp.where(accept, end, self.K[0])
            self.f_0 = self.K[0]
        elif accept is None:
            self.write[0](end)
        else:
            self.backend.overwrite(self.K[0], end, self.inward(accept))

    def segment(self, t: Floats, t_new: Floats, y: Array, y_new: Array) -> BatchSegment:
        """Return the method's own dense output; evaluates its extra stages for all rows."""
        self.slope_at_end(t_new, y_new)
        dense, xp = self.tableau.dense, self.backend.xp
        y_0, y_1 = self.inward(y), self.inward(y_new)
        h = self.backend.along(t_new - t, y_0) if len(dense.c) else None
        for i, (c_i, a_i) in enumerate(zip(dense.c, dense.A, strict=True), self.slot + 1):
            time = self.problem.time(t_new - (1 - c_i) * (t_new - t))
            state = self.outward(y_0 + h * combine(a_i, self.K))
            self._put(i, self.problem(time, state))
        K = xp.stack(self.K) if self.record else self.K
        q, m = self.bubble.shape
        Q = (self.bubble @ K[:m].reshape((m, -1))).reshape((q, *y_0.shape))
        P = xp.concatenate([y_0[None], y_1[None], Q])
        return BatchSegment(t, t_new, self.outward(P), self.outer)

    def take(self, problem: BatchProblem, rows: Any) -> None:
        """Go on with some of the rows."""
        super().take(problem, rows)
        f_0 = self.f_0
        # For one row there would be another function to compile, and hardly a step to gain by it.
        self.compiled = self.compiled and problem.size > 1
        self._allocate()
        self.start(f_0)


@final
class StabilisedBatch(BatchStages):
    """Stabilised explicit steps: all rows take as many stages as the stiffest of them needs."""

    failure = Status.unstable

    def __init__(self, problem: BatchProblem, method: StabilisedMethod, radius: Any) -> None:
        super().__init__(problem, method)
        self.error_order, self.radius = method.error_order, radius
        self.err: Array = None
        self.vector: Array = None
        self.rho = np.zeros(problem.size)
        """Bounds of the spectral radii."""
        self.age = EVERY
        """Steps of the batch since they were found."""
        self.tried = np.full(problem.size, np.nan), np.zeros(problem.size)
        """Times and step sizes of the last attempt."""

    def attempt(self, t: Floats, h: Floats, y: Array) -> Array:
        """Compute the stages; see `BatchStages`."""
        problem, method = self.problem, self.tableau
        again = (t == self.tried[0]) & (h != self.tried[1]) & (h != 0)
        if self.age >= EVERY or (self.age > 0 and (callable(self.radius) or again.any())):
            self.rho, self.age = self._radii(t, y), 0
        self.tried = t, h
        z = np.abs(h) * self.rho
        self.longest = method.longest(1.0) / np.maximum(self.rho, 1e-300)
        self.failed = ~(z <= method.beta(method.max_stages))
        z, h = np.where(self.failed, 0.0, z), np.where(self.failed, 0.0, h)
        step, start = (self.backend.real_like(x[:, None], y) for x in (h, t))

        def f(time: Array, state: Array) -> Array:
            return problem.lasting(time.reshape((-1,)), state[:])  # the recurrence goes on in it

        s = method.stages(float(z.max(initial=0.0)))
        y_new, self.err, self._end = method.step(f, start, y, step, self.f_0, s)
        return y_new

    def _radii(self, t: Floats, y: Array) -> Floats:
        """Return bounds of the spectral radii: those that were given, or estimates."""
        if self.radius is None:
            return SAFETY * self._estimate(t, y)
        p = self.problem
        if not callable(self.radius):
            rho = np.full(len(t), float(self.radius))
        else:
            with self.backend.no_grad():
                state = self.backend.detach(y).reshape((len(t), *p.shape))
                rho = np.array(to_numpy(self.radius(p.time(t), state, *p.args)))
        if rho.shape not in ((), t.shape) or (rho < 0).any():
            msg = (
                f"radius returned {rho!r} for {len(t)} rows; it must be a number or an array of "
                f"shape ({len(t)},), zero or positive"
            )
            raise ValueError(msg)
        return np.array(np.broadcast_to(rho, t.shape))

    def _estimate(self, t: Floats, y: Array) -> Floats:
        """Spectral radii by nonlinear power iteration, from the vectors of the last time on."""
        # The estimator stands above the solvers: it is fetched when a solve asks for it.
        from ...stiffness.power import nonlinear_power_iteration

        problem, detach = self.problem, self.backend.detach
        time = problem.time(t)
        with self.backend.no_grad():
            pair = nonlinear_power_iteration(
                lambda _, state: problem(time, state.reshape(y.shape)),
                0.0,
                detach(y),
                f_0=detach(self.f_0),
                start=self.vector,
                tol=1e-2,
                max_iterations=50,
                batched=True,
            )
        self.vector = self.backend.vector(pair.vector, y).reshape(y.shape)
        return np.asarray(np.abs(np.asarray(pair.value)), dtype=np.float64)

    def errors(self) -> list[Array]:
        """Return the method's estimate."""
        return [self.backend.detach(self.err)]

    def damping(self, h: Floats, y: Array, y_new: Array) -> Floats:  # noqa: ARG002
        """Return hρ of each row."""
        return np.abs(h) * self.rho

    def advance(self, accept: Any, t: Floats, y: Array) -> None:
        """Get ready for the next step."""
        super().advance(accept, t, y)
        self.age += 1

    def take(self, problem: BatchProblem, rows: Any) -> None:
        """Go on with some of the rows."""
        super().take(problem, rows)
        self.rho, self.tried = self.rho[rows], (self.tried[0][rows], self.tried[1][rows])
        self.vector = None if self.vector is None else self.vector[rows]
