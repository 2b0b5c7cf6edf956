"""The solvers of peers.py, each to one kind of answer.

A solver gives, for a case, the f that it takes, and a function that solves with such an f at a
relative tolerance. Where a peer is absent there is no solver.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any

from _measure import peer  # first: it sets the number of threads

# isort: split
import numpy as np
from _peer_problems import Case
from scipy.integrate import solve_ivp

import stiffkit as sk
from stiffkit.solvers.stabilised import STABILISED

MAX_STEPS = 50_000
MAX_CALLS = 5 * MAX_STEPS  # for peers that have no bound of their own
PYTHON, COMPILED = "Python", "compiled"

Answer = dict[str, Any]


class GivenUp(RuntimeError):
    """A solver has failed, or takes too long."""


class Counted:
    """f, with a count of its calls, and a bound of it."""

    def __init__(self, f: Callable[..., Any]) -> None:
        self.f, self.calls = f, 0

    def __call__(self, *args: Any) -> Any:
        """Call f."""
        self.calls += 1
        if self.calls > MAX_CALLS:
            msg = f"more than {MAX_CALLS} calls of f"
            raise GivenUp(msg)
        return self.f(*args)


@dataclass(frozen=True)
class Solver:
    """A way to solve a case."""

    name: str
    library: str
    kind: str
    """PYTHON or COMPILED: what f is."""
    solve: Callable[[Case, Any, float], Answer]
    """Takes the case, its f and rtol; returns y(t1) as "y", and what it counts."""
    f: Callable[[Case], Any]
    """Returns f as the solver takes it, None where there is none."""
    counts: bool = False
    """Says itself how often it calls f; otherwise that is counted from outside."""

    @property
    def ours(self) -> bool:
        """Whether this is stiffkit."""
        return self.library == "stiffkit"


F = {PYTHON: attrgetter("python"), COMPILED: attrgetter("compiled")}


def _done(success: bool, message: str) -> None:
    if not success:
        raise GivenUp(message)


# stiffkit -----------------------------------------------------------------------------------------


def ours(method: str, kind: str) -> Solver:
    """Return one of our methods."""

    def solve(case: Case, f: Any, rtol: float) -> Answer:
        more: dict[str, Any] = {}
        if case.bandwidth is not None and method not in {**sk.EXPLICIT, **STABILISED}:
            more["bandwidth"] = case.bandwidth
        solution = sk.solve(
            f,
            case.t_span,
            case.y0,
            method,
            max_steps=MAX_STEPS,
            **case.tolerances(rtol),
            **more,
        )
        _done(solution.success, solution.message)
        return {
            "y": solution.y[-1],
            "nfev": solution.stats["nfev"],
            "steps": solution.stats["accepted"],
        }

    if kind == PYTHON:
        return Solver(method, "stiffkit", kind, solve, F[kind], counts=True)
    f = attrgetter("written")
    return Solver(f"{method}, jit", "stiffkit", kind, solve, f, counts=True)


# SciPy, and the methods of extensisq, which its driver runs ---------------------------------------


def scipy(method: Any, kind: str = PYTHON, library: str = "SciPy") -> Solver:
    """Return a method of `solve_ivp`."""
    name = method if isinstance(method, str) else method.__name__

    def solve(case: Case, f: Any, rtol: float) -> Answer:
        more: dict[str, Any] = {}
        if case.bandwidth is not None and name == "LSODA":
            more["lband"], more["uband"] = case.bandwidth
        elif case.bandwidth is not None and name in ("Radau", "BDF"):
            more["jac_sparsity"] = _band(len(case.y0), *case.bandwidth)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # LSODA's, when it gives up
            result = solve_ivp(f, case.t_span, case.y0, method, **case.tolerances(rtol), **more)
        _done(result.success, result.message)
        return {"y": result.y[:, -1], "steps": len(result.t) - 1}

    label = f"{library} {name}" + ("" if kind == PYTHON else ", jit")
    return Solver(label, library, kind, solve, F[kind])


@cache
def _band(n: int, lower: int, upper: int) -> Any:
    from scipy import sparse

    width = range(-lower, upper + 1)
    return sparse.diags_array(np.ones((len(width), n)), offsets=list(width), shape=(n, n))


def extensisq(names: tuple[str, ...]) -> list[Solver]:
    """Return methods of extensisq."""
    module = peer("extensisq")
    return (
        []
        if module is None
        else [scipy(getattr(module, name), library="extensisq") for name in names]
    )


# CVODE --------------------------------------------------------------------------------------------


def cvode(method: str) -> list[Solver]:
    """Return CVODE's "BDF" or "Adams", with both kinds of f."""
    module = peer("sksundae.cvode")
    if module is None:
        return []

    def solve(case: Case, f: Any, rtol: float) -> Answer:
        def into(t: float, y: Any, out: Any) -> None:
            out[:] = f(t, y)

        more: dict[str, Any] = {}
        if case.bandwidth is not None:
            lower, upper = case.bandwidth
            more = {"linsolver": "band", "lband": lower, "uband": upper}
        solver = module.CVODE(
            into, method=method, max_num_steps=MAX_CALLS, **case.tolerances(rtol), **more
        )
        with np.errstate(over="ignore"):  # NumPy finds the flags that compiled code left
            result = solver.solve(np.array(case.t_span), np.array(case.y0, dtype=float))
        _done(result.success, str(result.message))
        return {"y": result.y[-1]}

    name = f"CVODE {method}"
    return [
        Solver(name, "CVODE", PYTHON, solve, F[PYTHON]),
        Solver(f"{name}, jit", "CVODE", COMPILED, solve, F[COMPILED]),
    ]


