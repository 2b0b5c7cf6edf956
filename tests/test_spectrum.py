"""Eigenvalues from products: true residuals, the rates of theory, and no surprise on any matrix."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.sparse.linalg
from _tolerance import gamma
from hypothesis import given
from hypothesis import strategies as st
from problems import counted

import stiffkit as sk
from stiffkit.stiffness import (
    JacobianOperator,
    arnoldi,
    eigenvalues,
    lanczos,
    nonlinear_power_iteration,
    power_iteration,
    spectral_abscissa,
)
from stiffkit.stiffness.krylov import Krylov
from stiffkit.stiffness.spectrum import Rows

torch = pytest.importorskip("torch")

DTYPES = [np.float64, np.float32]
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 24)


# Matrices of prescribed spectrum ------------------------------------------------------------------


def orthogonal(n, rng):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def with_spectrum(values, rng):
    """Symmetric, with these eigenvalues; also their eigenvectors."""
    Q = orthogonal(len(values), rng)
    A = (Q * values) @ Q.T
    return (A + A.T) / 2, Q


def blocks(pairs, n):
    """Block diagonal with eigenvalues a ± ib, the last of them real if n is odd."""
    A = np.zeros((n, n))
    for i, (a, b) in zip(range(0, n, 2), pairs, strict=False):
        A[i : i + 2, i : i + 2] = [[a, b], [-b, a]] if i + 1 < n else a
    return A


def normal_from(pairs, n, rng):
    Q = orthogonal(n, rng)
    return Q @ blocks(pairs, n) @ Q.T


def symmetric(n, rng):
    return with_spectrum(rng.uniform(-3, 1, n), rng)[0]


def degenerate(n, rng):
    return with_spectrum(rng.choice([-3.0, -1.0], n), rng)[0]


def plus_minus(n, rng):
    values = rng.uniform(-2, 2, n)
    values[:2] = [3.0, -3.0][: min(n, 2)]
    return with_spectrum(values, rng)[0]


def normal(n, rng):
    return normal_from(rng.uniform(-2, 2, (n, 2)), n, rng)


def rotation(n, rng):
    angles = rng.uniform(0, np.pi, n)
    return normal_from(np.stack([np.cos(angles), np.sin(angles)], -1), n, rng)


def skew(n, rng):
    A = rng.standard_normal((n, n))
    return A - A.T


def departed(n, rng):
    """Real spectrum in [-3, 1], and Henrici's departure from normality 5."""
    N = np.triu(rng.standard_normal((n, n)), 1)
    N *= 5.0 / max(np.linalg.norm(N), 1e-300)
    Q = orthogonal(n, rng)
    return Q @ (np.diag(rng.uniform(-3, 1, n)) + N) @ Q.T


def low_rank(n, rng):
    r = min(n, 2)
    return rng.standard_normal((n, r)) @ rng.standard_normal((r, n)) / n


def laplacian(n, rng):
    off = np.ones(n - 1)
    return (n + 1) ** 2 * (np.diag(-2 * np.ones(n)) + np.diag(off, 1) + np.diag(off, -1))


def grcar(n, rng):
    return np.tri(n, n, 3) - np.tri(n, n, -1) - np.eye(n, k=-1)


def jordan(n, rng):
    return np.eye(n, k=1) - np.eye(n)


def nilpotent(n, rng):
    return np.eye(n, k=1)


def zero(n, rng):
    return np.zeros((n, n))


def identity(n, rng):
    return np.eye(n)


def graded(n, rng):
    """Scales from 1 to 1e-12: what is small drowns in the rounding of what is large."""
    return np.diag(np.logspace(0, -12, n))


SYMMETRIC = {f.__name__: f for f in (symmetric, degenerate, plus_minus, laplacian, identity, zero)}
NORMAL = {**SYMMETRIC, **{f.__name__: f for f in (normal, rotation, skew, graded)}}
FAMILIES = {**NORMAL, **{f.__name__: f for f in (departed, low_rank, grcar, jordan, nilpotent)}}


def matvec(A):
    """v -> A v, with the attribute `calls`."""

    def product(v):
        product.calls += 1
        return A @ v

    product.calls = 0
    return product


def batched_matvec(A):
    """Rows v_b -> A_b v_b for A of shape (B, n, n)."""

    def product(v):
        product.calls += 1
        return (A @ v[..., None])[..., 0]

    product.calls = 0
    return product


# Rounding of what is reported ---------------------------------------------------------------------


def norm(A):
    """Frobenius norm in double precision: bounds the 2-norm, and is what rounding sees."""
    return float(np.linalg.norm(A.astype(np.complex128)))


def krylov_rounding(A, k, restarts=0):
    """Error of A V = V H + v b*: a product, two orthogonalisations, Schur forms on restarts.

    Columns are wrong by γ_(n+4k) ‖A‖ each, and a combination of k of them by √k as much; a restart
    multiplies with orthogonal matrices of size k, which LAPACK makes to a few k roundings.
    """
    n = len(A)
    k = min(k, n)
    # LAPACK's part is done in double precision even for float32, so this is on the safe side.
    return (1 + restarts) * gamma(n + 16 * k, A.dtype) * math.sqrt(k) * norm(A)


def power_rounding(A):
    """Error of the power method's residuals.

    The second direction of the two-dimensional space is a difference of unit vectors, of norm √eps
    at least; its image under A is made by the same division.
    """
    eps = float(np.finfo(A.dtype).eps)
    return 2 * gamma(len(A) + 10, A.dtype) / math.sqrt(eps) * norm(A)


def true_residuals(A, values, vectors):
    A = A.astype(np.complex128)
    return np.linalg.norm(A @ vectors - vectors * values, axis=0)


def distance(values, spectrum):
    """Distance of each value from the nearest point of the spectrum."""
    return np.abs(np.subtract.outer(np.atleast_1d(values), np.atleast_1d(spectrum))).min(axis=1)


def same_points(a, b, tol):
    """Assert that two sets of points agree: order and multiplicity are no matter."""
    assert distance(a, b).max() <= tol
    assert distance(b, a).max() <= tol


def finite(found):
    values = found.values if hasattr(found, "values") else found.value
    residuals = found.residuals if hasattr(found, "residuals") else found.residual
    vectors = found.vectors if hasattr(found, "vectors") else found.vector
    return all(np.isfinite(np.asarray(x)).all() for x in (values, residuals, vectors))


