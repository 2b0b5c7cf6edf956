"""Jacobians by every source, and linear solves of every structure, against each other."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sps
from hypothesis import given
from hypothesis import strategies as st
from problems import counted
from scipy.integrate import solve_ivp

from stiffkit.solvers.colouring import banded, coloured, column_groups, full
from stiffkit.solvers.differences import Differences, time_derivative
from stiffkit.solvers.jacobian import JacobianOperator
from stiffkit.solvers.jacobian_source import make_jacobian
from stiffkit.solvers.linalg import (
    Banded,
    LinearSolveError,
    SingularMatrix,
    linear_solver_for,
)
from stiffkit.solvers.mass import mass_structure

torch = pytest.importorskip("torch")

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from stiff_problems import STIFF  # noqa: E402

seeds = st.integers(0, 2**32 - 1)
REAL, COMPLEX = [np.float32, np.float64], [np.complex64, np.complex128]


def sqrt_eps(dtype):
    return math.sqrt(float(np.finfo(dtype).eps))


def random_pattern(rng, n):
    """Sparse, with a full diagonal half of the time, and rows and columns that may be empty."""
    pattern = rng.random((n, n)) < rng.uniform(0.0, 0.5)
    return pattern | np.eye(n, dtype=bool) if rng.random() < 0.5 else pattern


def band(n, ml, mu):
    """Ones on ml lower and mu upper diagonals and the main one."""
    return np.tri(n, k=mu) - np.tri(n, k=-ml - 1)


def nonlinear(A):
    """f_i = Σ A_ij (y_j + sin y_j), whose Jacobian has the pattern of A; and the Jacobian."""
    return lambda t, y: A @ (y + np.sin(y)), lambda y: A * (1 + np.cos(y))


def dense(J):
    return J.toarray() if isinstance(J, Banded) or sps.issparse(J) else np.asarray(J)


def column_errors(J, exact):
    """Largest error of each column over its largest entry; of a zero column, the error itself."""
    size = np.abs(exact).max(axis=0)
    return np.abs(dense(J) - exact).max(axis=0) / np.where(size > 0, size, 1)


# Groups of columns -------------------------------------------------------------------------------


@given(seeds, st.integers(1, 12))
def test_columns_of_a_group_never_share_a_row(seed, n):
    pattern = random_pattern(np.random.default_rng(seed), n)
    groups = column_groups(pattern)
    assert sorted(set(groups)) == list(range(groups.max() + 1))
    for colour in range(groups.max() + 1):
        assert (pattern[:, groups == colour].sum(axis=1) <= 1).all()
    np.testing.assert_array_equal(groups, column_groups(sps.csr_array(pattern)))
    assert groups.max() + 1 >= pattern.sum(axis=1).max()  # no row may be shared


@pytest.mark.parametrize(("ml", "mu"), [(0, 0), (1, 1), (2, 0), (0, 3), (3, 1)])
def test_a_band_needs_as_many_groups_as_it_has_diagonals(ml, mu):
    np.testing.assert_array_equal(column_groups(band(9, ml, mu)), np.arange(9) % (ml + mu + 1))


def test_duplicates_of_a_sparsity_pattern_do_not_count_twice():
    pattern = sps.csc_array(([1.0, 1.0, 1.0], [0, 0, 1], [0, 2, 3]), shape=(2, 2))
    y = np.ones(2)
    J = make_jacobian(lambda t, y: -y, y, jac_sparsity=pattern)(0.0, y, -y)
    np.testing.assert_allclose(J.toarray(), -np.eye(2))
    assert pattern.nnz == 3  # the user's is left as it is


def test_stored_zeros_of_a_sparsity_pattern_count():
    pattern = sps.csc_array(([0.0, 0.0, 1.0], ([0, 0, 1], [0, 1, 1])), shape=(2, 2))
    np.testing.assert_array_equal(column_groups(pattern), [0, 1])


# Differences -------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 10), st.sampled_from(REAL + COMPLEX))
def test_coloured_and_dense_differences_are_right_for_sparse_functions(seed, n, dtype):
    rng = np.random.default_rng(seed)
    pattern = random_pattern(rng, n)
    A = (pattern * rng.uniform(0.5, 2, (n, n)) * rng.choice([-1, 1], (n, n))).astype(dtype)
    y = (rng.uniform(0.5, 1.5, n) * rng.choice([-1, 1], n)).astype(dtype)
    if np.dtype(dtype).kind == "c":
        y = (y * np.exp(1j * rng.uniform(0, 3, n))).astype(dtype)
    f, exact = nonlinear(A)
    for options in ({}, {"jac_sparsity": pattern}, {"jac_sparsity": sps.coo_array(pattern)}):
        J = make_jacobian(f, y, **options)(0.0, y, f(0.0, y))
        assert dense(J).dtype == dtype
        assert sps.issparse(J) == bool(options)
        assert column_errors(J, exact(y)).max() <= 60 * sqrt_eps(dtype)


@given(seeds, st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_banded_differences_are_right_and_equal_coloured_ones(seed, n, ml, mu):
    rng = np.random.default_rng(seed)
    ml, mu = min(ml, n - 1), min(mu, n - 1)
    pattern = band(n, ml, mu)
    f, exact = nonlinear(pattern * rng.uniform(0.5, 2, (n, n)))
    y = rng.uniform(0.5, 1.5, n)
    J = make_jacobian(f, y, bandwidth=(ml, mu))(0.0, y, f(0.0, y))
    assert isinstance(J, Banded)
    assert column_errors(J, exact(y)).max() <= 60 * sqrt_eps(np.float64)
    sparse = make_jacobian(f, y, jac_sparsity=pattern)(0.0, y, f(0.0, y))
    np.testing.assert_array_equal(J.toarray(), sparse.toarray())
    for i, j in zip(*np.nonzero(pattern), strict=True):
        assert J.ab[mu + i - j, j] == J.toarray()[i, j]


@pytest.mark.parametrize(
    ("options", "calls"),
    [({}, 12), ({"bandwidth": (1, 1)}, 3), ({"bandwidth": (2, 1)}, 4), ({"jac_sparsity": 3}, 3)],
)
def test_calls_are_counted_and_as_many_as_promised(options, calls):
    n = 12
    A = band(n, 1, 1)
    if "jac_sparsity" in options:
        options = {"jac_sparsity": A}
    f, _ = nonlinear(A)
    f = counted(f)
    y = np.linspace(1.0, 2.0, n)
    source = make_jacobian(f, y, **options)
    f_y = f(0.0, y)
    for k in (1, 2, 3):
        source(0.5, y, f_y)
        assert (source.nfev, source.njev, f.calls) == (k * calls, k, k * calls + 1)
    assert set(f.times[1:]) == {0.5}
    assert source.constant is False


def test_second_looks_are_counted():
    f = counted(lambda t, y: np.array([1.0 + y[1], 1.0 - y[0]]))
    y = np.array([1.0, 1e-20])  # 1 + y_2 does not notice an increment of 1e-28
    source = make_jacobian(f, y)
    source(0.0, y, f(0.0, y))
    assert source.nfev == f.calls - 1 > 2


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@given(seed=seeds)
def test_components_of_any_scale(seed, dtype):
    """y = S z, f = T g(z): what differences make of g they make of f, for scales 1e±20."""
    rng = np.random.default_rng(seed)
    n = 5
    S, T = 10.0 ** rng.uniform(-20, 20, (2, n))
    A, B = rng.uniform(0.5, 1.5, (2, n, n))
    z = rng.uniform(0.1, 1.5, n).astype(dtype)
    y = S * z
    J = make_jacobian(lambda t, y: T * (A @ (y / S) + B @ np.sin(y / S)), y)
    got = J(0.0, y, T * (A @ (y / S) + B @ np.sin(y / S)))
    exact = T[:, None] * (A + B * np.cos(y / S)) / S
    assert column_errors(got, exact).max() <= 2e-6


def test_one_small_component_does_not_drown():
    """f knows y_2 only beside a term of 1: √u |y_2| is lost there, and the increment must grow."""
    for size in (1e-4, 1e-8, 1e-12, 1e-16, 1e-30):
        y = np.array([1.0, size])
        source = make_jacobian(lambda t, y: np.array([-y[0] + y[1], y[0] - y[1]]), y)
        for _ in range(4):
            J = source(0.0, y, np.array([size - 1, 1 - size]))
        np.testing.assert_allclose(J, [[-1, 1], [1, -1]], rtol=1e-6)


def test_noise_of_rows_that_a_component_is_not_in_does_not_count():
    f = counted(lambda t, y: np.array([-1e12 * y[0], -np.sin(y[1])]))
    y = np.array([1.0, 1.0])
    source, f_y = make_jacobian(f, y), f(0.0, y)
    source(0.0, y, f_y)  # looks twice: a dependence of row 1 on y_2 could have been lost
    before = source.nfev
    np.testing.assert_allclose(source(0.0, y, f_y), [[-1e12, 0], [0, -np.cos(1)]], rtol=1e-6)
    assert source.nfev == before + 2


def test_small_components_at_worst():
    """Columns that are 1e-3 of their rows' terms: noise and curvature are balanced."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(200):
        A, B = rng.normal(size=(2, 6, 6))
        z = rng.normal(size=6) * np.array([1, 1, 1, 1, 1, 1e-3])
        S, T = 10.0 ** rng.uniform(-20, 20, (2, 6))
        f = lambda t, y, A=A, B=B, S=S, T=T: T * (A @ (y / S) + B @ np.sin(y / S))  # noqa: E731
        J = make_jacobian(f, S * z)(0.0, S * z, f(0.0, S * z))
        exact = T[:, None] * (A + B * np.cos(z)) / S
        worst = max(worst, column_errors(J, exact).max())
    assert worst <= 5e-5


