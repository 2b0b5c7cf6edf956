"""Every adapter on pretrained networks draws the samples of `sample`.

The networks are galaxygrad's, where that package is installed.
"""

import math
import warnings

import _galaxy
import comfyui_stub
import pytest
import torch

from stiffkit.diffusion import karras_sigmas, sample
from stiffkit.diffusion.adapters import k_diffusion
from stiffkit.diffusion.adapters.edm2 import edm_sampler
from stiffkit.guidance import ERKGuidance, FittedExtrapolation

pytestmark = pytest.mark.skipif(
    _galaxy.find(_galaxy.NAMES[0]) is None, reason="galaxygrad is not installed"
)
LEVELS = karras_sigmas(6, _galaxy.SIGMA_MIN, 60.0).tolist()
SIGMAS = torch.tensor([*LEVELS, 0.0], dtype=torch.float64)
SIDES = {"hsc_ScoreNet32": 32, "hsc_ScoreNet64": 64}
METHODS = {  # sampler and guide of `sample`, function of k-diffusion, options of diffusers
    "heun": ("heun", None, "heun", {"guide": "none"}),
    "erk": ("heun", ERKGuidance(1.0, 0.5), "heun_erk", {"guide": "erk", "w_con": 0.5}),
    "fx": ("heun", FittedExtrapolation(1.0), "heun_fx", {"guide": "fx", "sigma_data": 1.0}),
    "deis4": ("deis4", None, "deis_4", {"sampler": "deis4"}),
    "unipc3": ("unipc3", None, "unipc_3", {"sampler": "unipc3"}),
    "sk44": ("sk44", None, "sk44", {"sampler": "sk44"}),
}


@pytest.fixture(scope="module", params=SIDES)
def drawn(request):
    """Return a network, noise, and what `sample` draws by every method."""
    net, side = _galaxy.denoiser(request.param), SIDES[request.param]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 1, side, side, dtype=torch.float64, generator=generator)
    samples = {
        name: sample(net, noise, LEVELS, sampler=sampler, guide=guide)
        for name, (sampler, guide, *_) in METHODS.items()
    }
    return net, noise, samples


@pytest.mark.parametrize("name", METHODS)
def test_edm2(drawn, name):
    net, noise, samples = drawn
    sampler, guide, *_ = METHODS[name]
    x = edm_sampler(
        lambda x, sigma, _: net(x, sigma), noise, num_steps=len(LEVELS), sigma_min=LEVELS[-1],
        sigma_max=LEVELS[0], dtype=torch.float64, sampler=sampler, guide=guide,
    )  # fmt: skip
    assert torch.equal(x, samples[name])


@pytest.mark.parametrize("name", METHODS)
def test_k_diffusion(drawn, name):
    net, noise, samples = drawn
    function = getattr(k_diffusion, f"sample_{METHODS[name][2]}")
    assert torch.equal(function(net, noise * SIGMAS[0], SIGMAS, disable=True), samples[name])


@pytest.mark.parametrize("name", METHODS)
def test_comfyui(drawn, name, monkeypatch):
    net, noise, samples = drawn
    comfy, sampling = comfyui_stub.install(monkeypatch)
    comfyui_stub.load_nodes()
    sampler = comfy.KSAMPLER(getattr(sampling, f"sample_stiffkit_{METHODS[name][2]}"))
    x = sampler.sample(net, SIGMAS, {}, lambda *_: None, noise)
    assert torch.equal(x, samples[name])


@pytest.mark.parametrize("name", METHODS)
def test_diffusers(drawn, name):
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that diffusers imports
        from stiffkit.diffusion.adapters.diffusers import HeunScheduler, MultistepScheduler
    net, noise, samples = drawn
    options = METHODS[name][3]
    kind = MultistepScheduler if "sampler" in options else HeunScheduler
    # EDM's scaling of the input and ln σ / 4 for the time, of a network that returns D itself.
    scheduler = kind(process="edm", prediction_type="sample", **options)
    scheduler.set_timesteps(sigmas=LEVELS)
    sigma_data = scheduler.config.sigma_data
    x = scheduler.init_noise_sigma * noise
    for t in scheduler.timesteps:
        # Times are single precision, levels are not.
        sigma = min(LEVELS, key=lambda s, t=t: abs(math.log(s) / 4 - t))
        scaled = scheduler.scale_model_input(x, t)
        D = net(scaled * math.sqrt(sigma**2 + sigma_data**2), sigma)
        x = scheduler.step(D, t, x, return_dict=False)[0]
    # To the rounding of the scaling: six steps, which may carry it on by some thousands.
    torch.testing.assert_close(x, samples[name], rtol=0, atol=1e-11 * LEVELS[0])
