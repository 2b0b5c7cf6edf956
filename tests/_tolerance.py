"""Rounding-error bounds: a tolerance follows from the dtype and from what is amplified."""

import numpy as np

from stiffkit.solvers import trees


def gamma(n, dtype=np.float64):
    """Relative error of n roundings in a row, γ_n = n u / (1 − n u).

    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM (2002), section 3.1,
    doi:10.1137/1.9780898718027.
    """
    u = float(np.finfo(dtype).eps) / 2
    return n * u / (1 - n * u)


def condition_bounds(A, row, p, theta=1.0):
    """Bound the rounding error of each order condition ``row . u(t) = θ^p / γ(t)`` with p nodes.

    Each of the p nodes of a tree costs one dot product of length s, one product with the other
    branches, and the rounding of its coefficients to double precision. The errors are relative to
    the sum without cancellation, for which A and the row are replaced by their absolute values.
    """
    u_abs = trees.weights(np.abs(A), p)
    return {
        t: gamma(p * (len(A) + 2)) * (np.abs(row) @ u_abs[t] + theta**p / trees.density(t))
        for t in trees.rooted_trees(p)
    }


def worst_ratio(residuals, bounds):
    """Return the largest residual, measured in its own bound."""
    return max(abs(residuals[t]) / bounds[t] for t in residuals)


def stability_bound(tableau, radius):
    """Bound the rounding error of R(z) for an explicit method and |z| = radius.

    S = 1 + Σ_j r^j |b| |A|^(j−1) 1 is what the terms of R would sum to without cancellation. The
    triangular solve perturbs each factor A by s roundings, the j-th power has j ≤ s of them, and an
    operation on complex numbers counts for four on real ones.
    """
    s = tableau.n_stages
    v, total = np.ones(s), 1.0
    for j in range(1, s + 1):
        total += radius**j * float(np.abs(tableau.b) @ v)
        v = np.abs(tableau.A) @ v
    return gamma(4 * s * (s + 1)) * total
