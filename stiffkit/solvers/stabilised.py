"""Stabilised explicit methods: many stages, spent on a long interval of stability.

A step of s stages is stable for eigenvalues in [−β(s)/h, 0] with β(s) growing as s². The
recurrences are those of the papers; `StabilisedMethod` knows how many stages a step needs, and
`StabilisedStages` is the step of a solve.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .._array import Array, Backend
from .dense import Segment
from .rock import ROCK2_DATA, ROCK4_DATA, orthogonal_recurrence
from .step import RHS, StepFailed

__all__ = [
    "RKC2",
    "RKL2",
    "ROCK2",
    "ROCK4",
    "SCHEMES",
    "STABILISED",
    "RadiusKeeper",
    "StabilisedMethod",
    "StabilisedStages",
    "is_stale",
    "longest_step",
    "rkc2_step",
    "rkl2_step",
    "rock2_step",
    "rock4_step",
    "stabilised_pays",
]

FEW = 16
"""Components up to which a Jacobian takes no more calls than a few stabilised steps."""


def stabilised_pays(n: int, rtol: float) -> bool:
    """Whether a mildly stiff problem of n components is one for a stabilised method.

    Where a factorisation costs next to nothing, order four is too low for many digits.
    """
    return n > 100 or (rtol >= 1e-7 and n > FEW)


# The recurrence -----------------------------------------------------------------------------------


class Recurrence(NamedTuple):
    """Y_j = (1 − μ_j − ν_j) y + μ_j Y_(j−1) + ν_j Y_(j−2) + μ̃_j h f(Y_(j−1)) + γ̃_j h f(y)."""

    first: float
    """μ̃_1: Y_0 = y, Y_1 = y + μ̃_1 h f(y)."""
    rows: Sequence[tuple[float, float, float, float, float, float]]
    """1 − μ_j − ν_j, μ_j, ν_j, μ̃_j, γ̃_j and c_(j−1), for j = 2, 3, ..."""
    c: float
    """Node of the last Y_j."""


def _recurrence(first: float, rows: Sequence[tuple[float, float, float, float]]) -> Recurrence:
    """Add to (μ_j, ν_j, μ̃_j, γ̃_j) the weight of y, and the nodes: Y_j for y' = 1, y(0) = 0."""
    older, c, complete = 0.0, first, []
    for mu, nu, mu_h, gamma_h in rows:
        one = 1.0 - mu - nu
        complete.append((one, mu, nu, mu_h, gamma_h, c))
        older, c = c, mu * c + nu * older + mu_h + gamma_h
    return Recurrence(first, tuple(complete), c)


def _recur(f: RHS, t: float, y: Array, h: float, f_0: Array, recurrence: Recurrence) -> Array:
    """Return the last Y_j. Three of them live at a time, and f's value is used at once."""
    # NumPy gives the memory of a large array back to the system when it is freed, and getting it
    # again takes longer than the arithmetic: the Y_j rotate through three arrays. Torch keeps its
    # memory, and autograd wants every Y_j to itself.
    in_place = isinstance(y, np.ndarray) and y.ndim > 0
    product = np.empty_like(y) if in_place else None
    older, last, free = y, y + (h * recurrence.first) * f_0, None
    for one, mu, nu, mu_h, gamma_h, c in recurrence.rows:
        new = _times(mu, last, free)
        new += _times(nu, older, product)
        new += _times(h * mu_h, f(t + c * h, last), product)
        if gamma_h:  # RKC and RKL; ROCK's Y_j depend on the two before only
            new += _times(one, y, product)
            new += _times(h * gamma_h, f_0, product)
        free = older if in_place and older is not y else None
        older, last = last, new
    return last


def _times(weight: float, x: Array, out: Array | None) -> Array:
    return weight * x if out is None else np.multiply(x, weight, out=out)


class Scheme(NamedTuple):
    """A method of s stages: a recurrence, and what follows it."""

    recurrence: Recurrence
    c: Sequence[float] = ()
    """Of ROCK, R_s = w P_m: nodes of the last stages, from the recurrence's end u; the first of
    them is f(u)."""
    columns: Sequence[Sequence[float]] = ()
    """What h k_j is weighted with in the states still to come: later stages, y_new, err."""
    defect: float = 0.0
    """Of RKC and RKL, whose recurrence ends with y_new: what 12 (y − y_new) + 6 h (f_0 + f_new) is
    weighted with in the error estimate."""


