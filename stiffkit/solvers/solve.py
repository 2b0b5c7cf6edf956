"""The public solver: checks its arguments, and runs the loop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from .._array import backend_of, is_torch
from .._optional import is_jitted
from ._moving import events_moved, moves, solve_moving
from ._tree import is_tree, solve_tree
from .control import Controller
from .implicit import AdditiveTableau
from .loop import Run
from .methods import ADDITIVE, EXPLICIT, METHODS, Method
from .options import Hooks, Progress, StepOptions, event_functions
from .problem import (
    Problem,
    bind,
    check_compiles,
    check_flags,
    check_method,
    check_pair,
    check_stiff,
    check_takes_mass,
    is_split,
    make_problem,
    needs_batch,
    refuse_batched,
)
from .solution import Solution, Status
from .step import Step, StepHook
from .tableau import ButcherTableau

__all__ = ["make_run", "solve", "start_method"]


def solve(
    f: Callable[..., Any] | tuple[Callable[..., Any], Callable[..., Any]],
    t_span: Sequence[float],
    y0: Any,
    method: str | Method | AdditiveTableau = "auto",
    *,
    rtol: Any = 1e-6,
    atol: Any = 1e-9,
    t_eval: Any = None,
    grid: Any = None,
    dense: bool = False,
    events: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
    controller: str | Controller | None = None,
    first_step: float | None = None,
    max_step: float = math.inf,
    max_steps: int = 100_000,
    guide: StepHook | None = None,
    observe: StepHook | Sequence[StepHook] = (),
    callback: Callable[[Step], Any] | None = None,
    on_attempt: Callable[..., Any] | None = None,
    norm: Callable[[Any], Any] | None = None,
    progress: bool = False,
    log: bool = False,
    detect: bool = True,
    jac: Any = None,
    jvp: Callable[..., Any] | None = None,
    jac_sparsity: Any = None,
    bandwidth: tuple[int, int] | None = None,
    mass: Any = None,
    precond: Callable[..., Any] | None = None,
    radius: Any = None,
    args: Sequence[Any] = (),
    batched: bool = False,
    adjoint: Any = None,
    compile: bool = False,  # noqa: A002 - torch's word for it
) -> Solution:
    """Solve the initial value problem y' = f(t, y), or M y' = f(t, y), y(t0) = y0.

    Parameters
    ----------
    f : callable
        Right-hand side ``f(t, y, *args)``, returning dy/dt (with `mass`, M dy/dt) with the shape of
        y. For a NumPy state t is a float; for a torch state it is a 0-d tensor of the state's real
        dtype. f must not change y. What it returns is copied, so it may reuse one buffer. Its shape
        and dtype are checked at the first call and, for a one-dimensional NumPy state, once in
        every step after it; in all other cases at every call. A pair ``(f_explicit, f_implicit)``
        stands for their sum: the second, the stiff one, is treated implicitly, the first
        explicitly. Each of them is then checked at every call. With a function that numba has
        compiled, such as `stiffkit.jit` returns, the whole loop is compiled, too: see
        `stiffkit.solvers.compiled`. Such a function may also be of the form
        ``f(t, y, dy, *args)``, with one argument more than `args` explains: it writes dy/dt to dy
        and returns nothing.
    t_span : (float, float)
        t0 and t1; t1 < t0 integrates backward. An infinite t1 stands for the largest float: an
        event, `callback` or `max_steps` will end the solve. With t0 = t1 the solution is y0.
        Tensors that require gradients get them, and so do those in `t_eval`.
    y0 : array_like or torch.Tensor, or a tuple or dict of them
        Initial state: any shape, real or complex, single or double precision. Integers become
        floats (float64 for NumPy, the default dtype for torch). The state keeps this dtype.
        A (nested) tuple or dict of arrays, or with `batched` of arrays (B, ...), stays one: f,
        events and callbacks get such structures, f returns one, and so are the solution's states.
        (A list is array_like, and so is a tuple of numbers.)
    method : str or ButcherTableau
        A name in `stiffkit.METHODS` (SciPy's RK23, RK45 and DOP853 are understood too), or a
        method of your own: an explicit tableau, an ESDIRK or a Rosenbrock tableau. ``"auto"``
        starts with an explicit method and goes on with a stabilised or an implicit one, and back,
        where that costs less: see ``Solution.switches``. On a batch each sample has its own, and
        none of them is stabilised. (With `grid` or `guide` it is tsit5
        throughout, with `mass` an implicit method.) A split f takes kencarp3, kencarp4 or kencarp5,
        which are halves of additive pairs (as pairs they are named ark3, ark4 and ark5), or an
        `AdditiveTableau`; ``"auto"`` is kencarp4 then.
    rtol, atol : float or array of y0's shape
        A step is accepted when the rms of ``err / (atol + rtol max(|y|, |y_new|))`` is below 1.
    t_eval : array_like, optional
        Times to return the solution at, monotone within the span; by default every step's end.
        Times inside a step are interpolated to the method's dense order; implicit methods may
        shorten the step for it, as with `dense`.
    grid : array_like, int or callable, optional
        Take exactly these steps, without error control: times from t0 to t1, a number of equal
        steps, or ``grid(t0, t1)``, which returns one of both.
    dense : bool
        Keep an interpolant: ``solution(t)``. Its error, and that of `t_eval` and of events, is
        controlled where the method is implicit, at one point of each step: where a very stiff
        component is nearly exact at their ends, they would grow beyond what interpolation bears.
    events : callable or sequence of callable, optional
        Functions ``g(t, y, *args)`` whose zeros are wanted, with SciPy's attributes ``terminal``
        (bool or count) and ``direction``. See `stiffkit.solvers.events.EventFinder` for what
        counts as an event.
    controller : str or Controller, optional
        A name in `stiffkit.CONTROLLERS`, or your own.
    first_step : float, optional
        Size of the first step; by default Hairer's estimate, which costs one call of f.
    max_step : float
        Bound of the step size.
    max_steps : int
        Bound of the number of attempted steps; a longer `grid` is refused.
    guide : StepHook, optional
        Called as ``guide(step, probe)`` after each accepted step; returns the state to commit.
    observe : StepHook or sequence of StepHook
        Called like `guide`, before it; the readings go to ``Solution.log`` under each hook's
        ``name`` or ``__name__`` (numbered where a name is taken). With `batched` each is called
        with the steps of one sample after the other, or of all at once: see `StepHook`.
    callback : callable, optional
        ``callback(step)`` after each accepted step; a true return value stops the solve.
    on_attempt : callable, optional
        ``on_attempt(t, y, h, accepted)`` before each attempted step from (t, y) by h, with None for
        `accepted`, and once more with the verdict. With `batched` these are arrays, one entry for
        each row that still runs.
    norm : callable, optional
        ``norm(x)``, of arrays of y0's shape (with `batched` of one sample's), in the place of the
        rms by which steps are accepted and the first one is chosen.
    progress : bool
        Show a progress bar in t (needs tqdm).
    log : bool
        Keep ``Solution.log``, an entry per attempted step.
    detect : bool
        Watch for stiffness (not with `grid` or `guide`): a solve that was limited by stability
        says so in its message, of a batch each sample in its own. See `stiffkit.stiffness.detect`.
    jac : callable or matrix, optional
        For implicit and Rosenbrock methods: ``jac(t, y, *args)``, the Jacobian ∂f/∂y of shape
        (n, n), dense or sparse, with n the number of components, or the matrix itself where it is
        constant. By default it is made by differences, at n calls of f and a few more. With
        `bandwidth` it gives the diagonals, entry (i, j) in row mu + i − j of column j. Of a split f
        this, like all that follows, is about f_implicit alone.
    jvp : callable, optional
        ``jvp(t, y, v, *args)``, its product with a vector, y and v in y0's shape: systems are then
        solved by GMRES.
    jac_sparsity : array_like or sparse matrix, optional
        Nonzero where the Jacobian may be: differences take one call for each group of columns that
        share no row, and factorisations are sparse.
    bandwidth : (int, int), optional
        Diagonals below and above the main one that the Jacobian may have.
    mass : array_like of shape (n, n) or (n,), sparse matrix or Banded, optional
        For implicit and Rosenbrock methods: M of M y' = f(t, y), constant; a vector is its
        diagonal. It may be singular if the equation is of index 1, that is if the constraints
        which f then contains determine the components that have no derivative. y0 must satisfy
        them to within the tolerance.
    precond : callable, optional
        With `jvp`: ``precond(t, y, c, *args)`` returns a function r ↦ x that solves
        ``(M − c J) x = r`` roughly, M being the identity without `mass`, or a SciPy LinearOperator
        that does. It is called for every new step size or Jacobian. y and r have y0's shape; for a
        LinearOperator, r is flat. With Radau methods c and r are complex in all systems
        but one.
    radius : float or callable, optional
        For stabilised methods: a bound of the spectral radius of ∂f/∂y, or ``radius(t, y)`` (in a
        batch ``radius(t, y, *args)`` of shape (b,)). By default it is estimated by nonlinear power
        iteration.
    args : sequence
        Further arguments of f and of the events.
    batched : bool
        The first axis of y0 counts B problems, and each has its own t, step size, events and end.
        f gets t of shape (b,) and y of shape ``(b, *shape)``, where b ≤ B counts samples that
        still run: values of single samples belong into `args`, whose arrays of length B are cut
        to these rows. (If f, tried once with fewer rows, fails or returns something else, it is
        called with all B to the end.) `t_span` and `t_eval`, of shape (n_t,) or (n_t, B), and the
        tolerances may differ from sample to sample, and events return shape (b,).
        ``callback(t, y, accepted)`` sees the rows. Not with `guide`.
    adjoint : {"checkpoints", "backsolve"} or Checkpoints or Backsolve, optional
        For torch, how gradients are made. By default the history of the steps is kept, as for any
        computation; with checkpoints it is made again, a piece at a time; backsolve integrates the
        adjoint equation instead. See `stiffkit.solvers.batch.adjoint`.
    compile : bool
        For batches of real tensors, by an explicit method that is named, without `adjoint`: let
        torch.compile make one function of a step's stages, f included. That takes tens of seconds,
        once for each f and kind of tensor, and pays in long runs of an f of few and small
        operations: see :ref:`compiled-steps`. f must be what torch.compile can take whole, and
        only change what it holds where torch.compile sees it, as in parameters and tensors.

    Returns
    -------
    Solution, or BatchSolution
        Always, whether or not t1 was reached: see ``status`` and ``message``. An exception that f
        or a hook raises propagates; the partial Solution is its ``solution`` attribute.

    Raises
    ------
    TypeError, ValueError
        If an argument is unusable; before the first step.

    Examples
    --------
    >>> import stiffkit as sk
    >>> solution = sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0])
    >>> solution.status.name, round(float(solution.y[-1, 0]), 6)
    ('success', 0.367879)
    """
    arguments = locals()
    check_flags(
        dense=dense, progress=progress, log=log, detect=detect, batched=batched, compile=compile
    )
    if is_tree(y0):
        return solve_tree(solve, arguments)  # type: ignore[no-any-return]
    if is_torch(y0) and (moves(t_span) or moves(t_eval)) and backend_of(y0).grad_enabled():
        return solve_moving(solve, arguments)  # type: ignore[no-any-return]
    if is_jitted(f) and not compile:
        from .compiled.again import solve_again

        again = solve_again(arguments, lambda: make_run(arguments, *start_method(arguments)))
        if again is not None:
            return again
    tableau, auto = start_method(arguments)
    if compile:
        check_compiles(y0, tableau, batched=batched, auto=auto, adjoint=adjoint)
    if batched or adjoint is not None or (is_torch(y0) and needs_batch(tableau)):
        if is_split(f):
            msg = "a split f takes a NumPy state, one at a time"
            raise ValueError(msg)
        refuse_batched(
            guide=guide,
            jvp=jvp,
            jac_sparsity=jac_sparsity,
            bandwidth=bandwidth,
            mass=mass,
            precond=precond,
        )
        from .batch import solve_batch, solve_one

        run_batch: Any = solve_batch if batched else solve_one
        return run_batch(  # type: ignore[no-any-return]
            _returning(f, args),
            t_span,
            y0,
            tableau,
            StepOptions(controller, first_step, max_step, max_steps, grid, norm),
            rtol=rtol,
            atol=atol,
            t_eval=t_eval,
            dense=dense,
            events=events,
            observe=observe,
            callback=callback,
            on_attempt=on_attempt,
            progress=progress,
            log=log,
            radius=radius,
            jac=jac,
            adjoint=adjoint,
            auto=auto,
            detect=detect,
            compiled=compile,
            args=args,
        )
    run = make_run(arguments, tableau, auto)
    problem = run.problem
    with Progress(problem, enabled=progress) as bar:
        try:
            with problem.backend.quiet():
                run.integrate(bar)
        except BaseException as error:
            run.end(Status.interrupted, f"interrupted at t = {run.t!r} by {error!r}")
            with contextlib.suppress(AttributeError):  # an exception may have no __dict__
                error.solution = run.solution()  # type: ignore[attr-defined]
                error.add_note(f"stiffkit: solved up to t = {run.t!r}; see .solution")
            raise
    solution = run.solution()
    if run.finder is not None and problem.split is None and problem.backend.grad_enabled():
        solution = events_moved(solution, problem.raw["f"], run.finder.functions)
    return solution


def start_method(arguments: Mapping[str, Any]) -> tuple[Any, bool]:
    """Return the method to start with, checked, and whether `solve` may choose others."""
    f, method, grid = (arguments[name] for name in ("f", "method", "grid"))
    auto = isinstance(method, str) and method == "auto"
    if is_split(f):
        return check_pair("kencarp4" if auto else method, ADDITIVE), False
    tableau = check_method("tsit5" if auto else method, METHODS | ADDITIVE, adaptive=grid is None)
    return tableau, auto and grid is None and arguments["guide"] is None


def _returning(f: Any, args: Sequence[Any]) -> Any:
    """Return a compiled f that writes its result as one that returns it, and others as they are."""
    if not is_jitted(f):
        return f
    from .compiled import InPlace, writes

    return InPlace(f) if writes(f, args) else f


def make_run(arguments: Mapping[str, Any], tableau: Any, auto: bool) -> Run:
    """Check the arguments of `solve` for one solve by the loop, and return it before its start."""
    a = SimpleNamespace(**arguments)
    kind: Any = Run
    if is_jitted(a.f):
        from .compiled import CompiledRun

        given = {name: arguments[name] for name in ("jac", "radius", "events")}
        kind = partial(CompiledRun, a.f, given, a.args)
    steps = StepOptions(a.controller, a.first_step, a.max_step, a.max_steps, a.grid, a.norm)
    hooks = Hooks(a.guide, a.observe, a.callback, a.on_attempt, log=a.log)
    functions = event_functions(a.events, a.args)
    f = _returning(a.f, a.args)
    problem = make_problem(f, a.t_span, a.y0, a.args, a.rtol, a.atol, depth=3)
    steps.check(problem.t0, problem.t1)
    stiff = {name: arguments[name] for name in ("jac", "radius", "jvp", "precond")}
    for key, given in stiff.items():
        if key in ("jvp", "precond") and given is not None and not callable(given):
            msg = f"{key} must be a function, not {type(given).__name__}"
            raise TypeError(msg)
        stiff[key] = bind(given, a.args) if callable(given) else given
    stiff |= {name: arguments[name] for name in ("jac_sparsity", "bandwidth", "mass")}
    if a.mass is not None:
        if problem.split is not None:
            msg = "mass is not for a split f: write M⁻¹ into both parts, or solve their sum"
            raise ValueError(msg)
        tableau, stiff["mass"] = _with_mass(problem, tableau, stiff, auto=a.method == "auto")
        auto = False
    check_stiff(tableau, stiff, auto=auto)
    if problem.y0.shape[0] == 0 and tableau.name not in EXPLICIT:
        tableau = EXPLICIT["tsit5"]  # there is nothing to be stiff, nor to be split
        problem = replace(problem, split=None)
    run: Run = kind(
        problem,
        tableau,
        steps,
        hooks,
        functions,
        a.t_eval,
        dense=a.dense,
        progress=a.progress,
        stiff=stiff,
        auto=auto,
    )
    run.advises = a.detect
    explicit = isinstance(tableau, ButcherTableau) and tableau.explicit
    if a.detect and explicit and a.grid is None and a.guide is None and not auto:
        run.watch()
    return run


def _with_mass(problem: Problem, method: Any, stiff: dict[str, Any], *, auto: bool) -> Any:
    """Return the method to solve M y' = f with, and M, checked."""
    # Explicit solves need no linear algebra: its rooms are entered when a solve needs them.
    from .dae import check_fits
    from .mass import mass_structure
    from .switch import choose_implicit

    if auto:
        n, rtol = int(problem.y0.shape[0]), float(np.min(np.asarray(problem.rtol)))
        method = choose_implicit(n, rtol, operator=stiff["jvp"] is not None)
    check_takes_mass(method)
    mass = mass_structure(stiff["mass"], problem.y0)
    check_fits(mass, method)
    return method, mass
