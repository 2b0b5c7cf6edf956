"""Banded Jacobians within the compiled loop, and its LU decompositions."""

import numpy as np
import pytest
from compiled_pair import Interpreted, both, loops
from hypothesis import given
from hypothesis import strategies as st
from test_compiled_stiff import robertson

import stiffkit as sk
from stiffkit.solvers.linalg import Banded

# The first solve of a signature compiles its loop.
pytestmark = pytest.mark.timeout(600)

numba = pytest.importorskip("numba")
linear = __import__("stiffkit.solvers.compiled.linear", fromlist=["linear"])

METHODS = ("rodas4", "trbdf2", "radau5")


@sk.jit
def burgers(t, y):
    """Upwind differences of u_t = -u u_x + u_xx / 100: one diagonal below, one above."""
    n = len(y)
    dy = np.empty_like(y)
    for i in range(n):
        left = y[i - 1] if i > 0 else 1.0
        right = y[i + 1] if i < n - 1 else 0.0
        dy[i] = -n * y[i] * (y[i] - left) + n * n / 100 * (left - 2 * y[i] + right)
    return dy


@sk.jit
def burgers_jac(t, y):
    n = len(y)
    ab = np.full((3, n), np.nan)  # the corners, outside the matrix, are not looked at
    for i in range(n):
        left = y[i - 1] if i > 0 else 1.0
        ab[1, i] = -n * (2 * y[i] - left) - n * n / 50
        if i > 0:
            ab[2, i - 1] = n * y[i] + n * n / 100
        if i < n - 1:
            ab[0, i + 1] = n * n / 100
    return ab


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 2, 30])
def test_counts_are_equal_and_states_to_rounding(n, method, monkeypatch):
    taken = loops(monkeypatch)
    y0, width = np.linspace(1.0, 0.1, n), min(1, n - 1)
    band = width, width
    for rtol in (1e-3, 1e-5):
        options = {"bandwidth": band, "rtol": rtol, "atol": rtol, "log": True}
        ours, theirs = both(burgers, (0.0, 0.5), y0, method, **options)
        np.testing.assert_allclose(ours.y[-1], theirs.y[-1], rtol=0, atol=0.01 * rtol)
    assert (
        ours.stats["nfev"] < sk.solve(burgers, (0.0, 0.5), y0, method, rtol=rtol).stats["nfev"]
        or n < 3
    )
    assert len(taken) == 3


@pytest.mark.parametrize("method", METHODS)
def test_given_bands(method, monkeypatch):
    taken = loops(monkeypatch)
    y0 = np.linspace(1.0, 0.1, 20)
    options = {"bandwidth": (1, 1), "rtol": 1e-4, "atol": 1e-4}
    for jac in (burgers_jac, np.where(np.isnan(burgers_jac(0.0, y0)), 0.0, burgers_jac(0.0, y0))):
        if method == "rodas4" and not callable(jac):
            continue  # of a wrong Jacobian it makes a method of lower order
        ours, theirs = (
            sk.solve(f, (0.0, 0.05), y0, method, jac=jac, **options)
            for f in (burgers, Interpreted(burgers))
        )
        assert ours.stats == theirs.stats
        np.testing.assert_allclose(ours.y, theirs.y, rtol=0, atol=1e-9)
    assert len(taken) == (1 if method == "rodas4" else 2)


@pytest.mark.parametrize("method", METHODS)
def test_second_looks_at_columns_of_a_band(method):
    """Robertson's J has columns that are noise at first; as a band it is full, in other places."""
    options = {"rtol": 1e-4, "atol": 1e-10, "log": True}
    banded, _ = both(robertson, (0.0, 1e4), [1.0, 0, 0], method, bandwidth=(2, 2), **options)
    dense, _ = both(robertson, (0.0, 1e4), [1.0, 0, 0], method, **options)
    assert banded.stats == dense.stats


@pytest.mark.parametrize("method", METHODS)
def test_wide_bands_are_left_to_lapack(method, monkeypatch):
    taken = loops(monkeypatch)
    y0 = np.ones(140)
    for width, compiled in ((63, True), (64, False)):
        sk.solve(burgers, (0.0, 1e-4), y0, method, bandwidth=(width, width))
        assert bool(taken) is compiled
        taken.clear()


@pytest.mark.parametrize("method", METHODS)
def test_a_band_that_is_not_finite_is_told(method):
    @sk.jit
    def broken(t, y):
        return np.full((3, len(y)), np.nan)

    with pytest.raises(ValueError, match="not finite at the start"):
        sk.solve(burgers, (0.0, 1.0), np.ones(4), method, jac=broken, bandwidth=(1, 1))


@numba.njit
def solved(J, band, LU, L, pivots, c, x):
    """Solve (I − cJ) x_1 = r in place; return whether it could be done."""
    if not linear.decompose(J, band, LU, L, pivots, c):
        return False
    linear.solve(LU, L, pivots, band, x, 1)
    return True


@given(
    st.integers(1, 8), st.integers(0, 7), st.integers(0, 7), st.booleans(), st.integers(0, 2**32)
)
def test_decompositions(n, ml, mu, dense, seed):
    """The residual is within Wilkinson's bound; entries are large, and rows are exchanged."""
    band = (min(ml, n - 1), min(mu, n - 1))
    rng = np.random.default_rng(seed)
    J = Banded(rng.standard_normal((sum(band) + 1, n)), *band)
    matrix = J.toarray()
    a = linear.linear(n, float, None if dense else band, matrix if dense else J, constant=True)
    for c in (5.0, 3.0 - 4.0j):
        A, right = np.eye(n) - c * matrix, rng.standard_normal((2, n)) + 0 * c
        LU, L = (np.empty(x.shape, right.dtype) for x in (a.LU, a.L))
        x = right.copy()
        assert solved(a.J, a.band, LU, L, a.pivots, c, x)
        np.testing.assert_array_equal(x[0], right[0])
        growth = 8 * n**3 * 2 ** (n - 1)  # of the residual over that of one rounding
        size = np.abs(A).max() * np.abs(x[1]).max()
        assert np.abs(A @ x[1] - right[1]).max() <= growth * np.finfo(float).eps * size


@pytest.mark.parametrize("entry", [0.25, np.inf, np.nan])
def test_a_singular_matrix_is_told(entry):
    """I − 4J has a row of zeros, or is not finite."""
    J = np.array([[entry, 0.0], [1.0, 1.0]])
    a = linear.linear(2, float, None, J, constant=True)
    assert not solved(a.J, a.band, a.LU, a.L, a.pivots, 4.0, np.ones((2, 2)))
