"""End values of published problems, and of DETEST's classes against a tight peer."""

import math

import numpy as np
import pytest
from problems import ADAPTIVE
from scipy.integrate import solve_ivp

import stiffkit as sk

# ARENSTORF: Hairer, Nørsett, Wanner I, II.0, eq. 0.1 and 0.2. The orbit is closed.
MU = 0.012277471
PERIOD = 17.0652165601579625588917206249
ARENSTORF_0 = [0.994, 0.0, 0.0, -2.00158510637908252240537862224]


def arenstorf(t, y):
    mu, m = MU, 1 - MU
    d_1 = ((y[0] + mu) ** 2 + y[1] ** 2) ** 1.5
    d_2 = ((y[0] - m) ** 2 + y[1] ** 2) ** 1.5
    return np.array(
        [
            y[2],
            y[3],
            y[0] + 2 * y[3] - m * (y[0] + mu) / d_1 - mu * (y[0] - m) / d_2,
            y[1] - 2 * y[2] - m * y[1] / d_1 - mu * y[1] / d_2,
        ]
    )


# The error at the end over the tolerance, from a peer: SciPy's DOP853 at rtol 1e-13 comes back to
# 10.3 digits, that is, the orbit amplifies errors by about 1e3, per step and tolerance more.
@pytest.mark.parametrize(
    "method", ["dopri5", "tsit5", "bs5", "dop853", "vern6", "vern7", "vern8", "vern9"]
)
def test_the_arenstorf_orbit_closes(method):
    errors = []
    for rtol in (1e-7, 1e-10):
        solution = sk.solve(arenstorf, (0.0, PERIOD), ARENSTORF_0, method, rtol=rtol, atol=rtol)
        assert solution.success
        errors.append(np.abs(solution.y[-1] - ARENSTORF_0)[:2].max())
        assert errors[-1] < 2e5 * rtol
    assert errors[1] < errors[0] / 30  # 10^(3/2): at least half the orders of rtol


def test_the_arenstorf_orbit_takes_scipys_steps():
    # HNW count 98 accepted steps of DOPRI5 at 1e-7; the controller decides the rest.
    ours = sk.solve(
        arenstorf, (0.0, PERIOD), ARENSTORF_0, "dopri5", rtol=1e-7, atol=1e-7, controller="I"
    )
    theirs = solve_ivp(arenstorf, (0.0, PERIOD), ARENSTORF_0, "RK45", rtol=1e-7, atol=1e-7)
    assert ours.stats["accepted"] == len(theirs.t) - 1
    np.testing.assert_allclose(ours.t, theirs.t, rtol=1e-3)


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dop853", "vern7"])
def test_robertsons_reaction_at_one_second(method):
    # Stiff, but not yet beyond an explicit method. Reference: Hairer's table.
    def rober(t, y):
        slow, fast, square = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
        return np.array([fast - slow, slow - fast - square, square])

    reference = [0.9664597373330035, 0.3074626578578675e-04, 0.3350951640121071e-01]
    solution = sk.solve(rober, (0.0, 1.0), [1.0, 0.0, 0.0], method, rtol=1e-8, atol=1e-13)
    assert solution.success
    # Contractive: the error stays at a few tolerances, and y_2 at the bound of stability.
    np.testing.assert_allclose(solution.y[-1], reference, rtol=1e-6)


@pytest.mark.parametrize("method", ["dopri5", "dop853"])
def test_van_der_pols_early_values(method):
    # Mildly stiff van der Pol, mu = 10, from a peer of another family.
    def f(t, y):
        return np.array([y[1], 10 * (1 - y[0] ** 2) * y[1] - y[0]])

    peer = solve_ivp(f, (0.0, 5.0), [2.0, 0.0], "Radau", rtol=1e-11, atol=1e-12)
    solution = sk.solve(f, (0.0, 5.0), [2.0, 0.0], method, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(solution.y[-1], peer.y[:, -1], rtol=1e-6)


# DETEST, Hull, Enright, Fellen and Sedgwick, SIAM J. Numer. Anal. 9 (1972) 603-637: two of each
# class, on short spans.


def two_body(t, y):
    r_3 = (y[0] ** 2 + y[1] ** 2) ** 1.5
    return np.array([y[2], y[3], -y[0] / r_3, -y[1] / r_3])


def chain(diagonal, n=10):
    matrix = (
        np.diag(np.full(n, diagonal)) + np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)
    )
    return lambda t, y: matrix @ y


