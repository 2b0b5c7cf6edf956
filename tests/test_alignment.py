"""Alignment of errors with the dominant eigenvector, and its fellow readings."""

import numpy as np
import pytest

import stiffkit as sk
from stiffkit.stiffness import NormRatio
from stiffkit.stiffness.alignment import (
    Alignment,
    DominantEigenpair,
    SpectralRadius,
    StabilityRatio,
)


def hooks(f, **options):
    eigen = DominantEigenpair(f, **options)
    return [Alignment(eigen), SpectralRadius(eigen), StabilityRatio(eigen)]


def log_of(f, y0, **options):
    return sk.solve(f, (0.0, 0.1), y0, "heun", grid=10, observe=hooks(f, **options)).log


def test_one_stiff_mode_takes_the_error():
    log = log_of(lambda t, y: np.array([-100.0, -1.0]) * y, np.array([1.0, 1.0]))
    assert np.all(log["alignment"] > 0.99)
    np.testing.assert_allclose(log["spectral_radius"], 100.0, rtol=1e-5)
    np.testing.assert_allclose(log["stability_ratio"], 0.5, rtol=1e-5)


def test_an_error_across_the_dominant_vector_reads_zero():
    log = log_of(lambda t, y: np.array([-100.0, -1.0]) * y, np.array([0.0, 1.0]))
    assert np.all(log["alignment"] < 1e-6)


def test_a_complex_pair_is_a_plane():
    J = np.array([[-1.0, 20.0, 0.0], [-20.0, -1.0, 0.0], [0.0, 0.0, -0.1]])
    log = log_of(lambda t, y: J @ y, np.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(log["alignment"], 1.0, rtol=1e-10)
    np.testing.assert_allclose(log["spectral_radius"], np.hypot(1, 20), rtol=1e-5)


def test_samples_read_for_themselves():
    rates = np.array([-100.0, -1.0])
    y0 = np.array([[1.0, 1.0], [0.0, 1.0]])
    log = log_of(lambda t, y: rates * y, y0, batched=True)
    reading = np.asarray(log["alignment"])
    assert reading.shape == (10, 2)
    assert np.all(reading[:, 0] > 0.99)
    assert np.all(reading[:, 1] < 1e-6)


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_nothing_to_align_is_none(slope):
    readings = []

    def spy(step, probe):
        found = [hook(step, probe) for hook in hooks(lambda t, y: 0 * y + slope)]
        readings.append(found)

    sk.solve(lambda t, y: 0 * y + slope, (0.0, 1.0), np.ones(2), "heun", grid=2, observe=spy)
    assert readings == [[None, 0.0, 0.0]] * 2


def test_hooks_share_one_estimate():
    calls = 0

    def counted(t, y):
        nonlocal calls
        calls += 1
        return np.array([-3.0, -1.0]) * y

    sk.solve(
        lambda t, y: np.array([-3.0, -1.0]) * y,
        (0.0, 1.0),
        np.ones(2),
        "heun",
        grid=4,
        observe=hooks(counted),
    )
    assert calls == 4 * (1 + 2)


def test_torch_states():
    torch = pytest.importorskip("torch")
    rates = torch.tensor([-100.0, -1.0], dtype=torch.float64)
    log = log_of(lambda t, y: rates * y, torch.ones(2, dtype=torch.float64))
    assert np.all(np.asarray(log["alignment"]) > 0.99)


def test_products_must_be_positive():
    with pytest.raises(ValueError, match="products must be a positive integer, not 0"):
        DominantEigenpair(lambda t, y: y, products=0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: DominantEigenpair(3), "f must be a function, not 3"),
        (lambda: DominantEigenpair(lambda t, y: y, args=3), "args must be a tuple"),
        *(
            (lambda hook=hook: hook(lambda t, y: y), "eigen must be a DominantEigenpair")
            for hook in (Alignment, SpectralRadius, StabilityRatio)
        ),
    ],
)
def test_unusable_parts_are_named(call, match):
    with pytest.raises(TypeError, match=match):
        call()


def test_a_class_is_no_hook():
    with pytest.raises(TypeError, match="not the class NormRatio"):
        sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0], observe=NormRatio)


@pytest.mark.parametrize("method", ["tsit5", "vern7"])
@pytest.mark.parametrize("n", [2, 4, 8])
def test_the_share_of_an_undamped_mode_is_no_matter_of_rounding(method, n):
    """Its eigenvalue's real part is rounding, of either sign; to the right nothing is stable."""
    S = np.random.default_rng(n).standard_normal((n, n))
    S = S - S.T

    def f(t, y):
        return S @ y

    hook = StabilityRatio(DominantEigenpair(f))
    log = sk.solve(f, (0.0, 5.0), np.ones(n), method, observe=hook).log
    taken = log["accepted"]
    tableau = sk.METHODS[method]
    limit = tableau.stability_limit(np.pi / 2 + 1e-3)
    share = np.abs(log["h"][taken]) * np.abs(np.linalg.eigvals(S)).max() / limit
    np.testing.assert_allclose(log["stability_ratio"][taken], share, rtol=1e-3)


def test_a_mode_that_grows_has_no_limit():
    def f(t, y):
        return np.array([[0.01, 1.0], [-1.0, 0.01]]) @ y

    hook = StabilityRatio(DominantEigenpair(f))
    log = sk.solve(f, (0.0, 1.0), [1.0, 0.0], "tsit5", observe=hook).log
    assert np.isinf(log["stability_ratio"][log["accepted"]]).all()
