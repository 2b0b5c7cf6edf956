"""Every method, collected from the modules that hold the literals."""

from __future__ import annotations

from typing import Any

from . import dop853, explicit, implicit, radau, rosenbrock, stabilised, verner
from .implicit import AdditiveTableau
from .rosenbrock import RosenbrockTableau
from .stabilised import StabilisedMethod
from .tableau import ButcherTableau

__all__ = ["ADDITIVE", "EXPLICIT", "METHODS", "STIFF", "Method"]

Method = ButcherTableau | RosenbrockTableau | StabilisedMethod
"""What `solve` can run: plain data, each kind with its own kernel."""


def _collect(*modules: Any) -> dict[str, Any]:
    kinds = (ButcherTableau, RosenbrockTableau, StabilisedMethod)
    values = (value for module in modules for value in vars(module).values())
    return {value.name: value for value in values if isinstance(value, kinds)}


EXPLICIT: dict[str, ButcherTableau] = _collect(explicit, dop853, verner)
"""Explicit Runge-Kutta methods by name, in the order of the modules."""

STIFF: dict[str, Method] = _collect(implicit, radau, rosenbrock, stabilised)
"""Implicit, Rosenbrock and stabilised methods by name."""

ADDITIVE: dict[str, AdditiveTableau] = {
    value.name: value for value in vars(implicit).values() if isinstance(value, AdditiveTableau)
}
"""Implicit-explicit pairs, for a split right-hand side, by name."""

METHODS: dict[str, Method] = {**EXPLICIT, **STIFF}
"""Name to method."""
