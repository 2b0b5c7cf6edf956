"""Train the small class-conditional denoisers that stiffkit ships, on a CPU.

    python examples/train_fashion.py --out out/fashion                 # the model
    python examples/train_fashion.py --out out/weak --preset weak      # its weaker twin
    python examples/train_fashion.py --out out/digits --preset digits --lr 0.02 --decay 500

The last one is for tests, 8 x 8 pixels, and takes minutes. The data is Fashion-MNIST (Xiao, Rasul,
Vollgraf 2017, MIT licence). Debian has all of it: ``apt-get install dataset-fashion-mnist`` puts it
where ``--data`` looks for it; elsewhere, give the folder with the four ``*-ubyte.gz`` files. The
digits are scikit-learn's.

Half of the pixels of Fashion-MNIST are exactly 0. They are drawn as -0.06, the others as they are,
in [0, 1]: a gap that the clipping of samples to [0, 1] closes, so that a background is as black as
the data's where a network leaves some grain on it. Pixels are then shifted and scaled to mean 0 and
standard deviation ``sigma_data`` = 0.5, both measured on the training images.

The loss is EDM's, with the learnt uncertainty of EDM2 as its
weight; ln σ is normal. Labels are dropped with probability 0.1, so that one network serves
classifier-free guidance. Images are not flipped: nearly all shoes of the data point to the left.
Weights are projected to unit norm after each update, the learning rate falls as 1/√n, and two
averages of the weights with power-function profiles are kept, of relative lengths 0.05 and 0.10.

What a step draws depends on the seed and on the number of the step alone. So a run that was killed
continues from ``state.pt`` as if nothing had happened: run the same command again.

Without that file ``--start`` goes on from weights alone, those shipped for instance.

``out`` receives ``state.pt`` (all there is to continue), ``log.csv``, and ``ema.safetensors``: the
shorter average as float16, with the arguments of the network in its metadata. ``--average 1`` takes
the longer one.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from stiffkit.diffusion.networks import EDM2

SIGMA_DATA = 0.5
SIGMA_REL = (0.05, 0.10)  # relative lengths of the averages, EDM2 section 3.1
LABEL_DROPOUT = 0.1
GAP = 0.06  # between pixels that are exactly 0 and the others, of Fashion-MNIST

SMALL = {"num_blocks": 1, "attn_resolutions": [7], "channels_per_head": 32, "logvar_channels": 32}
PRESETS = {
    # One 2 x 2 patch is one pixel to the network, so that its levels are 14 x 14 and 7 x 7.
    "fashion": {"patch": 2, "model_channels": 48, "channel_mult": [1, 4 / 3], **SMALL},
    "weak": {"patch": 2, "model_channels": 24, "channel_mult": [1, 4 / 3], **SMALL},
    "digits": {"model_channels": 16, "channel_mult": [1, 1.25], **SMALL, "attn_resolutions": [4]},
}
IMAGES = {"fashion": 20_000_000, "weak": 409_600, "digits": 76_800}
# Mean and standard deviation of ln σ.
NOISE = {"fashion": (-1.5, 1.5), "weak": (-0.8, 1.2), "digits": (-0.8, 1.2)}


def read_idx(path: Path) -> np.ndarray:
    """Read one gzipped file of the MNIST format."""
    with gzip.open(path) as file:
        data = file.read()
    n_axes = data[3]
    shape = np.frombuffer(data, ">i4", n_axes, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * n_axes).reshape(shape)


def load_fashion(folder: Path, part: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    """Return pixels in [0, 1], shape (n, 1, 28, 28), and labels; `part` is "train" or "t10k"."""
    try:
        images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz")
    except FileNotFoundError as error:
        msg = f"{error.filename} is missing: apt-get install dataset-fashion-mnist, or give --data"
        raise SystemExit(msg) from error
    return torch.tensor(images[:, None] / np.float32(255)), torch.tensor(labels).long()


def load_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return scikit-learn's digits: pixels in [0, 1], shape (1797, 1, 8, 8), and labels."""
    from sklearn.datasets import load_digits as load

    data = load()
    return torch.tensor(data.images[:, None] / 16).float(), torch.tensor(data.target).long()


