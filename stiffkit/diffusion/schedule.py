"""Grids of noise levels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "ALIGN_YOUR_STEPS",
    "exponential_sigmas",
    "flow_sigmas",
    "interpolated_sigmas",
    "karras_sigmas",
    "logsnr_sigmas",
    "time_uniform_sigmas",
    "vp_parameters",
]

Levels = npt.NDArray[np.float64]

ALIGN_YOUR_STEPS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
}
"""Noise levels optimised for Stable Diffusion 1.5 and XL, for `interpolated_sigmas`: A. Sabour,
S. Fidler, K. Kreis, Align your steps, ICML 2024, table 3, doi:10.48550/arXiv.2404.14507."""


def karras_sigmas(
    n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Levels:
    """Return n noise levels falling from `sigma_max` to `sigma_min`, equidistant in σ^(1/ρ).

    Parameters
    ----------
    n : int
        How many, at least 2.
    sigma_min, sigma_max : float
        0 < sigma_min < sigma_max.
    rho : float
        Larger values put more of them near `sigma_min`.

    Returns
    -------
    ndarray, shape (n,)
        Without a final zero.

    Raises
    ------
    ValueError
        If a value is out of range.

    References
    ----------
    T. Karras, M. Aittala, T. Aila, S. Laine, Elucidating the design space of diffusion-based
    generative models, NeurIPS 2022, eq. 5, doi:10.48550/arXiv.2206.00364.
    """
    _check(n, sigma_min, sigma_max, rho=rho)
    ramp = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), int(n)) ** rho
    return _ends(ramp, sigma_min, sigma_max)


def exponential_sigmas(
    n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 1.0
) -> Levels:
    """Return n noise levels whose logarithms fall as a ramp to the power `rho`.

    Parameters
    ----------
    n : int
        How many, at least 2.
    sigma_min, sigma_max : float
        0 < sigma_min < sigma_max.
    rho : float
        1 is `logsnr_sigmas`; larger values put more of them near `sigma_min`.

    Returns
    -------
    ndarray, shape (n,)
        log σ = log σ_min + u^ρ (log σ_max − log σ_min), u falling from 1 to 0.

    Raises
    ------
    ValueError
        If a value is out of range.
    """
    _check(n, sigma_min, sigma_max, rho=rho)
    low, high = math.log(sigma_min), math.log(sigma_max)
    return _ends(
        np.exp(low + np.linspace(1, 0, int(n)) ** rho * (high - low)), sigma_min, sigma_max
    )


def logsnr_sigmas(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Levels:
    """Return n noise levels equidistant in log σ, that is in the logarithm of the signal's share.

    Arguments are those of `exponential_sigmas`.

    References
    ----------
    C. Lu et al., DPM-Solver, NeurIPS 2022, doi:10.48550/arXiv.2206.00927.
    """
    return exponential_sigmas(n, sigma_min, sigma_max)


def time_uniform_sigmas(
    n: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 1.0,
    *,
    t_min: float = 1e-3,
) -> Levels:
    """Return n noise levels equidistant in the time of a variance-preserving process, to a power.

    Parameters
    ----------
    n : int
        How many, at least 2.
    sigma_min, sigma_max : float
        0 < sigma_min < sigma_max, the noise levels at `t_min` and 1.
    rho : float
        Equidistant in t^(1/ρ).
    t_min : float
        Time of `sigma_min`, above 0 and below 1.

    Returns
    -------
    ndarray, shape (n,)
        Without a final zero.

    Raises
    ------
    ValueError
        If a value is out of range.

    References
    ----------
    C. Lu et al., DPM-Solver, NeurIPS 2022, doi:10.48550/arXiv.2206.00927.
    """
    _check(n, sigma_min, sigma_max, rho=rho)
    beta_d, beta_min = vp_parameters(sigma_min, sigma_max, t_min)
    t = np.linspace(1, t_min ** (1 / rho), int(n)) ** rho
    return _ends(np.sqrt(np.expm1(0.5 * beta_d * t**2 + beta_min * t)), sigma_min, sigma_max)


def vp_parameters(
    sigma_min: float = 0.002, sigma_max: float = 80.0, t_min: float = 1e-3
) -> tuple[float, float]:
    """Return β_d and β_min of σ² = exp(β_d t²/2 + β_min t) − 1 with σ(t_min), σ(1) as given.

    Raises
    ------
    ValueError
        If a value is out of range.
    """
    _check(2, sigma_min, sigma_max)
    if not 0 < t_min < 1:
        msg = f"t_min must be above 0 and below 1, not {t_min!r}"
        raise ValueError(msg)
    low, high = math.log1p(sigma_min**2), math.log1p(sigma_max**2)
    beta_d = 2 * (low / t_min - high) / (t_min - 1)
    beta_min = high - 0.5 * beta_d
    if not (beta_d > 0 and beta_min + t_min * beta_d > 0):
        msg = f"no linear β(t) leads from {sigma_min!r} at t_min = {t_min!r} to {sigma_max!r} at 1"
        raise ValueError(msg)
    return beta_d, beta_min


def flow_sigmas(
    n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, *, shift: float = 1.0
) -> Levels:
    """Return n noise levels equidistant in a flow's time t = σ/(1 + σ), shifted.

    A shift replaces t by shift·t/(1 + (shift − 1) t): it multiplies σ = t/(1 − t) by `shift`. The
    levels run from `sigma_max` to `sigma_min` with every shift.

    Parameters
    ----------
    n : int
        How many, at least 2.
    sigma_min, sigma_max : float
        0 < sigma_min < sigma_max.
    shift : float
        Larger values put more of them at high noise.

    Returns
    -------
    ndarray, shape (n,)
        Without a final zero.

    Raises
    ------
    ValueError
        If a value is out of range.

    References
    ----------
    P. Esser et al., Scaling rectified flow transformers for high-resolution image synthesis, ICML
    2024, section 5.3.2, doi:10.48550/arXiv.2403.03206.
    """
    _check(n, sigma_min, sigma_max, shift=shift)
    first, last = (s / (shift + s) for s in (sigma_max, sigma_min))
    t = np.linspace(first, last, int(n))
    return _ends(shift * t / (1 - t), sigma_min, sigma_max)


def interpolated_sigmas(n: int, levels: Any) -> Levels:
    """Return n noise levels through a list of them, log-linear in its index.

    Parameters
    ----------
    n : int
        How many, at least 2.
    levels : array_like, shape (m,)
        Positive and falling, for example ``ALIGN_YOUR_STEPS["sd15"]``.

    Returns
    -------
    ndarray, shape (n,)
        `levels` itself for n = m.

    Raises
    ------
    ValueError
        If a value is out of range.
    """
    given = np.asarray(levels, dtype=float)
    if given.ndim != 1 or len(given) < 2 or not (given > 0).all() or not (np.diff(given) < 0).all():
        msg = f"levels must be at least two positive, falling numbers, not {levels!r}"
        raise ValueError(msg)
    _check(n, given[-1], given[0])
    places = np.linspace(0, 1, int(n)), np.linspace(0, 1, len(given))
    return _ends(np.exp(np.interp(*places, np.log(given))), given[-1], given[0])


def _check(n: int, sigma_min: float, sigma_max: float, **positive: float) -> None:
    if n < 2 or int(n) != n:
        msg = f"n must be an integer of at least 2, not {n!r}"
        raise ValueError(msg)
    if not 0 < sigma_min < sigma_max < math.inf:
        msg = f"need 0 < sigma_min < sigma_max, not {sigma_min!r} and {sigma_max!r}"
        raise ValueError(msg)
    for name, value in positive.items():
        if not 0 < value < math.inf:
            msg = f"{name} must be positive and finite, not {value!r}"
            raise ValueError(msg)


def _ends(ramp: Levels, sigma_min: float, sigma_max: float) -> Levels:
    ramp[[0, -1]] = sigma_max, sigma_min  # to the last bit, whatever the formula rounds to
    return ramp