def test_the_size_of_a_zero_component_is_learnt():
    """The first increment knows max|y| alone; the second one what a change of f by f costs."""
    f = lambda t, y: np.array([np.exp(1e9 * y[1]) - 2 * y[0], -y[1]])  # noqa: E731
    y = np.array([1.0, 0.0])
    source = make_jacobian(f, y)
    first, second = (source(0.0, y, f(0.0, y)) for _ in range(2))
    assert first[0, 1] == pytest.approx(1e9, rel=1e-2)
    assert second[0, 1] == pytest.approx(1e9, rel=1e-6)


def test_a_zero_state_has_a_jacobian():
    A = np.array([[-3.0, 1.0], [2.0, -4.0]])
    y = np.zeros(2)
    source = make_jacobian(lambda t, y: A @ y + np.cos(y) - 1, y)
    np.testing.assert_allclose(source(0.0, y, y), A, rtol=1e-6)


def test_sizes_below_scale_do_not_count():
    steps = []

    def f(t, y):
        steps.append(y.copy())
        return -y

    y = np.array([1.0, 1e-30])
    make_jacobian(f, y, scale=[0.0, 1e-6])(0.0, y, -y)
    assert steps[1][1] == pytest.approx(-1e-6 * sqrt_eps(float), rel=1e-9, abs=0)


def test_increments_point_where_the_solution_goes():
    states = []
    y = np.array([2.0, 3.0, 5.0])
    f_y = np.array([-1.0, 0.0, 4.0])

    def f(t, y):
        states.append(y.copy())
        return f_y + (y - [2.0, 3.0, 5.0]) * [1.0, 1.0, 1.0]

    make_jacobian(f, y)(0.0, y, f_y)
    assert [float(np.sign(s - y)[j]) for j, s in enumerate(states)] == [-1, 1, 1]


