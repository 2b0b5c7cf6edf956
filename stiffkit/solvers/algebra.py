"""The linear algebra of an implicit solve: where J comes from, and what solves with I − cJ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._array import Array
from .differences import time_derivative
from .jacobian_source import JacobianSource, make_jacobian
from .linalg import LinearSolveError, LinearSolver, linear_solver_for
from .step import RHS, StepFailed

__all__ = ["Algebra"]


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
    **given
        ``jac``, ``jvp``, ``jac_sparsity``, ``bandwidth``: see `make_jacobian`.

    Raises
    ------
    ValueError
        If they have wrong shapes or contradict each other.
    """

    def __init__(
        self, f: RHS, y: Array, scale: Any = 0.0, accuracy: float = 1e-4, **given: Any
    ) -> None:
        self.f, self.calls, self.accuracy = f, 0, accuracy
        self.source: JacobianSource = make_jacobian(f, y, scale=scale, **given)
        self.solver: LinearSolver | None = None
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
        return 0 if self.solver is None else self.solver.nlu

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
        if isinstance(J, np.ndarray) and not np.isfinite(J).all():
            msg = "the Jacobian is not finite"
            raise StepFailed(msg, 0.1 * abs(h), "non_finite")
        if self.solver is None or type(J) is not type(self.J):
            spent, self.solver = self.nlu, linear_solver_for(J, rtol=self.accuracy)
            self.solver.nlu = spent
        self.J = J
        return True

    def time_slope(self, t: float, y: Array, f_y: Array, h: float) -> Array:
        """Return ∂f/∂t at the start of a step of size h."""
        self.calls += 1
        return time_derivative(self.f, t, y, f_y, h)

    def factorise(self, c: complex, h: float) -> Callable[[Array], Array]:
        """Return the function r ↦ (I − cJ)⁻¹ r.

        Raises
        ------
        StepFailed
            If the matrix is singular: half of the step `h` is proposed.
        """
        assert self.solver is not None
        try:
            solve = self.solver.factorise(self.J, c)
        except LinearSolveError as error:
            raise StepFailed(str(error), 0.5 * abs(h), "singular") from error

        def careful(r: Array) -> Array:
            try:
                return solve(r)
            except LinearSolveError as error:  # an iteration that does not converge
                raise StepFailed(str(error), 0.5 * abs(h), "singular") from error

        return careful