# diffrax ------------------------------------------------------------------------------------------


def diffrax(names: tuple[str, ...]) -> list[Solver]:
    """Return solvers of diffrax, jitted; "newton" in a name is Newton's iteration to 1e-10.

    Step control is that of its documentation: I for explicit solvers, PI for implicit ones.
    """
    if peer("diffrax") is None:
        return []
    return [_diffrax(name) for name in names]


def _diffrax(name: str) -> Solver:
    @cache
    def compiled(case: Case) -> Callable[[float], Any]:
        return diffrax_solve(case.in_jax, case.t_span, name, case.y0, case.atol)

    def solve(case: Case, f: Any, rtol: float) -> Answer:  # noqa: ARG001 - it is compiled in
        y, steps, done = compiled(case)(rtol)
        _done(bool(done), f"not at the end after {int(steps)} steps")
        return {"y": y, "steps": int(steps)}

    return Solver(f"diffrax {name}", "diffrax", COMPILED, solve, attrgetter("in_jax"), counts=True)


def diffrax_solve(
    f: Any, span: tuple[float, float], name: str, y0: Any, atol: Any, args: Any = None
) -> Callable[[float], tuple[Any, ...]]:
    """Return a jitted function of rtol that returns y(t1), the steps, and whether it got there.

    `atol` is that for rtol = 1. With `args`, one for each row of `y0`, a batch is solved by vmap.
    """
    import diffrax
    import jax
    import optimistix
    from jax import numpy as jnp

    jax.config.update("jax_enable_x64", True)
    solver = getattr(diffrax, name.split(",")[0])()
    pi = {}
    if isinstance(solver, diffrax.AbstractImplicitSolver):
        pi = {"pcoeff": 0.3, "icoeff": 0.4}
        if "Newton" in name:
            solver = type(solver)(root_finder=optimistix.Newton(rtol=1e-10, atol=1e-14))

    def one(rtol: Any, y0: Any, args: Any) -> Any:
        control = diffrax.PIDController(rtol=rtol, atol=rtol * jnp.asarray(atol), **pi)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(f),
            solver,
            *span,
            None,
            y0,
            args,
            saveat=diffrax.SaveAt(t1=True),
            stepsize_controller=control,
            max_steps=MAX_STEPS,
            throw=False,
        )
        done = solution.result == diffrax.RESULTS.successful
        return solution.ys[-1], solution.stats["num_steps"], done

    y0 = jnp.asarray(y0, dtype=float)
    args = None if args is None else jnp.asarray(args)
    run = jax.jit(one if args is None else jax.vmap(one, in_axes=(None, 0, 0)))
    return lambda rtol: tuple(np.asarray(part) for part in run(rtol, y0, args))


# Families -----------------------------------------------------------------------------------------


def _both(*methods: str) -> list[Solver]:
    return [ours(method, kind) for kind in (PYTHON, COMPILED) for method in methods]


def explicit() -> list[Solver]:
    """Return the solvers for problems that are not stiff."""
    return [
        *_both("auto", "dopri5", "tsit5", "vern7", "vern8", "vern9", "dop853"),
        *(scipy(name) for name in ("RK45", "DOP853", "LSODA")),
        scipy("LSODA", COMPILED),
        *extensisq(("BS5", "Ts5", "Pr8")),
        *cvode("Adams"),
        *diffrax(("Dopri5", "Tsit5", "Dopri8")),
    ]


def stiff() -> list[Solver]:
    """Return the solvers for small stiff systems."""
    return [
        *_both("auto", "rodas4", "rodas5p", "radau5", "radau9", "kvaerno5"),
        *(scipy(name) for name in ("Radau", "BDF", "LSODA")),
        *(scipy(name, COMPILED) for name in ("Radau", "BDF", "LSODA")),
        *extensisq(("KC4I",)),
        *cvode("BDF"),
        *diffrax(("Kvaerno3", "Kvaerno5", "Kvaerno5, Newton")),
    ]


def stabilised() -> list[Solver]:
    """Return the solvers for diffusion: stabilised, and implicit ones that know the band."""
    return [
        *_both("auto", "rkc2", "rkl2", "rock2", "rock4", "rodas5p"),
        *(scipy(name) for name in ("Radau", "BDF", "LSODA")),
        scipy("LSODA", COMPILED),
        *extensisq(("SSV2stab",)),
        *cvode("BDF"),
        *diffrax(("Tsit5", "Kvaerno5")),
    ]
