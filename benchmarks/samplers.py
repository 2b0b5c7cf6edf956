"""Samplers against the converged flow: error per call on exact denoisers and pretrained networks.

A cell is a problem, a number of calls and a seed; its error is the mean distance of the samples
from those of the converged flow with the same noise. Reported are geometric means over cells of the
error over Heun's (Karras' grid, ρ = 7, as many calls), the worst cell, and distances to data with
Heun's and the converged flow's beside them. Two sets of exact problems: what has constants was
tuned on "tuning" alone, and "report" is what the documentation shows. The shipped network's samples
are compared with test images, too: Fréchet and kernel distance on EfficientNet-Lite0 features
(extra "metrics", and Debian's dataset-fashion-mnist). Writes docs/data/samplers.json.

    python benchmarks/samplers.py [--only exact|images|shipped] [--quick] [--out FILE]

--quick goes through all of a part with few samples and calls, and writes nothing without --out.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import re
import time
from pathlib import Path

import _galaxy
import numpy as np
import shipped_model
import torch

import stiffkit as sk
from stiffkit.diffusion import (
    DataDenoiser,
    GaussianMixture,
    gaussian,
    karras_sigmas,
    logsnr_sigmas,
    probability_flow,
    sample,
)
from stiffkit.diffusion.metrics import (
    efficientnet_features,
    frechet_distance,
    kernel_distance,
)
from stiffkit.diffusion.shipped import fashion_mnist, to_pixels
from stiffkit.guidance import (
    ERKGuidance,
    FittedExtrapolation,
    autoguidance,
    classifier_free_guidance,
)

DATA = Path(__file__).parents[1] / "docs" / "data" / "samplers.json"
CALLS = (7, 11, 15, 21, 31, 63)
IMAGE_CALLS = (7, 11, 15, 21, 31)
QUALITY_CALLS = (7, 11, 15, 21, 35)
SEEDS = (0, 1, 2)
GRIDS = {"karras7": karras_sigmas, "logsnr": logsnr_sigmas}
MULTISTEP = (
    "dpmpp2m", "dpmpp3m", "unipc2", "unipc3", "deis2", "deis3", "deis4", "ipndm4", "psi2",
    "sk34", "sk44",
)  # fmt: skip


def paper_schedule(n):
    """ERK-Guid's published weight and gate for n noise levels."""
    return (1.0, 0.5) if n >= 24 else (0.75, 0.3) if n >= 12 else (0.5, 0.1)


def no_guide(n):
    """Return no guide, for any number of levels."""


def single_steps():
    """Name -> (sampler, guide of n levels), two calls a step."""
    return {
        "heun": ("heun", no_guide),
        "erk paper": ("heun", lambda n: ERKGuidance(*paper_schedule(n))),
        "erk (.5, .5)": ("heun", lambda _: ERKGuidance(0.5, 0.5)),
        "fx": ("heun", lambda _: FittedExtrapolation(guard=False)),
        "fx, guarded": ("heun", lambda _: FittedExtrapolation()),
        "dpm2": ("dpm2", no_guide),
    }


# Problems -----------------------------------------------------------------------------------------


def spiral():
    angle = np.linspace(1.0, 10.0, 200)
    return 0.08 * angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def digits():
    from sklearn.datasets import load_digits

    images = load_digits().data[:400] / 8.0 - 1.0
    return 0.5 * (images - images.mean(axis=0)) / images.std()


def low_rank(rng, m, n, r):
    factors = rng.normal(0.0, 0.5 / math.sqrt(r), (m, n, r)) * np.arange(1, r + 1) ** -0.5
    return GaussianMixture(rng.normal(0.0, 0.3, (m, n)), factors=factors, std=0.02)


def exact_problems(which):
    """Name -> denoiser, 2-D to 256-D, data of standard deviation 0.5 about."""
    if which == "tuning":
        rng = np.random.default_rng(100)
        corners = np.array([[i, j] for i in (-0.6, 0.6) for j in (-0.6, 0.6)])
        return {
            "four modes, 2-D": DataDenoiser(corners, 0.15),
            "Gaussian, 16-D": gaussian(0.5**2 * np.arange(1, 17) ** -1.5),
            "mixture, 16-D": DataDenoiser(rng.normal(0.0, 0.5, (12, 16)), 0.15),
            "low rank, 48-D": low_rank(rng, 6, 48, 6),
            "digits, even, 64-D": DataDenoiser(digits()[::2], 0.1),
        }
    rng = np.random.default_rng(0)
    images = digits()
    pca = images @ np.linalg.svd(images, full_matrices=False)[2][:32].T
    return {
        "two modes, 2-D": DataDenoiser(np.array([[-0.5, 0.0], [0.5, 0.1]]), 0.1),
        "spiral, 2-D": DataDenoiser(spiral(), 0.03),
        "Gaussian, 32-D": gaussian(0.5**2 * np.arange(1, 33) ** -2.0),
        "mixture, 32-D": DataDenoiser(rng.normal(0.0, 0.5, (8, 32)), 0.1),
        "digits PCA, 32-D": DataDenoiser(pca, 0.05),
        "digits, 64-D": DataDenoiser(images, 0.05),
        "digits, sharp, 64-D": DataDenoiser(images, 0.01),
        "low rank, 128-D": low_rank(rng, 10, 128, 8),
        "Gaussian, 256-D": gaussian(0.5**2 * np.arange(1, 257) ** -1.0),
    }


