"""Closed-form denoisers against automatic differentiation, dense algebra and their own samples."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stiffkit.diffusion import DataDenoiser, GaussianMixture, gaussian

KINDS = ("full", "low rank", "both", "isotropic", "data")


def problem(kind, seed=0, m=4, n=3):
    """A denoiser, and what it is of: weights, means, covariances."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((m, n))
    factors = 0.5 * rng.standard_normal((m, n, 2))
    root = 0.3 * rng.standard_normal((m, n, n))
    std = rng.uniform(0.05, 0.3, m)
    weights = rng.uniform(0.5, 2.0, m)
    classes = np.arange(m) % 2
    full, low = root @ root.swapaxes(1, 2), factors @ factors.swapaxes(1, 2)
    isotropic = std[:, None, None] ** 2 * np.eye(n)
    if kind == "data":
        cov = np.tile(0.04 * np.eye(n), (m, 1, 1))
        return DataDenoiser(means, 0.2, classes=classes), np.full(m, 1 / m), means, cov, classes
    chosen = {
        "full": ({"covariances": full}, full),
        "low rank": ({"factors": factors, "std": std}, low + isotropic),
        "both": ({"covariances": full, "factors": factors, "std": std}, full + low + isotropic),
        "isotropic": ({"std": std}, isotropic),
    }
    options, cov = chosen[kind]
    denoiser = GaussianMixture(means, weights=weights, classes=classes, **options)
    return denoiser, weights / weights.sum(), means, cov, classes


def log_density(x, sigma, weights, means, cov):
    """log p(x; σ) by torch's own normal distributions."""
    t = torch.as_tensor
    total = t(cov) + sigma**2 * torch.eye(means.shape[1], dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal(t(means), total)
    return torch.logsumexp(t(np.log(weights)) + normal.log_prob(x[:, None]), dim=1)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 1000), sigma=st.floats(0.05, 20.0))
def test_tweedie_gives_the_denoiser(kind, seed, sigma):
    denoiser, weights, means, cov, classes = problem(kind, seed)
    x = torch.tensor(sigma * np.random.default_rng(seed).standard_normal((5, 3)))
    for labels in (None, np.array([0, 1, 1, 0, -1])):
        expected = torch.zeros_like(x)
        for i in range(5):
            own = slice(None) if labels is None or labels[i] < 0 else classes == labels[i]
            row = x[i : i + 1].clone().requires_grad_()
            log_p = log_density(row, sigma, weights[own], means[own], cov[own]).sum()
            expected[i] = (row + sigma**2 * torch.autograd.grad(log_p, row)[0])[0].detach()
        # The logits are of size (‖x‖ + ‖μ‖)²/variance, and carry as many roundings.
        atol = 1e-12 * (1 + sigma**2 / 0.002)
        np.testing.assert_allclose(denoiser(x.numpy(), sigma, labels), expected, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [0.05, 0.4, 3.0, 50.0])
def test_jacobian_is_the_derivative(kind, sigma):
    denoiser, *_ = problem(kind)
    x = sigma * np.random.default_rng(1).standard_normal((5, 3))
    v = np.random.default_rng(2).standard_normal((5, 3))
    A = denoiser.jacobian(x, sigma)
    h = 1e-5 * max(sigma, 0.1)
    difference = np.stack(
        [(denoiser(x + h * e, sigma) - denoiser(x - h * e, sigma)) / (2 * h) for e in np.eye(3)], -1
    )
    np.testing.assert_allclose(A, difference, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(A, A.swapaxes(1, 2), atol=1e-12)
    assert np.linalg.eigvalsh(A).min() > -1e-12
    product = denoiser.jacobian_product(x, sigma, v)
    np.testing.assert_allclose(product, np.einsum("bij,bj->bi", A, v), rtol=1e-12, atol=1e-13)
    levels = np.full(5, sigma)
    np.testing.assert_allclose(denoiser.jacobian(x, levels), A, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_torch_is_numpy_and_shapes_are_kept(kind):
    denoiser, _, means, cov, classes = problem(kind, n=6)
    x = np.random.default_rng(1).standard_normal((5, 2, 3))
    labels = np.array([0, 1, 0, -1, 1])
    t = torch.as_tensor
    if kind == "data":
        twin = DataDenoiser(t(means).reshape(-1, 2, 3), 0.2, classes=classes)
    else:
        twin = GaussianMixture(
            t(means).reshape(-1, 2, 3), t(cov), weights=denoiser.weights, classes=classes
        )
    drawn = twin(t(x), torch.tensor(0.5), labels)
    assert drawn.shape == x.shape
    np.testing.assert_allclose(drawn, denoiser(x, 0.5, labels), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        twin.jacobian(t(x), 0.5), denoiser.jacobian(x, 0.5), rtol=1e-9, atol=1e-11
    )
    assert twin.draw(3).shape == (3, 2, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_moments_of_the_data(kind):
    denoiser, weights, means, cov, classes = problem(kind)
    count = 40_000
    mean = weights @ means
    centred = means - mean
    expected = np.einsum("m,mij->ij", weights, cov) + (weights * centred.T) @ centred
    drawn = denoiser.draw(count, seed=5)
    # Five standard errors; a fourth moment of 3 variances² bounds that of the covariance.
    scale = 5 * np.sqrt(3 / count) * np.trace(expected)
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=scale)
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=scale)
    of_one = denoiser.draw(count, labels=np.ones(count, dtype=int))
    own = classes == 1
    share = weights[own] / weights[own].sum()
    np.testing.assert_allclose(of_one.mean(axis=0), share @ means[own], atol=scale)


def test_gaussian_flow_keeps_standardised_states():
    variances = np.array([[2.0, 0.5], [1e-3, 0.0]])
    denoiser = gaussian(variances, mean=np.ones((2, 2)))
    x = np.random.default_rng(0).standard_normal((3, 2, 2))
    expected = 1 + (x - 1) * variances / (variances + 0.09)
    np.testing.assert_allclose(denoiser(x, 0.3), expected, rtol=1e-12, atol=1e-14)


def test_states_of_another_library_are_refused():
    for data, x in ((np.ones(3), torch.ones(2, 3)), (torch.ones(3), np.ones((2, 3)))):
        with pytest.raises(TypeError, match="library of the data"):
            gaussian(data)(x, 1.0)


def test_bad_mixtures_are_refused():
    means = np.zeros((2, 3))
    for options, word in (
        ({"weights": [1.0, -1.0]}, "weights"),
        ({"classes": [1]}, "classes"),
        ({"std": -0.1}, "std"),
        ({"covariances": np.zeros((2, 3, 2))}, "covariances"),
        ({"covariances": -np.ones((2, 1, 1)) * np.eye(3)}, "positive semidefinite"),
        ({"factors": np.zeros((2, 4, 1))}, "factors"),
    ):
        with pytest.raises(ValueError, match=word):
            GaussianMixture(means, **options)
    denoiser = GaussianMixture(means, std=0.1, classes=[0, 1])
    with pytest.raises(ValueError, match="labels"):
        denoiser(np.zeros((2, 3)), 1.0, [0, 2])
    with pytest.raises(ValueError, match="labels"):
        GaussianMixture(means, std=0.1)(np.zeros((2, 3)), 1.0, [0, 1])
    with pytest.raises(ValueError, match="x has samples"):
        denoiser(np.zeros((2, 4)), 1.0)
