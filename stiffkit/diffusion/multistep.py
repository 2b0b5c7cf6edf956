"""Multistep samplers: one family, one network call a step.

With r = s'/s the probability-flow ODE is solved by

    x' = r x + s' ∫ D d(1/σ)    or    x' = x + ∫ f dσ,    f = (x − D)/σ,    from s to s'.

A multistep sampler replaces D, or f, by an interpolant through its values at the newest noise
levels u_1, u_2, …, which makes the integral a sum Σ w_j D(u_j). The published ones, and ours,
differ in four things and in no other: what is interpolated (`quantity`), in which functions
(`basis`), through how many values (`order`, `corrector`), and whether the integral is exact or the
paper's `shortcut`. The weights depend on the noise levels alone and are computed before the first
call of the network.

With a corrector the step is repeated from x once D is known at its predicted end, with the value
there among the nodes; the network is not called again (PEC).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .bases import FloatArray, Polynomials, Quantity, Spectrum, natural_spectrum
from .denoiser import vp_time
from .schedule import vp_parameters

__all__ = ["MULTISTEP", "Multistep", "StepWeights"]

Shortcut = Callable[[FloatArray, float, float], FloatArray | None]
"""(nodes, s, s') -> weights; None where the paper's integral is exact."""

IN_LOG = Polynomials()
"""Polynomials in log σ."""


class StepWeights(NamedTuple):
    """One step's rule, x' = keep x + Σ_j w_j q_j, q being D or f."""

    keep: float
    predictor: tuple[float, ...]
    """Weights of the values at the step's start and before, newest first."""
    corrector: tuple[float, ...]
    """Weights of the value at the step's end, and of those before it; empty without corrector."""


@dataclass(frozen=True)
class Multistep:
    """A multistep sampler as data.

    Parameters
    ----------
    name : str
        What it is called.
    order : int
        Values that the predictor uses; fewer in the first steps.
    quantity : {"D", "f"}
        What is interpolated.
    basis : Polynomials or Spectrum
        In which functions.
    corrector : int
        Older values that the corrector uses beside the one at the step's end; 0 is none. The last
        step is not corrected, since its result is D itself.
    shortcut : callable, optional
        The paper's own weights, as a function of nodes, s and s'.
    lower_order_final : bool
        Whether the last steps use fewer values again.
    reference : str
        Source.
    """

    name: str
    order: int
    quantity: Quantity = "D"
    basis: Polynomials | Spectrum = IN_LOG
    corrector: int = 0
    shortcut: Shortcut | None = None
    lower_order_final: bool = False
    reference: str = ""

    def __post_init__(self) -> None:
        if self.order < 1 or self.corrector < 0:
            msg = f"need order >= 1 and corrector >= 0, not {self.order!r} and {self.corrector!r}"
            raise ValueError(msg)
        if self.quantity not in ("D", "f"):
            msg = f"quantity must be 'D' or 'f', not {self.quantity!r}"
            raise ValueError(msg)

    def plan(self, sigmas: Sequence[float]) -> tuple[StepWeights, ...]:
        """Return the weights of every step of a grid.

        Parameters
        ----------
        sigmas : sequence of float, shape (n,)
            Positive and falling.

        Returns
        -------
        tuple of StepWeights, n − 1
        """
        return _plan(self, tuple(float(s) for s in sigmas))

    def error_rows(self, sigmas: Sequence[float]) -> tuple[tuple[float, ...], ...]:
        """Return per step the predictor's weights less those of one order lower; () for order 1.

        An embedded error estimate without a call: applied to the values it is x' − x̂'.
        """
        levels, rows = [float(s) for s in sigmas], []
        for i, step in enumerate(self.plan(levels)):
            high = np.array(step.predictor)
            if len(high) > 1:
                nodes = levels[i::-1][: len(high) - 1]
                high[:-1] -= self.weights(nodes, levels[i], levels[i + 1])
            rows.append(tuple(high.tolist()) if len(high) > 1 else ())
        return tuple(rows)

    def weights(self, nodes: Any, s: float, s_new: float) -> FloatArray:
        """Return the weights of values at the noise levels `nodes` for the step from s to s'."""
        u = np.asarray(nodes, dtype=float)
        short = None if self.shortcut is None else self.shortcut(u, s, s_new)
        return self.basis.weights(u, s, s_new, self.quantity) if short is None else short


@lru_cache(maxsize=64)
def _plan(method: Multistep, sigmas: tuple[float, ...]) -> tuple[StepWeights, ...]:
    steps, n = [], len(sigmas)
    for i, (s, s_new) in enumerate(pairwise(sigmas)):
        order = min(method.order, i + 1)
        if method.lower_order_final and i + 1 >= method.order:
            order = min(method.order, n - 1 - i)
        nodes = sigmas[i::-1]
        ahead: tuple[float, ...] = ()
        if method.corrector and i < n - 2:
            older = nodes[: min(method.corrector, order)]
            ahead = tuple(method.weights((s_new, *older), s, s_new).tolist())
        row = tuple(method.weights(nodes[:order], s, s_new).tolist())
        steps.append(StepWeights(s_new / s if method.quantity == "D" else 1.0, row, ahead))
    return tuple(steps)


# The papers' own integrals ------------------------------------------------------------------------


def _half_slope(
    nodes: FloatArray, s: float, s_new: float, *, by_step: bool = False
) -> FloatArray | None:
    """Weights of two values with the integral of the linear term as half that of the constant one.

    UniPC's order-2 predictor and order-1 corrector: its B(h) is 1 − r (bh2) or h (bh1, `by_step`).
    With bh2 the predictor is DPM-Solver++(2M).
    """
    if len(nodes) != 2:
        return None
    h, total = math.log(s / s_new), -math.expm1(math.log(s_new / s))
    # The node beside s, at λ = λ(s) + ρ h.
    ahead = nodes[0] != s
    rho = math.log(s / nodes[0 if ahead else 1]) / h
    w = 0.5 * (h if by_step else total) / rho
    return np.array([w, total - w] if ahead else [total - w, w])


def _half_slope_bh1(nodes: FloatArray, s: float, s_new: float) -> FloatArray | None:
    return _half_slope(nodes, s, s_new, by_step=True)


def _dpmpp(nodes: FloatArray, s: float, s_new: float) -> FloatArray | None:
    """DPM-Solver++: order 2 with half slopes, order 3 with half of the exact quadratic term."""
    if len(nodes) != 3:
        return _half_slope(nodes, s, s_new)
    h, total = math.log(s / s_new), -math.expm1(math.log(s_new / s))
    r_0, r_1 = np.diff(np.log(nodes)) / h
    slope = 1 - total / h  # of h D'
    curve = 0.5 - slope / h  # of the second difference, as printed: the exact one is twice that
    # First and second differences of the three values, newest first.
    d_0, d_1 = np.array([1, -1, 0]) / r_0, np.array([0, 1, -1]) / r_1
    D_1, D_2 = d_0 + r_0 / (r_0 + r_1) * (d_0 - d_1), (d_0 - d_1) / (r_0 + r_1)
    return np.asarray(total * np.array([1, 0, 0]) + slope * D_1 + curve * D_2)


def _adams_bashforth(nodes: FloatArray, s: float, s_new: float) -> FloatArray:
    """Weights as if the levels were equidistant, whatever they are: iPNDM."""
    rows = (
        [1],
        [3 / 2, -1 / 2],
        [23 / 12, -16 / 12, 5 / 12],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    )
    return np.asarray((s_new - s) * np.array(rows[len(nodes) - 1]))


def deis_time(sigma: FloatArray) -> FloatArray:
    """Time in which DEIS takes its polynomials: σ(0.001) = 0.002, σ(1) = 80, whatever the grid."""
    return np.asarray(vp_time(sigma, *vp_parameters()))


def deis_rectangles(nodes: FloatArray, s: float, s_new: float, count: int = 10_000) -> FloatArray:
    """DEIS' integrals as its code sums them, by `count` rectangles in its time.

    The points hold both ends and each has the weight 1/count: the sum is right to 1/count.
    """
    beta_d, beta_min = vp_parameters()
    if len(nodes) == 1:
        return np.array([s_new - s])
    u, (start, stop) = deis_time(nodes), deis_time(np.array([s, s_new]))
    t = np.linspace(start, stop, count)
    sigma = np.sqrt(np.expm1(0.5 * beta_d * t**2 + beta_min * t))
    rate = (beta_d * t + beta_min) * (sigma**2 + 1) / (2 * sigma)  # dσ/dt
    polynomials = [
        np.prod([(t - u_k) / (u_j - u_k) for u_k in u if u_k != u_j], axis=0) for u_j in u
    ]
    sums = np.array([(rate * p).sum() for p in polynomials])
    return np.asarray(sums * (stop - start) / count)


# The family ---------------------------------------------------------------------------------------

_DPMPP = "C. Lu et al., DPM-Solver++, 2022, doi:10.48550/arXiv.2211.01095"
_UNIPC = "W. Zhao et al., UniPC, NeurIPS 2023, doi:10.48550/arXiv.2302.04867"
_DEIS = "Q. Zhang, Y. Chen, DEIS, ICLR 2023, doi:10.48550/arXiv.2204.13902"

_SPECTRUM = natural_spectrum()

MULTISTEP: dict[str, Multistep] = {
    method.name: method
    for method in (
        Multistep("dpmpp2m", 2, shortcut=_dpmpp, lower_order_final=True, reference=_DPMPP),
        Multistep("dpmpp3m", 3, shortcut=_dpmpp, lower_order_final=True, reference=_DPMPP),
        *(
            Multistep(
                f"unipc{p}{suffix}",
                p,
                corrector=p,
                shortcut=shortcut,
                lower_order_final=True,
                reference=_UNIPC,
            )
            for suffix, shortcut in (("", _half_slope), ("_bh1", _half_slope_bh1))
            for p in (2, 3)
        ),
        *(
            Multistep(f"deis{p}", p, "f", Polynomials(deis_time), reference=_DEIS)
            for p in (2, 3, 4)
        ),
        *(
            Multistep(f"ipndm{p}", p, "f", shortcut=_adams_bashforth, reference=_DEIS)
            for p in (2, 3, 4)
        ),
        Multistep("psi2", 2, basis=Spectrum((0.5,)), reference="stiffkit"),
        Multistep("sk34", 3, basis=_SPECTRUM, corrector=3, reference="stiffkit"),
        Multistep("sk44", 4, basis=_SPECTRUM, corrector=3, reference="stiffkit"),
    )
}
"""The multistep samplers by name. ``deis4`` has four nodes, which its paper calls tAB3."""
