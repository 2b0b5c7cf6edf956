"""Numbers that say how stiff, against the definitions they stand for."""

import cmath
import math

import numpy as np
import pytest
import scipy.linalg
from _tolerance import gamma, stability_bound
from hypothesis import given
from hypothesis import strategies as st

import stiffkit as sk
from stiffkit.stiffness import logarithmic_norm, stability_ratio, stiffness_ratio, time_scales
from stiffkit.stiffness.indicators import as_damped

NORMS = [1, 2, math.inf]
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 12)


# Steps and stability regions ----------------------------------------------------------------------


def amplification(tableau, z):
    """|y_new / y| of one step on y' = λy, stage by stage; z = hλ, an array."""
    k = []
    for row in tableau.A:
        k.append(z * (1 + sum(a * k_j for a, k_j in zip(row, k, strict=False))))
    return np.abs(1 + sum(b * k_j for b, k_j in zip(tableau.b, k, strict=True)))


@pytest.mark.parametrize("method", sk.EXPLICIT)
@given(
    angle=st.floats(math.pi / 2 + 0.02, math.pi), size=st.floats(0.01, 30), mirrored=st.booleans()
)
def test_below_one_a_mode_is_damped_and_just_above_it_grows(method, angle, size, mirrored):
    """On rays into the left half plane, on either side of the real axis."""
    tableau = sk.METHODS[method]
    direction = cmath.exp(1j * angle * (-1 if mirrored else 1))
    ratio = stability_ratio(0.5, 2 * size * direction, tableau)
    limit = size / ratio
    inside = limit * np.linspace(0.0, 1.0, 201)
    slack = stability_bound(tableau, limit)
    # The limit is a root of |R|² − 1, good to 1e-9 or so where roots are close.
    assert (amplification(tableau, inside[:-1] * direction) <= 1 + slack + 1e-8).all()
    outside = limit * np.linspace(1.0, 1.05, 51)
    assert (amplification(tableau, outside * direction) > 1 + slack).any()


@pytest.mark.parametrize("method", sk.EXPLICIT)
def test_on_the_axes_the_ratio_is_that_of_the_stability_intervals(method):
    tableau = sk.METHODS[method]
    real = tableau.real_stability_limit
    np.testing.assert_allclose(stability_ratio(0.1, -10 * real, tableau), 1.0, rtol=1e-9)
    imaginary = tableau.imaginary_stability_limit
    wanted = 3.0 / imaginary if imaginary > 0 else math.inf
    for sign in (1, -1):
        np.testing.assert_allclose(stability_ratio(0.1, sign * 30j, tableau), wanted, rtol=1e-9)


@given(
    angle=st.floats(math.pi / 2, math.pi),
    size=st.floats(1e-3, 1e3),
    method=st.sampled_from(sorted(sk.EXPLICIT)),
    power=st.integers(-60, 60),
)
def test_the_ratio_knows_h_and_the_eigenvalue_by_their_product_alone(angle, size, method, power):
    tableau, eigenvalue = sk.METHODS[method], size * cmath.exp(1j * angle)
    ratio = stability_ratio(0.5, eigenvalue, tableau)
    assert stability_ratio(math.ldexp(0.5, power), eigenvalue, tableau) == pytest.approx(
        math.ldexp(ratio, power), rel=1e-12
    )
    # Backward in time a decaying mode is one that grows forward.
    assert stability_ratio(-0.5, -eigenvalue, tableau) == ratio
    # Conjugates are damped alike, but for the rounding of the polynomial on the mirrored ray.
    conjugate = stability_ratio(0.5, eigenvalue.conjugate(), tableau)
    assert conjugate == pytest.approx(ratio, rel=1e-9)


@pytest.mark.parametrize("method", sk.EXPLICIT)
def test_a_mode_that_stands_still_is_no_matter_and_one_that_grows_has_no_stable_step(method):
    tableau = sk.METHODS[method]
    assert stability_ratio(0.1, 0.0, tableau) == 0.0
    assert stability_ratio(0.0, -5.0, tableau) == 0.0
    for eigenvalue in (1.0, 1e-8, 1e8, 1 + 5j, 0.01 - 1j):
        assert stability_ratio(0.1, eigenvalue, tableau) == math.inf
        assert stability_ratio(-0.1, -eigenvalue, tableau) == math.inf


@pytest.mark.parametrize("method", sk.EXPLICIT)
@pytest.mark.parametrize("angle", [np.pi, 3.0, 2.4])
def test_a_solve_decays_just_below_one_and_blows_up_just_above(method, angle):
    """The whole solver on a real system with the pair λ, λ̄."""
    tableau = sk.METHODS[method]
    eigenvalue = cmath.exp(1j * angle)
    a, b = eigenvalue.real, eigenvalue.imag
    limit = 1.0 / stability_ratio(1.0, eigenvalue, tableau)
    ends = []
    for share in (0.97, 1.03):
        h, steps = share * limit, 300
        solution = sk.solve(
            lambda t, y: np.array([a * y[0] + b * y[1], -b * y[0] + a * y[1]]),
            (0.0, steps * h),
            [1.0, 1.0],
            method,
            grid=steps,
        )
        ends.append(np.linalg.norm(solution.y[-1]))
    assert ends[0] < 0.5
    assert ends[1] > 2.0


