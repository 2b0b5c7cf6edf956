"""Every method of EXPLICIT: order, stability, dense output, and one step of it.

All tests of this file run over EXPLICIT, so that a new literal is tested when it is added. What is
known of single methods stands in the tables.
"""

import math
import warnings
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.integrate
import torch
from _tolerance import condition_bounds, gamma, stability_bound, worst_ratio
from hypothesis import given
from hypothesis import strategies as st

import stiffkit as sk
from stiffkit import EXPLICIT, ButcherTableau
from stiffkit._array import backend_of
from stiffkit.solvers import trees
from stiffkit.solvers.dense import Segment
from stiffkit.solvers.step import make_stages, rk_step

FAR = 1e3
"""A residual this many times beyond its rounding error is there."""

every_method = pytest.mark.parametrize("tab", EXPLICIT.values(), ids=list(EXPLICIT))


def rows_of(tab):
    """Name and order of each row of weights."""
    rows = {"b": tab.order, "b_hat": tab.order_hat, "b_hat2": tab.order_hat2}
    return {row: p for row, p in rows.items() if p is not None}


every_row = pytest.mark.parametrize(
    ("tab", "row", "p"),
    [
        pytest.param(tab, row, p, id=f"{name}-{row}")
        for name, tab in EXPLICIT.items()
        for row, p in rows_of(tab).items()
    ],
)
every_pair = pytest.mark.parametrize(
    "tab", [pytest.param(tab, id=name) for name, tab in EXPLICIT.items() if tab.order_hat]
)


# The table of methods -----------------------------------------------------------------------------


def test_methods_are_all_there_under_their_own_names():
    names = (
        "euler heun midpoint ralston heun3 bosh3 rk38 rk4 rkf45 cashkarp dopri5 tsit5 bs5 "
        "dopri8 vern6 vern7 vern8 vern9 dop853"
    )
    assert set(EXPLICIT) >= set(names.split())
    assert all(tab.name == name for name, tab in EXPLICIT.items())


@every_method
def test_method_names_its_source_with_a_doi(tab):
    assert "doi:10." in tab.reference
    assert tab.interpolant is None or "doi:10." in tab.interpolant.reference


@every_method
def test_method_is_explicit_and_starts_from_the_state_itself(tab):
    # The solvers count on both: k_1 = f(t, y) is passed on from step to step.
    assert tab.explicit
    assert tab.c[0] == 0.0


