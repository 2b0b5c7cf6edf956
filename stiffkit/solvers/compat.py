"""SciPy's calling conventions: `solve_ivp`, and classes for SciPy's own driver."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np
from scipy.integrate import DenseOutput as ScipyDenseOutput
from scipy.integrate import OdeSolution, OdeSolver
from scipy.integrate import solve_ivp as scipy_solve_ivp
from scipy.optimize import OptimizeResult

from .._array import backend_of, is_torch
from .control import Controller, ErrorRatio, PIDController, PredictiveController, first_step
from .dense import Segment
from .methods import METHODS, Method
from .problem import check_method, check_positive, make_problem
from .radau import RADAU
from .solution import Solution, Status
from .solve import solve
from .step import StepFailed, make_stages
from .stiff import start_stiff
from .tableau import ButcherTableau

__all__ = ["ode_solver", "solve_ivp"]

_ELEMENTARY = PIDController()
"""SciPy's control: the elementary rule, safety 0.9, factors 0.2 to 10."""

_PREDICTIVE = PredictiveController()
"""SciPy's Radau has this rule too."""

_SCIPY_OWN = ("BDF", "LSODA")

_MESSAGES = {
    Status.success: "The solver successfully reached the end of the integration interval.",
    Status.event: "A termination event occurred.",
}


def solve_ivp(
    fun: Callable[..., Any],
    t_span: Sequence[float],
    y0: Any,
    method: str | type[OdeSolver] | Method = "RK45",
    t_eval: Any = None,
    dense_output: bool = False,
    events: Any = None,
    vectorized: bool = False,
    args: Sequence[Any] | None = None,
    **options: Any,
) -> Any:
    """Solve an initial value problem with SciPy's signature, conventions and result.

    Parameters
    ----------
    fun, t_span, y0, t_eval, dense_output, events, vectorized, args
        As in `scipy.integrate.solve_ivp`.
    method : str, OdeSolver class or tableau
        ``RK23``, ``RK45``, ``DOP853``, ``Radau`` (`radau5`) and every name in `stiffkit.METHODS`
        with an error estimate run in stiffkit's loop with SciPy's step control; RK23, RK45 and
        DOP853 are step for step equal to SciPy's. ``BDF``, ``LSODA`` and solver classes are handed
        to SciPy.
    **options
        ``rtol`` (1e-3), ``atol`` (1e-6), ``first_step``, ``max_step``; for implicit and Rosenbrock
        methods ``jac`` (a function, or a constant matrix, dense or sparse), ``jac_sparsity``, and
        stiffkit's ``bandwidth``, ``jvp``, ``precond`` and ``mass``; for SciPy's own methods also
        theirs.

    Returns
    -------
    scipy.optimize.OptimizeResult
        Fields t, y of shape (n, n_t), sol, t_events, y_events, nfev, njev, nlu, status, message,
        success, as SciPy's.

    Notes
    -----
    Some things differ from SciPy, on purpose: events of even number inside one step are found;
    an event function that is zero at the start does not count as an event there; a right-hand
    side that returns NaN or inf ends the solve with status −1 instead of looping; one that
    changes its argument, or returns a number for a vector, is refused; the probe that chooses the
    first step stays within `max_step` (steps differ only where that bound is shorter than the
    probe); and DOP853 counts fewer calls, since a rejected step needs no slope at its end. Radau
    is no copy of SciPy's either: it keeps Jacobians longer, takes complex states, and its nfev
    counts the calls for difference Jacobians too, which SciPy's leaves out.
    """
    plain = isinstance(method, str) and method in _SCIPY_OWN
    if plain or inspect.isclass(method):
        call = {"t_eval": t_eval, "dense_output": dense_output, "events": events}
        call |= {"vectorized": vectorized, "args": args, **options}
        return scipy_solve_ivp(fun, t_span, y0, method, **call)
    if is_torch(y0):
        msg = "solve_ivp takes NumPy states, as SciPy does; stiffkit.solve takes torch tensors"
        raise TypeError(msg)
    tableau = check_method(method, METHODS, adaptive=True)
    explicit = isinstance(tableau, ButcherTableau) and tableau.explicit
    _check_like_scipy(y0, args)
    t0, t1 = map(float, t_span)
    if t0 == t1 or np.size(y0) == 0:  # nothing to integrate: SciPy's driver has the conventions
        bare = tableau if explicit else "RK45"
        options = {"t_eval": t_eval, "dense_output": dense_output, "events": events, **options}
        return scipy_solve_ivp(fun, t_span, y0, ode_solver(bare), args=args, **options)
    rtol, atol = _tolerances(options)
    named = ["first_step", "max_step"]
    if not explicit:
        named += ["jac", "jac_sparsity", "bandwidth", "jvp", "precond", "mass"]
        if options.get("jac") is not None:
            options.pop("jac_sparsity", None)  # as SciPy: a given Jacobian needs no pattern
    known = {key: options.pop(key) for key in named if key in options}
    _warn_extraneous(options)
    solution = solve(
        _column(fun) if vectorized else fun,
        (t0, t1),
        np.asarray(y0, dtype=complex if np.iscomplexobj(y0) else float),
        tableau,
        rtol=rtol,
        atol=atol,
        t_eval=t_eval,
        dense=dense_output,
        events=events,
        controller=_PREDICTIVE if tableau.name in RADAU else _ELEMENTARY,
        max_steps=10**15,
        detect=False,
        args=() if args is None else args,
        **known,
    )
    return _as_scipy(solution, events=events is not None)