# The logarithmic norm -----------------------------------------------------------------------------


def matrix(n, seed, *, complex_=False):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n)) * 10 ** rng.uniform(-2, 2)
    return A + 1j * rng.standard_normal((n, n)) if complex_ else A


def rounding(A):
    """Of a few norms and LAPACK calls on A: relative to ‖A‖, a few n roundings."""
    return gamma(20 * len(A)) * np.linalg.norm(A)


@pytest.mark.parametrize("p", NORMS)
@given(n=sizes, seed=seeds, complex_=st.booleans())
def test_it_is_the_limit_of_its_definition(p, n, seed, complex_):
    """0 ≤ (‖I + hA‖ − 1)/h − μ(A) ≤ h‖A‖²/2: convex in h, and quadratic for small h."""
    A = matrix(n, seed, complex_=complex_)
    mu, size = logarithmic_norm(A, p), np.linalg.norm(A, p)
    for share in (1e-1, 1e-3, 1e-5):
        h = share / size
        quotient = (np.linalg.norm(np.eye(n) + h * A, p) - 1) / h
        noise = gamma(20 * n) * 3 / h + rounding(A)
        assert -noise <= quotient - mu <= h * size**2 / 2 + noise


@pytest.mark.parametrize("p", NORMS)
@given(n=sizes, seed=seeds, complex_=st.booleans(), scale=st.floats(0, 100))
def test_it_has_the_properties_of_a_logarithmic_norm(p, n, seed, complex_, scale):
    A, B = (matrix(n, seed + i, complex_=complex_) for i in (0, 1))
    mu = logarithmic_norm(A, p)
    slack = rounding(A) + rounding(B)
    abscissa = np.linalg.eigvals(A).real.max()
    # LAPACK's abscissa of a non-normal A may be far off; the bound is on those of A + E, whose μ
    # differs by ‖E‖ at most.
    assert mu >= abscissa - slack
    assert -np.linalg.norm(A, p) - slack <= mu <= np.linalg.norm(A, p) + slack
    assert logarithmic_norm(A + B, p) <= mu + logarithmic_norm(B, p) + slack
    np.testing.assert_allclose(
        logarithmic_norm(scale * A, p), scale * mu, rtol=0, atol=(1 + scale) * slack
    )
    np.testing.assert_allclose(
        logarithmic_norm(A + (scale - 50) * np.eye(n), p), mu + scale - 50, atol=slack + gamma(2000)
    )
    assert -logarithmic_norm(-A, p) <= mu + slack
    assert isinstance(mu, float)


@pytest.mark.parametrize("p", NORMS)
@given(n=st.integers(1, 6), seed=seeds, t=st.floats(0.01, 2.0))
def test_it_bounds_the_growth_of_solutions(p, n, seed, t):
    """‖e^(tA)‖ ≤ e^(tμ), to the error of SciPy's exponential."""
    A = matrix(n, seed)
    A /= np.linalg.norm(A)
    growth = np.linalg.norm(scipy.linalg.expm(t * A), p)
    assert growth <= math.exp(t * logarithmic_norm(A, p)) * (1 + 1e-12)


@given(n=sizes, seed=seeds)
def test_in_the_euclidean_norm_it_is_the_abscissa_of_a_normal_matrix(n, seed):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n)))[0]
    values = rng.standard_normal(n) + 1j * rng.standard_normal(n)
    A = (Q * values) @ Q.conj().T
    np.testing.assert_allclose(logarithmic_norm(A), values.real.max(), atol=rounding(A))


def test_of_a_jordan_block_it_tells_the_transient_growth_that_the_spectrum_hides():
    A = np.array([[-1.0, 10.0], [0.0, -1.0]])
    np.testing.assert_allclose(logarithmic_norm(A), 4.0, rtol=gamma(20))
    assert logarithmic_norm(A, 1) == logarithmic_norm(A, math.inf) == 9.0
    assert logarithmic_norm([[-3]]) == -3.0
    assert logarithmic_norm([[2, 1], [0, 2]], 1) == 3.0  # integers too


@pytest.mark.parametrize("A", [np.ones((2, 3)), np.ones(3), 1.0, np.ones((2, 2, 2))])
@pytest.mark.parametrize("p", NORMS)
def test_what_is_not_square_has_none(A, p):
    with pytest.raises(ValueError, match="square"):
        logarithmic_norm(A, p)


@pytest.mark.parametrize("p", [0, 3, -1, "fro", None, -math.inf, math.nan])
def test_other_norms_are_refused(p):
    with pytest.raises(ValueError, match="p="):
        logarithmic_norm(np.eye(2), p)