# Index of the stage that, beside y_new, is evaluated at the end of the step; and whether the last
# stage is f(t + h, y_new).
STRUCTURE = {
    "euler": (None, False),
    "heun": (1, False),
    "midpoint": (None, False),
    "ralston": (None, False),
    "heun3": (None, False),
    "rk38": (3, False),
    "dopri8": (12, False),
    "bosh3": (None, True),
    "rk4": (3, False),
    "rkf45": (4, False),
    "cashkarp": (4, False),
    "dopri5": (5, True),
    "tsit5": (5, True),
    "bs5": (6, True),
    "vern6": (7, True),
    "vern7": (9, False),
    "vern8": (12, False),
    "vern9": (15, False),
    "dop853": (11, False),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_structure_is_the_known_one(name):
    tab = EXPLICIT[name]
    assert (tab.probe, tab.fsal) == STRUCTURE[name]


@every_method
def test_first_same_as_last_means_that_the_last_stage_is_y_new(tab):
    last_is_b = np.array_equal(tab.A[-1], tab.b)
    assert tab.stiffly_accurate == last_is_b
    assert tab.fsal == (last_is_b and tab.n_stages > 1)
    assert not tab.fsal or (tab.c[-1] == 1.0 and tab.b[-1] == 0.0)


@every_method
def test_probe_is_the_last_stage_at_the_end_that_is_not_y_new(tab):
    there = [
        i for i in range(tab.n_stages) if tab.c[i] == 1.0 and not np.array_equal(tab.A[i], tab.b)
    ]
    assert tab.probe == (there[-1] if there else None)


@every_method
def test_probe_of_a_step_is_a_state_and_its_own_slope_at_the_end_of_the_step(tab):
    seen = []
    sk.solve(
        lambda t, y: (t - 2) * y,
        (0.0, 1.0),
        [1.0, -0.5],
        tab,
        grid=3,
        observe=lambda step, probe: seen.append((step, probe)),
    )
    assert seen[0][1] is None
    for step, _ in seen:
        assert (step.probe is None) == (tab.probe is None)
        if step.probe is not None:
            # The state is summed again, by at most s + 2 roundings of its terms.
            terms = np.abs(step.y) + step.h * np.abs(tab.A[tab.probe]) @ np.abs(step.k)
            slack = gamma(4 * (tab.n_stages + 2)) * 2 * terms
            assert np.all(np.abs(step.probe.f - (step.t_new - 2) * step.probe.z) <= slack)


@every_method
def test_error_estimate_of_a_step_is_the_difference_to_the_embedded_result(tab):
    seen = []
    sk.solve(spinning, (0.0, 1.0), [1.0, 0.0], tab, grid=3, callback=seen.append)
    for step in seen:
        if tab.b_hat is None:
            assert step.err is step.y_hat is None
            continue
        k = np.array(step.k)
        terms = np.abs(step.y) + step.h * (np.abs(tab.b) + np.abs(tab.b_hat)) @ np.abs(k)
        slack = gamma(2 * (tab.n_stages + 4)) * terms
        assert np.all(np.abs(step.y + step.h * tab.b_hat @ k - step.y_hat) <= slack)
        assert np.all(np.abs(step.y_new - step.y_hat - step.err) <= slack)


@every_method
def test_explicit_methods_of_more_than_one_stage_have_stage_order_one(tab):
    # A second stage would need c_2²/2 = a_21 c_1 = 0.
    assert tab.stage_order == 1


@every_pair
def test_error_row_is_the_difference_to_the_embedded_row(tab):
    np.testing.assert_array_equal(tab.e, tab.b - tab.b_hat)
    assert abs(tab.e.sum()) <= gamma(tab.n_stages + 2) * (np.abs(tab.b) + np.abs(tab.b_hat)).sum()
    double = tab.order_hat2 is not None
    expected = 2 * tab.order_hat - tab.order_hat2 if double else min(tab.order, tab.order_hat)
    assert tab.error_order == expected


# Order conditions ---------------------------------------------------------------------------------


@every_row
def test_order_conditions_hold_up_to_the_order(tab, row, p):
    for q in range(1, p + 1):
        residuals = tab.order_conditions(q, row)
        assert worst_ratio(residuals, condition_bounds(tab.A, getattr(tab, row), q)) <= 1


@every_row
def test_an_order_condition_fails_beyond_the_order(tab, row, p):
    residuals = tab.order_conditions(p + 1, row)
    assert worst_ratio(residuals, condition_bounds(tab.A, getattr(tab, row), p + 1)) > FAR


@every_row
def test_error_coefficients_are_the_residuals_over_the_symmetries(tab, row, p):
    residuals = tab.order_conditions(p + 1, row)
    expected = [residuals[t] / trees.symmetry(t) for t in trees.rooted_trees(p + 1)]
    np.testing.assert_array_equal(tab.error_coefficients(p + 1, row), expected)


# By hand, over the trees [τ,τ] with σ = 2 and [[τ]]: residuals of 1/6 and −1/6 for Heun, −1/12 and
# −1/6 for the midpoint rule, 0 and −1/6 for Ralston, whose choice of c makes the first one vanish.
ERROR_NORMS = {
    "euler": 1 / 2,
    "heun": math.hypot(1 / 12, 1 / 6),
    "midpoint": math.hypot(1 / 24, 1 / 6),
    "ralston": 1 / 6,
}


@pytest.mark.parametrize("name", ERROR_NORMS)
def test_principal_error_norm_is_the_one_found_by_hand(name):
    # Three nodes, two stages, and a square root.
    assert abs(EXPLICIT[name].principal_error_norm - ERROR_NORMS[name]) <= gamma(3 * 4 + 4)


def test_quality_of_the_dormand_prince_pair_is_the_published_one():
    # J. R. Dormand, P. J. Prince, J. Comput. Appl. Math. 6 (1980) 19-26: RK5(4)7M.
    quality = EXPLICIT["dopri5"].pair_quality
    assert f"{quality.A:.2e}" == "3.99e-04"
    assert f"{quality.D:.1f}" == "11.6"


# Nodepy -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nodepy():
    """Nodepy's modules, and the methods it knows by coefficients of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nodepy import rk, rooted_trees

        known = rk.loadRKM("All")
    return SimpleNamespace(rk=rk, rooted_trees=rooted_trees, known=known)


def floats(array):
    return np.array(array, dtype=float)


def same_method(peer, tab):
    return len(peer.b) == tab.n_stages and all(
        np.allclose(floats(theirs), ours, rtol=0, atol=1e-9)
        for theirs, ours in ((peer.A, tab.A), (peer.b, tab.b))
    )


@pytest.fixture
def peer(nodepy, tab):
    """Nodepy's own version of the method."""
    for candidate in nodepy.known.values():
        if same_method(candidate, tab):
            return candidate
    return pytest.skip("nodepy does not know the method")


@pytest.mark.parametrize(
    ("name", "known_as"),
    [
        ("euler", "FE"),
        ("heun", "Heun22"),
        ("midpoint", "Mid22"),
        ("ralston", "MTE22"),
        ("bosh3", "BS3"),
        ("rk4", "RK44"),
        ("rkf45", "Fehlberg45"),
        ("cashkarp", "CK5"),
        ("dopri5", "DP5"),
        ("tsit5", "Tsit5"),
        ("bs5", "BS5"),
    ],
)
def test_method_is_the_one_that_nodepy_knows(nodepy, name, known_as):
    assert same_method(nodepy.known[known_as], EXPLICIT[name])


@every_method
def test_coefficients_are_nodepys(peer, tab):
    # Both round the same fractions and decimals to the nearest double.
    np.testing.assert_array_equal(floats(peer.A), tab.A)
    np.testing.assert_array_equal(floats(peer.b), tab.b)
    # Nodepy's nodes are the row sums.
    sums = gamma(2 * tab.n_stages) * np.abs(tab.A).sum(axis=1)
    assert np.all(np.abs(floats(peer.c) - tab.c) <= sums)
    if hasattr(peer, "bhat") and tab.b_hat is not None:
        np.testing.assert_array_equal(floats(peer.bhat), tab.b_hat)


@every_method
def test_orders_are_nodepys(peer, tab):
    # Conditions of up to 40 terms, of sizes up to 30: rounding errors below 1e-12.
    assert peer.order(tol=1e-12) == tab.order
    assert peer.stage_order() == tab.stage_order
    if hasattr(peer, "bhat") and tab.b_hat is not None:
        assert peer.embedded_method.order(tol=1e-12) == tab.order_hat


@every_method
def test_stability_polynomial_and_limits_are_nodepys(peer, tab):
    r = floats(peer.stability_function()[0].coeffs[::-1])
    ours = tab.stability_polynomial
    v = np.ones(tab.n_stages)
    for j in range(1, len(ours)):
        slack = 2 * gamma(j * (tab.n_stages + 2)) * float(np.abs(tab.b) @ v)
        assert abs(ours[j] - (r[j] if j < len(r) else 0.0)) <= slack
        v = np.abs(tab.A) @ v
    # Both find roots of |R|² − 1 or R ± 1, of degree up to 2 s, as eigenvalues of a companion
    # matrix. They err by eps times its norm, which is below 1e4 for up to eight stages.
    limit = peer.real_stability_interval()
    assert tab.real_stability_limit == pytest.approx(limit, rel=1e-11)
    # With doubles in place of exact fractions nodepy finds |R| > 1 next to zero, and no interval.
    if peer.A.dtype == object:
        limit = peer.imaginary_stability_interval()
        assert tab.imaginary_stability_limit == pytest.approx(limit, rel=1e-11)


def peer_of(nodepy, tab, row="b"):
    """Nodepy's view of our own coefficients."""
    return nodepy.rk.ExplicitRungeKuttaMethod(tab.A.copy(), getattr(tab, row).copy())


def tree_from(text):
    """Read nodepy's notation: ``T`` a leaf, braces around the children, ``^n`` for n alike."""
    stack, i = [[]], 0
    while i < len(text):
        if text[i] == "T":
            stack[-1].append(())
        elif text[i] == "{":
            stack.append([])
        elif text[i] == "}":
            children = tuple(sorted(stack.pop()))
            stack[-1].append(children)
        else:
            i += 1
            stack[-1] += [stack[-1][-1]] * (int(text[i]) - 1)
        i += 1
    ((tree,),) = stack
    return tree


@pytest.mark.parametrize(
    ("tab", "row", "p"),
    [
        pytest.param(tab, row, p, id=f"{name}-{row}")
        for name, tab in EXPLICIT.items()
        for row, p in rows_of(tab).items()
        if p < 9  # nodepy takes seconds for the 719 trees of order 10
    ],
)
def test_error_coefficients_are_nodepys(nodepy, tab, row, p):
    peer, forest = peer_of(nodepy, tab, row), nodepy.rooted_trees.list_trees(p + 1)
    theirs = {tree_from(str(tree)): float(peer.error_coefficient(tree)) for tree in forest}
    ours = dict(zip(trees.rooted_trees(p + 1), tab.error_coefficients(p + 1, row), strict=True))
    bounds = condition_bounds(tab.A, getattr(tab, row), p + 1)
    assert theirs.keys() == ours.keys()
    assert all(abs(ours[t] - theirs[t]) * trees.symmetry(t) <= 2 * bounds[t] for t in ours)
    if row == "b":
        slack = 2 * math.hypot(*(bounds[t] / trees.symmetry(t) for t in ours))
        assert abs(tab.principal_error_norm - math.hypot(*theirs.values())) <= slack


@pytest.mark.parametrize(
    "tab",
    [
        pytest.param(tab, id=name)
        for name, tab in EXPLICIT.items()
        if tab.order_hat and tab.order_hat <= 4  # beyond, rounding leaves fewer digits
    ],
)
def test_pair_quality_is_that_of_nodepys_error_coefficients(nodepy, tab):
    q = tab.order_hat
    b, b_hat = (peer_of(nodepy, tab, row) for row in ("b", "b_hat"))

    def tau(peer, p):
        forest = nodepy.rooted_trees.list_trees(p)
        return np.array([float(peer.error_coefficient(tree)) for tree in forest])

    A_hat = np.linalg.norm(tau(b_hat, q + 1))
    expected = {
        "A": np.linalg.norm(tau(b, tab.order + 1)),
        "A_hat": A_hat,
        "B": np.linalg.norm(tau(b_hat, q + 2)) / A_hat,
        "C": np.linalg.norm(tau(b_hat, q + 2) - tau(b, q + 2)) / A_hat,
        "E": np.linalg.norm(tau(b, q + 2)) / A_hat,
    }
    # The smallest norm is 2e-5, the largest bound of a rounding error 2e-14: nine digits.
    for measure, value in expected.items():
        assert getattr(tab.pair_quality, measure) == pytest.approx(value, rel=1e-9)


IMPLICIT = [
    "BE",
    "GL2",
    "LobattoIIIA2",
    "LobattoIIIA3",
    "LobattoIIIC2",
    "LobattoIIIC3",
    "RadauIIA2",
]


@pytest.mark.parametrize("name", IMPLICIT)
def test_implicit_methods_of_nodepy_get_their_orders_and_stability_function(nodepy, name):
    peer = nodepy.known[name]
    p = peer.order(tol=1e-14)
    A, b, c = floats(peer.A), floats(peer.b), floats(peer.c)
    tab = ButcherTableau(name, order=p, c=c, A=A, b=b)
    assert not tab.explicit
    assert tab.stage_order == peer.stage_order()
    assert worst_ratio(tab.order_conditions(p), condition_bounds(A, b, p)) <= 1
    assert worst_ratio(tab.order_conditions(p + 1), condition_bounds(A, b, p + 1)) > FAR
    numerator, denominator = peer.stability_function()
    for z in (-0.5, -3.0 + 1.0j, 2.0j):
        fraction = complex(numerator(z)) / complex(denominator(z))
        # Left of the imaginary axis no pole is near: a condition number below 100, 3 stages.
        assert abs(tab.R(z) - fraction) <= 100 * gamma(4 * 3 * 4)


# SciPy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "peer"), [("bosh3", scipy.integrate.RK23), ("dopri5", scipy.integrate.RK45)]
)
def test_coefficients_are_scipys(name, peer):
    tab = EXPLICIT[name]
    m = len(peer.C)
    np.testing.assert_array_equal(tab.A[:m, : peer.A.shape[1]], peer.A)
    np.testing.assert_array_equal(tab.b[:m], peer.B)
    np.testing.assert_array_equal(tab.c[:m], peer.C)
    # SciPy stores b_hat − b, which is rounded once more than the two rows.
    np.testing.assert_allclose(-tab.e, peer.E, rtol=0, atol=2 * gamma(2))
    np.testing.assert_allclose(tab.dense.P, peer.P, rtol=2 * gamma(3))


