"""Closed-form denoisers: oracles for tests, and a test bed without a network.

For data x₀ ~ Σ_j p_j N(μ_j, C_j) and x = x₀ + σ n the posterior mean is a mixture of linear maps,

    D(x, σ) = Σ_j r_j D_j,    D_j = μ_j + C_j (C_j + σ² I)⁻¹ (x − μ_j),
    r_j ∝ p_j N(x; μ_j, C_j + σ² I).

Since ∇ log N(x; μ_j, C_j + σ² I) = (D_j − x)/σ², its Jacobian is symmetric and has no negative
eigenvalue:

    ∂D/∂x = Σ_j r_j C_j (C_j + σ² I)⁻¹ + σ⁻² Σ_j r_j (D_j − D)(D_j − D)ᵀ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from .._array import Array, backend_of, is_torch, to_numpy

__all__ = ["DataDenoiser", "GaussianMixture", "gaussian"]


class _Mixture(ABC):
    """What the closed forms share: components with weights and classes, and their interface."""

    def __init__(self, means: Array, weights: Any, classes: Any) -> None:
        m = len(means)
        self.backend = backend_of(means)
        self.xp, self.means = self.backend.xp, means.reshape((m, -1))
        self.shape = tuple(means.shape[1:])
        p = np.full(m, 1.0 / m) if weights is None else to_numpy(weights)
        if p.shape != (m,) or not (p > 0).all() or not np.isfinite(p).all():
            msg = f"weights must be {m} positive numbers, not {weights!r}"
            raise ValueError(msg)
        self.weights = p / p.sum()
        self.log_weights = self.backend.vector(np.log(self.weights), self.means)
        self.classes = None if classes is None else np.asarray(classes, dtype=int)
        if self.classes is not None and self.classes.shape != (m,):
            msg = f"classes must be {m} integers, one per component, not {classes!r}"
            raise ValueError(msg)

    def __call__(self, x: Array, sigma: Any, labels: Any = None) -> Array:
        """Return the posterior mean of the clean sample.

        Parameters
        ----------
        x : array, shape ``(B, *shape)``
            Noisy samples.
        sigma : float or array, shape () or (B,)
            Noise level, positive.
        labels : array_like of int, shape (B,), optional
            Class of each sample, −1 for any: only components of that class take part.

        Returns
        -------
        array, shape ``(B, *shape)``

        Raises
        ------
        TypeError, ValueError
            If `x` is not of the data's library, or its samples are not of the data's shape.
        """
        return self._mean(*self._flat(x, sigma), self._mask(labels, x)).reshape(x.shape)

    def jacobian(self, x: Array, sigma: Any, labels: Any = None) -> Array:
        """Return ∂D/∂x, shape ``(B, n, n)``, n the number of components of a sample."""
        flat, noise = self._flat(x, sigma)
        eye = self.backend.vector(np.eye(flat.shape[1]), flat)
        return self._slope(flat, noise, self._mask(labels, x), eye + 0 * flat[:, :, None])

    def jacobian_product(self, x: Array, sigma: Any, v: Array, labels: Any = None) -> Array:
        """Return (∂D/∂x) v, v of the shape of x, without the matrix."""
        flat, noise = self._flat(x, sigma)
        column = v.reshape(flat.shape)[:, :, None]
        return self._slope(flat, noise, self._mask(labels, x), column)[:, :, 0].reshape(x.shape)

    def draw(self, count: int, *, seed: int = 0, labels: Any = None) -> Array:
        """Return exact samples of the data, shape ``(count, *shape)``.

        Parameters
        ----------
        count : int
            How many.
        seed : int
            Of NumPy's generator: the same samples for NumPy and torch.
        labels : array_like of int, shape (count,), optional
            Class of each sample, −1 for any.
        """
        rng = np.random.default_rng(seed)
        log_p = np.log(self.weights) + to_numpy(self._mask(labels, self.means[:1], count))
        # The largest of Gumbel-perturbed log-weights is a draw from the weights.
        chosen = np.argmax(log_p + rng.gumbel(size=(count, len(self.weights))), axis=1)
        drawn = to_numpy(self.means)[chosen] + self._spread(chosen, rng)
        return self.backend.vector(drawn, self.means).reshape((count, *self.shape))

    def _flat(self, x: Array, sigma: Any) -> tuple[Array, Any]:
        """Return the samples as rows, and σ² as a number or a column."""
        if is_torch(x) != is_torch(self.means):
            msg = f"x must be of the library of the data, {type(self.means)}, not {type(x)}"
            raise TypeError(msg)
        flat = x.reshape((len(x), -1))
        if flat.shape[1] != self.means.shape[1]:
            msg = f"x has samples of shape {tuple(x.shape[1:])}; the data has {self.shape}"
            raise ValueError(msg)
        level = self.backend.real_like(sigma, flat)
        return flat, (level.reshape((-1, 1)) if level.ndim else level) ** 2

    def _mask(self, labels: Any, like: Array, count: int | None = None) -> Any:
        """0 where a component may take part and −inf where not, shape (B, m); 0 without labels."""
        if labels is None:
            return 0.0
        wanted, count = to_numpy(labels), len(like) if count is None else count
        known = self.classes
        if known is None or wanted.shape != (count,) or not np.isin(wanted, [-1, *known]).all():
            msg = f"labels must be {count} of the classes given, or -1, not {labels!r}"
            raise ValueError(msg)
        allowed = (wanted[:, None] == known) | (wanted[:, None] == -1)
        return self.backend.vector(np.where(allowed, 0.0, -np.inf), like)

    def _softmax(self, logits: Array) -> Array:
        xp = self.xp
        weights = xp.exp(logits - xp.amax(logits, axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    @abstractmethod
    def _mean(self, x: Array, noise: Any, mask: Any) -> Array:
        """D of rows x at σ² = noise."""

    @abstractmethod
    def _slope(self, x: Array, noise: Any, mask: Any, V: Array) -> Array:
        """(∂D/∂x) V for V of shape (B, n, k)."""

    @abstractmethod
    def _spread(self, chosen: Any, rng: np.random.Generator) -> Any:
        """Draw x₀ − μ_j for components j = chosen."""


class DataDenoiser(_Mixture):
    """The ideal denoiser of a finite data set, or of its smoothed density.

    For data x_1, ..., x_m, each blurred to N(x_j, s² I), noisy x = x₀ + σ n has the posterior mean

        D(x, σ) = (s² x + σ² Σ_j w_j x_j) / (s² + σ²),    w = softmax(−‖x − x_j‖² / (2 (s² + σ²))).

    Parameters
    ----------
    data : array, shape ``(m, *shape)``
        NumPy or torch, floating point.
    std : float
        The blur s ≥ 0; 0 is the data set itself.
    classes : array_like of int, shape (m,), optional
        Class of each sample, for conditional denoising.

    Raises
    ------
    ValueError
        If `std` is negative, `data` has no samples or `classes` not one for each.
    """

    def __init__(self, data: Array, std: float = 0.0, *, classes: Any = None) -> None:
        if len(data) == 0 or not std >= 0:
            msg = f"need at least one sample and std >= 0, not {len(data)} and {std!r}"
            raise ValueError(msg)
        super().__init__(data, None, classes)
        self.data, self.variance = self.means, std**2
        self.square = (self.data**2).sum(axis=1)

    def _weights(self, x: Array, total: Any, mask: Any) -> Array:
        # ‖x‖² is the same for every x_j and cancels in the softmax.
        return self._softmax((x @ self.data.T - 0.5 * self.square) / total + mask)

    def _mean(self, x: Array, noise: Any, mask: Any) -> Array:
        total = self.variance + noise
        return (self.variance * x + noise * (self._weights(x, total, mask) @ self.data)) / total

    def _slope(self, x: Array, noise: Any, mask: Any, V: Array) -> Array:
        total = self.variance + noise
        w = self._weights(x, total, mask)
        mean = w @ self.data
        inner = w[:, :, None] * (self.data @ V - self.xp.einsum("bn,bnk->bk", mean, V)[:, None])
        spread = self.data.T @ inner - mean[:, :, None] * inner.sum(axis=1, keepdims=True)
        level, total = (x[..., None] if x.ndim else x for x in (noise, total))
        return (self.variance * V + level / total * spread) / total

    def _spread(self, chosen: Any, rng: np.random.Generator) -> Any:
        return self.variance**0.5 * rng.standard_normal((len(chosen), self.data.shape[1]))


class GaussianMixture(_Mixture):
    """The ideal denoiser of a mixture of m Gaussians in n dimensions, whatever their covariances.

    The covariance of component j is ``covariances[j] + factors[j] @ factors[j].T + std[j]² I``.

    Parameters
    ----------
    means : array, shape ``(m, *shape)``
        NumPy or torch, floating point; n is the number of components of `shape`.
    covariances : array, shape (m, n, n), optional
        Symmetric and positive semidefinite.
    factors : array, shape (m, n, r), optional
        Covariances of low rank; of them only n·r numbers are kept.
    std : float or array_like, shape (m,)
        Isotropic part, ≥ 0.
    weights : array_like, shape (m,), optional
        Probabilities up to a factor; equal by default.
    classes : array_like of int, shape (m,), optional
        Class of each component, for conditional denoising.

    Raises
    ------
    ValueError
        If shapes disagree, or a covariance is not positive semidefinite.
    """

    def __init__(
        self,
        means: Array,
        covariances: Array | None = None,
        *,
        factors: Array | None = None,
        std: Any = 0.0,
        weights: Any = None,
        classes: Any = None,
    ) -> None:
        super().__init__(means, weights, classes)
        m, n = self.means.shape
        floor = np.broadcast_to(to_numpy(std) ** 2, (m,))
        if not (to_numpy(std) >= 0).all():
            msg = f"std must not be negative, not {std!r}"
            raise ValueError(msg)
        if covariances is not None and factors is not None:
            covariances = covariances + factors @ self.xp.swapaxes(factors, 1, 2)
        if covariances is not None:
            C = _checked("covariances", covariances, (m, n, n))
            values, U = np.linalg.eigh(C)
            if not np.allclose(C, C.swapaxes(1, 2)) or values.min() < -1e-10 * abs(values).max():
                msg = "covariances must be symmetric and positive semidefinite"
                raise ValueError(msg)
            values = np.maximum(values, 0.0)
        elif factors is not None:
            U, root, _ = np.linalg.svd(_checked("factors", factors, (m, n, -1)), False)
            values = root**2
        else:
            U, values = np.zeros((m, n, 0)), np.zeros((m, 0))
        vector = self.backend.vector
        self.U = vector(U, self.means)  # (m, n, r), orthonormal columns
        self.along = vector(values + floor[:, None], self.means)  # variances along them
        self.floor = vector(floor, self.means)  # variance in all other directions

    def _parts(self, x: Array, noise: Any, mask: Any) -> tuple[Array, ...]:
        """Weights r (B, m), D_j (B, m, n), and the gains of C_j (C_j + σ²)⁻¹ in and off U."""
        xp, rest = self.xp, self.means.shape[1] - self.U.shape[2]
        d = x[:, None] - self.means  # (B, m, n)
        p = xp.einsum("mnr,bmn->bmr", self.U, d)
        level = noise[..., None] if noise.ndim else noise
        along, floor = self.along + level, self.floor + noise  # (1 or B, m, r) and (1 or B, m)
        off = (d * d).sum(axis=2) - (p * p).sum(axis=2)
        spread = (p * p / along + xp.log(along)).sum(axis=2) + off / floor + rest * xp.log(floor)
        gain, gain_off = self.along / along, self.floor / floor
        gain_off = gain_off + 0 * off
        turn = xp.einsum("mnr,bmr->bmn", self.U, (gain - gain_off[:, :, None]) * p)
        D = self.means + gain_off[:, :, None] * d + turn
        return self._softmax(self.log_weights - 0.5 * spread + mask), D, gain, gain_off

    def _mean(self, x: Array, noise: Any, mask: Any) -> Array:
        r, D, *_ = self._parts(x, noise, mask)
        return self.xp.einsum("bm,bmn->bn", r, D)

    def _slope(self, x: Array, noise: Any, mask: Any, V: Array) -> Array:
        einsum = self.xp.einsum
        r, D, gain, off = self._parts(x, noise, mask)
        q = (
            einsum("mnr,bnk->bmrk", self.U, V)
            * (r[:, :, None] * (gain - off[:, :, None]))[..., None]
        )
        linear = einsum("mnr,bmrk->bnk", self.U, q) + (r * off).sum(axis=1)[:, None, None] * V
        c = D - einsum("bm,bmn->bn", r, D)[:, None]
        inner = r[:, :, None] * einsum("bmn,bnk->bmk", c, V)
        level = noise[..., None] if noise.ndim else noise
        return linear + einsum("bmn,bmk->bnk", c, inner) / level

    def _spread(self, chosen: Any, rng: np.random.Generator) -> Any:
        U, along, floor = (to_numpy(a) for a in (self.U, self.along, self.floor))
        z = rng.standard_normal((len(chosen), U.shape[1]))
        low = np.sqrt(floor[chosen])[:, None]
        p = np.einsum("bnr,bn->br", U[chosen], z)
        return low * z + np.einsum("bnr,br->bn", U[chosen], (np.sqrt(along[chosen]) - low) * p)


def gaussian(variances: Array, mean: Array | None = None) -> GaussianMixture:
    """Return the denoiser of one Gaussian with independent components.

    Parameters
    ----------
    variances : array, shape ``shape``
        Variance of each component, ≥ 0: the spectrum of the data.
    mean : array, shape ``shape``, optional
        0 by default.

    Returns
    -------
    GaussianMixture
        Here D = mean + C (C + σ²)⁻¹ (x − mean), and the flow keeps (x − mean)/√(C + σ²).
    """
    mean = 0 * variances if mean is None else mean
    C = backend_of(variances).vector(np.diag(to_numpy(variances).reshape(-1)), variances)
    return GaussianMixture(mean[None], C[None])


def _checked(name: str, value: Array, shape: tuple[int, ...]) -> Any:
    array = to_numpy(value)
    if array.ndim != 3 or any(k not in (-1, n) for k, n in zip(shape, array.shape, strict=True)):
        msg = f"{name} must have shape {shape}, not {array.shape}"
        raise ValueError(msg)
    return array
