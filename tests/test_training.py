"""The training script: exact resumption, order of the data, averages of the weights."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from stiffkit.diffusion.checkpoint import load_checkpoint  # noqa: E402

PATH = Path(__file__).parents[1] / "examples" / "train_fashion.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_fashion", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def data():
    torch.manual_seed(0)
    return 0.5 * torch.randn(50, 1, 8, 8), torch.arange(50) % 10


@pytest.fixture
def training(script):
    arguments = {"img_resolution": 8, "img_channels": 1, "label_dim": 10, "sigma_data": 0.5}
    options = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1}
    options |= {"attn_resolutions": [4], "channels_per_head": 8, "logvar_channels": 8}

    def make(seed=0, lr=0.01):
        return script.Training(arguments | options, 16, lr, 50, seed)

    return make


def test_a_killed_run_continues_as_if_it_had_not_been(script, training, data, tmp_path):
    whole = training()
    for _ in range(6):
        whole.step(*data, (-1.0, 1.0))
    part = training()
    for _ in range(3):
        part.step(*data, (-1.0, 1.0))
    part.save(tmp_path / "state.pt")
    again = script.Training.load(tmp_path / "state.pt")
    losses = [again.step(*data, (-1.0, 1.0)) for _ in range(3)]
    assert np.isfinite(losses).all()
    assert again.n == 6
    for which in range(2):
        a, b = whole.averaged(which), again.averaged(which)
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert all(
        torch.equal(p, q)
        for p, q in zip(whole.net.parameters(), again.net.parameters(), strict=True)
    )
    other = training(seed=1)
    other.step(*data, (-1.0, 1.0))
    assert not torch.equal(other.net.unet.out_conv.weight, whole.net.unet.out_conv.weight)


def test_an_epoch_is_every_image_once(training):
    t = training()
    rows = []
    for t.n in range(25):  # 25 batches of 16 are 8 epochs of 50
        rows.append(t._rows(50))
    epochs = torch.cat(rows).reshape(8, 50)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(50).expand(8, 50))
    assert not torch.equal(epochs[0], epochs[1])


def test_averages_have_the_profile_of_a_power(script, training, data):
    """The average after n updates is Σ wᵢ θᵢ with w from the recurrence's closed product."""
    t = training()
    history = []
    for _ in range(8):
        t.step(*data, (-1.0, 1.0))
        history.append(t.net.unet.out_conv.weight.detach().clone())
    for which, length in enumerate(script.SIGMA_REL):
        gamma = script.power_exponent(length)
        assert (gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)) == pytest.approx(length**2)
        # β = (1 − 1/i)^(γ+1) leaves ((i/n)^(γ+1) − ((i−1)/n)^(γ+1)) of the i-th.
        ends = (np.arange(9) / 8) ** (gamma + 1)
        expected = sum(w * theta for w, theta in zip(np.diff(ends), history, strict=True))
        got = t.averaged(which)["unet.out_conv.weight"]
        assert torch.allclose(got, expected.float(), rtol=1e-4, atol=1e-6)


def test_training_reduces_the_loss_and_keeps_weights_normal(training):
    # One image: the denoiser has nothing to know but it.
    x = torch.zeros(64, 1, 8, 8)
    x[:, :, 2:6] = 1.0
    t = training(lr=0.4)  # the learning rate is still warming up when this ends
    losses = [t.step(x, torch.zeros(64).long(), (-1.0, 1.0)) for _ in range(25)]
    # Warm-up makes the first updates small; F = 0 has a loss of one, for data of unit scale.
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    for p in t.net.parameters():
        if p.ndim > 1:
            assert p.flatten(1).square().mean(dim=1).sqrt().tolist() == pytest.approx(
                [1] * len(p), abs=1e-3
            )


def test_weights_are_written_for_load_checkpoint(script, training, data, tmp_path):
    t = training()
    for _ in range(2):
        t.step(*data, (-1.0, 1.0))
    script.write_weights(t, 0, {"mean": 0.1, "std": 0.2}, tmp_path / "ema.safetensors")
    read = load_checkpoint(tmp_path / "ema.safetensors")
    net = read.build()
    average = t.averaged(0)
    assert all(torch.equal(v, average[k].half()) for k, v in read.state_dict.items())
    assert net(data[0][:2], 0.5, data[1][:2]).shape == (2, 1, 8, 8)
    assert read.metadata == {"pixels": '{"mean": 0.1, "std": 0.2}', "images": "32"}


def test_idx_files(script, tmp_path):
    import gzip

    images = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    for name, header, body in [
        ("t10k-images-idx3-ubyte.gz", (2, 28, 28), images),
        ("t10k-labels-idx1-ubyte.gz", (2,), np.array([3, 7], np.uint8)),
    ]:
        magic = bytes([0, 0, 8, len(header)])
        content = magic + np.array(header, ">i4").tobytes() + body.tobytes()
        (tmp_path / name).write_bytes(gzip.compress(content))
    pixels, labels = script.load_fashion(tmp_path, "t10k")
    assert torch.equal((pixels[:, 0] * 255).round().to(torch.uint8), torch.tensor(images))
    assert labels.tolist() == [3, 7]
    with pytest.raises(SystemExit, match="apt-get install dataset-fashion-mnist"):
        script.load_fashion(tmp_path)