# Residuals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
@given(n=sizes, seed=seeds, tol=st.sampled_from([1e-1, 1e-2, 1e-6, 0.0]))
def test_the_residual_of_the_power_iteration_is_true(family, dtype, n, seed, tol):
    rng = np.random.default_rng(seed)
    A = FAMILIES[family](n, rng).astype(dtype)
    start = rng.standard_normal(n).astype(dtype)
    found = power_iteration(matvec(A), start, tol=tol, max_iterations=60)
    slack = power_rounding(A)
    residual = true_residuals(A, found.value, found.vector[:, None])[0]
    assert abs(found.residual - residual) <= slack
    np.testing.assert_allclose(np.linalg.norm(found.vector), 1.0, rtol=gamma(n + 10, dtype))
    assert found.converged == (found.residual <= tol * abs(found.value))
    # What `converged` promises, with nothing but A and the pair.
    if found.converged:
        assert residual <= tol * abs(found.value) + slack


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
@given(
    n=sizes,
    seed=seeds,
    k=st.integers(1, 30),
    which=st.sampled_from(["LM", "LR", "SR", "LI"]),
    restarts=st.integers(0, 4),
    tol=st.sampled_from([1e-3, 1e-8, 0.0]),
)
def test_the_residuals_of_arnoldi_are_true(family, dtype, n, seed, k, which, restarts, tol):
    rng = np.random.default_rng(seed)
    A = FAMILIES[family](n, rng).astype(dtype)
    start = rng.standard_normal(n).astype(dtype)
    found = arnoldi(matvec(A), start, k=k, which=which, restarts=restarts, tol=tol)
    residuals = true_residuals(A, found.values, found.vectors)
    slack = krylov_rounding(A, k, restarts)
    np.testing.assert_allclose(found.residuals, residuals, rtol=0, atol=slack)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=0), 1.0, rtol=gamma(n + 30))
    # Where rounding allows no more, no more is asked for.
    least = 10 * float(np.finfo(dtype).eps)
    limit = (max(tol, least) if tol else 0.0) * np.abs(found.values).max()
    np.testing.assert_array_equal(found.converged, found.residuals <= limit)
    assert (residuals[found.converged] <= limit + slack).all()
    # Ordered as asked.
    key = {"LM": np.abs, "LR": np.real, "SR": lambda z: -z.real, "LI": lambda z: abs(z.imag)}
    assert (np.diff(key[which](found.values)) <= 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", SYMMETRIC)
@given(n=sizes, seed=seeds, k=st.integers(1, 30))
def test_the_residuals_of_lanczos_are_true(family, dtype, n, seed, k):
    rng = np.random.default_rng(seed)
    A = SYMMETRIC[family](n, rng).astype(dtype)
    found = lanczos(matvec(A), rng.standard_normal(n).astype(dtype), k=k)
    residuals = true_residuals(A, found.values, found.vectors)
    slack = krylov_rounding(A, k)
    np.testing.assert_allclose(found.residuals, residuals, rtol=0, atol=slack)
    assert found.values.dtype == np.float64
    assert (np.diff(np.abs(found.values)) <= 0).all()
    limit = 1e-8 * np.abs(found.values).max()
    assert (residuals[found.converged] <= limit + slack).all()


@pytest.mark.parametrize("family", NORMAL)
@given(n=sizes, seed=seeds, k=st.integers(1, 12))
def test_an_eigenvalue_of_a_normal_matrix_lies_within_the_residual(family, n, seed, k):
    rng = np.random.default_rng(seed)
    A = NORMAL[family](n, rng)
    spectrum = np.linalg.eigvals(A)
    # LAPACK's eigenvalues of a normal matrix are off by its backward error, a few n roundings.
    slack = gamma(10 * n) * norm(A)
    start = rng.standard_normal(n)
    found = power_iteration(matvec(A), start, max_iterations=k, tol=0.0)
    assert distance(found.value, spectrum) <= found.residual + slack + power_rounding(A)
    slack += krylov_rounding(A, k)
    found = [arnoldi(matvec(A), start, k=k)]
    found += [lanczos(matvec(A), start, k=k)] if family in SYMMETRIC else []
    for result in found:
        assert (distance(result.values, spectrum) <= result.residuals + slack).all()


@pytest.mark.parametrize("family", FAMILIES)
@given(n=sizes, seed=seeds, k=st.integers(1, 12))
def test_any_value_is_an_eigenvalue_of_a_matrix_at_the_distance_of_the_residual(family, n, seed, k):
    """σ_min(A − θI) is the distance to the nearest matrix that has θ: for non-normal ones too."""
    rng = np.random.default_rng(seed)
    A = FAMILIES[family](n, rng)

    def away(theta):
        return np.linalg.svd(A - theta * np.eye(n), compute_uv=False)[-1]

    found = power_iteration(matvec(A), rng.standard_normal(n), max_iterations=k, tol=0.0)
    assert away(found.value) <= found.residual + power_rounding(A)
    found = arnoldi(matvec(A), rng.standard_normal(n), k=k)
    for theta, residual in zip(found.values, found.residuals, strict=True):
        assert away(theta) <= residual + krylov_rounding(A, k) + gamma(10 * n) * norm(A)


@given(seed=seeds, n=st.integers(20, 40), decades=st.floats(0.5, 1.0))
def test_residuals_of_a_space_that_is_nearly_invariant_are_true(seed, n, decades):
    """LAPACK balances H, whose entries span 1e-30: its small eigenvectors are poor, and told so."""
    rng = np.random.default_rng(seed)
    A = 10.0 ** (-decades * np.arange(n))[:, None] * (np.ones((n, n)) + np.eye(n))
    found = arnoldi(matvec(A), rng.standard_normal(n), k=n)
    away = np.linalg.norm(A @ found.vectors - found.vectors * found.values, axis=0)
    assert (away <= found.residuals + krylov_rounding(A, n)).all()


# Rates --------------------------------------------------------------------------------------------


@given(
    seed=seeds,
    n=st.integers(3, 20),
    ratio=st.floats(0.3, 0.98),
    k=st.integers(1, 30),
)
def test_the_power_iteration_converges_quadratically_in_the_ratio_if_symmetric(seed, n, ratio, k):
    """0 ≤ λ₁ − θ ≤ (λ₁ − λ_n) tan²φ (λ₂/λ₁)^(2(k−1)): k products see A^(k−1) x."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([[1.0, ratio], rng.uniform(0, ratio, n - 2)])
    A, Q = with_spectrum(values, rng)
    start = rng.standard_normal(n)
    start /= np.linalg.norm(start)
    cosine = abs(Q[:, 0] @ start)
    found = power_iteration(matvec(A), start, tol=0.0, max_iterations=k)
    assert found.value.imag == 0
    error = 1.0 - found.value.real
    bound = (1.0 - values.min()) * (1 / cosine**2 - 1) * ratio ** (2 * (k - 1))
    assert -power_rounding(A) <= error <= bound + power_rounding(A)


@given(seed=seeds, n=st.integers(4, 20), ratio=st.floats(0.3, 0.95), k=st.integers(2, 40))
def test_the_residual_falls_with_the_ratio_if_normal(seed, n, ratio, k):
    """‖A x − θx‖ ≤ ‖A − λ₁I‖ sin φ_(k−1), tan φ_(k−1) ≤ tan φ (|λ₂|/|λ₁|)^(k−1)."""
    rng = np.random.default_rng(seed)
    n += n % 2 == 0  # the odd one is the real dominant value
    angles = rng.uniform(0, np.pi, n)
    pairs = ratio * np.stack([np.cos(angles), np.sin(angles)], -1)
    pairs[n // 2] = 1.0
    Q = orthogonal(n, rng)
    A = Q @ blocks(pairs, n) @ Q.T
    start = rng.standard_normal(n)
    cosine = abs(Q[:, -1] @ start) / np.linalg.norm(start)
    found = power_iteration(matvec(A), start, tol=0.0, max_iterations=k)
    bound = 2.0 * math.sqrt(1 / cosine**2 - 1) * ratio ** (k - 1)
    assert found.residual <= bound + power_rounding(A)
    if bound < 0.5 * (1 - ratio):
        assert abs(found.value - 1.0) <= bound + power_rounding(A)


@pytest.mark.parametrize("kind", ["complex pair", "plus and minus"])
@given(
    seed=seeds,
    ratio=st.floats(0.1, 0.9),
    angle=st.floats(0.3, np.pi - 0.3),
    k=st.integers(2, 80),
)
def test_pairs_of_one_modulus_are_found_at_the_ratio_of_the_third(kind, seed, ratio, angle, k):
    """The last two vectors span the pair's plane up to τ = tan φ |λ₃/λ₁|^(k−2).

    With s the sine of the angle between their parts in the plane, every unit vector of their span
    has a part of at most δ = 2τ/s outside it; its Ritz values are then off by O(δ²), and the
    residual is at most 2δ‖A‖ to first order, doubled here for the rest.
    """
    rng = np.random.default_rng(seed)
    n = 10
    angles = rng.uniform(0, np.pi, n)
    pairs = ratio * np.stack([np.cos(angles), np.sin(angles)], -1)
    pairs[0] = [math.cos(angle), math.sin(angle)]
    D = blocks(pairs, n)
    if kind == "plus and minus":
        D[:2, :2] = np.diag([1.0, -1.0])
    Q = orthogonal(n, rng)
    A = Q @ D @ Q.T
    start = rng.standard_normal(n)
    inside = Q[:, :2].T @ start
    tau = np.linalg.norm(start - Q[:, :2] @ inside) / np.linalg.norm(inside) * ratio ** (k - 2)
    image = D[:2, :2] @ inside
    sine = abs(inside[0] * image[1] - inside[1] * image[0]) / (inside @ inside)
    found = power_iteration(matvec(A), start, tol=0.0, max_iterations=k)
    bound = 8 * tau / sine
    if bound < 0.1:  # where "to first order" means something
        assert found.residual <= bound + power_rounding(A)
        wanted = np.linalg.eigvals(D[:2, :2])
        assert distance(found.value, wanted) <= bound + power_rounding(A)


@given(
    seed=seeds,
    large=st.floats(1.0, 5.0),
    share=st.floats(-0.95, 0.95),
    sign=st.sampled_from([1.0, -1.0]),
)
def test_of_two_values_that_the_start_holds_the_larger_is_taken(seed, large, share, sign):
    """The plane of the two is invariant, so that both of its Ritz pairs are exact."""
    rng = np.random.default_rng(seed)
    A, Q = with_spectrum(np.array([sign * large, share * large, 0.3, -0.2]), rng)
    start = Q[:, 0] + rng.uniform(0.5, 2.0) * Q[:, 1]
    found = power_iteration(matvec(A), start, tol=1e-8, max_iterations=3)
    assert found.converged
    assert abs(found.value - sign * large) <= power_rounding(A)


def test_a_defective_eigenvalue_is_found_slowly_but_surely():
    """Jordan blocks of size 3: the error falls as 1/k, four times for four."""
    A = np.zeros((6, 6))
    A[:3, :3] = np.eye(3) + np.eye(3, k=1)
    A[3:, 3:] = 0.5 * np.eye(3)
    start = np.random.default_rng(0).standard_normal(6)
    errors = [
        abs(power_iteration(matvec(A), start, tol=0.0, max_iterations=k).value - 1.0)
        for k in (50, 200, 800)
    ]
    assert 3 < errors[0] / errors[1] < 5
    assert 3 < errors[1] / errors[2] < 5


def cheb(m, x):
    """T_m(x) for x ≥ 1, infinite x included."""
    return math.cosh(m * math.acosh(x)) if m else 1.0


@given(seed=seeds, n=st.integers(4, 24), k=st.integers(1, 10), gap=st.floats(0.01, 2.0))
def test_lanczos_is_as_good_as_kaniel_paige_and_saad_say(seed, n, k, gap):
    """0 ≤ λ_i − θ_i ≤ (λ₁ − λ_n) (κ_i tan φ_i / T_(k−i)(1 + 2γ_i))², Saad (2011), theorem 6.4.

    φ_i is the angle of the start vector with the i-th eigenvector, γ_i = (λ_i − λ_(i+1)) /
    (λ_(i+1) − λ_n) and κ_i = Π_(j<i) (θ_j − λ_n) / (θ_j − λ_i). The lower end is that of −A.
    """
    rng = np.random.default_rng(seed)
    k = min(k, n - 1)
    values = np.sort(np.concatenate([rng.uniform(-1, 1, n - 1), [1.0 + gap]]))[::-1]
    A, Q = with_spectrum(values, rng)
    start = rng.standard_normal(n)
    theta = np.sort(lanczos(matvec(A), start, k=k).values)[::-1]
    slack = krylov_rounding(A, k) + gamma(10 * n) * norm(A)
    cosines = np.abs(Q.T @ start) / np.linalg.norm(start)
    for lam, ritz, cosine in (
        (values, theta, cosines),
        (-values[::-1], -theta[::-1], cosines[::-1]),
    ):
        for i in range(min(k, 3)):
            spread = lam[0] - lam[-1]
            ratio = (lam[i] - lam[i + 1]) / (lam[i + 1] - lam[-1]) if i + 2 < n else math.inf
            before = ritz[:i]
            if (before - lam[i] <= 1e-6).any():
                break  # κ is of no use where an earlier Ritz value has not yet come this far
            kappa = np.prod((before - lam[-1]) / (before - lam[i]))
            tangent = math.sqrt(1 / cosine[i] ** 2 - 1)
            bound = spread * (kappa * tangent / cheb(k - i - 1, 1 + 2 * ratio)) ** 2
            assert -slack <= lam[i] - ritz[i] <= bound + slack


@given(seed=seeds, n=st.integers(2, 24))
def test_ritz_values_move_outwards_as_the_space_grows(seed, n):
    """And never past the ends of the spectrum: Cauchy's interlacing."""
    rng = np.random.default_rng(seed)
    A = symmetric(n, rng)
    start = rng.standard_normal(n)
    ends = np.linalg.eigvalsh(A)[[0, -1]]
    slack = krylov_rounding(A, n) + gamma(10 * n) * norm(A)
    low, high = math.inf, -math.inf
    for k in range(1, n + 1):
        values = lanczos(matvec(A), start, k=k).values
        assert ends[0] - slack <= values.min() <= low + slack
        assert high - slack <= values.max() <= ends[1] + slack
        low, high = values.min(), values.max()
    np.testing.assert_allclose([low, high], ends, rtol=0, atol=slack)


@given(seed=seeds, n=st.integers(2, 24), distinct=st.integers(1, 6))
def test_no_ghosts_appear_however_long_lanczos_runs(seed, n, distinct):
    """Every value is found, and none more often than it occurs.

    In exact arithmetic a degenerate value is found once. Rounding may show further copies, which
    are eigenvalues too; copies beyond the multiplicity would be ghosts.
    """
    rng = np.random.default_rng(seed)
    wanted = np.linspace(-3.0, 2.0, distinct)
    values = np.concatenate([wanted, rng.choice(wanted, n)])[:n]
    A, _ = with_spectrum(values, rng)
    found = lanczos(matvec(A), rng.standard_normal(n), k=n + 20)
    nearest = np.abs(np.subtract.outer(found.values, wanted))
    assert nearest.min(axis=1).max() <= krylov_rounding(A, n) + gamma(10 * n) * norm(A)
    assert found.converged.all()
    for lam in np.unique(values):
        copies = (np.abs(found.values - lam) < 0.1).sum()
        assert 1 <= copies <= (values == lam).sum()


@given(seed=seeds, n=st.integers(3, 24), dimension=st.integers(1, 3))
def test_a_start_in_an_invariant_subspace_stays_there(seed, n, dimension):
    rng = np.random.default_rng(seed)
    values = np.linspace(1.0, n, n)
    start = np.zeros(n)
    start[:dimension] = rng.uniform(0.5, 1.0, dimension)
    for estimate in (lanczos, arnoldi):
        found = estimate(matvec(np.diag(values)), start, k=20)
        np.testing.assert_allclose(found.values.real, values[:dimension][::-1], rtol=1e-12)
        assert found.converged.all()
        assert found.products == dimension


# Invariance ---------------------------------------------------------------------------------------


def krylov_growth(A, start, k):
    """How much k Arnoldi steps can amplify a perturbation, to first order: Π 2‖A‖/β_j.

    Each step multiplies by A, subtracts, and divides by the norm β_j of what is left.
    """
    V, growth, size = [start / np.linalg.norm(start)], 1.0, np.linalg.norm(A, 2)
    for _ in range(min(k, len(A)) - 1):
        w = A @ V[-1]
        for _ in range(2):
            w = w - np.array(V).T @ (np.array(V).conj() @ w)
        growth *= 2 * size / np.linalg.norm(w)
        V.append(w / np.linalg.norm(w))
    V = np.array(V).T
    X = np.linalg.eig(V.conj().T @ A @ V)[1]
    return growth, np.linalg.cond(X)


def perturbed(A, start, k):
    """Bound the difference of Ritz values in exact and in rounded arithmetic (Bauer-Fike)."""
    growth, condition = krylov_growth(A, start, k)
    return condition * growth * gamma(len(A) + 8 * k) * norm(A)


GENERIC = [symmetric, normal, departed, skew]
"""Families whose Krylov spaces do not close early: their Ritz values are well defined."""
small_spaces = st.integers(1, 5)


@pytest.mark.parametrize("power", [500, -500])  # 2^±500 ≈ 1e±150.5: an exact change of scale
@pytest.mark.parametrize("family", FAMILIES)
def test_scaling_the_matrix_scales_the_results_and_nothing_else(family, power):
    rng = np.random.default_rng(5)
    A = FAMILIES[family](9, rng)
    start = rng.standard_normal(9)
    scaled = np.ldexp(A, power)
    for estimate in (
        lambda A: power_iteration(matvec(A), start, tol=1e-6),
        lambda A: arnoldi(matvec(A), start, k=5, restarts=3),
        lambda A: arnoldi(matvec(A), start, k=5, restarts=3, which="LR"),
        lambda A: lanczos(matvec(A), start, k=5),
    ):
        if family not in SYMMETRIC and estimate.__code__.co_names[0] == "lanczos":
            continue
        one, other = estimate(A), estimate(scaled)
        assert finite(other)
        assert one.products == other.products
        pair = hasattr(one, "value")
        fields = ("value", "residual") if pair else ("values", "residuals")
        for field in fields:
            unscaled = np.asarray(getattr(other, field)) / 2.0**power
            slack = gamma(200) * norm(A)  # LAPACK may rescale by a factor of its own
            np.testing.assert_allclose(unscaled, getattr(one, field), rtol=0, atol=slack)


@pytest.mark.parametrize("family", GENERIC)
@given(seed=seeds, shift=st.floats(-10, 10), k=small_spaces)
def test_shifting_the_matrix_shifts_the_krylov_values(family, seed, shift, k):
    rng = np.random.default_rng(seed)
    A, start = family(12, rng), rng.standard_normal(12)
    B = A + shift * np.eye(12)
    slack = perturbed(A, start, k) + perturbed(B, start, k)
    same_points(
        arnoldi(matvec(B), start, k=k).values, arnoldi(matvec(A), start, k=k).values + shift, slack
    )
    if family is symmetric:
        values = [lanczos(matvec(M), start, k=k).values for M in (A, B)]
        same_points(values[0] + shift, values[1], slack)


@pytest.mark.parametrize("family", GENERIC)
@given(seed=seeds, k=small_spaces)
def test_a_change_of_orthogonal_basis_changes_nothing(family, seed, k):
    rng = np.random.default_rng(seed)
    A, start, Q = family(12, rng), rng.standard_normal(12), orthogonal(12, rng)
    B = Q @ A @ Q.T
    # The two products that make B are roundings too: as many as two more products of A.
    slack = 3 * perturbed(A, start, k)
    one, other = (arnoldi(matvec(M), x, k=k) for M, x in ((A, start), (B, Q @ start)))
    same_points(one.values, other.values, slack)


@given(seed=seeds)
def test_a_change_of_basis_leaves_the_power_iteration_where_it_was(seed):
    """Two estimates of one isolated eigenvalue differ by no more than their residuals' sum."""
    rng = np.random.default_rng(seed)
    A, _ = with_spectrum(np.concatenate([[-4.0], rng.uniform(-3, 1, 11)]), rng)
    Q, start = orthogonal(12, rng), rng.standard_normal(12)
    one = power_iteration(matvec(A), start, tol=1e-3, max_iterations=300)
    other = power_iteration(matvec(Q @ A @ Q.T), Q @ start, tol=1e-3, max_iterations=300)
    assert one.converged
    assert other.converged
    assert abs(one.iterations - other.iterations) <= 1
    assert abs(one.value - other.value) <= one.residual + other.residual
    assert abs(one.value + 4.0) <= one.residual + power_rounding(A)


@pytest.mark.parametrize("family", GENERIC)
@given(seed=seeds, k=small_spaces)
def test_torch_finds_what_numpy_finds(family, seed, k):
    rng = np.random.default_rng(seed)
    A, start = family(12, rng), rng.standard_normal(12)
    slack = 2 * perturbed(A, start, k)
    A_t, start_t = torch.as_tensor(A), torch.as_tensor(start)
    one, other = arnoldi(matvec(A), start, k=k), arnoldi(matvec(A_t), start_t, k=k)
    same_points(one.values, other.values, slack)
    assert one.products == other.products
    assert isinstance(other.values, np.ndarray)
    assert isinstance(other.vectors, np.ndarray)
    one, other = (
        power_iteration(matvec(M), x, tol=0.0, max_iterations=2 * k)
        for M, x in ((A, start), (A_t, start_t))
    )
    assert abs(one.residual - other.residual) <= 1e-6 * norm(A)
    if family is symmetric:
        values = [lanczos(matvec(M), x, k=k).values for M, x in ((A, start), (A_t, start_t))]
        same_points(*values, slack)


@pytest.mark.parametrize("family", GENERIC)
@given(seed=seeds, k=small_spaces)
def test_a_real_matrix_in_complex_clothes_is_the_same_matrix(family, seed, k):
    rng = np.random.default_rng(seed)
    A, start = family(12, rng), rng.standard_normal(12)
    slack = 2 * perturbed(A, start, k)
    one = arnoldi(matvec(A), start, k=k)
    same_points(one.values, arnoldi(matvec(A + 0j), start + 0j, k=k).values, slack)
    # A complex start and a common phase: the same space.
    same_points(one.values, arnoldi(matvec(A), start * np.exp(0.7j), k=k).values, slack)


@given(seed=seeds, k=small_spaces)
def test_a_hermitian_matrix_is_its_real_embedding(seed, k):
    """[[Re A, −Im A], [Im A, Re A]] has A's spectrum twice; Lanczos walks both alike."""
    rng = np.random.default_rng(seed)
    Z = rng.standard_normal((8, 8)) + 1j * rng.standard_normal((8, 8))
    A, x = Z + Z.conj().T, rng.standard_normal(8) + 1j * rng.standard_normal(8)
    B = np.block([[A.real, -A.imag], [A.imag, A.real]])
    y = np.concatenate([x.real, x.imag])
    one, other = lanczos(matvec(A), x, k=k), lanczos(matvec(B), y, k=k)
    assert one.values.dtype == np.float64
    np.testing.assert_allclose(one.values, other.values, rtol=0, atol=2 * perturbed(B, y, k))
    assert (distance(one.values, np.linalg.eigvalsh(A)) <= one.residuals + 1e-12).all()


@pytest.mark.parametrize("n", [6, None])
def test_a_complex_matrix_may_be_met_with_a_real_start(n):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((6, 6)) + 1j * rng.standard_normal((6, 6))
    start = rng.standard_normal(6) if n is None else n
    wanted = np.linalg.eigvals(A)
    same_points(arnoldi(matvec(A), start).values, wanted, 1e-12)
    same_points(
        lanczos(matvec(A + A.conj().T), start).values, np.linalg.eigvalsh(A + A.conj().T), 1e-12
    )
    found = power_iteration(matvec(A), start, tol=1e-8, max_iterations=2000)
    assert found.converged
    assert abs(found.value - wanted[np.abs(wanted).argmax()]) <= 1e-6
    found = spectral_abscissa(matvec(A), start, k=4, restarts=100)
    assert found.converged
    assert abs(found.value - wanted[wanted.real.argmax()]) <= 1e-4


# Batches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@given(seed=seeds, k=small_spaces)
def test_a_batch_is_its_samples_one_by_one(backend, seed, k):
    rng = np.random.default_rng(seed)
    A = np.stack([family(12, rng) for family in GENERIC])
    start = rng.standard_normal((len(A), 12))
    args = (A, start) if backend == "numpy" else (torch.as_tensor(A), torch.as_tensor(start))
    product = batched_matvec(args[0])
    together = arnoldi(product, args[1], k=k, batched=True)
    assert product.calls == together.products == k
    power = power_iteration(batched_matvec(args[0]), args[1], batched=True, tol=0.05)
    for b, (M, x) in enumerate(zip(A, start, strict=True)):
        alone = arnoldi(matvec(M), x, k=k)
        same_points(together.values[b], alone.values, 2 * perturbed(M, x, k))
        residuals = true_residuals(M, together.values[b], together.vectors[b])
        np.testing.assert_allclose(
            together.residuals[b], residuals, rtol=0, atol=krylov_rounding(M, k)
        )
        assert together.field_of_values[0].shape == (len(A),)
        alone = power_iteration(matvec(M), x, tol=0.05)
        assert power.iterations[b] == alone.iterations
        assert power.converged[b] == alone.converged
        residual = true_residuals(M, power.value[b], power.vector[b][:, None])[0]
        assert abs(power.residual[b] - residual) <= power_rounding(M)
        if alone.converged:
            assert abs(power.residual[b] - alone.residual) <= 1e-4 * norm(M)
    symmetric_part = (args[0] + args[0].swapaxes(1, 2)) / 2
    values = lanczos(batched_matvec(symmetric_part), args[1], k=k, batched=True).values
    for b, (M, x) in enumerate(zip(np.asarray(symmetric_part), start, strict=True)):
        if np.linalg.norm(M) > 1e-8:  # of a skew matrix nothing but rounding is left
            same_points(values[b], lanczos(matvec(M), x, k=k).values, 2 * perturbed(M, x, k))


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_samples_whose_space_closes_early_do_not_disturb_the_others(backend, k):
    rng = np.random.default_rng(2)
    names = ["zero", "identity", "degenerate", "symmetric", "laplacian", "plus_minus"]
    A = np.stack([SYMMETRIC[name](7, rng) for name in names])
    start = rng.standard_normal((len(A), 7))
    args = (A, start) if backend == "numpy" else (torch.as_tensor(A), torch.as_tensor(start))
    for estimate in (arnoldi, lanczos):
        together = estimate(batched_matvec(args[0]), args[1], k=k, batched=True)
        assert finite(together)
        for b, (M, x) in enumerate(zip(A, start, strict=True)):
            alone = estimate(matvec(M), x, k=k)
            m = len(alone.values)
            # Converged values of a symmetric matrix, and Ritz values of small spaces, are well
            # conditioned; rounding grows in between, where nothing is compared.
            if k <= 5 or alone.converged.all():
                same_points(together.values[b, :m], alone.values, 1e-10 * norm(M))
            # A closed space has nothing more to say: its last value stands for the rest.
            np.testing.assert_array_equal(together.values[b, m:], together.values[b, m - 1])
            residuals = true_residuals(M, together.values[b], together.vectors[b])
            np.testing.assert_allclose(
                together.residuals[b], residuals, rtol=0, atol=krylov_rounding(M, 7)
            )


def test_samples_of_the_power_iteration_stop_at_their_own_time():
    A = np.stack([np.diag([1.0, r, r**2, -r, 0.3]) for r in (0.1, 0.8)] + [np.zeros((5, 5))])
    start = np.ones((3, 5))
    together = power_iteration(batched_matvec(A), start, tol=1e-6, batched=True)
    alone = [power_iteration(matvec(M), np.ones(5), tol=1e-6) for M in A]
    np.testing.assert_array_equal(together.iterations, [one.iterations for one in alone])
    assert len(set(together.iterations)) == 3
    for b, one in enumerate(alone):
        np.testing.assert_allclose(together.value[b], one.value, rtol=1e-12)
        np.testing.assert_allclose(together.vector[b], one.vector, rtol=1e-9, atol=1e-12)
    assert together.converged.all()
    assert together.products == max(together.iterations)


# Against LAPACK and ARPACK ------------------------------------------------------------------------


@pytest.mark.parametrize("family", [symmetric, normal, departed, rotation, skew, grcar, laplacian])
@given(n=st.integers(1, 16), seed=seeds)
def test_a_full_krylov_space_has_the_whole_spectrum(family, n, seed):
    rng = np.random.default_rng(seed)
    A = family(n, rng)
    found = arnoldi(matvec(A), rng.standard_normal(n), k=n + 5)
    wanted, X = np.linalg.eig(A)
    # Bauer-Fike: backward errors of the two eigenproblems, times the condition of the vectors.
    slack = np.linalg.cond(X) * (krylov_rounding(A, n) + gamma(10 * n) * norm(A))
    assert (distance(found.values, wanted) <= slack).all()
    if len(found.values) == n:  # no degenerate value, and no early end
        assert (distance(wanted, found.values) <= slack).all()
    exact = eigenvalues(A)
    same_points(exact.values, wanted, slack)


@given(n=st.integers(1, 20), seed=seeds, k=st.integers(1, 25))
def test_the_field_of_values_is_bounded_from_inside(n, seed, k):
    rng = np.random.default_rng(seed)
    A = departed(n, rng)
    found = arnoldi(matvec(A), rng.standard_normal(n), k=k)
    ends = np.linalg.eigvalsh((A + A.T) / 2)[[0, -1]]
    slack = krylov_rounding(A, k) + gamma(10 * n) * norm(A)
    low, high = found.field_of_values
    assert ends[0] - slack <= low <= high <= ends[1] + slack
    # Ritz values lie in the field of values of the projection.
    assert (found.values.real >= low - slack).all()
    assert (found.values.real <= high + slack).all()
    if k >= n:
        np.testing.assert_allclose([low, high], ends, rtol=0, atol=slack)
    exact = eigenvalues(A)
    np.testing.assert_allclose(exact.field_of_values, ends, rtol=0, atol=slack)


def transport(n):
    """Advection, diffusion and decay on n points, at a cell Péclet number of 2 : non-normal."""
    return (
        np.diag(-2.1 * np.ones(n))
        + np.diag(1.5 * np.ones(n - 1), -1)
        + np.diag(0.5 * np.ones(n - 1), 1)
    )


def test_lanczos_agrees_with_eigsh_and_svds():
    rng = np.random.default_rng(0)
    A, start = laplacian(60, rng), rng.standard_normal(60)
    found = lanczos(matvec(A), 60, k=60)
    for which, pick in (("LM", np.min), ("SA", np.min), ("LA", np.max)):
        wanted = scipy.sparse.linalg.eigsh(A, k=1, which=which, v0=start)[0][0]
        np.testing.assert_allclose(pick(found.values), wanted, rtol=1e-10)
    B = rng.standard_normal((40, 40))
    norm_2 = math.sqrt(lanczos(matvec(B.T @ B), 40, k=40).values[0])
    wanted = scipy.sparse.linalg.svds(B, k=1, return_singular_vectors=False, v0=np.ones(40))[0]
    np.testing.assert_allclose(norm_2, wanted, rtol=1e-10)


@pytest.mark.parametrize("which", ["LM", "LR", "SR", "LI"])
@pytest.mark.parametrize("seed", range(4))
def test_restarted_arnoldi_agrees_with_eigs(which, seed):
    A = np.random.default_rng(seed).standard_normal((80, 80))
    found = arnoldi(matvec(A), 80, k=16, which=which, restarts=300, tol=1e-10)
    wanted = scipy.sparse.linalg.eigs(A, k=4, which=which, ncv=20, v0=np.ones(80))[0]
    # A simple eigenvalue is off by its condition number times the residual, 1e-10 ‖A‖ here.
    assert found.converged[0]
    assert distance(found.values[0], wanted) <= 1e-7
    key = {"LM": np.abs, "LR": np.real, "SR": lambda z: -z.real, "LI": lambda z: abs(z.imag)}[which]
    assert key(found.values[0]) >= key(wanted).max() - 1e-7


# Restarts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [symmetric, normal, departed, skew, plus_minus, rotation, grcar])
@given(
    seed=seeds,
    n=st.integers(5, 24),
    k=st.integers(3, 9),
    which=st.sampled_from([np.abs, np.real, np.imag]),
    complex_=st.booleans(),
)
def test_the_krylov_relation_survives_restarts(family, seed, n, k, which, complex_):
    """A V = V H + v b* and orthonormal V, with pairs of conjugates kept whole."""
    rng = np.random.default_rng(seed)
    A, start = family(n, rng), rng.standard_normal(n)
    if complex_:
        A = A * np.exp(0.4j)
        start = start + 1j * rng.standard_normal(n)
    k = min(k, n - 1)
    krylov = Krylov(Rows(matvec(A), start, batched=False, seed=0), k)
    krylov.extend()
    for restarts in range(5):
        if krylov.closed:
            break
        V = np.stack([v[0] for v in krylov.V], axis=1)
        assert V.shape == (n, k + 1)
        slack = krylov_rounding(A, k, restarts)
        defect = A @ V[:, :k] - V @ krylov.H[0]
        assert np.linalg.norm(defect, axis=0).max() <= slack
        # Orthogonalisation stops at k roundings of w, which shows as rounding/β in its direction.
        np.testing.assert_allclose(V.conj().T @ V, np.eye(k + 1), atol=1e-11)
        krylov.restart(k // 2, lambda z: which(z) if which is not np.imag else np.abs(z.imag))
        assert k // 2 <= len(krylov.V) - 1 <= k // 2 + 1
        # The restart alone keeps the relation too.
        p = len(krylov.V) - 1
        V = np.stack([v[0] for v in krylov.V], axis=1)
        defect = A @ V[:, :p] - V @ krylov.H[0, : p + 1, :p]
        assert np.linalg.norm(defect, axis=0).max() <= krylov_rounding(A, k, restarts + 1)
        krylov.extend()


@pytest.mark.parametrize("wanted", [np.abs, np.real, lambda z: np.abs(z.imag)])
@given(seed=seeds, n=st.integers(6, 24), k=st.integers(4, 9))
def test_a_restart_keeps_the_ritz_values_that_are_wanted(wanted, seed, n, k):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    k = min(k, n - 1)
    krylov = Krylov(Rows(matvec(A), rng.standard_normal(n), batched=False, seed=0), k)
    krylov.extend()
    H = krylov.H[0, :k, :k].copy()
    before, X = np.linalg.eig(H)
    krylov.restart(k // 2, wanted)
    p = len(krylov.V) - 1
    kept = np.linalg.eigvals(krylov.H[0, :p, :p])
    slack = np.linalg.cond(X) * gamma(16 * k**2) * norm(H)
    # Each kept value is one from before, and all that are left out are wanted less.
    assert distance(kept, before).max() <= slack
    left = before[distance(before, kept) > slack]
    assert len(left) == k - p
    assert wanted(left).max(initial=-math.inf) <= wanted(kept).min() + slack


def test_restarts_find_what_one_sweep_cannot():
    """The rightmost value of a stiff spectrum, far from the largest modulus."""
    values = np.concatenate([-np.logspace(0, 3, 150), [0.5]])
    rng = np.random.default_rng(0)
    A, _ = with_spectrum(values, rng)
    once = arnoldi(matvec(A), 151, k=20, which="LR", tol=1e-6)
    assert not once.converged[0]
    assert abs(once.values[0] - 0.5) > 0.1
    product = matvec(A)
    often = arnoldi(product, 151, k=20, which="LR", tol=1e-6, restarts=100)
    assert often.converged[0]
    # Symmetric: within the residual, 1e-6 of the largest modulus.
    assert abs(often.values[0] - 0.5) <= 1e-6 * 1000
    assert product.calls == often.products == often.iterations
    found = spectral_abscissa(matvec(A), 151, k=20, restarts=100)
    assert found.converged
    assert abs(found.value - 0.5) <= 1e-6 * 1000


def test_restarts_find_the_largest_modulus_among_many_near_it():
    A, _ = with_spectrum(
        np.concatenate([np.linspace(-1.0, 1.0, 119), [1.02]]), np.random.default_rng(1)
    )
    once = arnoldi(matvec(A), 120, k=10)
    often = arnoldi(matvec(A), 120, k=10, restarts=60)
    assert not once.converged[0]
    assert often.converged[0]
    assert abs(often.values[0] - 1.02) <= often.residuals[0] + 1e-12


def test_restarts_end_when_nothing_is_left_to_look_for():
    """With tol = 0 nothing counts as converged, yet an invariant space must end the search."""
    values = -np.arange(1.0, 11.0)
    start = np.zeros(10)
    start[:4] = 1.0
    product = matvec(np.diag(values))
    found = arnoldi(product, start, k=4, which="LR", restarts=50, tol=0.0)
    np.testing.assert_allclose(found.values, values[:4], rtol=1e-12)
    assert product.calls == 4


# Never NaN, never a warning -----------------------------------------------------------------------


SCALES = [(np.float64, 1.0), (np.float64, 1e150), (np.float64, 1e-150)]
SCALES += [(np.float32, 1.0), (np.float32, 1e30), (np.float32, 1e-30)]


def awkward_starts(n, rng):
    first, last = np.zeros(n), np.zeros(n)
    first[0] = last[-1] = 1.0
    return [rng.standard_normal(n), last, first + last]


@pytest.mark.parametrize(("dtype", "scale"), SCALES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_every_estimate_of_every_matrix_is_a_number(backend, family, dtype, scale):
    """Warnings are errors here. Sizes from 1 on, k beyond n, starts in invariant subspaces."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 7) if backend == "numpy" else (5,):
        A = (scale * FAMILIES[family](n, rng)).astype(dtype)
        for start in awkward_starts(n, rng):
            x, product = start.astype(dtype), matvec(A)
            if backend == "torch":
                x, product = torch.as_tensor(x), matvec(torch.as_tensor(A))
            for tol in (1e-2, 0.0):
                found = power_iteration(product, x, tol=tol, max_iterations=40)
                assert finite(found)
                slack = power_rounding(A / scale) * scale
                residual = true_residuals(A, found.value, found.vector[:, None])[0]
                assert residual <= found.residual + slack
            results = [
                arnoldi(product, x, k=1),
                arnoldi(product, x, k=4, which="LR", restarts=3, tol=0.0),
                arnoldi(product, x, k=20, restarts=3, tol=0.0),
            ]
            if family in SYMMETRIC:
                results += [lanczos(product, x, k=k) for k in (1, 4, 20)]
            for found in results:
                assert finite(found)
                assert np.isfinite(found.field_of_values).all()
                residuals = true_residuals(A, found.values, found.vectors)
                slack = krylov_rounding(A / scale, 20, 3) * scale
                assert (residuals <= found.residuals + slack).all()
            assert finite(spectral_abscissa(product, x, k=4, restarts=3))
        found = eigenvalues(A)
        assert finite(found)
        assert found.converged.all()


@given(seed=seeds, k=st.integers(1, 6), restarts=st.integers(0, 6))
def test_restarts_bear_multiple_and_defective_values(seed, k, restarts):
    """Reordering a Schur form that has equal or ill-conditioned values is where LAPACK gives up."""
    rng = np.random.default_rng(seed)
    piece = [jordan, nilpotent, identity, zero][rng.integers(4)](int(rng.integers(2, 5)), rng)
    A = np.kron(np.eye(6), piece) + 1e-9 * rng.integers(2) * rng.standard_normal(
        (6 * len(piece),) * 2
    )
    for which in ("LM", "LR", "SR", "LI"):
        for scale in (1.0, 1e-150):
            found = arnoldi(
                matvec(scale * A),
                len(A),
                k=k,
                which=which,
                restarts=restarts,
                tol=0.0,
                seed=seed % 97,
            )
            assert finite(found)
            residuals = true_residuals(A, found.values / scale, found.vectors)
            assert (residuals <= found.residuals / scale + krylov_rounding(A, k, restarts)).all()


def test_images_of_very_different_size_do_not_overflow():
    A = np.array([[0.0, 1e200], [1e-200, 0.0]])
    for start in np.eye(2), np.ones((2, 2)):
        assert finite(power_iteration(matvec(A), start[0], tol=0.0))
        assert finite(power_iteration(matvec(A), start[1], tol=0.0))


@pytest.mark.parametrize("size", [1e-300, 1.7e308])
def test_the_length_of_the_start_vector_is_no_matter(size):
    """Up to components whose norm overflows."""
    A = symmetric(6, np.random.default_rng(0))
    start = np.random.default_rng(1).uniform(0.5, 1.0, 6)
    start /= start.max()
    for estimate in (power_iteration, arnoldi, lanczos):
        one, other = estimate(matvec(A), start), estimate(matvec(A), size * start)
        field = "value" if estimate is power_iteration else "values"
        np.testing.assert_allclose(getattr(one, field), getattr(other, field), rtol=1e-10)


def test_a_start_may_be_any_array_like():
    A = np.diag([3.0, 1.0])
    for start in ([1, 1], np.array([1, 1]), [[1.0], [1.0]]):
        np.testing.assert_allclose(arnoldi(matvec(A), start).values, [3.0, 1.0])


# What `converged` does not say --------------------------------------------------------------------


def test_converged_speaks_of_the_pair_and_not_of_its_rank():
    """No method that sees A through products can know of a direction that no vector has."""
    A = np.diag([1.0, 5.0, -7.0])
    start = np.array([1.0, 0.0, 0.0])
    for found in (power_iteration(matvec(A), start), spectral_abscissa(matvec(A), start)):
        assert found.converged
        assert found.residual <= 1e-15
        np.testing.assert_allclose(found.value, 1.0)


@given(
    seed=seeds,
    n=st.integers(2, 40),
    k=st.integers(3, 20),
    stiff=st.floats(0, 4),
    pairs=st.booleans(),
)
def test_the_abscissa_of_a_normal_matrix_is_met_from_inside(seed, n, k, stiff, pairs):
    """An eigenvalue within the residual, and never to the right of the true one."""
    rng = np.random.default_rng(seed)
    if pairs:
        A = normal_from(
            rng.standard_normal((n, 2)) * 10 ** rng.uniform(-stiff, stiff, (n, 2)), n, rng
        )
    else:
        A, _ = with_spectrum(-(10 ** rng.uniform(-stiff, stiff, n)), rng)
    spectrum = np.linalg.eigvals(A)
    product = matvec(A)
    found = spectral_abscissa(product, n, k=k, restarts=40, seed=seed % 1000)
    assert product.calls == found.products
    slack = krylov_rounding(A, k, 40) + gamma(10 * n) * norm(A)
    assert found.value.real <= spectrum.real.max() + slack
    if found.converged:
        residual = true_residuals(A, found.value, found.vector[:, None])[0]
        assert residual <= 1e-6 * np.abs(spectrum).max() + slack
        assert distance(found.value, spectrum) <= found.residual + slack
    if k >= n:
        assert found.converged
        assert found.value.real >= spectrum.real.max() - slack


@pytest.mark.parametrize("width", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("batched", [False, True])
def test_an_end_of_the_spectrum_that_is_found_first_is_not_taken_for_the_rightmost(width, batched):
    """A spectrum like a wave's: its ends are far up and down, the rightmost value is amid it."""
    n, found = 100, []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        values = rng.standard_normal(n) + 1j * width * rng.standard_normal(n)
        start = rng.standard_normal((1, n) if batched else n) + 0j
        pair = spectral_abscissa(lambda v, d=values: d * v, start, k=20, batched=batched)
        if np.all(pair.converged):
            found.append(np.ravel(pair.value)[0].real - values.real.max())
    np.testing.assert_allclose(found, 0, atol=1e-4 * width)
    assert len(found) == 10 or width > 1


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@given(seed=seeds, k=st.integers(3, 12))
def test_abscissae_of_a_batch_are_those_of_its_samples(backend, seed, k):
    rng = np.random.default_rng(seed)
    A = np.stack([with_spectrum(-(10.0 ** rng.uniform(-1, 1, 12)), rng)[0] for _ in range(3)])
    A[1] = laplacian(12, rng)
    start = rng.standard_normal((3, 12))
    torch_like = backend == "torch"
    together = batched_matvec(torch.tensor(A) if torch_like else A)
    found = spectral_abscissa(
        together, torch.tensor(start) if torch_like else start, k=k, batched=True
    )
    assert found.value.shape == found.residual.shape == found.converged.shape == (3,)
    assert together.calls == found.products
    for b in range(3):
        one = spectral_abscissa(matvec(A[b]), start[b], k=k)
        true = np.linalg.eigvalsh(A[b]).max()
        assert found.converged[b] == one.converged
        slack = 10 * one.residual + 1e-9 * norm(A[b])
        assert abs(found.value[b] - one.value) <= slack
        if one.converged and k == 12:
            assert abs(found.value[b] - true) <= slack


# Products and refusals ----------------------------------------------------------------------------


@given(seed=seeds, n=sizes, k=st.integers(1, 30), family=st.sampled_from(sorted(FAMILIES)))
def test_products_are_calls_of_matvec(seed, n, k, family):
    rng = np.random.default_rng(seed)
    A = FAMILIES[family](n, rng)
    product = matvec(A)
    found = power_iteration(product, n, tol=1e-4, max_iterations=20)
    assert found.products == product.calls == found.iterations <= 20
    product = matvec(A)
    found = arnoldi(product, n, k=k)
    assert found.products == product.calls == found.iterations <= min(k, n)
    product = matvec(A)
    found = arnoldi(product, n, k=k, restarts=2)
    assert found.products == product.calls == found.iterations <= 3 * min(k, n)
    product = matvec((A + A.T) / 2)
    found = lanczos(product, n, k=k)
    assert found.products == product.calls == found.iterations <= min(k, n)


def test_an_operator_brings_its_own_kind_of_start():
    """Random starts are like the operator's state: its library, dtype, and samples."""
    A = torch.diag(torch.tensor([-3.0, -2.0, -1.0]))
    operator = JacobianOperator(lambda t, y: y @ A, 0.0, torch.ones(2, 3), batched=True)
    found = arnoldi(operator, operator.n, batched=True)
    assert found.values.shape == (2, 3)
    np.testing.assert_allclose(found.values, [[-3.0, -2.0, -1.0]] * 2, rtol=1e-5)
    assert operator.products == found.products == 3
    single = JacobianOperator(lambda t, y: y @ A, 0.0, torch.ones(3))
    for found in (power_iteration(single, 3, tol=1e-4), spectral_abscissa(single, 3)):
        wanted = -3.0 if found.products > 3 else -1.0
        np.testing.assert_allclose(found.value, wanted, rtol=1e-3)


def test_eigenvalues_of_operators_and_of_stacks():
    A = np.array([[[-1.0, 5.0], [0.0, -2.0]], [[0.0, 3.0], [-3.0, 0.0]]])
    found = eigenvalues(A)
    np.testing.assert_allclose(found.values[0], [-2.0, -1.0])
    np.testing.assert_allclose(found.values[1], [3j, -3j])
    assert found.products == 0
    operator = JacobianOperator(lambda t, y: A[0] @ y, 0.0, np.ones(2), method="complex-step")
    found = eigenvalues(operator)
    np.testing.assert_allclose(found.values, [-2.0, -1.0], rtol=gamma(20))
    assert found.products == operator.products == 2


@pytest.mark.parametrize(
    ("named", "call"),
    [
        ("start", lambda: power_iteration(matvec(np.eye(2)), np.zeros(2))),
        ("start", lambda: arnoldi(matvec(np.eye(2)), np.array([1.0, np.nan]))),
        ("start", lambda: lanczos(matvec(np.eye(2)), np.array([1.0, np.inf]))),
        ("start", lambda: arnoldi(matvec(torch.eye(2)), torch.tensor([1.0, np.inf]))),
        ("start", lambda: arnoldi(batched_matvec(np.eye(2)), np.eye(2) * [[1], [0]], batched=True)),
        ("start", lambda: arnoldi(batched_matvec(np.eye(2)), 2, batched=True)),
        ("n must be .* not 0", lambda: power_iteration(matvec(np.eye(2)), 0)),
        ("k must be .* not 0", lambda: arnoldi(matvec(np.eye(2)), 2, k=0)),
        ("k must be .* not -1", lambda: lanczos(matvec(np.eye(2)), 2, k=-1)),
        ("max_iterations", lambda: power_iteration(matvec(np.eye(2)), 2, max_iterations=0)),
        (
            "max_iterations",
            lambda: nonlinear_power_iteration(lambda t, y: -y, 0.0, np.ones(2), max_iterations=0),
        ),
        ("which", lambda: arnoldi(matvec(np.eye(2)), 2, which="SM")),
        (
            "restarts",
            lambda: arnoldi(batched_matvec(np.eye(2)), np.eye(2), batched=True, restarts=1),
        ),
        (
            "f_0",
            lambda: nonlinear_power_iteration(lambda t, y: -y, 0.0, np.ones(2), f_0=np.ones(3)),
        ),
        ("f", lambda: nonlinear_power_iteration(lambda t, y: np.ones(3), 0.0, np.ones(2))),
    ],
)
def test_unusable_arguments_are_refused_by_name(named, call):
    with pytest.raises(ValueError, match=named):
        call()


# The nonlinear power iteration --------------------------------------------------------------------


def rkc(f, t, y, f_0, v, *, smallest=0.0, most=50):
    """RKC's algorithm as a plain loop: the estimate before it is multiplied by 1.2, and the calls.

    v is f_0 at first and the last difference later; where it, or y, is zero a direction of ones and
    a length of one stand in.
    """
    length = math.sqrt(np.finfo(float).eps) * (np.linalg.norm(y) or 1.0)
    v = v if np.linalg.norm(v) > 0 else np.ones_like(y)
    z = y + v * (length / np.linalg.norm(v))
    sigma = 0.0
    for calls in range(1, most + 1):
        change = f(t, z) - f_0
        before, sigma = sigma, float(np.linalg.norm(change)) / length
        if calls >= 2 and abs(sigma - before) <= 0.01 * max(sigma, smallest):
            return sigma, calls, True
        if np.linalg.norm(change) > 0:
            z = y + change * (length / np.linalg.norm(change))
        else:
            i = calls % len(y)
            z[i] = y[i] - (z[i] - y[i])
    return sigma, most, False


N = 40
GRID = np.arange(1, N + 1) / (N + 1)
HEAT = laplacian(N, None)


def heat(t, y):
    return HEAT @ y + np.sin(np.pi * GRID) * np.cos(t)


def fisher(t, y):
    return 0.1 * (HEAT @ y) + 5 * y * (1 - y)


def rober(t, y):
    a, b, c = y
    slow, fast, back = 0.04 * a, 3e7 * b * b, 1e4 * b * c
    return np.array([back - slow, slow - back - fast, fast])


def rober_jac(t, y):
    _, b, c = y
    return np.array(
        [[-0.04, 1e4 * c, 1e4 * b], [0.04, -1e4 * c - 6e7 * b, -1e4 * b], [0.0, 6e7 * b, 0.0]]
    )


MIXER = -np.cov(np.random.default_rng(0).standard_normal((20, 30))) * 30


def saturating(t, y):
    """y' = S tanh(y) with S symmetric: J = S diag(sech² y) has a real spectrum."""
    return MIXER @ np.tanh(y)


def trajectory(name):
    """States that an explicit solve visits (ROBER's: an implicit one, far into its stiff phase)."""
    rng = np.random.default_rng(0)
    if name == "rober":
        times = np.logspace(-4, 4, 60)
        solution = scipy.integrate.solve_ivp(
            rober, (0, 1e4), [1.0, 0.0, 0.0], "Radau", times, jac=rober_jac, rtol=1e-6, atol=1e-10
        )
        return rober, rober_jac, times, solution.y.T
    f, jac, span, y0 = {
        "heat": (heat, lambda t, y: HEAT, 0.2, np.where(GRID > 0.5, 1.0, 0.0)),
        "fisher": (fisher, lambda t, y: 0.1 * HEAT + np.diag(5 - 10 * y), 1.0, GRID * (1 - GRID)),
        "saturating": (
            saturating,
            lambda t, y: MIXER / np.cosh(y) ** 2,
            1.0,
            rng.standard_normal(20),
        ),
    }[name]
    solution = sk.solve(f, (0.0, span), y0, "tsit5", t_eval=np.linspace(0.0, span, 60))
    return f, jac, solution.t, solution.y


@pytest.mark.parametrize("name", ["heat", "fisher", "rober", "saturating"])
def test_the_nonlinear_iteration_is_the_algorithm_of_rkc(name):
    f, _, times, states = trajectory(name)
    for t, y in zip(times, states, strict=True):
        slope = f(t, y)
        found = nonlinear_power_iteration(f, t, y, f_0=slope)
        value, calls, converged = rkc(f, t, y, slope, slope)
        assert (found.products, found.converged) == (calls, converged)
        # The two round y + v differently: that is u‖y‖ in a difference of length √eps ‖y‖.
        np.testing.assert_allclose(found.value, value, rtol=1e-6)


@pytest.mark.parametrize("name", ["heat", "fisher", "rober", "saturating"])
def test_with_the_factor_of_rkc_it_bounds_the_spectral_radius(name):
    """Cold and warm, in 95 % of the states at least; never by more than its own 20 %."""
    f, jac, times, states = trajectory(name)
    cold, warm, start = 0, 0, None
    for t, y in zip(times, states, strict=True):
        radius = np.abs(np.linalg.eigvals(jac(t, y))).max()
        alone = nonlinear_power_iteration(f, t, y)
        after = nonlinear_power_iteration(f, t, y, start=start)
        start = after.vector
        cold += 1.2 * alone.value >= radius
        warm += 1.2 * after.value >= radius
        if name in ("heat", "fisher"):  # symmetric Jacobians: from below, but for the difference
            assert max(alone.value, after.value) <= radius * (1 + 1e-4)
    assert cold >= 0.95 * len(times)
    assert warm >= 0.95 * len(times)


@pytest.mark.parametrize("name", ["heat", "fisher", "rober", "saturating"])
def test_from_the_vector_before_a_few_calls_suffice(name):
    f, _, times, states = trajectory(name)
    found = nonlinear_power_iteration(f, times[0], states[0])
    counts = []
    for t, y in zip(times[1:], states[1:], strict=True):
        found = nonlinear_power_iteration(f, t, y, f_0=f(t, y), start=found.vector)
        counts.append(found.products)
    assert np.median(counts) <= 3
    assert np.mean(np.array(counts) <= 4) >= 0.95


def test_a_slope_along_one_eigenvector_hides_the_others():
    """The limit of the method, and of RKC: from f(y) alone it sees what f(y) is made of."""
    y = np.sin(np.pi * GRID)
    found = nonlinear_power_iteration(lambda t, y: HEAT @ y, 0.0, y)
    assert found.converged
    lowest = np.abs(np.linalg.eigvalsh(HEAT)).min()
    np.testing.assert_allclose(found.value, lowest, rtol=1e-2)


@given(seed=seeds)
def test_of_a_linear_problem_it_is_the_power_method(seed):
    """σ_k = ‖A A^(k−1) d‖ / ‖A^(k−1) d‖ for the direction d, up to the rounding of differences."""
    rng = np.random.default_rng(seed)
    A, _ = with_spectrum(rng.uniform(-3, -1, 8), rng)
    y, start = rng.standard_normal(8), rng.standard_normal(8)
    found = nonlinear_power_iteration(lambda t, y: A @ y, 0.0, y, start=start)
    d = start
    for _ in range(found.iterations - 1):
        d = A @ d
    np.testing.assert_allclose(found.value, np.linalg.norm(A @ d) / np.linalg.norm(d), rtol=1e-5)
    assert found.residual <= 0.01 * found.value
    np.testing.assert_allclose(np.linalg.norm(found.vector), 1.0, rtol=1e-7)
    image = A @ d / np.linalg.norm(A @ d)
    np.testing.assert_allclose(found.vector, image, atol=1e-5)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("f", [lambda t, y: 0.0 * y, lambda t, y: 0.0 * y + 2.0])
def test_where_nothing_depends_on_the_state_the_radius_is_zero(f, backend, batched):
    for y in (np.zeros((2, 3)), np.ones((2, 3))):
        y = torch.as_tensor(y) if backend == "torch" else y
        found = nonlinear_power_iteration(f, 0.0, y, batched=batched)
        assert np.all(np.asarray(found.value) == 0.0)
        assert np.all(found.converged)
        assert np.isfinite(np.asarray(found.vector)).all()
        assert found.products == 3  # f(t, y) and two iterations


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_the_origin_is_a_state_like_any(backend):
    A = np.diag([-1.0, -2.0, -3.0])
    A = torch.as_tensor(A) if backend == "torch" else A
    y = A[0] * 0.0
    found = nonlinear_power_iteration(lambda t, y: A @ y, 0.0, y, tol=1e-4)
    np.testing.assert_allclose(found.value, 3.0, rtol=1e-3)


def test_a_direction_without_an_image_is_left_by_the_flip_of_a_component():
    """J = a 1ᵀ maps (1, −1) to zero exactly; with a component flipped it is (1, 1)."""
    a = np.array([3.0, 2.0])
    calls = []

    def f(t, y):
        calls.append(y.copy())
        return a * y.sum()

    start = np.array([1.0, -1.0])
    found = nonlinear_power_iteration(f, 0.0, np.zeros(2), start=start, tol=1e-6)
    np.testing.assert_array_equal(calls[2], calls[1] * [1.0, -1.0])
    assert found.converged
    np.testing.assert_allclose(found.value, 5.0, rtol=1e-6)
    value, count, _ = rkc(f, 0.0, np.zeros(2), np.zeros(2), start)
    np.testing.assert_allclose(value, 5.0, rtol=1e-6)
    assert count == nonlinear_power_iteration(f, 0.0, np.zeros(2), start=start).iterations


def test_values_below_the_smallest_do_not_matter():
    """A slow drift of a value that is far below 1/h_max is no reason to go on."""
    rng = np.random.default_rng(0)
    A = jordan(10, rng) * 1e-3
    y = rng.standard_normal(10)
    f = counted(lambda t, y: A @ y)
    patient = nonlinear_power_iteration(f, 0.0, y)
    f.calls = 0
    quick = nonlinear_power_iteration(f, 0.0, y, smallest=1.0)
    assert f.calls == quick.products == 3 < patient.products
    assert quick.converged


def test_calls_are_counted_and_bounded():
    turn = np.array([[0.0, 1.0], [-9.0, 0.0]])  # ‖A v‖ swings for ever: no convergence
    f = counted(lambda t, y: turn @ y)
    found = nonlinear_power_iteration(f, 0.0, np.array([1.0, 1.0]), max_iterations=7)
    assert f.calls == found.products == 8
    assert found.iterations == 7
    assert not found.converged
    f.calls = 0
    slope = np.array([1.0, -9.0])
    again = nonlinear_power_iteration(f, 0.0, np.array([1.0, 1.0]), max_iterations=7, f_0=slope)
    assert f.calls == again.products == 7
    np.testing.assert_allclose(again.value, found.value, rtol=1e-6)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@given(seed=seeds)
def test_a_batch_of_the_nonlinear_iteration_is_its_samples_one_by_one(backend, seed):
    rng = np.random.default_rng(seed)
    A = np.stack([with_spectrum(rng.uniform(-3, -1, 6), rng)[0] for _ in range(4)])
    A *= np.array([1e-8, 1.0, 1e8, 0.0])[:, None, None]
    y = rng.standard_normal((4, 6)) * np.array([1e8, 1.0, 1e-8, 1.0])[:, None]
    if backend == "torch":
        A, y = torch.as_tensor(A), torch.as_tensor(y)

    def f(t, z):
        return (A @ z[..., None])[..., 0]

    together = nonlinear_power_iteration(f, 0.0, y, batched=True)
    assert together.products == 1 + together.iterations.max()
    for b in range(4):
        alone = nonlinear_power_iteration(lambda t, z, M=A[b]: M @ z, 0.0, y[b])
        assert together.iterations[b] == alone.iterations
        assert together.converged[b] == alone.converged
        np.testing.assert_allclose(together.value[b], alone.value, rtol=1e-5)
        np.testing.assert_allclose(together.vector[b], alone.vector, atol=1e-5)


def test_single_precision_and_states_of_two_axes():
    A = np.diag(np.array([-1.0, -2.0, -3.0, -8.0], np.float32))
    y = np.ones((2, 2), np.float32)
    found = nonlinear_power_iteration(lambda t, y: (A @ y.ravel()).reshape(2, 2), 0.0, y)
    # √eps of single precision, 3e-4, beside the 1 % that ends the iteration.
    np.testing.assert_allclose(found.value, 8.0, rtol=0.02)
    assert found.vector.shape == (4,)
    again = nonlinear_power_iteration(
        lambda t, y: (A @ y.ravel()).reshape(2, 2), 0.0, y, start=found.vector.reshape(2, 2)
    )
    assert again.products == 3


def test_a_torch_start_and_a_numpy_one_do_alike():
    A = torch.diag(torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64))
    y = torch.ones(3, dtype=torch.float64)
    start = np.array([0.0, 1.0, 2.0])
    values = [
        nonlinear_power_iteration(lambda t, y: torch.cos(t) * (A @ y), 0.0, y, start=x).value
        for x in (start, torch.as_tensor(start), torch.as_tensor(start).requires_grad_())
    ]
    assert values[0] == values[1] == values[2]


# Bad input ----------------------------------------------------------------------------------------

ESTIMATORS = [power_iteration, lanczos, arnoldi, spectral_abscissa]


@pytest.mark.parametrize("estimate", ESTIMATORS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_product_that_is_not_finite_is_told(estimate, bad):
    A = np.diag([1.0, bad, 2.0])
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="A v is not finite"):
        estimate(lambda v: A @ v, 3)


def test_the_sample_that_is_not_finite_is_named():
    scales = np.array([1.0, math.nan, 2.0])[:, None]
    with pytest.raises(ValueError, match="sample 1"):
        arnoldi(lambda v: scales * v, np.ones((3, 4)), batched=True)


@pytest.mark.parametrize("estimate", ESTIMATORS)
@pytest.mark.parametrize(
    ("matvec_", "n", "error", "match"),
    [
        (np.eye(3), 3, TypeError, "matvec"),
        (lambda v: None, 3, TypeError, "matvec"),
        (lambda v: v[:2], 3, ValueError, r"\(2,\)"),
        (lambda v: v.__imul__(2.0), 3, ValueError, "read-only"),
        (lambda v: v, 0, ValueError, "n must be a positive integer, not 0"),
        (lambda v: v, 2.5, ValueError, "n must be a positive integer, not 2.5"),
        (lambda v: v, "abc", ValueError, "n must"),
        (lambda v: v, np.ones(0), ValueError, "n must"),
        (lambda v: v, np.zeros(3), ValueError, "finite and not zero"),
        (lambda v: v, [1.0, math.nan], ValueError, "finite and not zero"),
        (lambda v: v, np.ones((0, 3)), ValueError, r"n must not be empty.* \(0, 3\)"),
        (lambda v: v, [[1.0], [2.0, 3.0]], ValueError, "n is not an array.* different lengths"),
        (lambda v: v, np.ones(3, np.float16), ValueError, "n has dtype float16"),
        (lambda v: v, np.ones(3, np.longdouble), ValueError, "n has dtype"),
        (
            lambda v: v,
            torch.ones(3, dtype=torch.bfloat16),
            ValueError,
            "n has dtype torch.bfloat16",
        ),
        (lambda v: v.mul_(2.0), torch.ones(3), ValueError, "matvec changes its argument"),
    ],
)
def test_bad_operators_and_sizes_are_refused(estimate, matvec_, n, error, match):
    with pytest.raises(error, match=match):
        estimate(matvec_, n)


@pytest.mark.parametrize(
    ("estimate", "name"),
    [
        (power_iteration, "max_iterations"),
        (lanczos, "k"),
        (arnoldi, "k"),
        (arnoldi, "restarts"),
        (spectral_abscissa, "k"),
    ],
)
@pytest.mark.parametrize("bad", [-1, 2.5, "a", None])
def test_counts_are_positive_integers(estimate, name, bad):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer"):
        estimate(lambda v: v, 3, **{name: bad})


@pytest.mark.parametrize("estimate", ESTIMATORS)
@pytest.mark.parametrize("bad", [-1.0, math.nan, "a"])
def test_tolerances_are_numbers_from_zero_on(estimate, bad):
    with pytest.raises(ValueError, match="tol must be"):
        estimate(lambda v: v, 3, tol=bad)


@pytest.mark.parametrize("estimate", ESTIMATORS)
@pytest.mark.parametrize("bad", [-1, 1.5, "a", None, True])
def test_seeds_are_whole(estimate, bad):
    with pytest.raises(ValueError, match="seed must be an integer from 0 on"):
        estimate(lambda v: v, 3, seed=bad)


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int64, bool, np.float16, np.float32, np.longdouble]
)
def test_exact_eigenvalues_of_any_kind_of_number(dtype):
    """-128 has no modulus in int8, and LAPACK no half precision."""
    A = np.array([[1, -128], [-128, 1]]).astype(dtype)
    wanted = eigenvalues(A.astype(np.float64))
    np.testing.assert_array_equal(eigenvalues(A).values, wanted.values)
    assert eigenvalues(A).field_of_values == wanted.field_of_values
    half = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.bfloat16)
    np.testing.assert_allclose(eigenvalues(half).values, [1.5, 0.5], rtol=gamma(20))