# RKC2 and RKL2 ------------------------------------------------------------------------------------


def _at_least_two(name: str, s: int) -> None:
    if s < 2:
        msg = f"{name}: s = {s!r} stages; the method has two or more"
        raise ValueError(msg)


@cache
def rkc2_recurrence(s: int) -> Recurrence:
    """RKC2 from Chebyshev's polynomials: ε = 2/13, w_0 = 1 + ε/s², w_1 = T'_s(w_0)/T''_s(w_0)."""
    _at_least_two("rkc2", s)
    w_0 = 1.0 + (2 / 13) / s**2
    T, dT, ddT = [1.0, w_0], [0.0, 1.0], [0.0, 0.0]
    for j in range(2, s + 1):
        T.append(2 * w_0 * T[j - 1] - T[j - 2])
        dT.append(2 * T[j - 1] + 2 * w_0 * dT[j - 1] - dT[j - 2])
        ddT.append(4 * dT[j - 1] + 2 * w_0 * ddT[j - 1] - ddT[j - 2])
    w_1 = dT[s] / ddT[s]
    b = [ddT[max(j, 2)] / dT[max(j, 2)] ** 2 for j in range(s + 1)]
    a = [1.0 - b_j * T_j for b_j, T_j in zip(b, T, strict=True)]
    rows = []
    for j in range(2, s + 1):
        mu_h = 2 * w_1 * b[j] / b[j - 1]
        rows.append((2 * w_0 * b[j] / b[j - 1], -b[j] / b[j - 2], mu_h, -a[j - 1] * mu_h))
    return _recurrence(b[1] * w_1, rows)


@cache
def rkl2_recurrence(s: int) -> Recurrence:
    """RKL2 from Legendre's polynomials: w_1 = 4/(s² + s − 2), b_j = (j² + j − 2)/(2j(j + 1))."""
    _at_least_two("rkl2", s)
    w_1 = 4 / (s * s + s - 2)
    b = [1 / 3, 1 / 3, *((j * j + j - 2) / (2 * j * (j + 1)) for j in range(2, s + 1))]
    rows = []
    for j in range(2, s + 1):
        mu = (2 * j - 1) / j * b[j] / b[j - 1]
        rows.append((mu, -(j - 1) / j * b[j] / b[j - 2], mu * w_1, (b[j - 1] - 1) * mu * w_1))
    return _recurrence(b[1] * w_1, rows)


@cache
def rkc2_scheme(s: int) -> Scheme:
    """RKC2 of s stages."""
    return Scheme(rkc2_recurrence(s), defect=1 / 15)


@cache
def rkl2_scheme(s: int) -> Scheme:
    """RKL2 of s stages; its `rkl2_step` derives the weight of the defect."""
    m = s * s + s
    return Scheme(rkl2_recurrence(s), defect=(m + 6) / (30 * m + 36))


def rkc2_step(
    f: RHS, t: float, y: Array, h: float, f_0: Array, s: int
) -> tuple[Array, Array, Array]:
    """One step of RKC2, order 2, with s stages: R_s(z) = a_s + b_s T_s(w_0 + w_1 z).

    Parameters
    ----------
    f : callable
        Right-hand side ``f(t, y)``; called within [t, t + h] only. It may return one buffer again
        and again, and must neither change nor keep its y, an array that is used again.
    t, h : float
        Time and (signed) step size.
    y : array
        State, any shape, NumPy or torch; the step is differentiable for torch.
    f_0 : array
        f(t, y).
    s : int
        Number of stages, 2 or more.

    Returns
    -------
    y_new : array
        Approximation at t + h.
    err : array
        Error estimate 0.8 (y − y_new) + 0.4 h (f_0 + f_new), of size h³: for many stages 1.8
        times the local error to leading order, for 2 stages 1.2 times.
    f_new : array
        f(t + h, y_new), as f returned it.

    Raises
    ------
    ValueError
        If `s` is less than 2.

    References
    ----------
    B. P. Sommeijer, L. F. Shampine, J. G. Verwer, RKC: an explicit solver for parabolic PDEs, J.
    Comput. Appl. Math. 88 (1998) 315-326, doi:10.1016/S0377-0427(97)00219-7.
    """
    return _defect_step(f, t, y, h, f_0, rkc2_scheme(s))


