"""ERK-Guid on Heun's method, against a plain loop written from the published rule."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import stiffkit as sk
from stiffkit.diffusion import DataDenoiser, karras_sigmas, probability_flow, sample
from stiffkit.guidance import ERKGuidance

DATA = np.random.default_rng(3).standard_normal((5, 2, 3)) * [[[0.5], [1.0]]]


def published_heun(denoiser, noise, sigmas, w_stiff, w_con, eps):
    """The rule as printed: falling σ, h = σ_i − σ_(i+1) > 0, nothing shared with the package."""
    x, previous = noise * sigmas[0], None
    for s, s_next in pairwise(sigmas):
        h = s - s_next
        f = (x - denoiser(x, s)) / s
        predictor = x - h * f
        f_next = (predictor - denoiser(predictor, s_next)) / s_next
        x_heun = x - h * (f + f_next) / 2
        if previous is not None:
            x_hat, f_hat = previous
            for j in range(len(x)):
                dx, df = x[j] - x_hat[j], f[j] - f_hat[j]
                rho = np.linalg.norm(df) / (np.linalg.norm(dx) + eps)
                v = df / (np.linalg.norm(df) + eps)
                if rho > w_con:
                    x_heun[j] -= h * (w_stiff * h * rho) ** 2 * (v * f[j]).sum() * v
        x, previous = x_heun, (predictor, f_next)
    return denoiser(x, sigmas[-1])


@pytest.mark.parametrize(("w_stiff", "w_con"), [(0.5, 0.1), (1.0, 0.5), (2.5, 0.0), (0.7, 1e9)])
@pytest.mark.parametrize("shape", [(4, 2, 3), (4, 6)])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_erk_guided_heun_is_the_published_loop(w_stiff, w_con, shape, library):
    data = DATA.reshape((len(DATA), *shape[1:]))
    noise = np.random.default_rng(0).standard_normal(shape)
    sigmas = karras_sigmas(9, 0.01, 20.0)
    calls = []

    def counted(x, sigma):
        calls.append(sigma)
        return denoiser(x, sigma)

    denoiser = DataDenoiser(data, std=0.1)
    expected = published_heun(denoiser, noise, sigmas, w_stiff, w_con, 1e-8)
    plain = sample(denoiser, noise, sigmas, sampler="heun")
    assert (w_con > 1e6) == np.allclose(expected, plain, rtol=0, atol=1e-9)  # the hook does act
    if library == "torch":
        data, noise = torch.as_tensor(data), torch.as_tensor(noise)
        denoiser = DataDenoiser(data, std=0.1)
    drawn = sample(counted, noise, sigmas, guide=ERKGuidance(w_stiff, w_con))
    # Both follow the same formulae, with terms up to 20 that round to 4e-15. The correction of the
    # largest weight is larger than the step itself, and carries that on to 2e-12.
    atol = 1e-12 if w_stiff < 2 else 1e-11
    np.testing.assert_allclose(np.asarray(drawn), expected, rtol=0, atol=atol)
    assert len(calls) == 2 * len(sigmas) - 1


def test_weight_zero_is_plain_heun_to_the_last_bit():
    noise = np.random.default_rng(1).standard_normal((3, 2, 3))
    denoiser = DataDenoiser(DATA, std=0.1)
    for guide in (ERKGuidance(0.0, 0.0), ERKGuidance(1.0, 1e300)):
        guided = sample(denoiser, noise, karras_sigmas(8), guide=guide)
        plain = sample(denoiser, noise, karras_sigmas(8), sampler="heun")
        np.testing.assert_array_equal(guided, plain)


@given(st.floats(1e-6, 1e6), st.integers(0, 100))
def test_without_eps_the_rule_does_not_know_the_unit_of_the_state(scale, seed):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((3, 3))
    y0 = rng.standard_normal((2, 3))
    runs = [
        sk.solve(
            lambda t, y, c=c: y @ A.T + c * np.sin(t),
            (0.0, 1.0),
            c * y0,
            "heun",
            grid=4,
            guide=ERKGuidance(1.0, 0.1, eps=0.0),
        ).y[-1]
        for c in (1.0, scale)
    ]
    np.testing.assert_allclose(runs[1], scale * runs[0], rtol=1e-10, atol=1e-12 * scale)


def test_a_state_at_rest_stays_finite():
    # Δx = Δf = 0: both quotients are 0/0.
    for eps in (0.0, 1e-8):
        guide = ERKGuidance(1.0, 0.0, eps=eps)
        still = sk.solve(lambda t, y: 0 * y, (0, 1), np.ones((2, 3)), "heun", grid=3, guide=guide)
        np.testing.assert_array_equal(still.y[-1], np.ones((2, 3)))


def test_samples_do_not_know_of_each_other():
    noise = np.random.default_rng(2).standard_normal((4, 2, 3))
    denoiser, guide = DataDenoiser(DATA, std=0.1), ERKGuidance(1.0, 0.2)
    together = sample(denoiser, noise, karras_sigmas(8), guide=guide)
    alone = np.concatenate(
        [sample(denoiser, noise[i : i + 1], karras_sigmas(8), guide=guide) for i in range(4)]
    )
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("name", ["w_stiff", "w_con", "eps"])
def test_bad_parameters_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        ERKGuidance(**{"w_stiff": 1.0, "w_con": 0.1, "eps": 1e-8, name: value})


def test_hook_reverses_with_time():
    # h is signed: integrating y' = f(t, y) forward or the mirrored problem backward is the same.
    A = np.array([[-3.0, 1.0], [0.0, -1.0]])
    y0, guide = np.array([[1.0, 2.0]]), ERKGuidance(0.8, 0.0)
    forward = sk.solve(lambda t, y: y @ A.T, (0, 1), y0, "heun", grid=5, guide=guide)
    mirrored = sk.solve(lambda t, y: -y @ A.T, (0, -1), y0, "heun", grid=5, guide=guide)
    np.testing.assert_allclose(forward.y, mirrored.y, rtol=1e-14)


def test_flow_of_the_probability_ode_is_the_denoisers():
    flow = probability_flow(lambda x, sigma: 0.25 * x)
    np.testing.assert_allclose(flow(2.0, np.ones(3)), 0.375)
