"""Step size control: the error ratio, the controllers, the first step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any, Protocol, final

import numpy as np

from .._array import Array, Backend

__all__ = [
    "CONTROLLERS",
    "Controller",
    "ErrorRatio",
    "PIDController",
    "PredictiveController",
    "first_step",
    "norm_of_flat",
    "norm_of_rows",
]


def norm_of_flat(norm: Any, shape: tuple[int, ...]) -> Callable[[Array], float] | None:
    """Return a norm of states of some shape as one of flat states; None for none."""
    if norm is None:
        return None

    def on_flat(x: Array) -> float:
        value = norm(x.reshape(shape))
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            msg = f"norm must return one real number, not {value!r}"
            raise ValueError(msg) from error

    return on_flat


def norm_of_rows(
    norm: Any, shape: tuple[int, ...]
) -> Callable[[Array], np.ndarray[Any, Any]] | None:
    """Return a norm of states of some shape as one of each row of (b, n), shape (b,)."""
    flat = norm_of_flat(norm, shape)
    return None if flat is None else lambda x: np.array([flat(row) for row in x])


class ErrorRatio:
    """Error estimate over tolerance: rms over components of err_i / (atol_i + rtol_i max|y_i|).

    The maximum is over both ends of the step (HNW I, II.4, eq. 4.11). A step is good when the
    ratio is below one.

    Parameters
    ----------
    rtol, atol : float or flat array
        Tolerances.
    y : flat array
        State at the start.
    backend : Backend
        Of the state.
    norm : callable, optional
        ``norm(x)`` of a flat array, in the rms's place.
    """

    def __init__(
        self,
        rtol: Any,
        atol: Any,
        y: Array,
        backend: Backend,
        norm: Callable[[Array], float] | None = None,
    ) -> None:
        # With atol = 0 a component at rest at zero has the ratio 0/0: the smallest normal number
        # in atol's place makes it 0 and leaves every other ratio as it is.
        self.rtol, self.atol = rtol, atol + backend.tiny(y)
        # Divided by rtol throughout, a step needs one product less; not for an rtol so small that
        # atol/rtol leaves the range where squares are safe.
        tiny = backend.tiny(y) ** 0.25
        plain = isinstance(rtol, float) and rtol > tiny and norm is None
        self.given, self.scalar = norm, rtol if plain else None
        self.offset = self.atol if self.scalar is None else self.atol / self.scalar
        self.size = max(int(math.prod(y.shape)), 1)
        self.square_sum, self.xp = backend.square_sum(y), backend.xp
        self.abs, self.maximum = backend.absolute, backend.xp.maximum
        # |y| at both ends of the step live in two arrays made once: large states would spend more
        # time on getting memory than on the arithmetic. The scale takes the place of the first.
        self.y = y
        self.size_old = self.scale = self.abs(y)
        self.size_new, self.judged = self.size_old + 0.0, False

    def norm(self, x: Array) -> float:
        """Return the rms of `x` in units of the tolerance at the step last judged."""
        return math.sqrt(self.square_sum(x / self.scale) / self.size) / (self.scalar or 1.0)

    def quotient(self, x: Array, y: Array) -> float:
        """Return ‖x‖ / ‖y‖ of arrays in any one unit; 0 where y is."""
        below = self.square_sum(y)
        return math.sqrt(self.square_sum(x) / below) if below > 0 else 0.0

    def accept(self, y: Array) -> None:
        """Move to the end `y` of the step last judged."""
        if y is self.y_new:
            self.size_old, self.size_new, self.judged = self.size_new, self.size_old, False
        self.y = y

    def __call__(self, errors: list[Array], y_new: Array) -> float:
        """Return the ratio; NaN or inf where the error estimate is. Overwrites `errors`."""
        if self.judged:  # another attempt from the same state
            self.abs(self.y, out=self.size_old)
        self.abs(y_new, out=self.size_new)
        scale = self.scale = self.maximum(self.size_old, self.size_new, out=self.size_old)
        self.judged, self.y_new = True, y_new
        if self.scalar is None:
            scale *= self.rtol
        scale += self.offset
        ratio = self.of(errors[0])
        return ratio if len(errors) == 1 else hairer_combination(ratio, self.of(errors[1]))

    def of(self, err: Array) -> float:
        """Return the ratio of one more estimate at the step last judged. Overwrites `err`."""
        err /= self.scale
        if self.given is not None:
            return self.given(err)
        ratio = math.sqrt(self.square_sum(err) / self.size) / (self.scalar or 1.0)
        return ratio if math.isfinite(ratio) else self._careful(err)

    def _careful(self, x: Array) -> float:
        """Return the rms of `x` where its squares overflow; NaN or inf only if `x` holds such."""
        top = float(self.xp.amax(self.abs(x)))
        if not 0 < top < math.inf:
            return top
        return top * math.sqrt(self.square_sum(x / top) / self.size) / (self.scalar or 1.0)


def hairer_combination(first: float, second: float) -> float:
    """DOP853's ratio from its 5th and 3rd order estimates: first² / √(first² + 0.01 second²).

    It behaves as h^8. HNW I, II.10, eq. 10.17, and dop853.f.
    """
    if not (math.isfinite(first) and math.isfinite(second)):
        return first + second  # inf or NaN
    return first / math.hypot(1.0, 0.1 * (second / first)) if first > 0 else 0.0


class Controller(Protocol):
    """Decides about a step from its error ratio; never looks inside the step."""

    def init(self) -> Any:
        """Memory before the first step."""

    def __call__(self, ratio: float, memory: Any, order: int, /) -> tuple[bool, float, Any]:
        """Judge a step.

        Parameters
        ----------
        ratio : float
            Error estimate over tolerance.
        memory : object
            What the previous call, or `init`, returned.
        order : int
            q where the ratio behaves as h^(q+1).

        Returns
        -------
        accept : bool
            Is the step good enough?
        factor : float
            What the step size is to be multiplied by: for the next step, or for another try.
        memory : object
            For the next call.
        """


_Memory = tuple[float, float, float, float, bool]
"""r of the two accepted steps before, the factors they gave, whether the last was rejected."""


@dataclass(frozen=True)
class PIDController:
    """Söderlind's digital filter of three error ratios and two step ratios.

    h_(n+1)/h_n = r_n^(−β₁/k) r_(n−1)^(−β₂/k) r_(n−2)^(−β₃/k)
    · (h_n/h_(n−1))^(−α₂) (h_(n−1)/h_(n−2))^(−α₃), where k = q + 1 and r is the error ratio over
    its set point, safety^k.

    After a rejection the step shrinks by the elementary rule r^(−1/k), and the step that is then
    accepted does not grow.

    Parameters
    ----------
    beta_1, beta_2, beta_3, alpha_2, alpha_3 : float
        The filter. (1, 0, 0, 0, 0) is the I controller.
    safety : float
        Aim at this fraction of the largest step that would pass. (A factor in front of the
        product, as in DOPRI5, would move the set point by the filter: to safety^(k/Σβ).)
    min_factor, max_factor : float
        Bounds of the change of h.

    Raises
    ------
    ValueError
        If `safety` is not in (0, 1], `min_factor` not in (0, 1), `max_factor` not above 1, or a
        filter parameter not finite.

    References
    ----------
    G. Söderlind, Digital filters in adaptive time-stepping, ACM TOMS 29 (2003) 1-26,
    doi:10.1145/641876.641877. K. Gustafsson, Control theoretic techniques for stepsize selection
    in explicit Runge-Kutta methods, ACM TOMS 17 (1991) 533-554, doi:10.1145/210232.210242.
    """

    beta_1: float = 1.0
    beta_2: float = 0.0
    beta_3: float = 0.0
    alpha_2: float = 0.0
    alpha_3: float = 0.0
    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 10.0

    def __post_init__(self) -> None:
        for name in ("beta_1", "beta_2", "beta_3", "alpha_2", "alpha_3"):
            if not math.isfinite(getattr(self, name)):
                msg = f"{name}={getattr(self, name)!r} is not finite"
                raise ValueError(msg)
        for name, good in (
            ("safety", 0.0 < self.safety <= 1.0),
            ("min_factor", 0.0 < self.min_factor < 1.0),
            ("max_factor", self.max_factor > 1.0),
        ):
            if not good:
                msg = f"{name}={getattr(self, name)!r} is out of range"
                raise ValueError(msg)

    def init(self) -> _Memory:
        """Memory before the first step: as if all went exactly to plan."""
        return 1.0, 1.0, 1.0, 1.0, False

    def __call__(self, ratio: float, memory: _Memory, order: int) -> tuple[bool, float, _Memory]:
        """Judge a step; see `Controller`."""
        return pid_rule(ratio, memory, order + 1, self.constants)

    @cached_property
    def constants(self) -> tuple[float, ...]:
        """The parameters as `pid_rule` takes them."""
        return astuple(self)


def pid_rule(
    ratio: float, memory: _Memory, k: int, constants: tuple[float, ...]
) -> tuple[bool, float, _Memory]:
    """Judge a step by Söderlind's filter; `stiffkit.solvers.compiled` compiles this very text."""
    beta_1, beta_2, beta_3, alpha_2, alpha_3, safety, min_factor, max_factor = constants
    r_1, r_2, f_1, f_2, rejected = memory
    if ratio >= 1.0:
        factor = safety * ratio ** (-1 / k)
        if factor < min_factor:
            factor = min_factor
        return False, factor, (r_1, r_2, f_1 * factor, f_2, True)
    set_point = safety**k
    r = (ratio if ratio > 1e-12 else 1e-12) / set_point
    factor = r ** (-beta_1 / k)
    if beta_2:
        factor *= r_1 ** (-beta_2 / k)
    if beta_3:
        factor *= r_2 ** (-beta_3 / k)
    if alpha_2 or alpha_3:
        factor *= f_1**-alpha_2 * f_2**-alpha_3
    if rejected and factor > 1.0:
        factor = 1.0
    elif factor > max_factor:
        factor = max_factor
    elif factor < min_factor:
        factor = min_factor
    # As in DOPRI5: one step of almost no error should not rule the next ones.
    r = ratio / set_point if ratio > 1e-4 else 1e-4 / set_point
    return True, factor, (r, r_1, factor, f_1, False)


