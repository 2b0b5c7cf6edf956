"""What observers read of a batch whose rows are known, against exact values."""

import numpy as np
import pytest

import stiffkit as sk
from stiffkit.stiffness import (
    Alignment,
    DominantEigenpair,
    NormRatio,
    RayleighQuotient,
    SpectralRadius,
    StabilityRatio,
    StageRatio,
)

RATES = np.array([[-40.0, -1.0], [-3.0, -0.5], [-20.0, -20.0 / 3], [5.0, -2.0]])
"""Eigenvalues of each row, the dominant one first; symmetric Jacobians, turned by `TURNS`."""
TURNS = np.array([0.4, 1.1, -0.7, 2.0])


def matrices():
    c, s = np.cos(TURNS), np.sin(TURNS)
    Q = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
    return Q @ (RATES[:, :, None] * np.swapaxes(Q, 1, 2)), Q


A, Q = matrices()


def rows(t, y, A):
    return (A @ y[..., None])[..., 0]


def observers(f, **options):
    eigen = DominantEigenpair(f, **options)
    return [
        NormRatio(),
        RayleighQuotient(),
        StageRatio(),
        Alignment(eigen),
        SpectralRadius(eigen),
        StabilityRatio(eigen),
    ]


@pytest.mark.parametrize("method", ["tsit5", "dopri5", "heun"])
def test_readings_are_the_exact_ones(method):
    tableau = sk.METHODS[method]
    y0 = (Q @ np.array([1.0, 2.0])[:, None])[..., 0]
    watch = observers(rows, batched=True, args=(A,))
    s = sk.solve(
        rows, (0.0, 0.5), y0, method, batched=True, args=(A,), observe=watch, rtol=1e-6, atol=1e-9
    )
    for i in range(len(A)):
        log = s[i].log
        taken = log["accepted"]
        h, states = log["h"][taken], s[i].y[:-1]
        top = RATES[i, 0]
        np.testing.assert_allclose(log["spectral_radius"][taken], abs(top), rtol=1e-6)
        limit = tableau.stability_limit(np.pi)
        share = np.abs(h * top) / limit if top < 0 else np.full(len(h), np.inf)
        np.testing.assert_allclose(log["stability_ratio"][taken], share, rtol=1e-6)
        # A linear step multiplies each mode of y by a polynomial of z = h λ.
        modes = states @ Q[i]
        z = h[:, None] * RATES[i]
        errors = modes * np.stack([estimate(tableau, z[:, j]) for j in range(2)], 1)
        cosine = np.abs(errors[:, 0]) / np.linalg.norm(errors, axis=1)
        np.testing.assert_allclose(log["alignment"][taken], cosine, rtol=1e-4, atol=1e-6)
        apart = modes * np.stack([second(tableau, z[:, j]) for j in range(2)], 1)
        squares = apart**2
        rho = np.sqrt((squares * RATES[i] ** 2).sum(1) / squares.sum(1))
        quotient = (squares * RATES[i]).sum(1) / squares.sum(1)
        # The reading at a step's start is of the step before, and there is none at the first.
        for name, exact in (("rho", rho), ("rayleigh", quotient)):
            read = np.asarray(log[name], float)[taken]
            assert np.isnan(read[0])
            np.testing.assert_allclose(read[1:], exact[:-1], rtol=1e-4, err_msg=name)
        if tableau.fsal:
            read = np.asarray(log["h_rho"], float)[taken]
            np.testing.assert_allclose(read, np.abs(h) * rho, rtol=1e-4)


def stages(tableau, z):
    """Return the stages' states over y for y' = λ y, one row for each z = h λ."""
    n = tableau.n_stages
    lower = np.asarray(tableau.A, float)
    return np.array([np.linalg.solve(np.eye(n) - x * lower, np.ones(n)) for x in z])


def estimate(tableau, z):
    """Return the error estimate over y."""
    return z * (stages(tableau, z) @ np.asarray(tableau.e, float))


def second(tableau, z):
    """Return y_new less the probe's state, over y."""
    return tableau.R(z).real - stages(tableau, z)[:, tableau.probe]