def rkl2_step(
    f: RHS, t: float, y: Array, h: float, f_0: Array, s: int
) -> tuple[Array, Array, Array]:
    """One step of RKL2, order 2, with s stages: R_s(z) = 1 − b_s + b_s P_s(1 + w_1 z).

    The method was published without an error estimate. This one is of RKC's kind, and scaled so
    that it is the local error to leading order where y' = λy. That error is C h³ y''' with
    C = 1/6 − R_s'''(0)/6 = (m + 6)/(18 (m − 2)), m = s² + s, and the defect of the trapezoidal rule
    is 12 (y − y_new) + 6 h (f_0 + f_new) = (1 + 12 C) h³ y''' + O(h⁴), since y_new has the error
    too. The estimate is the defect times C/(1 + 12 C) = (m + 6)/(30 m + 36).

    Parameters
    ----------
    f, t, y, h, f_0, s
        As in `rkc2_step`.

    Returns
    -------
    y_new, err, f_new : array
        As in `rkc2_step`.

    Raises
    ------
    ValueError
        If `s` is less than 2.

    References
    ----------
    C. D. Meyer, D. S. Balsara, T. D. Aslam, A stabilized Runge-Kutta-Legendre method for explicit
    super-time-stepping of parabolic and mixed equations, J. Comput. Phys. 257 (2014) 594-626,
    doi:10.1016/j.jcp.2013.08.021.
    """
    return _defect_step(f, t, y, h, f_0, rkl2_scheme(s))


def _defect_step(
    f: RHS, t: float, y: Array, h: float, f_0: Array, scheme: Scheme
) -> tuple[Array, Array, Array]:
    """Return y_new, the weighted defect of the trapezoidal rule, and f_new."""
    y_new = _recur(f, t, y, h, f_0, scheme.recurrence)
    f_new = f(t + h, y_new)
    err = f_0 + f_new
    err *= 6 * scheme.defect * h
    err += (12 * scheme.defect) * (y - y_new)
    return y_new, err, f_new


# ROCK2 and ROCK4 ----------------------------------------------------------------------------------


def _rock_scheme(
    m: int,
    interval: tuple[float, float],
    A: Sequence[Sequence[float]],
    b: Sequence[float],
    e: Sequence[float],
) -> Scheme:
    s = len(b)
    square = np.array([[*row, *[0.0] * (s - len(row))] for row in ((), *A)])
    w, v = [1.0], np.ones(s)
    for _ in range(s):
        w.append(float(np.array(b) @ v))
        v = square @ v
    (first, _), *rest = orthogonal_recurrence(m, w, interval)
    recurrence = _recurrence(first, [(1 + kappa, -kappa, mu, 0.0) for mu, kappa in rest])
    full = [*square.tolist(), [*b, *[0.0] * (len(e) - s)], list(e)]
    full = [[*row, *[0.0] * (len(e) - len(row))] for row in full]
    columns = tuple(tuple(row[j] for row in full[j + 1 :]) for j in range(len(e)))
    nodes = [recurrence.c + sum(row) for row in square.tolist()]
    return Scheme(recurrence, (*nodes, *[1.0] * (len(e) - s)), columns)


@cache
def rock2_scheme(s: int) -> Scheme:
    """ROCK2 of s stages."""
    interval, sigma, delta = _entry("rock2", ROCK2_DATA, s)
    b, e = (sigma - delta, sigma + delta), (-delta, delta)
    return _rock_scheme(s - 2, interval, [(sigma,)], b, e)


@cache
def rock4_scheme(s: int) -> Scheme:
    """ROCK4 of s stages."""
    interval, A, b, b_hat = _entry("rock4", ROCK4_DATA, s)
    e = [b_i - b_hat_i for b_i, b_hat_i in zip((*b, 0.0), b_hat, strict=True)]
    return _rock_scheme(s - 4, interval, A, b, e)


