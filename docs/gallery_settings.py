"""What sphinx-gallery asks for by name: the order of the examples, and their style."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from figures import STYLE

ORDER = (
    "arenstorf",
    "bouncing_ball",
    "poincare_section",
    "robertson",
    "oregonator",
    "air_pollution",
    "van_der_pol",
    "brusselator_plane",
    "implicit_explicit",
    "akzo_nobel_dae",
    "spectrum_along_a_path",
    "detector_at_work",
    "auto_switches",
    "new_method",
    "own_hook",
    "parameter_sweep",
    "batched_torch",
    "stiff_neural_ode",
    "images_samplers",
    "sampler_trace",
    "fx_and_kriging",
)


class Order:
    """Sort key: as in `ORDER`, which has to name every example."""

    def __init__(self, src_dir: str) -> None:
        self.src_dir = src_dir

    def __call__(self, filename: str) -> int:
        """Return the place of a file."""
        return ORDER.index(Path(filename).stem)


def style(gallery_conf: Any, filename: str) -> None:  # noqa: ARG001
    """Set the style of the documentation's figures; sphinx-gallery resets matplotlib before."""
    mpl.rcParams.update({k: v for k, v in STYLE.items() if not k.startswith("savefig")})
