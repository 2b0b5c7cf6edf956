"""The spectral radius along a solve, for methods that need it in every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .._array import Array, backend_of
from .power import nonlinear_power_iteration

__all__ = ["MOST", "TOLERANCE", "PowerRadius"]

TOLERANCE, MOST = 1e-2, 50
"""Relative change at which an iteration stops, and most calls of f in one."""


class PowerRadius:
    """Nonlinear power iteration that starts from the vector it ended with the last time.

    Parameters
    ----------
    f : callable
        Right-hand side ``f(t, y)``.
    longest : float
        Longest step that may be made: radii far below its inverse need no digits.

    Attributes
    ----------
    nfev : int
        Calls of f so far.

    References
    ----------
    B. P. Sommeijer, L. F. Shampine, J. G. Verwer, RKC: an explicit solver for parabolic PDEs, J.
    Comput. Appl. Math. 88 (1998) 315-326, doi:10.1016/S0377-0427(97)00219-7.
    """

    def __init__(self, f: Callable[..., Any], longest: float = math.inf) -> None:
        self.f, self.smallest = f, 1 / longest if longest > 0 else 0.0
        self.vector: Array = None
        self.nfev = 0

    def __call__(self, t: float, y: Array, f_y: Array) -> float:
        """Return an estimate of the spectral radius of ∂f/∂y at (t, y), where f is `f_y`."""
        backend = backend_of(y)
        with backend.no_grad():
            pair = nonlinear_power_iteration(
                self.f,
                t,
                y,
                f_0=f_y,
                start=self.vector,
                tol=TOLERANCE,
                max_iterations=MOST,
                smallest=self.smallest,
            )
        self.nfev += pair.products
        self.vector = backend.vector(pair.vector, y).reshape(y.shape)
        return float(abs(pair.value))
