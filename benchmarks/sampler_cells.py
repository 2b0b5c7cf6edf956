"""The worst cells of sk44 over UniPC-3 in docs/data/samplers.json, measured again with new samples.

A cell of benchmarks/samplers.py is a mean over 48 samples of three seeds, of networks over 12 or 3.
A few samples near the border of two modes, which end at one mode with one sampler and at the other
with the next, can make it whatever it is. Four new seeds with as many samples show what is left of
it, beside the same ratio with one call fewer and one more. Writes docs/data/sampler_cells.json.

    python benchmarks/sampler_cells.py [--above 1.25] [--out FILE]
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path

import _galaxy
import numpy as np
import samplers
import torch

from stiffkit.diffusion import sample

OUT = Path(__file__).parents[1] / "docs" / "data" / "sampler_cells.json"
SEEDS = (2000, 2001, 2002, 2003)
COUNT = 12


def worst_cells(data, above):
    """Yield set, problem, grid, calls and ratio of the cells above a ratio, averaged over seeds."""
    for key in ("report", "guided", "images"):
        for problem, table in data.get(key, {"errors": {}})["errors"].items():
            for grid in samplers.GRIDS:
                pair = zip(table[f"sk44 @ {grid}"], table[f"unipc3 @ {grid}"], strict=True)
                for calls, (error, peer) in zip(data[key]["calls"], pair, strict=True):
                    if error > above * peer:
                        yield key, problem, grid, calls, error / peer


def fresh(key, name):
    """Return the Problem with new noise."""
    if key == "images":
        side = int(name[-2:])
        count, kind = 2 if side == 32 else 1, {"dtype": torch.float64}
        draw = [
            torch.randn(
                (count, 1, side, side), generator=torch.Generator().manual_seed(seed), **kind
            )
            for seed in SEEDS
        ]
        ends = _galaxy.SIGMA_MIN, _galaxy.SIGMA_MAX
        return samplers.Problem(_galaxy.denoiser(name), torch.cat(draw), *ends)
    if key == "guided":
        denoiser, _ = samplers.guided_problems()[name]
        n = denoiser.strong.means.shape[1]
        denoiser = functools.partial(denoiser, labels=np.arange(COUNT * len(SEEDS)) % 4)
    else:
        denoiser = samplers.exact_problems("report")[name]
        n = denoiser.means.shape[1]
    noise = [np.random.default_rng(seed).standard_normal((COUNT, n)) for seed in SEEDS]
    return samplers.Problem(denoiser, np.concatenate(noise), 0.002, 80.0)


def ratios(problem, grid, calls):
    """Return the ratio of the mean errors, of the medians, and of the means of each seed."""
    sigmas, sizes = samplers.GRIDS[grid](calls, *problem.range), []
    for name in ("sk44", "unipc3"):
        gap = sample(problem.denoiser, problem.noise, sigmas, sampler=name) - problem.end
        sizes.append(np.linalg.norm(np.asarray(gap).reshape(len(gap), -1), axis=1))
    ours, peer = sizes
    seeds = [a.mean() / b.mean() for a, b in zip(*(s.reshape(4, -1) for s in sizes), strict=True)]
    mean, middle = ours.mean() / peer.mean(), np.median(ours) / np.median(peer)
    return [round(float(v), 3) for v in (mean, middle, min(seeds), max(seeds))]


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--above", type=float, default=1.25)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, problems = [], {}
    data = json.loads(samplers.DATA.read_text())
    for key, name, grid, calls, before in worst_cells(data, arguments.above):
        if key == "images" and _galaxy.find(name) is None:
            continue
        problem = problems.get(name) or fresh(key, name)
        problems[name] = problem
        row = {"problem": name, "grid": grid, "calls": calls, "before": round(before, 2)}
        row["again"] = {c: ratios(problem, grid, c) for c in (calls - 1, calls, calls + 1)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
