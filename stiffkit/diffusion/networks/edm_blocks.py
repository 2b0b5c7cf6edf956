"""What the networks of EDM are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import silu

__all__ = ["Conv", "FourierEmbedding", "GroupNorm", "Linear", "PositionalEmbedding", "UNetBlock"]


class Linear(nn.Module):
    """Affine map in the precision of its input, whatever that of the weights."""

    def __init__(self, n_in: int, n_out: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / math.sqrt(n_in))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map to the last axis."""
        return functional.linear(x, self.weight.to(x.dtype), _cast(self.bias, x))


class Conv(nn.Module):
    """Same-size convolution before a "down", or after an "up", with a separable filter.

    Parameters
    ----------
    n_in, n_out : int
        Channels.
    kernel : int
        Odd width; 0 leaves the resampling alone.
    resample : {"keep", "down", "up"}
        By a factor of two.
    taps : sequence of float
        Of the resampling filter: (1, 1) is the mean of 2x2 pixels, and the nearest pixel.
    fused : bool
        Whether the convolution of a "down" comes first, and pads for both.
    """

    resample_filter: Tensor | None

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int,
        resample: str = "keep",
        taps: Sequence[float] = (1, 1),
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.resample, self.fused = resample, fused
        fan_in = n_in * kernel**2
        self.weight = self.bias = None
        if kernel:
            weight = torch.randn(n_out, n_in, kernel, kernel) / math.sqrt(fan_in)
            self.weight = nn.Parameter(weight)
            self.bias = nn.Parameter(torch.zeros(n_out))
        row = torch.tensor(taps, dtype=torch.float32)
        kept = resample == "keep"
        self.register_buffer(
            "resample_filter", None if kept else (row.outer(row) / row.sum() ** 2)[None, None]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to `x`, shape (B, n_in, H, W)."""
        if self.fused:
            x = self._convolve(x, _margin(self.resample_filter))
            return self._resample(x, 0)
        return self._convolve(self._resample(x, _margin(self.resample_filter)), 0)

    def _convolve(self, x: Tensor, extra: int) -> Tensor:
        if self.weight is None:
            return x
        padding = self.weight.shape[-1] // 2 + extra
        return functional.conv2d(x, self.weight.to(x.dtype), _cast(self.bias, x), padding=padding)

    def _resample(self, x: Tensor, padding: int) -> Tensor:
        if self.resample_filter is None:
            return x
        c = x.shape[1]
        f = self.resample_filter.to(x.dtype).expand(c, -1, -1, -1)
        if self.resample == "down":
            return functional.conv2d(x, f, groups=c, stride=2, padding=padding)
        return functional.conv_transpose2d(x, 4 * f, groups=c, stride=2, padding=padding)


class GroupNorm(nn.Module):
    """Group normalisation with at most 32 groups of at least 4 channels."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = min(32, channels // 4), eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, shape (B, channels, H, W)."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return functional.group_norm(x, self.groups, weight, bias, self.eps)


class UNetBlock(nn.Module):
    """Residual block, with optional resampling and self-attention.

    Parameters
    ----------
    n_in, n_out, n_emb : int
        Channels of input, output and embedding.
    resample : {"keep", "down", "up"}
    taps : sequence of float
        Of the resampling filter.
    heads : int
        Attention heads, 0 for none.
    adaptive_scale : bool
        Whether the embedding also scales what the second normalisation gives.
    project : bool
        Whether a resampled skip path has a 1x1 convolution even if it keeps its channels.
    skip_scale : float
        Factor on each sum.
    eps : float
        Of the normalisations.
    dropout : float
        Before the second convolution.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_emb: int,
        *,
        resample: str = "keep",
        taps: Sequence[float] = (1, 1),
        heads: int = 0,
        adaptive_scale: bool = True,
        project: bool = False,
        skip_scale: float = 1.0,
        eps: float = 1e-5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_in, self.n_out, self.heads, self.dropout = n_in, n_out, heads, dropout
        self.adaptive_scale, self.skip_scale = adaptive_scale, skip_scale
        self.norm0 = GroupNorm(n_in, eps)
        self.conv0 = Conv(n_in, n_out, 3, resample, taps)
        self.affine = Linear(n_emb, 2 * n_out if adaptive_scale else n_out)
        self.norm1 = GroupNorm(n_out, eps)
        self.conv1 = Conv(n_out, n_out, 3)
        kernel = 1 if n_in != n_out or project else 0
        plain = n_in == n_out and resample == "keep"
        self.skip = None if plain else Conv(n_in, n_out, kernel, resample, taps)
        self.norm2 = GroupNorm(n_out, eps) if heads else None
        self.qkv = Conv(n_out, 3 * n_out, 1) if heads else None
        self.proj = Conv(n_out, n_out, 1) if heads else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Apply the block to `x`, shape (B, n_in, H, W), given `emb`, shape (B, n_emb)."""
        y = self.conv0(silu(self.norm0(x)))
        moves = self.affine(emb)[:, :, None, None].to(y.dtype)  # (B, n_out or 2 n_out, 1, 1)
        if self.adaptive_scale:
            scale, shift = moves.chunk(2, dim=1)
            y = silu(self.norm1(y) * (scale + 1) + shift)
        else:
            y = silu(self.norm1(y + moves))
        y = self.conv1(functional.dropout(y, self.dropout, self.training))
        x = (y + (x if self.skip is None else self.skip(x))) * self.skip_scale
        if self.norm2 is not None and self.qkv is not None and self.proj is not None:
            x = (x + self.proj(self._attend(self.qkv(self.norm2(x))))) * self.skip_scale
        return x

    def _attend(self, qkv: Tensor) -> Tensor:
        n, c, height, width = qkv.shape
        qkv = qkv.reshape(n, self.heads, c // 3 // self.heads, 3, height * width)
        q, k, v = qkv.permute(3, 0, 1, 4, 2)  # each (B, heads, H·W, c/heads)
        y = functional.scaled_dot_product_attention(q, k, v)
        return y.transpose(2, 3).reshape(n, c // 3, height, width)


class PositionalEmbedding(nn.Module):
    """Cosines and sines of x at n/2 frequencies from 1 down to 1e-4, shape (B,) → (B, n).

    With `endpoint` the lowest frequency is reached, without it the next one would be.
    """

    def __init__(self, n: int, endpoint: bool = False) -> None:
        super().__init__()
        self.n, self.endpoint = n, endpoint

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        half = self.n // 2
        exponents = torch.arange(half, dtype=x.dtype, device=x.device) / (half - self.endpoint)
        return _cos_sin(torch.outer(x, 1e-4**exponents))


class FourierEmbedding(nn.Module):
    """Cosines and sines of x at n/2 random frequencies, shape (B,) → (B, n)."""

    freqs: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(n // 2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        return _cos_sin(torch.outer(x, 2 * math.pi * self.freqs.to(x)))


def _cast(x: Tensor | None, like: Tensor) -> Tensor | None:
    return None if x is None else x.to(like.dtype)


def _cos_sin(x: Tensor) -> Tensor:
    return torch.cat((x.cos(), x.sin()), dim=1)


def _margin(taps: Tensor | None) -> int:
    return 0 if taps is None else (taps.shape[-1] - 1) // 2
