"""Every method, collected from the modules that hold the literals."""

from __future__ import annotations

from . import dop853, explicit, verner
from .tableau import ButcherTableau

__all__ = ["METHODS"]

METHODS: dict[str, ButcherTableau] = {
    tableau.name: tableau
    for module in (explicit, dop853, verner)
    for tableau in vars(module).values()
    if isinstance(tableau, ButcherTableau)
}
"""Name to tableau, in the order of the modules."""
