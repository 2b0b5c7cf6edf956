"""What the limit h|λ| → ∞ asks of ESDIRK methods: of dense output, and of the error estimate.

In it stage i is r_i y for a fast mode, and misses a component that follows the others, y = φ(t), by
(Â⁻¹ Δ)_i / z, where Δ is what φ leaves in the stage equations, z = hλ, and Â is A without its first
row and column.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from . import trees
from .control import where
from .tableau import ButcherTableau, Interpolant

__all__ = ["INSIDE", "error_factor", "stiff_interpolant", "with_inside"]

FloatArray = npt.NDArray[np.float64]

INSIDE = 0.3
"""Where in a step dense output is examined, θ*.

In the limit the error at the step's end vanishes as 1/z, that inside does not: it is that of
interpolation. With u the interpolant at t* = t + θ* h and c the shift of the step's matrix,
(M − cJ)⁻¹ c (f(t*, u) − M u') is that error in the limit, and c times its derivative where nothing
is stiff. At 0.3 no method's error is below 0.16 of its maximum in the step, as it would be at a
node.
"""

_LOOSE = 3.0
"""How far above the tolerance it may be: at 1 kvaerno5, whose interpolant is of order 4, would make
two fifths more steps where nothing is stiff."""

_PATIENCE = 10
"""Refusals for the inside on the way to one time: they shrink the step by up to 1e7. An algebraic
variable that jumps is wrong inside every step over the jump, however short."""

_TOL = 1e-9
"""Residual above which conditions contradict each other: those that do miss by 1e-3 and more."""


@cache
def stiff_interpolant(
    tableau: ButcherTableau, explicit: ButcherTableau | None = None
) -> Interpolant | None:
    """Derive the dense output of a stiffly accurate ESDIRK method, or of an additive pair.

    The weights b(θ) of ``y(t + θh) ≈ y + h Σ b_i(θ) k_i`` are polynomials, the least-norm solution
    of these conditions:

    - order q = p − 1, but not below min(p, 3) (of a pair: q of the implicit part, and min(3, p − 1)
      with trees of both colours),
    - no growth with h|λ|: ``b_1(θ) + Σ_(i>1) b_i(θ) r_i = 0``, r_i being what stage i leaves of an
      infinitely fast mode. Then b(θ) is a combination of stage values, with
      ``v = Â⁻ᵀ (b_2(θ), ..., b_s(θ))`` for those after the first,
    - ``Σ v_i c_i³ = θ³``, if there are enough stages: with stage order 2 it makes the error of a
      component that follows the others, y = φ(t), O(h⁴) instead of O(h³);

    and of b(1) = b, by a multiple of θ².

    Parameters
    ----------
    tableau : ButcherTableau
        The method, or the implicit half of a pair.
    explicit : ButcherTableau, optional
        The explicit half.

    Returns
    -------
    Interpolant or None
        None for other methods, and where the conditions contradict each other.
    """
    A, p = tableau.A, tableau.order
    if p < 2 or not _has_limit(tableau):
        return None
    q = max(p - 1, min(p, 3))
    order = [_order_conditions(m, [A]) for m in range(1, q + 1)]
    if explicit is not None:
        q = min(3, p - 1)
        order += [_order_conditions(m, [A, explicit.A]) for m in range(1, q + 1)]
    A_hat = A[1:, 1:]
    r = np.concatenate([[1.0], -np.linalg.solve(A_hat, A[1:, 0])])
    cubes = np.concatenate([[0.0], np.linalg.solve(A_hat, tableau.c[1:] ** 3)])
    bounded = [(r, 0.0, 1)]
    for stiff in ([*bounded, (cubes, 1.0, 3)], bounded):
        P = _solve([row for rows in order for row in rows] + stiff, tableau.b)
        if P is not None:
            unused = [0.0] * P.shape[1]  # of f(t + h, y_new)
            return Interpolant(order=q, P=[*P.tolist(), unused], reference="stiff_interpolant")
    return None


def with_inside(ratio: Any, inside: Any, refused: Any) -> Any:
    """Return the error ratio of steps, given that of dense output at `INSIDE`.

    There is no verdict where f is not finite at the interpolated state, for the step itself has
    one, and after `_PATIENCE` attempts that were `refused` for the inside.
    `stiffkit.solvers.compiled` compiles this very text.
    """
    heard = np.isfinite(inside) & (refused < _PATIENCE)
    return where(heard, np.maximum(ratio, where(heard, inside, 0) / _LOOSE), ratio)


@cache
def error_factor(tableau: ButcherTableau) -> float:
    """Return the factor, at least 1, that makes the filtered error estimate true in the limit.

    With stage order 2 the defect of φ is Δ = (c³/6 − A c²/2) h³ φ‴. The error of y_new is
    (Â⁻¹ Δ)_s / z; the estimate (I − hγJ)⁻¹ h Σ e_i k_i, e of order 3 at least, is
    Σ_(i>1) e_i (Â⁻¹ Δ)_i / (γ z). Where that vanishes the factor is 1: there the estimate has an
    `error_stage`, and is not filtered.
    """
    if not _has_limit(tableau) or tableau.e is None or (tableau.error_order or 0) < 3:
        return 1.0
    A, c = tableau.A, tableau.c
    defect = np.linalg.solve(A[1:, 1:], (c**3 / 6 - A @ c**2 / 2)[1:])
    error, estimate = defect[-1], tableau.e[1:] @ defect / A[-1, -1]
    return max(1.0, float(abs(error / estimate))) if abs(estimate) > _TOL else 1.0


def _has_limit(tableau: ButcherTableau) -> bool:
    """Whether it is a stiffly accurate method with an explicit first stage, and no other."""
    A = tableau.A
    explicit_first = not A[0].any() and not np.triu(A, 1).any() and len(A) > 1
    return explicit_first and tableau.stiffly_accurate and bool(np.diag(A)[1:].all())


Condition = tuple[FloatArray, float, int]
"""(u, g, q): b(θ) · u = g θ^q."""


def _order_conditions(q: int, matrices: list[FloatArray]) -> list[Condition]:
    return [
        (u, 1 / trees.density(tree), q)
        for tree in trees.rooted_trees(q)
        for u in trees.coloured_weights(tree, matrices)
    ]


def _solve(conditions: list[Condition], b: FloatArray) -> FloatArray | None:
    """Return the coefficients P of b(θ) = Σ_j P_j θ^j, j = 1, ..., degree; shape (s, degree)."""
    M = np.array([u for u, _, _ in conditions])
    degree = max(2, *(q for _, _, q in conditions))
    right = np.zeros((len(M), degree))
    for row, (_, g, q) in zip(right, conditions, strict=True):
        row[q - 1] = g
    P = np.linalg.pinv(M, rcond=_TOL) @ right
    P[:, 1] += b - P.sum(axis=1)
    # Where M P = right and b is among the solutions at θ = 1, so is what was added one of M x = 0.
    return P if np.abs(M @ P - right).max() < _TOL else None
