"""Distances between samples: closed forms, peers, and their properties."""

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from stiffkit.diffusion import metrics

torch = pytest.importorskip("torch")

EPS = np.finfo(float).eps


def normal(n, d, seed, shift=0.0):
    return np.random.default_rng(seed).standard_normal((n, d)) + shift


@given(seed=st.integers(0, 2**16), d=st.integers(1, 6))
def test_frechet_is_scipys_matrix_square_root(seed, d):
    x, y = normal(40, d, seed), normal(30, d, seed + 1, 1.0) @ normal(d, d, seed + 2)
    (a, s), (b, t) = metrics.moments(x), metrics.moments(y)
    root = scipy.linalg.sqrtm(s @ t)
    expected = ((a - b) ** 2).sum() + np.trace(s + t - 2 * root.real)
    # sqrtm of a product that is not symmetric loses up to half the digits when it is near singular.
    assert metrics.frechet_distance(x, y) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_frechet_of_commuting_covariances_is_closed_form():
    a, b = np.array([1.0, 4.0, 0.0]), np.array([9.0, 1.0, 0.0])  # a singular direction, too
    rotation = np.linalg.qr(normal(3, 3, 0))[0]
    s, t = (rotation * a) @ rotation.T, (rotation * b) @ rotation.T
    mean = np.array([0.5, 0.0, 2.0])
    expected = mean @ mean + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    # √ of an eigenvalue that is zero but for rounding: √eps.
    value = metrics.frechet_from_moments(mean, s, 0 * mean, t)
    assert value == pytest.approx(expected, abs=30 * np.sqrt(EPS))


def test_kernel_distance_is_the_double_sum():
    x, y = normal(7, 3, 0), normal(9, 3, 1, 0.5)

    def k(u, v):
        return (u @ v / 3 + 1) ** 3

    expected = (
        np.mean([k(u, v) for i, u in enumerate(x) for j, v in enumerate(x) if i != j])
        + np.mean([k(u, v) for i, u in enumerate(y) for j, v in enumerate(y) if i != j])
        - 2 * np.mean([k(u, v) for u in x for v in y])
    )
    value, error = metrics.kernel_distance(x, y)
    assert value == pytest.approx(expected, rel=1e-12)
    assert np.isnan(error)


def test_kernel_distance_is_unbiased_and_the_frechet_distance_is_not():
    pairs = [(normal(50, 4, 2 * i), normal(50, 4, 2 * i + 1)) for i in range(200)]
    kernel = [metrics.kernel_distance(x, y)[0] for x, y in pairs]
    assert abs(np.mean(kernel)) < 4 * np.std(kernel) / np.sqrt(len(kernel))
    frechet = [metrics.frechet_distance(x, y) for x, y in pairs]
    assert np.mean(frechet) > 10 * np.std(frechet) / np.sqrt(len(frechet))


def test_kernel_distance_over_subsets():
    x, y = normal(400, 4, 0), normal(300, 4, 1, 0.3)
    value, error = metrics.kernel_distance(x, y, subsets=50, subset_size=100)
    whole, _ = metrics.kernel_distance(x, y)
    assert (value, error) == metrics.kernel_distance(x, y, subsets=50, subset_size=100)
    assert error > 0
    # Subsets overlap, so their standard error understates; ten of them bound the difference.
    assert abs(value - whole) < 10 * error


@given(seed=st.integers(0, 2**16), n=st.integers(2, 30), m=st.integers(2, 30))
def test_one_dimension_is_scipy(seed, n, m):
    x, y = normal(n, 1, seed), normal(m, 1, seed + 1, 0.4)
    wasserstein = scipy.stats.wasserstein_distance(x[:, 0], y[:, 0])
    assert metrics.sliced_wasserstein(x, y, p=1, projections=3) == pytest.approx(
        wasserstein, rel=1e-12
    )
    energy = scipy.stats.energy_distance(x[:, 0], y[:, 0])
    # The square is a difference of numbers of size one.
    assert metrics.energy_distance(x, y) ** 2 == pytest.approx(energy**2, abs=100 * EPS)


def test_sliced_wasserstein_of_a_shift_is_its_mean_projection():
    x, shift = normal(50, 3, 0), np.array([3.0, 0.0, 4.0])
    value = metrics.sliced_wasserstein(x, x + shift, projections=20_000)
    # E⟨u, s⟩² = ‖s‖²/d over unit u; its variance over directions is 4/45 ‖s‖⁴ for d = 3.
    error = 25 * np.sqrt(4 / 45 / 20_000)
    assert abs(value**2 - 25 / 3) < 4 * error


