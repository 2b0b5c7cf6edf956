"""Figure and tables of guides/models.md: the shipped models, and data/shipped_model.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

import stiffkit
from stiffkit.diffusion import sample, shipped
from stiffkit.diffusion.checkpoint import load_checkpoint

DATA = Path(__file__).parent / "data" / "shipped_model.json"
FOLDER = Path(stiffkit.__file__).parent / "diffusion" / "models"


def shipped_sizes() -> str:
    """Parameters, file size and images seen, from the files themselves."""
    files = [FOLDER / f"{name}.safetensors" for name in NAMES]
    read = [load_checkpoint(path) for path in files]
    rows = {
        "parameters": [f"{sum(p.numel() for p in r.build().parameters()):,}" for r in read],
        "file": [f"{path.stat().st_size / 1e6:.2f} MB" for path in files],
        "training images seen": [f"{int(r.metadata['images']):,}" for r in read],
    }
    names = ("`fashion_mnist()`", "`fashion_mnist(weak=True)`", "`digits()`")
    lines = ["| | " + " | ".join(names) + " |", "|:--|--:|--:|--:|"]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    return "\n".join(lines) + "\n"


NAMES = ("fashion_mnist", "fashion_mnist_weak", "digits")


def shipped_quality() -> str:
    """Distances to the test images."""
    lines = [
        "| | images | FD-EffLite0 | KID | KID over the floor | precision | recall |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    data = json.loads(DATA.read_text(encoding="utf-8"))
    for r in data["rows"]:
        cells = [
            r["name"],
            f"{r['n']:,}",
            f"{r['fd']:.2f}",
            f"{r['kid']:.3g}",
            f"{abs(r['kid']) / data['floor']:.3g}",
            f"{r['precision']:.2f}",
            f"{r['recall']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def shipped_samples() -> Any:
    """Four samples of each class of Fashion-MNIST, and one of each digit."""
    figure, axes = plt.subplots(2, 1, figsize=(8, 4.1), height_ratios=(4, 1), layout="constrained")
    for axis, net, rows in zip(
        axes, (shipped.fashion_mnist(), shipped.digits()), (4, 1), strict=True
    ):
        side = net.img_resolution
        labels = torch.arange(10).repeat(rows)
        noise = torch.randn(len(labels), 1, side, side, generator=torch.Generator().manual_seed(0))
        x = sample(lambda x, s, net=net, labels=labels: net(x, s, labels), noise, steps=18)
        grid = shipped.to_pixels(net, x).reshape(rows, 10, side, side).permute(0, 2, 1, 3)
        axis.imshow(grid.reshape(rows * side, 10 * side), cmap="gray", vmin=0, vmax=1)
        axis.set_axis_off()
    return figure
