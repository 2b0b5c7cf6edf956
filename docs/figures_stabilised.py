"""Figure of theory/stabilised.md."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from stiffkit.solvers.stabilised import STABILISED


def stabilised() -> Any:
    """R_s on the negative real axis, and the stability regions, of ten stages."""
    figure, axes = plt.subplots(2, 1, figsize=(8.4, 4.4), sharex=True, layout="constrained")
    real = np.linspace(-84, 2, 700)
    x, y = np.meshgrid(real, np.linspace(-9, 9, 161))
    for i, method in enumerate(STABILISED.values()):
        axes[0].plot(real, method.R(real, 10), f"C{i}", lw=1.2, label=method.name)
        modulus = np.abs(method.R(x + 1j * y, 10))
        axes[1].contour(x, y, modulus, levels=[1.0], colors=[f"C{i}"], linewidths=1.2)
    axes[0].set(ylabel="R(z)", ylim=(-1.2, 1.7))
    axes[0].legend(ncols=4, loc="upper center")
    axes[1].set(xlabel="Re z", ylabel="Im z")
    return figure
