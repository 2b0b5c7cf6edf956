"""Guidance of the field: a denoiser made of two, for every solver alike.

All compare a strong prediction D with a weak one D_w and go beyond it, D_w + w (D − D_w) or a
variation of that. What is returned is a denoiser ``(x, sigma, labels=None)`` again. Its strength w
is a number, an array with an entry per sample, or a function of σ that gives either, and is 1
(the strong prediction alone, the weak one is not evaluated) for noise levels outside `interval`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from .._array import Array, backend_of, to_numpy
from ._samples import inner, norm, quotient

__all__ = [
    "GuidedDenoiser",
    "adaptive_projected_guidance",
    "autoguidance",
    "cfg_plus_plus",
    "cfg_zero_star",
    "classifier_free_guidance",
]

Denoiser = Callable[..., Array]
Rule = Callable[[Array, Array, Any, Array, Any], Array]
"""(D, D_w, w, x, sigma) -> guided D; w and sigma broadcast against x."""


@dataclass(frozen=True, eq=False)
class GuidedDenoiser:
    """A strong and a weak denoiser, and how they are combined."""

    strong: Denoiser
    """Called as ``strong(x, sigma, labels)``, without labels if there are none."""
    weak: Denoiser
    """Called in the same way."""
    weight: Any
    """Strength w: a number, an array of shape (B,), or a function of σ that gives either."""
    rule: Rule
    """How the two are combined."""
    interval: tuple[float, float] = (0.0, math.inf)
    """Noise levels low < σ ≤ high at which there is guidance."""

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low < high:
            msg = f"interval must be (low, high) with 0 <= low < high, not {self.interval!r}"
            raise ValueError(msg)
        for name in ("strong", "weak"):
            if not callable(getattr(self, name)):
                msg = f"{name} must be a denoiser (x, sigma), not {getattr(self, name)!r}"
                raise TypeError(msg)
        if not callable(self.weight) and not all(map(math.isfinite, to_numpy(self.weight).flat)):
            msg = f"weight must be finite, not {self.weight!r}"
            raise ValueError(msg)

    def __call__(self, x: Array, sigma: Any, labels: Any = None) -> Array:
        """Return the guided prediction.

        Parameters
        ----------
        x : array, shape ``(B, *shape)``
            Noisy samples.
        sigma : float or array, shape () or (B,)
            Noise level.
        labels : optional
            Handed on to both denoisers.
        """
        D = call(self.strong, x, sigma, labels)
        low, high = self.interval
        inside = (sigma > low) & (sigma <= high) if _many(sigma) else low < float(sigma) <= high
        if inside is False or (inside is not True and not bool(inside.any())):
            return D
        w = _column(self.weight(sigma) if callable(self.weight) else self.weight, x)
        if inside is not True:
            w = backend_of(x).xp.where(_column(inside, x), w, 1.0)
        if isinstance(w, (int, float)) and w == 1 and self.rule is _linear:
            return D
        return self.rule(D, call(self.weak, x, sigma, labels), w, x, _column(sigma, x))

    def take(self, rows: Any) -> GuidedDenoiser:
        """Return the guided denoiser of some samples: strengths given per sample go along.

        Parameters
        ----------
        rows : ndarray of int, shape (b,)
            Samples of the batch.
        """
        weight = self.weight
        if not callable(weight) and np.ndim(weight):
            weight = weight if hasattr(weight, "ndim") else to_numpy(weight)
            weight = weight[backend_of(weight).index(rows, weight)]
        strong, weak = (guide_of(denoiser, rows) for denoiser in (self.strong, self.weak))
        return replace(self, strong=strong, weak=weak, weight=weight)


def guide_of(denoiser: Denoiser, rows: Any) -> Denoiser:
    """Return the denoiser of some samples of a batch; but for guided ones it is the same."""
    return denoiser.take(rows) if isinstance(denoiser, GuidedDenoiser) else denoiser


def call(denoiser: Denoiser, x: Array, sigma: Any, labels: Any) -> Array:
    """Return ``denoiser(x, sigma, labels)``, with labels only when given."""
    return denoiser(x, sigma) if labels is None else denoiser(x, sigma, labels)


def classifier_free_guidance(
    denoiser: Denoiser,
    weight: Any,
    *,
    unconditional: Denoiser | None = None,
    null: Any = None,
    interval: tuple[float, float] = (0.0, math.inf),
) -> GuidedDenoiser:
    """Classifier-free guidance: D_u + w (D_c − D_u), in an interval of noise levels.

    Parameters
    ----------
    denoiser : callable
        The conditional network.
    weight : float, array of shape (B,), or callable
        Strength w; 1 is no guidance.
    unconditional : callable, optional
        The network for D_u, called without labels. By default `denoiser` itself.
    null : optional
        Labels that stand for "none"; by default D_u is called without labels.
    interval : (float, float)
        Noise levels low < σ ≤ high at which to guide.

    References
    ----------
    J. Ho, T. Salimans, Classifier-free diffusion guidance, 2022, doi:10.48550/arXiv.2207.12598;
    T. Kynkäänniemi et al., Applying guidance in a limited interval, NeurIPS 2024,
    doi:10.48550/arXiv.2404.07724.
    """
    weak = _unlabelled(denoiser if unconditional is None else unconditional, null)
    return GuidedDenoiser(denoiser, weak, weight, _linear, interval)


def autoguidance(
    denoiser: Denoiser,
    weak: Denoiser,
    weight: Any,
    *,
    interval: tuple[float, float] = (0.0, math.inf),
) -> GuidedDenoiser:
    """Guide a network by a weaker version of itself, both with the same labels.

    Parameters
    ----------
    denoiser, weak : callable
        The network, and one that is smaller or less trained.
    weight : float, array of shape (B,), or callable
        Strength w; 1 is no guidance.
    interval : (float, float)
        Noise levels low < σ ≤ high at which to guide.

    References
    ----------
    T. Karras et al., Guiding a diffusion model with a bad version of itself, NeurIPS 2024,
    doi:10.48550/arXiv.2406.02507.
    """
    return GuidedDenoiser(denoiser, weak, weight, _linear, interval)


def adaptive_projected_guidance(
    denoiser: Denoiser,
    weight: Any,
    *,
    unconditional: Denoiser | None = None,
    null: Any = None,
    eta: float = 0.0,
    threshold: float = math.inf,
    momentum: float = 0.0,
    interval: tuple[float, float] = (0.0, math.inf),
) -> GuidedDenoiser:
    """Adaptive projected guidance: D_c + (w − 1) (u⊥ + η u∥), u = D_c − D_u made shorter.

    u is first averaged, u ← u + momentum · (the u before), then cut to the length `threshold`, and
    then split along D_c: the part along it, u∥, is what over-saturates. With η = 1 and the other
    two off this is classifier-free guidance.

    Parameters
    ----------
    denoiser, weight, unconditional, null, interval
        As for `classifier_free_guidance`.
    eta : float
        Share of the part along D_c that is kept.
    threshold : float
        Largest length of u, per sample, positive.
    momentum : float
        Weight of the u before, above −1 and below 1; the paper's are negative. The memory ends
        where σ rises or the shape changes: a new run begins there. It follows a grid: with error
        control, where samples have levels of their own, it is refused.

    Raises
    ------
    ValueError
        If `threshold` or `momentum` is out of range; at a call, if there is momentum and the
        samples are at different noise levels.

    References
    ----------
    S. Sadat et al., Eliminating oversaturation and artifacts of high guidance scales in diffusion
    models, ICLR 2025, doi:10.48550/arXiv.2410.02416.
    """
    if not threshold > 0:
        msg = f"threshold must be positive, not {threshold!r}"
        raise ValueError(msg)
    if not -1 < momentum < 1:
        msg = f"momentum must be above -1 and below 1, not {momentum!r}"
        raise ValueError(msg)
    before: list[Any] = []  # σ and u of the call before

    def rule(D: Array, weak: Array, w: Any, x: Array, sigma: Any) -> Array:  # noqa: ARG001
        xp, u = backend_of(D).xp, D - weak
        if momentum:
            levels = to_numpy(sigma)
            level = float(levels.max())
            if level > float(levels.min()):
                msg = "momentum needs all samples at one noise level: it follows a grid, no rtol"
                raise ValueError(msg)
            if before and level <= before[0] and before[1].shape == u.shape:
                u = u + momentum * before[1]
            before[:] = level, u
        if threshold < math.inf:
            size = norm(u, xp)
            u = u * xp.where(size > threshold, quotient(threshold + 0 * size, size, xp), 1.0)
        along = quotient(inner(u, D), inner(D, D), xp) * D
        return D + (w - 1) * (u - along + eta * along)

    weak = _unlabelled(denoiser if unconditional is None else unconditional, null)
    return GuidedDenoiser(denoiser, weak, weight, rule, interval)


def cfg_zero_star(
    denoiser: Denoiser,
    weight: Any,
    *,
    unconditional: Denoiser | None = None,
    null: Any = None,
    zero_above: float = math.inf,
    interval: tuple[float, float] = (0.0, math.inf),
) -> GuidedDenoiser:
    """CFG-Zero*: the unconditional flow velocity scaled to fit, and none at the highest noise.

    With velocities v = (x − D)/σ − D of the flow x_t = (1 − t) x₀ + t n, t = σ/(1 + σ), the guided
    one is s v_u + w (v_c − s v_u), s = ⟨v_c, v_u⟩/‖v_u‖² per sample.

    Parameters
    ----------
    denoiser, weight, unconditional, null, interval
        As for `classifier_free_guidance`.
    zero_above : float
        Noise level above which the velocity is 0, x_t stands still: the paper's zero-init of the
        first steps.

    References
    ----------
    W. Fan et al., CFG-Zero*: improved classifier-free guidance for flow matching models, 2025,
    doi:10.48550/arXiv.2503.18886.
    """

    def rule(D: Array, weak: Array, w: Any, x: Array, sigma: Any) -> Array:
        xp = backend_of(x).xp
        v, v_u = ((x - prediction) / sigma - prediction for prediction in (D, weak))
        v_u = quotient(inner(v, v_u), inner(v_u, v_u), xp) * v_u
        v = v_u + w * (v - v_u)
        if zero_above < math.inf:
            v = xp.where(sigma + 0 * v > zero_above, 0.0, v)
        return (x - sigma * v) / (1 + sigma)

    weak = _unlabelled(denoiser if unconditional is None else unconditional, null)
    return GuidedDenoiser(denoiser, weak, weight, rule, interval)


def cfg_plus_plus(
    denoiser: Denoiser,
    weight: float,
    sigmas: Any,
    *,
    unconditional: Denoiser | None = None,
    null: Any = None,
) -> GuidedDenoiser:
    """CFG++: guidance that renoises with the unconditional prediction, for a grid of noise levels.

    Its step is x' = D_λ + σ'/σ (x − D_u), D_λ = D_u + λ (D_c − D_u). That is Euler's step of
    classifier-free guidance with w = λ/(1 − σ'/σ), so the strength follows from the grid: Euler's
    method on `sigmas` is CFG++ itself, and any other method carries it over.

    Parameters
    ----------
    denoiser, unconditional, null
        As for `classifier_free_guidance`.
    weight : float
        λ, in the paper between 0 and 1.
    sigmas : array_like, shape (n,)
        Falling noise levels that the sampler is to use; after the last comes σ' = 0. Between them
        the strength is that of the level above.

    Raises
    ------
    ValueError
        If the noise levels do not fall.

    References
    ----------
    H. Chung et al., CFG++: manifold-constrained classifier free guidance for diffusion models, ICLR
    2025, doi:10.48550/arXiv.2406.08070.
    """
    levels = [float(s) for s in sigmas]
    if not levels or not all(a > b for a, b in pairwise([*levels, 0.0])):
        msg = f"sigmas must be positive and falling, not {levels!r}"
        raise ValueError(msg)
    rising, ratios = levels[::-1], np.array([b / a for a, b in pairwise([*levels, 0.0])])

    def strength(sigma: Any) -> Any:
        level = to_numpy(sigma) * (1 - 1e-6)  # float32 rounds the grid's values
        above = len(levels) - 1 - np.searchsorted(rising, level)
        w = weight / (1 - ratios[np.maximum(above, 0)])
        return w if np.ndim(w) else float(w)

    weak = _unlabelled(denoiser if unconditional is None else unconditional, null)
    return GuidedDenoiser(denoiser, weak, strength, _linear)


def _linear(D: Array, weak: Array, w: Any, x: Array, sigma: Any) -> Array:  # noqa: ARG001
    return weak + w * (D - weak)


def _unlabelled(denoiser: Denoiser, null: Any) -> Denoiser:
    return lambda x, sigma, labels=None: call(denoiser, x, sigma, null)  # noqa: ARG005


def _many(value: Any) -> bool:
    return getattr(value, "ndim", 0) > 0


def _column(value: Any, x: Array) -> Any:
    """Give one value per sample the axes of x; numbers stay numbers."""
    if not hasattr(value, "ndim"):
        if isinstance(value, (int, float)):
            return value
        value = to_numpy(value)
    if value.ndim == 0:
        return value
    if tuple(value.shape) != (len(x),):
        msg = f"need one value per sample, {len(x)}, not shape {tuple(value.shape)}"
        raise ValueError(msg)
    backend = backend_of(x)
    flags = str(value.dtype).endswith("bool")
    return (value if flags else backend.real_like(value, x)).reshape((-1,) + (1,) * (x.ndim - 1))
