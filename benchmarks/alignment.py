"""Angles between Heun's error on the probability-flow ODE and the dominant eigenvector.

Exact denoisers, so that the Jacobian is known in closed form: quantiles of |cos| by noise level,
beside what a random direction gives. Writes docs/data/alignment.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from pathlib import Path

import numpy as np
from scipy.stats import beta

from stiffkit.diffusion import DataDenoiser, gaussian, karras_sigmas, probability_flow

DATA = Path(__file__).parents[1] / "docs" / "data" / "alignment.json"
REGIONS = ((0.002, 0.05), (0.05, 0.2), (0.2, 0.8), (0.8, 5.0), (5.0, 80.0))
TOP = (1, 2, 4, 8)
DISTINCT = 0.9  # |λ₂/λ₁| below this: the dominant vector is well defined


def problems():
    """Name -> denoiser; data of standard deviation 0.5 about."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(0)
    digits = load_digits().data[:400] / 8.0 - 1.0
    digits = 0.5 * (digits - digits.mean(axis=0)) / digits.std()
    pca = digits @ np.linalg.svd(digits, full_matrices=False)[2][:32].T
    angle = np.linspace(1.0, 10.0, 200)
    spiral = 0.08 * angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return {
        "two modes, 2-D": DataDenoiser(np.array([[-0.5, 0.0], [0.5, 0.1]]), 0.1),
        "spiral, 2-D": DataDenoiser(spiral, 0.03),
        "Gaussian, 32-D": gaussian(0.5**2 * np.arange(1, 33) ** -2.0),
        "mixture, 32-D": DataDenoiser(rng.normal(0.0, 0.5, (8, 32)), 0.1),
        "digits PCA, 32-D": DataDenoiser(pca, 0.05),
        "digits, 64-D": DataDenoiser(digits, 0.05),
    }


def fine(f, x, start, stop, steps):
    """Classical Runge-Kutta with geometric steps: the reference from the same start."""
    grid = np.geomspace(start, stop, steps + 1)
    for s, s_new in itertools.pairwise(grid):
        h = s_new - s
        k_1 = f(s, x)
        k_2 = f(s + h / 2, x + h / 2 * k_1)
        k_3 = f(s + h / 2, x + h / 2 * k_2)
        k_4 = f(s_new, x + h * k_3)
        x = x + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)
    return x


def unit(v):
    return v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-300)


def records(denoiser, n, samples, levels, substeps):
    """One dict per sample and step of Heun's method on a Karras grid; eigenpairs at its start."""
    f = probability_flow(denoiser)
    sigmas = karras_sigmas(levels)
    x = sigmas[0] * np.random.default_rng(1).standard_normal((samples, n))
    secant, out = None, []
    for s, s_new in itertools.pairwise(sigmas):
        h, k_1 = s_new - s, f(s, x)
        euler = x + h * k_1
        k_2 = f(s_new, euler)
        heun = x + h / 2 * (k_1 + k_2)
        error = heun - fine(f, x, s, s_new, substeps)
        rates, U = np.linalg.eigh((np.eye(n) - denoiser.jacobian(x, s)) / s)
        order = np.argsort(-np.abs(rates), axis=1)
        rates = np.take_along_axis(rates, order, 1)
        U = np.take_along_axis(U, order[:, None, :], 2)
        # Below rounding of x there is no direction left to speak of.
        known = np.linalg.norm(error, axis=1) > 1e-11 * np.linalg.norm(x, axis=1)
        parts = {"true": unit(error), "embedded": unit(heun - euler)}
        if secant is not None:
            parts["drift"] = unit(f(s, x) - secant)
        coefficients = {k: np.einsum("bij,bi->bj", U, v) for k, v in parts.items()}
        for b in np.flatnonzero(known):
            row = {k: abs(c[b, 0]) for k, c in coefficients.items()}
            row["sigma"] = s
            row["gap"] = abs(rates[b, 1] / rates[b, 0]) if rates[b, 0] else 1.0
            row["h_rho"] = abs(h * rates[b, 0])
            row["grows"] = rates[b, 0] < 0  # σ falls: a negative rate grows
            row["top"] = [(coefficients["true"][b, :k] ** 2).sum() for k in TOP]
            if "drift" in parts:
                row["drift_true"] = abs(parts["drift"][b] @ parts["true"][b])
            out.append(row)
        secant, x = k_2, heun
    return out


def quantiles(values):
    return [round(float(q), 3) for q in np.quantile(values, (0.1, 0.5, 0.9))] if values else None


def summary(rows, n):
    """Quantiles 10, 50, 90 %, by region of sigma."""
    out = []
    for low, high in REGIONS:
        here = [r for r in rows if low < r["sigma"] <= high]
        if not here:
            continue
        distinct = [r for r in here if r["gap"] < DISTINCT]
        entry = {"sigma": [low, high], "count": len(here), "distinct": len(distinct)}
        entry["distinct_grows"] = sum(bool(r["grows"]) for r in distinct)
        for key in ("true", "embedded", "drift", "drift_true", "gap", "h_rho"):
            entry[key] = quantiles([r[key] for r in here if key in r])
        entry["true_distinct"] = quantiles([r["true"] for r in distinct])
        shares = np.median([r["top"] for r in here], axis=0)
        entry["top"] = {
            str(k): round(float(s), 3) for k, s in zip(TOP, shares, strict=True) if k <= n
        }
        out.append(entry)
    return out


def random_cosine(n):
    """Mean and median of |cos| for a random direction: cos² ~ Beta(1/2, (n − 1)/2)."""
    mean = math.exp(math.lgamma(n / 2) - math.lgamma((n + 1) / 2)) / math.sqrt(math.pi)
    return {"mean": round(mean, 3), "median": round(float(beta.median(0.5, n / 2 - 0.5)) ** 0.5, 3)}


def measure(samples=48, substeps=24):
    """Return the summary of every problem, over grids of 10, 18 and 40 noise levels."""
    result = {}
    for name, denoiser in problems().items():
        n = denoiser.means.shape[1]
        rows = [r for N in (10, 18, 40) for r in records(denoiser, n, samples, N, substeps)]
        result[name] = {"n": n, "random": random_cosine(n), "regions": summary(rows, n)}
    return result


def main():
    """Measure, and write the data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--substeps", type=int, default=24, help="of the reference, per step")
    arguments = parser.parse_args()
    data = measure(arguments.samples, arguments.substeps)
    arguments.out.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