def _entry(name: str, data: dict[int, Any], s: int) -> Any:
    if s not in data:
        counts = ", ".join(map(str, data))
        msg = f"{name}: s = {s!r} stages are not tabulated; the counts are {counts}"
        raise ValueError(msg)
    return data[s]


def _rock_step(
    f: RHS, t: float, y: Array, h: float, f_0: Array, scheme: Scheme
) -> tuple[Array, Array, Array]:
    """Return y_new, err and the last k; states are summed as the k come, so that none is kept."""
    state = _recur(f, t, y, h, f_0, scheme.recurrence)
    sums = [state] * (len(scheme.columns[0]) - 1) + [0.0]
    k = f_0
    for c, column in zip(scheme.c, scheme.columns, strict=True):
        k = f(t + c * h, state)
        sums = [total + (h * weight) * k for total, weight in zip(sums, column, strict=True)]
        if len(sums) > 1:
            state, *sums = sums
    return state, sums[0], k


def rock2_step(
    f: RHS, t: float, y: Array, h: float, f_0: Array, s: int
) -> tuple[Array, Array, None]:
    """One step of ROCK2, order 2, with s stages.

    Parameters
    ----------
    f, t, y, h, f_0
        As in `rkc2_step`.
    s : int
        Number of stages, one of the 46 tabulated ones between 3 and 200.

    Returns
    -------
    y_new : array
        Approximation at t + h.
    err : array
        y_new − y_hat, of size h²: y_hat is of order 1.
    f_new : None
        The method does not evaluate it.

    Raises
    ------
    ValueError
        If `s` is not tabulated.

    References
    ----------
    A. Abdulle, A. A. Medovikov, Second order Chebyshev methods based on orthogonal polynomials,
    Numer. Math. 90 (2001) 1-18, doi:10.1007/s002110100292.
    """
    y_new, err, _ = _rock_step(f, t, y, h, f_0, rock2_scheme(s))
    return y_new, err, None


def rock4_step(
    f: RHS, t: float, y: Array, h: float, f_0: Array, s: int
) -> tuple[Array, Array, Array]:
    """One step of ROCK4, order 4, with s stages.

    Parameters
    ----------
    f, t, y, h, f_0
        As in `rkc2_step`.
    s : int
        Number of stages, one of the 50 tabulated ones between 5 and 152. With 133 and 152 it is
        not quite stable (see `ROCK4`).

    Returns
    -------
    y_new : array
        Approximation at t + h.
    err : array
        y_new − y_hat, of size h⁴: y_hat is of order 3.
    f_new : array
        f(t + h, y_new), as f returned it.

    Raises
    ------
    ValueError
        If `s` is not tabulated.

    References
    ----------
    A. Abdulle, Fourth order Chebyshev methods with recurrence relation, SIAM J. Sci. Comput. 23
    (2002) 2041-2054, doi:10.1137/S1064827500379549.
    """
    return _rock_step(f, t, y, h, f_0, rock4_scheme(s))


