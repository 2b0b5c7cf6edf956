"""A solve by an implicit, Rosenbrock or stabilised method: what it needs beside the problem."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._array import Array, is_torch
from .algebra import Algebra
from .newton_step import PATIENT, DirkStages, RadauStages
from .problem import Problem
from .rosenbrock import RosenbrockTableau
from .stabilised import RadiusKeeper, StabilisedMethod, StabilisedStages
from .stiff_step import RosenbrockStages
from .tableau import ButcherTableau

__all__ = ["start_stiff"]


def start_stiff(
    problem: Problem,
    method: Any,
    f_0: Array,
    *,
    fixed: bool = False,
    radius: Any = None,
    **jacobian: Any,
) -> Any:
    """Return the stages of a solve from y0, where f is `f_0`.

    Parameters
    ----------
    problem : Problem
        The problem.
    method : StabilisedMethod, RosenbrockTableau, ButcherTableau or AdditiveTableau
        How to solve it; an additive pair for a problem that is split, and for no other.
    f_0 : flat array
        f(t0, y0).
    fixed : bool
        Whether the steps are given.
    radius : callable or float, optional
        ``radius(t, y)``, a bound of the spectral radius, for stabilised methods; by default it is
        estimated by nonlinear power iteration.
    **jacobian
        ``mass`` and ``precond``: see `Algebra`. The rest says how the Jacobian is made: see
        `make_jacobian`.
    """
    p = problem
    stages: Any
    if isinstance(method, StabilisedMethod):
        keeper = _radius_keeper(p, radius)
        stages = StabilisedStages(p.f, method, p.backend, keeper)
        stages.start(p.y0, f_0)
        return stages
    if is_torch(p.y0):
        from .batch.single import SingleStages

        return SingleStages(p, method, f_0, jacobian.get("jac"))
    if len(p.shape) != 1:
        jacobian |= _in_shape(p.shape, jacobian)
    # Newton's method corrects what an iterative solution leaves, a Rosenbrock method does not.
    rough = 1e-4
    if isinstance(method, RosenbrockTableau):
        rough = min(rough, max(1e-2 * float(np.min(np.asarray(p.rtol))), 1e-13))
    stiff_f = p.f if p.split is None else p.split[1]
    linear = Algebra(stiff_f, p.y0, p.atol, rough, **jacobian)
    if isinstance(method, RosenbrockTableau):
        stages = RosenbrockStages(p, method, linear)
        stages.keeps &= not fixed  # no error estimate would tell that a Jacobian is too old
    else:
        full = isinstance(method, ButcherTableau) and method.A[0].any()
        stages = (RadauStages if full else DirkStages)(p, method, linear)
        if fixed:  # an iteration that is slow cannot be helped by a smaller step
            stages.most = PATIENT
    size = abs(p.t1 - p.t0)
    # Of an endless span nothing is known of the times at which f changes.
    span = size if size < 1e100 else 1 + abs(p.t0)
    scale = stages.atol + stages.rtol * np.abs(p.y0)
    stages.to_slope = linear.start(p.t0, p.y0, f_0, p.direction * span, scale)
    stages.start(p.y0, f_0)
    return stages


def _in_shape(shape: tuple[int, ...], given: dict[str, Any]) -> dict[str, Any]:
    """Return the user's functions on flat states: they know states of `shape`."""
    jac, jvp, precond = (given.get(name) for name in ("jac", "jvp", "precond"))
    flat: dict[str, Any] = {}
    if callable(jac):
        flat["jac"] = lambda t, y: jac(t, y.reshape(shape))
    if jvp is not None:
        flat["jvp"] = lambda t, y, v: np.reshape(jvp(t, y.reshape(shape), v.reshape(shape)), -1)
    if precond is not None:

        def setup(t: float, y: Array, c: Any) -> Any:
            psolve = precond(t, y.reshape(shape), c)
            if not callable(psolve):  # a LinearOperator, for flat vectors
                return psolve
            return lambda r: np.reshape(psolve(r.reshape(shape)), -1)

        flat["precond"] = setup
    return flat


def _radius_keeper(problem: Problem, radius: Any) -> RadiusKeeper:
    shape = problem.shape
    if radius is None:
        # The estimator stands above the solvers: it is fetched when a solve asks for it.
        from ..stiffness.radius import PowerRadius

        return RadiusKeeper(PowerRadius(problem.f, longest=abs(problem.t1 - problem.t0)))
    if callable(radius):
        return RadiusKeeper(lambda t, y, _: float(radius(t, y.reshape(shape))), 1.0, 1)
    return RadiusKeeper(lambda *_: float(radius), 1.0)
