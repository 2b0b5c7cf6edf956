"""torchdiffeq's calling conventions: `odeint`, `odeint_adjoint`, `odeint_event`."""

from .api import odeint, odeint_adjoint, odeint_event

__all__ = ["odeint", "odeint_adjoint", "odeint_event"]