# The methods --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class StabilisedMethod:
    """A stabilised method: what it costs to be stable, and how exact it is."""

    name: str
    """Name of the method."""
    order: int
    """Order p."""
    error_order: int
    """The q for which the error estimate behaves as h^(q+1)."""
    step: Callable[..., tuple[Array, Array, Array | None]]
    """The kernel: ``step(f, t, y, h, f_0, s) -> y_new, err, f_new or None``."""
    degrees: Sequence[int]
    """The stage counts there are, rising."""
    growth: float
    """β(s) ≈ growth · s²."""
    reference: str
    """Where the method was published, with DOI."""

    @property
    def max_stages(self) -> int:
        """The largest stage count."""
        return self.degrees[-1]

    def stages(self, z: float) -> int:
        """Return the least stage count s with β(s) ≥ z.

        Parameters
        ----------
        z : float
            hρ, ρ being the spectral radius of ∂f/∂y, whose spectrum is taken to lie close to the
            negative real axis.

        Returns
        -------
        int
            One of `degrees`.

        Raises
        ------
        ValueError
            If `z` is negative, not a number, or more than `max_stages` stages are stable for.
        """
        # The published codes take 1 + ⌊√(1 + 1.54 z)⌋ for RKC2 (SUNDIALS ⌈√(1.54 z)⌉),
        # ⌈(√(9 + 8 z) − 1)/2⌉ for RKL2, 1 + ⌊√((1.5 + z)/0.811)⌋ for ROCK2 and
        # 1 + ⌊√((3 + z)/0.353)⌋ for ROCK4. SUNDIALS' is one short just above every β(s), s even,
        # and ROCK2's within half a per cent below its own limit; β itself is never wrong.
        if not 0.0 <= z <= self.beta(self.max_stages):
            limit = self.beta(self.max_stages)
            msg = f"z = {z!r} is outside [0, {limit:.6g}], where {self.name} can be stable"
            raise ValueError(msg)
        return self.degrees[bisect.bisect_left(self.degrees, z, key=self.beta)]

    def longest(self, rho: float) -> float:
        """Return the longest stable step for a spectral radius `rho`; inf if that is zero.

        It is one per cent less than the limit, so that rounding of a time cannot put it beyond.
        """
        return longest_step(self.beta(self.max_stages), rho)

    def R(self, z: Any, s: int) -> np.ndarray[Any, Any]:
        """Stability function of s stages at the real or complex points `z`, any shape.

        It is what the kernel makes of y' = zy with h = 1.

        Raises
        ------
        ValueError
            If the method does not come with `s` stages.
        """
        z = np.asarray(z) * 1.0
        one = np.ones_like(z)
        return np.asarray(self.step(lambda t, y: z * y, 0.0, one, 1.0, z, s)[0])  # noqa: ARG005

    @cache  # noqa: B019 - the methods live as long as the program
    def beta(self, s: int) -> float:
        """Return the largest x with ``|R_s(−ξ)| ≤ 1`` for all ξ in [0, x], found on R_s itself.

        Raises
        ------
        ValueError
            If the method does not come with `s` stages.
        """
        from scipy.optimize import brentq  # takes longer to import than all of stiffkit

        # Dense for R_s, which oscillates about as cos(sθ) does, θ = 2 arcsin √(x/β).
        reach = 1.3 * self.growth * s**2 + 2.0
        x = reach * np.sin(np.linspace(0, np.pi / 2, 40 * s)) ** 2
        outside = np.flatnonzero(np.abs(self.R(-x[1:], s)) > 1.0)
        i = int(outside[0]) + 1
        return float(
            brentq(lambda xi: abs(float(self.R(-xi, s))) - 1.0, x[i - 1], x[i], xtol=1e-12)
        )


def longest_step(beta: float, rho: float) -> float:
    """Return `StabilisedMethod.longest`; `stiffkit.solvers.compiled` compiles this very text."""
    return 0.99 * beta / rho if rho > 0 else math.inf


RKC2 = StabilisedMethod(
    name="rkc2",
    order=2,
    error_order=2,
    step=rkc2_step,
    degrees=range(2, 201),
    growth=0.653,
    reference="Sommeijer, Shampine & Verwer (1998), doi:10.1016/S0377-0427(97)00219-7",
)
"""The Runge-Kutta-Chebyshev method of order 2: β(s) ≈ 0.653 (s² − 1), damped."""

RKL2 = StabilisedMethod(
    name="rkl2",
    order=2,
    error_order=2,
    step=rkl2_step,
    degrees=range(2, 201),
    growth=0.5,
    reference="Meyer, Balsara & Aslam (2014), doi:10.1016/j.jcp.2013.08.021",
)
"""The Runge-Kutta-Legendre method of order 2: β(s) ≥ (s² + s − 2)/2, strongly damped inside."""

ROCK2 = StabilisedMethod(
    name="rock2",
    order=2,
    error_order=1,
    step=rock2_step,
    degrees=tuple(ROCK2_DATA),
    growth=0.81,
    reference="Abdulle & Medovikov (2001), doi:10.1007/s002110100292",
)
"""The orthogonal Runge-Kutta-Chebyshev method of order 2: β(s) ≈ 0.81 s².

Its last stages amplify rounding errors of the fastest modes, by 0.1 (hρ)²: in single precision it
is for short steps only.
"""

