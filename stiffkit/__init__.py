"""stiffkit: the ODE toolkit that knows how stiff your problem is."""

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
    from .solvers.compat import ode_solver, solve_ivp
    from .solvers.torchdiffeq import odeint, odeint_adjoint, odeint_event
    from .stiffness import diagnose

__version__ = "0.1.0"

__all__ = [
    "CONTROLLERS",
    "EXPLICIT",
    "METHODS",
    "ButcherTableau",
    "Interpolant",
    "PIDController",
    "Solution",
    "Status",
    "Step",
    "diagnose",
    "ode_solver",
    "odeint",
    "odeint_adjoint",
    "odeint_event",
    "solve",
    "solve_ivp",
]


def __getattr__(name: str) -> Any:
    # SciPy's integrators take longer to import than all of stiffkit: only who asks pays for them.
    if name in ("ode_solver", "solve_ivp"):
        from .solvers import compat

        return getattr(compat, name)
    if name in ("odeint", "odeint_adjoint", "odeint_event"):
        from .solvers import torchdiffeq

        return getattr(torchdiffeq, name)
    if name == "diagnose":
        from .stiffness import diagnose

        return diagnose
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
