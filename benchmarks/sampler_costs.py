"""Samplers on the shipped network: what their arithmetic costs, and where rounding sets a floor.

overhead: process time outside the network over that inside it, a batch of 64 in single precision;
the median of interleaved repeats. rounding: root mean square difference, per pixel, from the same
sampler with network and state in double precision, at 50 noise levels; the data's deviation is 0.5.
"solver" is the error at these levels itself, against the converged flow. Float16 runs on the CPU
here, where the network would use float32 by itself. Writes docs/data/sampler_costs.json.

    python benchmarks/sampler_costs.py [--only overhead|rounding] [--images N] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from stiffkit.diffusion import sample
from stiffkit.diffusion.shipped import fashion_mnist
from stiffkit.guidance import ERKGuidance, FittedExtrapolation

DATA = Path(__file__).parents[1] / "docs" / "data" / "sampler_costs.json"
SAMPLERS = {
    "heun": ("heun", None),
    "erk": ("heun", ERKGuidance(0.5, 0.5)),
    "fx": ("heun", FittedExtrapolation(guard=False)),
    "fx, guarded": ("heun", FittedExtrapolation()),
    "dpmpp2m": ("dpmpp2m", None),
    "unipc3": ("unipc3", None),
    "deis4": ("deis4", None),
    "sk44": ("sk44", None),
}
SHORT = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def start(count, side=28):
    noise = torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(0))
    return noise, torch.arange(count) % 10


def overhead(count=64, calls=9, repeats=5):
    """Return the share of the network's own time that each sampler adds."""
    net, (noise, labels) = fashion_mnist(), start(count)
    inside = 0.0

    def timed(x, sigma, labels):
        nonlocal inside
        began = time.process_time()
        D = net(x, sigma, labels)
        inside += time.process_time() - began
        return D

    shares = {name: [] for name in SAMPLERS}
    for repeat in range(repeats + 1):
        for name, (sampler, guide) in SAMPLERS.items():
            steps = (calls + 1) // 2 if sampler == "heun" else calls
            inside, began = 0.0, time.process_time()
            sample(timed, noise, steps=steps, sampler=sampler, guide=guide, labels=labels)
            total = time.process_time() - began
            if repeat:  # the first is to warm up
                shares[name].append(total / inside - 1)
    return {name: float(f"{np.median(share):.2g}") for name, share in shares.items()}


def rounding(count=4, steps=50):
    """Return the solver's error, and what each dtype of network and state adds to it."""
    noise, labels = start(count)
    double = fashion_mnist().double()

    def drawn(net, state, **options):
        x = sample(net, noise, steps, labels=labels, dtype=state, **options)
        return x.double()

    def rms(x):
        return float(f"{float((x**2).mean() ** 0.5):.2g}")

    converged = drawn(double, torch.float64, sampler="tsit5", rtol=1e-8)
    table = {}
    for name, (sampler, guide) in SAMPLERS.items():
        options = {"sampler": sampler, "guide": guide}
        reference = drawn(double, torch.float64, **options)
        row = table[name] = {"solver": rms(reference - converged)}
        for short, dtype in SHORT.items():
            net = fashion_mnist()
            net._precision = lambda *_, dtype=dtype: dtype  # float16 on the CPU, too
            for state in ("float32", "float64"):
                x = drawn(net, getattr(torch, state), **options)
                row[f"{short}, {state}"] = rms(x - reference)
        print(name, row, flush=True)
    return {"images": count, "steps": steps, "rows": table}


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("overhead", "rounding"))
    parser.add_argument("--images", type=int, default=4, help="of rounding")
    parser.add_argument("--out", type=Path, default=DATA)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    parts = {"overhead": overhead, "rounding": lambda: rounding(arguments.images)}
    for name, part in parts.items():
        if arguments.only in (None, name):
            result[name] = part()
            print(name, json.dumps(result[name], indent=1), flush=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
