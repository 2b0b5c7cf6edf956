"""The networks of EDM: DDPM++ and NCSN++ (`SongUNet`), and ADM (`DhariwalUNet`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from .edm_blocks import Conv, FourierEmbedding, GroupNorm, Linear, PositionalEmbedding, UNetBlock
from .precond import Preconditioned, check_sizes

__all__ = ["EDM", "DhariwalUNet", "SongUNet"]


def _encoder_decoder(
    resolution: int,
    n_in: int,
    first: int,
    widths: Sequence[int],
    num_blocks: int,
    block: Callable[..., UNetBlock],
    attend: Callable[[int, bool], bool],
    residual: Sequence[float] | None = None,
) -> tuple[nn.ModuleDict, nn.ModuleDict]:
    """Build both halves of a U-net; `attend` says which blocks do, given resolution and lastness.

    `residual` has the taps by which the input itself is brought to each lower level, if it is.
    """
    enc, dec = nn.ModuleDict(), nn.ModuleDict()
    skips: list[int] = []
    c, auxiliary = first, n_in
    for level, width in enumerate(widths):
        size = f"{resolution >> level}x{resolution >> level}"
        if level == 0:
            enc[f"{size}_conv"] = Conv(n_in, first, 3)
        else:
            enc[f"{size}_down"] = block(c, c, resample="down")
            if residual is not None:
                enc[f"{size}_aux_residual"] = Conv(auxiliary, c, 3, "down", residual, fused=True)
                auxiliary = c
        skips.append(c)
        for i in range(num_blocks):
            enc[f"{size}_block{i}"] = block(c, width, attend(resolution >> level, True))
            c = width
            skips.append(c)
    for level, width in reversed(list(enumerate(widths))):
        size = f"{resolution >> level}x{resolution >> level}"
        if level == len(widths) - 1:
            dec[f"{size}_in0"] = block(c, c, True)
            dec[f"{size}_in1"] = block(c, c)
        else:
            dec[f"{size}_up"] = block(c, c, resample="up")
        for i in range(num_blocks + 1):
            last = i == num_blocks
            dec[f"{size}_block{i}"] = block(
                c + skips.pop(), width, attend(resolution >> level, last)
            )
            c = width
    return enc, dec


def _decode(dec: nn.ModuleDict, x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
    for name, module in dec.items():
        if isinstance(module, UNetBlock):
            x = module(torch.cat((x, skips.pop()), dim=1) if "block" in name else x, emb)
    return x


class SongUNet(nn.Module):
    """DDPM++ and NCSN++, as EDM uses them.

    Y. Song et al., Score-based generative modeling through stochastic differential equations,
    ICLR 2021, doi:10.48550/arXiv.2011.13456.

    Parameters
    ----------
    img_resolution, in_channels, out_channels, label_dim, augment_dim : int
        Sizes; no labels, or no augmentation vector, where 0.
    model_channels, channel_mult, num_blocks, attn_resolutions
        As in `EDM`.
    channel_mult_emb, channel_mult_noise : int
        Sizes of the embedding and of the noise features, over `model_channels`.
    dropout : float
    embedding_type : {"positional", "fourier"}
    encoder_type : {"standard", "residual"}
    resample_filter : sequence of float
        (1, 1) for DDPM++, (1, 3, 3, 1) for NCSN++.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        *,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.0,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__()
        _choice("embedding_type", embedding_type, ("positional", "fourier"))
        _choice("encoder_type", encoder_type, ("standard", "residual"))
        n_emb, n_noise = model_channels * channel_mult_emb, model_channels * channel_mult_noise
        self.map_noise = (
            PositionalEmbedding(n_noise, endpoint=True)
            if embedding_type == "positional"
            else FourierEmbedding(n_noise)
        )
        self.map_label = Linear(label_dim, n_noise) if label_dim else None
        self.map_augment = Linear(augment_dim, n_noise, bias=False) if augment_dim else None
        self.map_layer0 = Linear(n_noise, n_emb)
        self.map_layer1 = Linear(n_emb, n_emb)

        def block(n_in: int, n_out: int, attention: bool = False, **options: Any) -> UNetBlock:
            return UNetBlock(
                n_in,
                n_out,
                n_emb,
                heads=int(attention),
                taps=resample_filter,
                adaptive_scale=False,
                project=True,
                skip_scale=math.sqrt(0.5),
                eps=1e-6,
                dropout=dropout,
                **options,
            )

        widths = [model_channels * mult for mult in channel_mult]
        self.enc, self.dec = _encoder_decoder(
            img_resolution,
            in_channels,
            model_channels,
            widths,
            num_blocks,
            block,
            lambda res, last: last and res in attn_resolutions,
            resample_filter if encoder_type == "residual" else None,
        )
        # The names of the last two layers are those of the checkpoints.
        self.last = f"{img_resolution}x{img_resolution}_aux_"
        self.dec[self.last + "norm"] = GroupNorm(widths[0], 1e-6)
        self.dec[self.last + "conv"] = Conv(widths[0], out_channels, 3)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        labels: Tensor | None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Return the raw output F for scaled input `x`, shape (B, C, H, W)."""
        emb = self.map_noise(c_noise).roll(self.map_layer0.weight.shape[1] // 2, dims=1)
        if self.map_label is not None and labels is not None:
            emb = emb + self.map_label(labels * math.sqrt(labels.shape[1]))
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb))
        emb = silu(self.map_layer1(silu(self.map_layer0(emb))))
        skips: list[Tensor] = []
        auxiliary = x
        for name, module in self.enc.items():
            if "aux" in name:
                x = skips[-1] = auxiliary = (x + module(auxiliary)) * math.sqrt(0.5)
            else:
                x = module(x, emb) if isinstance(module, UNetBlock) else module(x)
                skips.append(x)
        x = _decode(self.dec, x, skips, emb)
        out: Tensor = self.dec[self.last + "conv"](silu(self.dec[self.last + "norm"](x)))
        return out


class DhariwalUNet(nn.Module):
    """ADM, as EDM uses it.

    P. Dhariwal, A. Nichol, Diffusion models beat GANs on image synthesis, NeurIPS 2021,
    doi:10.48550/arXiv.2105.05233.

    Parameters
    ----------
    img_resolution, in_channels, out_channels, label_dim, augment_dim : int
        Sizes; no labels, or no augmentation vector, where 0.
    model_channels, channel_mult, num_blocks, attn_resolutions
        As in `EDM`.
    channel_mult_emb : int
        Size of the embedding, over `model_channels`.
    dropout : float
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        *,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        n_emb = model_channels * channel_mult_emb
        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = Linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0 = Linear(model_channels, n_emb)
        self.map_layer1 = Linear(n_emb, n_emb)
        self.map_label = Linear(label_dim, n_emb, bias=False) if label_dim else None

        def block(n_in: int, n_out: int, attention: bool = False, **options: Any) -> UNetBlock:
            heads = max(1, n_out // 64) if attention else 0
            return UNetBlock(n_in, n_out, n_emb, heads=heads, dropout=dropout, **options)

        widths = [model_channels * mult for mult in channel_mult]
        self.enc, self.dec = _encoder_decoder(
            img_resolution,
            in_channels,
            widths[0],
            widths,
            num_blocks,
            block,
            lambda res, _: res in attn_resolutions,
        )
        self.out_norm = GroupNorm(widths[0], 1e-5)
        self.out_conv = Conv(widths[0], out_channels, 3)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        labels: Tensor | None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Return the raw output F for scaled input `x`, shape (B, C, H, W)."""
        emb = self.map_noise(c_noise)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb))
        emb = self.map_layer1(silu(self.map_layer0(emb)))
        if self.map_label is not None and labels is not None:
            emb = emb + self.map_label(labels)
        emb = silu(emb)
        skips = []
        for module in self.enc.values():
            x = module(x, emb) if isinstance(module, UNetBlock) else module(x)
            skips.append(x)
        out: Tensor = self.out_conv(silu(self.out_norm(_decode(self.dec, x, skips, emb))))
        return out


class EDM(Preconditioned):
    """Denoiser D(x, σ) of EDM: one of its U-nets with its preconditioning.

    Called as ``net(x, sigma, class_labels=None, force_fp32=False)``: see `Preconditioned.forward`.
    The names and shapes of its parameters are those of the published checkpoints.

    Parameters
    ----------
    img_resolution, img_channels : int
        Size of the square images, and their channels.
    label_dim : int
        Number of classes, 0 for an unconditional model.
    model_type : {"SongUNet", "DhariwalUNet"}
        The U-net.
    sigma_data : float
        Standard deviation of the data.
    sigma_min, sigma_max : float
        Range of noise levels that the model was made for; kept, not enforced.
    dtype : torch.dtype
        Precision of the U-net. float16 is used on GPUs alone, as in EDM; weights stay as they are.
    **model_options
        Of the U-net: `model_channels`, `channel_mult` (the width of each level over
        `model_channels`), `num_blocks` (per level), `attn_resolutions` (where self-attention is),
        `augment_dim`, and those of `SongUNet`.

    Attributes
    ----------
    img_resolution, img_channels, label_dim, sigma_data, sigma_min, sigma_max
        As given.

    References
    ----------
    T. Karras, M. Aittala, T. Aila, S. Laine, Elucidating the design space of diffusion-based
    generative models, NeurIPS 2022, doi:10.48550/arXiv.2206.00364.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        *,
        model_type: str = "DhariwalUNet",
        sigma_data: float = 0.5,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
        dtype: torch.dtype = torch.float32,
        **model_options: Any,
    ) -> None:
        super().__init__()
        _choice("model_type", model_type, ("SongUNet", "DhariwalUNet"))
        levels = len(model_options.get("channel_mult", (1, 2, 3, 4)))
        check_sizes(img_resolution, levels, img_channels=img_channels, sigma_data=sigma_data)
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.label_dim, self.sigma_data = label_dim, sigma_data
        self.sigma_min, self.sigma_max, self.dtype = sigma_min, sigma_max, dtype
        unet = SongUNet if model_type == "SongUNet" else DhariwalUNet
        self.model = unet(img_resolution, img_channels, img_channels, label_dim, **model_options)

    def raw(self, x: Tensor, c_noise: Tensor, labels: Tensor | None, **options: Any) -> Tensor:
        """Return the output of the U-net, shape of `x`; `augment_labels` is passed on."""
        out: Tensor = self.model(x, c_noise, labels, **options)
        return out

    def round_sigma(self, sigma: Any) -> Tensor:
        """Return the nearest noise level that the model knows: `sigma` itself, as a tensor."""
        return torch.as_tensor(sigma)


def _choice(name: str, value: str, among: tuple[str, ...]) -> None:
    if value not in among:
        msg = f"{name} must be one of {', '.join(among)}, not {value!r}"
        raise ValueError(msg)
