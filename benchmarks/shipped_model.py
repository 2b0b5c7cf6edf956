"""How close the samples of the shipped Fashion-MNIST model are to the test images.

    python benchmarks/shipped_model.py --json docs/data/shipped_model.json

Rows: training images, the model, the model under classifier-free guidance, autoguidance and both,
and its weak twin alone; columns: Fréchet and kernel distance, precision and recall on features of
EfficientNet-Lite0 (block 10), against the 10,000 test images. Training images are the floor. The
kernel distance is unbiased, so that theirs is zero but for its noise: the floor is its root mean
square over five disjoint sets of as many training images as the model draws. Needs the extra
"metrics" and Debian's dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stiffkit.diffusion import metrics, sample, shipped
from stiffkit.diffusion.checkpoint import load_checkpoint

SCRIPT = Path(__file__).parents[1] / "examples" / "train_fashion.py"


def images(folder: Path, part: str, n: int) -> torch.Tensor:
    """Return pixels of the data, by the reader of the training script."""
    spec = importlib.util.spec_from_file_location("train_fashion", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.load_fashion(folder, part)[0][:n]


def drawn(
    denoise: Callable[[Any, Any, Any], Any], net: Any, n: int, steps: int, batch: int = 100
) -> torch.Tensor:
    """Draw n samples with Heun's method, every class as often, and return pixels."""
    parts = []
    for i in range(0, n, batch):
        labels = torch.arange(i, i + batch) % net.label_dim
        seed = torch.Generator().manual_seed(i)
        noise = torch.randn(batch, 1, net.img_resolution, net.img_resolution, generator=seed)
        x = sample(lambda x, s, labels=labels: denoise(x, s, labels), noise, steps=steps)
        parts.append(shipped.to_pixels(net, x))
    return torch.cat(parts)


def row(name: str, features: Any, reference: Any) -> dict[str, Any]:
    precision, recall = metrics.precision_recall(reference[: len(features)], features)
    return {
        "name": name,
        "n": len(features),
        "fd": metrics.frechet_distance(features, reference),
        "kid": metrics.kernel_distance(features, reference)[0],
        "precision": precision,
        "recall": recall,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--samples", type=int, default=2000, help="of the model, a row")
    parser.add_argument("--steps", type=int, default=18, help="noise levels, for Heun's method")
    parser.add_argument("--weights", type=Path, help="other weights than the shipped ones")
    parser.add_argument("--only", help="rows whose names have this in them")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    net, weak = shipped.fashion_mnist(), shipped.fashion_mnist(weak=True)
    if args.weights:
        pixels = net.pixel_mean, net.pixel_scale
        net = load_checkpoint(args.weights).build()
        net.pixel_mean, net.pixel_scale = pixels

    def guided(auto: float = 1.0, free: float = 1.0) -> Callable[[Any, Any, Any], Any]:
        """D + (auto − 1) (D − D_weak) + (free − 1) (D − D without labels)."""

        def denoise(x: Any, s: Any, labels: Any) -> Any:
            D = guided_D = net(x, s, labels)
            if auto != 1:
                guided_D = guided_D + (auto - 1) * (D - weak(x, s, labels))
            if free != 1:
                guided_D = guided_D + (free - 1) * (D - net(x, s))
            return guided_D

        return denoise

    rows: dict[str, Callable[[Any, Any, Any], Any]] = {
        "model": net,
        "model, classifier-free guidance 1.5": guided(free=1.5),
        "model, autoguidance 1.8": guided(auto=1.8),
        "model, autoguidance 1.5 and classifier-free guidance 1.6": guided(auto=1.5, free=1.6),
        "weak twin": weak,
    }
    reference = metrics.efficientnet_features(images(args.data, "t10k", 10_000))
    n = args.samples
    train = metrics.efficientnet_features(images(args.data, "train", 5 * n))
    kids = [metrics.kernel_distance(train[i : i + n], reference)[0] for i in range(0, 5 * n, n)]
    floor = float(np.sqrt(np.mean(np.square(kids))))
    print(f"KID of training images: {np.array(kids)}, root mean square {floor:.3g}")
    results = [row("training images", train[:n], reference)]
    show(results[0])
    for name, denoise in rows.items():
        if args.only and args.only not in name:
            continue
        start = time.perf_counter()
        x = drawn(denoise, net, n, args.steps)
        results.append(row(name, metrics.efficientnet_features(x), reference))
        show(results[-1], time.perf_counter() - start)
    if args.json:
        content = {"steps": args.steps, "floor": floor, "rows": results}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def show(r: dict[str, Any], seconds: float = 0.0) -> None:
    print(
        f"{r['name']:<56} n {r['n']:>6}  FD-EffLite0 {r['fd']:8.3f}  KID {r['kid']:.3g}  "
        f"P {r['precision']:.3f}  R {r['recall']:.3f}  {seconds:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