def test_dop853_is_scipys():
    tab, peer = EXPLICIT["dop853"], scipy.integrate.DOP853
    np.testing.assert_array_equal(tab.A, peer.A)
    np.testing.assert_array_equal(tab.b, peer.B)
    np.testing.assert_array_equal(tab.c, peer.C)
    np.testing.assert_array_equal(tab.e2, peer.E3[:-1])
    # b − (b − e), with entries of b up to 6.
    np.testing.assert_allclose(tab.e, peer.E5[:-1], rtol=0, atol=gamma(2) * 8)
    np.testing.assert_array_equal(padded(tab.dense.A, 16), peer.A_EXTRA)


# Linear stability ---------------------------------------------------------------------------------


@every_method
def test_stability_polynomial_holds_the_moments_of_the_tableau(tab):
    """r_j = b A^(j−1) 1, in exact arithmetic on the rounded coefficients."""
    A = [[Fraction(a) for a in row] for row in tab.A.tolist()]
    b = [Fraction(x) for x in tab.b.tolist()]
    v, v_abs = [Fraction(1)] * len(b), np.ones(len(b))
    r = tab.stability_polynomial
    assert len(r) == len(b) + 1
    assert r[0] == 1.0
    for j in range(1, len(r)):
        exact = float(sum(x * y for x, y in zip(b, v, strict=True)))
        # Up to the order the coefficients are 1/j!, by which the moments miss the rounding of A.
        slack = gamma(j * (len(b) + 2)) * float(np.abs(tab.b) @ v_abs)
        assert abs(r[j] - exact) <= slack
        assert j > tab.order or r[j] == 1 / math.factorial(j)
        v = [sum(x * y for x, y in zip(row, v, strict=True)) for row in A]
        v_abs = np.abs(tab.A) @ v_abs