ROCK4 = StabilisedMethod(
    name="rock4",
    order=4,
    error_order=3,
    step=rock4_step,
    # |R_s| of these two reaches 1.006 and 1.008 at z = −8.4: a mode there would grow.
    degrees=tuple(s for s in ROCK4_DATA if s not in (133, 152)),
    growth=0.353,
    reference="Abdulle (2002), doi:10.1137/S1064827500379549",
)
"""The orthogonal Runge-Kutta-Chebyshev method of order 4: β(s) ≈ 0.353 s².

Two of the 50 degrees of the literature are left out, 133 and 152. Its last stages amplify rounding
errors of the fastest modes, by 0.01 (hρ)⁴: it is for double precision.
"""

STABILISED: dict[str, StabilisedMethod] = {m.name: m for m in (RKC2, RKL2, ROCK2, ROCK4)}
"""Name to method."""

SCHEMES: dict[Callable[..., Any], Callable[[int], Scheme]] = {
    rkc2_step: rkc2_scheme,
    rkl2_step: rkl2_scheme,
    rock2_step: rock2_scheme,
    rock4_step: rock4_scheme,
}
"""Kernel to the coefficients that it works with."""


# A solve ------------------------------------------------------------------------------------------


class RadiusKeeper:
    """The spectral radius of ∂f/∂y along a solve: kept while it is fresh enough.

    RKC's rules: estimate anew every 25 accepted steps, and after a rejection if steps have been
    accepted since the last estimate.

    Parameters
    ----------
    estimate : callable
        ``estimate(t, y, f_y)``, f_y = f(t, y), returns the spectral radius.
    safety : float
        What an estimate is multiplied by. RKC takes 1.2, since power iteration estimates from
        below; 1.0 is for a bound.
    every : int
        Accepted steps that an estimate serves for at most.

    Raises
    ------
    ValueError
        If `safety` or `every` is less than one.
    """

    def __init__(
        self, estimate: Callable[[float, Array, Array], float], safety: float = 1.2, every: int = 25
    ) -> None:
        for name, value in (("safety", safety), ("every", every)):
            if not value >= 1:
                msg = f"{name} = {value!r} must be at least 1"
                raise ValueError(msg)
        self.estimate, self.safety, self.every = estimate, safety, every
        self.value, self.age = math.nan, every
        """The last estimate, safety included, and the steps accepted since."""

    @property
    def nfev(self) -> int:
        """Calls of f that the estimates made, where the estimator counts them."""
        return int(getattr(self.estimate, "nfev", 0))

    def accept(self) -> None:
        """Count an accepted step."""
        self.age += 1

    def __call__(self, t: float, y: Array, f_y: Array, *, rejected: bool) -> float:
        """Return the radius to step from (t, y) with; `rejected` if a step from here was.

        Raises
        ------
        ValueError
            If the estimate is negative or not finite.
        """
        if is_stale(self.age, self.every, rejected):
            rho = float(self.estimate(t, y, f_y))
            self.check(t, rho)
            self.value, self.age = self.safety * rho, 0
        return self.value

    @staticmethod
    def check(t: float, rho: float) -> None:
        """Refuse a negative radius."""
        if not rho >= 0.0 and not math.isnan(rho):
            msg = f"the spectral radius was estimated as {rho!r} at t = {t!r}"
            raise ValueError(msg)


def is_stale(age: int, every: int, rejected: bool) -> bool:
    """Whether `RadiusKeeper` estimates anew: `stiffkit.solvers.compiled` compiles this text."""
    return age >= every or (rejected and age > 0)