@pytest.mark.parametrize(
    "A",
    [
        np.zeros((0, 0)),
        [[1], [2, 3]],
        np.zeros((2, 3)),
        np.full((2, 2), math.nan),
        np.array([["a"]]),
        3.0,
    ],
)
def test_exact_eigenvalues_need_a_finite_square_matrix(A):
    with pytest.raises(ValueError, match="A "):
        eigenvalues(A)


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_exact_eigenvalues_at_any_scale(scale):
    A = np.array([[-1.0, 2.0, 0.0], [0.0, -3.0, 1.0], [0.5, 0.0, -2.0]])
    here, there = eigenvalues(A), eigenvalues(scale * A)
    np.testing.assert_allclose(there.values / scale, here.values, rtol=gamma(100))
    assert (there.residuals / scale <= gamma(100) * 4).all()
    assert there.field_of_values[1] / scale == pytest.approx(here.field_of_values[1], rel=1e-14)


@pytest.mark.parametrize("estimate", [power_iteration, lanczos, arnoldi, spectral_abscissa])
@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300, 4e307])
def test_estimates_at_any_scale(estimate, scale):
    """A residual is no overflow, also where the matrix is not symmetric."""
    A = np.array([[-1.0, 2.0, 0.0], [0.0, -3.0, 1.0], [0.5, 0.0, -2.0]])
    here, there = (estimate(lambda v, s=s: s * A @ v, np.ones(3)) for s in (1.0, scale))
    for found, size in ((here, 1.0), (there, scale)):
        values = found.value if hasattr(found, "value") else found.values
        rest = found.residual if hasattr(found, "value") else found.residuals
        wanted = here.value if hasattr(found, "value") else here.values
        # Of a pair either may come first.
        np.testing.assert_allclose(np.abs(values) / size, np.abs(wanted), rtol=1e-12)
        assert np.isfinite(rest).all()