def guided_problems(count=16):
    """Name -> guided denoiser of as many samples; their Jacobians are not those of any density."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(3)
    means, digit = rng.normal(0.0, 0.5, (12, 16)), load_digits().target[:400]
    mixture = DataDenoiser(means, 0.15, classes=np.arange(12) % 4)
    sharp, blurred = (DataDenoiser(digits(), std, classes=digit) for std in (0.1, 0.4))
    labels = np.arange(count * len(SEEDS)) % 4
    guided = {
        "mixture 16-D, CFG 2": classifier_free_guidance(mixture, 2.0),
        "mixture 16-D, CFG 4": classifier_free_guidance(mixture, 4.0),
        "digits, CFG 2": classifier_free_guidance(sharp, 2.0),
        "digits, autoguidance 2": autoguidance(sharp, blurred, 2.0),
    }
    return {name: (d, labels) for name, d in guided.items()}


class Problem:
    """A denoiser with its noise levels, its starting noise by seed, and its converged samples."""

    def __init__(self, denoiser, noise, sigma_min, sigma_max):
        self.denoiser, self.noise = denoiser, noise  # of all seeds, one after the other
        self.range = sigma_min, sigma_max
        self.end = self.converged()

    def converged(self):
        """Return samples of the flow itself, to 1e-8 and better (networks: 1e-6)."""
        (low, high), noise = self.range, self.noise
        if isinstance(noise, np.ndarray):
            f = probability_flow(self.denoiser)

            def in_log(t, x):
                return math.exp(t) * f(math.exp(t), x)

            span = math.log(high), math.log(low)
            run = sk.solve(in_log, span, high * noise, "vern7", rtol=1e-9, atol=1e-10, detect=False)
            return self.denoiser(run.y[-1], low)
        options = {"sigma_min": low, "sigma_max": high, "sampler": "tsit5"}
        return sample(self.denoiser, noise, 2, rtol=1e-6, **options)

    def error(self, calls, sampler, grid, guide=None, *, levels=None):
        """Mean distance from the converged samples, per seed."""
        sigmas = GRIDS[grid](levels or calls, *self.range)
        x = sample(self.denoiser, self.noise, sigmas, sampler=sampler, guide=guide)
        size = ((x - self.end) ** 2).reshape(len(x), -1).sum(1) ** 0.5
        return [float(part.mean()) for part in size.reshape(len(SEEDS), -1)]


def exact_problem(denoiser, count=16, n=None):
    n = n or denoiser.means.shape[1]
    noise = [np.random.default_rng(1000 + s).standard_normal((count, n)) for s in SEEDS]
    return Problem(denoiser, np.concatenate(noise), 0.002, 80.0)


def image_noise(count, side):
    return torch.cat(
        [
            torch.randn(
                (count, 1, side, side),
                dtype=torch.float64,
                generator=torch.Generator().manual_seed(s),
            )
            for s in SEEDS
        ]
    )


def image_problems(count=4):
    """Name -> function that makes the Problem, of what is installed."""
    out = {}
    for name in _galaxy.NAMES:
        if _galaxy.find(name) is not None:
            side = int(name[-2:])
            noise = image_noise(count if side == 32 else 1, side)
            network = _galaxy.denoiser(name), noise, _galaxy.SIGMA_MIN, _galaxy.SIGMA_MAX
            out[name] = functools.partial(Problem, *network)
    return out


def shipped_problems(count=4):
    """Name -> Problem of the network that comes with stiffkit, alone and guided, in float64."""
    net, weak = (fashion_mnist(weak).double() for weak in (False, True))
    labels = torch.arange(count * len(SEEDS)) % 10

    def denoiser(network):
        return lambda x, sigma, labels=None: network(x, sigma, labels, force_fp32=True)

    strong = denoiser(net)
    guided = {
        "fashion": strong,
        "fashion, CFG 2": classifier_free_guidance(strong, 2.0),
        "fashion, autoguidance 2": autoguidance(strong, denoiser(weak), 2.0),
    }
    noise = image_noise(count, 28)
    return {
        name: functools.partial(Problem, functools.partial(d, labels=labels), noise, 0.002, 80.0)
        for name, d in guided.items()
    }


# Measurement --------------------------------------------------------------------------------------


def measure(problem, calls=CALLS, samplers=MULTISTEP):
    """{"sampler @ grid": {calls: [error per seed]}}; two-call samplers on Karras' grid."""
    table = {}
    for grid in GRIDS:
        for name, (sampler, guide) in single_steps().items() if grid == "karras7" else ():
            row = table.setdefault(f"{name} @ {grid}", {})
            for c in calls:
                n = (c + 1) // 2
                row[c] = problem.error(c, sampler, grid, guide(n), levels=n)
        for name in samplers:
            label = name if isinstance(name, str) else name.name
            table[f"{label} @ {grid}"] = {c: problem.error(c, name, grid) for c in calls}
    return table


