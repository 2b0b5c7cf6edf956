"""Two sets of images, features or statistics, compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..metrics import (
    efficientnet_features,
    frechet_from_moments,
    kernel_distance,
    moments,
    network_features,
    precision_recall,
)

__all__ = ["Side", "distances", "read_side", "save_statistics"]


class Side(NamedTuple):
    """One of the two sets."""

    name: str
    """Of the Fréchet distance on these features; statistics have no name of their own: ""."""
    features: Any
    """Shape (n, d), or None."""
    mean: Any
    """Shape (d,)."""
    cov: Any
    """Shape (d, d)."""


def read_side(path: Path, block: int, network: Path | None = None) -> Side:
    """Read a folder of PNG files, or an .npz of images (uint8), of features, or of mu and sigma.

    Features of images are those of `network`, or of EfficientNet-Lite0's `block`.

    Raises
    ------
    ValueError
        If there is nothing of the kind.
    """
    if path.is_dir():
        return _of_images(_read_images(path), block, network)
    with np.load(path, allow_pickle=False) as data:
        if "features" in data:
            features = np.asarray(data["features"], dtype=float)
            return Side("FD", features, *moments(features))
        if "images" in data:
            return _of_images(data["images"], block, network)
        if "mu" in data and "sigma" in data:
            return Side("", None, data["mu"], data["sigma"])
        msg = f"{path} has {', '.join(data.files)}, but no images, features, or mu and sigma"
    raise ValueError(msg)


def _of_images(images: Any, block: int, network: Path | None) -> Side:
    pixels = images.astype(np.float32) / 255
    if network is not None:
        features = network_features(pixels, network)
        return Side(f"FD on {network.stem}", features, *moments(features))
    features = efficientnet_features(pixels, block=block)
    return Side("FD-EffLite0", features, *moments(features))


def _read_images(folder: Path) -> Any:
    from PIL import Image

    files = sorted(folder.rglob("*.png"))
    if len(files) < 2:
        msg = f"{folder} has {len(files)} PNG files; two at least are needed"
        raise ValueError(msg)
    images = []
    for file in files:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
        images.append(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        msg = f"{folder} has images of different sizes: {sorted(shapes)}"
        raise ValueError(msg)
    return np.stack(images)


def distances(a: Side, b: Side, k: int) -> dict[str, float | int]:
    """Return the distances of two sets by name; all but the Fréchet distance need features."""
    if a.name and b.name and a.name != b.name:
        msg = "images cannot be compared with features of another network"
        raise ValueError(msg)
    values: dict[str, float | int] = {
        (a.name or b.name or "FD"): frechet_from_moments(a.mean, a.cov, b.mean, b.cov)
    }
    if a.features is not None and b.features is not None:
        values["KID"] = kernel_distance(a.features, b.features)[0]
        precision, recall = precision_recall(b.features, a.features, k)
        values |= {"precision": precision, "recall": recall}
    for name, side in (("samples", a), ("reference samples", b)):
        if side.features is not None:
            values[name] = len(side.features)
    return values


def save_statistics(side: Side, path: Path) -> None:
    """Write mean and covariance, as `stiffkit.diffusion.checkpoint.load_checkpoint` reads them."""
    with path.open("wb") as file:
        np.savez(file, mu=side.mean, sigma=side.cov)