CONTROLLERS: dict[str, PIDController] = {
    "I": PIDController(),
    # The filter of Hairer's DOPRI5, exponents 0.2 - 0.75 beta and beta = 0.04 for k = 5. (His 0.9
    # in front of the product makes a set point of 0.85.)
    "PI-DOPRI5": PIDController(0.85, -0.2, safety=0.8),
    "PI3333": PIDController(2 / 3, -1 / 3),
    "PI3040": PIDController(0.7, -0.4),
    "PI4020": PIDController(0.6, -0.2),
    "H211PI": PIDController(1 / 6, 1 / 6),
    "H211b": PIDController(1 / 4, 1 / 4, alpha_2=1 / 4),
    "H312PID": PIDController(1 / 18, 1 / 9, 1 / 18),
    "H312b": PIDController(1 / 8, 2 / 8, 1 / 8, alpha_2=3 / 8, alpha_3=1 / 8),
    "H321": PIDController(1 / 3, 1 / 18, -5 / 18, alpha_2=-5 / 6, alpha_3=-1 / 6),
    "PID": PIDController(0.58, -0.21, 0.1),
}
"""Named controllers: Söderlind's sets, DOPRI5's PI and the PID of SUNDIALS (kβ as printed)."""


@final
@dataclass(frozen=True)
class PredictiveController:
    """Gustafsson's control for implicit methods: the elementary rule, less where errors grow.

    Let the error be φ h^k with a coefficient φ that changes by the same factor in each step. The
    step for the next φ is the elementary one times ``(h / h_old) (r_old / r)^(1/k)``; it is taken
    if it is the smaller, and so is a step that would be rejected.

    Raises
    ------
    ValueError
        If `safety` is not in (0, 1].

    References
    ----------
    K. Gustafsson, Control-theoretic techniques for stepsize selection in implicit Runge-Kutta
    methods, ACM TOMS 20 (1994) 496-517, doi:10.1145/198429.198437. Hairer and Wanner II, section
    IV.8, eqs. (8.25) and (8.26).
    """

    safety: float = 0.75
    """RADAU5's is 0.9 · 15/(14 + n) after n Newton iterations: this is its value at n = 4."""

    def __post_init__(self) -> None:
        if not 0.0 < self.safety <= 1.0:
            msg = f"safety={self.safety!r} is out of range"
            raise ValueError(msg)

    def init(self) -> tuple[float, float]:
        """Memory before the first step: nothing to predict from."""
        return math.inf, 1.0

    def __call__(
        self, ratio: float, memory: tuple[float, float], order: int
    ) -> tuple[bool, float, tuple[float, float]]:
        """Judge a step; see `Controller`."""
        r_old, growth = memory  # growth is h / h_old, rejections in between included
        r = max(ratio, 1e-12)
        factor = self.safety * r ** (-1 / (order + 1))
        if ratio >= 1.0:
            factor = max(factor, 0.2)
            return False, factor, (r_old, growth * factor)
        factor *= min(1.0, growth * (r_old / r) ** (1 / (order + 1)))
        factor = min(max(factor, 0.2), 10.0)
        return True, factor, (r, factor)


