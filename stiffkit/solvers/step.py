"""One step of an explicit Runge-Kutta method: the kernel, its fast twin, and the Step record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol, final

from .._array import Array, Backend, backend_of
from .dense import LiveSegment, Segment
from .tableau import ButcherTableau

__all__ = ["Probe", "Step", "StepFailed", "StepHook", "combine", "make_stages", "rk_step"]

RHS = Callable[[float, Array], Array]

_BLOCK = 8192
"""Components whose stages fit the processor's cache."""


SHORTER = {"non_finite": 0.1, "newton": 0.25, "singular": 0.5}
"""Part of a step to try next, by what the step failed for."""


class StepFailed(Exception):
    """A step could not be made, for a reason that f's values and the error estimate do not tell.

    Parameters
    ----------
    message : str
        Why.
    longest : float
        Length of the step to try next.
    limit : {"stability", "newton", "singular", "non_finite"}
        What failed. A step that is too long for stability is refused before any work; the others
        are rejections.
    """

    def __init__(self, message: str, longest: float, limit: str = "stability") -> None:
        super().__init__(message)
        self.longest, self.limit = longest, limit


def combine(row: Sequence[float], k: Sequence[Array]) -> Any:
    """Σ_j row_j k_j without the exact zeros, so that 0·inf cannot poison a sum."""
    terms = [(weight, k_j) for weight, k_j in zip(row, k, strict=False) if weight != 0.0]
    return backend_of(terms[0][1]).weighted_sum(terms) if terms else 0.0


def rk_step(
    f: RHS, t: float, y: Array, h: float, tableau: ButcherTableau, k_1: Array
) -> tuple[Array, list[Array]]:
    """One explicit Runge-Kutta step from (t, y), given k_1 = f(t, y).

    k_i = f(t + c_i h, y + h Σ_j a_ij k_j),    y_new = y + h Σ_i b_i k_i.

    Parameters
    ----------
    f : callable
        Right-hand side ``f(t, y)``.
    t, h : float
        Time and (signed) step size.
    y : array
        State, any shape, NumPy or torch; the step is differentiable for torch.
    tableau : ButcherTableau
        An explicit method.
    k_1 : array
        f(t, y): the previous step's last stage for FSAL methods.

    Returns
    -------
    y_new : array
        Approximation at t + h.
    k : list of array
        The s stage derivatives.
    """
    k, z = [k_1], y
    for c_i, a_i in zip(tableau.c[1:].tolist(), tableau.A[1:].tolist(), strict=True):
        z = y + h * combine(a_i, k)
        k.append(f(t + c_i * h, z))
    return (z if tableau.fsal else y + h * combine(tableau.b.tolist(), k)), k


