"""Stabilised methods: stability for every stage count, order, and the stepper of a solve."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.special import eval_legendre

from stiffkit._array import backend_of
from stiffkit.solvers.rock import ROCK2_DATA, ROCK4_DATA, orthogonal_recurrence
from stiffkit.solvers.stabilised import (
    RKC2,
    RKL2,
    ROCK2,
    ROCK4,
    STABILISED,
    RadiusKeeper,
    StabilisedStages,
    rkc2_recurrence,
    rkl2_recurrence,
    rock2_scheme,
    rock4_scheme,
)
from stiffkit.solvers.step import StepFailed

METHODS = list(STABILISED.values())
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)


def some_degrees(method):
    return [method.degrees[i] for i in (0, 1, 2, 5, 11, 20, len(method.degrees) - 1)]


# Stability ----------------------------------------------------------------------------------------


@each_method
def test_stable_up_to_beta_and_no_further(method):
    for s in method.degrees:
        beta = method.beta(s)
        # Points in the manner of Chebyshev's, and half of them again at random.
        theta = np.linspace(0, np.pi / 2, 30 * s)
        x = beta * np.sin(theta + np.random.default_rng(s).uniform(0, theta[1], theta.shape)) ** 2
        assert np.abs(method.R(-x, s)).max() <= 1 + 1e-9, s
        assert abs(method.R(-(1 + 1e-6) * beta, s)) > 1, s


@each_method
def test_beta_rises_as_the_square(method):
    s = np.array(method.degrees)
    beta = np.array([method.beta(int(i)) for i in s])
    assert (np.diff(beta) > 0).all()
    assert beta[-1] / s[-1] ** 2 == pytest.approx(method.growth, rel=0.02)


def test_beta_in_closed_form():
    # RKL2, s even, leaves [−1, 1] where P_s(−1) = 1; RKC2, s even, at w_0 + w_1 z = −w_0.
    for s in range(2, 201, 2):
        assert RKL2.beta(s) == pytest.approx((s * s + s - 2) / 2, rel=1e-11)
        w_0 = 1 + (2 / 13) / s**2
        x = np.arccosh(w_0)
        dT = s * math.sinh(s * x) / math.sinh(x)
        ddT = (s * s * math.cosh(s * x) - w_0 * dT) / (w_0**2 - 1)
        assert RKC2.beta(s) == pytest.approx(2 * w_0 * ddT / dT, rel=1e-8)
    # The published approximations are bounds, but for ROCK2's.
    for s in range(2, 201):
        assert RKC2.beta(s) > (s * s - 1) / 1.54
        assert RKL2.beta(s) > (s * s + s - 2) / 2 * (1 - 1e-12)
    assert all(ROCK4.beta(s) > 0.353 * s * s - 3 - 0.04 for s in ROCK4.degrees)
    short = [s for s in ROCK2.degrees if ROCK2.beta(s) < 0.811 * s * s - 1.5]
    assert short == [s for s in ROCK2.degrees if s >= 10]


@pytest.mark.parametrize("method", [RKC2, ROCK2, ROCK4], ids=lambda m: m.name)
def test_damped_inside(method):
    for s in method.degrees:
        beta = method.beta(s)
        x = beta * np.sin(np.linspace(0, np.pi / 2, 40 * s)) ** 2
        x = x[(x > 1.0) & (x < 0.97 * beta)]
        bound = {"rkc2": 0.96, "rock2": 0.963, "rock4": 0.9985}[method.name]
        assert np.abs(method.R(-x, s)).max(initial=0) < bound, s


def test_two_printed_degrees_of_rock4_are_not_stable():
    x = np.linspace(0.1, 30, 3000)
    for s, most in ((133, 1.0059), (152, 1.0077)):
        assert s in ROCK4_DATA
        assert s not in ROCK4.degrees
        assert np.abs(ROCK4.R(-x, s)).max() == pytest.approx(most, abs=1e-4)


@given(st.sampled_from(METHODS), st.floats(0, 1), st.floats(0, 1))
def test_enough_stages_and_none_to_spare(method, part, eigenvalue):
    z = part**2 * method.beta(method.max_stages)
    s = method.stages(z)
    assert abs(method.R(-eigenvalue * z, s)) <= 1 + 1e-9
    i = method.degrees.index(s)
    assert i == 0 or method.beta(method.degrees[i - 1]) < z


def test_stage_counts_of_the_literature():
    # SUNDIALS 7.5 leaves out the 1 of RKC's 1 + ⌊√(1 + 1.54 z)⌋ and is a stage short here.
    for z, enough, R in ((2.3, 3, 1.35), (10.38, 5, 1.68)):
        short = math.ceil(math.sqrt(1.54 * z))
        assert RKC2.stages(z) == enough == short + 1 == 1 + int(math.sqrt(1 + 1.54 * z))
        assert abs(RKC2.R(-z, short)) == pytest.approx(R, abs=0.02)
    for z in np.geomspace(0.1, 0.99 * RKC2.beta(200), 500):
        assert RKC2.stages(z) <= max(2, 1 + int(math.sqrt(1 + 1.54 * z)))
    # ROCK2's 1 + ⌊√((1.5 + z)/0.811)⌋ = 19 is not enough below its own limit for 19 stages.
    assert 1 + int(math.sqrt((1.5 + 290.5) / 0.811)) == 19
    assert abs(ROCK2.R(-290.5, 19)) > 1.02
    assert ROCK2.stages(290.5) == 20


@each_method
def test_stages_refuses_what_no_stage_count_is_stable_for(method):
    for z in (-1.0, math.nan, math.inf, 1.01 * method.beta(method.max_stages)):
        with pytest.raises(ValueError, match="z = "):
            method.stages(z)
    assert method.stages(0.0) == method.degrees[0]
    assert method.stages(method.longest(7.0) * 7.0) >= 0.99 * method.max_stages
    assert method.longest(0.0) == math.inf


@each_method
def test_refuses_a_stage_count_it_does_not_have(method):
    y = np.ones(2)
    with pytest.raises(ValueError, match=f"{method.name}: s = 1 stages"):
        method.step(lambda t, y: -y, 0.0, y, 0.1, -y, 1)


# Consistency --------------------------------------------------------------------------------------


@each_method
def test_R_is_the_exponential_to_the_order(method):
    z = 0.05 * np.exp(1j * np.linspace(0, 2 * np.pi, 64, endpoint=False))
    p = method.order
    for s in method.degrees:
        taylor = np.fft.fft(method.R(z, s)).real / 64 / 0.05 ** np.arange(64)
        expected = [1 / math.factorial(j) for j in range(p + 1)]
        tolerance = 4e-14 * max(s, 10) / 0.05 ** np.arange(p + 1)
        assert (np.abs(taylor[: p + 1] - expected) < tolerance).all(), s
        assert abs(taylor[p + 1] - 1 / math.factorial(p + 1)) > 1e-3 / math.factorial(p + 1), s


def test_R_in_closed_form():
    for s in (2, 3, 7, 40, 200):
        z = -np.linspace(0, 0.99, 200) * RKC2.beta(s)
        w_0 = 1 + (2 / 13) / s**2
        T = np.polynomial.Chebyshev([0] * s + [1])
        b = T.deriv(2)(w_0) / T.deriv(1)(w_0) ** 2
        a, w_1 = 1 - b * T(w_0), T.deriv(1)(w_0) / T.deriv(2)(w_0)
        np.testing.assert_allclose(RKC2.R(z, s), a + b * T(w_0 + w_1 * z), atol=1e-8)
        z = -np.linspace(0, 0.99, 200) * RKL2.beta(s)
        b = (s * s + s - 2) / (2 * s * (s + 1))
        closed = 1 - b + b * eval_legendre(s, 1 + 4 / (s * s + s - 2) * z)
        np.testing.assert_allclose(RKL2.R(z, s), closed, atol=1e-9)


def test_rock_recurrences_are_the_printed_ones():
    # μ_1; μ_j, κ_j of rock2.f and rock4.f, from the first, a middle and the last degrees.
    def recurrence(scheme):
        first, *rest = [scheme.recurrence.first, *(row[3] for row in scheme.recurrence.rows)]
        return first, rest, [-row[2] for row in scheme.recurrence.rows]

    for scheme, printed in PRINTED:
        first, mu, kappa = recurrence(scheme)
        assert first == pytest.approx(printed[0], rel=1e-12)
        for j, (mu_j, kappa_j) in printed[1].items():
            assert mu[j] == pytest.approx(mu_j, rel=4e-12)
            assert kappa[j] == pytest.approx(kappa_j, rel=4e-12)


PRINTED = [
    (rock2_scheme(4), (0.09326607661089206, {0: (0.1268473641290642, 0.02103378190528467)})),
    (
        rock2_scheme(21),
        (
            0.003131660281084644,
            {
                0: (0.004296601495430642, 0.02516987418923732),
                9: (0.008204207591967733, 0.4899241115804965),
                17: (0.00945074055537075, 0.6814810379908328),
            },
        ),
    ),
    (
        rock2_scheme(200),
        (
            3.429496445563442e-5,
            {
                0: (4.71390180589219e-5, 0.02545140450924156),
                98: (0.000118514551001616, 0.9204877959987503),
                196: (0.0001212297589117476, 0.9638702662671197),
            },
        ),
    ),
    (rock4_scheme(6), (0.10671314855438, {0: (0.1296319693918818, 0.006097984609869632)})),
    (
        rock4_scheme(24),
        (
            0.005278040811520425,
            {
                0: (0.006402421198476983, 0.007026749310824704),
                9: (0.01198709958412187, 0.294460708386312),
                18: (0.01505946839641039, 0.5272614695163532),
            },
        ),
    ),
    (
        rock4_scheme(152),
        (
            0.0001291672658807919,
            {
                0: (0.0001569411415132314, 0.007144429374444041),
                73: (0.0004404668839190812, 0.8097342415347859),
                146: (0.0004668480955879464, 0.9136748776971255),
            },
        ),
    ),
]


def test_orthogonal_recurrence_of_chebyshev():
    # Without w, on [−2, 0]: P_j(z) = T_j(1 + z) = 2 (1 + z) P_(j−1) − P_(j−2).
    rows = orthogonal_recurrence(6, [1.0], (-2.0, 0.0))
    np.testing.assert_allclose(rows, [(1.0, 0.0), *[(2.0, 1.0)] * 5], atol=1e-13)


def test_orthogonality():
    _, sigma, delta = ROCK2_DATA[22]
    w, interval = [1, 2 * sigma, sigma * (sigma + delta)], ROCK2_DATA[22][0]
    x = np.cos((np.arange(60) + 0.5) * np.pi / 60)
    z = np.mean(interval) + np.diff(interval) / 2 * x
    P = [np.ones(60)]
    for mu, kappa in orthogonal_recurrence(20, w, interval):
        older = P[-2] if len(P) > 1 else 0.0
        P.append((1 + kappa + mu * z) * P[-1] - kappa * older)
    weighted = np.array(P) * np.polynomial.polynomial.polyval(z, w)
    gram = weighted @ weighted.T
    scale = np.sqrt(np.diag(gram))
    np.testing.assert_allclose(gram / np.outer(scale, scale), np.eye(21), atol=1e-10)


# Order --------------------------------------------------------------------------------------------


def nonautonomous(t, y):
    return np.stack([np.cos(3 * t) - y[0] * y[1] + t * y[1], np.sin(t) * y[0] ** 2 - y[1] + t**2])


EXACT = [0.2, np.array([1.0, 0.5]), 1.2, np.array([0.5996894050642588, 0.9109928189424048])]


@each_method
def test_order_for_a_nonautonomous_nonlinear_problem(method):
    t_0, y_0, t_1, exact = EXACT
    for s in some_degrees(method)[:-1]:
        errors, estimates = [], []
        for n in (20, 40, 80):
            h, y = (t_1 - t_0) / n, y_0
            for i in range(n):
                t = t_0 + i * h
                y, err, _ = method.step(nonautonomous, t, y, h, nonautonomous(t, y), s)
                if i == 0:
                    estimates.append(np.abs(err).max())
            errors.append(np.abs(y - exact).max())
        rates = np.log2(np.divide(errors[:-1], errors[1:]))
        np.testing.assert_allclose(rates, method.order, atol=0.12)
        rates = np.log2(np.divide(estimates[:-1], estimates[1:]))
        np.testing.assert_allclose(rates, method.error_order + 1, atol=0.15)


def test_rkl2_error_estimate_is_the_error():
    # y' = −y: the local error over the estimate tends to one, for every s.
    for s in (2, 3, 5, 50):
        y, h = np.ones(1), 1e-2
        y_new, err, _ = RKL2.step(lambda t, y: -y, 0.0, y, h, -y, s)
        assert err[0] / (math.exp(-h) - y_new[0]) == pytest.approx(1.0, abs=0.02)


def test_rkc2_error_estimate_is_above_the_error():
    y, h = np.ones(1), 1e-2
    ratios = []
    for s in (2, 100):
        y_new, err, _ = RKC2.step(lambda t, y: -y, 0.0, y, h, -y, s)
        ratios.append(err[0] / (math.exp(-h) - y_new[0]))
    # (1 + 12 C)/15/C, where C is 1/6 for two stages and, but for the damping, 1/15 for many.
    assert ratios[0] == pytest.approx(1.2, abs=0.01)
    assert ratios[1] == pytest.approx(1.8, abs=0.05)


def heat(n):
    """Return the matrix of u'' on n inner points of [0, 1], and its spectral radius."""
    A = (np.eye(n, k=1) - 2 * np.eye(n) + np.eye(n, k=-1)) * (n + 1) ** 2
    return A, 4 * (n + 1) ** 2 * math.sin(math.pi * n / (2 * (n + 1))) ** 2


# Where f is called, and with what -----------------------------------------------------------------


@each_method
def test_f_is_called_inside_the_step_only(method):
    nodes = []
    for s in method.degrees:
        times = []

        def f(t, y, times=times):
            times.append(t)
            return -y

        method.step(f, 0.0, np.ones(1), 1.0, -np.ones(1), s)
        assert min(times) > 0
        assert max(times) <= 1.0
        assert len(times) == (s - 1 if method is ROCK2 else s)
        nodes.append(max(times))
    assert (min(nodes) == 1.0) == (method is not ROCK2)


@each_method
def test_nodes_are_consistent(method):
    # y' = 1, y(0) = 0: every stage's state is its time.
    def f(t, y):
        assert y[0] == pytest.approx(t, abs=1e-12)
        return np.ones(1)

    for s in some_degrees(method):
        y_new, _, _ = method.step(f, 0.0, np.zeros(1), 0.7, np.ones(1), s)
        assert y_new[0] == pytest.approx(0.7, abs=1e-11)


@each_method
def test_one_buffer_for_all_slopes(method):
    buffer = np.empty(2)

    def reusing(t, y):
        buffer[:] = nonautonomous(t, y)
        return buffer

    y = np.array([1.0, 0.5])
    f_0 = nonautonomous(0.2, y)
    for s in some_degrees(method):
        expected = method.step(nonautonomous, 0.2, y, 0.1, f_0, s)
        found = method.step(reusing, 0.2, y, 0.1, f_0, s)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


@each_method
def test_float32_stays_float32(method):
    y = np.linspace(0.1, 1, 12, dtype=np.float32).reshape(3, 4)
    for s in some_degrees(method):
        y_new, err, _ = method.step(lambda t, y: -y * y, 0.0, y, 0.1, -y * y, s)
        assert y_new.dtype == err.dtype == np.float32
        assert y_new.shape == err.shape == (3, 4)
        np.testing.assert_allclose(y_new, y / (1 + 0.1 * y), atol=1e-3)


@pytest.mark.parametrize("method", [RKC2, RKL2], ids=lambda m: m.name)
def test_rounding_errors_grow_as_the_square_of_the_stages_at_most(method):
    A, rho = heat(100)
    y = 1 + np.sin(np.pi * np.arange(1, 101) / 101)
    for s in some_degrees(method):
        h = 0.95 * method.beta(s) / rho
        y_new, _, _ = method.step(lambda t, y: A @ y, 0.0, y, h, A @ y, s)
        A_32, y_32 = A.astype(np.float32), y.astype(np.float32)
        y_new_32, _, _ = method.step(lambda t, y, A=A_32: A @ y, 0.0, y_32, h, A_32 @ y_32, s)
        assert np.abs(y_new_32 - y_new).max() < (s**2 + 10) * 2**-24 * 2


@each_method
def test_numpy_equals_torch(method):
    torch = pytest.importorskip("torch")
    y = np.random.default_rng(0).uniform(0.1, 1, (2, 3, 4))
    z = torch.tensor(y, requires_grad=True)
    for s in some_degrees(method)[:-1]:
        y_new, err, _ = method.step(lambda t, y: t - y * y, 0.3, y, 0.1, 0.3 - y * y, s)
        z_new, z_err, _ = method.step(lambda t, y: t - y * y, 0.3, z, 0.1, 0.3 - z * z, s)
        np.testing.assert_allclose(z_new.detach(), y_new, rtol=1e-13)
        np.testing.assert_allclose(z_err.detach(), err, atol=1e-13)
        # And autograd sees through the step: a directional derivative against differences.
        (slope,) = torch.autograd.grad(z_new.sum(), z)
        step = 1e-6

        def end(x, s=s):
            return method.step(lambda t, y: t - y * y, 0.3, x, 0.1, 0.3 - x * x, s)[0].sum()

        difference = (end(y + step) - end(y - step)) / (2 * step)
        assert float(slope.sum()) == pytest.approx(difference, rel=1e-7)


def test_complex_state():
    y = np.array([1.0 + 1.0j])
    for method in METHODS:
        s = method.degrees[2]
        y_new, _, _ = method.step(lambda t, y: 1j * y, 0.0, y, 0.1, 1j * y, s)
        np.testing.assert_allclose(y_new, method.R(0.1j, s) * y, rtol=1e-14)


# The stepper --------------------------------------------------------------------------------------


@each_method
def test_heat_equation_against_the_matrix_exponential(method):
    n = 200
    A, rho = heat(n)
    x = np.arange(1, n + 1) / (n + 1)
    y0 = x * (1 - x) + 0.1 * np.sign(np.sin(9 * np.pi * x))
    exact = expm(0.1 * A) @ y0
    backend, calls = backend_of(y0), 0

    def f(t, y):
        nonlocal calls
        calls += 1
        assert 0 <= t <= 0.1
        return A @ y

    stages = StabilisedStages(f, method, backend, RadiusKeeper(lambda t, y, f_y: rho, safety=1.0))
    t, y, tol, h = 0.0, backend.state(y0), 1e-6, 1e-6
    stages.start(y, f(t, y))
    calls = rejected = accepted = 0
    while t < 0.1:
        h = min(h, stages.method.longest(rho))
        t_new = min(t + h, 0.1)
        y_new = stages.attempt(t, y, t_new)
        ratio = float(np.sqrt(np.mean(stages.errors()[0] ** 2))) / tol
        h *= min(5.0, max(0.2, 0.8 * max(ratio, 1e-10) ** (-1 / (method.error_order + 1))))
        if ratio > 1:
            rejected += 1
            continue
        segment = stages.segment(t, y, t_new, y_new)
        np.testing.assert_allclose(segment(t_new), y_new)
        t, y = t_new, y_new
        stages.advance(t, y)
        accepted += 1
    assert stages.nfev == calls
    assert np.abs(y - exact).max() < 100 * tol
    # dopri5 would need at least 7 calls for every h·ρ = 3.3.
    assert calls < 6 * 0.1 * rho / 3.3 / 5
    assert (stages.njev, stages.nlu, stages.probe_state()) == (0, 0, None)


def stepper(method=RKC2, radius=lambda t, y, f_y: 100.0, f=lambda t, y: -100.0 * y, **options):
    y = np.ones(3)
    y = backend_of(y).state(y)
    stages = StabilisedStages(f, method, backend_of(y), RadiusKeeper(radius, **options))
    stages.start(y, f(0.0, y))
    return stages, y


@each_method
def test_a_step_too_long_is_refused_before_any_work(method):
    stages, y = stepper(method, safety=1.0)
    limit = method.beta(method.max_stages) / 100.0
    with pytest.raises(StepFailed, match=f"{method.name} takes steps of at most") as failure:
        stages.attempt(0.0, y, 1.001 * limit)
    assert stages.nfev == 0
    assert failure.value.longest == pytest.approx(limit, rel=0.011)
    stages.attempt(0.0, y, failure.value.longest)
    assert stages.s >= 0.99 * method.max_stages
    stages, y = stepper(method, safety=1.0)
    stages.attempt(0.0, y, -0.5 * limit)  # backwards: stability is judged by |h|
    assert stages.s < 0.8 * method.max_stages


@each_method
def test_slope_at_the_end_is_paid_for_once(method):
    stages, y = stepper(method)
    y_new = stages.attempt(0.0, y, 0.1)
    assert stages.nfev == (stages.s - 1 if method is ROCK2 else stages.s)
    np.testing.assert_array_equal(stages.f_new(0.1, y_new), -100.0 * y_new)
    np.testing.assert_array_equal(stages.get(0), -100.0 * y)
    stages.segment(0.0, y, 0.1, y_new)
    stages.advance(0.1, y_new)
    assert stages.nfev == stages.s
    np.testing.assert_array_equal(stages.get(0), -100.0 * y_new)
    moved = y_new + 1.0
    np.testing.assert_array_equal(stages.f_new(0.1, moved), -100.0 * moved)
    assert stages.nfev == stages.s + 1
    with pytest.raises(ValueError, match="i = 1"):
        stages.get(1)


def test_f_cannot_change_states():
    def changing(t, y):
        y *= 2.0
        return -y

    y = np.ones(3)
    for method in METHODS:
        backend = backend_of(y)
        stages = StabilisedStages(changing, method, backend, RadiusKeeper(lambda t, y, f_y: 1.0))
        stages.start(y, -y)
        with pytest.raises(ValueError, match="read-only"):
            stages.attempt(0.0, y, 20.0)


def test_slopes_may_be_lists():
    for method in METHODS:
        stages, y = stepper(method, f=lambda t, y: -100.0 * y)
        plain = stages.attempt(0.0, y, 1.0)
        lists, y = stepper(method, f=lambda t, y: -100.0 * y)
        lists.f = lambda t, y: list(-100.0 * y)
        np.testing.assert_array_equal(lists.attempt(0.0, y, 1.0), plain)


@each_method
def test_last_time_is_exact(method):
    times = []

    def f(t, y):
        times.append(t)
        return -y

    t, t_new = 0.1, 0.1 + 0.7 / 3
    stages, y = stepper(method, f=f, radius=lambda t, y, f_y: 1000.0)
    for _ in range(200):
        y_new = stages.attempt(t, y, t_new)
        stages.f_new(t_new, y_new)
        assert max(times[1:]) == t_new
        t, t_new = t_new, t_new + 0.7 / 3


# The spectral radius ------------------------------------------------------------------------------


def test_radius_is_kept_for_a_while():
    asked = []

    def estimate(t, y, f_y):
        asked.append(t)
        np.testing.assert_array_equal(f_y, -100.0 * y)
        return 10.0

    stages, y = stepper(radius=estimate, every=3)
    t = 0.0
    for _ in range(7):
        y = stages.attempt(t, y, t + 0.1)
        t += 0.1
        stages.advance(t, y)
    assert np.allclose(asked, [0.0, 0.3, 0.6])
    assert stages.radius.value == 12.0


def test_radius_is_renewed_after_a_rejection_if_stale():
    asked = []
    stages, y = stepper(radius=lambda t, y, f_y: asked.append(t) or 100.0)
    stages.attempt(0.0, y, 0.1)
    y_new = stages.attempt(0.0, y, 0.05)  # rejected, but the estimate is of this very state
    assert asked == [0.0]
    stages.advance(0.05, y_new)
    stages.attempt(0.05, y_new, 0.2)
    stages.attempt(0.05, y_new, 0.1)
    assert asked == [0.0, 0.05]
    stages.attempt(0.05, y_new, 0.07)
    assert asked == [0.0, 0.05]


@pytest.mark.parametrize("rho", [-1.0, math.nan, math.inf])
def test_radius_must_be_a_radius(rho):
    stages, y = stepper(radius=lambda t, y, f_y: rho)
    # A negative one is a mistake; one that is not finite may be right for a shorter step.
    with pytest.raises(ValueError if rho < 0 else StepFailed, match="spectral radius"):
        stages.attempt(0.0, y, 0.1)


@pytest.mark.parametrize("options", [{"safety": 0.9}, {"every": 0}, {"safety": math.nan}])
def test_bad_options(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        RadiusKeeper(lambda t, y, f_y: 1.0, **options)


def test_zero_radius_takes_the_least_stages():
    for method in METHODS:
        stages, y = stepper(method, radius=lambda t, y, f_y: 0.0)
        stages.attempt(0.0, y, 1e6)
        assert stages.s == method.degrees[0]


def test_schemes_are_made_once():
    assert rkc2_recurrence(7) is rkc2_recurrence(7)
    assert rkl2_recurrence(7) is rkl2_recurrence(7)
    assert rock2_scheme(7) is rock2_scheme(7)
    assert rock4_scheme(7) is rock4_scheme(7)
