"""Radau IIA methods: collocation at the zeros of a Radau polynomial, and what decouples Newton."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

from .tableau import ButcherTableau, FloatArray

__all__ = [
    "RADAU",
    "RadauTransformation",
    "collocation",
    "radau5",
    "radau9",
    "radau_transformation",
]


def collocation(c: Sequence[str]) -> tuple[list[float], list[list[float]]]:
    """Return the nodes and the matrix of the method that collocates at them.

    Parameters
    ----------
    c : sequence of str
        Decimal digits: as many as there are, for the matrix is computed exactly and rounded once.

    Returns
    -------
    c : list of float
        The nodes.
    A : list of list of float
        ``a_ij = ∫_0^(c_i) ℓ_j(x) dx``, ℓ_j Lagrange's polynomials.
    """
    nodes, columns = [Fraction(node) for node in c], []
    for j, c_j in enumerate(nodes):
        basis = [Fraction(1)]  # coefficients of ℓ_j, the constant first
        for c_k in nodes[:j] + nodes[j + 1 :]:
            shifted, scaled = [Fraction(0), *basis], [*(c_k * a for a in basis), Fraction(0)]
            basis = [(a - b) / (c_j - c_k) for a, b in zip(shifted, scaled, strict=True)]
        columns.append(
            [sum(a * c_i ** (m + 1) / (m + 1) for m, a in enumerate(basis)) for c_i in nodes]
        )
    A = [[float(column[i]) for column in columns] for i in range(len(nodes))]
    return [float(node) for node in nodes], A


radau5 = ButcherTableau(
    name="radau5",
    order=5,
    c=[(4 - math.sqrt(6)) / 10, (4 + math.sqrt(6)) / 10, 1],
    A=[
        [
            (88 - 7 * math.sqrt(6)) / 360,
            (296 - 169 * math.sqrt(6)) / 1800,
            (-2 + 3 * math.sqrt(6)) / 225,
        ],
        [
            (296 + 169 * math.sqrt(6)) / 1800,
            (88 + 7 * math.sqrt(6)) / 360,
            (-2 - 3 * math.sqrt(6)) / 225,
        ],
        [(16 - math.sqrt(6)) / 36, (16 + math.sqrt(6)) / 36, 1 / 9],
    ],
    b=[(16 - math.sqrt(6)) / 36, (16 + math.sqrt(6)) / 36, 1 / 9],
    reference=(
        "E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., Springer "
        "(1996), section IV.5, doi:10.1007/978-3-642-05221-7"
    ),
)

_c, _A = collocation(
    [
        "0.05710419611451768219312",
        "0.27684301363812382768",
        "0.5835904323689168200567",
        "0.8602401356562194478479",
        "1",
    ]
)
radau9 = ButcherTableau(
    name="radau9",
    order=9,
    c=_c,
    A=_A,
    b=_A[-1],
    reference=(
        "E. Hairer, G. Wanner, Stiff differential equations solved by Radau methods, J. Comput. "
        "Appl. Math. 111 (1999) 93-111, doi:10.1016/S0377-0427(99)00134-X"
    ),
)

RADAU = {"radau5": radau5, "radau9": radau9}
"""Those that have a kernel, by name: it wants an odd number of stages."""


@dataclass(frozen=True)
class RadauTransformation:
    """Diagonal form of A⁻¹ of a Radau IIA method, and the weights of its error estimate.

    Of each pair of conjugate eigenvalues only one is here: the unknowns of real states are
    conjugates too.
    """

    eigenvalues: npt.NDArray[np.complex128]
    """Shape (m,), m = (s + 1)/2: the real eigenvalue γ of A⁻¹, then those with a positive imaginary
    part."""
    S: npt.NDArray[np.complex128]
    """Shape (s, m): Z = Re(S W). Eigenvectors by columns, scaled as in Hairer's codes: the real one
    has length 1, the others end in 1."""
    S_inv: npt.NDArray[np.complex128]
    """Shape (m, s): W = S_inv Z."""
    e: FloatArray
    """Shape (s,): err = (I − h γ_0 J)⁻¹ (γ_0 h f(t, y) + γ_0 Σ e_i z_i), γ_0 = 1/γ."""
    c: FloatArray
    """Shape (s,): the nodes."""
    coefficients: FloatArray
    """Shape (s, s): Z ↦ coefficients of θ, θ², ... in the collocation polynomial y(t + θh) − y."""

    @cached_property
    def bubble(self) -> FloatArray:
        """Z ↦ p of the same polynomial, θ z_s + θ(1 − θ) Σ p_m θ^m; shape (s − 1, s)."""
        # θ^k is θ less θ(1 − θ)(1 + θ + ... + θ^(k−2)).
        return -np.cumsum(self.coefficients[:0:-1], axis=0)[::-1]

    @cached_property
    def column(self) -> FloatArray:
        """The nodes, shape (s, 1)."""
        return self.c[:, None]

    @cached_property
    def exponents(self) -> FloatArray:
        """1, ..., s."""
        return np.arange(1.0, len(self.c) + 1)

    def extrapolation(self, ratio: npt.ArrayLike) -> FloatArray:
        """Return Z ↦ Z of the next step by the same polynomial.

        `ratio`, of any shape, is that of both step sizes; the result has the shape (..., s, s).
        """
        theta = 1 + np.asarray(ratio)[..., None, None] * self.column
        rise = theta**self.exponents
        rise -= 1
        return np.asarray(rise @ self.coefficients)

    def full(self) -> RadauTransformation:
        """Return the same with both of each pair: Z = S W, for complex states."""
        pairs = slice(1, None)
        return replace(
            self,
            eigenvalues=np.append(self.eigenvalues, self.eigenvalues[pairs].conj()),
            S=np.hstack([self.S[:, :1], self.S[:, pairs] / 2, self.S[:, pairs].conj() / 2]),
            S_inv=np.vstack([self.S_inv, self.S_inv[pairs].conj()]),
        )


@cache
def radau_transformation(tableau: ButcherTableau) -> RadauTransformation:
    """Derive from a method's A what decouples Newton's linear systems.

    The error estimate compares y_new with ŷ = y + h (γ_0 f(t, y) + Σ b̂_i k_i), b̂ fixed by s
    moments Σ b̂_i c_i^(k-1) = 1/k − γ_0 [k = 1]. With z = h A k its weights are e = A⁻ᵀ(b̂ − b)/γ_0.

    Parameters
    ----------
    tableau : ButcherTableau
        `radau5` or `radau9`: an odd number of stages.

    Returns
    -------
    RadauTransformation

    References
    ----------
    E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., Springer (1996),
    section IV.8, doi:10.1007/978-3-642-05221-7; Stiff differential equations solved by Radau
    methods, J. Comput. Appl. Math. 111 (1999) 93-111, doi:10.1016/S0377-0427(99)00134-X.
    """
    A, b, c = tableau.A, tableau.b, tableau.c
    values, V = np.linalg.eig(np.linalg.inv(A))
    real = int(np.argmin(np.abs(values.imag)))
    V[:, real] = V[:, real].real * np.sign(V[-1, real].real)
    V[:, real] /= np.linalg.norm(V[:, real])
    V = np.where(np.arange(len(c)) == real, V, V / V[-1])
    chosen = [real, *np.flatnonzero(values.imag > 1e-9)]
    inverse = np.linalg.inv(V)[chosen]
    inverse[1:] *= 2  # Z = Σ over both of a pair is twice the real part of one
    gamma = float(values[real].real)
    moments = np.vander(c, increasing=True).T
    b_hat = np.linalg.solve(moments, 1 / np.arange(1, len(c) + 1) - np.eye(len(c))[0] / gamma)
    e = np.asarray(np.linalg.solve(A.T, b_hat - b) * gamma, dtype=np.float64)
    coefficients = np.linalg.inv(c[:, None] ** np.arange(1.0, len(c) + 1))
    return RadauTransformation(values[chosen], V[:, chosen], inverse, e, c, coefficients)