class _Stages(ABC):
    """The stages of one solve: what the loop needs to know of a method. Arrays are flat here.

    This class keeps the FSAL account and builds dense output; where the stage derivatives are
    kept, and how they are combined, is the storage's affair (`put`, `get`, `attempt`, ...).
    """

    def __init__(self, f: RHS, tableau: ButcherTableau, backend: Backend) -> None:
        self.f, self.f_keeping, self.backend = f, backend.keeping(f), backend
        self.tableau = tableau
        self.s, self.error_order = tableau.n_stages, tableau.error_order or 0
        self.hold = (1.0, 1.0)
        self.nfev = self.njev = self.nlu = 0
        self.f_new_slot = self.s - 1 if tableau.fsal else self.s
        self.f_new_at: Array = None
        """The very array y_new that the stage in `f_new_slot` was evaluated at."""
        self.y_new: Array = None
        """Result of the last attempt."""

    @abstractmethod
    def put(self, i: int, value: Array) -> None:
        """Store k_i."""

    @abstractmethod
    def get(self, i: int) -> Array:
        """Return k_i; the array is overwritten by later attempts."""

    def slopes(self) -> list[Array]:
        """Return the stage derivatives of the last attempt."""
        return [self.get(i) for i in range(self.s)]

    @abstractmethod
    def weigh_changes(self, rows: Any) -> Sequence[Array]:
        """Σ_j row_j (k_j − k_1) of each row, over as many stages as it has entries."""

    def start(self, y: Array, k_1: Array) -> None:  # noqa: ARG002
        """Get ready to step from y, given k_1 = f(t, y)."""
        self.put(0, k_1)

    def advance(self, t: float, y: Array) -> None:
        """Get ready to step from the end (t, y) of the step before."""
        self.start(y, self.f_new(t, y))

    @abstractmethod
    def attempt(self, t: float, y: Array, t_new: float) -> Array:
        """Compute the stages of the step from (t, y) to t_new, k_1 in place; return y_new."""

    @abstractmethod
    def errors(self) -> list[Array]:
        """Local error estimates of the last attempt, one per embedded row; yours to change."""

    def estimate(self) -> Array | None:
        """Return nothing: the Step of an explicit method estimates its error from the stages."""
        return None

    @abstractmethod
    def probe_state(self) -> Array | None:
        """State z of the probe's stage in the last attempt; None where there is no probe."""

    @abstractmethod
    def bend(self) -> Array:
        """J times the error estimate of the last attempt, by `ButcherTableau.error_slope`.

        Only after `f_new`, and only of a tableau that has these weights.
        """

    @final
    def f_new(self, t: float, y: Array) -> Array:
        """f(t, y) at the end of the step: free for FSAL methods unless y_new was moved."""
        if self.f_new_at is not y:
            self.nfev += 1
            self.put(self.f_new_slot, self.f_keeping(t, y))
            self.f_new_at = y
        return self.get(self.f_new_slot)

    @final
    def segment(self, t: float, y: Array, t_new: float, y_new: Array) -> Segment:
        """Dense output over the accepted step; evaluates f_new and the extra stages if it must."""
        h, moved = t_new - t, y_new is not self.y_new
        small = y.shape[0] <= _BLOCK
        f_new = self.f_new(t_new, y_new)
        dense = self.tableau.dense
        if moved or (
            small and self.tableau.interpolant is None
        ):  # a moved y_new is no combination of the stages any more
            return Segment.hermite(t, t_new, y, y_new, h * self.get(0), h * f_new)
        k_1 = self.get(0)
        for i, (c_i, a_i) in enumerate(zip(dense.c, dense.A, strict=True), self.f_new_slot + 1):
            self.nfev += 1
            # Σ_j a_ij k_j with its sum c_i taken out; see `ButcherTableau.bubble`.
            slope = c_i * k_1 + self.weigh_changes([a_i])[0]
            self.put(i, self.f(t_new - (1 - c_i) * h, y + h * slope))
        live = LiveSegment(t, t_new, y, y_new, (), self.tableau.bubble, self.weigh_changes)
        return live.settle() if small else live