class StabilisedStages:
    """The steps of one solve, as the loop asks for them. Arrays are flat here.

    Parameters
    ----------
    f : callable
        Right-hand side on flat states.
    method : StabilisedMethod
        The method.
    backend : Backend
        Of the state.
    radius : RadiusKeeper
        The spectral radius; what its estimates cost is counted.
    """

    njev = 0
    nlu = 0
    hold = (1.0, 1.0)

    def __init__(
        self, f: RHS, method: StabilisedMethod, backend: Backend, radius: RadiusKeeper
    ) -> None:
        # Every stage's state is needed again after f has seen it.
        self.f, self.method, self.backend, self.radius = backend.keeping(f), method, backend, radius
        self.calls, self.error_order = 0, method.error_order
        self.s = 0
        """Stage count of the last attempt."""
        self.attempted = False
        """Whether a step was made from where the next one starts: then it was rejected."""
        self.f_0: Array = None
        self.err: Array = None
        self.f_end: Array = None
        self.f_end_at: Array = None
        """f at the end of the step, and the very array y_new it was evaluated at."""

    @property
    def nfev(self) -> int:
        """Calls of f, those of the spectral radius included."""
        return self.calls + self.radius.nfev

    def start(self, y: Array, f_0: Array) -> None:  # noqa: ARG002
        """Get ready to step from y, given f_0 = f(t, y), whatever was before."""
        self.f_0, self.attempted = f_0, False
        self.radius.age = self.radius.every

    def advance(self, t: float, y: Array) -> None:
        """Get ready to step from the end (t, y) of the step before, which was accepted."""
        self.f_0, self.attempted = self.f_new(t, y), False
        self.radius.accept()

    def attempt(self, t: float, y: Array, t_new: float) -> Array:
        """Step from (t, y) to t_new with as many stages as stability needs; return y_new.

        Raises
        ------
        StepFailed
            If it would take more stages than the method has; nothing has been done then.
        """
        h, method, backend = t_new - t, self.method, self.backend
        rho = self.radius(t, y, self.f_0, rejected=self.attempted)
        if not math.isfinite(rho):
            raise StepFailed(self.why_not(rho), 0.1 * abs(h), "non_finite")
        if abs(h) * rho > method.beta(method.max_stages):
            raise StepFailed(self.why_not(rho), method.longest(rho))

        def f(time: float, state: Array) -> Array:
            self.calls += 1
            view = backend.protect(state[...])
            return backend.array(self.f(t_new if time == t + h else time, view))

        self.attempted, self.s = True, method.stages(abs(h) * rho)
        y_new, self.err, f_new = method.step(f, t, y, h, self.f_0, self.s)
        y_new = backend.protect(y_new)
        if f_new is not None:
            self.f_end, self.f_end_at = backend.copy(f_new), y_new
        return y_new

    def why_not(self, rho: float) -> str:
        """Say why a radius admits no such step."""
        if not math.isfinite(rho):
            return "the spectral radius is not finite"
        longest = self.method.longest(rho)
        return f"{self.method.name} takes steps of at most {longest:.6g} where ρ = {rho:.6g}"

    def errors(self) -> list[Array]:
        """Local error estimate of the last attempt; yours to change."""
        return [self.backend.copy(self.backend.detach(self.err))]

    def estimate(self) -> Array:
        """Return the same, for a Step."""
        return self.err

    def get(self, i: int) -> Array:
        """Return k_1 = f(t, y), `i` being 0: the others are not kept."""
        if i != 0:
            msg = f"i = {i!r}: only the first stage of a stabilised method is kept"
            raise ValueError(msg)
        return self.f_0

    def slopes(self) -> list[Array]:
        """Return [f(t, y)]: the slopes of the stages are not kept."""
        return [self.f_0]

    def f_new(self, t: float, y: Array) -> Array:
        """f(t, y) at the end of the step, evaluated unless the method or an earlier call did."""
        if self.f_end_at is not y:
            self.calls += 1
            value = self.backend.array(self.f(t, y))
            self.f_end, self.f_end_at = self.backend.copy(value), y
        return self.f_end

    def segment(self, t: float, y: Array, t_new: float, y_new: Array) -> Segment:
        """Cubic Hermite dense output, of order 3, over the accepted step."""
        h = t_new - t
        return Segment.hermite(t, t_new, y, y_new, h * self.f_0, h * self.f_new(t_new, y_new))

    def probe_state(self) -> None:
        """There is no second evaluation at t + h."""
