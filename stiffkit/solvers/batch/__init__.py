"""A batch whose samples each have their own time, step size, and end."""

from .adjoint import Backsolve, Checkpoints, StiffBackwardWarning
from .solve import solve_batch, solve_one

__all__ = [
    "Backsolve",
    "Checkpoints",
    "StiffBackwardWarning",
    "solve_batch",
    "solve_one",
]
