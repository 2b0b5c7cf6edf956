"""Networks of every convention as one denoiser, and grids of noise levels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stiffkit.diffusion import (
    ALIGN_YOUR_STEPS,
    DataDenoiser,
    DiscreteTimes,
    EDMDenoiser,
    NetworkDenoiser,
    exponential_sigmas,
    flow_sigmas,
    interpolated_sigmas,
    logsnr_sigmas,
    time_uniform_sigmas,
    vp_time,
)
from stiffkit.diffusion.schedule import vp_parameters

IDEAL = DataDenoiser(np.random.default_rng(0).standard_normal((5, 2, 3)), 0.3, classes=range(5))
SCALES = {
    "ve": lambda s: (1.0, s),
    "vp": lambda s: ((1 + s**2) ** -0.5, s * (1 + s**2) ** -0.5),
    "flow": lambda s: (1 / (1 + s), s / (1 + s)),
}


def network(predicts, process, sigma_of):
    """What an ideal network of that convention returns, from x_t and its time alone."""

    def net(x_t, time, labels=None):
        sigma = sigma_of(time)
        column = sigma.reshape((-1, 1, 1))
        alpha, s = SCALES[process](column)
        x0 = IDEAL(x_t / alpha, sigma, labels)
        n = (x_t - alpha * x0) / s
        return {"x0": x0, "epsilon": n, "v": alpha * n - s * x0, "flow": n - x0, "score": -n / s}[
            predicts
        ]

    return net


@pytest.mark.parametrize("process", ["ve", "vp", "flow"])
@pytest.mark.parametrize("predicts", ["x0", "epsilon", "v", "flow", "score"])
@pytest.mark.parametrize("sigma", [0.02, 1.0, 30.0])
def test_every_prediction_is_the_same_denoiser(process, predicts, sigma):
    def sigma_of(time):
        return time / (1 - time) if process == "flow" else time

    denoiser = NetworkDenoiser(network(predicts, process, sigma_of), predicts, process)
    x = (1 + sigma) * np.random.default_rng(1).standard_normal((4, 2, 3))
    for labels in (None, np.array([0, 4, 2, 1])):
        expected = IDEAL(x, sigma, labels)
        # D is recovered from n ~ x/σ, or from a velocity, with a loss of max(σ, 1/σ).
        atol = 1e-13 * max(sigma, 1 / sigma) ** 2 + 1e-12
        np.testing.assert_allclose(denoiser(x, sigma, labels), expected, rtol=0, atol=atol)
    levels = sigma * np.array([1.0, 0.5, 1.0, 0.8])
    np.testing.assert_allclose(denoiser(x, levels), IDEAL(x, levels), rtol=0, atol=4 * atol)


def test_galaxygrads_network_is_a_score_of_a_variance_preserving_process():
    # D = x + σ² score(x/√(1 + σ²), log(1 + σ²))/√(1 + σ²).
    def score(x, t):
        return np.sin(x) * t[:, None]

    denoiser = NetworkDenoiser(score, "score", "vp", time=lambda s: np.log1p(s**2))
    x, s = np.random.default_rng(0).standard_normal((3, 4)), 2.0
    root = np.sqrt(1 + s**2)
    expected = x + s**2 * score(x / root, np.full(3, np.log1p(s**2))) / root
    np.testing.assert_allclose(denoiser(x, s), expected, rtol=1e-14)


def test_edm_networks_get_one_noise_level_per_sample_and_one_hot_labels():
    seen = {}

    class Net:
        label_dim = 3

        def __call__(self, x, sigma, class_labels=None, force_fp32=False):
            seen.update(sigma=sigma, labels=class_labels, x=x, force_fp32=force_fp32)
            return 0.5 * x

    x = torch.ones((2, 1, 4, 4), dtype=torch.float64)
    denoiser = EDMDenoiser(Net(), dtype=torch.float32, force_fp32=True)
    out = denoiser(x, torch.tensor(3.0), [2, -1])
    assert out.dtype == torch.float64
    assert seen["x"].dtype == seen["sigma"].dtype == torch.float32
    assert seen["force_fp32"]
    assert seen["sigma"].tolist() == [3.0, 3.0]
    assert seen["labels"].tolist() == [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    denoiser(x, 3.0)
    assert seen["labels"] is None
    given_labels = torch.eye(3)[:2]
    denoiser(x, 3.0, given_labels)
    assert seen["labels"] is given_labels
    for bad in ([3, 0], [0.5, 1.0], [-2, 0]):
        with pytest.raises(ValueError, match="labels"):
            denoiser(x, 3.0, bad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_narrow_network_serves_a_wide_state(dtype):
    def net(x, sigma):
        assert x.dtype == sigma.dtype == dtype
        return 0.25 * x

    x = torch.randn((3, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = NetworkDenoiser(net, "epsilon", dtype=dtype)(x, 2.0)
    assert out.dtype == torch.float64
    torch.testing.assert_close(out, x - 0.5 * x, rtol=0, atol=4 * float(torch.finfo(dtype).eps))


@given(st.floats(1e-4, 200.0))
def test_times_of_the_vp_process_invert_it(sigma):
    t = float(vp_time(np.array([sigma]))[0])
    np.testing.assert_allclose(np.expm1(0.5 * 19.9 * t**2 + 0.1 * t), sigma**2, rtol=1e-9)


def test_discrete_times_are_the_training_steps():
    bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    times = DiscreteTimes(bar)
    np.testing.assert_allclose(times(times.sigmas), np.arange(1000), atol=1e-9)
    half = np.sqrt(times.sigmas[9] * times.sigmas[10])
    np.testing.assert_allclose(times(np.array([half, 1e9])), [9.5, 999], atol=1e-9)
    for bad in ([0.5], [0.5, 0.7], [0.5, 1.5], [[0.5, 0.4]]):
        with pytest.raises(ValueError, match="alphas_cumprod"):
            DiscreteTimes(bad)


def test_unknown_conventions_are_named():
    with pytest.raises(ValueError, match="predicts"):
        NetworkDenoiser(IDEAL, "noise")
    with pytest.raises(ValueError, match="process"):
        NetworkDenoiser(IDEAL, "x0", "edm")


GRIDS = {
    "exponential": exponential_sigmas,
    "logsnr": logsnr_sigmas,
    "time": time_uniform_sigmas,
    "flow": flow_sigmas,
    "shifted": lambda *a: flow_sigmas(*a, shift=3.0),
}


@pytest.mark.parametrize("name", GRIDS)
@given(n=st.integers(2, 100), low=st.floats(1e-3, 0.1), high=st.floats(1.0, 500.0))
def test_grids_fall_between_their_ends(name, n, low, high):
    if name == "time":
        low, high = low / 20, 10 * high  # else no linear β(t) leads from one to the other
    sigmas = GRIDS[name](n, low, high)
    assert sigmas.shape == (n,)
    assert (sigmas[0], sigmas[-1]) == (high, low)
    assert (np.diff(sigmas) < 0).all()


def test_grids_are_equidistant_in_their_variable():
    for variable, sigmas in (
        (np.log, logsnr_sigmas(9)),
        (lambda s: s / (1 + s), flow_sigmas(9)),
        (lambda s: s / 3 / (1 + s / 3), flow_sigmas(9, shift=3.0)),
        (lambda s: vp_time(s, *vp_parameters()), time_uniform_sigmas(9)),
        (lambda s: vp_time(s, *vp_parameters()) ** 0.5, time_uniform_sigmas(9, rho=2.0)),
    ):
        gaps = np.diff(variable(sigmas))
        np.testing.assert_allclose(gaps, gaps.mean(), rtol=1e-6)


@pytest.mark.parametrize("name", ALIGN_YOUR_STEPS)
def test_a_list_of_levels_is_interpolated(name):
    levels = ALIGN_YOUR_STEPS[name]
    np.testing.assert_allclose(interpolated_sigmas(len(levels), levels), levels, rtol=1e-14)
    double = interpolated_sigmas(2 * len(levels) - 1, levels)
    np.testing.assert_allclose(double[::2], levels, rtol=1e-14)
    np.testing.assert_allclose(double[1] ** 2, levels[0] * levels[1], rtol=1e-13)


def test_bad_grids_are_named():
    with pytest.raises(ValueError, match="levels"):
        interpolated_sigmas(5, [1.0, 2.0])
    with pytest.raises(ValueError, match="shift"):
        flow_sigmas(5, shift=0.0)
    with pytest.raises(ValueError, match="t_min"):
        time_uniform_sigmas(5, t_min=1.0)
    with pytest.raises(ValueError, match="no linear"):
        time_uniform_sigmas(5, 0.5, 1.0)
    with pytest.raises(ValueError, match="rho"):
        exponential_sigmas(5, rho=-1.0)
    with pytest.raises(ValueError, match="n must"):
        logsnr_sigmas(1)