def test_the_other_side_is_tried_where_f_is_not_defined():
    def f(t, y):
        with np.errstate(invalid="ignore"):
            return np.array([-1.0 - np.sqrt(y[0] - 1.0) + 0.5 * y[1], y[1]])

    y = np.array([1.0, 0.0])  # the slope points to where there is no square root
    source = make_jacobian(f, y)
    J = source(0.0, y, np.array([-1.0, 0.0]))
    assert np.isfinite(J).all()
    np.testing.assert_allclose(J[:, 1], [0.5, 1.0], rtol=1e-6)


def test_where_f_is_nowhere_finite_the_jacobian_is_not_either_and_nothing_warns():
    y = np.array([1.0, 2.0])
    J = make_jacobian(lambda t, y: np.array([y[0], np.nan]), y)(0.0, y, y)
    assert not np.isfinite(J).all()


def test_a_right_hand_side_may_return_one_buffer_and_y_stays_as_it_is():
    buffer = np.empty(3)

    def f(t, y):
        buffer[:] = -2 * y
        y[:] = 7.0  # its own copy
        return buffer

    y = np.array([1.0, 2.0, 3.0])
    y.setflags(write=False)
    J = make_jacobian(f, y)(0.0, y, -2 * y)
    np.testing.assert_allclose(J, -2 * np.eye(3), rtol=1e-7, atol=1e-7)


def robertson_jac(y):
    _, b, c = y
    return np.array(
        [[-0.04, 1e4 * c, 1e4 * b], [0.04, -1e4 * c - 6e7 * b, -1e4 * b], [0, 6e7 * b, 0]]
    )


def e5_jac(y):
    A, B, C, MC = 7.89e-10, 1.1e7, 1.13e3, 1.13e9
    a, b, c, _ = y
    return np.array(
        [
            [-A - B * c, 0, -B * a, 0],
            [A, -MC * c, -MC * b, 0],
            [A - B * c, -MC * c, -B * a - MC * b, C],
            [B * c, 0, B * a, -C],
        ]
    )


@pytest.fixture(scope="module")
def journeys():
    """Solutions of ROBER to 1e11 and of E5 to 1e13, past their published ends."""
    ends = {"ROBER": (1e11, robertson_jac, 1e-20), "E5": (1e13, e5_jac, 1e-35)}
    result = {}
    for name, (t_end, jac, atol) in ends.items():
        p = STIFF[name]
        run = solve_ivp(
            p.f, (0, t_end), p.y0, "Radau", jac=lambda t, y, jac=jac: jac(y), rtol=1e-6, atol=atol
        )
        result[name] = (p.f, jac, list(zip(run.t, run.y.T, strict=True)))
    return result


@pytest.mark.parametrize(
    ("name", "t_first", "every"), [("ROBER", 1e-5, 1), ("ROBER", 1e-5, 10), ("E5", 1e-13, 1)]
)
def test_differences_along_stiff_solutions(journeys, name, t_first, every):
    """From `t_first` on; before, forward differences cannot know columns that do not matter.

    Early in ROBER, y_2 = b < 4e-7 and the column of b is 6e7 b beside 0.04 in the same row:
    rounding of the row over δ and the curvature 3e7 δ balance at an error of 5e-13 / b at best.
    """
    f, jac, points = journeys[name]
    source = make_jacobian(f, points[0][1])
    calls = 0
    for t, y in points[::every]:
        J, exact = source(t, y, f(t, y)), jac(y)
        if t >= t_first:
            assert column_errors(J, exact).max() <= 1e-5
        # What no column may do at any time: outweigh what matters.
        assert np.abs(J - exact).max() <= 2e-3 * np.abs(exact).max()
        calls += 1
    assert calls * len(y) <= source.nfev <= calls * len(y) + 25


@pytest.mark.parametrize("name", ["ROBER", "E5"])
def test_differences_without_a_memory(journeys, name):
    """A new object at every point: what matters to f is right at once.

    An entry J_ij is no more than noise if |J_ij y_j| is below the rounding of f_i's own terms.
    """
    f, jac, points = journeys[name]
    for t, y in points[1::3]:
        f_y, exact = f(t, y), jac(y)
        J = make_jacobian(f, y)(t, y, f_y)
        terms = np.abs(f_y) + np.abs(exact) @ np.abs(y)
        noise = terms[:, None] / np.abs(y)
        allowed = 1e-5 * np.abs(exact).max(axis=0) + 1e-7 * noise
        assert (np.abs(J - exact) <= allowed).all()


@pytest.mark.parametrize("atol", [1e-18, 1e-20, 1e-24, 0.0])
def test_the_first_jacobian_of_a_reaction_keeps_its_sums(atol):
    """y_2 − y_3 − y_4 of E5: what the rows lose of it at the start, later values do not outweigh.

    Three species are zero, and the tolerance of the last is 1e-12 of that of the first. A column
    is as wrong as u^(3/8) at worst, and the sum of its rows as twice that.
    """
    p = STIFF["E5"]
    y = np.asarray(p.y0)
    source = Differences(p.f, full(4), scale=atol * np.array([1.0, 1e-2, 1e-2, 1e-12]))
    J = source(0.0, y, p.f(0.0, y))
    lost = np.abs(np.array([0.0, 1, -1, -1]) @ J)
    assert (lost <= 2 * np.finfo(float).eps ** 0.375 * np.abs(J).max(axis=0)).all()
    assert source.nfev <= 4 + 9  # three second looks at no more than three columns


