"""Calls of EDM2, k-diffusion and ComfyUI, against plain loops and stubs of those callers."""

import functools
import math
import sys
from dataclasses import replace
from itertools import pairwise

import comfyui_stub
import pytest
import torch

from stiffkit.diffusion import MULTISTEP, SAMPLERS, Churn, DataDenoiser, karras_sigmas, sample
from stiffkit.diffusion.adapters import k_diffusion
from stiffkit.diffusion.adapters.edm2 import edm_sampler
from stiffkit.diffusion.networks import EDM2
from stiffkit.guidance import ERKGuidance, FittedExtrapolation, autoguidance

DATA = DataDenoiser(
    0.5 * torch.randn(20, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    0.1,
)
NOISE = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
SIGMAS = torch.tensor([*karras_sigmas(9, 0.01, 20.0), 0.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def nets():
    """Return two small networks with random weights, every layer in use."""
    torch.manual_seed(0)
    made = []
    for width in (16, 8):
        net = EDM2(
            8, 2, 5, model_channels=width, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,),
            channels_per_head=8,
        )  # fmt: skip
        with torch.no_grad():
            for name, gain in net.named_parameters():
                if gain.ndim == 0:
                    gain.fill_(0.7 if "emb" in name else 1.0)
        made.append(net.eval().requires_grad_(False))
    return made


class Generators:
    """One generator per sample, with torch's calls."""

    def __init__(self, seeds):
        self.generators = [torch.Generator().manual_seed(s) for s in seeds]
        self.draws = 0

    def randn(self, shape, dtype):
        return torch.stack([torch.randn(shape, generator=g, dtype=dtype) for g in self.generators])

    def randn_like(self, x):
        self.draws += 1
        return self.randn(x.shape[1:], x.dtype)


# EDM2 ---------------------------------------------------------------------------------------------


def plain_heun(net, noise, labels, gnet, guidance, n, churn, randn_like, dtype):
    """Algorithm 2 of the paper, noise drawn where the level rises."""
    sigma = [
        (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(n)
    ]
    x = noise.to(dtype) * sigma[0]

    def slope(x, s):
        s = torch.tensor(s, dtype=dtype)
        D = net(x, s, labels).to(dtype)
        if guidance != 1:
            D_ref = gnet(x, s, labels).to(dtype)
            D = D_ref + guidance * (D - D_ref)
        return (x - D) / s

    for s, s_new in pairwise([*sigma, 0.0]):
        s_hat = s
        if churn.S_churn and churn.S_min <= s <= churn.S_max:
            s_hat = s * (1 + min(churn.S_churn / n, math.sqrt(2) - 1))
            x = x + math.sqrt(s_hat**2 - s**2) * churn.S_noise * randn_like(x)
        k = slope(x, s_hat)
        end = x + (s_new - s_hat) * k
        if s_new:
            end = x + (s_new - s_hat) * (k + slope(end, s_new)) / 2
        x = end
    return x


@pytest.mark.parametrize("guidance", [1.0, 1.7])
@pytest.mark.parametrize("churn", [Churn(0.0), Churn(8.0, 0.05, 50.0, 1.003)])
def test_edm_sampler_is_the_plain_heun_loop(nets, guidance, churn):
    net, gnet = nets
    labels = torch.eye(5)[[0, 3]]
    mine, theirs = Generators([4, 5]), Generators([4, 5])
    noise = mine.randn((2, 8, 8), torch.float32)
    theirs.randn((2, 8, 8), torch.float32)
    x = edm_sampler(
        net, noise, labels, gnet, num_steps=6, guidance=guidance, dtype=torch.float64,
        S_churn=churn.S_churn, S_min=churn.S_min, S_max=churn.S_max, S_noise=churn.S_noise,
        randn_like=mine.randn_like,
    )  # fmt: skip
    expected = plain_heun(
        net, noise, labels, gnet, guidance, 6, churn, theirs.randn_like, torch.float64
    )
    assert x.dtype == torch.float64
    assert mine.draws == theirs.draws == (4 if churn.S_churn else 0)
    # The state is float64 and what the network adds float32's rounding to is D.
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)
    single = edm_sampler(net, noise, labels, gnet, num_steps=6, guidance=guidance)
    assert single.dtype == torch.float32


def test_edm_sampler_in_double_precision_to_rounding():
    def net(x, sigma, labels=None):
        return DATA(x, sigma)

    x = edm_sampler(net, NOISE, num_steps=7, dtype=torch.float64)
    expected = plain_heun(net, NOISE, None, None, 1, 7, Churn(0.0), None, torch.float64)
    torch.testing.assert_close(x, expected, rtol=1e-11, atol=1e-11)


def test_edm_sampler_takes_samplers_guides_and_intervals(nets):
    net, gnet = nets
    noise = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    guided = autoguidance(
        lambda x, s: net(x, s, None), lambda x, s: gnet(x, s, None), 2.0, interval=(0.1, 5.0)
    )
    for options in ({"sampler": "sk44"}, {"sampler": "heun", "guide": ERKGuidance(1.0, 0.1)}):
        x = edm_sampler(
            net, noise, gnet=gnet, num_steps=5, guidance=2.0, interval=(0.1, 5.0), **options
        )
        assert torch.equal(x, sample(guided, noise, 5, **options))
    with pytest.raises(ValueError, match=r"guidance 2\.0 needs gnet"):
        edm_sampler(net, noise, guidance=2.0)


# k-diffusion --------------------------------------------------------------------------------------


def model(x, sigma, scale=1.0):
    assert sigma.shape == (len(x),)
    return scale * DATA(x, sigma)


FUNCTIONS = {
    "sample_heun": ("heun", None),
    "sample_heun_erk": ("heun", ERKGuidance(1.0, 0.5)),
    "sample_heun_fx": ("heun", FittedExtrapolation(1.0)),
    "sample_dpm_2": ("dpm2", None),
    "sample_dpmpp_2m": (replace(MULTISTEP["dpmpp2m"], lower_order_final=False), None),
    "sample_dpmpp_3m": ("dpmpp3m", None),
    "sample_unipc_3": ("unipc3", None),
    "sample_deis_4": ("deis4", None),
    "sample_ipndm_4": ("ipndm4", None),
    "sample_sk34": ("sk34", None),
    "sample_sk44": ("sk44", None),
}


def test_every_function_is_tested():
    assert set(FUNCTIONS) | {"sample_with"} == set(k_diffusion.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_k_diffusion_functions_are_sample(name):
    sampler, guide = FUNCTIONS[name]
    told, x = [], NOISE * SIGMAS[0]
    drawn = getattr(k_diffusion, name)(
        model, x, SIGMAS, extra_args={"scale": 0.9}, callback=told.append, disable=True
    )
    steps = []
    expected = sample(
        lambda x, s: 0.9 * DATA(x, s), NOISE, SIGMAS[:-1], sampler=sampler, guide=guide,
        callback=lambda step: steps.append(step) and None,
    )  # fmt: skip
    assert torch.equal(drawn, expected)
    assert [t["i"] for t in told] == list(range(9))
    assert [t["sigma"] for t in told] == SIGMAS[:-1].tolist()
    assert torch.equal(told[0]["x"], x)
    for t, step in zip(told[1:], steps, strict=True):
        assert torch.equal(t["x"], step.x)
    for t, step in zip(told[:-1], steps, strict=True):
        assert torch.equal(t["denoised"], step.denoised)
    assert torch.equal(told[-1]["denoised"], drawn)


@pytest.mark.parametrize("name", ["sample_heun", "sample_dpm_2"])
def test_two_halves_are_the_whole(name):
    """One-step methods carry nothing over, so that a run can be cut anywhere."""
    function, calls = getattr(k_diffusion, name), []

    def counted(x, sigma):
        calls.append(sigma)
        return model(x, sigma)

    half = function(counted, NOISE * SIGMAS[0], SIGMAS[:5])
    assert len(calls) == 8  # four steps of two calls, and none for a result that is not wanted
    rest = function(counted, half, SIGMAS[4:])
    assert len(calls) == 17
    whole = function(model, NOISE * SIGMAS[0], SIGMAS)
    torch.testing.assert_close(rest, whole, rtol=1e-12, atol=1e-12)


def test_short_lists_of_levels():
    x = NOISE * 0.3
    assert k_diffusion.sample_sk44(model, x, SIGMAS[:0]) is x
    assert k_diffusion.sample_sk44(model, x, SIGMAS[:1]) is x
    one = torch.tensor([0.3, 0.0], dtype=torch.float64)
    assert torch.equal(k_diffusion.sample_sk44(model, x, one), DATA(x, one[0]))


def test_dpmpp_2m_is_of_order_two_up_to_the_last_level():
    """Lu et al., algorithm 2: order 1 to begin with and for the step to zero, where it is D."""
    x, before, log = NOISE * SIGMAS[0], None, SIGMAS.log()
    for i, (s, s_new) in enumerate(pairwise(SIGMAS.tolist())):
        D = DATA(x, s)
        if s_new == 0:
            x = D
            break
        h, combined = float(log[i] - log[i + 1]), D
        if before is not None:
            r = float(log[i - 1] - log[i]) / h
            combined = (1 + 1 / (2 * r)) * D - 1 / (2 * r) * before
        x, before = s_new / s * x - math.expm1(-h) * combined, D
    drawn = k_diffusion.sample_dpmpp_2m(model, NOISE * SIGMAS[0], SIGMAS)
    torch.testing.assert_close(drawn, x, rtol=1e-11, atol=1e-11)


def test_churn_is_k_diffusions():
    churn, n = Churn(6.0, 0.05, 10.0, 1.01), 9

    def net(x, sigma, labels):
        return DATA(x, sigma)

    for levels in (SIGMAS, SIGMAS[:6]):
        torch.manual_seed(3)
        drawn = k_diffusion.sample_heun(
            model, NOISE * SIGMAS[0], levels, s_churn=6.0, s_tmin=0.05, s_tmax=10.0, s_noise=1.01
        )
        torch.manual_seed(3)
        x, n = NOISE * SIGMAS[0], len(levels) - 1
        for s, s_new in pairwise(levels.tolist()):
            s_hat = s
            if churn.S_min <= s <= churn.S_max:
                s_hat = s * (1 + min(churn.S_churn / n, math.sqrt(2) - 1))
                x = x + math.sqrt(s_hat**2 - s**2) * churn.S_noise * torch.randn_like(x)
            k = (x - net(x, torch.tensor(s_hat, dtype=x.dtype), None)) / s_hat
            end = x + (s_new - s_hat) * k
            if s_new:
                k_new = (end - net(end, torch.tensor(s_new, dtype=x.dtype), None)) / s_new
                end = x + (s_new - s_hat) * (k + k_new) / 2
            x = end
        torch.testing.assert_close(drawn, x, rtol=1e-11, atol=1e-11)


def test_levels_that_rise_are_refused():
    with pytest.raises(ValueError, match="falling noise levels"):
        k_diffusion.sample_sk44(model, NOISE, SIGMAS.flip(0)[1:])


# ComfyUI ------------------------------------------------------------------------------------------


def test_comfyui_lists_and_runs_the_samplers(monkeypatch):
    samplers, sampling = comfyui_stub.install(monkeypatch)
    nodes = comfyui_stub.load_nodes()
    nodes.register()  # a second time changes nothing
    names = samplers.SAMPLER_NAMES
    assert names == ["euler", "heun", *nodes.NAMES]
    for name in nodes.NAMES:
        sampler = samplers.KSAMPLER(getattr(sampling, f"sample_{name}"))
        seen = []
        told = functools.partial(lambda seen, *a: seen.append(a), seen)
        x = sampler.sample(model, SIGMAS, {"scale": 1.0}, told, NOISE)
        assert torch.isfinite(x).all()
        assert [(i, total) for i, _, _, total in seen] == [(i, 9) for i in range(9)]


def test_comfyui_nodes_keep_their_contract(monkeypatch):
    comfyui_stub.install(monkeypatch)
    nodes = comfyui_stub.load_nodes()
    assert set(nodes.NODE_CLASS_MAPPINGS) == set(nodes.NODE_DISPLAY_NAME_MAPPINGS)
    expected = {
        "StiffkitSampler": {"sampler": "sk44"},
        "StiffkitHeunERK": {"sampler": "heun", "guide": ERKGuidance(1.0, 0.5)},
        "StiffkitHeunFX": {"sampler": "heun", "guide": FittedExtrapolation(1.0)},
    }
    for name, node in nodes.NODE_CLASS_MAPPINGS.items():
        assert node.RETURN_TYPES == ("SAMPLER",)
        inputs = node.INPUT_TYPES()["required"]
        defaults = {key: value[1]["default"] for key, value in inputs.items()}
        (sampler,) = getattr(node(), node.FUNCTION)(**defaults)
        assert sampler.extra_options == expected[name]
        x = sampler.sample(model, SIGMAS, {}, lambda *_: None, NOISE)
        assert torch.equal(x, sample(DATA, NOISE, SIGMAS[:-1], **expected[name]))
    assert nodes.StiffkitSampler.INPUT_TYPES()["required"]["sampler"][0] == list(SAMPLERS)


def test_comfyui_folder_loads_without_comfyui():
    assert "comfy" not in sys.modules
    assert comfyui_stub.load_nodes().NAMES
