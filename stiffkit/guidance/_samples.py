"""Products and norms of each sample: the first axis counts samples, whatever the others are."""

from __future__ import annotations

from typing import Any

from .._array import Array

__all__ = ["inner", "norm", "quotient"]


def inner(x: Array, y: Array) -> Array:
    """⟨x, y⟩ of each sample, shaped to broadcast against x; of each number if x has one axis."""
    return (x * y).sum(axis=tuple(range(1, x.ndim)), keepdims=True) if x.ndim > 1 else x * y


def norm(x: Array, xp: Any) -> Array:
    """Return ‖x‖ of each sample."""
    return xp.sqrt(inner(x, x))


def quotient(a: Array, b: Array, xp: Any) -> Array:
    """a/b, and 0 where b is 0."""
    zero = b == 0
    return xp.where(zero, 0.0, a / xp.where(zero, 1.0, b))