def test_better_than_scipys_increments_where_sums_cancel(journeys):
    """SciPy measures rounding by |f| alone; near equilibria its increments shrink into noise."""
    num_jac = pytest.importorskip("scipy.integrate._ivp.common").num_jac
    f, jac, points = journeys["ROBER"]
    source, factor, worst = make_jacobian(f, points[0][1]), None, {"ours": 0.0, "scipy": 0.0}
    for t, y in points:
        f_y, exact = f(t, y), jac(y)
        ours = source(t, y, f_y)
        theirs, factor = num_jac(
            lambda t, Y: np.stack([f(t, y) for y in Y.T], axis=1), t, y, f_y, 1e-10, factor
        )
        if t > 1e-4:
            worst["ours"] = max(worst["ours"], column_errors(ours, exact).max())
            worst["scipy"] = max(worst["scipy"], column_errors(theirs, exact).max())
    assert worst["ours"] < 1e-5 < worst["scipy"]


@pytest.mark.parametrize("name", ["HIRES", "OREGO", "POLLU", "VDPOL"])
def test_differences_of_classic_problems_equal_complex_steps(name):
    p = STIFF[name]
    reference = p.reference(1e-6)
    source = make_jacobian(p.f, np.asarray(p.y0))
    for t in np.linspace(*p.t_span, 9)[1:]:
        y = reference(t)
        exact = np.stack([p.f(t, y + 1e-30j * e).imag / 1e-30 for e in np.eye(len(y))], axis=1)
        J = source(t, y, p.f(t, y))
        assert column_errors(J, exact).max() <= 2e-6


def test_a_dependence_that_appears_later_is_found():
    """Column 2 is empty at first; its increment grew in search of it, and must come back."""
    f = lambda t, y: np.array([-y[0] + t * np.sin(1e5 * y[1]), -y[1]])  # noqa: E731
    y = np.array([1.0, 1e-5])
    source = make_jacobian(f, y)
    for t in (0.0, 0.0, 1.0, 1.0):
        J = source(t, y, f(t, y))
    np.testing.assert_allclose(J, [[-1, 1e5 * np.cos(1.0)], [0, -1]], rtol=1e-5)


# Time derivative ---------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 1.0, -50.0, 1e6])
@pytest.mark.parametrize("h", [0.1, -0.1, 1e-5])
def test_time_derivative(t, h):
    f = counted(lambda t, y: np.array([np.sin(t), y[0] * t, 3.0]))
    y = np.array([2.0])
    value = time_derivative(f, t, y, f(t, y), h)
    assert f.calls == 2
    assert min(t, t + h) <= f.times[1] <= max(t, t + h)
    error = 10 * math.sqrt(2.3e-16 * max(abs(t), abs(h)) / abs(h))
    np.testing.assert_allclose(value, [math.cos(t), 2.0, 0.0], rtol=error, atol=error * abs(h))


def test_time_derivative_of_an_autonomous_f_is_exactly_zero():
    y = np.array([0.1, 0.7])
    assert not time_derivative(lambda t, y: np.sin(y), 0.3, y, np.sin(y), 0.2).any()


@pytest.mark.parametrize("h", [0.5, -0.5, 1e-12])
def test_time_derivative_knows_the_precision_of_torchs_times(h):
    """f gets its time as a float32 tensor: 3 + √u h is 3 there."""
    y = torch.ones(2)

    def f(t, y):
        return torch.tensor(t, dtype=torch.float32) ** 2 * y

    value = time_derivative(f, 3.0, y, f(3.0, y), h)
    assert value.dtype == torch.float32
    expected = 6.0 if abs(h) > 1e-6 else 0.0
    np.testing.assert_allclose(value, [expected] * 2, rtol=2e-2)


# Other sources -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dense", "list", "csr", "banded"])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("dtype", REAL + COMPLEX)
def test_given_jacobians(kind, constant, dtype):
    matrix = np.array([[-2.0, 1.0, 0.0], [0.5, -3.0, 1.0], [0.0, 0.25, -4.0]])
    ab = np.array([[np.nan, 1, 1], [-2, -3, -4], [0.5, 0.25, np.nan]])
    value = {"dense": matrix, "list": matrix.tolist(), "csr": sps.csr_array(matrix), "banded": ab}[
        kind
    ]
    y = np.ones(3, dtype)
    options = {"bandwidth": (1, 1)} if kind == "banded" else {}
    if kind == "banded":
        value = np.nan_to_num(value)
    source = make_jacobian(
        lambda t, y: matrix @ y, y, jac=value if constant else lambda t, y: value, **options
    )
    J = source(0.0, y, y)
    np.testing.assert_array_equal(dense(J), matrix.astype(dtype))
    assert dense(J).dtype == dtype
    assert isinstance(J, Banded) == (kind == "banded")
    assert sps.issparse(J) == (kind == "csr")
    assert source.constant is constant
    assert (source.nfev, source.njev) == (0, 0 if constant else 1)
    solve = linear_solver_for(J).factorise(J, 0.5)
    expected = np.linalg.solve(np.eye(3) - 0.5 * matrix, [1, 2, 3])
    np.testing.assert_allclose(solve(np.array([1, 2, 3], dtype)), expected, rtol=1e-5)


@pytest.mark.parametrize("make", [np.array, sps.csc_array, torch.tensor])
def test_a_given_jacobian_is_a_copy(make):
    buffer = make([[1.0, 2.0], [3.0, 4.0]])
    y = torch.ones(2) if make is torch.tensor else np.ones(2)
    J = make_jacobian(None, y, jac=lambda t, y: buffer)(0.0, y, None)
    buffer *= 7.0
    np.testing.assert_array_equal(dense(J), [[1, 2], [3, 4]])


