"""The linear algebra of an implicit solve: where J comes from, and what solves with M − cJ."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .._array import Array
from .costs import Stopwatch
from .dae import INDEX, Constraints, Slopes, check_start
from .differences import Differences, time_derivative
from .jacobian import JacobianOperator
from .jacobian_source import JacobianSource, is_finite, make_jacobian
from .linalg import Banded, LinearSolveError, LinearSolver, linear_solver_for
from .mass import Mass
from .step import RHS, SHORTER, StepFailed

__all__ = ["NOT_FINITE", "Algebra"]

NOT_FINITE = "the Jacobian is not finite"

_INCREMENTS = (1e-3, 1e-4)
"""Relative increments of the quotients that a given Jacobian is compared with."""


class Algebra:
    """One solve's Jacobians and factorisations, and the account of both.

    Parameters
    ----------
    f : callable
        Right-hand side on flat states.
    y : flat array
        The initial state.
    scale : float or flat array
        Sizes below which components are as good as zero, for differences.
    accuracy : float
        Relative residual at which iterative solutions of linear systems may stop.
    mass : Mass, optional
        M of M y' = f(t, y); the identity by default.
    precond : callable, optional
        ``precond(t, y, c)`` for GMRES, see `linear_solver_for`.
    **given
        ``jac``, ``jvp``, ``jac_sparsity``, ``bandwidth``: see `make_jacobian`.

    Raises
    ------
    ValueError
        If they have wrong shapes or contradict each other.
    """

    def __init__(
        self,
        f: RHS,
        y: Array,
        scale: Any = 0.0,
        accuracy: float = 1e-4,
        mass: Mass | None = None,
        precond: Any = None,
        **given: Any,
    ) -> None:
        self.f, self.calls, self.accuracy, self.precond = f, 0, accuracy, precond
        self.mass = None if mass is None or mass.kind == "identity" else mass
        singular = self.mass is not None and self.mass.singular
        self.constraints = Constraints(self.mass) if self.mass and singular else None
        self.spent = 0
        self.given = next((name for name, value in given.items() if value is not None), "")
        """What the user said of J, by name."""
        self.source: JacobianSource = make_jacobian(f, y, scale=scale, **given)
        self.solver: LinearSolver | None = None
        self.watch = Stopwatch()
        """Of factorisations."""
        self.J: Any = None

    @property
    def nfev(self) -> int:
        """Calls of f spent on derivatives."""
        return self.calls + self.source.nfev

    @property
    def njev(self) -> int:
        """Jacobians made."""
        return self.source.njev

    @property
    def nlu(self) -> int:
        """Matrices factorised."""
        return self.spent + (0 if self.solver is None else self.solver.nlu)

    @property
    def settled(self) -> bool:
        """Whether there is a Jacobian, and it is the same everywhere."""
        return self.J is not None and self.source.constant

    def update(self, t: float, y: Array, f_y: Array, h: float) -> bool:
        """Make the Jacobian at (t, y), where f is `f_y`; return whether it is another one.

        Raises
        ------
        StepFailed
            If it is not finite: a tenth of the step `h` is proposed.
        """
        if self.settled:
            return False
        J = self.source(t, y, f_y)
        if isinstance(J, np.ndarray) and np.count_nonzero(np.isfinite(J)) < J.size:
            raise StepFailed(NOT_FINITE, SHORTER["non_finite"] * abs(h), "non_finite")
        if self.solver is None or type(J) is not type(self.J):
            self.spent = self.nlu
            self.solver = linear_solver_for(J, self.mass, rtol=self.accuracy, precond=self.precond)
        self.J = J
        return True

    def time_slope(self, t: float, y: Array, f_y: Array, h: float) -> Array:
        """Return ∂f/∂t at the start of a step of size h."""
        self.calls += 1
        return time_derivative(self.f, t, y, f_y, h)

    def slopes(
        self, t: float, y: Array, f_y: Array, h: float, *, index: bool = False
    ) -> Callable[[Array], Array]:
        """Return f(s, x) ↦ y' for (s, x) near (t, y), where f is `f_y`; see `Slopes`.

        Raises
        ------
        ValueError
            If `index` is true, and that of the equation is not 1.
        StepFailed
            If the matrix is singular: half of the step `h` is proposed.
        """
        if self.mass is None:
            return lambda f: f
        if self.constraints is None:
            return self.mass.solve
        J, f_t = self.source(t, y, f_y), self.time_slope(t, y, f_y, h)
        if not np.isfinite(f_t).all():
            f_t = np.zeros_like(f_y)  # f ends here: a step will find that, and say so
        try:
            noise = self._noise(y) if index else None
            slopes = Slopes(self.mass, self.constraints, J, f_t, noise)
        except LinearSolveError as error:
            if index:
                msg = f"{INDEX} (or the linear solver fails: {error})"
                raise ValueError(msg) from error
            raise StepFailed(str(error), SHORTER["singular"] * abs(h), "singular") from error
        self.spent += slopes.nlu
        return slopes

    def _noise(self, y: Array) -> float:
        """Return the relative error of Jacobians: where there should be a zero, there may be it."""
        eps = float(np.finfo(y.dtype).eps)
        return math.sqrt(eps) if isinstance(self.source, Differences) else math.sqrt(eps) ** 1.5

    def start(
        self, t: float, y: Array, f_y: Array, h: float, scale: Any
    ) -> Callable[[Array], Array] | None:
        """Return the slopes at the start, None without a mass matrix.

        Raises
        ------
        ValueError
            If the index is not 1, or y is not consistent, in units of `scale`.
        """
        if self.mass is None:
            return None
        slopes = self.slopes(t, y, f_y, h, index=True)
        if not isinstance(slopes, Slopes):
            return slopes
        try:
            check_start(slopes, y, f_y, scale)
            slopes(f_y)
        except LinearSolveError as error:
            msg = f"the slope y' at (t0, y0) was not found: {error}"
            raise ValueError(msg) from error

        def careful(f: Array) -> Array:
            try:
                return slopes(f)
            except LinearSolveError:  # GMRES, at a value of f that is not finite
                return np.full_like(f, np.nan)

        return careful

    def doubt(self, t: float, y: Array, f_y: Array, scale: Any) -> str:
        """Say in which component a given Jacobian contradicts difference quotients of f.

        Returns
        -------
        str
            Empty where it does not, where none was given, and where the quotients themselves are
            not to be trusted.
        """
        if not self.given:
            return ""
        J = self.source(t, y, f_y)
        J = J.tosparse() if isinstance(J, Banded) else J
        # A direction that weighs all components, of the size of each.
        v = np.cos(1.0 + np.arange(len(y))) * np.maximum(np.abs(y), scale)
        product = J(v) if isinstance(J, JacobianOperator) else J @ v
        wide, narrow = (self._quotient(t, y, v, e) for e in _INCREMENTS)
        size = np.maximum(np.abs(product), np.abs(narrow))
        wrong = np.abs(product - narrow) > 1e-2 * size
        sure = np.abs(wide - narrow) < 1e-3 * np.maximum(np.abs(wide), np.abs(narrow))
        # Zero against zero, up to rounding, is no contradiction.
        eps = float(np.finfo(y.dtype).eps)
        sure &= size > 100 * eps / min(_INCREMENTS) * np.abs(f_y)
        found = wrong & sure
        if not found.any():
            return ""
        i = int(np.argmax(np.where(found, np.abs(product - narrow) / np.maximum(size, 1e-300), -1)))
        return (
            f"the Jacobian that {self.given} describes is wrong there: along one direction v, "
            f"component {i} of J v is {product[i]:.3g}, but f changes by {narrow[i]:.3g}"
        )

    def _quotient(self, t: float, y: Array, v: Array, e: float) -> Array:
        self.calls += 2
        with np.errstate(all="ignore"):
            return (self.f(t, y + e * v) - self.f(t, y - e * v)) / (2 * e)

    def factorise(self, c: complex, h: float) -> Callable[[Array], Array]:
        """Return the function r ↦ (M − cJ)⁻¹ r.

        Raises
        ------
        StepFailed
            If the matrix is singular: half of the step `h` is proposed, a tenth where it is not
            finite.
        """
        assert self.solver is not None
        try:
            solve: Callable[[Array], Array] = self.watch(self.solver.factorise, self.J, c)
        except LinearSolveError as error:
            if not is_finite(self.J):  # banded or sparse: of a dense one `update` tells
                limit = SHORTER["non_finite"] * abs(h)
                raise StepFailed(NOT_FINITE, limit, "non_finite") from error
            raise StepFailed(str(error), SHORTER["singular"] * abs(h), "singular") from error
        if not isinstance(self.J, JacobianOperator):
            return solve

        def careful(r: Array) -> Array:
            try:
                return solve(r)
            except LinearSolveError as error:  # an iteration that does not converge
                if not np.isfinite(r).all():
                    msg = "f is not finite"
                    raise StepFailed(msg, SHORTER["non_finite"] * abs(h), "non_finite") from error
                raise StepFailed(str(error), SHORTER["singular"] * abs(h), "singular") from error

        return careful
