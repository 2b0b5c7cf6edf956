"""Schedulers in the pipelines of diffusers, offline, against `sample` at the same noise levels."""

import warnings

import numpy as np
import pytest
import torch

from stiffkit.diffusion import DiscreteTimes, NetworkDenoiser, karras_sigmas, sample
from stiffkit.guidance import ERKGuidance, FittedExtrapolation

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of packages that diffusers imports
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

from stiffkit.diffusion.adapters.diffusers import HeunScheduler, MultistepScheduler

MULTI = [
    (MultistepScheduler, {"sampler": s}) for s in ("sk44", "sk34", "unipc3", "dpmpp2m", "deis4")
]
HEUN = [
    (HeunScheduler, {}),
    (HeunScheduler, {"guide": "erk", "w_stiff": 1.0, "w_con": 0.1}),
    (HeunScheduler, {"guide": "fx", "sigma_data": 0.7}),
]


def options_of(scheduler):
    """Return the options of `sample` that a scheduler stands for."""
    if isinstance(scheduler, MultistepScheduler):
        return {"sampler": scheduler.config.sampler}
    config = scheduler.config
    guide = {
        "none": None,
        "erk": ERKGuidance(config.w_stiff, config.w_con),
        "fx": FittedExtrapolation(config.sigma_data),
    }[config.guide]
    return {"sampler": "heun", "guide": guide}


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16),
        layers_per_block=1, norm_num_groups=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=8,
    )  # fmt: skip
    return net.eval().requires_grad_(False)


def noise_of(seed=3, batch=2):
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def in_our_terms(unet, prediction="epsilon", betas=(0.0001, 0.02)):
    bar = np.cumprod(1 - np.linspace(*betas, 1000))
    return NetworkDenoiser(
        lambda x, t: unet(x, t).sample, prediction, "vp", time=DiscreteTimes(bar)
    )


@pytest.mark.parametrize(("kind", "config"), [*MULTI, *HEUN])
def test_a_pipeline_draws_what_sample_draws(unet, kind, config, tmp_path):
    pipe = diffusers.DDPMPipeline(unet=unet, scheduler=kind(**config))
    pipe.set_progress_bar_config(disable=True)
    images = pipe(2, torch.Generator().manual_seed(3), 6, output_type="np").images
    levels = pipe.scheduler.levels
    # This pipeline starts from unit noise, whatever the scheduler's init_noise_sigma is.
    factor = np.sqrt(1 + levels[0] ** 2) / levels[0]
    x = sample(in_our_terms(unet), factor * noise_of(), levels, **options_of(pipe.scheduler))
    ours = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(images, ours, rtol=0, atol=2e-5)

    pipe.save_pretrained(tmp_path)
    scheduler = kind.from_pretrained(tmp_path / "scheduler")
    saved, read = (
        {k: v for k, v in s.config.items() if k[0] != "_"} for s in (pipe.scheduler, scheduler)
    )
    assert saved == read
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    repeated = again(2, torch.Generator().manual_seed(3), 6, output_type="np").images
    np.testing.assert_array_equal(images, repeated)


def loop(scheduler, net, state, begin=0):
    """Run as pipelines do: scaled input, one step a time."""
    if begin:
        scheduler.set_begin_index(begin)
    for t in scheduler.timesteps[begin:]:
        output = net(scheduler.scale_model_input(state, t), t)
        state = scheduler.step(output, t, state, return_dict=False)[0]
    return state


@pytest.mark.parametrize(("kind", "config"), [*MULTI, *HEUN])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_edm_networks_to_rounding(kind, config, prediction):
    config = {"sigma_data": 0.5, **config}
    scheduler = kind(process="edm", prediction_type=prediction, **config)
    scheduler.set_timesteps(7)
    sd = config["sigma_data"]
    np.testing.assert_allclose(scheduler.sigmas[:-1], karras_sigmas(7), rtol=1e-6)

    def raw(x, c_noise):
        return torch.tanh(x + c_noise) + 0.1 * x**2

    def denoiser(x, s):
        s = float(s)
        total = s**2 + sd**2
        F = raw(x / total**0.5, torch.tensor(s).log() / 4)
        if prediction == "sample":
            return F
        sign = 1 if prediction == "epsilon" else -1
        return sd**2 / total * x + sign * s * sd / total**0.5 * F

    noise = noise_of().double()
    drawn = loop(scheduler, raw, scheduler.init_noise_sigma * noise)
    expected = sample(denoiser, noise, scheduler.levels, **options_of(scheduler))
    torch.testing.assert_close(drawn, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("kind", "config"), [*MULTI, *HEUN])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_calls_and_order_of_times(unet, kind, config, prediction):
    scheduler, calls = kind(prediction_type=prediction, **config), []
    scheduler.set_timesteps(5)

    def net(x, t):
        calls.append(float(t))
        return unet(x, t).sample

    drawn = loop(scheduler, net, scheduler.init_noise_sigma * noise_of())
    assert calls == scheduler.timesteps.tolist()
    assert len(calls) == (5 if scheduler.order == 1 else 9)
    assert calls == sorted(calls, reverse=True)
    assert calls[0] == pytest.approx(999, abs=1e-3)
    assert calls[-1] == pytest.approx(0, abs=1e-3)
    name = {"epsilon": "epsilon", "v_prediction": "v"}[prediction]
    expected = sample(
        in_our_terms(unet, name), noise_of(), scheduler.levels, **options_of(scheduler)
    )
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4)
    assert scheduler.step_index == len(calls)
    with pytest.raises(ValueError, match="steps are made: call set_timesteps"):
        scheduler.step(drawn, 0.0, drawn)