def test_precision_recall_by_brute_force():
    x, y, k = normal(30, 2, 0), normal(40, 2, 1, 0.8), 3

    def share(points, sample):
        radius = [sorted(np.linalg.norm(sample - s, axis=1))[k] for s in sample]
        inside = [
            any(np.linalg.norm(p - s) <= r for s, r in zip(sample, radius, strict=True))
            for p in points
        ]
        return np.mean(inside)

    assert metrics.precision_recall(x, y, k) == (share(y, x), share(x, y))
    assert metrics.precision_recall(x, x) == (1, 1)
    assert metrics.precision_recall(x, x + 100) == (0, 0)


def test_blocks_do_not_change_a_value(monkeypatch):
    x, y = normal(23, 3, 0), normal(31, 3, 1, 0.2)

    def values():
        return [
            metrics.kernel_distance(x, y)[0],
            metrics.energy_distance(x, y),
            metrics.sliced_wasserstein(x, y, projections=16),
            *metrics.precision_recall(x, y),
        ]

    whole = values()
    monkeypatch.setattr(metrics, "_BLOCK", 64)
    assert values() == pytest.approx(whole, rel=1e-10)


@pytest.mark.parametrize(
    "distance",
    [
        metrics.frechet_distance,
        metrics.energy_distance,
        metrics.sliced_wasserstein,
        lambda x, y: metrics.kernel_distance(x, y)[0],
    ],
)
def test_symmetric_and_zero_for_the_same_sample(distance):
    x, y = normal(20, 3, 0), normal(20, 3, 1, 1.0)
    assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-10)
    assert distance(x, y) == distance(torch.tensor(x), torch.tensor(y))
    assert distance(x, y) > 0.1
    assert distance(x, x) <= 1e-6  # the kernel distance is below zero here


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones(3), np.ones((3, 1)), "first set must have shape"),
        (np.ones((3, 1)), np.ones((1, 1)), "second set must have shape"),
        (np.ones((3, 1)), np.full((3, 1), np.nan), "second set must be finite"),
        (np.ones((3, 1)), np.ones((3, 2)), "1 and 2 features"),
    ],
)
def test_bad_features_are_named(x, y, message):
    for distance in (
        metrics.frechet_distance,
        metrics.kernel_distance,
        metrics.sliced_wasserstein,
        metrics.energy_distance,
        metrics.precision_recall,
    ):
        with pytest.raises(ValueError, match=message):
            distance(x, y)


def test_bad_options_are_named():
    x = normal(5, 2, 0)
    with pytest.raises(ValueError, match="subset_size"):
        metrics.kernel_distance(x, x, subsets=2, subset_size=6)
    with pytest.raises(ValueError, match="p >= 1"):
        metrics.sliced_wasserstein(x, x, p=0.5)
    with pytest.raises(ValueError, match="k must be"):
        metrics.precision_recall(x, x, k=5)
    with pytest.raises(ValueError, match=r"\(d,\)"):
        metrics.frechet_from_moments(np.ones(2), np.eye(2), np.ones(3), np.eye(3))
    with pytest.raises(ValueError, match="shape"):
        metrics.efficientnet_features(np.ones((2, 28, 28)))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        metrics.efficientnet_features(2 * np.ones((2, 1, 28, 28)))


def test_efficientnet_features():
    pytest.importorskip("efficientnet_lite_pytorch")
    images = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    features = metrics.efficientnet_features(images)
    assert features.shape == (6, 112)
    assert metrics.efficientnet_features(images, block=4).shape == (6, 40)
    # Batches are independent to float32 rounding, and grey is three equal channels.
    parts = metrics.efficientnet_features(images.expand(-1, 3, -1, -1), batch=2)
    assert parts == pytest.approx(features, rel=1e-3, abs=1e-4)
    with pytest.raises(ValueError, match="block"):
        metrics.efficientnet_features(images, block=16)


def test_features_of_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=224
    )
    vit = transformers.Dinov2Model(config).eval()
    vit.save_pretrained(tmp_path)
    images = torch.rand(3, 1, 224, 224, generator=torch.Generator().manual_seed(1))
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    with torch.no_grad():
        token = vit((images.expand(-1, 3, -1, -1) - mean) / std).last_hidden_state[:, 0]
    found = metrics.network_features(images, tmp_path, batch=2)
    np.testing.assert_allclose(found, token, rtol=1e-4, atol=1e-5)
    with pytest.raises(FileNotFoundError, match="no file"):
        metrics.network_features(images, tmp_path / "none.pt")
