"""Noise levels, the closed-form denoiser, and the grid solve that samples with it."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import stiffkit as sk
from stiffkit.diffusion import DataDenoiser, karras_sigmas, probability_flow, sample


@given(st.integers(2, 200), st.floats(1e-4, 0.1), st.floats(1.0, 1e3), st.floats(0.5, 20.0))
def test_karras_levels_fall_equidistantly_in_their_root(n, low, high, rho):
    sigmas = karras_sigmas(n, low, high, rho)
    assert sigmas.shape == (n,)
    assert sigmas[0] == high
    assert sigmas[-1] == low
    assert (np.diff(sigmas) < 0).all()
    gaps = np.diff(sigmas ** (1 / rho))
    np.testing.assert_allclose(gaps, gaps.mean(), rtol=1e-9)


@pytest.mark.parametrize("bad", [(1,), (2.5,), (5, 0.0), (5, 1.0, 0.5), (5, 0.1, 1.0, 0.0)])
def test_karras_refuses_what_has_no_grid(bad):
    with pytest.raises(ValueError, match=r"n must|need 0 < sigma_min|rho must"):
        karras_sigmas(*bad)


@given(st.integers(0, 1000), st.floats(0.02, 50.0), st.floats(0.0, 1.0))
def test_denoiser_is_the_posterior_mean(seed, sigma, std):
    rng = np.random.default_rng(seed)
    data, x = rng.standard_normal((6, 2, 2)), sigma * rng.standard_normal((3, 2, 2))
    total = sigma**2 + std**2
    expected = np.zeros_like(x)
    for i, x_i in enumerate(x):
        logs = np.array([-((x_i - d) ** 2).sum() / (2 * total) for d in data])
        weights = np.exp(logs - logs.max())
        mean = (weights[:, None, None] * data).sum(axis=0) / weights.sum()
        expected[i] = (std**2 * x_i + sigma**2 * mean) / total
    # The logits are differences of squares that are up to (‖x‖ + ‖d‖)²/total times larger.
    scale = np.finfo(float).eps * (np.abs(x).max() + np.abs(data).max()) ** 2 * 16 / total
    drawn = DataDenoiser(data, std)(x, sigma)
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=50 * scale + 1e-13)
    many = DataDenoiser(data, std)(x, np.full(3, sigma))
    np.testing.assert_allclose(many, drawn, rtol=0, atol=50 * scale + 1e-13)
    tensor = DataDenoiser(torch.as_tensor(data), std)(
        torch.as_tensor(x), torch.tensor(sigma, dtype=torch.float64)
    )
    np.testing.assert_allclose(tensor.numpy(), drawn, rtol=0, atol=50 * scale + 1e-13)


def test_score_is_the_gradient_of_the_smoothed_density():
    # Tweedie: D = x + σ² ∇ log p(x; σ), here by automatic differentiation of log p.
    data = torch.randn((7, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.randn((4, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    sigma, std = 0.7, 0.3
    square = ((x[:, None] - data) ** 2).sum(-1)
    log_p = torch.logsumexp(-square / (2 * (sigma**2 + std**2)), dim=1).sum()
    (score,) = torch.autograd.grad(log_p, x)
    expected = x + sigma**2 * score
    torch.testing.assert_close(DataDenoiser(data, std)(x, sigma), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [(np.zeros((0, 2)), 0.0), (np.zeros((2, 2)), -1.0)])
def test_denoiser_refuses_no_data_and_negative_blur(bad):
    with pytest.raises(ValueError, match="at least one sample"):
        DataDenoiser(*bad)


def test_sampling_a_single_gaussian_is_its_closed_form():
    # For N(μ, s²) the flow keeps (x − μ)/√(s² + σ²): a point of unit noise goes to μ + s·(...).
    mean, s = np.array([[1.0, -2.0]]), 0.5
    noise = np.random.default_rng(0).standard_normal((6, 2))
    sigmas = karras_sigmas(200)
    x = sample(DataDenoiser(mean, s), noise, sigmas, sampler="heun")
    start, end = sigmas[0], sigmas[-1]
    at_end = mean + (noise * start - mean) * np.sqrt((s**2 + end**2) / (s**2 + start**2))
    expected = (s**2 * at_end + end**2 * mean) / (s**2 + end**2)
    # Second order: that the error vanishes as it should is the next test's affair.
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-3)


def test_samplers_converge_with_their_order():
    mean, s = np.array([[1.0, -2.0]]), 0.5
    noise = np.random.default_rng(0).standard_normal((6, 2))
    flow = probability_flow(DataDenoiser(mean, s))
    exact = sk.solve(flow, (80.0, 0.002), noise * 80, "dop853", rtol=1e-12, atol=1e-12).y[-1]
    exact = DataDenoiser(mean, s)(exact, 0.002)
    for sampler, order in (("euler", 1), ("heun", 2), ("bosh3", 3)):
        errors = [
            np.abs(
                sample(DataDenoiser(mean, s), noise, karras_sigmas(n), sampler=sampler) - exact
            ).max()
            for n in (101, 201)
        ]
        assert abs(np.log2(errors[0] / errors[1]) - order) < 0.25, (sampler, errors)


def test_calls_are_two_a_step_and_one_at_the_end():
    calls = []
    denoiser = DataDenoiser(np.eye(3), 0.1)

    def counted(x, sigma):
        calls.append(float(sigma))
        return denoiser(x, sigma)

    sample(counted, np.ones((2, 3)), steps=6, sampler="heun")
    sigmas = karras_sigmas(6)
    assert len(calls) == 11
    assert calls == [s for pair in pairwise(sigmas) for s in pair] + [sigmas[-1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    noise = torch.ones((2, 3), dtype=dtype)
    assert sample(DataDenoiser(torch.eye(3, dtype=dtype), 0.1), noise, steps=5).dtype == dtype


def test_bad_levels_and_a_broken_denoiser_are_reported():
    denoiser = DataDenoiser(np.eye(3), 0.1)
    for sigmas in ([1.0], [1.0, 0.0], []):
        with pytest.raises(ValueError, match="sigmas"):
            sample(denoiser, np.ones((2, 3)), sigmas)

    def broken(x, sigma):
        return denoiser(x, sigma) if sigma > 1 else np.nan * x

    with pytest.raises(RuntimeError, match="not finite") as caught:
        sample(broken, np.ones((2, 3)), steps=6, sampler="heun")
    assert caught.value.solution.status is sk.Status.non_finite