@final
class _BufferedStages(_Stages):
    """States and stages in one preallocated buffer, whose rows are y, k_1, ..., k_m.

    The coefficients are scaled by h once an attempt; with a 1 in front of each row, every stage's
    state is then one product with a view of the buffer. Only y_new is summed as y + h Σ b_i k_i,
    the increment first, so that a step rounds the state once.
    """

    def __init__(
        self, f: RHS, tableau: ButcherTableau, y: Array, backend: Backend, *, dense: bool
    ) -> None:
        super().__init__(f, tableau, backend)
        s, extra = self.s, len(tableau.dense.c) if dense else 0
        self.fsal, self.protect = tableau.fsal, backend.protect
        self.buffer = buffer = backend.empty((self.f_new_slot + 2 + extra, y.shape[0]), y)
        self.K = K = buffer[1:]
        # Row i holds the coefficients of stage i + 1, the next one b, the last ones the errors.
        # Rows, not columns: BLAS takes a strided vector a tenth more slowly.
        rows = tableau.rows
        scaled, self.scale = backend.scaled(rows, y)
        h_rows = scaled[:, 1:]
        inner = range(1, s - 1 if self.fsal else s)
        # Times are counted back from t_new: t + (t_new − t) may round to a time past the span.
        self.plan = [
            (backend.product(scaled[i, : i + 1], buffer[: i + 1]), backend.writer(K[i]), 1 - c_i)
            for i, c_i in enumerate(tableau.c.tolist())
            if i in inner
        ]
        m = s - 1 if self.fsal else s
        self.increment = backend.product(h_rows[s, :m], K[:m])
        self.error_products = [backend.product(h_rows[j], K[:s]) for j in range(s + 1, len(rows))]
        if (slope := tableau.error_slope) is not None:
            self.bend_product = backend.product(backend.vector(slope, K), K[: len(slope)])
        self.set_y, self.set_k_1 = backend.writer(buffer[0]), backend.writer(K[0])
        self.set_f_new, self.f_new_row = backend.writer(K[self.f_new_slot]), K[self.f_new_slot]

    def put(self, i: int, value: Array) -> None:
        self.backend.writer(self.K[i])(value)

    def get(self, i: int) -> Array:
        return self.K[i]

    def weigh_changes(self, rows: Any) -> Sequence[Array]:
        weights, n = self.backend.vector(rows, self.K), self.K.shape[1]
        total = self.backend.empty((len(rows), n), self.K)
        # A block at a time: the differences of a large state would double the memory of a step.
        for start in range(0, n, _BLOCK):
            block = self.K[: len(rows[0]), start : start + _BLOCK]
            total[:, start : start + _BLOCK] = weights @ (block - block[0])
        return list(total)

    def start(self, y: Array, k_1: Array) -> None:
        self.set_y(y)
        self.set_k_1(k_1)

    def advance(self, t: float, y: Array) -> None:
        if self.f_new_at is not y:
            self.f_new(t, y)
        self.set_y(y)
        self.set_k_1(self.f_new_row)

    def attempt(self, t: float, y: Array, t_new: float) -> Array:
        f, h = self.f, t_new - t
        self.scale(h)
        plan, i = self.plan, 0
        try:
            for state, write, rest in plan:
                i += 1
                write(f(t_new - rest * h, state()))
            y_new = self.increment()
            y_new += y
            self.y_new = self.protect(y_new)
            if self.fsal:
                self.f_new_at = y_new
                i += 1
                self.set_f_new(self.f_keeping(t_new, y_new))
        finally:
            self.nfev += i
        return y_new

    def probe_state(self) -> Array | None:
        i = self.tableau.probe
        return None if i is None else self.plan[i - 1][0]()

    def bend(self) -> Array:
        return self.bend_product()

    def errors(self) -> list[Array]:
        return [product() for product in self.error_products]


@final
class _RecordedStages(_Stages):
    """Stages as a list of tensors, by `rk_step`: for torch states whose history autograd needs."""

    def __init__(self, f: RHS, tableau: ButcherTableau, backend: Backend) -> None:
        super().__init__(f, tableau, backend)
        self.y: Array = None
        self.h = 0.0
        self.list: list[Array] = [None] * (self.f_new_slot + 1 + len(tableau.dense.c))

    def put(self, i: int, value: Array) -> None:
        self.list[i] = value

    def get(self, i: int) -> Array:
        return self.list[i]

    def weigh_changes(self, rows: Any) -> Sequence[Array]:
        changes = [k_i - self.list[0] for k_i in self.list[: len(rows[0])]]
        return [combine([float(weight) for weight in row], changes) for row in rows]

    def attempt(self, t: float, y: Array, t_new: float) -> Array:
        self.y, self.h = y, t_new - t
        h = self.h

        def f(time: float, state: Array) -> Array:
            self.nfev += 1
            return self.f(t_new if time == t + h else time, state)

        y_new, self.list[: self.s] = rk_step(f, t, y, h, self.tableau, self.list[0])
        self.y_new = y_new
        if self.tableau.fsal:
            self.f_new_at = y_new
        return y_new

    def probe_state(self) -> Array | None:
        i = self.tableau.probe
        if i is None:
            return None
        return self.y + self.h * combine(self.tableau.A[i].tolist(), self.list)

    def bend(self) -> Array:
        slope: Any = self.tableau.error_slope
        return combine(slope.tolist(), [k_i.detach() for k_i in self.list[: len(slope)]])

    def errors(self) -> list[Array]:
        k = [k_i.detach() for k_i in self.list[: self.s]]
        return [self.h * combine(row.tolist(), k) for row in self.tableau.rows[self.s + 1 :]]


