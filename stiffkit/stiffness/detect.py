"""Is a solve limited by stability rather than accuracy? A free trigger, then a Krylov proof.

Every few accepted steps two quotients are formed from evaluations that the step has paid for,
with Δ in units of the tolerance (divided by atol + rtol |y|):

* the smooth path: κ = h ‖f_new − f‖ / ‖y_new − y‖ is how much the slope turns in a step. A
  solution that turns at this rate has a local error near ``Â κ^q ‖Δy‖``, Â the error norm of the
  embedded method and q its order. Where this is far below the error that the pair reports, the
  error is not the solution's own: it is what is left of fast modes that the step barely damps.
* Hairer's stage ratio: h ‖f_new − f(z)‖ / ‖y_new − z‖ of two states at one time, which comes
  near the stability limit when such a mode dominates the difference. A method without such a
  stage spends one call of f on a state that is off by the error estimate instead.

Three looks in a row that suspect either, at steps that do not grow fast, make a case. It is then
put to the proof: an Arnoldi process started from the error estimate, which is rich in the mode that
limits the step, runs until its dominant Ritz pair is good to 5 %, and the step is called limited by
stability if hλ lies beyond 62 % of the method's limit along its own direction in the left half
plane, where the smooth path would allow twice the step. It is told without the mode, by 1 − D/λ,
D = d/dt along the solution, for two more calls of f. A case that fails makes the next one wait
longer; meanwhile a look spends one call of f on the mode that was found, and the case is reopened
when that comes near the limit.

References
----------
E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., Springer (1996), section
IV.2, doi:10.1007/978-3-642-05221-7. L. F. Shampine, Diagnosing stiffness for Runge-Kutta methods,
SIAM J. Sci. Stat. Comput. 12 (1991) 260-272, doi:10.1137/0912015.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from .._array import Array, backend_of
from ..solvers.jacobian import JacobianOperator
from ..solvers.problem import check_positive
from ..solvers.tableau import ButcherTableau
from .indicators import stability_ratio
from .krylov import Krylov
from .spectrum import Rows

__all__ = ["Evidence", "Stiffness", "StiffnessDetector"]


class Stiffness(Enum):
    """What the detector makes of a problem, for the method and tolerances at hand."""

    non_stiff = "non-stiff"
    mildly_stiff = "mildly stiff, real spectrum"
    stiff = "stiff"
    oscillatory = "oscillatory"


@dataclass(frozen=True)
class Evidence:
    """One proof: what was found at a step that was suspected."""

    t: float
    """End of the step."""
    h: float
    """Its signed size."""
    eigenvalue: complex
    """Dominant eigenvalue of the Jacobian there (a Ritz value)."""
    residual: float
    """Of the Ritz pair: the eigenvalue is exact for a Jacobian this close."""
    stability_ratio: float
    """hλ over the method's limit in its direction."""
    accuracy_step: float
    """The step that the smooth path's error would allow: an estimate of the order of magnitude."""
    products: int
    """Calls of f that the proof cost."""
    verdict: Stiffness
    """What follows from it."""


ROOM = 2.0
"""Accuracy would have to allow so many times the step for stability to be what limits it."""

GROWTH = 1.1
"""Steps that grow faster than this have not met their limit yet."""

STAGE_RATIO = 0.7
"""Share of the real stability limit from which on the stage ratio is suspicious."""


