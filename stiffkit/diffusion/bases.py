"""What a multistep sampler interpolates with, and the integrals of it that are its weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["FloatArray", "Polynomials", "Quantity", "Spectrum", "natural_spectrum"]

FloatArray = npt.NDArray[np.float64]
Quantity = Literal["D", "f"]

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(24)


def _quadrature(s: float, s_new: float, quantity: Quantity) -> tuple[FloatArray, FloatArray]:
    """Points and weights of s' ∫ g d(1/σ), or of ∫ g dσ, from s to s': Gauss-Legendre in log σ."""
    half = 0.5 * math.log(s / s_new)
    v = s_new * np.exp(half * (1 + _POINTS))
    return v, half * _WEIGHTS * (s_new / v if quantity == "D" else -v)


@dataclass(frozen=True)
class Polynomials:
    """Polynomials in a variable of σ, of as many coefficients as there are nodes."""

    variable: Callable[[FloatArray], FloatArray] = np.log
    """Monotone function of σ."""

    def weights(self, nodes: FloatArray, s: float, s_new: float, quantity: Quantity) -> FloatArray:
        """Return the integrals of Lagrange's polynomials."""
        v, quadrature = _quadrature(s, s_new, quantity)
        u, t = self.variable(nodes), self.variable(v)
        return np.array(
            [
                quadrature @ np.prod([(t - u_k) / (u_j - u_k) for u_k in u if u_k != u_j], axis=0)
                if len(u) > 1
                else quadrature.sum()
                for u_j in u
            ]
        )


@dataclass(frozen=True)
class Spectrum:
    """Kriging: the linear rule of least mean-square error for Gaussian data of a known spectrum.

    A direction in which the data have variance S² carries D = μ + c φ_S(σ), φ_S = S²/√(S² + σ²), c
    constant along the path. Of a rule with weights w, Σ_j w_j = 1 − r so that the unknown μ drops
    out, the error in that direction is c (Σ_j w_j φ_S(u_j) − b_S), b_S the exact integral of φ_S;
    the flow from s' to its end multiplies it by S/√(S² + s'²). With p_S the power of all c at the
    scale S the weights minimise the variance at the end,

        Σ_S p_S S²/(S² + s'²) (Σ_j w_j φ_S(u_j) − b_S)².

    With one S alone and two nodes this is the basis {1, (S² + σ²)^(−1/2)}: exact for isotropic
    Gaussian data.

    Parameters
    ----------
    std : tuple of float
        The S, positive.
    power : tuple of float, optional
        Their p_S, positive; equal by default.

    Raises
    ------
    ValueError
        If a number is not positive, or there is not one power for each S.
    """

    std: tuple[float, ...]
    power: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        power = self.std if self.power is None else self.power
        if not self.std or len(power) != len(self.std) or not min(*self.std, *power) > 0:
            msg = f"std and power must be positive and as many, not {self.std!r} and {self.power!r}"
            raise ValueError(msg)

    def weights(self, nodes: FloatArray, s: float, s_new: float, quantity: Quantity) -> FloatArray:
        """Return the weights of least error."""
        if quantity != "D":
            msg = f"a Spectrum is of D, not of {quantity!r}"
            raise ValueError(msg)
        v, quadrature = _quadrature(s, s_new, quantity)
        S = np.array(self.std)
        root = np.sqrt(np.ones(1) if self.power is None else np.array(self.power))
        importance = (root * S / np.sqrt(S**2 + s_new**2))[:, None]
        # Σ w = 1 − r takes the newest value out: only differences from it are left, and these are
        # formed without cancellation. Least squares on them, not on products of theirs: the
        # kernel's condition would be the square.
        A = importance * self._changes(nodes[1:], nodes[0])  # (S, k - 1)
        b = importance[:, 0] * (self._changes(v, nodes[0]) @ quadrature)
        w = np.linalg.lstsq(A, b, rcond=1e-15)[0]
        return np.concatenate([[-math.expm1(math.log(s_new / s)) - w.sum()], w])

    def _changes(self, v: FloatArray, u: float) -> FloatArray:
        """φ_S(v) − φ_S(u), shape (S, v)."""
        S = np.array(self.std)[:, None]
        root_v, root_u = np.sqrt(S**2 + v**2), np.sqrt(S**2 + u**2)
        return np.asarray(S**2 * (u - v) * (u + v) / (root_v * root_u * (root_v + root_u)))


def natural_spectrum(std: float = 0.5) -> Spectrum:
    """Return the spectrum of sk34 and sk44, for data of the standard deviation `std`.

    Its power falls as S^(−1/2) up to 2.5 std. Beyond, where the data have none, it has a floor of
    0.03²: an error of 0.03 in a network's prediction of the noise is σ times as large in D, and far
    above the data's scale D varies by that alone. A rule that does not expect it has weights of
    hundreds there at few steps. The constants were chosen on the tuning problems of
    benchmarks/samplers.py and on four samples of one network.

    Parameters
    ----------
    std : float
        0.5 by EDM's convention.

    Returns
    -------
    Spectrum
        Of 66 scales from 0.006 std to 320 std.

    Raises
    ------
    ValueError
        If `std` is not positive.
    """
    if not 0 < std < math.inf:
        msg = f"std must be positive and finite, not {std!r}"
        raise ValueError(msg)
    S = np.geomspace(0.006, 320.0, 66)
    power = np.where(S < 2.5, S**-0.5, 0.03**2)
    return Spectrum(tuple((std * S).tolist()), tuple(power.tolist()))
