"""Denoisers: every network becomes D(x, σ), with x = x₀ + σ n.

A process mixes data and unit normal noise, x_t = α x₀ + s n. All of them are one, since x_t = α x
with σ = s/α; what differs is how a network's input is scaled, what it is told of the noise level,
and what it predicts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, get_args

import numpy as np

from .._array import Array, backend_of, to_numpy

__all__ = ["Denoiser", "DiscreteTimes", "EDMDenoiser", "NetworkDenoiser", "vp_time"]

Prediction = Literal["x0", "epsilon", "v", "flow", "score"]
Process = Literal["ve", "vp", "flow"]


class Denoiser(Protocol):
    """The expected clean sample, given a noisy one."""

    def __call__(self, x: Array, sigma: Any, /) -> Array:
        """Return D(x, σ); conditional ones take labels as a third argument.

        Parameters
        ----------
        x : array, shape ``(B, *shape)``
            Noisy samples x₀ + σ n.
        sigma : float or array, shape () or (B,)
            Noise level.

        Returns
        -------
        array, shape ``(B, *shape)``
        """


class NetworkDenoiser:
    """A network of any prediction and process as a denoiser.

    The network is called as ``net(α x, time, labels)`` with time of shape (B,), without labels if
    there are none. With c its result and x_t = α x,

    ============= =============================================
    ``"x0"``      D = c
    ``"epsilon"`` c = n, D = x − σ c
    ``"v"``       c = α n − s x₀, D = (α x_t − s c)/(α² + s²)
    ``"flow"``    c = n − x₀, D = (x_t − s c)/(α + s)
    ``"score"``   c = −n/s, D = x + σ s c
    ============= =============================================

    Parameters
    ----------
    net : callable
        The network.
    predicts : {"x0", "epsilon", "v", "flow", "score"}
        What it returns.
    process : {"ve", "vp", "flow"}
        ``"ve"``: α = 1, s = σ. ``"vp"``: α² + s² = 1. ``"flow"``: α = 1 − t, s = t.
    time : callable, optional
        What the network is told, as a function of σ (shape (B,)). By default σ, σ, and
        t = σ/(1 + σ); see `vp_time` and `DiscreteTimes`.
    dtype : optional
        The network's own dtype, if it is not that of the state: its input is cast to it and its
        result back, so that a half-precision network can run in a double-precision state.

    Raises
    ------
    ValueError
        If `predicts` or `process` is unknown.

    References
    ----------
    T. Karras et al., Elucidating the design space of diffusion-based generative models, NeurIPS
    2022, doi:10.48550/arXiv.2206.00364, table 1; T. Salimans, J. Ho, Progressive distillation,
    ICLR 2022, doi:10.48550/arXiv.2202.00512 (v).
    """

    def __init__(
        self,
        net: Callable[..., Array],
        predicts: Prediction,
        process: Process = "ve",
        *,
        time: Callable[[Array], Array] | None = None,
        dtype: Any = None,
    ) -> None:
        for name, value, known in (
            ("predicts", predicts, get_args(Prediction)),
            ("process", process, get_args(Process)),
        ):
            if value not in known:
                msg = f"{name} must be one of {', '.join(known)}, not {value!r}"
                raise ValueError(msg)
        self.net, self.predicts, self.process, self.dtype = net, predicts, process, dtype
        self.time = time or ((lambda s: s / (1 + s)) if process == "flow" else (lambda s: s))

    def __call__(self, x: Array, sigma: Any, labels: Any = None) -> Array:
        """Return D(x, σ), see `Denoiser`; labels are handed on."""
        levels = per_sample(sigma, x)
        column = levels.reshape((-1,) + (1,) * (x.ndim - 1))
        alpha, s = _scales(self.process, column)
        time, x_t = self.time(levels), alpha * x
        c = _in_dtype(self.net, self.dtype, x_t, time, *(() if labels is None else (labels,)))
        if self.predicts == "x0":
            return c
        if self.predicts == "epsilon":
            return x - column * c
        if self.predicts == "v":
            return (alpha * x_t - s * c) / (alpha**2 + s**2)
        if self.predicts == "flow":
            return (x_t - s * c) / (alpha + s)
        return x + column * s * c


class EDMDenoiser:
    """A network of EDM's or EDM2's calling convention, ``net(x, sigma, class_labels)``.

    Parameters
    ----------
    net : callable
        Returns D; its attribute ``label_dim``, if it has one, is the number of classes.
    dtype : optional
        The network's own dtype, see `NetworkDenoiser`.
    options
        Further keyword arguments of every call, such as ``force_fp32=True``.
    """

    def __init__(self, net: Callable[..., Array], *, dtype: Any = None, **options: Any) -> None:
        self.net, self.dtype, self.options = net, dtype, options

    def __call__(self, x: Array, sigma: Any, labels: Any = None) -> Array:
        """Return D(x, σ), see `Denoiser`.

        `labels` of shape (B,) are classes (−1 for none) and are encoded one-hot; others are handed
        on as they are.
        """
        if labels is not None:
            labels = self._encode(labels, x)

        def net(x: Array, sigma: Array, labels: Any = None) -> Array:
            return self.net(x, sigma, labels, **self.options)

        return _in_dtype(net, self.dtype, x, per_sample(sigma, x), labels)

    def _encode(self, labels: Any, x: Array) -> Array:
        if np.ndim(labels if isinstance(labels, (list, tuple)) else to_numpy(labels)) != 1:
            return labels
        classes, count = to_numpy(labels), int(getattr(self.net, "label_dim", 0))
        if not ((classes >= -1) & (classes < count) & (classes == classes.astype(int))).all():
            msg = f"labels must be classes 0 to {count - 1}, or -1 for none, not {labels!r}"
            raise ValueError(msg)
        one_hot = (classes[:, None] == np.arange(count)).astype(float)
        return backend_of(x).vector(one_hot, x)


class DiscreteTimes:
    """Times of a process that was trained at discrete steps: log σ interpolated to an index.

    Parameters
    ----------
    alphas_cumprod : array_like, shape (T,)
        ᾱ_t of the training schedule, falling; σ_t = √((1 − ᾱ_t)/ᾱ_t).

    Attributes
    ----------
    sigmas : ndarray, shape (T,)
        The rising noise levels of the training steps 0, …, T − 1.
    """

    def __init__(self, alphas_cumprod: Any) -> None:
        bar = to_numpy(alphas_cumprod)
        if bar.ndim != 1 or len(bar) < 2 or not ((bar > 0) & (bar < 1)).all():
            msg = "alphas_cumprod must be at least two numbers between 0 and 1"
            raise ValueError(msg)
        if not (np.diff(bar) < 0).all():
            msg = "alphas_cumprod must fall"
            raise ValueError(msg)
        self.sigmas = np.sqrt((1 - bar) / bar)

    def __call__(self, sigma: Array) -> Array:
        """Return the fractional training step of each σ, within 0, …, T − 1."""
        steps = np.interp(np.log(to_numpy(sigma)), np.log(self.sigmas), np.arange(len(self.sigmas)))
        return backend_of(sigma).real_like(steps, sigma)


def vp_time(
    sigma: Array, beta_d: float = 19.9, beta_min: float = 0.1, *, scale: float = 1.0
) -> Array:
    """Time t of the continuous variance-preserving process, σ² = exp(β_d t²/2 + β_min t) − 1.

    Parameters
    ----------
    sigma : array
        Noise levels.
    beta_d, beta_min : float
        Range and start of the linear β(t).
    scale : float
        What t is multiplied by, for example 999 for networks trained on 1000 steps.

    Returns
    -------
    array, the shape of sigma

    References
    ----------
    T. Karras et al., Elucidating the design space of diffusion-based generative models, NeurIPS
    2022, doi:10.48550/arXiv.2206.00364, table 1.
    """
    log = backend_of(sigma).xp.log1p(sigma**2)
    root = (beta_min**2 + 2 * beta_d * log) ** 0.5
    if beta_min < 0:
        return scale * (root - beta_min) / beta_d
    return scale * 2 * log / (beta_min + root)  # the same without cancellation


def per_sample(sigma: Any, x: Array) -> Array:
    """σ with an entry per sample, in the real dtype of x."""
    levels = backend_of(x).real_like(sigma, x)
    return levels if levels.ndim else backend_of(x).xp.broadcast_to(levels, (len(x),))


def _scales(process: Process, sigma: Array) -> tuple[Any, Array]:
    if process == "ve":
        return 1.0, sigma
    alpha = 1 / (1 + sigma) if process == "flow" else (1 + sigma**2) ** -0.5
    return alpha, sigma * alpha


def _in_dtype(net: Callable[..., Array], dtype: Any, x: Array, time: Array, *rest: Any) -> Array:
    if dtype is None:
        return net(x, time, *rest)

    rest = tuple(cast_to(r, dtype) if getattr(r, "dtype", None) == x.dtype else r for r in rest)
    return cast_to(net(cast_to(x, dtype), cast_to(time, dtype), *rest), x.dtype)


def cast_to(a: Array, dtype: Any) -> Array:
    """Return `a` in another dtype of its library."""
    return a.astype(dtype) if isinstance(a, np.ndarray) else a.to(dtype)
