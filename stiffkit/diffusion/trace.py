"""What a sampler did, step by step and sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._array import Array, backend_of
from .._optional import require
from ..solvers import Step
from ..solvers.solution import BatchSolution
from ..solvers.step import Probe
from ..stiffness.secant import norm_ratio, rayleigh_quotient, secant_at_start

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Trace"]

FloatArray = npt.NDArray[np.float64]

COLUMNS = ("rho", "rayleigh", "z", "gate", "error", "correction", "alignment", "ratio")


@dataclass
class Trace:
    """Readings of a run: one row per step, one column per sample; NaN where there is none.

    All but `alignment` cost no call of the network. With error control the steps are a sample's
    own: `sigma`, `sigma_next` and `ratio` have an entry per sample too, for every attempt of the
    batch, and the other readings are absent.
    """

    sigma: list[Any] = field(default_factory=list)
    """Noise level at each step's start."""
    sigma_next: list[Any] = field(default_factory=list)
    """Noise level at its end."""
    columns: dict[str, list[FloatArray]] = field(default_factory=lambda: {k: [] for k in COLUMNS})
    nfev: int = 0
    """Calls of the denoiser; a call with a batch is one."""
    evaluations: int = 0
    """Samples in all these calls together."""
    calls: npt.NDArray[np.int_] | None = None
    """With error control: calls that each sample needed, as if it were alone, shape (B,)."""
    solution: BatchSolution | None = None
    """With error control: statuses, counts and log of the solve, whose time is log σ."""

    @property
    def rho(self) -> FloatArray:
        """ρ̂ = ‖Δf‖/‖Δx‖ of the two states at a step's start, in units of 1/σ; shape (steps, B)."""
        return np.array(self.columns["rho"])

    @property
    def rayleigh(self) -> FloatArray:
        """λ̂ = ⟨Δx, Δf⟩/⟨Δx, Δx⟩ of the same, with its sign; shape (steps, B)."""
        return np.array(self.columns["rayleigh"])

    @property
    def z(self) -> FloatArray:
        """The guide's own z; without a guide that has one, h λ̂ with h < 0; shape (steps, B)."""
        return np.array(self.columns["z"])

    @property
    def gate(self) -> FloatArray:
        """1 where the guide acts and 0 where not; shape (steps, B)."""
        return np.array(self.columns["gate"])

    @property
    def error(self) -> FloatArray:
        """‖x' − x̂'‖: the embedded estimate of the step's error; shape (steps, B)."""
        return np.array(self.columns["error"])

    @property
    def correction(self) -> FloatArray:
        """How far the guide moved the result; shape (steps, B)."""
        return np.array(self.columns["correction"])

    @property
    def alignment(self) -> FloatArray:
        """Cosine of the angle between the embedded error and the dominant eigenvector, ≥ 0.

        Shape (steps, B).

        Only for denoisers that know their Jacobian (`stiffkit.diffusion.GaussianMixture`, …).
        """
        return np.array(self.columns["alignment"])

    @property
    def ratio(self) -> FloatArray:
        """Embedded error over the tolerance, of error-controlled steps; shape (attempts, B).

        Below 1 the step was accepted.
        """
        return np.array(self.columns["ratio"])

    def control(self, solution: BatchSolution, calls: npt.NDArray[np.int_]) -> None:
        """Take over the log of an error-controlled solve in log σ."""
        log = solution.log
        assert log is not None
        self.solution, self.calls = solution, calls
        self.sigma, self.sigma_next = list(np.exp(log["t"])), list(np.exp(log["t"] + log["h"]))
        for name, values in self.columns.items():
            rows = log["ratio"] if name == "ratio" else np.full(log["ratio"].shape, math.nan)
            values[:] = list(rows)

    def record(
        self, step: Step, probe: Any, moved: Array, guide: Any, jacobian: Callable[..., Any] | None
    ) -> None:
        """Add a step; `moved` is the state that was committed."""
        count, empty = len(step.y), np.full(len(step.y), math.nan)
        row = dict.fromkeys(COLUMNS, empty)
        to_numpy = backend_of(step.y).numpy
        if isinstance(probe, Probe):
            pair = secant_at_start(step, probe)
            assert pair is not None
            row["rho"] = norm_ratio(pair, batched=True)
            row["rayleigh"] = rayleigh_quotient(pair, batched=True)
            row["z"] = step.h * row["rayleigh"]
        reading = guide.reading(step, probe) if hasattr(guide, "reading") else None
        for name, values in (reading or {}).items():
            if name in row:
                row[name] = to_numpy(values)
        if step.err is not None:
            row["error"] = _norms(to_numpy(step.err))
            if jacobian is not None:
                slope = to_numpy(jacobian(step.y, step.t))
                row["alignment"] = _alignment(
                    slope, to_numpy(step.err).reshape((count, -1)), step.t
                )
        row["correction"] = _norms(to_numpy(moved) - to_numpy(step.y_new))
        self.sigma.append(step.t)
        self.sigma_next.append(step.t_new)
        for name, values in row.items():
            self.columns[name].append(np.asarray(values, dtype=float).reshape(-1))

    def medians(self) -> FloatArray:
        """Return per step ρ̂, λ̂, z, gate (its mean), error and correction; shape (steps, 6).

        Medians over the samples, NaN where there is no reading.
        """
        columns = []
        for name in ("rho", "rayleigh", "z", "gate", "error", "correction"):
            values = np.array(self.columns[name])
            known = ~np.isnan(values).all(axis=1)
            middle = np.full(len(values), math.nan)
            middle[known] = (np.nanmean if name == "gate" else np.nanmedian)(values[known], axis=1)
            columns.append(middle)
        return np.stack(columns, axis=1)

    def plot(self, axes: Any = None) -> Any:
        """Draw ρ̂ and λ̂, z, and error and correction over σ: medians and the middle 80 %.

        With error control: the lengths of the steps, whether accepted, and the ratios.

        Parameters
        ----------
        axes : sequence of three matplotlib axes, with error control of two, optional
            By default a new figure.

        Returns
        -------
        sequence of axes
        """
        pyplot = require("matplotlib.pyplot", "plot", "Trace.plot")
        if self.solution is not None:
            return self._plot_steps(pyplot, axes)
        if axes is None:
            _, axes = pyplot.subplots(3, 1, figsize=(6, 7), sharex=True, layout="constrained")
        for ax, names in zip(
            axes, (("rho", "rayleigh"), ("z",), ("error", "correction")), strict=True
        ):
            for name in names:
                self._band(ax, name)
            if ax.lines:  # multistep samplers have no readings of ρ̂ and z
                ax.legend(loc="best")
        axes[0].set(xscale="log", ylabel="1/σ")
        axes[0].invert_xaxis()
        axes[1].set(ylabel="z")
        axes[2].set(yscale="log", ylabel="norm", xlabel="noise level σ")
        return axes

    def _plot_steps(self, pyplot: Any, axes: Any) -> Any:
        if axes is None:
            _, axes = pyplot.subplots(2, 1, figsize=(6, 5), sharex=True, layout="constrained")
        sigma, length = np.array(self.sigma), np.log(np.array(self.sigma) / self.sigma_next)
        taken = self.ratio < 1
        for name, rows in (("accepted", taken), ("rejected", (length > 0) & ~taken)):
            axes[0].plot(sigma[rows], length[rows], ".", label=name)
            axes[1].plot(sigma[rows], self.ratio[rows], ".", label=name)
        axes[0].set(xscale="log", yscale="log", ylabel="log σ/σ'")
        axes[0].invert_xaxis()
        axes[0].legend(loc="best")
        axes[1].set(yscale="log", ylabel="error over tolerance", xlabel="noise level σ")
        return axes

    def _band(self, ax: Axes, name: str) -> None:
        values = np.array(self.columns[name])
        known = ~np.isnan(values).all(axis=1)
        if not known.any():
            return
        sigma = np.array(self.sigma)[known]
        low, middle, high = np.nanquantile(values[known], (0.1, 0.5, 0.9), axis=1)
        (line,) = ax.plot(sigma, middle, marker=".", label=name)
        ax.fill_between(sigma, low, high, color=line.get_color(), alpha=0.2)


def _norms(x: Any) -> FloatArray:
    return np.asarray(np.linalg.norm(x.reshape((len(x), -1)), axis=1))


def _alignment(A: Any, err: Any, sigma: float) -> FloatArray:
    """|cos| with the eigenvector of the largest |1 − a|/σ; A symmetric."""
    values, U = np.linalg.eigh(A)
    dominant = np.argmax(abs((1 - values) / sigma), axis=1)
    v = np.take_along_axis(U, dominant[:, None, None], axis=2)[:, :, 0]
    size = np.linalg.norm(err, axis=1)
    return np.asarray(abs((v * err).sum(axis=1)) / np.where(size > 0, size, math.nan))
