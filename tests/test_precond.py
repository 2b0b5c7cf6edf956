"""Preconditioners of GMRES: fewer products, the same solution."""

import math

import numpy as np
import pytest
import scipy.sparse as sps
import scipy.sparse.linalg as spla
from scipy import fft

import stiffkit as sk

N = 16
X = np.arange(1, N + 1) / (N + 1)
_line = (N + 1) ** 2 * sps.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(N, N))
LAPLACE = sps.csc_array(sps.kronsum(_line, _line))
EIGENVALUES = -4 * (N + 1) ** 2 * np.sin(np.arange(1, N + 1) * math.pi / (2 * N + 2)) ** 2
EIGENVALUES = EIGENVALUES[:, None] + EIGENVALUES


class Counted:
    """A function and how often it was called."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


def heat(t, y):
    return (LAPLACE @ y.ravel()).reshape(y.shape)


def sine_transform(t, y, c):
    """(I − c Δ)⁻¹ on an (N, N) grid with zeros around it, exactly."""
    assert y.shape == (N, N)

    def psolve(r):
        assert r.shape == (N, N)
        parts = (r.real, r.imag) if np.iscomplexobj(r) else (r,)
        hats = [fft.dstn(part, type=1) for part in parts]
        whole = hats[0] + 1j * hats[1] if len(hats) == 2 else hats[0]
        solved = whole / (1 - c * EIGENVALUES)
        if not np.iscomplexobj(solved):
            return fft.idstn(solved, type=1)
        return fft.idstn(solved.real, type=1) + 1j * fft.idstn(solved.imag, type=1)

    return psolve


@pytest.mark.parametrize("method", ["kencarp4", "rodas5p", "radau5"])
def test_the_inverse_itself_leaves_gmres_nothing_to_do(method):
    y0 = np.outer(np.sin(np.pi * X), np.sin(2 * np.pi * X)) + 0.1 * np.outer(X, 1 - X)
    ends, products = [], []
    for options in ({"precond": sine_transform}, {}):
        if method == "radau5" and not options:
            ends.append(sk.solve(heat, (0.0, 0.03), y0, method, jac=LAPLACE, rtol=1e-6).y[-1])
            products.append(10**6)
            continue
        jvp = Counted(lambda t, y, v: heat(t, v))
        solution = sk.solve(heat, (0.0, 0.03), y0, method, jvp=jvp, rtol=1e-6, **options)
        assert solution.success
        ends.append(solution.y[-1])
        products.append(jvp.calls)
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-6)
    assert products[0] < products[1] / 2


def brusselator(t, y):
    u, v = y.reshape(2, -1)
    reaction = u * u * v
    return np.concatenate([1 + reaction - 4.4 * u + LAPLACE @ u, 3.4 * u - reaction + LAPLACE @ v])


def brusselator_product(t, y, w):
    (u, v), (a, b) = y.reshape(2, -1), w.reshape(2, -1)
    change = 2 * u * v * a + u * u * b
    return np.concatenate([change - 4.4 * a + LAPLACE @ a, 3.4 * a - change + LAPLACE @ b])


def brusselator_jacobian(t, y):
    (u, v), d = y.reshape(2, -1), sps.diags_array
    rows = [
        [LAPLACE + d(2 * u * v - 4.4), d(u * u)],
        [d(3.4 - 2 * u * v), LAPLACE - d(u * u)],
    ]
    return sps.block_array(rows, format="csc")


@pytest.mark.parametrize("method", ["kencarp4", "rodas4"])
def test_an_incomplete_factorisation_for_the_brusselator(method):
    grid = np.outer(X * (1 - X), np.ones(N))
    y0 = np.concatenate([4 * grid.ravel(), 3 * grid.T.ravel()])
    I = sps.eye_array(2 * N * N, format="csc")

    def ilu(t, y, c):
        system = I - c * brusselator_jacobian(t, y)
        return spla.LinearOperator(I.shape, spla.spilu(system, drop_tol=1e-3).solve)

    options = {"rtol": 1e-4, "atol": 1e-6}
    given = sk.solve(brusselator, (0.0, 0.25), y0, method, jac=brusselator_jacobian, **options)
    counts, setups = {}, Counted(ilu)
    for name, how in {"plain": {}, "ilu": {"precond": setups}}.items():
        counted = Counted(brusselator_product)
        solution = sk.solve(brusselator, (0.0, 0.25), y0, method, jvp=counted, **how, **options)
        assert solution.success
        np.testing.assert_allclose(solution.y[-1], given.y[-1], rtol=0, atol=1e-4)
        counts[name] = counted.calls
        if name == "ilu":
            # One for every step size or Jacobian, which the account calls a factorisation.
            assert setups.calls == solution.stats["nlu"]
    assert counts["ilu"] < counts["plain"] / 2


def test_with_a_mass_it_is_for_m_minus_c_j():
    n = 30
    M = sps.diags_array([1.0, 4.0, 1.0], offsets=[-1, 0, 1], shape=(n, n)) / (6 * (n + 1))
    A = sps.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(n, n)) * (n + 1)
    y0 = np.sin(np.pi * np.arange(1, n + 1) / (n + 1))
    jvp = Counted(lambda t, y, v: A @ v)
    solution = sk.solve(
        lambda t, y: A @ y,
        (0.0, 0.1),
        y0,
        "kencarp4",
        mass=M,
        jvp=jvp,
        precond=lambda t, y, c: spla.splu(sps.csc_array(M - c * A)).solve,
    )
    newton = sk.solve(lambda t, y: A @ y, (0.0, 0.1), y0, "kencarp4", mass=M, jac=sps.csc_array(A))
    np.testing.assert_allclose(solution.y[-1], newton.y[-1], rtol=0, atol=1e-6)
    # GMRES looks at the residual of its start, and after one product it is done.
    assert jvp.calls <= 3 * (solution.stats["nfev"] - jvp.calls)


def test_arguments_reach_it():
    seen = []

    def precond(t, y, c, a):
        seen.append(a)
        return lambda r: r / (1 + c * a)

    solution = sk.solve(
        lambda t, y, a: -a * y,
        (0.0, 1.0),
        np.ones(3),
        "kencarp4",
        jvp=lambda t, y, v, a: -a * v,
        precond=precond,
        args=(2.0,),
    )
    np.testing.assert_allclose(solution.y[-1], math.exp(-2), rtol=1e-5)
    assert set(seen) == {2.0}


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"precond": lambda t, y, c: None}, ValueError, "give jvp too"),
        ({"precond": np.eye(2), "jvp": len}, TypeError, "precond must be a function, not ndarray"),
        ({"jvp": np.eye(2)}, TypeError, "jvp must be a function, not ndarray"),
    ],
)
def test_what_is_no_preconditioner_is_refused(how, error, message):
    with pytest.raises(error, match=message):
        sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0, 2.0], "kencarp4", **how)


@pytest.mark.parametrize(
    ("precond", "error", "message"),
    [
        (lambda t, y, c: None, TypeError, "must return a function r ↦ x or a LinearOperator"),
        (
            lambda t, y, c: spla.LinearOperator((3, 3), lambda v: v),
            ValueError,
            r"operator of shape \(3, 3\); it must be \(2, 2\)",
        ),
        (lambda t, y, c: lambda r: r[:1], ValueError, r"returned shape \(1,\) for a vector"),
    ],
)
def test_what_a_preconditioner_returns_is_checked(precond, error, message):
    with pytest.raises(error, match=message):
        sk.solve(
            lambda t, y: -y,
            (0.0, 1.0),
            [1.0, 2.0],
            "kencarp4",
            jvp=lambda t, y, v: -v,
            precond=precond,
        )


def test_one_that_returns_nan_is_a_failure_and_said():
    solution = sk.solve(
        lambda t, y: -y,
        (0.0, 1.0),
        [1.0, 2.0],
        "kencarp4",
        jvp=lambda t, y, v: -v,
        precond=lambda t, y, c: lambda r: r * math.nan,
    )
    assert solution.status is sk.Status.newton_failed
    assert "GMRES" in solution.message


def test_explicit_methods_have_no_use_for_it():
    with pytest.raises(ValueError, match="is for implicit and Rosenbrock"):
        sk.solve(lambda t, y: -y, (0, 1), [1.0], "tsit5", precond=len, jvp=len)
