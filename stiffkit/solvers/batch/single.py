"""Implicit steps of one tensor, made as a batch of one, as the loop for one solve asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np

from ..._array import Array, to_numpy
from ..dense import Segment
from ..problem import Problem
from ..step import StepFailed
from .make import linear_stages
from .problem import BatchProblem, Floats

__all__ = ["SingleStages", "lifted"]


@final
class SingleStages:
    """Stages of `solvers.batch` with one row, and the interface that those of one solve have.

    Parameters
    ----------
    problem : Problem
        The problem, of tensors.
    method : RosenbrockTableau or ButcherTableau
        An implicit method.
    f_0 : flat tensor
        f(t0, y0).
    jac : callable or tensor, optional
        ``jac(t, y)``, the Jacobian of shape (n, n), or a constant one.
    """

    def __init__(self, problem: Problem, method: Any, f_0: Array, jac: Any = None) -> None:
        p, ends = problem, (np.array([problem.t0]), np.array([problem.t1]))
        f = lifted(p.raw["f"], "f")
        self.problem = BatchProblem(f, *ends, p.y0.reshape((1, *p.shape)), ())
        tolerances = (x[None] if getattr(x, "ndim", 0) else x for x in (p.rtol, p.atol))
        jac = lifted(jac, "jac") if callable(jac) else jac
        record = p.backend.wants_grad(p.y0, f_0)
        self.rows = linear_stages(self.problem, method, jac, *tolerances, record=record)
        self.error_order, self.hold = self.rows.error_order, self.rows.hold
        self.rows.start(f_0[None])

    @property
    def nfev(self) -> int:
        """Calls of f, those for Jacobians included."""
        return self.problem.nfev

    @property
    def njev(self) -> int:
        """Jacobians made."""
        return self.rows.njev

    @property
    def nlu(self) -> int:
        """Matrices factorised."""
        return self.rows.nlu

    def matrix(self) -> Floats:
        """Return the last Jacobian."""
        return self.problem.backend.numpy(self.rows.J[0])

    def get(self, i: int) -> Array:
        """Return stage derivative i."""
        return self.rows.f_0[0] if i == 0 else self.slopes()[i]

    def slopes(self) -> list[Array]:
        """Return the stage derivatives of the last attempt that are known, f(t, y) first."""
        return [k[0] for k in self.rows.slopes()]

    def probe_state(self) -> Array | None:
        """Return no probe: stages of implicit methods are no two independent evaluations."""
        return None

    def start(self, y: Array, f_0: Array) -> None:  # noqa: ARG002
        """Get ready to step from y, given f_0 = f(t, y), whatever was before."""
        self.rows.forget(np.ones(1, bool))
        self.rows.start(f_0[None])

    def advance(self, t: float, y: Array) -> None:
        """Get ready to step from the end (t, y) of the step before."""
        self.rows.advance(None, np.array([t]), y[None])

    def attempt(self, t: float, y: Array, t_new: float) -> Array:
        """Compute the stages of the step from (t, y) to t_new; return y_new.

        Raises
        ------
        StepFailed
            If Newton's method does.
        """
        h = t_new - t
        y_new = self.rows.attempt(np.array([t]), np.array([h]), y[None])[0]
        if self.rows.failed is not None and self.rows.failed[0]:
            msg = "Newton's method does not converge"
            raise StepFailed(msg, float(min(self.rows.longest[0], 0.5 * abs(h))), "newton")
        return y_new

    def errors(self) -> list[Array]:
        """Return the local error estimate of the last attempt; yours to change."""
        return [err[0] for err in self.rows.errors()]

    def estimate(self) -> Array:
        """Return the same, for a Step."""
        return self.errors()[0]

    def f_new(self, t: float, y: Array) -> Array:
        """Return f(t, y) at the end of the step."""
        return self.rows.slope_at_end(np.array([t]), y[None])[0]

    def inside_error(self, t: float, y: Array, t_new: float, y_new: Array) -> Array:
        """Estimate dense output's error inside the last attempt; see `LinearStages`."""
        ends = np.array([t]), np.array([t_new])
        return self.rows.inside_error(*ends, y[None], y_new[None], np.ones(1, bool))[0]

    def segment(self, t: float, y: Array, t_new: float, y_new: Array) -> Segment:
        """Return dense output over the accepted step."""
        ends = np.array([t]), np.array([t_new])
        return self.rows.segment(*ends, y[None], y_new[None]).single(0)


def lifted(g: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a function of one state as one of a batch of one."""

    def on_batch(t: Any, y: Any, *args: Any) -> Any:
        value = g(t[0], y[0], *args)
        if name == "radius":
            return to_numpy(value).reshape((1,))
        if not hasattr(value, "shape"):
            msg = f"{name} returned {type(value).__name__} for a torch y0; it must be a tensor"
            raise ValueError(msg)
        return value[None]

    for attribute in ("terminal", "direction"):
        setattr(on_batch, attribute, getattr(g, attribute, None))
    return on_batch
