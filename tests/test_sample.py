"""sample(): guides, churn, seeds, images, error control, trace, callbacks, and what it refuses."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import stiffkit as sk
from stiffkit.diffusion import (
    DEFAULT_SAMPLER,
    MULTISTEP,
    SAMPLERS,
    Churn,
    DataDenoiser,
    GaussianMixture,
    NetworkDenoiser,
    SeededNoise,
    Trace,
    karras_sigmas,
    probability_flow,
    sample,
)
from stiffkit.diffusion.adaptive import of_samples
from stiffkit.guidance import (
    ERKGuidance,
    FittedExtrapolation,
    ModeCorrection,
    adaptive_projected_guidance,
    cfg_plus_plus,
    classifier_free_guidance,
)

DATA = DataDenoiser(0.5 * np.random.default_rng(0).standard_normal((20, 2, 3)), 0.1)
NOISE = np.random.default_rng(1).standard_normal((4, 2, 3))
SIGMAS = karras_sigmas(9, 0.01, 20.0)


def slope(x, s):
    return (x - DATA(x, s)) / s


def published(x_new, f, dx, df, h, *, sign, w_stiff, w_con, eps=1e-8):
    """The printed rule, sample by sample; h > 0 as σ falls, x_new − sign·h z² ⟨v, f⟩ v."""
    out = x_new.copy()
    for j in range(len(out)):
        rho = np.linalg.norm(df[j]) / (np.linalg.norm(dx[j]) + eps)
        v = df[j] / (np.linalg.norm(df[j]) + eps)
        if rho > w_con:
            out[j] -= sign * h * (w_stiff * h * rho) ** 2 * (v * f[j]).sum() * v
    return out


def plain_dpm2(x, sigmas, **rule):
    for s, s_new in pairwise(sigmas):
        mid, f = np.sqrt(s * s_new), slope(x, s)
        x_mid = x + (mid - s) * f
        f_mid = slope(x_mid, mid)
        x_new = x + (s_new - s) * f_mid
        x = published(x_new, f, x - x_mid, f - f_mid, s - s_new, sign=1, **rule)
    return DATA(x, sigmas[-1])


def plain_guided_multistep(x, sigmas, name, **rule):
    plan, fs, xs = MULTISTEP[name].plan(sigmas), [], []
    for i, s in enumerate(sigmas[:-1]):
        f = slope(x, s)
        fs.append(f)
        xs.append(x)
        x_new = x + sum(w * g for w, g in zip(plan[i].predictor, fs[::-1], strict=False))
        if i:
            h = sigmas[i - 1] - sigmas[i]
            x_new = published(x_new, f, x - xs[-2], f - fs[-2], h, sign=-1, **rule)
        x = x_new
    return DATA(x, sigmas[-1])


@pytest.mark.parametrize("rule", [(0.5, 0.1), (1.0, 0.3), (2.0, 0.0), (1.0, 1e9)])
@pytest.mark.parametrize("shape", [(2, 3), (6,)])
def test_guided_variants_are_the_published_loops(rule, shape):
    options = {"w_stiff": rule[0], "w_con": rule[1]}
    calls = []
    flat = DataDenoiser(DATA.data.reshape((-1, *shape)), 0.1)

    def counted(x, sigma):
        calls.append(sigma)
        return flat(x, sigma)

    noise = NOISE.reshape((4, *shape))
    expected = plain_dpm2(NOISE * SIGMAS[0], SIGMAS, **options).reshape(noise.shape)
    guide = ERKGuidance(**options, pair="midpoint")
    drawn = sample(counted, noise, SIGMAS, sampler="dpm2", guide=guide)
    np.testing.assert_allclose(drawn, expected, rtol=1e-12, atol=1e-12)
    assert len(calls) == 2 * len(SIGMAS) - 1
    for name in ("deis2", "deis3", "deis4"):
        calls.clear()
        expected = plain_guided_multistep(NOISE * SIGMAS[0], SIGMAS, name, **options)
        guide = ERKGuidance(**options, pair="path")
        drawn = sample(counted, noise, SIGMAS, sampler=name, guide=guide)
        np.testing.assert_allclose(
            drawn, expected.reshape(noise.shape), rtol=1e-12, atol=1e-12 * abs(expected).max()
        )
        assert len(calls) == len(SIGMAS)


def test_guided_variants_stay_finite_where_nothing_moves():
    for name, pair in (("dpm2", "midpoint"), ("deis3", "path"), ("heun", "stage")):
        for eps in (0.0, 1e-8):
            guide = ERKGuidance(1.0, 0.0, eps=eps, pair=pair)
            x = sample(lambda x, sigma: x, NOISE, SIGMAS, sampler=name, guide=guide)
            np.testing.assert_array_equal(x, NOISE * SIGMAS[0])


# Churn --------------------------------------------------------------------------------------------


def plain_edm(denoiser, latents, generators, sigmas, churn, guide=None):
    """EDM's algorithm 2 on a torch state, its noise from one generator per sample."""
    x, previous, n, calls = latents * sigmas[0], None, len(sigmas), 0

    def f(x, s):
        return (x - denoiser(x, s)) / s

    for s, s_new in pairwise([*sigmas, 0.0]):
        gamma = min(churn.S_churn / n, np.sqrt(2) - 1) if churn.S_min <= s <= churn.S_max else 0
        s_hat = s * (1 + gamma)
        noise = torch.stack(
            [torch.randn(x.shape[1:], generator=g, dtype=x.dtype) for g in generators]
        )
        added = np.sqrt(s_hat**2 - s**2) * churn.S_noise * noise
        x = x + added
        k_1 = f(x, s_hat)
        calls += 1
        if s_new == 0:
            return x - s_hat * k_1, calls
        euler = x + (s_new - s_hat) * k_1
        k_2 = f(euler, s_new)
        calls += 1
        x_new = x + (s_new - s_hat) * (k_1 + k_2) / 2
        if previous is not None and guide is not None:
            z, f_z = previous
            if gamma:
                z = z + added
                f_z = f(z, s_hat)
                calls += 1
            h = float(s_hat - s_new)
            moved = published(
                x_new.numpy(), k_1.numpy(), (x - z).numpy(), (k_1 - f_z).numpy(), h,
                sign=1, w_stiff=guide.w_stiff, w_con=guide.w_con,
            )  # fmt: skip
            x_new = torch.as_tensor(moved)
        x, previous = x_new, (euler, k_2)
    return None