def first_step(
    f: Callable[[Any, Array], Array],
    t_0: Any,
    y_0: Array,
    f_0: Array,
    *,
    direction: float,
    order: int,
    rtol: Any,
    atol: Any,
    longest: Any,
    max_step: float,
    backend: Backend,
    batched: bool = False,
    norm: Callable[[Array], Any] | None = None,
) -> Any:
    """Hairer's starting step size; one call of f, inside the span.

    Parameters
    ----------
    f : callable
        Right-hand side on flat states.
    t_0 : float
        Start; with `batched` an array of shape (B,).
    y_0, f_0 : flat array
        State and slope there; with `batched` of shape (B, n).
    direction : float
        +1 or -1.
    order : int
        q where the error ratio behaves as h^(q+1).
    rtol, atol : float or flat array
        Tolerances.
    longest, max_step : float
        Length of the span and the user's bound: the step, and the probe, stay within both.
    backend : Backend
        Of the state.
    batched : bool
        Whether each row is a problem of its own.
    norm : callable, optional
        In the rms's place; with `batched` of each row, shape (B,).

    Returns
    -------
    float, or array of shape (B,)
        Size of the first step, positive.

    References
    ----------
    HNW I, section II.4, "Starting step size"; doi:10.1007/978-3-540-78862-1.
    """
    scale = atol + backend.xp.abs(y_0) * rtol
    # Where a component is zero and has no absolute tolerance, no scale is known: take one.
    scale = backend.xp.where(scale <= backend.tiny(y_0), 1.0, scale)
    if batched:

        def rms(x: Array) -> Any:
            return backend.row_rms(x)

        def along(h: Any) -> Array:
            return backend.real_like(h[:, None], y_0)
    else:
        square_sum, n = backend.square_sum(y_0), max(int(math.prod(y_0.shape)), 1)

        def rms(x: Array) -> Any:
            return np.float64(math.sqrt(square_sum(x) / n))

        def along(h: Any) -> Array:
            return float(h)

    if norm is not None:

        def rms(x: Array) -> Any:
            return np.asarray(norm(backend.detach(x)), dtype=np.float64)

    with np.errstate(all="ignore"):
        d_0, d_1 = rms(y_0 / scale), rms(f_0 / scale)
        h_0 = first_guess(d_0, d_1, longest, max_step)
        move = h_0 * direction
        f_1 = f(t_0 + (move if batched else float(move)), y_0 + along(move) * f_0)
        d_2 = rms((f_1 - f_0) / scale) / h_0
        h = first_size(h_0, d_1, d_2, order, longest, max_step)
    return h if batched else float(h)