def radioactive(t, y):
    return np.concatenate([[-y[0]], y[:-2] - y[1:-1], y[-2:-1]])


DETEST = {
    "A1": (lambda t, y: -y, [1.0], 10.0),
    "A2": (lambda t, y: -(y**3) / 2, [1.0], 10.0),
    "A3": (lambda t, y: y * np.cos(t), [1.0], 10.0),
    "A4": (lambda t, y: y / 4 * (1 - y / 20), [1.0], 10.0),
    "A5": (lambda t, y: (y - t) / (y + t), [4.0], 10.0),
    "B1": (
        lambda t, y: np.array([2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])]),
        [1.0, 3.0],
        5.0,
    ),
    "B2": (
        lambda t, y: np.array([-y[0] + y[1], y[0] - 2 * y[1] + y[2], y[1] - y[2]]),
        [2.0, 0.0, 1.0],
        5.0,
    ),
    "B3": (lambda t, y: np.array([-y[0], y[0] - y[1] ** 2, y[1] ** 2]), [1.0, 0.0, 0.0], 5.0),
    "B5": (
        lambda t, y: np.array([y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]]),
        [0.0, 1.0, 1.0],
        5.0,
    ),
    "C1": (radioactive, [1.0] + [0.0] * 9, 5.0),
    "C3": (chain(-2.0), [1.0] + [0.0] * 9, 5.0),
    "D1": (two_body, [0.9, 0.0, 0.0, math.sqrt(1.1 / 0.9)], 5.0),
    "D5": (two_body, [0.1, 0.0, 0.0, math.sqrt(1.9 / 0.1)], 5.0),
    "E2": (lambda t, y: np.array([y[1], (1 - y[0] ** 2) * y[1] - y[0]]), [2.0, 0.0], 5.0),
    "E5": (lambda t, y: np.array([y[1], np.sqrt(1 + y[1] ** 2) / (25 - t)]), [0.0, 0.0], 5.0),
}


@pytest.fixture(scope="module", params=DETEST)
def detest(request):
    f, y0, end = DETEST[request.param]
    peer = solve_ivp(f, (0.0, end), y0, "DOP853", rtol=1e-13, atol=1e-13)
    return f, y0, end, peer.y[:, -1]


@pytest.mark.parametrize("method", ADAPTIVE)
def test_detest_is_solved_to_the_tolerance(method, detest):
    f, y0, end, reference = detest
    order = sk.METHODS[method].order
    rtol = {1: 1e-3, 2: 1e-3, 3: 1e-5}.get(order, 1e-8)
    solution = sk.solve(f, (0.0, end), y0, method, rtol=rtol, atol=rtol)
    assert solution.success
    # The global error is the tolerance times the problem's amplification and the number of steps:
    # D5, eccentricity 0.9, amplifies by some thousands, the others by some tens.
    bound = (1e4 if f is two_body else 200) * rtol
    np.testing.assert_allclose(solution.y[-1], reference, rtol=bound, atol=bound)


@pytest.mark.parametrize("name", ["A3", "B1", "B5", "D1", "E2"])
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bs5", "dop853", "vern7", "vern9"])
def test_the_error_is_proportional_to_the_tolerance(method, name):
    f, y0, end = DETEST[name]
    reference = solve_ivp(f, (0.0, end), y0, "DOP853", rtol=1e-13, atol=1e-13).y[:, -1]
    tolerances = 10.0 ** -np.arange(3, 11)
    errors = []
    for rtol in tolerances:
        solution = sk.solve(f, (0.0, end), y0, method, rtol=rtol, atol=rtol)
        errors.append(np.abs(solution.y[-1] - reference).max())
    slope = np.polyfit(np.log10(tolerances), np.log10(np.maximum(errors, 1e-12)), 1)[0]
    # Error per step control with local extrapolation: error ~ rtol^(p/(q+1)), 1 here (q+1 = p).
    # Over seven decades the fit is good to a fifth, and floor and luck take another.
    assert 0.7 < slope < 1.35, (slope, errors)