def make_stages(
    f: RHS,
    tableau: ButcherTableau,
    y: Array,
    f_0: Array,
    backend: Backend,
    *,
    dense: bool,
    record: bool = False,
) -> _Stages:
    """Stages for a solve from y with f(t0, y) = f_0; recorded if autograd needs their history.

    `record` keeps the history even if neither y nor f_0 asks for it: a guide's may.
    """
    stages: _Stages
    if backend.wants_grad(y, f_0) or (record and backend.grad_enabled()):
        stages = _RecordedStages(f, tableau, backend)
    else:
        stages = _BufferedStages(f, tableau, y, backend, dense=dense)
    stages.start(y, f_0)
    return stages


class Probe(NamedTuple):
    """A state z and f(z), at a time where the solution's own state and slope are known too."""

    z: Array
    """State of the last stage at c = 1 that is not y_new, the problem's shape."""
    f: Array
    """f(t + h, z), the problem's shape."""


@dataclass(frozen=True, eq=False)
class Step:
    """One step from t to t + h, as hooks and callbacks see it. Arrays have the problem's shape."""

    tableau: Any
    """The method, as in `stiffkit.METHODS`."""
    t: float
    """Start of the step."""
    h: float
    """Signed step size."""
    y: Array
    """State at t."""
    k: Sequence[Array]
    """Stage derivatives k_1, ..., k_s; k_1 = f(t, y), and for some methods that is all. An ESDIRK
    method's k_1 is the last stage derivative of the step before, f(t, y) up to Newton's error. With
    a mass matrix k are values of f too, that is of M y'."""
    y_new: Array
    """State at t + h (as computed; a guide may commit another)."""
    t_new: float
    """End of the step: t + h, exactly the grid's or the span's time where it ends there."""
    estimate: Array | None = None
    """Local error estimate of a method that is no explicit tableau."""

    batched: ClassVar[bool] = False
    """Whether this is the step of several samples, each with its own t and h."""

    @property
    def explicit(self) -> bool:
        """Whether the method is an explicit tableau, and k all its stages."""
        return isinstance(self.tableau, ButcherTableau) and self.tableau.explicit

    @property
    def _factor(self) -> Any:
        """h, as it multiplies states."""
        return self.h

    @cached_property
    def err(self) -> Array | None:
        """Local error estimate h Σ e_i k_i = y_new − y_hat; None without an embedded row."""
        if not self.explicit:
            return self.estimate
        e = self.tableau.e
        return None if e is None else self._factor * combine(e.tolist(), self.k)

    @cached_property
    def y_hat(self) -> Array | None:
        """Result of the embedded method, y + h Σ b̂_i k_i; None without an embedded row."""
        if not self.explicit:
            return None if self.estimate is None else self.y_new - self.estimate
        b_hat = self.tableau.b_hat
        return None if b_hat is None else self.y + self._factor * combine(b_hat.tolist(), self.k)

    @property
    def f_new(self) -> Array | None:
        """f(t + h, y_new) where the method has paid for it (FSAL); else None."""
        return self.k[-1] if self.explicit and self.tableau.fsal else None

    @cached_property
    def probe(self) -> Probe | None:
        """Second evaluation at t + h, beside (y_new, f(y_new)); None if the method has none."""
        i = self.tableau.probe if self.explicit else None
        if i is None:
            return None
        return Probe(self.y + self._factor * combine(self.tableau.A[i].tolist(), self.k), self.k[i])


class StepHook(Protocol):
    """Something that reads a step, or moves its result.

    Called with an accepted step and the previous accepted step's probe: a state and slope at
    `step.t`, beside `step.y` and `step.k[0]` (None on the first step, after a step whose method
    has no probe). As ``observe=`` its return value is logged; as ``guide=`` it is the state to
    commit at the step's end instead of `step.y_new`.

    In a batched solve an observer gets one sample's step after the other. One whose attribute
    ``whole_batch`` is true gets the step of all samples that accept it at once, a
    `stiffkit.solvers.BatchStep`, and returns an array with an entry for each.
    """

    def __call__(self, step: Step, probe: Probe | None, /) -> Any:
        """Return a reading, or the state to commit."""
