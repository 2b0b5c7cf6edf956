"""The networks of EDM and EDM2: published shapes, values of the originals, and invariances."""

import hashlib

import pytest

torch = pytest.importorskip("torch")

from stiffkit.diffusion.networks import EDM, EDM2  # noqa: E402
from stiffkit.diffusion.networks.edm2 import (  # noqa: E402
    MPConv,
    MPFourier,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
)

EPS = torch.finfo(torch.float32).eps

SONG = {"model_type": "SongUNet", "augment_dim": 9}
NCSN = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
SMALL = {"num_blocks": 1, "attn_resolutions": [8]}


def filled(net, scale_by_fan_in):
    """Give every weight and buffer a value that any library can reproduce."""
    with torch.no_grad():
        for i, (name, v) in enumerate(net.state_dict().items()):
            if "resample_filter" in name:
                continue
            w = torch.sin(0.1 * torch.arange(v.numel(), dtype=torch.float64) ** 2 + i + 1)
            w = w.reshape(v.shape)
            fan_in = v[0].numel() if v.ndim > 1 else 2
            v.copy_(w / (fan_in / 2) ** 0.5 if scale_by_fan_in else w)
    return net.eval()


def inputs(net):
    shape = (2, net.img_channels, net.img_resolution, net.img_resolution)
    n = 2 * net.img_channels * net.img_resolution**2
    x = 2 * torch.sin(1.3 * torch.arange(n, dtype=torch.float64)).reshape(shape).float()
    labels = torch.eye(net.label_dim)[[1, 3]] if net.label_dim else None
    return x, torch.tensor([2.5, 0.1]), labels


def small(name):
    torch.manual_seed(0)
    if name == "edm2":
        net = EDM2(16, 3, 10, model_channels=32, channels_per_head=16, num_blocks=1)
    elif name == "edm2 unconditional":
        net = EDM2(16, 3, model_channels=32, channel_mult=(1, 2), channels_per_head=16, **SMALL)
    elif name == "ddpm++":
        net = EDM(16, 3, model_channels=16, channel_mult=[1, 2], **SMALL, **SONG)
    elif name == "ncsn++":
        options = {"model_channels": 16, "channel_mult": [1, 2], **SMALL, **NCSN}
        net = EDM(16, 3, 10, model_type="SongUNet", **options)
    else:
        net = EDM(16, 3, 10, model_channels=32, channel_mult=[1, 4], **SMALL)
    return filled(net, scale_by_fan_in=isinstance(net, EDM))


# D[:, -1, 3, 5] and ‖D‖, as the authors' own networks give them with these weights (float32, CPU,
# NVlabs/edm2 and NVlabs/edm).
ORIGINAL = {
    "edm2": (-0.215383634, -1.92664552, 41.61283874511719),
    "edm2 unconditional": (0.370684683, -1.81342757, 38.9803466796875),
    "ddpm++": (0.148216337, -1.79570496, 38.471866607666016),
    "ncsn++": (0.619232953, -1.66947031, 39.669700622558594),
    "adm": (-0.465838075, -1.88735175, 40.6347541809082),
}


@pytest.mark.parametrize("name", ORIGINAL)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_of_the_originals(name, layout):
    net = small(name)
    x, sigma, labels = inputs(net)
    augment = {}
    if name == "ddpm++":
        augment["augment_labels"] = torch.linspace(-1, 1, 18).reshape(2, 9)
    with torch.no_grad():
        d = net(x.to(memory_format=layout), sigma, labels, **augment)
    first, second, norm = ORIGINAL[name]
    assert d.norm().item() == pytest.approx(norm, rel=1e-5)
    # A value is as accurate as the largest ones that were added to it.
    assert d[:, -1, 3, 5].tolist() == pytest.approx(
        [first, second], abs=1e-5 * float(d.abs().max())
    )