def calm_wait(steps: int, first: int, interval: int) -> int:
    """Return the accepted steps to the next look where nothing is suspected after so many."""
    return min(interval, max(first, steps // 4))


def smooth_error(h: float, rise: float, turn: float, error_norm: float, order: int) -> float:
    """Error over tolerance that the smooth path explains."""
    # A path that turns faster than any method can follow must not overflow the power.
    kappa = min(abs(h) * turn / rise, 1e30) if rise > 0 else 0.0
    return error_norm * kappa**order * rise


def signs(
    h: float, ratio: float, smooth: float, order: int, stage: float, limit: float
) -> tuple[float, bool]:
    """Return Hairer's stage ratio over the limit, and whether the step looks like a stiff one.

    `smooth` is what `smooth_error` says for an estimate of order `order`, `limit` the method's on
    the real axis, the others are as in `StiffnessDetector.suspicious`.
    """
    near = abs(h) * stage / limit
    # Steps `ROOM` times as long would make the smooth path's error as large as the one reported.
    unexplained = ratio > 1e-3 and ratio > ROOM ** (order + 1) * smooth
    return near, unexplained or near > STAGE_RATIO


class _Failed(NamedTuple):
    """What a proof that failed has left."""

    mode: Array
    """Dominant eigenvector; of a complex pair, its real part."""
    share: float
    """Share of the stability limit that a step uses, per unit of ``|hλ|``."""
    room: float
    """Step that accuracy allows without the mode, over the one that it allows with it."""


class StiffnessDetector:
    """Watches a solve from step to step.

    Parameters
    ----------
    tableau : ButcherTableau
        The method; explicit, with an embedded row.
    interval : int
        Accepted steps between looks while nothing is suspected.
    looks : int
        Suspicious looks in a row, at successive steps, that make a case.
    first : int, optional
        Accepted steps before the first look, by default `interval`. From fewer the looks become
        rarer with the steps made, until there are `interval` between two.

    Raises
    ------
    TypeError, ValueError
        If the tableau is not explicit or has no embedded row, or a count is no positive integer.

    Attributes
    ----------
    state : Stiffness
        The verdict that stands.
    since : float or None
        Where it was reached.
    evidence : list of Evidence
        All proofs, successful or not.
    nfev : int
        Calls of f that proofs have cost.
    wait : int
        Accepted steps from one look to the next.
    steps : int
        Accepted steps up to the last look.
    """

    PROOF = 0.62
    """Least share of the stability limit that a proof needs."""
    RITZ_TOLERANCE = 0.05
    """Residual over ``|θ|`` that ends a proof's search."""
    TRUSTED = 0.2
    """Residual over ``|θ|`` up to which an eigenvalue counts."""
    DIMENSION = 20
    """Largest Krylov space."""
    LONGEST_PAUSE = 1000
    """Most accepted steps between a proof that failed and the next."""

    def __init__(
        self,
        tableau: ButcherTableau,
        *,
        interval: int = 20,
        looks: int = 3,
        first: int | None = None,
    ) -> None:
        if not hasattr(tableau, "pair_quality"):
            msg = f"tableau must be an explicit Runge-Kutta method of METHODS, not {tableau!r}"
            raise TypeError(msg)
        for name, value in (("interval", interval), ("looks", looks), ("first", first or 1)):
            check_positive(name, value, whole=True)
        quality = tableau.pair_quality
        if quality is None or tableau.error_order is None:
            msg = f"method {tableau.name!r} has no embedded row to detect stiffness with"
            raise ValueError(msg)
        self.tableau, self.interval, self.looks = tableau, interval, looks
        self.order, self.error_norm = tableau.error_order, quality.A_hat
        self.limit = tableau.real_stability_limit
        self.state = Stiffness.non_stiff
        self.since: float | None = None
        self.evidence: list[Evidence] = []
        self.nfev = self.steps = 0
        self._stiff_steps = self._entered = 0
        self.hits = self.misses = 0
        self.first = min(interval, first or interval)
        self.wait = self.first
        self.pause = self.resume = interval
        self.near = self.near_failed = 0.0
        self._h_seen = self._rate = 0.0
        self._failed: _Failed | None = None
        self.accuracy_step = math.inf
        self.start: tuple[float, Array] | None = None
        """Time and state of the first proof of stiffness."""
        self._proved: list[int] = []
        """Accepted steps up to each such proof."""

    @property
    def stiff_steps(self) -> int:
        """Accepted steps made under a verdict other than non-stiff."""
        running = self.steps - self._entered if self.state is not Stiffness.non_stiff else 0
        return self._stiff_steps + running

    def along(self, f: Any, t: float, y: Array, f_new: Array, err: Array) -> float:
        """Return ‖J err‖ / ‖err‖ for a method without a probe: a second state costs it one call."""
        # By hand: an operator object at every look would cost more than the call of f.
        backend = backend_of(y)
        square_sum, eps = backend.square_sum(y), float(backend.xp.finfo(y.dtype).eps)
        size = math.sqrt(square_sum(err))
        if not 0 < size < math.inf:
            return 0.0
        radius = math.sqrt(eps * square_sum(y)) or math.sqrt(eps)
        self.nfev += 1
        change = f(t, y + (radius / size) * err) - f_new
        return math.sqrt(square_sum(change)) / radius

    def suspicious(self, h: float, ratio: float, rise: float, turn: float, stage: float) -> bool:
        """Look at a step.

        Parameters
        ----------
        h : float
            Signed size.
        ratio : float
            Error estimate over tolerance.
        rise, turn : float
            ‖y_new − y‖ and ‖f_new − f‖, rms in units of the tolerance.
        stage : float
            ‖f_new − f(z)‖ / ‖y_new − z‖ of two states at one time.

        Returns
        -------
        bool
            Whether there is a case to examine now.
        """
        self.steps += self.wait
        smooth = self._smooth_error(h, rise, turn)
        self.near, doubtful = signs(h, ratio, smooth, self.order, stage, self.limit)
        if not doubtful:
            self.hits, self.wait, self._h_seen = 0, self.calm_wait, 0.0
            if self._rate * abs(h) < self.PROOF or self.accuracy_step < ROOM * abs(h):
                self._relax()
            return False
        if self.rests:
            self.hits, self.wait, self._h_seen = 0, self.calm_wait, 0.0
            return self._failed is not None
        self.hits += 1
        self.wait = 1
        # Steps that still grow fast follow a transient that dies out: no limit has been reached.
        grows, self._h_seen = abs(h) > GROWTH * self._h_seen > 0, abs(h)
        return self.hits >= self.looks and not grows

    @property
    def calm_wait(self) -> int:
        """Accepted steps to the next look where nothing is suspected."""
        return calm_wait(self.steps, self.first, self.interval)

    @property
    def rests(self) -> bool:
        """Whether the last proof failed so lately that the next one waits."""
        return self.steps < self.resume and self.near <= 1.5 * self.near_failed

    def pass_over(self, steps: int) -> None:
        """Count accepted steps whose looks found no `signs`, where nothing is suspected."""
        self.steps += steps
        self.hits, self.wait = 0, self.calm_wait

    def _smooth_error(self, h: float, rise: float, turn: float) -> float:
        """Error over tolerance that the smooth path explains; sets `accuracy_step` by it."""
        smooth = smooth_error(h, rise, turn, self.error_norm, self.order)
        exponent = 1 / (self.order + 1)
        self.accuracy_step = abs(h) * (0.5 / smooth) ** exponent if smooth != 0 else math.inf
        return smooth

    def _relax(self) -> None:
        """Let a verdict lapse after as many quiet looks as it took suspicious ones."""
        if self.state is Stiffness.non_stiff:
            return
        self.misses += 1
        if self.misses >= self.looks:
            self._stiff_steps = self.stiff_steps
            self.state, self.since, self.misses = Stiffness.non_stiff, None, 0

    def examine(
        self,
        f: Any,
        t: float,
        y: Array,
        f_new: Array,
        err: Array,
        h: float,
        changes: tuple[Array, Array, Callable[[Array], float]],
    ) -> None:
        """Put a case to the proof, or see whether one that rests may pass now; as in `prove`.

        The proof that failed has left the mode that came nearest to limiting the step, and one
        call of f tells how fast it is here. Where f fails beside the path nothing is proved: the
        solve goes on, since it may never come there.
        """
        try:
            if self.rests and self._failed is not None:
                failed = self._failed
                share = failed.share * abs(h) * self.along(f, t, y, f_new, failed.mode)
                if share >= self.PROOF and failed.room * self.accuracy_step >= ROOM * abs(h):
                    self.resume, self.hits, self.wait = self.steps, 1, 1
            else:
                self.prove(f, t, y, f_new, err, h, changes)
        except (ArithmeticError, ValueError):
            self._rest()

    def prove(
        self,
        f: Any,
        t: float,
        y: Array,
        f_new: Array,
        err: Array,
        h: float,
        changes: tuple[Array, Array, Callable[[Array], float]],
    ) -> Evidence:
        """Find the dominant eigenvalue from the error estimate on, and judge.

        Parameters
        ----------
        f : callable
            Right-hand side on flat states.
        t : float
            End of the step.
        y, f_new, err : flat array
            State, slope, and error estimate there.
        h : float
            Signed step size.
        changes : (flat array, flat array, callable)
            y_new − y, f_new − f, and the rms in units of the tolerance: without their part along
            the mode that is found, they tell the step that the rest of the solution would allow.

        Returns
        -------
        Evidence
            Also appended to `evidence`.
        """
        operator = JacobianOperator(f, t, y, method="difference", f_0=f_new)
        rise, turn, norm = changes
        free = self.accuracy_step
        try:
            value, vector, residual = self._dominant(operator, err)
            operator.nfev += 2
            start = _second(f, t - h, y - rise, f_new - turn, h)
            bend = _second(f, t, y, f_new, h) - start
            slow = slow_changes(y, h, rise, turn, bend, value, operator)
        finally:
            self.nfev += operator.nfev
        changed = norm(slow[0]), norm(slow[1])
        found = self.judge(t, h, changed, value, residual, operator.nfev)
        self.evidence.append(found)
        if found.verdict is Stiffness.non_stiff:
            self._stiff_steps, self.state = self.stiff_steps, found.verdict
            self._rest()
            if self._trusted(found) and 0 < found.stability_ratio < math.inf:
                mode = vector if y.dtype != y.real.dtype else vector.real
                room = found.accuracy_step / free if free < math.inf else 1.0
                share = found.stability_ratio / abs(h * value)
                self._failed = _Failed(operator.backend.vector(mode, y), share, room)
            return found
        if self.state is Stiffness.non_stiff:
            self.since, self._entered = t, self.steps
        if self.start is None:
            self.start = t, operator.backend.copy(y)
        self.state, self._rate = found.verdict, found.stability_ratio / abs(h)
        self.hits, self.misses, self.wait = 0, 0, 5 * self.interval
        self.pause = self.interval
        self._proved.append(self.steps)
        return found

    def _dominant(self, operator: JacobianOperator, err: Array) -> tuple[complex, Any, float]:
        """Return the dominant Ritz value, vector and residual of a Krylov space from `err` on."""
        xp = operator.backend.xp
        candidates = (err, operator.f_0, xp.ones_like(err))
        start = next(x for x in candidates if float(xp.abs(x).max()) > 0)
        krylov = Krylov(Rows(operator, start, batched=False, seed=0), self.DIMENSION)
        for m in range(min(2, krylov.k), krylov.k + 1):
            krylov.extend(m)
            values, weights, residuals = krylov.ritz(0, symmetric=False)
            i = int(np.argmax(np.abs(values)))
            if residuals[i] <= self.RITZ_TOLERANCE * abs(values[i]) or krylov.length[0] <= m:
                break
        vector = krylov.vectors(0, weights[:, [i]])[:, 0]
        return complex(values[i]), vector, float(residuals[i])

    def _rest(self) -> None:
        """Let the next case wait, longer each time: a path may look stiff for long and not be."""
        self.hits, self.wait = 0, self.calm_wait
        self.pause = min(2 * self.pause, self.LONGEST_PAUSE)
        self.resume, self.near_failed = self.steps + self.pause, self.near
        self._failed = None

    def summary(
        self, attempt: Callable[[str, float, Array, float, int], str] | None = None
    ) -> str | None:
        """Say in one sentence what was found; None for nothing.

        Nothing is also a phase that no other method would shorten by much: fewer than 20 steps,
        or less than a tenth of all.

        Parameters
        ----------
        attempt : callable, optional
            ``attempt(method, t, y, t_end, steps)`` says what another method makes of the stretch
            that these steps were made on.
        """
        proofs = [found for found in self.evidence if found.verdict is not Stiffness.non_stiff]
        if len(proofs) < 2 or self.stiff_steps < max(20, 0.1 * self.steps):
            return None
        first, last = proofs[0], proofs[-1]
        ratio = f"hρ = {abs(last.h * last.eigenvalue):.3g}"
        limit = f"{abs(last.h * last.eigenvalue) / last.stability_ratio:.3g}"
        now = "" if self.state is not Stiffness.non_stiff else f" until about t = {last.t:.6g}"
        tried = ""
        if attempt is not None and self.start is not None:
            other = "rock4" if last.verdict is Stiffness.mildly_stiff else "rodas5p"
            tried = attempt(other, *self.start, last.t, self._proved[-1] - self._proved[0])
        return (
            f"limited by stability since t = {first.t:.6g}{now}: {last.verdict.value}, {ratio} at "
            f"the limit {limit} of {self.tableau.name}; {tried}try method='auto', "
            f"{_ADVICE[last.verdict]}"
        )

    def judge(
        self,
        t: float,
        h: float,
        slow: tuple[float, float],
        value: complex,
        residual: float,
        products: int,
    ) -> Evidence:
        """Judge a step, given a mode and what the others change; sets `accuracy_step`.

        Parameters
        ----------
        t, h : float
            End and signed size.
        slow : (float, float)
            Changes of the solution and of its slope without the mode, rms in units of the
            tolerance: see `slow_changes`.
        value : complex
            The mode's eigenvalue.
        residual : float
            Its residual.
        products : int
            Calls of f that it has cost.
        """
        self._smooth_error(h, *slow)
        share = stability_ratio(h, value, self.tableau)
        decays = (value * h).real < 0
        verdict = Stiffness.non_stiff
        found = Evidence(t, h, value, residual, share, self.accuracy_step, products, verdict)
        roomy = self.accuracy_step >= ROOM * abs(h)
        if self._trusted(found) and roomy and self.PROOF <= share < math.inf and decays:
            if abs(value.imag) > abs(value.real):
                verdict = Stiffness.oscillatory
            elif abs(value.imag) > 0.1 * abs(value.real):
                verdict = Stiffness.stiff
            else:
                # A stabilised method covers hρ with about √(hρ/0.65) calls (RKC): up to 50.
                stages = math.sqrt(abs(value) * min(self.accuracy_step, 1e300))
                verdict = Stiffness.mildly_stiff if stages < 50 else Stiffness.stiff
        return replace(found, verdict=verdict)

    def _trusted(self, found: Evidence) -> bool:
        return found.residual <= self.TRUSTED * abs(found.eigenvalue)


_ADVICE = {
    Stiffness.mildly_stiff: "or a stabilised method such as 'rkc2' or 'rock4'",
    Stiffness.oscillatory: "or an implicit method such as 'radau5'",
    Stiffness.stiff: "or an implicit method such as 'rodas5p' or 'radau5'",
}


def _second(f: Any, t: float, y: Array, f_y: Array, h: float) -> Array:
    """Return y'' at (t, y) along the solution, by a difference over a small share of a step h."""
    delta = float(backend_of(y).xp.finfo(y.dtype).eps) ** 0.25 * h
    return (f(t + delta, y + delta * f_y) - f_y) / delta


def _above_rounding(y: Array, h: float, rise: Array, turn: Array) -> tuple[Array, Array]:
    """Return changes of y and y' without those that rounding makes: of y, and of `_second`.

    At rest nothing else is left of a stiff component's slow path, and it would look very fast.
    """
    xp = backend_of(y).xp
    eps, size = float(xp.finfo(y.dtype).eps), 4 * xp.abs(y)
    rise = xp.where(xp.abs(rise) > eps * size, rise, 0 * rise)
    return rise, xp.where(xp.abs(turn) > eps**0.75 / abs(h) * size, turn, 0 * turn)


def slow_changes(
    y: Array,
    h: float,
    rise: Array,
    turn: Array,
    bend: Array,
    value: complex,
    operator: Callable[[Array], Array],
) -> tuple[Array, Array]:
    """Return what `slow_path` does, without what is rounding in a step of size h that ends at y."""
    return _above_rounding(y, h, *slow_path(rise, turn, bend, value, operator))


def slow_path(
    rise: Array, turn: Array, bend: Array, value: complex, operator: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """Return the changes of y and y' over a step without their part along a mode.

    Parameters
    ----------
    rise, turn, bend : flat array
        Changes of y, y' and y''.
    value : complex
        The mode's eigenvalue λ. With D = d/dt along the solution ``1 − D/λ`` removes the mode and
        leaves what is slow, forced or not, nearly as it is; for a pair of a real Jacobian
        ``(1 − D/λ)(1 − D/λ̄)`` does.
    operator : callable
        v ↦ J v at the step's end: for a pair ``J bend`` stands for the change of the third
        derivative, which is true of the mode, and small for the rest.
    """
    if value == 0:
        return rise, turn
    size = abs(value)
    complex_state = rise.dtype != rise.real.dtype
    if complex_state or value.imag == 0:
        rate = value if complex_state else value.real
        return rise - turn / rate, turn - bend / rate
    twice = 2 * value.real / size
    more = operator(bend / size)
    return (
        rise - twice * (turn / size) + bend / size / size,
        turn - twice * (bend / size) + more / size,
    )
