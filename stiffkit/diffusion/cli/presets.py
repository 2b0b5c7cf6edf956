"""The published configurations of EDM2, by name. The weights are for their users to download."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PRESETS", "Preset"]


class Preset(NamedTuple):
    """A configuration with its published figure.

    Source: T. Karras et al., Analyzing and improving the training dynamics of diffusion models,
    CVPR 2024, doi:10.48550/arXiv.2312.02696, and Guiding a diffusion model with a bad version of
    itself, NeurIPS 2024, doi:10.48550/arXiv.2406.02507, as the authors' ``generate_images.py``
    lists them (github.com/NVlabs/edm2).
    """

    net: str
    """Name of the file."""
    gnet: str | None
    """The guiding network's."""
    guidance: float
    """Its strength."""
    metric: str
    """"FID" or "FD-DINOv2", of 50,000 images, Heun's method with 32 noise levels."""
    published: float
    """Its published value."""


def _table() -> dict[str, Preset]:
    presets = {}

    def add(name: str, metric: str, net: str, value: float, gnet: str = "", g: float = 1.0) -> None:
        kind = name.split("-")[1]
        files = [f"edm2-{kind}-{part}.pkl" if part else None for part in (net, gnet)]
        presets[name] = Preset(str(files[0]), files[1], g, metric, value)

    # size: images seen, in thousands; then the EMA length and figure for FID and for FD-DINOv2
    plain: dict[str, tuple[str, tuple[str, float], tuple[str, float]]] = {
        "xs": ("2147483", ("0.135", 3.53), ("0.200", 103.39)),
        "s": ("2147483", ("0.130", 2.56), ("0.190", 68.64)),
        "m": ("2147483", ("0.100", 2.25), ("0.155", 58.44)),
        "l": ("1879048", ("0.085", 2.06), ("0.155", 52.25)),
        "xl": ("1342177", ("0.085", 1.96), ("0.155", 45.96)),
        "xxl": ("0939524", ("0.070", 1.91), ("0.150", 42.84)),
    }
    # size: EMA length, strength and figure, guided by the unconditional XS of the same length
    guided: dict[str, tuple[tuple[str, float, float], tuple[str, float, float]]] = {
        "xs": (("0.045", 1.4, 2.91), ("0.150", 1.7, 79.94)),
        "s": (("0.025", 1.4, 2.23), ("0.085", 1.9, 52.32)),
        "m": (("0.030", 1.2, 2.01), ("0.015", 2.0, 41.98)),
        "l": (("0.015", 1.2, 1.88), ("0.035", 1.7, 38.20)),
        "xl": (("0.020", 1.2, 1.85), ("0.030", 1.7, 35.67)),
        "xxl": (("0.015", 1.2, 1.81), ("0.015", 1.7, 33.09)),
    }
    metrics = ("fid", "FID"), ("dino", "FD-DINOv2")
    for size, (seen, *rows) in plain.items():
        for (end, metric), (ema, value) in zip(metrics, rows, strict=True):
            add(f"edm2-img512-{size}-{end}", metric, f"{size}-{seen}-{ema}", value)
    for size, ema, seen, value in (
        ("s", "0.075", "1073741", 1.58),
        ("m", "0.060", "2147483", 1.43),
        ("l", "0.040", "1073741", 1.33),
        ("xl", "0.040", "0671088", 1.33),
    ):
        add(f"edm2-img64-{size}-fid", "FID", f"{size}-{seen}-{ema}", value)
    for size, pair in guided.items():
        for (end, metric), (ema, g, value) in zip(metrics, pair, strict=True):
            weak = f"xs-uncond-2147483-{ema}"
            net = f"{size}-{plain[size][0]}-{ema}"
            add(f"edm2-img512-{size}-guid-{end}", metric, net, value, weak, g)
    for name, fid, dino in (
        (
            "img512-s",
            ("s-2147483-0.070", 1.34, "xs-0134217-0.125", 2.10),
            ("s-2147483-0.120", 36.67, "xs-0134217-0.165", 2.45),
        ),
        (
            "img512-xxl",
            ("xxl-0939524-0.075", 1.25, "m-0268435-0.155", 2.05),
            ("xxl-0939524-0.130", 24.18, "m-0268435-0.205", 2.30),
        ),
        (
            "img512-s-uncond",
            ("s-uncond-2147483-0.070", 3.86, "xs-uncond-0134217-0.110", 2.85),
            ("s-uncond-2147483-0.090", 90.39, "xs-uncond-0134217-0.125", 2.90),
        ),
        (
            "img64-s",
            ("s-1073741-0.045", 1.01, "xs-0134217-0.110", 1.70),
            ("s-1073741-0.105", 31.85, "xs-0134217-0.175", 2.20),
        ),
    ):
        for (end, metric), row in zip(metrics, (fid, dino), strict=True):
            add(f"edm2-{name}-autog-{end}", metric, *row)
    return presets


PRESETS = _table()
"""The configurations by the authors' names for them."""