def where(condition: Any, x: Any, y: Any) -> Any:
    """Return `numpy.where`, which `stiffkit.solvers.compiled` replaces for single numbers."""
    return np.where(condition, x, y)[()]


def first_guess(d_0: Any, d_1: Any, longest: Any, max_step: Any) -> Any:
    """Return the length of `first_step`'s probe, from the sizes of y_0 and f_0.

    `stiffkit.solvers.compiled` compiles this very text.
    """
    h_0 = where((d_0 < 1e-5) | (d_1 < 1e-5), 1e-6, 0.01 * d_0 / d_1)
    h_0 = where(h_0 > 0, h_0, 1e-6)  # d_1 may overflow
    return np.minimum(np.minimum(h_0, longest), max_step)  # f is never asked outside the span


def first_size(h_0: Any, d_1: Any, d_2: Any, order: int, longest: Any, max_step: Any) -> Any:
    """Return the first step, from the sizes of f_0 and of its derivative.

    `stiffkit.solvers.compiled` compiles this very text.
    """
    h_1 = where(
        (d_1 <= 1e-15) & (d_2 <= 1e-15),
        np.maximum(1e-6, h_0 * 1e-3),
        (0.01 / np.maximum(d_1, d_2)) ** (1 / (order + 1)),
    )
    h = np.minimum(np.minimum(100 * h_0, h_1), np.minimum(longest, max_step))
    return where(np.isfinite(h) & (h > 0), h, h_0)
