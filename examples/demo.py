"""First run, from end to end: real equations solved and compared, real images sampled.

0. Robertson's reaction to t = 1e11 with ``method="auto"``: where it changes the method, and why.
1. The Arenstorf orbit and van der Pol's oscillator, stiffkit beside SciPy: calls of f, time, and
   digits against the published end value or a tight reference; trajectories and work-precision
   diagrams.
2. Images of digits, drawn from the smoothed density of scikit-learn's 1797 scanned digits by the
   probability-flow ODE: Heun's method on Karras' grid with and without ERK-Guid, the same number
   of calls, beside the exact flow.

    python examples/demo.py [--out DIR]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.integrate import solve_ivp
from sklearn.datasets import load_digits

import stiffkit as sk
from stiffkit.diffusion import DataDenoiser, karras_sigmas, probability_flow, sample
from stiffkit.guidance import ERKGuidance

# Equations ----------------------------------------------------------------------------------------

MU = 0.012277471
PERIOD = 17.0652165601579625588917206249
ARENSTORF_Y0 = [0.994, 0.0, 0.0, -2.00158510637908252240537862224]


def arenstorf(t: float, y: np.ndarray) -> list[float]:  # noqa: ARG001
    """Return the slope of a satellite's state in the rotating frame of Earth and Moon."""
    u, v, du, dv = y.tolist()
    nu = 1 - MU
    d_1, d_2 = ((u + MU) ** 2 + v**2) ** 1.5, ((u - nu) ** 2 + v**2) ** 1.5
    ddu = u + 2 * dv - nu * (u + MU) / d_1 - MU * (u - nu) / d_2
    return [du, dv, ddu, v - 2 * du - nu * v / d_1 - MU * v / d_2]


def van_der_pol(t: float, y: np.ndarray) -> list[float]:  # noqa: ARG001
    """Return the slope of van der Pol's oscillator, μ = 5."""
    u, v = y.tolist()
    return [v, 5 * (1 - u * u) * v - u]


def digits(y: np.ndarray, reference: np.ndarray) -> float:
    """Return −log10 of the largest error, relative to the size of the state."""
    return float(-np.log10(np.abs(y - reference).max() / np.abs(reference).max()))


def timed(run: Callable[[], Any], repetitions: int = 3) -> tuple[Any, float]:
    """Return a result and the least time in milliseconds."""
    best, result = np.inf, None
    for _ in range(repetitions):
        start = time.perf_counter()
        result = run()
        best = min(best, time.perf_counter() - start)
    return result, 1e3 * best


