"""EDM's preconditioning, which all networks here share: what makes a raw network a denoiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Preconditioned", "at_least_float32"]


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return `dtype`, or float32 for shorter ones."""
    return torch.promote_types(dtype, torch.float32)


class Preconditioned(nn.Module, ABC):
    """Denoiser D(x, σ) = c_skip·x + c_out·F(c_in·x, ln σ / 4, labels).

    With s = `sigma_data`: c_skip = s²/(σ² + s²), c_out = σs/√(σ² + s²), c_in = 1/√(σ² + s²).

    T. Karras, M. Aittala, T. Aila, S. Laine, Elucidating the design space of diffusion-based
    generative models, NeurIPS 2022, table 1, doi:10.48550/arXiv.2206.00364.
    """

    img_resolution: int
    img_channels: int
    label_dim: int
    sigma_data: float
    patch = 1
    dtype = torch.float32

    @abstractmethod
    def raw(self, x: Tensor, c_noise: Tensor, labels: Tensor | None, **options: Any) -> Tensor:
        """Return F for scaled input, shape (B, C, H, W); `labels` is None without classes."""

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        class_labels: Tensor | None = None,
        force_fp32: bool = False,
        **options: Any,
    ) -> Tensor:
        """Return the denoised images.

        Parameters
        ----------
        x : Tensor, shape (B, img_channels, img_resolution, img_resolution)
            Noisy images: data plus σ times unit normal noise.
        sigma : float or Tensor, shape () or (B,)
            Noise level, positive.
        class_labels : Tensor, shape (B, label_dim) or (1, label_dim) or (B,), optional
            One-hot, or integer classes. None is "no class", all zeros.
        force_fp32 : bool
            Whether to ignore a lower precision of the network.
        **options
            Passed on to the network.

        Returns
        -------
        Tensor, shape of `x`
            In the precision of `x`, float32 at least.
        """
        x = x.to(at_least_float32(x.dtype))
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1)
        s = self.sigma_data
        total = (sigma**2 + s**2).sqrt()
        dtype = self._precision(x, force_fp32)
        c_noise = (sigma.log() / 4).reshape(-1).expand(len(x)).to(at_least_float32(dtype))
        labels = self._one_hot(class_labels, c_noise)
        inner = functional.pixel_unshuffle((x / total).to(dtype), self.patch)
        raw = functional.pixel_shuffle(self.raw(inner, c_noise, labels, **options), self.patch)
        return (s / total) ** 2 * x + sigma * s / total * raw.to(x.dtype)

    def _precision(self, x: Tensor, force_fp32: bool) -> torch.dtype:
        weights = at_least_float32(next(self.parameters()).dtype)
        if force_fp32 or weights == torch.float64:
            return weights
        # As in EDM: float16 is slow on CPUs, or missing.
        return weights if self.dtype == torch.float16 and x.device.type == "cpu" else self.dtype

    def _one_hot(self, labels: Tensor | None, like: Tensor) -> Tensor | None:
        n = len(like)
        if self.label_dim == 0:
            return None
        if labels is None:
            return like.new_zeros((n, self.label_dim))
        if labels.ndim == 1:
            labels = functional.one_hot(labels.long(), self.label_dim)
        if labels.shape not in {(n, self.label_dim), (1, self.label_dim)}:
            msg = f"class_labels must have shape {(n, self.label_dim)}, not {tuple(labels.shape)}"
            raise ValueError(msg)
        return labels.to(like).expand(n, -1)


def check_sizes(img_resolution: int, levels: int, patch: int = 1, **sizes: float) -> None:
    """Raise ValueError for a size that is not positive, or a resolution that cannot be halved."""
    for name, size in {"img_resolution": img_resolution, "patch": patch, **sizes}.items():
        if not size > 0:
            msg = f"{name} must be positive, not {size!r}"
            raise ValueError(msg)
    if levels < 1:
        msg = "channel_mult must not be empty"
        raise ValueError(msg)
    if img_resolution % (patch << (levels - 1)):
        msg = f"img_resolution {img_resolution} is no multiple of {patch << (levels - 1)}"
        raise ValueError(msg)
