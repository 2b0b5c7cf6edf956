"""What sphinx-gallery asks for by name, and when its examples are to run again."""

from __future__ import annotations

import hashlib
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


def forget_stale(package: Path, gallery: Path) -> None:
    """Let all examples run again if the package is not the one they ran with.

    sphinx-gallery runs an example again when its script changes, and not when its results do. It
    knows by a file `*.md5` for each; without that file an example runs.
    """
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    ran_with = gallery / "package.sha256"
    if ran_with.exists() and ran_with.read_text(encoding="utf-8") == digest.hexdigest():
        return
    gallery.mkdir(exist_ok=True)
    for stamp in gallery.glob("*.md5"):
        stamp.unlink()
    ran_with.write_text(digest.hexdigest(), encoding="utf-8")
