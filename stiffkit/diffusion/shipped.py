"""Small trained denoisers that come with stiffkit; they need torch, and no download.

Data are scaled to mean 0 and standard deviation 0.5, `sigma_data`; `to_pixels` scales back. What is
black in Fashion-MNIST, half of all pixels, lies a little below 0 before it clips.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._optional import require

if TYPE_CHECKING:
    from torch import Tensor

    from .networks.precond import Preconditioned

__all__ = ["digits", "fashion_mnist", "to_pixels"]

_FOLDER = Path(__file__).parent / "models"


def fashion_mnist(weak: bool = False) -> Preconditioned:
    """Return a class-conditional denoiser of Fashion-MNIST, 28 x 28 pixels, 1 channel, 10 classes.

    Labels were dropped in a tenth of the training, so that ``class_labels=None`` is the
    unconditional denoiser: classifier-free guidance needs no second network.

    Parameters
    ----------
    weak : bool
        Whether to return the smaller and less trained twin, the bad version of the model that
        autoguidance needs (doi:10.48550/arXiv.2406.02507).

    Returns
    -------
    stiffkit.diffusion.networks.EDM2
        Float32, on the CPU, in evaluation mode, without gradients.

    Raises
    ------
    ImportError
        Without torch and safetensors.
    """
    return _load("fashion_mnist_weak" if weak else "fashion_mnist")


def digits() -> Preconditioned:
    """Return a tiny class-conditional denoiser of scikit-learn's digits, 8 x 8 pixels, for tests.

    Returns
    -------
    stiffkit.diffusion.networks.EDM2
        Float32, on the CPU, in evaluation mode, without gradients; `class_labels` as in
        `fashion_mnist`.

    Raises
    ------
    ImportError
        Without torch and safetensors.
    """
    return _load("digits")


def to_pixels(net: Any, x: Tensor) -> Tensor:
    """Return samples of a shipped model as pixels in [0, 1].

    Parameters
    ----------
    net : stiffkit.diffusion.networks.EDM2
        From this module.
    x : Tensor
        Any shape.

    Returns
    -------
    Tensor, shape of `x`
    """
    pixels: Tensor = (x * net.pixel_scale + net.pixel_mean).clip(0, 1)
    return pixels


def _load(name: str) -> Preconditioned:
    require("torch", "torch", f"the shipped model {name!r}")
    from .checkpoint import Checkpoint, load_checkpoint

    checkpoint = load_checkpoint(_FOLDER / f"{name}.safetensors")
    assert isinstance(checkpoint, Checkpoint)
    net = checkpoint.build()
    pixels = json.loads(checkpoint.metadata["pixels"])
    net.pixel_mean, net.pixel_scale = pixels["mean"], pixels["std"]
    return net