def ratios(tables, name, base="heun @ karras7"):
    """Error over that of `base` in every cell: problem, calls, seed."""
    return np.array(
        [
            e / b
            for table in tables.values()
            for c, row in table[name].items()
            for e, b in zip(row, table[base][c], strict=True)
        ]
    )


def summary(tables, bases=("heun @ karras7", "unipc3 @ karras7")):
    """Geometric mean, worst cell and share of wins of every sampler over each base."""
    out = {}
    for name in next(iter(tables.values())):
        out[name] = {}
        for base in bases:
            r = ratios(tables, name, base)
            out[name][base] = {
                "mean": round(float(np.exp(np.log(r).mean())), 4),
                "worst": round(float(r.max()), 3),
                "wins": round(float((r < 1).mean()), 3),
            }
    return out


# Distances to data --------------------------------------------------------------------------------


def sliced_wasserstein(x, y, directions=128):
    """Mean Wasserstein-1 distance of projections to random directions."""
    v = np.random.default_rng(0).standard_normal((x.shape[1], directions))
    v /= np.linalg.norm(v, axis=0)
    return float(abs(np.sort(x @ v, axis=0) - np.sort(y @ v, axis=0)).mean())


def energy_distance(x, y):
    """2 E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖, with pairs of distinct samples."""
    from scipy.spatial.distance import cdist, pdist

    return float(2 * cdist(x, y).mean() - pdist(x).mean() - pdist(y).mean())


def distances(denoiser, calls=11, count=1000):
    """Sampler -> [sliced Wasserstein, energy distance], beside the converged flow and data."""
    n = denoiser.means.shape[1]
    noise = np.random.default_rng(7).standard_normal((count, n))
    end = Problem(denoiser, noise, 0.002, 80.0).end
    data = denoiser.draw(4 * count, seed=8)
    fresh, data = data[:count], data[count : 2 * count]
    rows = {"data": fresh, "converged flow": end}
    levels = (calls + 1) // 2
    for name, (sampler, guide) in single_steps().items():
        rows[name] = sample(denoiser, noise, levels, sampler=sampler, guide=guide(levels))
    for name in MULTISTEP:
        rows[name] = sample(denoiser, noise, calls, sampler=name)
    return {
        name: [round(sliced_wasserstein(x, data), 5), round(energy_distance(x, data), 5)]
        for name, x in rows.items()
    }


def finite_set(calls=CALLS, count=64):
    """Share of samples that end at another image than the converged flow's, for a finite set.

    Its denoiser returns one of the images to rounding: errors are all or nothing.
    """
    denoiser = DataDenoiser(digits(), 0.0)
    noise = np.random.default_rng(9).standard_normal((count, 64))
    end = Problem(denoiser, noise, 0.002, 80.0).end

    def missed(x):
        return round(float((abs(x - end).max(axis=1) > 1e-3).mean()), 3)

    rows = {}
    for name, (sampler, guide) in single_steps().items():
        rows[name] = {}
        for c in calls:
            n = (c + 1) // 2
            rows[name][c] = missed(sample(denoiser, noise, n, sampler=sampler, guide=guide(n)))
    for name in MULTISTEP:
        rows[name] = {c: missed(sample(denoiser, noise, c, sampler=name)) for c in calls}
    return rows


