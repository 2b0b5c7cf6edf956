"""Make the pictures of README.md, which are kept beside it: `python docs/pictures.py`."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from figures import STYLE
from PIL import Image

import stiffkit as sk
from stiffkit.diffusion import sample
from stiffkit.diffusion.shipped import to_pixels

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import demo  # noqa: E402

OUT = ROOT / "docs" / "pictures"
MU = 1000.0


def van_der_pol(t: float, y: np.ndarray) -> np.ndarray:  # noqa: ARG001
    return np.array([y[1], MU * (1 - y[0] ** 2) * y[1] - y[0]])


def switches() -> Any:
    """Van der Pol's oscillator by method="auto": which method at work, and its steps."""
    solution = sk.solve(van_der_pol, (0.0, 2000.0), [2.0, 0.0], rtol=1e-5, atol=1e-5, log=True)
    t = solution.t
    times = [t[0], *(s.t for s in solution.switches), t[-1]]
    methods = [solution.switches[0].source, *(s.target for s in solution.switches)]
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(methods))}
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(8, 4), sharex=True, layout="constrained", height_ratios=(3, 2)
    )
    for begin, end, name in zip(times[:-1], times[1:], methods, strict=True):
        part = (t >= begin) & (t <= end)
        above.plot(t[part], solution.y[part, 0], ".-", ms=3, color=colours[name])
        below.semilogy(t[part][1:], np.diff(t[part]), ".", ms=3, color=colours[name])
    for name, colour in colours.items():
        above.plot([], [], color=colour, label=name)
    above.legend(loc="center", ncols=2)
    above.set(ylabel="y", title=f"van der Pol, μ = {MU:g}: {len(t) - 1} steps")
    below.set(xlabel="t", ylabel="step h")
    return figure


def diagnosis() -> Any:
    """Spectrum of a diffusion problem, scaled by the step that accuracy allows."""
    n = 40

    def heat(t: float, y: np.ndarray) -> np.ndarray:  # noqa: ARG001
        z = np.concatenate([[0.0], y, [0.0]])
        return (n + 1) ** 2 * np.diff(z, 2) + y * (1 - y)

    x = np.linspace(0, 1, n + 2)[1:-1]
    report = sk.diagnose(heat, 0.0, np.sin(np.pi * x), rtol=1e-4)
    figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
    report.plot(ax=axis)
    return figure


def samples() -> Any:
    """Ten images by each of the demo's samplers, and their difference from the converged flow."""
    net, denoiser, noise = demo.fashion(10)
    rows = {"converged flow": demo.flow_of(denoiser, noise)}
    for name, options in demo.SAMPLERS.items():
        if name != "DEIS-4":
            rows[name] = sample(denoiser, noise, **options)
    return demo.grid({name: to_pixels(net, drawn[:, 0]) for name, drawn in rows.items()})


def main() -> None:
    OUT.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        for draw in (switches, diagnosis):
            figure = draw()
            figure.savefig(OUT / f"{draw.__name__}.svg", metadata={"Date": None})
            plt.close(figure)
        figure, raw = samples(), io.BytesIO()
        figure.savefig(raw, dpi=70, metadata={"Software": None})
        plt.close(figure)
    # The colours that `grid` draws with, and no others: the repository keeps every version of this.
    greys = np.linspace(0, 1, 32)[:, None].repeat(3, axis=1)
    colours = np.vstack([greys, mpl.colormaps["RdBu"](np.linspace(0, 1, 49))[:, :3]])
    palette = Image.new("P", (1, 1))
    palette.putpalette((255 * colours).round().astype(int).ravel().tolist())
    picture = Image.open(raw).convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
    picture.save(OUT / "samples.png", optimize=True)


if __name__ == "__main__":
    main()
