"""Noise for churn from the caller's generator, not from ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..._array import Array, backend_of
from ..stepping import Churn, SeededNoise

__all__ = ["CallersNoise"]


class CallersNoise(SeededNoise):
    """Noise by ``randn_like``, drawn only at the levels that churn raises.

    EDM draws at every level, EDM2 and k-diffusion only where the level rises: with generators of
    the caller's, one number too many would change all that follow.

    Parameters
    ----------
    randn_like : callable
        ``randn_like(x)``, unit normal numbers of the shape and dtype of x.
    like : array, shape ``(B, *shape)``
        The state.
    levels : sequence of float
        Noise levels in the order in which `normal` is called.
    churn : Churn
        Which of them it raises.
    """

    def __init__(
        self,
        randn_like: Callable[[Array], Array],
        like: Array,
        levels: Sequence[float],
        churn: Churn,
    ) -> None:
        self.like, self.randn_like, self.generators = like, randn_like, [None] * len(like)
        self._raised = iter([churn.raised(s, len(levels)) > s for s in levels])

    def normal(self, shape: Sequence[int]) -> Array:  # noqa: ARG002
        """Return unit normal numbers like the state; zeros where they are not used."""
        if next(self._raised):
            return self.randn_like(self.like)
        return backend_of(self.like).xp.zeros_like(self.like)
