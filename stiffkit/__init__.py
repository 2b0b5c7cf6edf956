"""stiffkit: the ODE toolkit that knows how stiff your problem is."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .solvers import (
    CONTROLLERS,
    EXPLICIT,
    METHODS,
    ButcherTableau,
    Interpolant,
    PIDController,
    Solution,
    Status,
    Step,
    solve,
)

if TYPE_CHECKING:
    from .solvers.batch import Backsolve, Checkpoints, StiffBackwardWarning
    from .solvers.compat import ode_solver, solve_ivp
    from .solvers.compiled import jit
    from .solvers.ensemble import ensemble, ensemble_iter
    from .solvers.torchdiffeq import odeint, odeint_adjoint, odeint_event
    from .stiffness import diagnose

__version__ = "0.1.0"

__all__ = [
    "CONTROLLERS",
    "EXPLICIT",
    "METHODS",
    "Backsolve",
    "ButcherTableau",
    "Checkpoints",
    "Interpolant",
    "PIDController",
    "Solution",
    "Status",
    "Step",
    "StiffBackwardWarning",
    "diagnose",
    "ensemble",
    "ensemble_iter",
    "jit",
    "ode_solver",
    "odeint",
    "odeint_adjoint",
    "odeint_event",
    "solve",
    "solve_ivp",
]


# SciPy's integrators, and torch, take longer to import than all of stiffkit: who asks for what
# needs them pays for them.
_ELSEWHERE = {
    "Backsolve": "solvers.batch",
    "Checkpoints": "solvers.batch",
    "StiffBackwardWarning": "solvers.batch",
    "diagnose": "stiffness",
    "ensemble": "solvers.ensemble",
    "ensemble_iter": "solvers.ensemble",
    "jit": "solvers.compiled",
    "ode_solver": "solvers.compat",
    "odeint": "solvers.torchdiffeq",
    "odeint_adjoint": "solvers.torchdiffeq",
    "odeint_event": "solvers.torchdiffeq",
    "solve_ivp": "solvers.compat",
}


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        return getattr(import_module(f".{_ELSEWHERE[name]}", __name__), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
