"""Optional packages, imported when first needed, with an error that says how to get them."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["is_jitted", "matplotlib_axes", "require"]


def require(module: str, extra: str, purpose: str) -> Any:
    """Import `module`, or raise ImportError naming the extra of stiffkit that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        msg = f"{purpose} needs {module.partition('.')[0]}: pip install 'stiffkit[{extra}]'"
        raise ImportError(msg) from error


def is_jitted(f: object) -> bool:
    """Whether numba has compiled `f`; numba is not imported to find out."""
    numba = sys.modules.get("numba.core.dispatcher")
    return numba is not None and isinstance(f, numba.Dispatcher)


def matplotlib_axes(ax: Axes | None) -> Any:
    """Return `ax`, or the axes of a new figure."""
    if ax is not None:
        return ax
    pyplot = require("matplotlib.pyplot", "plot", "drawing")
    return pyplot.subplots(layout="constrained")[1]