def equations(out: Path) -> None:
    """Solve both problems, print a table, draw two figures."""
    vdp_span, vdp_y0 = (0.0, 20.0), [2.0, 0.0]
    vdp_end = solve_ivp(van_der_pol, vdp_span, vdp_y0, "DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
    problems = {
        "Arenstorf orbit": (arenstorf, (0.0, PERIOD), ARENSTORF_Y0, np.array(ARENSTORF_Y0)),
        "van der Pol, μ = 5": (van_der_pol, vdp_span, vdp_y0, vdp_end),
    }
    pairs = [("dopri5", "RK45"), ("dop853", "DOP853"), ("tsit5", None), ("vern7", None)]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    print(f"{'problem':20} {'method':18} {'calls':>7} {'ms':>8} {'digits':>7}   at rtol 1e-8")
    for ax, (title, (f, span, y0, end)) in zip(axes, problems.items(), strict=True):
        for method, peer in pairs:
            curve, peer_curve = [], []
            for rtol in 10.0 ** -np.arange(4, 12):
                options = {"rtol": rtol, "atol": rtol * 1e-2}
                ours, ms = timed(partial(sk.solve, f, span, y0, method, **options))
                score = digits(ours.y[-1], end)
                curve.append((score, ours.stats["nfev"]))
                if rtol == 1e-8:
                    row = f"{ours.stats['nfev']:7} {ms:8.2f} {score:7.1f}"
                    print(f"{title:20} {method:18} {row}")
                if peer:
                    theirs, ms = timed(partial(solve_ivp, f, span, y0, peer, **options))
                    score = digits(theirs.y[:, -1], end)
                    peer_curve.append((score, theirs.nfev))
                    if rtol == 1e-8:
                        row = f"{theirs.nfev:7} {ms:8.2f} {score:7.1f}"
                        print(f"{title:20} {'SciPy ' + peer:18} {row}")
            (line,) = ax.plot(*zip(*curve, strict=True), "o-", ms=4, label=f"stiffkit {method}")
            if peer:
                points = zip(*peer_curve, strict=True)
                ax.plot(*points, "x--", ms=5, color=line.get_color(), label=f"SciPy {peer}")
        ax.set(title=title, xlabel="correct digits", ylabel="calls of f", yscale="log")
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    save(figure, out / "work_precision.png")
    trajectories(out)


ROBERTSON_END = np.array([0.2083340149701255e-07, 0.8333360770334713e-13, 0.9999999791665050])


def robertson(t: float, y: np.ndarray) -> np.ndarray:  # noqa: ARG001
    """Return the slope of three concentrations, whose rates differ by nine orders."""
    u, v, w = y.tolist()
    slow, fast = 0.04 * u - 1e4 * v * w, 3e7 * v * v
    return np.array([-slow, slow - fast, fast])


def reaction() -> None:
    """Solve a stiff problem with the default method, and say what it did."""
    print("Robertson's reaction to t = 1e11, method='auto'")
    for rtol in (1e-4, 1e-6, 1e-8):
        run = partial(
            sk.solve, robertson, (0.0, 1e11), [1.0, 0.0, 0.0], rtol=rtol, atol=1e-8 * rtol
        )
        solution, ms = timed(run)
        score = -np.log10(np.abs(solution.y[-1] / ROBERTSON_END - 1).max())
        calls = solution.stats["nfev"]
        print(f"  rtol {rtol:.0e}: {score:4.1f} digits, {calls} calls, {ms:.1f} ms")
    for switch in solution.switches:
        print(f"  t = {switch.t:.3g}: {switch.source} to {switch.target}, since {switch.why}")
    print()


def trajectories(out: Path) -> None:
    """Draw the orbit with its accepted steps, and the oscillator with its step sizes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    orbit = sk.solve(
        arenstorf, (0, PERIOD), ARENSTORF_Y0, "vern7", rtol=1e-9, atol=1e-11, dense=True
    )
    path = orbit(np.linspace(0, PERIOD, 2000))
    left.plot(path[:, 0], path[:, 1], lw=1)
    left.plot(orbit.y[:, 0], orbit.y[:, 1], ".", ms=4, label=f"{len(orbit.t) - 1} steps, vern7")
    left.plot([-MU, 1 - MU], [0, 0], "k*", ms=8)
    left.annotate("Earth", (-MU, 0), (4, 6), textcoords="offset points")
    left.annotate("Moon", (1 - MU, 0), (-12, 14), textcoords="offset points")
    left.set(title="Arenstorf orbit, rotating frame", aspect="equal", xlabel="x", ylabel="y")
    left.legend(fontsize=8)
    swing = sk.solve(van_der_pol, (0, 20), [2.0, 0.0], dense=True, log=True)
    t = np.linspace(0, 20, 1500)
    right.plot(t, swing(t)[:, 0], label="y(t)")
    right.set(title="van der Pol, μ = 5: tsit5 chooses its steps", xlabel="t", ylabel="y")
    steps = right.twinx()
    taken = swing.log["accepted"]
    steps.semilogy(swing.log["t"][taken], swing.log["h"][taken], "C1.", ms=4, label="accepted h")
    if not taken.all():
        steps.semilogy(swing.log["t"][~taken], swing.log["h"][~taken], "kx", ms=4, label="rejected")
    steps.set_ylabel("step size h")
    steps.legend(fontsize=8, loc="lower right")
    save(figure, out / "trajectories.png")


# Images -------------------------------------------------------------------------------------------

BLUR = 0.1
"""Standard deviation of the smoothed density, where the pixels' own is about 0.75."""


def images(out: Path) -> None:
    """Sample digits with Heun and with ERK-Guid, and compare with the exact flow."""
    pixels = load_digits().images / 8.0 - 1.0  # (1797, 8, 8) in [-1, 1]
    denoiser = DataDenoiser(torch.as_tensor(pixels), std=BLUR)
    noise = torch.randn((96, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigmas = karras_sigmas(10)
    exact = exact_flow(denoiser, noise, sigmas)
    # The paper's weights for 8 steps.
    guide = ERKGuidance(w_stiff=0.5, w_con=0.1)
    rows = {"true flow": exact}
    print(f"\n{'digits by diffusion':20} {'calls':>6}   rms error of an image's pixels, true flow:")
    print(f"{'':20} {'':6}   {'median image':>14} {'worst image':>12} {'all':>8}")
    for name, hook in (("Heun", None), ("Heun + ERK-Guid", guide)):
        counted = Count(denoiser)
        drawn = sample(counted, noise, sigmas, sampler="heun", guide=hook)
        rows[f"{name}, {counted.calls} calls"] = drawn
        square = (drawn - exact).pow(2).mean(dim=(1, 2))
        median, worst, overall = (
            float(s.sqrt()) for s in (square.median(), square.max(), square.mean())
        )
        print(f"{name:20} {counted.calls:6}   {median:14.4f} {worst:12.4f} {overall:8.4f}")
    print("(A few images end at another digit than the true flow's; they decide the mean.)")
    grid({name: drawn[:12] for name, drawn in rows.items()}, out / "digits.png")


class Count:
    """A denoiser that counts its calls."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser, self.calls = denoiser, 0

    def __call__(self, x: Any, sigma: Any) -> Any:
        """Call the denoiser."""
        self.calls += 1
        return self.denoiser(x, sigma)


def exact_flow(denoiser: Any, noise: torch.Tensor, sigmas: np.ndarray) -> torch.Tensor:
    """Solve the same ODE to ten digits; like the samplers, end with D at the last σ."""
    span = (sigmas[0], sigmas[-1])
    flow = sk.solve(
        probability_flow(denoiser), span, noise * sigmas[0], "dop853", rtol=1e-10, atol=1e-10
    )
    if not flow.success:
        raise RuntimeError(flow.message)
    return denoiser(flow.y[-1], sigmas[-1])


def grid(rows: dict[str, torch.Tensor], path: Path) -> None:
    """Draw one row of images per sampler, and where it differs from the true flow."""
    exact = next(iter(rows.values()))
    figure, axes = plt.subplots(
        2 * len(rows) - 1, len(exact), figsize=(11, 5.2), layout="constrained"
    )
    lines = []
    for name, drawn in rows.items():
        lines.append((name, drawn, {"cmap": "gray", "vmin": -1, "vmax": 1}))
        if drawn is not exact:
            lines.append(("difference", drawn - exact, {"cmap": "RdBu", "vmin": -1, "vmax": 1}))
    for line, (name, drawn, style) in zip(axes, lines, strict=True):
        for ax, image in zip(line, drawn, strict=True):
            ax.imshow(image, **style)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure and say where."""
    figure.savefig(path, dpi=130)
    plt.close(figure)
    WRITTEN.append(path)


WRITTEN: list[Path] = []


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description="stiffkit's first run, from end to end")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="where pictures go")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    reaction()
    equations(out)
    images(out)
    print("\npictures:", *WRITTEN, sep="\n  ")


if __name__ == "__main__":
    main()
