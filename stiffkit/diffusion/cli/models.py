"""Networks by name or file, and what their samples look like as pixels."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...guidance import autoguidance, classifier_free_guidance
from .. import shipped
from ..checkpoint import Checkpoint, load_checkpoint
from ..denoiser import EDMDenoiser
from .presets import PRESETS

__all__ = ["digest", "guided", "load", "parse_seeds", "pixels_of"]

_SHIPPED: dict[str, Callable[[], Any]] = {
    "fashion_mnist": shipped.fashion_mnist,
    "fashion_mnist_weak": lambda: shipped.fashion_mnist(weak=True),
    "digits": shipped.digits,
}


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of a list such as ``"0-49,100"``.

    Raises
    ------
    ValueError
        If it is no such list, or names a seed twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            msg = f"seeds must be numbers and ranges such as '0-49,100', not {text!r}"
            raise ValueError(msg)
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            msg = f"seeds {part.strip()!r} end before they begin"
            raise ValueError(msg)
        seeds.extend(range(first, last + 1))
    if len(set(seeds)) < len(seeds):
        msg = f"seeds {text!r} name a seed twice"
        raise ValueError(msg)
    return seeds


def load(name: str) -> Any:
    """Return the shipped network of that name, or the one in a checkpoint file.

    Raises
    ------
    ValueError
        If it is neither; nothing in a file is executed.
    """
    if name in _SHIPPED:
        return _SHIPPED[name]()
    path = Path(name)
    if not path.exists():
        hint = " (presets need --weights, the folder of their files)" if name in PRESETS else ""
        msg = f"{name!r} is no file and none of {', '.join(_SHIPPED)}{hint}"
        raise ValueError(msg)
    checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint, Checkpoint):
        msg = f"{name}: statistics, not a network"
        raise ValueError(msg)  # noqa: TRY004 (the file's content, not an argument's type)
    net = checkpoint.build()
    net.encoder = checkpoint.encoder  # type: ignore[assignment]
    return net


def digest(name: str | None) -> str | None:
    """Return what identifies a network: a shipped one's name, the hash of a file."""
    if name is None or name in _SHIPPED or not Path(name).exists():
        return name
    with Path(name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def guided(
    net: Any, gnet: Any | None, strength: float, interval: tuple[float, float]
) -> Callable[..., Tensor]:
    """Return the denoiser of `net` guided by `gnet`, or by itself without labels."""
    denoiser = EDMDenoiser(net)
    if strength == 1:
        return denoiser
    if gnet is None:
        return classifier_free_guidance(denoiser, strength, interval=interval)
    return autoguidance(denoiser, EDMDenoiser(gnet), strength, interval=interval)


def pixels_of(net: Any, x: Tensor, vae: Any = None) -> np.ndarray[Any, Any] | None:
    """Return samples as uint8 images (B, C, H, W); None for latents without a decoder."""
    if hasattr(net, "pixel_scale"):
        scaled = 255 * shipped.to_pixels(net, x) + 0.5
    elif x.shape[1] == 4:
        if vae is None:
            return None
        scaled = 127.5 * _decoded(net, x, vae) + 128
    else:
        scaled = 127.5 * x + 128
    out: np.ndarray[Any, Any] = scaled.clip(0, 255).to(torch.uint8).cpu().numpy()
    return out


def _decoded(net: Any, x: Tensor, vae: Any) -> Tensor:
    """Decode EDM2's latents: scale·z + bias, z the autoencoder's, with a deviation of 0.5."""
    mean, std = np.array([5.81, 3.25, 0.12, -2.15]), np.array([4.17, 4.62, 3.71, 3.28])
    constants = getattr(net, "encoder", {})
    scale, bias = (
        torch.tensor(np.asarray(value, dtype=float).reshape(-1, 1, 1)).to(x)
        for value in (
            constants.get("scale", 0.5 / std),
            constants.get("bias", -mean * 0.5 / std),
        )
    )
    z = ((x - bias) / scale).to(vae.dtype)
    # One by one: a decoder's memory is that of its images, not of its latents.
    with torch.no_grad():
        images: Tensor = torch.cat([vae.decode(one[None]).sample for one in z])
    return images.to(torch.float32)