# Spectra ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2, math.inf])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, bool, np.float16, np.float32])
def test_the_logarithmic_norm_of_any_kind_of_number(p, dtype):
    """Sums and moduli of small integers would overflow in their own dtype."""
    A = np.array([[1, -128], [-128, 100]]).astype(dtype)
    assert logarithmic_norm(A, p) == logarithmic_norm(A.astype(np.float64), p)


@pytest.mark.parametrize("p", [1, 2, math.inf])
@pytest.mark.parametrize("scale", [2.0**-1020, 2.0**1023])
def test_the_logarithmic_norm_at_the_ends_of_the_range(p, scale):
    A = np.array([[-1.0, 0.5], [0.25, -1.5]])
    with np.errstate(all="raise", under="ignore"):
        assert logarithmic_norm(scale * A, p) == pytest.approx(scale * logarithmic_norm(A, p))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: stiffness_ratio(["a"]), "eigenvalues must be numbers"),
        (lambda: stiffness_ratio(None), "eigenvalues must be numbers"),
        (lambda: time_scales([1.0], span="a"), "span must be numbers, not 'a'"),
        (lambda: time_scales([1.0], span=[1.0, 2.0]), "span must be one number"),
        (lambda: stability_ratio("a", -1.0, sk.METHODS["dopri5"]), "h must be a real number.*'a'"),
        (lambda: stability_ratio(1.0, "x", sk.METHODS["dopri5"]), "eigenvalue a number.*'x'"),
    ],
)
def test_what_is_no_number_is_named(call, match):
    with pytest.raises(TypeError, match=match):
        call()


def test_the_stiffness_ratio_is_that_of_the_decaying_modes():
    assert stiffness_ratio([-1.0, -1000.0]) == 1000.0
    assert stiffness_ratio([-2 + 50j, -2 - 50j, -8.0]) == 4.0  # real parts alone
    assert stiffness_ratio([-1.0, -1000.0, 5.0, 0.0, 3j]) == 1000.0
    assert stiffness_ratio([-3.0]) == 1.0
    assert stiffness_ratio([[-1.0, -2.0], [-3.0, -4.0]]) == 4.0


def test_without_a_decaying_mode_the_stiffness_ratio_is_one():
    for values in ([], [0.0, 0.0], [1.0, 2.0], [3j, -3j]):
        assert stiffness_ratio(values) == 1.0


def test_a_conserved_quantity_is_not_stiff():
    """Its eigenvalue is zero up to the rounding of the others."""
    assert stiffness_ratio([-1.0, -1e4, -1e-13]) == 1e4
    assert stiffness_ratio([-1.0, -1e4, -1e-6]) == pytest.approx(1e10)  # but what is small counts


@given(seed=seeds, n=sizes, power=st.integers(-900, 900))
def test_ratio_and_time_scales_know_their_units(seed, n, power):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(n) + 1j * rng.standard_normal(n)
    scaled = np.ldexp(values.real, power) + 1j * np.ldexp(values.imag, power)
    assert stiffness_ratio(scaled) == stiffness_ratio(values)
    assert stiffness_ratio(values) >= 1.0
    np.testing.assert_allclose(time_scales(scaled) * 2.0**power, time_scales(values), rtol=gamma(8))
    shuffled = rng.permutation(values)
    assert stiffness_ratio(shuffled) == stiffness_ratio(values)
    np.testing.assert_array_equal(time_scales(shuffled), time_scales(values))


def test_time_scales_rise_and_a_mode_that_stands_still_has_all_the_time():
    np.testing.assert_allclose(time_scales([-0.5, -100.0, 3 + 4j]), [0.01, 0.2, 2.0])
    np.testing.assert_array_equal(time_scales([0.0, -2.0]), [0.5, math.inf])
    np.testing.assert_array_equal(time_scales([5e-324, -2.0]), [0.5, math.inf])
    assert time_scales([]).shape == (0,)


def test_a_span_holds_so_many_of_the_smallest():
    assert time_scales([-0.5, -100.0, 3 + 4j], span=3.0) == 300.0
    assert time_scales([-0.5, -100.0], span=-3.0) == 300.0
    assert time_scales([0.0], span=3.0) == 0.0
    assert time_scales([], span=3.0) == 0.0


@pytest.mark.parametrize("size", [1e-150, 1.0, 1e150])
def test_points_beside_the_imaginary_axis_count_as_damped(size):
    for z in (1j, -1j, 1e-9 + 1j, -1e-9 - 1j, 9e-4 + 1j):
        moved = as_damped(size * z)
        assert moved.imag == size * z.imag
        assert moved.real == pytest.approx(-1e-3 * size, rel=1e-5)
    for z in (0j, -1.0, 1.0, -1.1e-3 + 1j, 1.1e-3 - 1j):
        assert as_damped(size * z) == size * z