def power_exponent(sigma_rel: float) -> float:
    """Return γ of the average whose weights grow as tᵞ, from its relative length (EDM2 eq. 123).

    The length is the standard deviation of the weights, over the whole time:
    σ_rel² = (γ + 1) / ((γ + 2)² (γ + 3)).
    """
    t = sigma_rel**-2  # (γ + 2)² (γ + 3) − t (γ + 1) = 0
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def in_bfloat16(forward: Callable) -> Callable:
    """Let convolutions and products of `forward` run in bfloat16; parameters stay float32."""

    def mixed(*args: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return forward(*args).float()

    return mixed


class Training:
    """A network, its averages, the optimiser, and the number of updates done."""

    def __init__(self, arguments: dict, batch: int, lr: float, decay: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.arguments, self.seed = arguments, seed
        self.batch, self.lr, self.decay = batch, lr, decay
        self.net = EDM2(**arguments).to(memory_format=torch.channels_last)
        self.net.normalize_weights()
        self.optimizer = torch.optim.Adam(self.net.parameters(), betas=(0.9, 0.99), fused=True)
        self.forward = self.net  # or a compiled form of it
        self.averages = [[p.detach().clone() for p in self.net.parameters()] for _ in SIGMA_REL]
        self.n = 0

    def step(self, data: torch.Tensor, labels: torch.Tensor, noise: tuple[float, float]) -> float:
        """Make one update and return EDM's loss, before the learnt weights."""
        draw = torch.Generator().manual_seed(self.seed + self.n * 1_000_003)
        rows = self._rows(len(data))
        x = data[rows]
        sigma = (torch.randn(len(x), generator=draw) * noise[1] + noise[0]).exp()
        keep = torch.rand((len(x), 1), generator=draw) >= LABEL_DROPOUT
        hot = torch.nn.functional.one_hot(labels[rows], self.arguments["label_dim"]) * keep
        noisy = x + torch.randn(x.shape, generator=draw) * sigma[:, None, None, None]
        noisy = noisy.contiguous(memory_format=torch.channels_last)

        error = (self.forward(noisy, sigma, hot) - x).square().mean(dim=(1, 2, 3))
        weighted = error * (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
        logvar = self.net.logvar(sigma)
        (weighted / logvar.exp() + logvar).mean().backward()
        self._update()
        return weighted.mean().item()

    def _rows(self, m: int) -> torch.Tensor:
        """Return the rows of this batch: epochs in an order of their own, end to end."""
        first = self.n * self.batch
        rows = []
        for epoch in range(first // m, (first + self.batch - 1) // m + 1):
            order = torch.Generator().manual_seed(self.seed + 7919 * (epoch + 1))
            begin, end = max(first - epoch * m, 0), min(first + self.batch - epoch * m, m)
            rows.append(torch.randperm(m, generator=order)[begin:end])
        return torch.cat(rows)

    @torch.no_grad()
    def _update(self) -> None:
        self.n += 1
        warm_up = min(self.n / 200, 1)
        self.optimizer.param_groups[0]["lr"] = (
            self.lr * warm_up / math.sqrt(max(self.n / self.decay, 1))
        )
        for parameter in self.net.parameters():
            torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.net.normalize_weights()
        for sigma_rel, average in zip(SIGMA_REL, self.averages, strict=True):
            weight = 1 - (1 - 1 / self.n) ** (power_exponent(sigma_rel) + 1)
            torch._foreach_lerp_(average, list(self.net.parameters()), weight)

    def averaged(self, which: int) -> dict[str, torch.Tensor]:
        """Return the state dict of one of the averages."""
        state = self.net.state_dict()
        names = [name for name, _ in self.net.named_parameters()]
        return {**state, **dict(zip(names, self.averages[which], strict=True))}

    def save(self, path: Path) -> None:
        """Write all that a later process needs; the file appears whole or not at all."""
        state = {
            "settings": [self.arguments, self.batch, self.lr, self.decay, self.seed],
            "n": self.n,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages,
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def start_from(self, path: Path) -> None:
        """Go on from an average that `write_weights` wrote; the optimiser begins anew."""
        with safe_open(path, "pt") as file:
            done = int(file.metadata()["images"])
            self.net.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        self.net.normalize_weights()
        self.n = done // self.batch
        self.averages = [[p.detach().clone() for p in self.net.parameters()] for _ in SIGMA_REL]

    @classmethod
    def load(cls, path: Path) -> Training:
        """Continue from a file written by `save`."""
        state = torch.load(path, weights_only=True)
        training = cls(*state["settings"])
        training.n = state["n"]
        training.net.load_state_dict(state["net"])
        training.optimizer.load_state_dict(state["optimizer"])
        training.averages = state["averages"]
        return training


def write_weights(training: Training, which: int, scale: dict[str, float], path: Path) -> None:
    """Write an average as float16 safetensors, with what is needed to build the network."""
    weights = {k: v.to(torch.float16).contiguous() for k, v in training.averaged(which).items()}
    metadata = {
        "network": "EDM2",
        "arguments": json.dumps(training.arguments),
        "pixels": json.dumps(scale),
        "images": str(training.n * training.batch),
    }
    part = path.with_suffix(".part")
    save_file(weights, part, metadata=metadata)
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="fashion")
    add("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"), help="folder")
    add("--out", type=Path, required=True, help="folder for the results")
    add("--start", type=Path, help="weights to begin with, an ema.safetensors of these arguments")
    add("--images", type=int, help="stop after so many images, counted from the very start")
    add("--minutes", type=float, default=math.inf, help="stop after so many minutes")
    add("--batch", type=int, default=64)
    add("--lr", type=float, default=0.01, help="largest learning rate")
    add("--decay", type=int, default=2000, help="updates before the learning rate falls as 1/√n")
    add("--seed", type=int, default=0)
    add("--average", type=int, choices=range(len(SIGMA_REL)), default=0)
    add("--every", type=int, default=500, help="updates between log lines; a tenth as many saves")
    add("--threads", type=int, default=1)
    add("--compile", action="store_true", help="a third faster, after a minute of compilation")
    add("--bf16", action="store_true", help="faster again, where the CPU has bfloat16")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)

    if args.preset == "digits":
        pixels, labels = load_digits()
    else:
        pixels, labels = load_fashion(args.data)
        pixels[pixels == 0] = -GAP
    scale = {"mean": pixels.mean().item(), "std": pixels.std().item() / SIGMA_DATA}
    data = (pixels - scale["mean"]) / scale["std"]

    state = args.out / "state.pt"
    if state.exists():
        training = Training.load(state)
        print(f"continuing after {training.n * training.batch:,} images")
    else:
        arguments = {
            "img_resolution": data.shape[-1],
            "img_channels": 1,
            "label_dim": 10,
            "sigma_data": SIGMA_DATA,
            **PRESETS[args.preset],
        }
        training = Training(arguments, args.batch, args.lr, args.decay, args.seed)
        if args.start is not None:
            training.start_from(args.start)
    if args.compile:
        training.forward = torch.compile(training.net)
    if args.bf16:
        training.forward = in_bfloat16(training.forward)
    run(training, data, labels, args, scale)


def run(
    training: Training,
    data: torch.Tensor,
    labels: torch.Tensor,
    args: argparse.Namespace,
    scale: dict[str, float],
) -> None:
    """Train until the images or the minutes are used up, logging and saving on the way."""

    def save() -> None:
        training.save(args.out / "state.pt")
        write_weights(training, args.average, scale, args.out / "ema.safetensors")

    start, first = time.monotonic(), training.n
    images = args.images or IMAGES[args.preset]
    losses: list[float] = []
    with (args.out / "log.csv").open("a", newline="") as file:
        log = csv.writer(file)
        while training.n * training.batch < images and time.monotonic() - start < 60 * args.minutes:
            losses.append(training.step(data, labels, NOISE[args.preset]))
            if training.n % args.every == 0:
                rate = (training.n - first) * training.batch / (time.monotonic() - start)
                line = [training.n * training.batch, f"{np.mean(losses):.5f}", f"{rate:.1f}"]
                log.writerow(line)
                file.flush()
                print("{:>10} images  loss {}  {} images/s".format(*line), flush=True)
                losses.clear()
                save()
    save()


if __name__ == "__main__":
    main()