def test_products_are_counted_where_they_are_made():
    A = np.array([[-2.0, 1.0], [0.5, -3.0]])
    y = np.array([1.0, 2.0])
    f, jvp = counted(lambda t, y: A @ y), counted(lambda t, y, v: A @ v)
    for options in ({"jvp": jvp}, {"matrix_free": True}):
        source = make_jacobian(f, y, **options)
        J = source(0.0, y, A @ y)
        assert isinstance(J, JacobianOperator)
        assert source.nfev == 0
        np.testing.assert_allclose(J(np.array([1.0, -1.0])), A @ [1, -1], rtol=1e-7)
        source(0.0, y, A @ y)(y)
        assert (source.nfev, source.njev) == (2, 2)
    assert (f.calls, jvp.calls) == (2, 2)


def coupled(t, y):
    """For (n,) and (B, n), NumPy and torch."""
    xp = torch if isinstance(y, torch.Tensor) else np
    a, b, c = y[..., 0], y[..., 1], y[..., 2]
    return xp.stack([-a * b + c, xp.sin(a) - b**2, t * a * c], -1)


@given(seed=seeds)
def test_torch_equals_numpy_and_a_batch_equals_its_samples(seed):
    y = np.random.default_rng(seed).uniform(0.5, 2, (4, 3))
    batch = make_jacobian(coupled, torch.tensor(y), batched=True)
    J = batch(0.7, torch.tensor(y), None)
    assert J.shape == (4, 3, 3)
    assert (batch.nfev, batch.njev) == (1, 1)
    for i, y_i in enumerate(y):
        alone = make_jacobian(coupled, torch.tensor(y_i))(0.7, torch.tensor(y_i), None)
        np.testing.assert_allclose(J[i], alone, rtol=1e-13, atol=1e-15)
        differences = make_jacobian(coupled, y_i)(0.7, y_i, coupled(0.7, y_i))
        np.testing.assert_allclose(alone, differences, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_torch_keeps_its_dtype(dtype):
    y = torch.ones(3, dtype=dtype)
    J = make_jacobian(lambda t, y: 2.0 * y * torch.tensor(0.5), y)(0.0, y, None)
    assert J.dtype == dtype
    np.testing.assert_array_equal(J, np.eye(3))


def test_torch_jacobians_can_be_given():
    y = torch.ones(2, dtype=torch.float64)
    J = torch.tensor([[-1.0, 2.0], [0.0, -3.0]], dtype=torch.float64)
    for jac in (J, lambda t, y: J):
        assert torch.equal(make_jacobian(None, y, jac=jac)(0.0, y, y), J)
    batch = J.expand(5, 2, 2)
    source = make_jacobian(None, y.expand(5, 2), jac=lambda t, y: batch, batched=True)
    assert torch.equal(source(0.0, y.expand(5, 2), y), batch)
    products = make_jacobian(lambda t, y: J @ y, y, matrix_free=True)(0.0, y, None)
    assert torch.equal(products(y), J @ y)


def test_torch_jacobians_know_their_history():
    k = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    y = torch.ones(2, dtype=torch.float64)
    J = make_jacobian(lambda t, y: -k * y**2, y)(0.0, y, None)
    (gradient,) = torch.autograd.grad(linear_solver_for(J).factorise(J, 1.0)(y).sum(), k)
    assert float(gradient) == pytest.approx(-2 * 2 / 7**2)  # of 2 / (1 + 2 k)


# Solvers -----------------------------------------------------------------------------------------


def forms(matrix, ml, mu, y):
    """One Jacobian in every form."""
    n = len(y)
    ab = np.full((ml + mu + 1, n), np.nan, dtype=matrix.dtype)  # corners must not matter
    for i, j in np.ndindex(n, n):
        if -mu <= i - j <= ml:
            ab[mu + i - j, j] = matrix[i, j]
    product = JacobianOperator(lambda t, y: matrix @ y, 0.0, y, jvp=lambda t, y, v: matrix @ v)
    return {
        "dense": matrix,
        "fortran": np.asfortranarray(matrix),
        "csc": sps.csc_array(matrix),
        "banded": Banded(ab, ml, mu),
        "products": product,
        "torch": torch.tensor(matrix),
    }


def masses(rng, n, dtype):
    d = rng.uniform(0.5, 2, n).astype(dtype)
    wide = (np.diag(d) + 0.1 * np.diag(np.ones(n - 2), 2)).astype(dtype) if n > 2 else np.diag(d)
    d[0] = 0  # singular M, regular M − c J
    return {"identity": None, "diagonal": d, "dense": wide, "sparse": sps.coo_array(wide)}


@pytest.mark.parametrize("form", ["dense", "fortran", "csc", "banded", "products", "torch"])
@pytest.mark.parametrize("kind", ["identity", "diagonal", "dense", "sparse"])
@pytest.mark.parametrize("dtype", REAL + COMPLEX)
@pytest.mark.parametrize("c", [0.3, 0.2 + 0.4j, np.float64(0.3)])
def test_every_solver_solves(form, kind, dtype, c):
    rng = np.random.default_rng(7)
    n, ml, mu = 7, 2, 1
    matrix = (band(n, ml, mu) * rng.uniform(-1, 1, (n, n)) - 3 * np.eye(n)).astype(dtype)
    y = np.ones(n, dtype)
    J = forms(matrix, ml, mu, y)[form]
    M = masses(rng, n, dtype)[kind]
    state = torch.tensor(y) if form == "torch" else y
    mass = mass_structure(M, state)
    full = np.eye(n) if M is None else np.diag(M) if kind == "diagonal" else dense(M)
    A = full - c * matrix
    r = rng.normal(size=n).astype(np.result_type(dtype, complex if isinstance(c, complex) else 0))
    r = r.astype(
        np.complex64 if r.dtype.kind == "c" and matrix.real.dtype == np.float32 else r.dtype
    )
    before = np.array(dense(matrix))
    solver = linear_solver_for(J, mass, rtol=1e-6)
    solve = solver.factorise(J, c)
    x = solve(torch.tensor(r) if form == "torch" else r.copy())
    tolerance = 3e-5 if matrix.real.dtype == np.float32 or form == "products" else 1e-12
    np.testing.assert_allclose(A @ np.asarray(x), r, rtol=tolerance, atol=tolerance * 10)
    assert np.asarray(x).dtype == r.dtype
    np.testing.assert_array_equal(matrix, before)
    assert solver.nlu == (0 if form == "products" else 1)


@given(seeds, st.integers(1, 25))
def test_two_factorisations_live_side_by_side(seed, n):
    """A real and a complex system per step: the second must not overwrite the first."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(n, n)) - 2 * n * np.eye(n)
    r = rng.normal(size=n)
    for form in ("dense", "csc", "banded"):
        J = forms(matrix, n - 1, n - 1, r)[form]
        solver = linear_solver_for(J)
        real, other = solver.factorise(J, 0.3), solver.factorise(J, 0.2 + 0.1j)
        again = solver.factorise(J, 0.7)
        for c, solve in ((0.3, real), (0.7, again), (0.2 + 0.1j, other)):
            right = r + 0j if isinstance(c, complex) else r
            A = np.eye(n) - c * matrix
            np.testing.assert_allclose(A @ solve(right), right, rtol=1e-9, atol=1e-10)
            np.testing.assert_array_equal(solve(right), solve(right))
        assert solver.nlu == 3


@pytest.mark.parametrize("form", ["dense", "csc", "banded", "torch"])
@pytest.mark.parametrize("bad", ["singular", np.nan, np.inf])
@pytest.mark.parametrize("c", [1.0, 1.0 + 0j])
def test_singular_and_not_finite_matrices_are_reported(form, bad, c):
    matrix = np.eye(3)
    matrix[0, 1] = 2.0
    if bad != "singular":
        matrix = 0.1 * matrix
        matrix[0, 1] = bad
    J = forms(matrix, 1, 1, np.ones(3))[form]
    solver = linear_solver_for(J)
    with pytest.raises(SingularMatrix, match="singular or not finite"):
        solver.factorise(J, c)
    good = forms(0.1 * np.tri(3, k=1) * np.tri(3, k=1).T, 1, 1, np.ones(3))[form]
    solver.factorise(good, c)  # and the solver is as good as new


def test_a_singular_sample_leaves_the_others_alone():
    J = torch.diag_embed(torch.tensor([[0.5, 0.25], [1.0, 0.5], [0.5, math.nan], [-1.0, 3.0]]))
    r = torch.ones(4, 2)
    x = linear_solver_for(J).factorise(J, 1.0)(r)
    np.testing.assert_allclose(x[0], [2.0, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose(x[3], [0.5, -0.5], rtol=1e-6)
    assert x[1:3].isnan().all()


@pytest.mark.parametrize("M", [None, torch.tensor([1.0, 2.0, 0.0])])
@pytest.mark.parametrize("c", [0.25, 0.25 + 0.5j, torch.linspace(0.1, 0.5, 5)])
def test_a_batch_of_systems_equals_a_loop(M, c):
    torch.manual_seed(1)
    J = torch.randn(5, 3, 3) - 4 * torch.eye(3)
    r = torch.randn(5, 3, dtype=torch.complex64 if isinstance(c, complex) else torch.float32)
    mass = mass_structure(M, torch.ones(5, 3))
    x = linear_solver_for(J, mass).factorise(J, c)(r)
    for i in range(5):
        c_i = float(c[i]) if isinstance(c, torch.Tensor) else c
        alone = linear_solver_for(J[i], mass).factorise(J[i], c_i)(r[i])
        np.testing.assert_allclose(x[i], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rtol", [1e-2, 1e-6, 1e-10])
@pytest.mark.parametrize("c", [2.0, 1.0 + 1.0j])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_gmres_meets_its_tolerance(rtol, c, preconditioned):
    rng = np.random.default_rng(3)
    n = 40
    matrix = np.diag(-np.logspace(0, 2, n)) + 0.1 * rng.normal(size=(n, n))
    calls = []

    def precond(t, y, c):
        calls.append((t, c))
        return lambda r: r / (1 - c * np.diag(matrix))

    y = rng.normal(size=n)
    product = JacobianOperator(lambda t, y: matrix @ y, 1.5, y, jvp=lambda t, y, v: matrix @ v)
    solver = linear_solver_for(product, rtol=rtol, precond=precond if preconditioned else None)
    r = y + 0j if isinstance(c, complex) else y
    x = solver.factorise(product, c)(r)
    residual = r - (x - c * matrix @ x)
    assert np.linalg.norm(residual) <= 1.01 * rtol * np.linalg.norm(r)
    assert calls == ([(1.5, c)] if preconditioned else [])
    assert solver.nlu == len(calls)


def test_a_preconditioner_saves_products():
    n = 200
    d = -np.logspace(0, 3, n)

    def products(precond):
        J = JacobianOperator(lambda t, y: d * y, 0.0, np.ones(n), jvp=lambda t, y, v: d * v)
        linear_solver_for(J, rtol=1e-4, precond=precond).factorise(J, 1.0)(np.ones(n))
        return J.products

    assert products(lambda t, y, c: lambda r: r / (1 - c * d)) <= 3 < products(None)


def test_gmres_says_that_it_failed():
    n = 400  # a shift: GMRES makes no progress at all
    shift = np.roll(np.eye(n), 1, axis=0)
    J = JacobianOperator(
        lambda t, y: shift @ y, 0.0, np.ones(n), jvp=lambda t, y, v: (np.eye(n) - shift) @ v
    )
    with pytest.raises(LinearSolveError, match="GMRES"):
        linear_solver_for(J, rtol=1e-8).factorise(J, 1.0)(np.eye(n)[0])
    nan = JacobianOperator(lambda t, y: y, 0.0, np.ones(3), jvp=lambda t, y, v: v * np.nan)
    with pytest.raises(LinearSolveError):
        linear_solver_for(nan).factorise(nan, 1.0)(np.ones(3))


def test_gmres_of_a_torch_state():
    A = torch.tensor([[-2.0, 1.0], [0.5, -3.0]], dtype=torch.float64)
    y = torch.ones(2, dtype=torch.float64)
    J = make_jacobian(lambda t, y: A @ y, y, matrix_free=True)(0.0, y, A @ y)
    x = linear_solver_for(J, rtol=1e-10).factorise(J, 0.5)(y)
    assert isinstance(x, torch.Tensor)
    np.testing.assert_allclose(x - 0.5 * A @ x, y, rtol=1e-8)


def test_symmetric_patterns_fill_less():
    """The ordering is chosen by the pattern, and either solves."""
    n = 12
    line = sps.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(n, n))
    eye = sps.eye_array(n)
    plane = sps.csc_array(sps.kron(line, eye) + sps.kron(eye, line))
    upwind = sps.csc_array(plane + sps.diags_array([3.0], offsets=[7], shape=plane.shape))
    for J, ordering in ((plane, "MMD_AT_PLUS_A"), (upwind, "COLAMD")):
        solver = linear_solver_for(J)
        r = np.arange(144.0)
        x = solver.factorise(J, 0.1)(r)
        assert solver.ordering == ordering
        np.testing.assert_allclose(x - 0.1 * J @ x, r, atol=1e-10)


# Mass matrices -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("M", "kind", "rank"),
    [
        (None, "identity", 3),
        (np.eye(3), "identity", 3),
        ([1, 1, 1], "identity", 3),
        (sps.eye_array(3), "identity", 3),
        ([1.0, 0.0, 2.0], "diagonal", 2),
        (np.diag([1e-30, 1, 1e30]), "diagonal", 3),
        (sps.diags_array([1.0, 0.0, 0.0]), "diagonal", 1),
        ([[1, 1, 0], [0, 1, 0], [0, 0, 1]], "dense", 3),
        ([[1, 1, 0], [1, 1, 0], [0, 0, 1]], "dense", 2),
        ([[1e-20, 2e-20, 0], [0, 1e20, 0], [0, 0, 1]], "dense", 3),
        (sps.csr_array([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]]), "sparse", 1),
    ],
)
def test_mass_structure(M, kind, rank):
    mass = mass_structure(M, np.ones(3))
    assert (mass.kind, mass.rank, mass.singular, mass.n) == (kind, rank, rank < 3, 3)
    v = np.array([1.0, -2.0, 3.0])
    full = np.eye(3) if M is None else np.diag(M) if np.shape(M) == (3,) else dense(M)
    np.testing.assert_allclose(mass @ v, full @ v)
    np.testing.assert_array_equal(mass.toarray(v), full)
    np.testing.assert_array_equal(mass.tosparse().toarray(), full)
    like = torch.tensor(v, dtype=torch.float32)
    tensor = mass_structure(M, like)
    assert tensor.toarray(like).dtype == torch.float32
    assert tensor.rank == rank or full.max() > 1e10
    if full.max() < 1e10:
        rows = torch.stack([like, 2 * like])
        np.testing.assert_allclose(tensor @ rows, np.stack([full @ v, 2 * full @ v]), rtol=1e-6)


@pytest.mark.parametrize("last", [1.0, 0.0])
def test_rank_of_large_sparse_masses(last):
    n = 1500
    M = sps.lil_array(sps.diags_array([1.0, 4.0, 1.0], offsets=[-1, 0, 1], shape=(n, n)))
    M[n - 1, :] = 0.0
    M[n - 1, n - 1] = last
    mass = mass_structure(sps.csc_array(M), np.ones(n))
    assert (mass.kind, mass.rank) == ("sparse", n if last else n - 1)


# Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jac": np.eye(2)}, r"jac has shape \(2, 2\); for 3 components it must be \(3, 3\)"),
        ({"jac": sps.eye_array(4)}, r"jac has shape \(4, 4\)"),
        ({"jac": np.eye(3) * np.nan}, "jac is not finite"),
        ({"jac": np.eye(3) * 1j}, "jac has dtype complex128"),
        ({"jac": [[1, 2], [3]]}, "jac is not a matrix"),
        ({"jac": "exact"}, "jac has shape"),
        ({"jac": np.eye(3), "bandwidth": (0, 0)}, r"with bandwidth=\(0, 0\) it must be \(1, 3\)"),
        ({"jac": np.eye(3), "jac_sparsity": np.eye(3)}, "give one of jac and jac_sparsity"),
        ({"jac": np.eye(3), "jvp": len}, "give one of jac and jvp"),
        ({"bandwidth": (1, 1), "matrix_free": True}, "give one of bandwidth and matrix_free"),
        ({"jac_sparsity": np.eye(2)}, r"jac_sparsity has shape \(2, 2\)"),
        ({"jac_sparsity": sps.eye_array(3, 4)}, r"jac_sparsity has shape \(3, 4\)"),
        ({"bandwidth": (3, 0)}, r"from 0 to 2, not \(3, 0\)"),
        ({"bandwidth": (0, -1)}, r"not \(0, -1\)"),
        ({"bandwidth": 1}, "bandwidth must be two integers"),
        ({"bandwidth": (1, 0.5)}, "bandwidth must be two integers"),
        ({"bandwidth": (1, None)}, "bandwidth must be two integers"),
        ({"scale": -1.0}, "scale must be"),
        ({"scale": [1.0, 2.0]}, "scale must be"),
        ({"scale": math.nan}, "scale must be"),
        ({"batched": True}, r"y0 has shape \(3,\); with batched=True"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_jacobian(lambda t, y: -y, np.ones(3), **options)


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (np.ones((2, 3)), {}, r"y0 has shape \(2, 3\)"),
        (np.ones((2, 3)), {"batched": True}, "batched=True is for torch"),
        (torch.ones(3), {"bandwidth": (1, 1)}, "bandwidth is for NumPy"),
        (torch.ones(3), {"jac_sparsity": np.eye(3)}, "jac_sparsity is for NumPy"),
        (torch.ones(3), {"jac": np.eye(3)}, "jac must be a tensor of shape"),
        (torch.ones(2, 3), {"batched": True, "matrix_free": True}, "are for one state"),
        (torch.ones(2, 3), {"batched": True, "jac": torch.eye(3)}, r"shape \(2, 3, 3\)"),
    ],
)
def test_states_and_options_must_fit(y, options, message):
    with pytest.raises(ValueError, match=message):
        make_jacobian(lambda t, y: -y, y, **options)


def test_given_jacobians_are_checked_when_called():
    y = np.ones(2)
    source = make_jacobian(None, y, jac=lambda t, y: np.eye(3))
    with pytest.raises(ValueError, match=r"jac has shape \(3, 3\)"):
        source(0.0, y, y)
    source = make_jacobian(None, y, jac=lambda t, y: np.eye(2) if t else np.full((2, 2), np.inf))
    with pytest.raises(ValueError, match="jac is not finite at the start"):
        source(0.0, y, y)
    assert source(1.0, y, y)[0, 0] == 1.0
    J = source(0.0, y, y)  # later it is a matter for the step that asked
    with pytest.raises(SingularMatrix):
        linear_solver_for(J).factorise(J, 1.0)
    single = make_jacobian(None, np.ones(1), jac=lambda t, y: -5.0)
    np.testing.assert_array_equal(single(0.0, np.ones(1), None), [[-5.0]])


@pytest.mark.parametrize(
    ("M", "message"),
    [
        (np.eye(2), r"mass has shape \(2, 2\)"),
        (np.ones((3, 2)), r"mass has shape \(3, 2\)"),
        (sps.eye_array(4), r"mass has shape \(4, 4\)"),
        (np.full((3, 3), np.nan), "mass must be finite"),
        (np.eye(3) * 1j, "mass is complex"),
        (["a", "b", "c"], "mass must hold numbers"),
        (2.0, r"mass has shape \(\)"),
    ],
)
def test_bad_masses_are_named(M, message):
    with pytest.raises(ValueError, match=message):
        mass_structure(M, np.ones(3))


def test_systems_that_do_not_fit_are_named():
    mass = mass_structure(None, np.ones(3))
    for J in (np.eye(2), sps.eye_array(2).tocsc(), torch.eye(2), Banded(np.ones((1, 2)), 0, 0)):
        with pytest.raises(ValueError, match="M has 3 rows, but J has 2"):
            linear_solver_for(J, mass)
    with pytest.raises(ValueError, match="precond is for matrix-free"):
        linear_solver_for(np.eye(2), precond=lambda t, y, c: None)
    with pytest.raises(ValueError, match="J must be a matrix"):
        linear_solver_for("J")
    batch = JacobianOperator(lambda t, y: y, 0.0, np.ones((2, 3)), batched=True)
    with pytest.raises(ValueError, match="batch of operators"):
        linear_solver_for(batch)
    with pytest.raises(ValueError, match=r"ab has shape \(2, 3\)"):
        Banded(np.ones((2, 3)), 1, 1)
    with pytest.raises(ValueError, match="from 0 to 0"):
        Banded(np.ones((3, 1)), 1, 1)


def test_patterns_give_the_same_entries():
    """A full pattern, coloured, is the dense one."""
    f, _ = nonlinear(np.arange(1.0, 17.0).reshape(4, 4))
    y = np.linspace(-1.0, 2.0, 4)
    a, b = Differences(f, full(4)), Differences(f, coloured(np.ones((4, 4))))
    np.testing.assert_array_equal(a(0.0, y, f(0, y)), b(0.0, y, f(0, y)).toarray())
    assert a.nfev == b.nfev


@pytest.mark.parametrize("pattern", [full(5), banded(5, 1, 0), coloured(np.tri(5))])
def test_the_groups_of_columns_are_those_that_hold_one(pattern):
    for chosen in ([], [2], [0, 3], [1, 2, 4], range(5)):
        mask = np.isin(np.arange(5), chosen)
        expected = [g for g, group in enumerate(pattern.groups) if mask[group].any()]
        assert list(pattern.groups_with(mask)) == expected


def test_f_warns_as_it_would_elsewhere():
    def f(t, y):
        return np.array([np.log(y[0] - 1.0), 1.0 + y[1]])

    y = np.array([1.5, 1e-20])  # the second component asks for second looks
    for zero in ({}, {"jac_sparsity": np.eye(2)}):
        with np.errstate(invalid="raise"), pytest.raises(FloatingPointError):
            make_jacobian(lambda t, y: f(t, y - 1.0), y, **zero)(0.0, y, f(0.0, y))
        modes = np.geterr()
        make_jacobian(f, y, **zero)(0.0, y, f(0.0, y))
        assert np.geterr() == modes
    seen = []
    source = make_jacobian(lambda t, y: seen.append(np.geterr()["over"]) or f(t, y), y)
    with np.errstate(over="call"):
        source(0.0, y, f(0.0, y))
    assert len(seen) > 2
    assert set(seen) == {"call"}
