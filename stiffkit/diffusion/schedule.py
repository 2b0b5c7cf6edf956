"""Grids of noise levels."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["karras_sigmas"]


def karras_sigmas(
    n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> npt.NDArray[np.float64]:
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
    if n < 2 or int(n) != n:
        msg = f"n must be an integer of at least 2, not {n!r}"
        raise ValueError(msg)
    if not (0 < sigma_min < sigma_max < math.inf and 0 < rho < math.inf):
        msg = (
            f"need 0 < sigma_min < sigma_max and rho > 0, not {sigma_min!r}, {sigma_max!r}, {rho!r}"
        )
        raise ValueError(msg)
    ramp = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), int(n)) ** rho
    ramp[[0, -1]] = sigma_max, sigma_min  # to the last bit, whatever the power rounds to
    return ramp