@given(seed=seeds, n=st.integers(2, 12))
def test_lanczos_of_a_matrix_that_is_not_symmetric_does_not_claim_to_know(seed, n):
    """The residuals are those of the pairs, symmetric or not."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    found = lanczos(lambda v: A @ v, n, k=n)
    true = np.linalg.norm(A @ found.vectors - found.vectors * found.values, axis=0)
    np.testing.assert_allclose(found.residuals, true, atol=1e3 * gamma(n) * np.linalg.norm(A))
    assert not found.converged.all()


def test_in_float32_rounding_is_near_enough():
    A = np.diag([-1.0, -2.0, -5.0]).astype(np.float32)
    assert arnoldi(lambda v: A @ v, np.ones(3, np.float32)).converged.all()
    assert not arnoldi(lambda v: A @ v, np.ones(3, np.float32), tol=0).converged.any()


def test_nonlinear_power_iteration_beside_a_pole():
    """Where f is not finite no step is short enough; other samples are estimated all the same."""

    def f(t, y):
        return np.where(y > 1, math.nan, -3 * y)

    found = nonlinear_power_iteration(f, 0.0, np.array([[0.5, 0.5], [1.0, 1.0]]), batched=True)
    assert found.value[0] == pytest.approx(3, rel=1e-6)
    assert found.converged[0]
    assert found.value[1] == math.inf or found.converged[1]
    assert not np.isnan(found.value).any()
    assert np.isfinite(found.vector).all()


@pytest.mark.parametrize("start", [np.ones(2), np.full(3, math.nan)])
def test_a_bad_start_is_named(start):
    with pytest.raises(ValueError, match="start must be"):
        nonlinear_power_iteration(lambda t, y: -y, 0.0, np.ones(3), start=start)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"f": "f"}, TypeError, "f must be a function, not 'f'"),
        (
            {"y": np.array([1.0, math.nan])},
            ValueError,
            "y is not finite at component 1",
        ),
        ({"y": np.array(1.0), "batched": True}, ValueError, r"y must .* shape \(\)"),
        ({"y": np.ones(3, np.float16)}, ValueError, "y has dtype float16"),
        ({"smallest": -1.0}, ValueError, "smallest must be .*-1.0"),
        ({"smallest": math.nan}, ValueError, "smallest must be .*nan"),
        ({"smallest": "a"}, ValueError, "smallest must be .*'a'"),
        (
            {"f": lambda t, y: y.mul_(-2.0), "y": torch.ones(2)},
            ValueError,
            "f changes its argument in place",
        ),
    ],
)
def test_bad_input_of_the_nonlinear_iteration_is_named(options, error, match):
    arguments = {"f": lambda t, y: -y, "t": 0.0, "y": np.ones(2)} | options
    with pytest.raises(error, match=match):
        nonlinear_power_iteration(**arguments)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_slope_that_is_not_finite_has_no_radius_and_makes_no_noise(bad):
    with np.errstate(all="warn"):
        found = nonlinear_power_iteration(lambda t, y: np.full(3, bad), 0.0, np.ones(3))
    assert (found.value, found.converged) == (math.inf, False)
    assert np.isfinite(found.vector).all()
