"""The shipped denoisers: what they are, and that they denoise."""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import stiffkit.diffusion  # noqa: E402
from stiffkit.diffusion import sample, shipped  # noqa: E402

MODELS = {
    "fashion": shipped.fashion_mnist,
    "weak": lambda: shipped.fashion_mnist(weak=True),
    "digits": shipped.digits,
}


@pytest.mark.parametrize("name", MODELS)
def test_what_they_are(name):
    net = MODELS[name]()
    side = 8 if name == "digits" else 28
    assert (net.img_resolution, net.img_channels, net.label_dim) == (side, 1, 10)
    assert net.sigma_data == 0.5
    assert not net.training
    n = sum(p.numel() for p in net.parameters())
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in net.parameters())
    assert n < {"fashion": 1.5e6, "weak": 0.5e6, "digits": 1e5}[name]


def test_their_files_are_small():
    folder = Path(stiffkit.diffusion.__file__).parent / "models"
    sizes = {p.stem: p.stat().st_size for p in folder.glob("*.safetensors")}
    assert set(sizes) == {"digits", "fashion_mnist", "fashion_mnist_weak"}
    assert sizes["fashion_mnist"] + sizes["fashion_mnist_weak"] <= 6e6
    assert sizes["digits"] <= 2e5


def digits():
    data = pytest.importorskip("sklearn.datasets").load_digits()
    net = shipped.digits()
    pixels = torch.tensor(data.images[:, None] / 16, dtype=torch.float32)
    return net, (pixels - net.pixel_mean) / net.pixel_scale, torch.tensor(data.target)


def test_digits_are_scaled_and_denoised():
    net, x, labels = digits()
    assert abs(x.mean().item()) < 1e-3
    assert x.std().item() == pytest.approx(net.sigma_data, rel=1e-3)
    assert torch.allclose(
        shipped.to_pixels(net, x), x * net.pixel_scale + net.pixel_mean, atol=1e-5
    )
    x, labels = x[:200], labels[:200]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for sigma in (0.2, 0.5, 1.0, 2.0):
        error = (net(x + sigma * noise, sigma, labels) - x).square().mean().item()
        # The best linear denoiser that knows nothing but the spread of the data.
        linear = sigma**2 * 0.25 / (sigma**2 + 0.25)
        assert error < 0.6 * linear
        # Labels help, where noise hides the digit.
        if sigma >= 1:
            without = (net(x + sigma * noise, sigma) - x).square().mean().item()
            wrong = (net(x + sigma * noise, sigma, (labels + 1) % 10) - x).square().mean().item()
            assert error < without < wrong


def test_samples_look_like_their_class():
    """The nearest training image of a sample has its label far more often than one in ten."""
    net, x, labels = digits()
    wanted = torch.arange(10).repeat(6)
    noise = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    y = sample(lambda x, sigma: net(x, sigma, wanted), noise, steps=10)
    nearest = torch.cdist(y.flatten(1), x.flatten(1)).argmin(dim=1)
    assert (labels[nearest] == wanted).float().mean().item() > 0.8
    assert shipped.to_pixels(net, y).amin() >= 0


@pytest.mark.parametrize("weak", [False, True])
def test_fashion_samples_have_the_moments_of_the_data(weak):
    net = shipped.fashion_mnist(weak)
    wanted = torch.arange(10)
    noise = torch.randn(10, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    y = sample(lambda x, sigma: net(x, sigma, wanted), noise, steps=8)
    # An image of each class of a data set with mean 0 and standard deviation 0.5.
    assert abs(y.mean().item()) < 0.15
    assert y.std().item() == pytest.approx(0.5, rel=0.25)
    shirts, trousers = y[wanted == 0].mean(), y[wanted == 1].mean()
    assert shirts > trousers  # the images of trousers are mostly background


def test_without_torch_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"'digits' needs torch: pip install 'stiffkit\[torch\]'"):
        shipped.digits()