@pytest.mark.parametrize(
    "churn", [Churn(3.0), Churn(40.0, S_min=0.05, S_max=5.0, S_noise=1.003), Churn(1e9)]
)
@pytest.mark.parametrize("guide", [None, ERKGuidance(1.0, 0.1)])
def test_churn_is_edms_with_its_own_generators(churn, guide):
    data = torch.as_tensor(DATA.data.reshape(-1, 2, 3))
    denoiser, seeds = DataDenoiser(data, 0.1), [3, 5, 7 + (1 << 32)]
    source = SeededNoise(seeds, data)
    latents = source.normal((2, 3))
    twins = [torch.Generator().manual_seed(s % (1 << 32)) for s in seeds]
    edm = torch.stack([torch.randn((2, 3), generator=g, dtype=torch.float64) for g in twins])
    torch.testing.assert_close(latents, edm, rtol=0, atol=0)
    labels = torch.stack([torch.randint(10, size=[], generator=g) for g in twins])
    assert torch.equal(source.integers(10), labels)
    expected, count = plain_edm(denoiser, edm, twins, SIGMAS, churn, guide)
    calls = []

    def counted(x, sigma):
        calls.append(sigma)
        return denoiser(x, sigma)

    drawn = sample(counted, latents, SIGMAS, churn=churn, seeds=source, guide=guide)
    torch.testing.assert_close(drawn, expected, rtol=1e-10, atol=1e-10)
    assert len(calls) == count


