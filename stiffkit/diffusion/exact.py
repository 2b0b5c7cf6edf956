"""Closed-form denoisers: oracles for tests, and a test bed without a network."""

from __future__ import annotations

from typing import Any

from .._array import Array, backend_of

__all__ = ["DataDenoiser"]


class DataDenoiser:
    """The ideal denoiser of a finite data set, or of its smoothed density.

    For data x_1, ..., x_m, each blurred to N(x_j, s² I), noisy x = x₀ + σ n has the posterior mean

        D(x, σ) = (s² x + σ² Σ_j w_j x_j) / (s² + σ²),    w = softmax(−‖x − x_j‖² / (2 (s² + σ²))).

    Parameters
    ----------
    data : array, shape ``(m, *shape)``
        NumPy or torch, floating point.
    std : float
        The blur s ≥ 0; 0 is the data set itself.

    Raises
    ------
    ValueError
        If `std` is negative or `data` has no samples.
    """

    def __init__(self, data: Array, std: float = 0.0) -> None:
        if len(data) == 0 or not std >= 0:
            msg = f"need at least one sample and std >= 0, not {len(data)} and {std!r}"
            raise ValueError(msg)
        self.data, self.variance = data.reshape((len(data), -1)), std**2
        self.xp = backend_of(data).xp
        self.square = (self.data**2).sum(axis=1)

    def __call__(self, x: Array, sigma: Any) -> Array:
        """Return the posterior mean of the clean sample.

        Parameters
        ----------
        x : array, shape ``(B, *shape)``
            Noisy samples.
        sigma : float or array, shape () or (B,)
            Noise level.

        Returns
        -------
        array, shape ``(B, *shape)``
        """
        xp, flat = self.xp, x.reshape((len(x), -1))
        noise = (sigma.reshape((-1, 1)) if getattr(sigma, "ndim", 0) else sigma) ** 2
        total = self.variance + noise
        # ‖x‖² is the same for every x_j and cancels in the softmax.
        logits = (flat @ self.data.T - 0.5 * self.square) / total
        weights = xp.exp(logits - xp.amax(logits, axis=1, keepdims=True))
        weights = weights / weights.sum(axis=1, keepdims=True)
        mean = (self.variance * flat + noise * (weights @ self.data)) / total
        return mean.reshape(x.shape)
