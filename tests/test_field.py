"""Field guidance against the papers' formulae, written out sample by sample."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stiffkit.diffusion import DataDenoiser, GaussianMixture, karras_sigmas, sample
from stiffkit.guidance import (
    adaptive_projected_guidance,
    autoguidance,
    cfg_plus_plus,
    cfg_zero_star,
    classifier_free_guidance,
)

RNG = np.random.default_rng(0)
DATA = RNG.standard_normal((6, 2, 3))
CLASSES = np.arange(6) % 3
STRONG = DataDenoiser(DATA, 0.2, classes=CLASSES)
WEAK = DataDenoiser(DATA, 0.6, classes=CLASSES)
LABELS = np.array([0, 1, 2, 1])
X = 2.0 * RNG.standard_normal((4, 2, 3))


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_linear_guidance_extrapolates(weight):
    guided = classifier_free_guidance(STRONG, weight)
    D_u = STRONG(X, 1.5)
    np.testing.assert_allclose(
        guided(X, 1.5, LABELS), D_u + weight * (STRONG(X, 1.5, LABELS) - D_u), rtol=1e-13
    )
    guided = autoguidance(STRONG, WEAK, weight)
    D_w = WEAK(X, 1.5, LABELS)
    np.testing.assert_allclose(
        guided(X, 1.5, LABELS), D_w + weight * (STRONG(X, 1.5, LABELS) - D_w), rtol=1e-13
    )


def test_another_network_and_null_labels_stand_for_unconditional():
    other = GaussianMixture(DATA, std=0.4)
    D_c = STRONG(X, 1.5, LABELS)
    by_network = classifier_free_guidance(STRONG, 3.0, unconditional=other)(X, 1.5, LABELS)
    np.testing.assert_allclose(by_network, other(X, 1.5) + 3 * (D_c - other(X, 1.5)), rtol=1e-13)
    by_label = classifier_free_guidance(STRONG, 3.0, null=np.full(4, -1))(X, 1.5, LABELS)
    np.testing.assert_allclose(by_label, classifier_free_guidance(STRONG, 3.0)(X, 1.5, LABELS))


def test_strengths_differ_by_sample_and_by_noise_level():
    w = np.array([0.0, 1.0, 2.0, 3.0])
    together = classifier_free_guidance(STRONG, w)(X, 1.5, LABELS)
    for i in range(4):
        alone = classifier_free_guidance(STRONG, w[i])(X[i : i + 1], 1.5, LABELS[i : i + 1])
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-12)
    scheduled = classifier_free_guidance(STRONG, lambda sigma: 1 + sigma)
    np.testing.assert_allclose(
        scheduled(X, 1.5, LABELS), classifier_free_guidance(STRONG, 2.5)(X, 1.5, LABELS)
    )
    levels = np.array([0.1, 0.5, 1.0, 3.0])
    limited = classifier_free_guidance(STRONG, 2.0, interval=(0.1, 1.0))
    full, plain = classifier_free_guidance(STRONG, 2.0), STRONG(X, levels, LABELS)
    expected = np.where(
        np.array([False, True, True, False])[:, None, None], full(X, levels, LABELS), plain
    )
    np.testing.assert_allclose(limited(X, levels, LABELS), expected, rtol=1e-13)


def test_outside_the_interval_the_weak_network_is_not_called():
    calls = []

    def weak(x, sigma, labels=None):
        calls.append(float(sigma))
        return WEAK(x, sigma, labels)

    guided = autoguidance(STRONG, weak, 2.0, interval=(0.5, 5.0))
    sigmas = karras_sigmas(10)
    sample(guided, np.ones((2, 2, 3)), sigmas, sampler="heun")
    assert calls == [s for pair in pairwise(sigmas) for s in pair if 0.5 < s <= 5.0]
    calls.clear()
    np.testing.assert_array_equal(autoguidance(STRONG, weak, 1.0)(X, 1.0), STRONG(X, 1.0))
    assert not calls


@given(
    w=st.floats(0.0, 8.0),
    eta=st.floats(0.0, 1.0),
    threshold=st.floats(0.01, 10.0),
    momentum=st.floats(-0.9, 0.5),
)
def test_projected_guidance_is_the_papers_algorithm(w, eta, threshold, momentum):
    guided = adaptive_projected_guidance(STRONG, w, eta=eta, threshold=threshold, momentum=momentum)
    for _ in range(2):  # the second run starts without a memory
        average = np.zeros_like(X)
        for sigma in (3.0, 1.0, 0.4):
            D_c, D_u = STRONG(X, sigma, LABELS), STRONG(X, sigma)
            average = D_c - D_u + momentum * average
            drawn = guided(X, sigma, LABELS)
            for i in range(4):
                u, c = average[i].ravel(), D_c[i].ravel()
                u = u * min(1.0, threshold / np.linalg.norm(u))
                along = (u @ c) / (c @ c) * c
                expected = c + (w - 1) * (u - along + eta * along)
                np.testing.assert_allclose(drawn[i].ravel(), expected, rtol=1e-10, atol=1e-12)


def test_projected_guidance_without_projection_is_classifier_free():
    plain = classifier_free_guidance(STRONG, 3.0)(X, 0.7, LABELS)
    projected = adaptive_projected_guidance(STRONG, 3.0, eta=1.0)(X, 0.7, LABELS)
    np.testing.assert_allclose(projected, plain, rtol=1e-12)


def test_zero_star_is_the_papers_rule_on_flow_velocities():
    sigma, w = 1.5, 4.0
    guided = cfg_zero_star(STRONG, w)
    t = sigma / (1 + sigma)
    x_t = X / (1 + sigma)
    for i in range(4):
        one = slice(i, i + 1)
        # x_t = (1 − t) x₀ + t n, v = n − x₀ = (x_t − x₀)/t.
        v_c = (x_t[i] - STRONG(X[one], sigma, LABELS[one])[0]) / t
        v_u = (x_t[i] - STRONG(X[one], sigma)[0]) / t
        s = (v_c * v_u).sum() / (v_u**2).sum()
        v = (1 - w) * s * v_u + w * v_c
        np.testing.assert_allclose(
            guided(X[one], sigma, LABELS[one])[0], x_t[i] - t * v, rtol=1e-11, atol=1e-12
        )


def test_zero_init_lets_the_flow_state_stand_still():
    guided = cfg_zero_star(STRONG, 3.0, zero_above=5.0)
    np.testing.assert_allclose(guided(X, 9.0, LABELS), X / 10.0, rtol=1e-14)
    np.testing.assert_allclose(
        guided(X, 5.0, LABELS), cfg_zero_star(STRONG, 3.0)(X, 5.0, LABELS), rtol=1e-14
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_plus_plus_with_euler_is_the_papers_sampler(dtype):
    sigmas, lam = karras_sigmas(12), 0.6
    noise = RNG.standard_normal((4, 2, 3))
    x = noise * sigmas[0]
    for s, s_next in pairwise([*sigmas, 0.0]):
        D_u = STRONG(x, s)
        D = D_u + lam * (STRONG(x, s, LABELS) - D_u)
        x = D + s_next / s * (x - D_u)
    data = torch.as_tensor(DATA, dtype=dtype)
    denoiser = cfg_plus_plus(DataDenoiser(data, 0.2, classes=CLASSES), lam, sigmas)
    start = torch.as_tensor(noise, dtype=dtype)
    drawn = sample(denoiser, start, sigmas, sampler="euler", labels=LABELS)
    # Twelve steps; the first state of size 80 rounds at eps · 80.
    atol = 1e4 * float(torch.finfo(dtype).eps)
    np.testing.assert_allclose(drawn, x, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "make", [classifier_free_guidance, adaptive_projected_guidance, cfg_zero_star]
)
def test_torch_is_numpy(make):
    twin = DataDenoiser(torch.as_tensor(DATA), 0.2, classes=CLASSES)
    w = np.array([0.5, 1.0, 2.0, 3.0])
    ours = make(twin, torch.as_tensor(w))(torch.as_tensor(X), torch.tensor(0.75), LABELS)
    np.testing.assert_allclose(ours, make(STRONG, w)(X, 0.75, LABELS), rtol=1e-10, atol=1e-12)


def test_bad_arguments_are_named():
    for interval in ((1.0, 1.0), (-1.0, 2.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match="interval"):
            classifier_free_guidance(STRONG, 2.0, interval=interval)
    with pytest.raises(ValueError, match="weight"):
        classifier_free_guidance(STRONG, np.nan)
    with pytest.raises(TypeError, match="weak"):
        autoguidance(STRONG, 3, 2.0)
    with pytest.raises(ValueError, match="threshold"):
        adaptive_projected_guidance(STRONG, 2.0, threshold=0.0)
    with pytest.raises(ValueError, match="momentum"):
        adaptive_projected_guidance(STRONG, 2.0, momentum=1.0)
    with pytest.raises(ValueError, match="sigmas"):
        cfg_plus_plus(STRONG, 0.5, [1.0, 2.0])
    with pytest.raises(ValueError, match="per sample"):
        classifier_free_guidance(STRONG, np.ones(3))(X, 1.0, LABELS)
