"""Numbers that say how stiff: for a method, for a matrix, for a time span."""

from __future__ import annotations

import cmath
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..solvers.tableau import ButcherTableau
from .spectrum import finite_matrix, halved_sum

__all__ = ["as_damped", "logarithmic_norm", "stability_ratio", "stiffness_ratio", "time_scales"]

UNDAMPED = 1e-3
"""Share of ``|z|`` within which z counts as being on the imaginary axis."""


def as_damped(z: complex) -> complex:
    """Return z, and beside the imaginary axis the point where it is damped by `UNDAMPED`.

    The real part of a mode without damping is rounding, and its sign would decide between a limit
    and none. What a method amplifies by less than this is seen after thousands of steps, if ever.
    """
    margin = UNDAMPED * abs(z)
    return complex(-margin, z.imag) if abs(z.real) < margin else complex(z)


def stability_ratio(h: float, eigenvalue: complex, tableau: ButcherTableau) -> float:
    """h·λ over the method's stability limit, along the direction of hλ in the complex plane.

    Parameters
    ----------
    h : float
        Step size, signed.
    eigenvalue : complex
        λ.
    tableau : ButcherTableau
        An explicit method.

    Returns
    -------
    float
        Below 1 the mode is damped (or at least does not grow); above 1 the method amplifies it. 0
        for λ = 0, and inf for a mode that grows by itself: no step size is stable for that.

    Raises
    ------
    TypeError, ValueError
        If the tableau is not explicit, h or λ no number, or hλ not finite.

    References
    ----------
    Hairer & Wanner II (1996), section IV.2, doi:10.1007/978-3-642-05221-7.
    """
    if not hasattr(tableau, "stability_limit"):
        msg = f"tableau must be an explicit Runge-Kutta method of METHODS, not {tableau!r}"
        raise TypeError(msg)
    try:
        z = float(h) * complex(eigenvalue)
    except (TypeError, ValueError) as error:
        msg = f"h must be a real number and eigenvalue a number, not {h!r} and {eigenvalue!r}"
        raise TypeError(msg) from error
    if not cmath.isfinite(z):
        msg = f"h = {h!r} times eigenvalue = {eigenvalue!r} is not finite"
        raise ValueError(msg)
    if z == 0:
        return 0.0
    limit = tableau.stability_limit(cmath.phase(z))
    return abs(z) / limit if limit > 0 else math.inf


def logarithmic_norm(A: npt.ArrayLike, p: float = 2) -> float:
    """μ_p(A) = lim (‖I + hA‖_p − 1)/h as h → 0+: the rate at which solutions can start to grow.

    Parameters
    ----------
    A : array_like, shape (n, n)
        Real or complex matrix.
    p : {1, 2, inf}
        Which norm: the largest of ``Re a_jj + Σ_(i≠j) |a_ij|`` over columns, of the eigenvalues
        of ``(A + A*)/2``, or of ``Re a_ii + Σ_(j≠i) |a_ij|`` over rows.

    Returns
    -------
    float
        At least the spectral abscissa of A, whatever the norm.

    Raises
    ------
    ValueError
        If p is none of these, or A is empty, not square or not finite.

    References
    ----------
    G. Dahlquist, Stability and error bounds in the numerical integration of ordinary differential
    equations, Trans. Roy. Inst. Tech. Stockholm 130 (1959). Hairer & Wanner II (1996), section
    IV.11, doi:10.1007/978-3-642-05221-7.
    """
    matrix = finite_matrix(A)
    if matrix.ndim != 2:
        msg = f"A must be one square matrix, not of shape {matrix.shape}"
        raise ValueError(msg)
    if p == 2:
        return float(np.linalg.eigvalsh(halved_sum(matrix))[-1])
    if p not in (1, math.inf):
        msg = f"p={p!r} is not one of 1, 2, inf"
        raise ValueError(msg)
    diagonal = np.diagonal(matrix)
    moduli = np.abs(matrix)
    np.fill_diagonal(moduli, 0.0)  # to subtract it from the sum would cancel
    with np.errstate(over="ignore"):  # inf where the norm itself is beyond the range
        return float((diagonal.real + moduli.sum(axis=0 if p == 1 else 1)).max())


def stiffness_ratio(eigenvalues: npt.ArrayLike) -> float:
    """Ratio ``max |Re λ| / min |Re λ|`` over the decaying modes (Re λ < 0); 1 if there are none.

    Eigenvalues below rounding, 1e-12 of the largest modulus, count as zero: conserved quantities
    do not make a problem stiff.

    Parameters
    ----------
    eigenvalues : array_like
        Of the Jacobian.

    Returns
    -------
    float
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If one is no number, or not finite.

    References
    ----------
    J. D. Lambert, Numerical Methods for Ordinary Differential Systems, Wiley (1991), chapter 6,
    ISBN 0-471-92990-5.
    """
    values = _finite(eigenvalues)
    scale = np.abs(values).max(initial=0.0)
    decaying = -values.real[values.real < -1e-12 * scale]
    return float(decaying.max() / decaying.min()) if decaying.size else 1.0


def time_scales(eigenvalues: npt.ArrayLike, span: float | None = None) -> Any:
    """``1/|λ|`` of each mode, rising; with `span`, how many of the smallest fit into the span.

    Parameters
    ----------
    eigenvalues : array_like
        Of the Jacobian.
    span : float, optional
        Length of the time span.

    Returns
    -------
    ndarray or float
        The time scales, inf for λ = 0; or ``span · max |λ|``.

    Raises
    ------
    TypeError, ValueError
        If an eigenvalue or the span is no number, or not finite.
    """
    modulus = np.abs(_finite(eigenvalues))
    if span is not None:
        length = _finite(span, "span")
        if length.size != 1:
            msg = f"span must be one number, not {span!r}"
            raise TypeError(msg)
        with np.errstate(over="ignore"):
            return float(abs(length[0]) * modulus.max(initial=0.0))
    with np.errstate(divide="ignore", over="ignore"):
        return np.sort(1.0 / modulus)


def _finite(values: npt.ArrayLike, name: str = "eigenvalues") -> npt.NDArray[Any]:
    flat = np.asarray(values).reshape(-1)
    if flat.dtype.kind not in "biufc":
        msg = f"{name} must be numbers, not {values!r}"
        raise TypeError(msg)
    if not np.isfinite(flat).all():
        i = int(np.argmin(np.isfinite(flat)))
        msg = f"{name} must be finite; entry {i} is {flat[i]}"
        raise ValueError(msg)
    return flat