@pytest.mark.parametrize(("kind", "config"), [*MULTI, *HEUN])
def test_image_to_image_begins_within_the_grid(unet, kind, config):
    scheduler, image = kind(**config), 0.3 * noise_of(9)
    scheduler.set_timesteps(6)
    first = 2
    t = scheduler.timesteps[first * scheduler.order :][:1]
    scheduler.set_begin_index(first * scheduler.order)
    state = scheduler.add_noise(image, noise_of(), t)
    drawn = loop(scheduler, lambda x, t: unet(x, t).sample, state, first * scheduler.order)
    levels = scheduler.levels[first:]
    expected = sample(in_our_terms(unet), noise_of(), levels, image=image, **options_of(scheduler))
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4)

    # Without set_begin_index the first time says where the run begins.
    scheduler.set_timesteps(6)
    state = scheduler.add_noise(image, noise_of(), t)
    for t in scheduler.timesteps[first * scheduler.order :]:
        state = scheduler.step(unet(state, t).sample, t, state).prev_sample
    torch.testing.assert_close(state, drawn, rtol=0, atol=0)


def test_what_a_pipeline_changes_is_kept():
    """A state that was replaced after a step is the one from which the next step goes on."""
    scheduler = MultistepScheduler(sampler="unipc3", process="edm", prediction_type="sample")
    scheduler.set_timesteps(5)
    zero = torch.zeros(1, 1, 2, 2)
    state = scheduler.step(zero, scheduler.timesteps[0], zero + 80).prev_sample
    state = scheduler.step(zero, scheduler.timesteps[1], state + 1).prev_sample
    # D = 0: the flow is a straight line to 0 from where the state was put.
    first, second = (b / a for a, b in zip(scheduler.levels, scheduler.levels[1:3], strict=False))
    torch.testing.assert_close(state, (80 * first + 1) * second + zero)


def test_half_precision_networks_do_not_round_the_state():
    scheduler = MultistepScheduler(process="edm", prediction_type="sample")
    scheduler.set_timesteps(8)
    state = (80 * noise_of()).half()
    for t in scheduler.timesteps:
        output = scheduler.step(torch.tanh(state), t, state)
        state = output.prev_sample
        assert state.dtype == torch.float16
        assert output.pred_original_sample.dtype == torch.float32


def test_other_schedulers_configurations_are_taken_over():
    theirs = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
        prediction_type="v_prediction",
    )  # fmt: skip
    for kind in (MultistepScheduler, HeunScheduler):
        ours = kind.from_config(theirs.config)
        assert ours.config.prediction_type == "v_prediction"
        bar = theirs.alphas_cumprod.double().numpy()
        np.testing.assert_allclose(ours.discrete.sigmas, np.sqrt((1 - bar) / bar), rtol=2e-4)
    cosine = diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2", num_train_timesteps=50)
    ours = MultistepScheduler.from_config(cosine.config)
    bar = cosine.alphas_cumprod.double().numpy()
    np.testing.assert_allclose(ours.discrete.sigmas, np.sqrt((1 - bar) / bar), rtol=1e-3)
    assert len(ours) == 50


def test_noise_is_added_at_any_training_step():
    theirs, ours = diffusers.DDPMScheduler(), MultistepScheduler()
    x, n, t = 0.5 * noise_of(1, 3), noise_of(2, 3), torch.tensor([0, 500, 999])
    torch.testing.assert_close(
        ours.add_noise(x, n, t), theirs.add_noise(x, n, t), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (MultistepScheduler, {"sampler": "heun"}, "sampler must be one of"),
        (MultistepScheduler, {"process": "ve"}, "process must be one of vp, edm, not 've'"),
        (MultistepScheduler, {"prediction_type": "flow"}, "prediction_type must be one of"),
        (MultistepScheduler, {"spacing": "linear"}, "spacing must be one of"),
        (MultistepScheduler, {"beta_schedule": "x"}, "beta_schedule must be one of"),
        (HeunScheduler, {"guide": "cfg"}, "guide must be one of none, erk, fx, not 'cfg'"),
        (HeunScheduler, {"guide": "erk", "w_con": -1.0}, "w_con must be finite"),
    ],
)
def test_bad_configurations_are_refused(kind, config, message):
    with pytest.raises(ValueError, match=message):
        kind(**config)


def test_bad_runs_are_refused():
    scheduler = HeunScheduler()
    with pytest.raises(ValueError, match="give num_inference_steps or sigmas"):
        scheduler.set_timesteps()
    with pytest.raises(ValueError, match="falling noise levels"):
        scheduler.set_timesteps(sigmas=[1.0, 2.0])
    scheduler.set_timesteps(sigmas=[5.0, 1.0, 0.1, 0.0])
    assert scheduler.levels == [5.0, 1.0, 0.1]
    x = noise_of()
    with pytest.raises(ValueError, match="is none of scheduler"):
        scheduler.step(x, 7.7, x)
    scheduler.set_begin_index(1)
    with pytest.raises(ValueError, match="begin at an even index"):
        scheduler.step(x, scheduler.timesteps[1], x)