def _as_scipy(solution: Solution, *, events: bool) -> Any:
    empty = len(solution.t) == 0
    sol = None
    if solution.interpolant is not None:
        segments = [_ScipySegment(segment) for segment in solution.interpolant.segments]
        sol = OdeSolution(solution.interpolant.breaks, segments)
    status = {Status.success: 0, Status.event: 1}.get(solution.status, -1)
    records = solution.events if events else None
    return OptimizeResult(
        t=[] if empty else solution.t,
        y=[] if empty else solution.y.T,
        sol=sol,
        t_events=None if records is None else [record.t for record in records],
        y_events=None
        if records is None
        else [record.y if len(record.y) else np.asarray([]) for record in records],
        nfev=solution.stats["nfev"],
        njev=solution.stats["njev"],
        nlu=solution.stats["nlu"],
        status=status,
        message=_MESSAGES.get(solution.status, solution.message),
        success=status >= 0,
    )


class _ScipySegment(ScipyDenseOutput):
    """A `Segment` in SciPy's clothes: times last."""

    def __init__(self, segment: Segment) -> None:
        super().__init__(segment.t_0, segment.t_1)
        self.segment = segment

    def _call_impl(self, t: Any) -> Any:
        if t.ndim == 0:
            return self.segment(float(t))
        return self.segment.many(t, backend_of(self.segment.y_0)).T


def _check_like_scipy(y0: Any, args: Any) -> None:
    """Make the errors that SciPy's users and tests expect."""
    if not np.all(np.isfinite(y0)):
        msg = "All components of the initial state `y0` must be finite."
        raise ValueError(msg)
    if np.ndim(y0) != 1:
        msg = "`y0` must be 1-dimensional."
        raise ValueError(msg)
    if args is not None and not np.iterable(args):
        msg = (
            "Supplied 'args' cannot be unpacked. Please supply `args` as a tuple "
            f"(e.g. `args=({args},)`)"
        )
        raise TypeError(msg)


def _tolerances(options: dict[str, Any]) -> tuple[Any, Any]:
    rtol, atol = options.pop("rtol", 1e-3), options.pop("atol", 1e-6)
    least = 100 * np.finfo(float).eps
    if np.any(np.asarray(rtol) < least):
        text = (
            "At least one element of `rtol` is too small. "
            f"Setting `rtol = np.maximum(rtol, {least})`."
        )
        warnings.warn(text, UserWarning, stacklevel=3)
        rtol = np.maximum(rtol, least)
    return rtol, atol


def _warn_extraneous(options: dict[str, Any]) -> None:
    unknown = {key: value for key, value in options.items() if value is not None}
    if unknown:
        names = ", ".join(f"`{key}`" for key in unknown)
        text = f"The following arguments have no effect for a chosen solver: {names}."
        warnings.warn(text, UserWarning, stacklevel=3)


