"""A batch whose samples each have their own time, step size, and end."""

from .solve import solve_batch

__all__ = ["solve_batch"]