def quality(data, calls=QUALITY_CALLS, count=2000, batch=100, test=10_000):
    """Fréchet and kernel distance of the shipped network's samples to the test images.

    The noise is the same for all rows, and every class comes as often. Training images are the
    floor.
    """
    net = fashion_mnist()
    reference = efficientnet_features(shipped_model.images(data, "t10k", test))
    side, parts = net.img_resolution, range(0, count, batch)
    count = batch * len(parts)  # whole batches
    noise = {
        i: torch.randn(batch, 1, side, side, generator=torch.Generator().manual_seed(i))
        for i in parts
    }

    def distances(images):
        features = efficientnet_features(images)
        kid = kernel_distance(features, reference)[0]
        return [float(f"{v:.4g}") for v in (frechet_distance(features, reference), kid)]

    def drawn(**options):
        labels = [torch.arange(i, i + batch) % net.label_dim for i in parts]
        x = [
            sample(net, noise[i], labels=own, **options)
            for i, own in zip(parts, labels, strict=True)
        ]
        return distances(to_pixels(net, torch.cat(x)))

    rows = {}

    def add(name, row):
        rows[name] = row
        cells = row.items() if isinstance(row, dict) else [("", row)]
        print(f"  {name:16}", *(f"{c}: {fd:.2f} {kid:.3g} " for c, (fd, kid) in cells), flush=True)

    print(f"\nshipped network, {count} images: FD-EffLite0 and KID to {test} test images")
    add("training images", distances(shipped_model.images(data, "train", count)))
    add("converged flow", drawn(rtol=1e-4, sampler="tsit5"))
    for name, (sampler, guide) in single_steps().items():
        levels = {c: (c + 1) // 2 for c in calls}
        add(name, {c: drawn(steps=n, sampler=sampler, guide=guide(n)) for c, n in levels.items()})
    for name in ("dpmpp2m", "unipc3", "deis3", "deis4", "sk44"):
        add(name, {c: drawn(steps=c, sampler=name) for c in calls})
    return {"calls": list(calls), "images": count, "rows": rows}


def kept(tables, calls):
    """Return what is written of a set: a summary, and errors averaged over seeds."""
    errors = {
        problem: {
            name: [float(f"{np.mean(row[c]):.3g}") for c in calls] for name, row in table.items()
        }
        for problem, table in tables.items()
    }
    return {"calls": list(calls), "summary": summary(tables), "errors": errors}


def show(title, table, base="heun @ karras7"):
    print(f"\n{title}: error over {base}: geometric mean, worst cell, wins")
    for name, row in sorted(table.items(), key=lambda item: item[1][base]["mean"]):
        r = row[base]
        print(f"  {name:24} {r['mean']:8.4f} {r['worst']:9.3f} {r['wins']:6.2f}")


def exact_part(result, calls=CALLS, count=16, many=1000):
    """Measure the exact problems."""
    for which in ("tuning", "report"):
        start = time.perf_counter()
        problems = exact_problems(which)
        tables = {name: measure(exact_problem(d, count), calls) for name, d in problems.items()}
        result[which] = kept(tables, calls)
        show(which, result[which]["summary"])
        print(f"  ({time.perf_counter() - start:.0f} s)")
    result["finite"] = finite_set(calls, 4 * count)
    tables, few = {}, calls[::2]
    for name, (guided, labels) in guided_problems(count).items():
        n = guided.strong.means.shape[1]
        conditional = functools.partial(guided, labels=labels)
        tables[name] = measure(exact_problem(conditional, count, n=n), few)
    result["guided"] = kept(tables, few)
    show("guided", result["guided"]["summary"])
    report = exact_problems("report")
    names = list(report)[:6]
    result["distances"] = {name: distances(report[name], count=many) for name in names}


def network_part(result, key, problems, calls=IMAGE_CALLS):
    """Measure networks: a set of problems that are made when their turn comes."""
    few, tables = ("dpmpp2m", "unipc3", "deis3", "deis4", "sk34", "sk44"), {}
    for name, make in problems.items():
        tables[name] = measure(make(), calls, few)
        show(name, summary({name: tables[name]}))
    if tables:
        result[key] = kept(tables, calls)
        show(key, result[key]["summary"])


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("exact", "images", "shipped"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument(
        "--samples", type=int, default=2000, help="of the shipped network's quality"
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quick, out = arguments.quick, arguments.out or (None if arguments.quick else DATA)
    result = json.loads(out.read_text()) if out is not None and out.exists() else {}
    parts = [arguments.only] if arguments.only else ["exact", "images", "shipped"]
    few = {"calls": (7, 15)} if quick else {}
    if "exact" in parts:
        exact_part(result, **few, **({"count": 2, "many": 50} if quick else {}))
        write(out, result)
    if "images" in parts:
        network_part(result, "images", image_problems(1 if quick else 4), **few)
        write(out, result)
    if "shipped" in parts:
        network_part(result, "shipped", shipped_problems(1 if quick else 4), **few)
        write(out, result)
        small = {"count": arguments.samples}
        if quick:
            small = {"count": 20, "batch": 20, "test": 100}
        result["quality"] = quality(arguments.data, **few, **small)
        write(out, result)


def write(out, result):
    if out is not None:
        text = re.sub(r"\[\s+([^\[\]]*?)\s+\]", r"[\1]", json.dumps(result, indent=1))
        out.write_text(re.sub(r",\s+(?=-?\d)", ", ", text) + "\n")


if __name__ == "__main__":
    main()