# Number of tensors and of parameters in millions, and a digest of "name<tab>shape" lines, sorted,
# of the published checkpoints.
PUBLISHED = {
    "edm2 s": (203, 280.213, "ea6274203118bc34038d36aec16d207086fe71a23c043a7d923c8c1354df9832"),
    "ddpm++ cifar10": (
        425,
        55.734,
        "b51b763c9169f86ca04a01eb6dc872a0e0a617ea7055428c9efdeebd12736042",
    ),
    "ncsn++ cifar10": (
        432,
        56.398,
        "1dabb87c4608b6ced2074624672d3b3bd09667360bf0f90760b44d04dccf02fe",
    ),
    "ddpm++ ffhq": (
        553,
        61.806,
        "73606a241f33273ea8dfa09a16440bde71c38b98490591a7974005a2fe5655b8",
    ),
    "adm imagenet": (
        553,
        295.899,
        "f7ba2c109772a0a4d6cea1453d96af2c3ce1fd85c7cbb0422bb7f2d3812f6054",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_of_the_checkpoints(name):
    with torch.device("meta"):
        net = {
            "edm2 s": lambda: EDM2(64, 4, 1000),
            "ddpm++ cifar10": lambda: EDM(32, 3, channel_mult=[2, 2, 2], **SONG),
            "ncsn++ cifar10": lambda: EDM(32, 3, channel_mult=[2, 2, 2], **SONG, **NCSN),
            "ddpm++ ffhq": lambda: EDM(64, 3, channel_mult=[1, 2, 2, 2], **SONG),
            "adm imagenet": lambda: EDM(64, 3, 1000),
        }[name]()
    lines = sorted(f"{k}\t{tuple(v.shape)}" for k, v in net.state_dict().items())
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert (len(lines), round(millions, 3), digest) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("width", "millions"),
    [(128, 124.7), (192, 280.2), (256, 497.8), (320, 777.5), (384, 1119.3), (448, 1523.2)],
)
def test_sizes_of_edm2(width, millions):
    with torch.device("meta"):
        net = EDM2(64, 4, 1000, model_channels=width)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == millions


def test_magnitudes_are_preserved():
    torch.manual_seed(0)
    a, b = torch.randn(2000, 64), torch.randn(2000, 32)
    conv, fourier = MPConv(64, 32), MPFourier(64)
    for y in (
        mp_sum(a, a.flip(0), 0.3),
        mp_cat(a, b, 0.5),
        mp_cat(a, b, 0.2),
        mp_silu(torch.randn(2000, 64)),
        conv(a),
        fourier(torch.randn(2000)),
        normalize(7 * a),
    ):
        # 64,000 numbers or more, in sums of correlated ones: one per cent.
        assert y.square().mean().sqrt().item() == pytest.approx(1, abs=0.02)
    # mp_cat: `t` is the share of the second in the sum of squares, (1 − t)² : t².
    first, second = mp_cat(a, b, 0.2).square().sum(dim=0).split([64, 32])
    assert (second.sum() / first.sum()).item() == pytest.approx(1 / 16, rel=0.05)


def test_normalized_weights_give_the_same_network():
    net = small("edm2")
    x, sigma, labels = inputs(net)
    with torch.no_grad():
        before = net(x, sigma, labels)
        net.normalize_weights()
        after = net(x, sigma, labels)
        norms = [m.weight[0].norm().item() for m in net.modules() if isinstance(m, MPConv)]
        fan_in = [m.weight[0].numel() ** 0.5 for m in net.modules() if isinstance(m, MPConv)]
    # w/(ε + rms(w)), twice: ε = 1e-4 moves a weight of unit size by as much.
    assert norms == pytest.approx(fan_in, rel=2e-4)
    assert (after - before).norm() < 2e-2 * before.norm()


@pytest.mark.parametrize("name", ORIGINAL)
def test_labels_batches_and_precisions(name):
    net = small(name)
    x, sigma, labels = inputs(net)
    with torch.no_grad():
        d = net(x, sigma, labels)
        scale = d.abs().max().item()

        def difference(other):
            return (other - d).abs().max().item() / scale

        assert d.dtype == torch.float32
        each = [
            net(x[i : i + 1], float(sigma[i]), None if labels is None else labels[i : i + 1])
            for i in range(2)
        ]
        assert difference(torch.cat(each)) < 100 * EPS
        if labels is not None:
            assert difference(net(x, sigma, labels.argmax(1))) == 0
            none, zero = net(x, sigma), net(x, sigma, torch.zeros(1, net.label_dim))
            assert torch.equal(none, zero)
            assert difference(none) > 1e-3
        # State in float64, network in float32: the preconditioning is in float64.
        wide = net(x.double(), sigma, labels)
        assert wide.dtype == torch.float64
        assert difference(wide) < 100 * EPS
        net.dtype = torch.bfloat16
        half = net(x, sigma, labels)
        assert half.dtype == torch.float32
        assert 0 < difference(half) < 0.1
        assert difference(net(x, sigma, labels, force_fp32=True)) == 0
        net.dtype = torch.float16  # on GPUs alone
        assert difference(net(x, sigma, labels)) == 0
        exact = net.double()(x.double(), sigma.double(), labels)
        assert 0 < difference(exact) < 1e-4


@pytest.mark.parametrize("name", ORIGINAL)
def test_every_parameter_that_matters_has_a_gradient(name):
    net = small(name)
    x, sigma, labels = inputs(net)
    net(x, sigma, labels).square().mean().backward()
    without = {n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    unused = {"logvar_linear.weight", "model.map_augment.weight"}
    assert without <= unused


def test_small_noise_returns_the_input():
    net = small("edm2")
    x, _, labels = inputs(net)
    with torch.no_grad():
        net.unet.out_gain.zero_()
        s = net.sigma_data
        # F = 0: D is the shrinkage of a normal prior.
        d = net(x, 2.0, labels)
        assert torch.allclose(d, x * s**2 / (s**2 + 4), rtol=10 * EPS)
    net = small("adm")
    with torch.no_grad():
        gap = net(x, 1e-4, labels) - x
    assert 0 < gap.abs().max() < 1e-2


def test_patches_are_channels_of_a_smaller_image():
    torch.manual_seed(0)
    options = {"model_channels": 8, "channel_mult": (1, 2), "channels_per_head": 8, **SMALL}
    net = EDM2(28, 1, 10, patch=2, **options)
    same = EDM2(14, 4, 10, **options)
    filled(net, False)
    same.load_state_dict(net.state_dict())
    same.eval()
    x = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        inner = same(torch.nn.functional.pixel_unshuffle(x, 2), 0.7, torch.tensor([1, 2, 3]))
        outer = net(x, 0.7, torch.tensor([1, 2, 3]))
    assert torch.equal(outer, torch.nn.functional.pixel_shuffle(inner, 2))


def test_bad_arguments_are_named():
    for options, message in [
        ({"img_resolution": 28, "channel_mult": (1, 2, 3, 4)}, "28 is no multiple of 8"),
        ({"img_resolution": 16, "patch": 0}, "patch must be positive"),
        ({"img_resolution": 16, "sigma_data": -1}, "sigma_data must be positive"),
        ({"img_resolution": 16, "channel_mult": ()}, "channel_mult"),
    ]:
        with pytest.raises(ValueError, match=message):
            EDM2(img_channels=1, **options)
    with pytest.raises(ValueError, match="model_type"):
        EDM(16, 3, model_type="UNet")
    with pytest.raises(ValueError, match="encoder_type"):
        EDM(16, 3, model_type="SongUNet", encoder_type="skip")
    net = small("edm2")
    x, sigma, _ = inputs(net)
    with pytest.raises(ValueError, match=r"class_labels must have shape \(2, 10\)"):
        net(x, sigma, torch.ones(2, 9))