@given(st.sampled_from(list(EXPLICIT.values())), st.complex_numbers(max_magnitude=7))
def test_stability_function_is_the_stability_polynomial(tab, z):
    polynomial = np.polynomial.polynomial.polyval(z, tab.stability_polynomial)
    assert abs(tab.R(z) - polynomial) <= stability_bound(tab, abs(z))


@given(st.sampled_from(list(EXPLICIT.values())), st.complex_numbers(max_magnitude=7), st.booleans())
def test_a_step_on_the_linear_problem_multiplies_by_the_stability_function(tab, z, backward):
    h = -0.5 if backward else 0.5
    y = np.array([1.0 + 0.0j, 2.0j])
    y_new, k = rk_step(lambda t, y: z / h * y, 0.0, y, h, tab, z / h * y)
    slack = 2 * stability_bound(tab, abs(z))
    assert np.all(np.abs(y_new - tab.R(z) * y) <= slack * np.abs(y))
    assert len(k) == tab.n_stages


@every_method
def test_error_constant_is_the_first_coefficient_of_the_exponential_minus_R(tab):
    """Cauchy's integral over |z| = 2, by the trapezoidal rule, gives each Taylor coefficient."""
    radius, m = 2.0, 64  # aliases are 2^j/j! with j > 64: below 1e-69
    z = radius * np.exp(2j * np.pi * np.arange(m) / m)
    coefficients = np.fft.fft(np.exp(z) - tab.R(z)) / m / radius ** np.arange(m)
    p = tab.order
    slack = (stability_bound(tab, radius) + gamma(10) * math.exp(radius)) / radius ** np.arange(m)
    assert np.all(np.abs(coefficients[: p + 1]) <= slack[: p + 1])
    assert abs(coefficients[p + 1] - tab.error_constant) <= slack[p + 1]


def on_the_real_axis(tab, x):
    """R(−x), and a bound of its rounding error."""
    r, powers = tab.stability_polynomial, x ** np.arange(tab.n_stages + 1)
    terms = r * powers * (-1.0) ** np.arange(tab.n_stages + 1)
    return abs(math.fsum(terms)), gamma(tab.n_stages + 3) * np.abs(terms).sum()


@every_method
def test_method_is_stable_on_the_real_axis_up_to_the_limit_and_not_beyond(tab):
    limit = tab.real_stability_limit
    for fraction in np.linspace(0.0, 1.0, 401):
        modulus, slack = on_the_real_axis(tab, fraction * limit)
        assert modulus <= 1 + slack + 1e-12 * limit  # the limit is a root, to 1e-12
    modulus, slack = on_the_real_axis(tab, limit * (1 + 1e-6))
    assert modulus > 1 + slack