def _column(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Call a vectorised right-hand side with one column."""
    return lambda t, y, *args: np.asarray(fun(t, y[:, None], *args)).ravel()


class _RungeKutta(OdeSolver):
    """SciPy's `OdeSolver` interface over stiffkit's step; see `ode_solver`."""

    TOO_SMALL_STEP: ClassVar[str] = "Required step size is less than spacing between numbers."
    tableau: ClassVar[Any]
    t: float
    y: Any
    t_bound: float
    direction: float

    def __init__(
        self,
        fun: Callable[..., Any],
        t0: float,
        y0: Any,
        t_bound: float,
        max_step: float = math.inf,
        rtol: Any = 1e-3,
        atol: Any = 1e-6,
        vectorized: bool = False,
        first_step: float | None = None,
        **options: Any,
    ) -> None:
        explicit = isinstance(self.tableau, ButcherTableau) and self.tableau.explicit
        named = () if explicit else ("jac", "jac_sparsity", "bandwidth", "jvp", "precond")
        jacobian = {name: options.pop(name) for name in named if name in options}
        _warn_extraneous(options)
        super().__init__(fun, t0, y0, t_bound, vectorized, support_complex=True)
        self.max_step = check_positive("max_step", max_step)
        rtol, atol = _tolerances({"rtol": rtol, "atol": atol})
        self.backend = backend_of(self.y)
        self.ratio = ErrorRatio(rtol, np.asarray(atol), self.y, self.backend)
        f_0 = self.fun(self.t, self.y)
        self.stages: Any
        radau = self.tableau.name in RADAU
        self.controller: Controller = _PREDICTIVE if radau else _ELEMENTARY
        if explicit:
            self.stages = make_stages(self.fun, self.tableau, self.y, f_0, self.backend, dense=True)
        else:
            problem = make_problem(self.fun, (t0, t_bound), self.y, (), rtol, atol)
            self.stages = start_stiff(problem, self.tableau, f_0, **jacobian)
        self.memory = self.controller.init()
        self.error_order = self.stages.error_order
        self.h_abs = self._first_step(first_step, f_0)
        self.y_old: Any = None

    def _first_step(self, given: float | None, f_0: Any) -> float:
        span = abs(self.t_bound - self.t)
        if given is not None:
            check_positive("first_step", given)
            if given > span:
                msg = f"first_step={given!r} exceeds the span of length {span!r}"
                raise ValueError(msg)
            return float(given)
        if self.n == 0 or span == 0:
            return span
        h: float = first_step(
            self.fun,
            self.t,
            self.y,
            f_0,
            direction=self.direction,
            order=self.error_order,
            rtol=self.ratio.rtol,
            atol=self.ratio.atol,
            longest=span,
            max_step=self.max_step,
            backend=self.backend,
        )
        return h

    def _step_impl(self) -> tuple[bool, str | None]:
        t, y, direction = self.t, self.y, self.direction
        hold = self.stages.hold
        min_step = 10 * math.ulp(t)
        h_abs = min(self.h_abs, self.max_step) if self.h_abs > min_step else min_step
        if self.y_old is not None:
            self.stages.advance(t, y)
        accept = False
        while not accept:
            if h_abs < min_step:
                return False, self.TOO_SMALL_STEP
            t_new = t + h_abs * direction
            if (t_new - self.t_bound) * direction > 0:
                t_new = self.t_bound
            h = t_new - t
            try:
                y_new = self.stages.attempt(t, y, t_new)
                errors = self.stages.errors()
            except StepFailed as failed:
                h_abs = failed.longest
                _, _, self.memory = self.controller(math.inf, self.memory, self.error_order)
                continue
            ratio = self.ratio(errors, y_new)
            ratio = ratio if math.isfinite(ratio) else math.inf
            accept, factor, self.memory = self.controller(ratio, self.memory, self.error_order)
            if accept and hold[0] < factor < hold[1]:
                factor = 1.0
            h_abs = abs(h) * factor
        self.njev, self.nlu = getattr(self.stages, "njev", 0), getattr(self.stages, "nlu", 0)
        self.ratio.accept(y_new)
        self.h_abs, self.y_old, self.t, self.y = h_abs, y, t_new, y_new
        return True, None

    def _dense_output_impl(self) -> _ScipySegment:
        return _ScipySegment(self.stages.segment(self.t_old, self.y_old, self.t, self.y).settle())


@cache
def ode_solver(method: str | Method) -> type[OdeSolver]:
    """Return a class for SciPy's own driver: ``scipy.integrate.solve_ivp(..., method=cls)``.

    Parameters
    ----------
    method : str or tableau
        A name in `stiffkit.METHODS`, SciPy's RK23, RK45, DOP853, Radau, or a tableau, with an error
        estimate. Classes of implicit methods take ``jac`` and ``jac_sparsity``, as SciPy's do.

    Returns
    -------
    type
        Subclass of `scipy.integrate.OdeSolver`, named after the method.
    """
    tableau = check_method(method, METHODS, adaptive=True)
    attributes = {
        "tableau": tableau,
        "order": tableau.order,
        "error_estimator_order": tableau.error_order,
        "n_stages": getattr(tableau, "n_stages", None),  # stabilised methods choose it by the step
        "__doc__": f"SciPy's solver interface over {tableau!r}.",
    }
    return type(tableau.name, (_RungeKutta,), attributes)
