"""First run, from end to end: real equations solved and compared, real images sampled.

0. Robertson's reaction to t = 1e11 with ``method="auto"``: where it changes the method, and why.
1. The Arenstorf orbit and van der Pol's oscillator, stiffkit beside SciPy: calls of f, time, and
   digits against the published end value or a tight reference; trajectories and work-precision
   diagrams.
2. Images of clothes from the small network that comes with stiffkit: Heun's method alone, with
   ERK-Guid and with fitted extrapolation, and four multistep samplers, all with the same number of
   network calls, beside the converged flow; a picture and a table of errors.

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

import stiffkit as sk
from stiffkit.diffusion import sample
from stiffkit.diffusion.shipped import fashion_mnist, to_pixels
from stiffkit.guidance import ERKGuidance, FittedExtrapolation

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

CALLS = 11
"""Network calls for an image: Heun's method on 6 noise levels, the multistep methods on 11."""

SAMPLERS: dict[str, dict[str, Any]] = {
    "Heun": {"sampler": "heun", "steps": 6},
    "Heun + ERK-Guid": {"guide": ERKGuidance(w_stiff=0.5, w_con=0.1), "steps": 6},
    "Heun + FX": {"guide": FittedExtrapolation(), "steps": 6},
    "DPM-Solver++(2M)": {"sampler": "dpmpp2m", "steps": CALLS},
    "UniPC-3": {"sampler": "unipc3", "steps": CALLS},
    "DEIS-4": {"sampler": "deis4", "steps": CALLS},
    "SK44": {"sampler": "sk44", "steps": CALLS},
}


def fashion(n: int) -> tuple[Any, Callable[[Any, Any], Any], torch.Tensor]:
    """Return the shipped network, its denoiser for n images, class by class, and their noise."""
    net = fashion_mnist().double()
    labels = torch.arange(n) % 10
    noise = torch.randn(
        (n, 1, 28, 28), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )

    def denoiser(x: Any, sigma: Any) -> Any:
        return net(x, sigma, labels, force_fp32=True)

    return net, denoiser, noise


def flow_of(denoiser: Callable[[Any, Any], Any], noise: torch.Tensor, calls: int = 64) -> Any:
    """Return where the probability flow ends, by many calls."""
    return sample(denoiser, noise, sampler="sk44", steps=calls)


def images(out: Path) -> None:
    """Sample the shipped model by all samplers with as many calls, beside the converged flow."""
    net, denoiser, noise = fashion(20)
    print("\nFashion-MNIST by the shipped network, 2 images of each class")
    flow = flow_of(denoiser, noise)
    fewer = flow_of(denoiser, noise, calls=45)
    print(f"the flow itself: 64 calls, {rms(fewer - flow).mean():.5f} from that of 45")
    print(f"{'sampler':20} {'calls':>6}   rms error of an image's pixels, in units of the data's")
    print(f"{'':20} {'':6}   {'median':>10} {'mean':>10} {'worst':>10} {'to Heun':>10}")
    rows, base = {"converged flow": flow}, None
    for name, options in SAMPLERS.items():
        counted = Count(denoiser)
        drawn = sample(counted, noise, **options)
        errors = rms(drawn - flow) / 0.5
        base = errors.mean() if base is None else base
        columns = (errors.median(), errors.mean(), errors.max(), errors.mean() / base)
        print(f"{name:20} {counted.calls:6}   " + " ".join(f"{float(x):10.4f}" for x in columns))
        rows[name] = drawn
    pixels = {name: to_pixels(net, drawn[:10, 0]) for name, drawn in rows.items()}
    save(grid(pixels), out / "fashion.png")


def rms(x: torch.Tensor) -> torch.Tensor:
    """Return the root mean square of each image."""
    return x.flatten(1).pow(2).mean(1).sqrt()


class Count:
    """A denoiser that counts its calls."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser, self.calls = denoiser, 0

    def __call__(self, x: Any, sigma: Any) -> Any:
        """Call the denoiser."""
        self.calls += 1
        return self.denoiser(x, sigma)


def grid(rows: dict[str, torch.Tensor]) -> Any:
    """Draw a row of images for each sampler, and beside it where they differ from the first."""
    exact = next(iter(rows.values()))
    n = len(exact)
    figure, axes = plt.subplots(
        len(rows),
        2 * n + 1,
        figsize=(16, 0.8 * len(rows) + 0.4),
        layout="constrained",
        width_ratios=[1.0] * n + [0.3] + [1.0] * n,
    )
    for line, (name, drawn) in zip(axes, rows.items(), strict=True):
        for ax in line:
            ax.set(xticks=[], yticks=[], frame_on=False)
        for ax, image in zip(line[:n], drawn, strict=True):
            ax.imshow(image, cmap="gray", vmin=0, vmax=1)
        for ax, image in zip(line[n + 1 :], drawn - exact, strict=True):
            ax.imshow(image, cmap="RdBu", vmin=-0.5, vmax=0.5)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    axes[0, n // 2].set_title(f"{CALLS} network calls for each image", fontsize=11)
    axes[0, n + 1 + n // 2].set_title("difference from the converged flow", fontsize=11)
    return figure


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
    reaction()
    equations(out)
    images(out)
    print("\npictures:", *WRITTEN, sep="\n  ")


if __name__ == "__main__":
    main()