def squared_modulus_minus_one(tab):
    """|R(iη)|² − 1 in exact arithmetic: up to η^p it vanishes, and rounding would decide."""
    p = tab.order
    r = [
        Fraction(1, math.factorial(j)) if j <= p else Fraction(r_j)
        for j, r_j in enumerate(tab.stability_polynomial.tolist())
    ]

    def evaluate(eta):
        eta = Fraction(float(eta))
        re = sum((-1) ** (j // 2) * r_j * eta**j for j, r_j in enumerate(r) if j % 2 == 0)
        im = sum((-1) ** (j // 2) * r_j * eta**j for j, r_j in enumerate(r) if j % 2 == 1)
        return re**2 + im**2 - 1

    return evaluate


@every_method
def test_modulus_on_the_imaginary_axis_passes_one_at_the_limit(tab):
    g, limit = squared_modulus_minus_one(tab), tab.imaginary_stability_limit
    if limit == 0.0:
        # Unstable from the start: the lowest term decides, and at 1e-3 it is alone.
        assert g(1e-3) > 0
        assert g(1e-2) > 0
        return
    for fraction in [1e-3, *np.linspace(0.02, 0.98, 49), 1 - 1e-9]:
        assert g(fraction * limit) < 0
    assert g(limit * (1 + 1e-9)) > 0


# As printed: for dopri5, tsit5 and Verner's pairs in OrdinaryDiffEq.jl, which tells stiffness by
# them, for orders 2 to 4 in Hairer & Wanner II, section IV.2, doi:10.1007/978-3-642-05221-7, to
# fewer digits; the others as they are commonly quoted.
REAL_LIMITS = {
    "euler": "2",
    "heun": "2",
    "midpoint": "2",
    "ralston": "2",
    "bosh3": "2.513",
    "rk4": "2.785",
    "rkf45": "3.678",
    "cashkarp": "3.734",
    "dopri5": "3.3066",
    "tsit5": "3.5068",
    "bs5": "3.988",
    "vern6": "4.8553",
    "vern7": "4.64",
    "vern8": "5.8641",
    "vern9": "4.4762",
    "dop853": "6.394",
}
# All methods of order s ≤ 4 in s stages share R = 1 + ... + z^s/s!: the limits are exact.
IMAGINARY_LIMITS = {
    "euler": 0.0,
    "heun": 0.0,
    "midpoint": 0.0,
    "ralston": 0.0,
    "bosh3": math.sqrt(3),
    "rk4": math.sqrt(8),
    "cashkarp": 0.0,
}


@pytest.mark.parametrize("name", REAL_LIMITS)
def test_real_limit_is_the_published_one(name):
    printed = REAL_LIMITS[name]
    digits = len(printed.partition(".")[2])
    assert f"{EXPLICIT[name].real_stability_limit:.{digits}f}" == printed


@pytest.mark.parametrize("name", IMAGINARY_LIMITS)
def test_imaginary_limit_is_the_known_one(name):
    # A simple root of a polynomial of degree 8 with coefficients below 1.
    assert abs(EXPLICIT[name].imaginary_stability_limit - IMAGINARY_LIMITS[name]) <= gamma(100)


# Observed order -----------------------------------------------------------------------------------


def spinning(t, y):
    """Nonlinear, nonautonomous and coupled: y = (cos φ, sin φ) with φ = t + t²/2."""
    return (1 + t) * (y @ y) * np.array([-y[1], y[0]])


def spinning_solution(t):
    angle = np.asarray(t) + np.asarray(t) ** 2 / 2
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def observed_slope(error_of, floor):
    """Slope of the error over the last halving of the step that rounding does not reach.

    `error_of` takes a number of steps.
    """
    errors = {}
    for n in (2**i for i in range(2, 11)):
        error = error_of(n)
        if error < floor:
            break
        errors[n] = error
    *_, n = errors
    return math.log2(errors[n // 2] / errors[n])


@every_method
def test_error_on_a_grid_falls_at_least_with_the_order(tab):
    def error_of(n):
        solution = sk.solve(spinning, (0.0, 2.0), spinning_solution(0.0), tab, grid=n)
        return np.abs(solution.y - spinning_solution(solution.t)).max()

    # The slope is p + O(h), and an integer in the limit. Methods of small principal error show more
    # than p before rounding ends the series; that p + 1 is not reached, the graded problem shows.
    # Rounding errors are eps times products of coefficients of up to 200: 2e-16 · 200².
    assert observed_slope(error_of, floor=1e-11) > tab.order - 0.5


@every_method
def test_error_of_dense_output_falls_at_least_with_its_order(tab):
    times = np.linspace(0.0, 2.0, 1001)

    def error_of(n):
        y_0 = spinning_solution(0.0)
        solution = sk.solve(spinning, (0.0, 2.0), y_0, tab, grid=n, dense=True)
        return np.abs(solution(times) - spinning_solution(times)).max()

    # One step of the interpolant errs by h^(q+1), and it starts from values that err by h^p. Its
    # coefficients, of up to 1e6, multiply the rounding errors of the stages.
    floor = max(1e-11, 10 * np.finfo(float).eps * np.abs(padded(tab.dense.P)).max())
    assert observed_slope(error_of, floor) > min(tab.order, tab.dense.order + 1) - 0.5


def graded(grade):
    """A nonlinear, nonautonomous system whose error is a single power of h.

    With Y = 1 + y_1 x + ... + y_g x^g, Y' = x (1 + 2 t x) Y² in powers of x up to x^g. Then y_m =
    F_m t^m with Fibonacci's numbers F = 1, 2, 3, 5, ... Give t the weight 1 and y_m the weight m: a
    differential of order k in y_m has the weight m − k, so that it is constant for k = m and
    vanishes for k > m. A method of order p is exact in y_1, ..., y_p, and in y_(p+1) each step errs
    by one and the same K h^(p+1), where an error of y_(p+1) has no effect on later steps.
    """

    def f(t, y):
        Y = np.concatenate([[1.0], y])
        square = np.convolve(Y, Y)[:grade]
        square[1:] += 2 * t * square[:-1].copy()
        return square

    numbers = [1, 1]
    while len(numbers) <= grade:
        numbers.append(numbers[-1] + numbers[-2])
    m = np.arange(1, grade + 1)
    return f, lambda t: np.array(numbers[1:]) * np.asarray(t, dtype=float)[..., None] ** m


# Not at zero, where all weights scale with h alone, and every power is p + 1.
START = 0.25
# The power of h is exact but for rounding. That is eps times products of coefficients: at most 200³
# for a chain of stages, 1e-9, beside errors of the method from 5e-7.
POWER_SLACK = 0.02


@every_method
def test_error_on_a_grid_is_of_the_order_and_of_no_higher(tab):
    f, exact = graded(tab.order + 1)

    def error_of(n):
        solution = sk.solve(f, (START, START + 1), exact(START), tab, grid=n)
        return abs(solution.y[-1, -1] - exact(START + 1)[-1])

    assert abs(math.log2(error_of(1) / error_of(2)) - tab.order) < POWER_SLACK


@every_pair
def test_error_of_an_embedded_step_is_of_its_order_and_of_no_higher(tab):
    for row, q in rows_of(tab).items():
        f, exact = graded(q + 1)

        def error_of(h, row=row, f=f, exact=exact):
            y = exact(START)
            _, k = rk_step(f, START, y, h, tab, f(START, y))
            y_new = y + h * (getattr(tab, row) @ np.array(k))
            return abs(y_new[-1] - exact(START + h)[-1])

        assert abs(math.log2(error_of(1.0) / error_of(0.5)) - (q + 1)) < POWER_SLACK


@every_method
def test_error_of_one_interpolated_step_is_of_its_order_and_of_no_higher(tab):
    q = tab.dense.order
    f, exact = graded(q + 1)
    theta = np.linspace(0.0, 1.0, 33)

    def error_of(h):
        solution = sk.solve(f, (START, START + h), exact(START), tab, grid=1, dense=True)
        times = START + theta * h
        return np.abs(solution(times) - exact(times))[:, -1].max()

    assert abs(math.log2(error_of(1.0) / error_of(0.5)) - (q + 1)) < POWER_SLACK


# Dense output -------------------------------------------------------------------------------------


def padded(rows, width=None):
    """Ragged rows as one array, filled up with zeros."""
    width = max(map(len, rows), default=0) if width is None else width
    return np.array([[*row, *[0.0] * (width - len(row))] for row in rows])


THETAS = (0.15, 0.4, 0.65, 0.9)


def dense_ratio(tab, p, theta):
    """Worst residual of the continuous conditions with p nodes, in its rounding error."""
    P = np.abs(padded(tab.dense.P))
    row = P @ theta ** np.arange(1, P.shape[1] + 1)
    bounds = condition_bounds(tab.dense_A, row, p, theta)
    # The row itself is a sum over the powers of θ, of up to 10 terms.
    more = 1 + (P.shape[1] + 2) / (p * (len(row) + 2))
    return worst_ratio(tab.dense_conditions(p, theta), bounds) / more


@every_method
@pytest.mark.parametrize("theta", [*THETAS, 1.0])
def test_continuous_order_conditions_hold_up_to_the_order_of_the_interpolant(tab, theta):
    assert max(dense_ratio(tab, p, theta) for p in range(1, tab.dense.order + 1)) <= 1


@every_method
def test_a_continuous_order_condition_fails_beyond_the_order_of_the_interpolant(tab):
    ratios = [dense_ratio(tab, tab.dense.order + 1, theta) for theta in THETAS]
    assert min(ratios) > 1
    assert max(ratios) > FAR


def test_orders_of_the_interpolants_are_the_published_ones():
    orders = {name: tab.interpolant.order for name, tab in EXPLICIT.items() if tab.interpolant}
    # Verner announces order 7 for that of vern7, but a condition of order 7 fails.
    published = {"dopri5": 4, "tsit5": 4, "bs5": 5, "dop853": 7}
    published |= {"vern6": 6, "vern7": 6, "vern8": 8, "vern9": 9}
    assert published.items() <= orders.items()


@every_method
def test_methods_without_an_interpolant_get_the_cubic_one(tab):
    if tab.interpolant is None:
        assert tab.dense.order == min(tab.order, 3)
        assert len(tab.dense.c) == 0
    else:
        assert tab.dense is tab.interpolant


@every_method
def test_polynomials_of_dense_output_meet_both_states_and_both_slopes(tab):
    P, s = padded(tab.dense.P), tab.n_stages
    powers = np.arange(1, P.shape[1] + 1)
    f_new = s - 1 if tab.fsal else s
    # A polynomial b_i(θ) begins with θ: the state at θ = 0 is y itself. There the slope is k_1, at
    # θ = 1 it is f(t + h, y_new), and the state is y_new.
    np.testing.assert_array_equal(P[:, 0], np.eye(len(P))[0])
    slack = gamma(P.shape[1] + 3) * (np.abs(P) @ powers + 1)
    assert np.all(np.abs(P @ powers - np.eye(len(P))[f_new]) <= slack)
    assert np.all(np.abs(P.sum(axis=1) - np.pad(tab.b, (0, len(P) - s))) <= slack)


@every_method
def test_bubble_form_is_the_published_polynomial(tab):
    """(1−θ) y + θ y_new + θ(1−θ) h Σ θ^m W_m k = y + h Σ b_i(θ) k_i, coefficient by coefficient."""
    P, W, s = padded(tab.dense.P), tab.bubble, tab.n_stages
    b = np.pad(tab.b, (0, len(P) - s))
    expanded = np.zeros_like(P)
    expanded[:, 0] = b
    expanded[:, : W.shape[0]] += W.T
    expanded[:, 1 : W.shape[0] + 1] -= W.T
    slack = 2 * gamma(P.shape[1] + 2) * (np.abs(P).sum(axis=1) + np.abs(b))
    assert np.all(np.abs(expanded - P) <= slack[:, None])


def bounded(t, y):
    """A slope of modulus ≤ 2, with Lipschitz constants ≤ 1 in y and in t; any array, any dtype."""
    return math.cos(t) + y / (1 + abs(y) ** 2)


@every_method
@pytest.mark.parametrize("t_1", [0.9, -0.7])
def test_dense_output_meets_the_steps_to_the_last_bit(tab, t_1):
    y_0 = np.array([0.3, -1.7, 1e3, 1e-9])
    solution = sk.solve(bounded, (0.1, t_1), y_0, tab, grid=7, dense=True)
    np.testing.assert_array_equal(solution(solution.t), solution.y)
    for i, segment in enumerate(solution.interpolant.segments):
        # Each segment on its own: at a shared time only one of two serves the solution.
        np.testing.assert_array_equal(segment(segment.t_0), solution.y[i])
        np.testing.assert_array_equal(segment(segment.t_1), solution.y[i + 1])


@every_method
def test_dense_output_of_a_step_is_the_polynomial_in_its_stages(tab):
    t, h, y = 0.2, 0.5, np.array([0.3, -1.7, 1.1])
    y_new, k = rk_step(bounded, t, y, h, tab, bounded(t, y))
    if not tab.fsal:
        k.append(bounded(t + h, y_new))
    for c_i, row in zip(tab.dense.c, tab.dense.A, strict=True):
        k.append(bounded(t + c_i * h, y + h * sum(a * k_j for a, k_j in zip(row, k, strict=False))))
    P = padded(tab.dense.P)
    solution = sk.solve(bounded, (t, t + h), y, tab, grid=[t, t + h], dense=True)
    _, slack_k, _ = step_errors(tab.dense_A, tab.dense_A[-1], t, y, h, np.array(k), np.float64)
    for theta in THETAS:
        row = P @ theta ** np.arange(1, P.shape[1] + 1)
        terms = np.abs(P) @ theta ** np.arange(1, P.shape[1] + 1)
        expected = y + h * row @ np.array(k)
        # Rounding of the sums, and the error of each stage that they carry along. Bubble and
        # polynomial, and their stages, are rounded in different orders: twice each. θ is a
        # difference of times over h, so that it errs by 2 eps t/h more; the slope is at most 2.
        size = np.abs(y).max() + h * terms.sum() * 2
        slack = 2 * gamma(4 * len(k)) * size + 2 * h * terms @ slack_k + gamma(6) * 4
        assert np.abs(solution(t + theta * h) - expected).max() <= slack


finite = st.floats(-1e6, 1e6)


@given(st.floats(-10, 10), st.floats(1e-3, 10), st.lists(finite, min_size=2, max_size=5))
def test_a_segment_meets_its_ends_to_the_last_bit(t_0, h, values):
    y_0, y_1, *Q = np.array(values)[:, None]
    segment = Segment(t_0, t_0 + h, y_0, y_1, Q)
    np.testing.assert_array_equal(segment(segment.t_0), y_0)
    np.testing.assert_array_equal(segment(segment.t_1), y_1)


def test_hermite_segment_is_the_cubic_through_states_and_slopes():
    # y = t³ − 2 t on [1, 3] has values −1, 21 and slopes 1, 25.
    one = np.ones(1)
    segment = Segment.hermite(1.0, 3.0, -1 * one, 21 * one, 2 * 1 * one, 2 * 25 * one)
    for t in (1.0, 1.25, 2.0, 2.75, 3.0):
        # Terms of up to 50, eleven roundings.
        assert abs(float(segment(t)[0]) - (t**3 - 2 * t)) <= gamma(11) * 50


# Evaluations --------------------------------------------------------------------------------------


@every_method
def test_extra_stages_are_evaluated_only_when_asked_for(tab):
    n, s, extra = 4, tab.n_stages, len(tab.dense.c)
    plain = 1 + n * (s - 1) if tab.fsal else n * s
    # A method that is not first same as last needs f(t + h, y_new) for its interpolant. The next
    # step starts from it; only the last step has no use for it.
    last = 0 if tab.fsal else 1
    inside_step_2 = [0.0, 0.3, 0.4, 1.0]
    ends = [0.0, 0.25, 0.5, 1.0]
    cases = [
        ({}, plain),
        ({"dense": True}, plain + n * extra + last),
        ({"t_eval": ends}, plain),
        ({"t_eval": inside_step_2}, plain + extra),
        ({"t_eval": [0.3]}, plain + extra),
        ({"t_eval": [0.9]}, plain + extra + last),
    ]
    for options, expected in cases:
        calls = []

        def f(t, y, calls=calls):
            calls.append(t)
            return bounded(t, y)

        solution = sk.solve(f, (0.0, 1.0), [0.5, -0.2], tab, grid=n, **options)
        assert (options, len(calls)) == (options, expected)
        assert solution.stats["nfev"] == expected


@every_method
def test_stages_are_evaluated_at_the_nodes(tab):
    times = []

    def f(t, y):
        times.append(t)
        return -y

    t, t_new = 0.3, 0.9
    sk.solve(f, (t, t_new), [1.0], tab, grid=1)
    times = np.array(times)
    # c_i h and its sum with t, or the difference of h and c_i h to t_new.
    assert np.all(np.abs(times - (t + tab.c * (t_new - t))) <= gamma(6))
    # f may not be defined beyond the end of the step, and here t + (t_new - t) passes it.
    assert t + (t_new - t) > t_new
    assert np.all(times[tab.c == 1.0] == t_new)
    assert np.all(times <= t_new)


# One step -----------------------------------------------------------------------------------------


def textbook_step(f, t, y, h, A, b, c):
    """One step as textbooks write it: every coefficient, zeros included, one after the other."""
    k = []
    for i in range(len(b)):
        z = y
        for j in range(i):
            z = z + h * float(A[i][j]) * k[j]
        k.append(f(t + float(c[i]) * h, z))
    y_new = y
    for b_i, k_i in zip(b, k, strict=True):
        y_new = y_new + h * float(b_i) * k_i
    return y_new, k


def step_errors(A, b, t, y, h, k, dtype):
    """Bound the rounding errors of a step on the problem `bounded`; largest component.

    A state is a sum of s products; f, with Lipschitz constants of 1 and values up to 2, passes on
    the errors of its arguments and adds those of a few operations. Returns the bound of y_new and
    the bounds of the stages, and the size of y_new.
    """
    sizes = np.array([float(abs(k_i).max()) for k_i in k])
    y_size, s = float(abs(y).max()), len(k)
    errors = np.zeros(s)
    for i in range(s):
        row = np.abs(A[i, :i])
        z = y_size + abs(h) * float(row @ sizes[:i])
        z_error = gamma(2 * s + 3, dtype) * z + abs(h) * float(row @ errors[:i])
        # The modulus of complex numbers, a square, a sum and a quotient; time is rounded too.
        errors[i] = z_error + gamma(16, dtype) * (2 + abs(t) + abs(h))
    terms = y_size + abs(h) * float(np.abs(b) @ sizes)
    y_error = gamma(2 * s + 3, dtype) * terms + abs(h) * float(np.abs(b) @ errors)
    return y_error, errors, terms


coefficients = st.one_of(st.just(0.0), st.floats(-1, 1, allow_subnormal=False, width=16))


@st.composite
def explicit_tableaus(draw):
    """A random consistent method; every other one is first same as last."""
    s = draw(st.integers(1, 5))
    A = np.zeros((s, s))
    for i in range(1, s):
        A[i, :i] = draw(st.lists(coefficients, min_size=i, max_size=i))
    b = np.array(draw(st.lists(coefficients, min_size=s, max_size=s)))
    if s > 1 and draw(st.booleans()):
        b[-1] = 0.0
        b[-2] += 1 - b.sum()
        A[-1] = b
    else:
        b[-1] += 1 - b.sum()
    return ButcherTableau("random", order=1, c=A.sum(axis=1), A=A, b=b)


DTYPES = ["float32", "float64", "complex64", "complex128"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", ["numpy", "torch"])
@given(
    tab=explicit_tableaus(),
    t=st.floats(-3, 3),
    h=st.floats(-1, 1),
    entries=st.lists(st.complex_numbers(max_magnitude=3), min_size=6, max_size=6),
)
def test_step_is_that_of_the_textbook(library, dtype, tab, t, h, entries):
    values = np.array(entries).reshape(2, 3)
    y = (values if dtype.startswith("complex") else values.real).astype(dtype)
    if library == "torch":
        y = torch.from_numpy(y)
    before = y.copy() if library == "numpy" else y.clone()
    k_1 = bounded(t, y)
    y_new, k = rk_step(bounded, t, y, h, tab, k_1)
    expected, k_expected = textbook_step(bounded, t, y, h, tab.A, tab.b, tab.c)
    assert y_new.dtype == y.dtype
    assert y_new.shape == y.shape
    assert k[0] is k_1
    assert all(k_i.dtype == y.dtype for k_i in k)
    slack, slack_k, _ = step_errors(tab.A, tab.b, t, y, h, k, dtype)
    # Either side may err by the bound.
    assert float(abs(y_new - expected).max()) <= 2 * slack
    for k_i, k_ref, slack_i in zip(k, k_expected, slack_k, strict=True):
        assert float(abs(k_i - k_ref).max()) <= 2 * slack_i
    assert bool((y == before).all())


@every_method
def test_last_stage_of_a_first_same_as_last_step_is_the_slope_at_its_result(tab):
    t, h, y = 0.2, 0.25, np.array([0.3, -1.7])
    y_new, k = rk_step(bounded, t, y, h, tab, bounded(t, y))
    if tab.fsal:
        np.testing.assert_array_equal(k[-1], bounded(t + h, y_new))


def test_a_zero_coefficient_keeps_an_infinite_stage_out_of_the_sum():
    # k_1 is infinite, and midpoint's b_1 is zero; 0 · inf would be NaN.
    tab = ButcherTableau("skip", order=1, c=[0, 0], A=[[], [0]], b=[0, 1])
    y_new, _ = rk_step(lambda t, y: y, 0.0, np.ones(2), 0.5, tab, np.array([np.inf, 1.0]))
    np.testing.assert_array_equal(y_new, [1.5, 1.5])


@every_method
def test_step_is_differentiable_by_the_state(tab):
    # On y' = λ y the derivative is R(hλ) times y_new's own, which is 1.
    y = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    y_new, _ = rk_step(lambda t, y: -2.0 * y, 0.0, y, 0.5, tab, -2.0 * y)
    (gradient,) = torch.autograd.grad(y_new.sum(), y)
    assert abs(float(gradient) - float(tab.R(-1.0).real)) <= 2 * stability_bound(tab, 1.0)


def stages_of_one_step(tab, y, t, h):
    """Run a step, and the dense output over it, with the storage that suits `y`."""
    f = backend_of(y).call(lambda t, y: bounded(float(t), y), tuple(y.shape), y)
    stages = make_stages(f, tab, y, f(t, y), backend_of(y), dense=True)
    y_new = stages.attempt(t, y, t + h)
    k = [stages.get(i) for i in range(tab.n_stages)]
    k = [k_i.detach().numpy().copy() if hasattr(k_i, "detach") else k_i.copy() for k_i in k]
    errors = [as_numpy(e) for e in stages.errors()]
    middle = stages.segment(t, y, t + h, y_new)(t + 0.4 * h)
    return type(stages).__name__, as_numpy(y_new), k, errors, as_numpy(middle), stages.nfev


def as_numpy(x):
    return x.detach().numpy() if hasattr(x, "detach") else np.array(x)


@every_method
def test_buffered_and_recorded_storage_give_the_same_step(tab):
    t, h, start = 0.2, 0.5, [0.3, -1.7, 1.1]
    y = np.array(start)
    tensor, leaf = (
        torch.tensor(start, dtype=torch.float64, requires_grad=g) for g in (False, True)
    )
    numpy_run, torch_run, recorded_run = (
        stages_of_one_step(tab, x, t, h) for x in (y, tensor, leaf)
    )
    assert numpy_run[0] == torch_run[0] != recorded_run[0]
    expected, k_expected = textbook_step(bounded, t, y, h, tab.A, tab.b, tab.c)
    slack, slack_k, size = step_errors(tab.A, tab.b, t, y, h, k_expected, np.float64)
    for _, y_new, k, errors, _, nfev in (numpy_run, torch_run, recorded_run):
        assert np.abs(y_new - expected).max() <= 2 * slack
        for k_i, k_ref, slack_i in zip(k, k_expected, slack_k, strict=True):
            assert np.abs(k_i - k_ref).max() <= 2 * slack_i
        for e, row in zip(errors, (tab.e, tab.e2), strict=False):
            estimate = h * row @ np.array(k_expected)
            terms = h * np.abs(row)
            bound = gamma(2 * len(row) + 3) * (2 * terms.sum()) + terms @ slack_k
            assert np.abs(e - estimate).max() <= 2 * bound
        assert len(errors) == (tab.e is not None) + (tab.e2 is not None)
        assert nfev == numpy_run[5]
    # The same polynomial of the same stages, of which each errs as in y_new.
    P = np.abs(padded(tab.dense.P))
    terms = h * P @ 0.4 ** np.arange(1, P.shape[1] + 1)
    k_all = np.vstack([k_expected, np.full((len(P) - tab.n_stages, 3), 2.0)])
    _, slack_all, _ = step_errors(tab.dense_A, tab.dense_A[-1], t, y, h, k_all, np.float64)
    middle_slack = gamma(4 * len(P)) * (size + 2 * terms.sum()) + terms @ slack_all
    for run in (torch_run, recorded_run):
        assert np.abs(run[4] - numpy_run[4]).max() <= 2 * middle_slack
