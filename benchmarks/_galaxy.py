"""Pretrained galaxy networks as denoisers, from the weights that the galaxygrad package installs.

The package (version 0.1.5) states no licence: its weights are read where it is installed and are
not part of this repository. The network is an MLP-mixer on patches, for the score of the
variance-preserving process with β = 1; here it is rebuilt in torch from its array shapes.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import conv2d, conv_transpose2d, layer_norm, linear, relu

from stiffkit.diffusion import NetworkDenoiser

NAMES = ("hsc_ScoreNet32", "ZTF_ScoreNet32", "hsc_ScoreNet64")
SIGMA_MIN, SIGMA_MAX = 0.0316, 148.4


def find(name):
    """Path of the weights, None where galaxygrad is not installed."""
    spec = importlib.util.find_spec("galaxygrad")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / f"eqx_{name}.eqx"
    return path if path.exists() else None


def arrays(path):
    """Yield all arrays of an .eqx file: NumPy records, one after the other."""
    with path.open("rb") as file:
        size = path.stat().st_size
        while file.tell() < size:
            yield np.load(file, allow_pickle=False)


def denoiser(name, dtype=torch.float64):
    """D(x, σ) of one of NAMES, x of shape (B, 1, 32 or 64, 32 or 64)."""
    w = [torch.as_tensor(np.asarray(a), dtype=dtype) for a in arrays(find(name))]
    t_1, (conv_in, bias_in, conv_out, bias_out), blocks = w[-1], w[:4], w[4:-3]
    norm, size = w[-3:-1], conv_in.shape[-1]
    conv_out = conv_out.flip(2, 3).transpose(0, 1)

    def mix(x, first, bias, second, bias_2):
        return linear(relu(linear(x, first, bias)), second, bias_2)

    def score(x, t):
        channel = (t / t_1).reshape(-1, 1, 1, 1).expand_as(x)
        y = conv2d(torch.cat([x, channel], 1), conv_in, bias_in.reshape(-1), stride=size)
        height, width = y.shape[2:]
        y = y.flatten(2)
        for i in range(0, len(blocks), 12):
            patch, hidden, norms = blocks[i : i + 4], blocks[i + 4 : i + 8], blocks[i + 8 : i + 12]
            y = y + mix(layer_norm(y, norms[0].shape, *norms[:2]), *patch)
            y = y.transpose(1, 2)
            y = y + mix(layer_norm(y, norms[2].shape, *norms[2:]), *hidden)
            y = y.transpose(1, 2)
        y = layer_norm(y, norm[0].shape, *norm).unflatten(2, (height, width))
        return conv_transpose2d(y, conv_out, bias_out.reshape(-1), stride=size)

    return NetworkDenoiser(score, "score", "vp", time=lambda s: torch.log1p(s**2))
