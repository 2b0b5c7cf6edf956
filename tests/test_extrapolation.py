"""Guides derived from a tableau: exact where their model is, of the method's order elsewhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stiffkit as sk
from stiffkit.diffusion import gaussian, karras_sigmas, probability_flow
from stiffkit.guidance import FittedExtrapolation, ModeCorrection
from stiffkit.guidance.extrapolation import fitted_factor, seen_slope

PROBED = [name for name, tableau in sk.EXPLICIT.items() if tableau.probe is not None]
HEUN_BY_HAND = sk.ButcherTableau(
    "heun_by_hand", order=2, c=[0, 1], A=[[], [1]], b=[0.5, 0.5], b_hat=[1, 0], order_hat=1
)


@pytest.mark.parametrize("method", PROBED)
@pytest.mark.parametrize("rate", [-3.0, -0.7, 0.4, 2.0])
def test_mode_correction_is_exact_for_one_linear_mode(method, rate):
    # The first step has no pair; every later one multiplies by e^z. The probe's Δy may be as small
    # as the local error, and the quotient then has as many digits fewer: φ needs only some of them.
    n, y0 = 4, np.array([[1.0, -2.0], [0.3, 0.1]])
    run = sk.solve(lambda t, y: rate * y, (0.0, 2.0), y0, method, grid=n, guide=ModeCorrection())
    z = 2.0 * rate / n
    first = sk.METHODS[method].R(z).real
    expected = y0 * first * np.exp(rate * 2.0 - z)
    np.testing.assert_allclose(run.y[-1], expected, rtol=1e-9)
    plain = sk.solve(lambda t, y: rate * y, (0.0, 2.0), y0, method, grid=n)
    if abs(first - np.exp(z)) > 1e-7:
        assert (
            abs(plain.y[-1] - y0 * np.exp(2 * rate)) > 2 * abs(run.y[-1] - y0 * np.exp(2 * rate))
        ).all()


@pytest.mark.parametrize("method", ["heun", "dopri5"])
def test_mode_correction_keeps_the_order(method):
    def f(t, y):
        return np.stack([-y[:, 0] * y[:, 1], np.sin(t) + y[:, 0]], axis=1)

    y0 = np.array([[1.0, 0.5], [0.2, 1.0]])
    exact = sk.solve(f, (0, 2), y0, "dop853", rtol=1e-13, atol=1e-14).y[-1]
    errors = []
    for n in (40, 80):
        run = sk.solve(f, (0, 2), y0, method, grid=n, guide=ModeCorrection())
        errors.append(abs(run.y[-1] - exact).max())
    assert np.log2(errors[0] / errors[1]) > sk.METHODS[method].order - 0.4


@given(a=st.floats(1e-3, 3.0), r=st.floats(0.02, 0.98))
def test_heuns_closed_form_is_the_general_one(a, r):
    general = fitted_factor(HEUN_BY_HAND, np.array([a]), r)
    closed = fitted_factor(sk.METHODS["heun"], np.array([a]), r)
    if abs(a - 1) * a * (1 - r) ** 2 > 1e-6:  # else the general one is nearly 0/0
        np.testing.assert_allclose(closed, general, rtol=0, atol=1e-7)


@given(a=st.floats(0.0, 3.0), r=st.floats(0.0, 1.0, exclude_max=True))
def test_factor_is_bounded_and_finite(a, r):
    for method in ("heun", "bosh3", "dopri5"):
        factor = fitted_factor(sk.METHODS[method], np.array([a]), r)
        assert (abs(factor) <= 1).all()


def test_factor_cancels_the_leading_local_error():
    # With δ = 1 − r = Δ/σ: the local error is Δ δ² a (1 − a)/2 f and the pair's difference
    # Δ δ a/2 f, both to leading order, so ρ → −(1 − a) δ.
    for a in (0.1, 0.5, 0.9, 2.0):
        rho = [
            float(fitted_factor(sk.METHODS["heun"], np.array([a]), 1 - d)[0]) for d in (2e-3, 1e-3)
        ]
        slope = 2 * rho[1] / 1e-3 - rho[0] / 2e-3  # Richardson: to O(δ²)
        assert abs(slope + (1 - a)) < 1e-4, (a, slope)


@pytest.mark.parametrize("method", ["heun", "bosh3"])
@pytest.mark.parametrize("S", [0.1, 0.5, 2.0])
def test_isotropic_gaussian_data_are_solved_exactly(method, S):
    denoiser = gaussian(np.full((2, 3), S**2), mean=np.full((2, 3), 0.7))
    sigmas = karras_sigmas(12)
    x0 = 80.0 * np.random.default_rng(0).standard_normal((4, 2, 3))
    f = probability_flow(denoiser)
    guide = FittedExtrapolation(std=S, guard=False)
    run = sk.solve(f, (80.0, 0.002), x0, method, grid=sigmas, guide=guide)
    expected = 0.7 + (x0 - 0.7) * np.sqrt((S**2 + 0.002**2) / (S**2 + 80.0**2))
    # States of size 80 are rounded, and a is a quotient of differences a thousand times smaller.
    np.testing.assert_allclose(run.y[-1], expected, rtol=1e-9, atol=1e-10)
    plain = sk.solve(f, (80.0, 0.002), x0, method, grid=sigmas)
    assert abs(plain.y[-1] - expected).max() > 1e-3


@pytest.mark.parametrize("method", ["heun", "bosh3", "tsit5"])
def test_extrapolation_keeps_the_order(method):
    from stiffkit.diffusion import GaussianMixture

    denoiser = GaussianMixture(np.array([[1.0, 0.0], [-1.0, 0.5]]), std=0.7)
    f = probability_flow(denoiser)
    x0 = 5.0 * np.random.default_rng(0).standard_normal((6, 2))
    exact = sk.solve(f, (5.0, 0.5), x0, "dop853", rtol=1e-13, atol=1e-14).y[-1]
    errors = []
    for n in (40, 80):
        grid = np.geomspace(5.0, 0.5, n + 1)
        grid[[0, -1]] = 5.0, 0.5
        run = sk.solve(f, (5.0, 0.5), x0, method, grid=grid, guide=FittedExtrapolation(guard=False))
        errors.append(abs(run.y[-1] - exact).max())
    assert np.log2(errors[0] / errors[1]) > sk.METHODS[method].order - 0.4


def test_extrapolation_needs_a_pair_and_noise_levels():
    guide = FittedExtrapolation(guard=False)
    for method, span, word in (("euler", (2.0, 1.0), "embedded"), ("heun", (-1.0, 1.0), "noise")):
        with pytest.raises(ValueError, match=word):
            sk.solve(lambda t, y: -y, span, np.ones((1, 2)), method, grid=2, guide=guide)
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="std"):
            FittedExtrapolation(bad)
        if bad != 0.0:
            with pytest.raises(ValueError, match="w_con"):
                ModeCorrection(w_con=bad)


def test_extrapolation_at_rest_and_to_zero_noise_is_finite():
    still = sk.solve(
        lambda t, y: 0 * y, (1.0, 0.0), np.ones((2, 3)), "heun", grid=3, guide=FittedExtrapolation()
    )
    np.testing.assert_array_equal(still.y[-1], np.ones((2, 3)))


def test_guard_leaves_steps_above_the_datas_scale_to_heun():
    scales = np.array([0.05, 0.5, 2.0])  # of three directions, and a sample along each
    f, sigmas, acted = probability_flow(gaussian(scales**2)), karras_sigmas(9), []
    guarded, plain = FittedExtrapolation(), FittedExtrapolation(guard=False)

    def guide(step, probe):
        # Along one direction a = S²/(S² + σ²): S is what is measured, but at the first step.
        inside = step.t_new <= (scales if probe is not None else np.full(3, 0.5))
        factors = [one.reading(step, probe)["factor"] for one in (plain, guarded)]
        # κ loses digits where its denominator is small: steps to a much smaller σ.
        np.testing.assert_allclose(factors[1], np.where(inside, factors[0], 0.0), atol=1e-6)
        moved = guarded(step, probe)
        expected = step.y_new + factors[1][:, None] * step.err
        np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-12)
        acted.append(inside)
        return moved

    span, x0 = (sigmas[0], sigmas[-1]), sigmas[0] * np.eye(3)
    guided = sk.solve(f, span, x0, "heun", grid=sigmas, guide=guide).y[-1]
    heun = sk.solve(f, span, x0, "heun", grid=sigmas).y[-1]
    exact = x0 * np.sqrt((scales**2 + span[1] ** 2) / (scales**2 + span[0] ** 2))
    assert (np.diag(abs(guided - exact)) < 0.8 * np.diag(abs(heun - exact))).all()
    assert (np.diff(np.sum(acted, axis=0)) > 0).all()
    assert not np.all(acted)


@pytest.mark.parametrize("method", ["heun", "bosh3", "dopri5"])
@given(a=st.floats(0.0, 1.0), s=st.floats(0.01, 50.0), r=st.floats(0.05, 0.95))
def test_change_of_the_slope_within_a_step_gives_the_datas_a(method, a, s, r):
    tableau = sk.METHODS[method]
    rate = lambda t: t * (1 - a) / (s**2 * a + (1 - a) * t**2) if a < 1 else 0.0  # noqa: E731
    x, h = np.array([[1.0, -2.0], [0.5, 3.0]]), (r - 1) * s
    c = float(tableau.c[1])
    k = [rate(s) * x, rate(s + c * h) * (x + c * h * rate(s) * x)]
    step = sk.Step(tableau, s, h, x, k, x, r * s, x)
    found = seen_slope(step).ravel()
    if a == 1:  # f = 0 says nothing
        assert np.isfinite(found).all()
    elif 1 - a > 1e-6:
        np.testing.assert_allclose(found, a, rtol=0, atol=1e-9 / r**2)


def test_guarded_factor_mixes_what_two_slopes_say():
    from stiffkit.diffusion import GaussianMixture

    f = probability_flow(GaussianMixture(np.array([[0.4, 0.0], [-0.4, 0.2]]), std=0.3))
    x0 = 0.8 * np.random.default_rng(0).standard_normal((5, 2))
    used = []

    def guide(step, probe):
        guarded = FittedExtrapolation().reading(step, probe)
        plain = FittedExtrapolation(guard=False).reading(step, probe)
        if probe is not None:
            other = fitted_factor(step.tableau, seen_slope(step).ravel(), step.t_new / step.t)
            dx = step.y - probe.z
            cosine = (dx * step.err).sum(1) / np.linalg.norm(dx, axis=1)
            turned = 1 - (cosine / np.linalg.norm(step.err, axis=1)) ** 2
            most = (1 - step.t_new / step.t) ** 2
            share = np.minimum(turned, most)
            mixed = (1 - share) * plain["factor"] + share * other
            acts = guarded["factor"] != 0
            np.testing.assert_allclose(guarded["factor"][acts], mixed[acts], rtol=1e-9)
            used.extend((turned < most)[acts])
        return step.y_new

    sk.solve(f, (0.8, 0.01), x0, "heun", grid=karras_sigmas(8, 0.01, 0.8), guide=guide)
    assert np.any(used)
    assert not np.all(used)  # the share of what the step itself shows is bounded


@pytest.mark.parametrize("method", ["heun", "bosh3"])
def test_guarded_extrapolation_keeps_the_order_and_finite_states(method):
    f = probability_flow(gaussian(np.array([1.0, 0.04, 2.0])))
    x0 = 3.0 * np.random.default_rng(0).standard_normal((4, 3))
    exact = sk.solve(f, (3.0, 0.3), x0, "dop853", rtol=1e-13, atol=1e-14).y[-1]
    errors = []
    for n in (40, 80):
        guide = FittedExtrapolation()
        run = sk.solve(f, (3.0, 0.3), x0, method, grid=n, guide=guide)
        errors.append(abs(run.y[-1] - exact).max())
    assert np.log2(errors[0] / errors[1]) > sk.METHODS[method].order - 0.4
    still = sk.solve(
        lambda t, y: 0 * y, (1.0, 0.0), x0, method, grid=3, guide=FittedExtrapolation()
    )
    np.testing.assert_array_equal(still.y[-1], x0)
