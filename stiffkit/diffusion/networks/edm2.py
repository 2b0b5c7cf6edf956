"""The magnitude-preserving network of EDM2, and its preconditioning.

T. Karras, M. Aittala, J. Lehtinen, J. Hellsten, T. Aila, S. Laine, Analyzing and improving the
training dynamics of diffusion models, CVPR 2024, doi:10.48550/arXiv.2312.02696, configuration G.
Every layer keeps the expected magnitude of what passes through it, so nothing is normalised by
data-dependent statistics and no layer has a bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .precond import Preconditioned, at_least_float32, check_sizes

__all__ = ["EDM2", "MPConv", "MPFourier", "mp_cat", "mp_silu", "mp_sum", "normalize"]


def normalize(x: Tensor, dim: Sequence[int] | None = None, eps: float = 1e-4) -> Tensor:
    """Scale `x` to a root mean square of one over `dim`, by default all axes but the first."""
    axes = list(range(1, x.ndim)) if dim is None else list(dim)
    norm = torch.linalg.vector_norm(x, dim=axes, keepdim=True, dtype=at_least_float32(x.dtype))
    rms = norm * math.sqrt(norm.numel() / x.numel())
    unit: Tensor = x / (eps + rms).to(x.dtype)
    return unit


def mp_silu(x: Tensor) -> Tensor:
    """SiLU over its root mean square for unit normal input, 0.596 (eq. 81)."""
    return functional.silu(x).div_(0.596)


def mp_sum(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """Return (1 − t)·a + t·b with the magnitude restored, for uncorrelated a and b (eq. 88)."""
    return torch.lerp(a, b, t).div_(math.hypot(1 - t, t))


def mp_cat(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """Concatenate channels; `t` is the share of `b`, whatever the sizes (eq. 103)."""
    n_a, n_b = a.shape[1], b.shape[1]
    c = math.sqrt((n_a + n_b) / ((1 - t) ** 2 + t**2))
    return torch.cat((a * (c / math.sqrt(n_a) * (1 - t)), b * (c / math.sqrt(n_b) * t)), dim=1)


class MPFourier(nn.Module):
    """Random Fourier features √2·cos(2π(f·x + φ)) of a scalar (eq. 75), shape (B,) → (B, n)."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(n))
        self.register_buffer("phases", 2 * math.pi * torch.rand(n))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features in the precision of `x`, float32 at least."""
        x = x.to(at_least_float32(x.dtype))
        return math.sqrt(2) * torch.cos(torch.outer(x, self.freqs.to(x)) + self.phases.to(x))


class MPConv(nn.Module):
    """Linear layer or same-size convolution with unit-norm filters and no bias (eq. 47).

    Parameters
    ----------
    n_in, n_out : int
        Channels.
    kernel : int, optional
        Odd width of a square kernel; None makes it a linear layer.
    """

    def __init__(self, n_in: int, n_out: int, kernel: int | None = None) -> None:
        super().__init__()
        shape = (n_out, n_in) if kernel is None else (n_out, n_in, kernel, kernel)
        self.weight = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Apply the layer in the precision of `x`; weights are normalised in float32 or better."""
        w = normalize(self.weight.to(at_least_float32(self.weight.dtype)))
        w = (w * (gain / math.sqrt(w[0].numel()))).to(x.dtype)
        return x @ w.T if w.ndim == 2 else functional.conv2d(x, w, padding=w.shape[-1] // 2)


class Block(nn.Module):
    """Residual block of the encoder or the decoder, with optional resampling and attention.

    Parameters
    ----------
    n_in, n_out, n_emb : int
        Channels of input, output and noise embedding.
    decoder : bool
        The encoder normalises the pixels it starts from, the decoder does not.
    resample : {"keep", "down", "up"}
        Mean of 2x2 pixels, or each pixel four times.
    heads : int
        Attention heads, 0 for none.
    dropout : float
        Probability, between the convolutions.
    """

    RESIDUAL = 0.3  # the branch's share in a sum, here and for attention
    CLIP = 256.0

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_emb: int,
        *,
        decoder: bool = False,
        resample: str = "keep",
        heads: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.decoder, self.resample, self.heads, self.dropout = decoder, resample, heads, dropout
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = MPConv(n_in if decoder else n_out, n_out, 3)
        self.emb_linear = MPConv(n_emb, n_out)
        self.conv_res1 = MPConv(n_out, n_out, 3)
        self.conv_skip = MPConv(n_in, n_out, 1) if n_in != n_out else None
        self.attn_qkv = MPConv(n_out, 3 * n_out, 1) if heads else None
        self.attn_proj = MPConv(n_out, n_out, 1) if heads else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Apply the block to `x`, shape (B, n_in, H, W), given `emb`, shape (B, n_emb)."""
        x = _resample(x, self.resample)
        if not self.decoder:
            x = normalize(self._skip(x), dim=[1])
        scale = self.emb_linear(emb, gain=self.emb_gain) + 1  # (B, n_out)
        y = self.conv_res0(mp_silu(x))
        y = mp_silu(y * scale[:, :, None, None].to(y.dtype))
        y = self.conv_res1(functional.dropout(y, self.dropout, self.training))
        if self.decoder:
            x = self._skip(x)
        x = mp_sum(x, y, self.RESIDUAL)
        if self.attn_qkv is not None and self.attn_proj is not None:
            x = mp_sum(x, self.attn_proj(self._attend(self.attn_qkv(x))), self.RESIDUAL)
        return x.clip(-self.CLIP, self.CLIP)

    def _skip(self, x: Tensor) -> Tensor:
        return self.conv_skip(x) if self.conv_skip is not None else x

    def _attend(self, qkv: Tensor) -> Tensor:
        """Attend with queries, keys and values of unit magnitude (cosine attention)."""
        n, c, height, width = qkv.shape
        qkv = qkv.reshape(n, self.heads, c // 3 // self.heads, 3, height * width)
        q, k, v = normalize(qkv, dim=[2]).permute(3, 0, 1, 4, 2)  # each (B, heads, H·W, c/heads)
        y = functional.scaled_dot_product_attention(q, k, v)
        return y.transpose(2, 3).reshape(n, c // 3, height, width)


class UNet(nn.Module):
    """The U-net of EDM2: see `EDM2` for the parameters."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int,
        model_channels: int,
        channel_mult: Sequence[float],
        num_blocks: int,
        attn_resolutions: Sequence[int],
        channels_per_head: int,
        dropout: float,
    ) -> None:
        super().__init__()
        widths = [round(model_channels * mult) for mult in channel_mult]
        n_emb = max(widths)
        self.label_dim = label_dim
        self.out_gain = nn.Parameter(torch.zeros(()))
        self.emb_fourier = MPFourier(widths[0])
        self.emb_noise = MPConv(widths[0], n_emb)
        self.emb_label = MPConv(label_dim, n_emb) if label_dim else None

        def block(n_in: int, n_out: int, attend: bool = False, **options: Any) -> Block:
            heads = max(1, n_out // channels_per_head) if attend else 0
            return Block(n_in, n_out, n_emb, heads=heads, dropout=dropout, **options)

        self.enc = nn.ModuleDict()
        self.dec = nn.ModuleDict()
        skips: list[int] = []
        c = img_channels + 1  # the channel of ones takes the place of biases
        for level, width in enumerate(widths):
            res = img_resolution >> level
            size = f"{res}x{res}"
            if level == 0:
                self.enc[f"{size}_conv"] = MPConv(c, width, 3)
                c = width
            else:
                self.enc[f"{size}_down"] = block(c, c, resample="down")
            skips.append(c)
            for i in range(num_blocks):
                self.enc[f"{size}_block{i}"] = block(c, width, res in attn_resolutions)
                c = width
                skips.append(c)
        for level, width in reversed(list(enumerate(widths))):
            res = img_resolution >> level
            size = f"{res}x{res}"
            if level == len(widths) - 1:
                self.dec[f"{size}_in0"] = block(c, c, True, decoder=True)
                self.dec[f"{size}_in1"] = block(c, c, decoder=True)
            else:
                self.dec[f"{size}_up"] = block(c, c, decoder=True, resample="up")
            for i in range(num_blocks + 1):
                joined = c + skips.pop()
                self.dec[f"{size}_block{i}"] = block(
                    joined, width, res in attn_resolutions, decoder=True
                )
                c = width
        self.out_conv = MPConv(c, img_channels, 3)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        """Return the raw output F for scaled input `x`, shape (B, C, H, W)."""
        emb = self.emb_noise(self.emb_fourier(c_noise))
        if self.emb_label is not None and labels is not None:
            emb = mp_sum(emb, self.emb_label(labels * math.sqrt(self.label_dim)))
        emb = mp_silu(emb)
        x = torch.cat((x, torch.ones_like(x[:, :1])), dim=1)
        skips = []
        for module in self.enc.values():
            x = module(x, emb) if isinstance(module, Block) else module(x)
            skips.append(x)
        for name, module in self.dec.items():
            x = module(mp_cat(x, skips.pop()) if "block" in name else x, emb)
        out: Tensor = self.out_conv(x, gain=self.out_gain)
        return out


class EDM2(Preconditioned):
    """Denoiser D(x, σ) of EDM2: the magnitude-preserving U-net with EDM's preconditioning.

    Called as ``net(x, sigma, class_labels=None, force_fp32=False)``: see `Preconditioned.forward`.
    The names and shapes of its parameters are those of the published checkpoints.

    Parameters
    ----------
    img_resolution, img_channels : int
        Size of the square images, and their channels. The resolution over `patch` is halved at
        every level.
    label_dim : int
        Number of classes, 0 for an unconditional model.
    model_channels : int
        Width of the first level: 128, 192, 256, 320, 384, 448 for EDM2-XS, S, M, L, XL, XXL.
    channel_mult : sequence of float
        Width of each level, over `model_channels`.
    num_blocks : int
        Residual blocks per level, in the encoder; the decoder has one more.
    attn_resolutions : sequence of int
        Resolutions whose blocks have self-attention.
    channels_per_head : int
        Channels of an attention head.
    dropout : float
        Probability, in the middle of each block.
    sigma_data : float
        Standard deviation of the data.
    logvar_channels : int
        Size of the uncertainty estimate that weights the training loss.
    patch : int
        The network sees `patch` x `patch` pixels as the channels of one.
    dtype : torch.dtype
        Precision of the U-net. float16 is used on GPUs alone, as in EDM2; weights stay as they are.

    Attributes
    ----------
    img_resolution, img_channels, label_dim, sigma_data
        As given.

    Raises
    ------
    ValueError
        If a size is not positive, or the resolution cannot be halved so often.

    References
    ----------
    T. Karras et al., doi:10.48550/arXiv.2312.02696; preconditioning: T. Karras et al.,
    Elucidating the design space of diffusion-based generative models, NeurIPS 2022, table 1,
    doi:10.48550/arXiv.2206.00364.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        *,
        model_channels: int = 192,
        channel_mult: Sequence[float] = (1, 2, 3, 4),
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        channels_per_head: int = 64,
        dropout: float = 0.0,
        sigma_data: float = 0.5,
        logvar_channels: int = 128,
        patch: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        check_sizes(
            img_resolution,
            len(channel_mult),
            patch,
            img_channels=img_channels,
            model_channels=model_channels,
            num_blocks=num_blocks,
            channels_per_head=channels_per_head,
            sigma_data=sigma_data,
        )
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.label_dim, self.sigma_data = label_dim, sigma_data
        self.patch, self.dtype = patch, dtype
        self.unet = UNet(
            img_resolution // patch,
            img_channels * patch**2,
            label_dim,
            model_channels,
            channel_mult,
            num_blocks,
            attn_resolutions,
            channels_per_head,
            dropout,
        )
        self.logvar_fourier = MPFourier(logvar_channels)
        self.logvar_linear = MPConv(logvar_channels, 1)

    def raw(
        self,
        x: Tensor,
        c_noise: Tensor,
        labels: Tensor | None,
        **options: Any,  # noqa: ARG002
    ) -> Tensor:
        """Return the output of the U-net, shape of `x`."""
        out: Tensor = self.unet(x, c_noise, labels)
        return out

    def logvar(self, sigma: Tensor) -> Tensor:
        """Return the learnt log variance u(σ) of the loss, shape (B,): EDM2, eq. 21."""
        u: Tensor = self.logvar_linear(self.logvar_fourier(sigma.log() / 4))
        return u.reshape(-1)

    @torch.no_grad()
    def normalize_weights(self) -> None:
        """Project every weight to unit magnitude; training does so after each update (eq. 66)."""
        for module in self.modules():
            if isinstance(module, MPConv):
                module.weight.copy_(normalize(module.weight))


def _resample(x: Tensor, mode: str) -> Tensor:
    if mode == "down":
        return functional.avg_pool2d(x, 2)
    return functional.interpolate(x, scale_factor=2, mode="nearest") if mode == "up" else x