@pytest.mark.parametrize("guide", [ERKGuidance(1.0, 0.1), FittedExtrapolation(), ModeCorrection()])
def test_vanishing_churn_is_none(guide):
    plain = sample(DATA, NOISE, SIGMAS, guide=guide)
    churned = sample(DATA, NOISE, SIGMAS, guide=guide, churn=1e-13, seeds=range(4))
    np.testing.assert_allclose(churned, plain, rtol=1e-5, atol=1e-5)
    outside = sample(DATA, NOISE, SIGMAS, guide=guide, churn=Churn(9.0, 1e3), seeds=range(4))
    np.testing.assert_allclose(outside, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_samples_do_not_depend_on_their_batch(library):
    like = NOISE if library == "numpy" else torch.as_tensor(NOISE)
    denoiser = (
        DATA
        if library == "numpy"
        else DataDenoiser(torch.as_tensor(DATA.data.reshape(-1, 2, 3)), 0.1)
    )

    def run(seeds):
        source = SeededNoise(seeds, like)
        return sample(denoiser, source.normal((2, 3)), SIGMAS, churn=5.0, seeds=source)

    together = run([4, 9, 2])
    for i, seed in enumerate([4, 9, 2]):
        np.testing.assert_allclose(together[i : i + 1], run([seed]), rtol=0, atol=1e-11)


# Start, labels, dtype -----------------------------------------------------------------------------


def test_defaults():
    assert DEFAULT_SAMPLER in MULTISTEP
    np.testing.assert_array_equal(
        sample(DATA, NOISE, 7), sample(DATA, NOISE, karras_sigmas(7), sampler=DEFAULT_SAMPLER)
    )
    np.testing.assert_array_equal(
        sample(DATA, NOISE, steps=7, sigma_min=0.1, sigma_max=9.0, rho=5.0, sampler="heun"),
        sample(DATA, NOISE, karras_sigmas(7, 0.1, 9.0, 5.0), sampler="heun"),
    )
    guide = FittedExtrapolation()
    np.testing.assert_array_equal(
        sample(DATA, NOISE, 7, guide=guide), sample(DATA, NOISE, 7, guide=guide, sampler="heun")
    )


def test_image_to_image_starts_from_the_image():
    image = DATA.draw(4, seed=3)
    sigmas = karras_sigmas(12, 0.002, 0.3)
    x = sample(DATA, NOISE, sigmas, image=image, sampler="heun")
    flow = probability_flow(DATA)
    end = sk.solve(flow, (0.3, 0.002), image + 0.3 * NOISE, "heun", grid=sigmas).y[-1]
    np.testing.assert_allclose(x, DATA(end, 0.002), rtol=1e-13)
    near = sample(DATA, NOISE, karras_sigmas(5, 0.001, 0.002), image=image)
    np.testing.assert_allclose(near, image, atol=0.02)


@pytest.mark.parametrize("sampler", ["heun", "dpm2", "unipc3"])
def test_labels_are_handed_on_only_when_given(sampler):
    seen = []

    def denoiser(*arguments):
        seen.append(len(arguments))
        return DATA(*arguments[:2])

    sample(denoiser, NOISE, 4, sampler=sampler)
    sample(denoiser, NOISE, 4, sampler=sampler, labels=[1, 2, 3, 4])
    assert set(seen[: len(seen) // 2]) == {2}
    assert set(seen[len(seen) // 2 :]) == {3}


@pytest.mark.parametrize("sampler", ["heun", "unipc3", "sk44"])
def test_state_dtype_and_gradients(sampler):
    weight = torch.nn.Parameter(torch.tensor(0.3))

    def net(x, sigma):
        assert x.dtype == torch.float32
        return weight * torch.tanh(x)

    denoiser = NetworkDenoiser(net, "x0", dtype=torch.float32)
    noise = torch.as_tensor(NOISE, dtype=torch.float32)
    x = sample(denoiser, noise, 5, sampler=sampler, dtype=torch.float64)
    assert x.dtype == torch.float64
    assert not x.requires_grad
    noise.requires_grad_()
    x = sample(denoiser, noise, 5, sampler=sampler)
    (gradient,) = torch.autograd.grad(x.sum(), noise)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


# Error control ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [None, "bosh3", "heun", "tsit5"])
def test_controlled_error_follows_the_tolerance_and_calls_are_counted(sampler):
    denoiser = GaussianMixture(np.array([[1.0, -0.5], [-1.0, 0.5]]), std=0.4)
    noise, errors = NOISE[:, :, 0], []
    exact = sample(denoiser, noise, rtol=1e-10, sampler="dopri5")
    for rtol in (1e-2, 1e-4):
        calls = []

        def counted(x, sigma, calls=calls):
            calls.append((len(x), sigma))
            return denoiser(x, sigma)

        x, trace = sample(counted, noise, rtol=rtol, sampler=sampler, trace=True)
        assert trace.nfev == len(calls)
        assert trace.evaluations == sum(size for size, _ in calls)
        assert calls[-1] == (len(noise), 0.002)
        errors.append(abs(x - exact).max())
    assert errors[0] < 0.3
    assert errors[1] < 5e-3


@pytest.mark.parametrize("sampler", ["dopri5", "bosh3", "heun", "vern7"])
def test_controlled_samples_are_what_they_are_alone(sampler):
    count = 7
    rng, classes = np.random.default_rng(3), np.arange(20) % 3
    denoiser = DataDenoiser(0.5 * rng.standard_normal((20, 5)), 0.1, classes=classes)
    noise, labels = rng.standard_normal((count, 5)), [i % 3 for i in range(count)]
    weights = np.linspace(1.0, 3.0, count).tolist()

    def run(i):
        guided = classifier_free_guidance(denoiser, weights[i], interval=(0.1, 10.0))
        return sample(guided, noise[i], rtol=1e-3, sampler=sampler, labels=labels[i], trace=True)

    x, trace = run(slice(None))
    alone = [run(slice(i, i + 1)) for i in range(count)]
    # The flow of two modes multiplies rounding; the tolerance is far above both.
    np.testing.assert_allclose(x, np.concatenate([y for y, _ in alone]), rtol=0, atol=1e-8)
    assert trace.calls.tolist() == [one.nfev for _, one in alone]
    assert all(one.calls.tolist() == [one.nfev] for _, one in alone)
    assert len(set(trace.calls)) > 1
    assert trace.solution.success
    assert trace.calls.sum() <= trace.evaluations
    if SAMPLERS[sampler].fsal:
        # At most a quarter of the rows at hand rest; a call says whether the denoiser takes a part.
        assert trace.evaluations <= trace.calls.sum() / 0.75 + count
    for i, (_, one) in enumerate(alone):
        ran = np.isfinite(trace.ratio[:, i])
        np.testing.assert_allclose(trace.ratio[ran, i], one.ratio[:, 0], rtol=1e-6, atol=1e-9)
        ends = np.array(trace.sigma_next)[ran, i]
        np.testing.assert_allclose(ends, np.array(one.sigma_next)[:, 0], rtol=1e-6)


def test_strengths_of_a_guide_follow_each_sample_level():
    rng = np.random.default_rng(4)
    denoiser = DataDenoiser(0.5 * rng.standard_normal((9, 4)), 0.2, classes=np.arange(9) % 3)
    noise, labels = rng.standard_normal((3, 4)), np.arange(3)
    guided = cfg_plus_plus(denoiser, 0.6, karras_sigmas(12))
    x = sample(guided, noise, rtol=1e-4, labels=labels)
    for i in range(3):
        alone = sample(guided, noise[i : i + 1], rtol=1e-4, labels=labels[i : i + 1])
        np.testing.assert_allclose(x[i : i + 1], alone, rtol=0, atol=1e-8)
    guided = adaptive_projected_guidance(denoiser, 2.0, momentum=-0.5)
    with pytest.raises(ValueError, match="momentum needs all samples at one noise level"):
        sample(guided, noise, rtol=1e-3, labels=labels)


def test_controlled_state_dtype_gradients_and_network_dtype():
    spread = torch.tensor([0.1, 0.5, 1.0, 2.0])[:, None, None]  # labels with an entry per sample

    def net(x, sigma, labels):
        assert x.dtype == torch.bfloat16
        return x * (labels**2 / (labels**2 + sigma.reshape(-1, 1, 1) ** 2)).to(x.dtype)

    def run(dtype, net_dtype=None):
        denoiser = NetworkDenoiser(net if net_dtype else exact, "x0", dtype=net_dtype)
        noise = torch.as_tensor(NOISE, dtype=torch.float64)
        return sample(denoiser, noise, rtol=1e-3, labels=spread.to(dtype), dtype=dtype)

    def exact(x, sigma, labels):
        return x * labels**2 / (labels**2 + sigma.reshape(-1, 1, 1) ** 2)

    reference = run(torch.float64)
    single = run(torch.float32)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), reference, rtol=1e-3, atol=1e-3)
    half = run(torch.float32, torch.bfloat16)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), reference, rtol=0.1, atol=0.1)
    noise = torch.as_tensor(NOISE).requires_grad_()
    x = sample(NetworkDenoiser(exact, "x0"), noise, rtol=1e-6, labels=spread.double())
    (slope,) = torch.autograd.grad(x.sum(), noise)
    # The flow of a Gaussian is linear: x is the noise times its derivative.
    torch.testing.assert_close(slope * noise, x, rtol=1e-5, atol=1e-7)


def test_a_sample_that_fails_leaves_the_others_alone():
    rtol, labels = 1e-3, [0, 1, 0, 0]

    def broken(x, sigma, labels):
        wrong = (np.array(labels) == 1) & (np.asarray(sigma) < 0.5)
        return np.where(wrong[:, None, None], np.nan, DATA(x, sigma))

    with pytest.raises(RuntimeError, match=r"1 of 4 samples .* sample 1 at sigma = 0\.[5-9]") as e:
        sample(broken, NOISE, SIGMAS, rtol=rtol, labels=labels, trace=True)
    error, whole = e.value, sample(DATA, NOISE, SIGMAS, rtol=rtol)
    good = np.array([True, False, True, True])
    np.testing.assert_allclose(error.samples[good], whole[good], rtol=0, atol=1e-9)
    assert np.isnan(error.samples[1]).all()
    assert error.solution.status[1] is sk.Status.non_finite
    np.testing.assert_array_equal(error.solution.succeeded, good)
    assert np.isfinite(error.states).all()
    np.testing.assert_array_equal(error.sigma[good], SIGMAS[-1])
    assert 0.5 <= error.sigma[1] < SIGMAS[0]
    assert error.trace.calls.sum() <= error.trace.evaluations


def test_a_stop_does_not_hide_a_failure():
    def broken(x, sigma, labels):
        return np.where(np.array(labels)[:, None, None] == 1, np.nan, DATA(x, sigma))

    options = {"rtol": 1e-3, "callback": lambda step: step.i == 2}
    with pytest.raises(RuntimeError, match="sample 1 at sigma = 20 ") as e:
        sample(broken, NOISE, SIGMAS, labels=[0, 1, 0, 0], **options)
    assert e.value.solution.status[1] is sk.Status.non_finite
    assert e.value.solution.status[0] is sk.Status.interrupted
    assert (e.value.sigma[[0, 2, 3]] < 20).all()


@pytest.mark.parametrize("sampler", ["dopri5", "bosh3", "vern7"])
def test_callback_sees_the_controlled_steps_of_each_sample_and_may_stop(sampler):
    seen, stop = [], 5
    options = {"rtol": 1e-3, "sampler": sampler}
    x = sample(DATA, NOISE, SIGMAS, callback=seen.append, **options)
    levels = np.array([step.sigma_next for step in seen])
    assert [step.i for step in seen] == list(range(len(seen)))
    assert (np.diff(levels, axis=0) <= 0).all()
    np.testing.assert_array_equal(levels[-1], SIGMAS[-1])
    np.testing.assert_allclose(DATA(seen[-1].x, SIGMAS[-1]), x, rtol=1e-12)
    np.testing.assert_allclose(seen[0].denoised, DATA(NOISE * SIGMAS[0], SIGMAS[0]), rtol=1e-9)
    for before, step in pairwise(seen):
        np.testing.assert_array_equal(step.sigma, before.sigma_next)
        np.testing.assert_allclose(step.denoised, DATA(before.x, step.sigma), rtol=1e-9)
    stopped, trace = sample(
        DATA, NOISE, SIGMAS, callback=lambda step: step.i == stop, trace=True, **options
    )
    np.testing.assert_allclose(stopped, seen[stop + 1].denoised, rtol=1e-12)
    assert sk.Status.interrupted in trace.solution.status


def test_controlled_trace_is_drawn():
    import matplotlib.pyplot as plt

    _, trace = sample(DATA, NOISE, SIGMAS, rtol=1e-3, trace=True)
    axes = trace.plot()
    assert len(axes) == 2
    drawn = sum(len(line.get_xdata()) for line in axes[1].lines)
    assert drawn == np.isfinite(trace.ratio).sum()
    plt.close("all")


def test_labels_of_some_samples():
    rows, table = np.array([2, 0]), np.arange(12).reshape(4, 3)
    labels = {"classes": [3, 1, 4, 1], "pair": (table, "all"), "shared": table[:2], "none": None}
    part = of_samples(labels, rows, 4)
    assert part["classes"] == [4, 3]
    np.testing.assert_array_equal(part["pair"][0], table[rows])
    assert part["pair"][1] == "all"
    assert part["shared"] is labels["shared"]
    assert part["none"] is None


# Trace, callback, progress ------------------------------------------------------------------------


def test_trace_reads_what_a_plain_loop_computes():
    guide = ERKGuidance(1.0, 0.5)
    x, trace = sample(DATA, NOISE, SIGMAS, guide=guide, trace=True)
    np.testing.assert_array_equal(x, sample(DATA, NOISE, SIGMAS, guide=guide))
    assert isinstance(trace, Trace)
    assert trace.nfev == 2 * len(SIGMAS) - 1
    assert trace.sigma == list(SIGMAS[:-1])
    assert trace.sigma_next == list(SIGMAS[1:])
    names = ("rho", "rayleigh", "z", "gate", "error", "correction")
    for name, column in zip(names, trace.medians().T, strict=True):
        values = getattr(trace, name)[1:]
        middle = np.mean(values, axis=1) if name == "gate" else np.median(values, axis=1)
        np.testing.assert_allclose(column[1:], middle)
    assert np.isnan(trace.medians()[0, :4]).all()
    x, previous = NOISE * SIGMAS[0], None
    for i, (s, s_new) in enumerate(pairwise(SIGMAS)):
        h, f = s_new - s, slope(x, s)
        euler = x + h * f
        f_new = slope(euler, s_new)
        heun = x + h / 2 * (f + f_new)
        flat = (heun - euler).reshape(4, -1)
        np.testing.assert_allclose(trace.error[i], np.linalg.norm(flat, axis=1), rtol=1e-9)
        moved = heun
        if previous is None:
            assert np.isnan(trace.rho[i]).all()
            assert np.isnan(trace.gate[i]).all()
        else:
            dx, df = ((a - b).reshape(4, -1) for a, b in zip((x, f), previous, strict=True))
            norm = np.linalg.norm
            rho = norm(df, axis=1) / (norm(dx, axis=1) + 1e-8)
            np.testing.assert_allclose(trace.rho[i], rho, rtol=1e-8)
            np.testing.assert_allclose(trace.z[i], abs(h) * rho, rtol=1e-8)
            np.testing.assert_array_equal(trace.gate[i], rho > 0.5)
            rate = (dx * df).sum(axis=1) / (dx * dx).sum(axis=1)
            np.testing.assert_allclose(trace.rayleigh[i], rate, rtol=1e-6)
            moved = published(heun, f, x - previous[0], f - previous[1], -h, sign=1, w_stiff=1.0,
                              w_con=0.5)  # fmt: skip
        size = np.linalg.norm((moved - heun).reshape(4, -1), axis=1)
        np.testing.assert_allclose(trace.correction[i], size, rtol=1e-6, atol=1e-9)
        A = DATA.jacobian(x, s)
        for j in range(4):
            values, U = np.linalg.eigh((np.eye(6) - A[j]) / s)
            order = np.argsort(-abs(values))
            if abs(values[order[1]] / values[order[0]]) < 0.99:  # else there is no one vector
                cosine = abs(U[:, order[0]] @ flat[j]) / np.linalg.norm(flat[j])
                np.testing.assert_allclose(trace.alignment[i, j], cosine, rtol=1e-5, atol=1e-7)
        x, previous = moved, (euler, f_new)


@pytest.mark.parametrize("sampler", ["deis3", "unipc3", "sk34", "dpm2", "euler"])
def test_trace_costs_no_call_and_changes_nothing(sampler):
    x, trace = sample(DATA, NOISE, SIGMAS, sampler=sampler, trace=True)
    np.testing.assert_array_equal(x, sample(DATA, NOISE, SIGMAS, sampler=sampler))
    assert trace.nfev == (2 * len(SIGMAS) - 1 if sampler == "dpm2" else len(SIGMAS))
    assert trace.error.shape == (len(SIGMAS) - 1, 4)
    if sampler in MULTISTEP:
        assert np.isnan(trace.error[0]).all()
        assert np.isfinite(trace.error[1:-1]).all()
        assert (trace.error[1:-1] > 0).all()


def test_trace_is_drawn():
    import matplotlib.pyplot as plt

    _, trace = sample(DATA, NOISE, SIGMAS, guide=ERKGuidance(1.0, 0.5), trace=True)
    axes = trace.plot()
    assert len(axes) == 3
    assert len(axes[0].lines) == 2
    plt.close("all")


def test_a_trace_without_readings_is_drawn():
    import matplotlib.pyplot as plt

    _, trace = sample(DATA, NOISE, SIGMAS, sampler="sk44", trace=True)
    axes = trace.plot()
    assert [len(ax.lines) > 0 for ax in axes] == [False, False, True]
    assert [ax.get_legend() is None for ax in axes] == [True, True, False]
    plt.close("all")


@pytest.mark.parametrize("sampler", ["heun", "dpm2", "unipc3"])
def test_callback_sees_every_step_and_may_stop(sampler):
    seen = []
    x = sample(DATA, NOISE, SIGMAS, sampler=sampler, callback=seen.append)
    assert [step.i for step in seen] == list(range(len(SIGMAS) - 1))
    assert [(step.sigma, step.sigma_next) for step in seen] == list(pairwise(SIGMAS))
    np.testing.assert_allclose(seen[0].denoised, DATA(NOISE * SIGMAS[0], SIGMAS[0]), rtol=1e-9)
    np.testing.assert_allclose(DATA(seen[-1].x, SIGMAS[-1]), x, rtol=1e-12)
    stopped = sample(DATA, NOISE, SIGMAS, sampler=sampler, callback=lambda step: step.i == 3)
    np.testing.assert_allclose(stopped, seen[3].denoised, rtol=1e-12)


def test_progress_reaches_the_end(capsys):
    for options in ({"sampler": "heun"}, {"sampler": "unipc3"}, {"rtol": 1e-3}):
        sample(DATA, NOISE, SIGMAS, progress=True, **options)
        assert "100%" in capsys.readouterr().err


# Refusals -----------------------------------------------------------------------------------------


def test_what_does_not_go_together_is_refused_with_what_does():
    def never(x, sigma):
        raise AssertionError

    guides = {
        "stage": (ERKGuidance(1.0, 0.1), "unipc3", "heun"),
        "stage without probe": (ERKGuidance(1.0, 0.1), "bosh3", "heun"),
        "midpoint": (ERKGuidance(1.0, 0.1, pair="midpoint"), "heun", "dpm2"),
        "path": (ERKGuidance(1.0, 0.1, pair="path"), "unipc3", "deis3"),
        "embedded": (FittedExtrapolation(), "euler", "heun"),
        "any": (lambda step, probe: step.y_new, "sk44", "heun"),
    }
    for guide, sampler, able in guides.values():
        with pytest.raises(ValueError, match=f"cannot carry this guide.*{able}"):
            sample(never, NOISE, SIGMAS, sampler=sampler, guide=guide)
        assert able in SAMPLERS
    with pytest.raises(ValueError, match=r"churn breaks the history.*heun"):
        sample(never, NOISE, SIGMAS, sampler="unipc3", churn=3.0, seeds=range(4))
    with pytest.raises(ValueError, match="give seeds"):
        sample(never, NOISE, SIGMAS, churn=3.0)
    with pytest.raises(ValueError, match="seeds must be one per sample"):
        sample(never, NOISE, SIGMAS, churn=3.0, seeds=[1])
    with pytest.raises(ValueError, match=r"rtol needs a sampler.*bosh3"):
        sample(never, NOISE, SIGMAS, sampler=DEFAULT_SAMPLER, rtol=1e-3)
    with pytest.raises(ValueError, match="no guide"):
        sample(never, NOISE, SIGMAS, rtol=1e-3, guide=FittedExtrapolation())
    with pytest.raises(ValueError, match="did you mean 'unipc3'"):
        sample(never, NOISE, SIGMAS, sampler="unipc-3")
    with pytest.raises(ValueError, match="implicit"):
        sample(never, NOISE, SIGMAS, sampler=sk.METHODS["trbdf2"])
    with pytest.raises(ValueError, match="image has shape"):
        sample(never, NOISE, SIGMAS, image=NOISE[:2])
    with pytest.raises(ValueError, match="not finite"):
        sample(never, np.nan * NOISE, SIGMAS)
    for steps in (1, 2.5):
        with pytest.raises(ValueError, match="steps"):
            sample(never, NOISE, steps=steps)
    with pytest.raises(TypeError, match="noise must be an array"):
        sample(never, 3.0, SIGMAS)
    for bad in ({"S_churn": -1.0}, {"S_churn": 1.0, "S_min": 2.0, "S_max": 1.0}):
        with pytest.raises(ValueError, match="churn"):
            Churn(**bad)
    with pytest.raises(ValueError, match="S_noise"):
        Churn(1.0, S_noise=-1.0)
    with pytest.raises(ValueError, match="pair"):
        ERKGuidance(1.0, 0.1, pair="previous")


@pytest.mark.parametrize("sampler", ["heun", "dpm2", "unipc3"])
def test_a_broken_network_is_told_with_what_was_computed(sampler):
    def broken(x, sigma):
        return DATA(x, sigma) if sigma > 0.5 else np.nan * x

    with pytest.raises(RuntimeError, match="not finite") as caught:
        sample(broken, NOISE, SIGMAS, sampler=sampler)
    solution = caught.value.solution
    assert solution.status is sk.Status.non_finite
    assert not solution.success
