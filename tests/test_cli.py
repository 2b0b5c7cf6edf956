"""The command line: what it draws, that it goes on, that processes share, and what it refuses."""

import json
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from stiffkit.diffusion import EDMDenoiser, SeededNoise, sample, shipped
from stiffkit.diffusion.checkpoint import load_checkpoint
from stiffkit.diffusion.cli import main, models
from stiffkit.diffusion.cli import run as engine
from stiffkit.diffusion.cli.presets import PRESETS
from stiffkit.diffusion.metrics import frechet_distance
from stiffkit.diffusion.networks import EDM2
from stiffkit.guidance import ERKGuidance, autoguidance, classifier_free_guidance

Image = pytest.importorskip("PIL.Image", reason="the extra cli is not installed")
typer_testing = pytest.importorskip("typer.testing", reason="the extra cli is not installed")

from stiffkit.diffusion.cli.app import app  # noqa: E402

QUICK = ["--steps", "3", "--threads", "1"]


@pytest.fixture(autouse=True)
def one_thread():
    """Keep --threads from the other tests."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def invoke(*arguments, code=0):
    result = typer_testing.CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return re.sub(r"\s+", " ", result.output)


def read(file):
    with np.load(file) as data:
        return dict(data)


def plain(seeds, net, denoiser, **options):
    """Draw as EDM2 does: from each seed the noise, then the class."""
    shape = (net.img_channels, net.img_resolution, net.img_resolution)
    makers = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.stack([torch.randn(shape, generator=g) for g in makers])
    labels = torch.stack([torch.randint(net.label_dim, size=[], generator=g) for g in makers])
    return sample(denoiser, noise, labels=torch.eye(net.label_dim)[labels], **options), labels


@pytest.fixture(scope="module")
def latent_file(tmp_path_factory):
    """Write a checkpoint of a small network on latents of four channels."""
    from safetensors.torch import save_file

    arguments = {
        "img_resolution": 8, "img_channels": 4, "label_dim": 3, "model_channels": 8,
        "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [], "channels_per_head": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    net = EDM2(**arguments)
    with torch.no_grad():
        net.unet.out_gain.fill_(1.0)
    file = tmp_path_factory.mktemp("net") / "latent.safetensors"
    metadata = {"network": "EDM2", "arguments": json.dumps(arguments)}
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, file, metadata)
    return file


# sample -------------------------------------------------------------------------------------------


def test_archive_holds_what_sample_draws(tmp_path):
    file, net = tmp_path / "x.npz", shipped.digits()
    invoke("sample", "digits", "--seeds", "3-5,9", "--npz", file, *QUICK)
    data = read(file)
    x, labels = plain([3, 4, 5, 9], net, EDMDenoiser(net), steps=3)
    np.testing.assert_array_equal(data["seeds"], [3, 4, 5, 9])
    np.testing.assert_array_equal(data["labels"], labels)
    np.testing.assert_allclose(data["samples"], x, rtol=1e-4, atol=1e-4)
    pixels = 255 * shipped.to_pixels(net, x).numpy()
    np.testing.assert_allclose(data["images"], pixels, atol=0.51)
    assert list(tmp_path.iterdir()) == [file]


def test_options_reach_the_sampler(tmp_path):
    net, weak = shipped.fashion_mnist(), shipped.fashion_mnist(weak=True)
    D = EDMDenoiser(net)
    cases = {
        ("--sampler", "unipc3", "--sigma-max", "20", "--rho", "5"): (
            D, {"sampler": "unipc3", "sigma_max": 20.0, "rho": 5.0},
        ),
        ("--guide", "erk", "--w-stiff", "0.7", "--w-con", "0.2"): (
            D, {"guide": ERKGuidance(0.7, 0.2)},
        ),
        ("--gnet", "self", "--guidance", "1.5", "--interval", "0.1", "10", "--dtype", "float64"): (
            classifier_free_guidance(D, 1.5, interval=(0.1, 10)), {"dtype": torch.float64},
        ),
        ("--gnet", "fashion_mnist_weak", "--guidance", "2"): (
            autoguidance(D, EDMDenoiser(weak), 2.0), {},
        ),
    }  # fmt: skip
    for i, (arguments, (denoiser, options)) in enumerate(cases.items()):
        file = tmp_path / f"{i}.npz"
        invoke("sample", "fashion_mnist", "--seeds", "7-8", "--npz", file, *QUICK, *arguments)
        x, _ = plain([7, 8], net, denoiser, steps=3, **options)
        np.testing.assert_allclose(read(file)["samples"], x, rtol=1e-3, atol=1e-3)


def test_churn_goes_on_with_the_seeds_generator(tmp_path):
    """After the noise and the class; in float64 only the state, and the noise of churn, is."""
    net, file = shipped.digits(), tmp_path / "x.npz"
    invoke("sample", "digits", "--seeds", "2,5", "--npz", file, "--churn", "4",
           "--dtype", "float64", "--sampler", "heun", *QUICK)  # fmt: skip
    source = SeededNoise([2, 5], torch.zeros(1))
    noise, labels = source.normal((1, 8, 8)), source.integers(10)
    source.like = torch.zeros(1, dtype=torch.float64)
    x = sample(
        EDMDenoiser(net), noise, steps=3, sampler="heun", labels=torch.eye(10)[labels], churn=4.0,
        seeds=source, dtype=torch.float64,
    )  # fmt: skip
    np.testing.assert_allclose(read(file)["samples"], x, rtol=1e-3, atol=1e-3)


def test_images_go_on_where_a_run_stopped(tmp_path, monkeypatch):
    folder, draw, drawn = tmp_path / "out", engine.Task.draw, []
    command = ["sample", "digits", "--seeds", "0-7", "--batch", "2", "--class", "4", *QUICK]

    def killed_in_the_third(self, seeds, **options):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(list(seeds))
        return draw(self, seeds, **options)

    monkeypatch.setattr(engine.Task, "draw", killed_in_the_third)
    invoke(*command, "--outdir", folder, code=130)
    assert sorted(f.name for f in folder.glob("*.png")) == [f"{i:06d}.png" for i in range(4)]
    kept = {f.name: f.stat().st_mtime_ns for f in folder.glob("*.png")}

    monkeypatch.setattr(engine.Task, "draw", draw)
    said = invoke(*command, "--outdir", folder)
    assert "4 samples drawn by this process, 4 were there" in said
    assert " calls of the network, " in said
    assert " s each with all around them" in said
    for name, time in kept.items():
        assert (folder / name).stat().st_mtime_ns == time
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / ".000001.png.12345.part").touch()  # of a process that was killed as it wrote
    invoke(*command, "--outdir", whole)
    for i in range(8):
        name = f"{i:06d}.png"
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
        with Image.open(folder / name) as image:
            assert (image.size, image.mode) == ((8, 8), "L")
    assert not list(folder.glob(".*"))
    assert not list(whole.glob(".*"))

    # Other settings do not mix with what is there, unless it is dropped.
    said = invoke(*command, "--outdir", folder, "--sampler", "heun", code=1)
    assert "other settings: sampler None, now 'heun'. --overwrite drops it" in said
    invoke(*command, "--outdir", folder, "--sampler", "heun", "--overwrite")
    assert (folder / "000000.png").read_bytes() != (whole / "000000.png").read_bytes()


def test_archives_go_on_and_are_not_overwritten(tmp_path, monkeypatch):
    draw, file = engine.Task.draw, tmp_path / "x.npz"
    command = ["sample", "digits", "--batch", "2", "--npz", file, *QUICK]

    def killed_in_the_second(self, seeds, **options):
        if 2 in seeds:
            raise KeyboardInterrupt
        return draw(self, seeds, **options)

    monkeypatch.setattr(engine.Task, "draw", killed_in_the_second)
    invoke(*command, "--seeds", "0-4", code=130)
    assert not file.exists()
    assert "other settings: seeds '0-4', now '0,1,6'" in invoke(
        *command, "--seeds", "0,1,6", code=1
    )
    monkeypatch.setattr(engine.Task, "draw", draw)
    assert "3 samples drawn by this process, 2 were" in invoke(*command, "--seeds", "0-4")
    np.testing.assert_array_equal(read(file)["seeds"], range(5))
    assert "exists: --overwrite drops it" in invoke(*command, "--seeds", "0-4", code=1)


def test_what_the_network_breaks_is_told_and_the_rest_is_kept(tmp_path, monkeypatch):
    draw = engine.Task.draw

    def broken(self, seeds, **options):
        net = self.net
        if 2 in seeds:
            with torch.no_grad():
                net.unet.out_gain.fill_(torch.nan)
        return draw(self, seeds, **options)

    monkeypatch.setattr(engine.Task, "draw", broken)
    said = invoke(
        "sample", "digits", "--seeds", "0-3", "--batch", "2", "--outdir", tmp_path, *QUICK, code=1
    )
    assert "not finite" in said
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_latents(latent_file, tmp_path):
    said = invoke("sample", latent_file, "--outdir", tmp_path / "a", *QUICK, code=1)
    assert "latents, not images: write them with --npz, or give --vae" in said
    invoke("sample", latent_file, "--seeds", "0-1", "--npz", tmp_path / "x.npz", *QUICK)
    data = read(tmp_path / "x.npz")
    assert data["samples"].shape == (2, 4, 8, 8)
    assert "images" not in data


def test_latents_are_decoded_by_a_local_autoencoder(latent_file, tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    vae.save_pretrained(tmp_path / "vae")
    arguments = ["sample", latent_file, "--seeds", "0-1", *QUICK]
    invoke(*arguments, "--vae", tmp_path / "vae", "--npz", tmp_path / "x.npz")
    data = read(tmp_path / "x.npz")
    mean, std = np.array([5.81, 3.25, 0.12, -2.15]), np.array([4.17, 4.62, 3.71, 3.28])
    z = data["samples"] / 0.5 * std[:, None, None] + mean[:, None, None]
    with torch.no_grad():
        images = vae.decode(torch.tensor(z, dtype=torch.float32)).sample
    expected = (127.5 * images + 128).clip(0, 255).numpy()
    assert data["images"].shape == (2, 3, 16, 16)
    assert abs(data["images"] - expected + 0.5).max() < 0.6
    said = invoke(*arguments, "--vae", tmp_path / "no", "--npz", tmp_path / "y.npz", code=1)
    assert "is no folder; nothing is downloaded" in said


def test_presets_take_their_files_from_a_folder(latent_file, tmp_path):
    preset = PRESETS["edm2-img512-s-guid-fid"]
    for name in (preset.net, preset.gnet):
        (tmp_path / name).write_bytes(latent_file.read_bytes())
    target = tmp_path / "x.npz"
    invoke(
        "sample", "edm2-img512-s-guid-fid", "--weights", tmp_path, "--seeds", "0", "--npz", target,
        "--threads", "1", "--sampler", "heun", "--steps", "2",
    )  # fmt: skip
    net = load_checkpoint(latent_file).build()
    D = autoguidance(EDMDenoiser(net), EDMDenoiser(net), preset.guidance)
    x, _ = plain([0], net, D, steps=2, sampler="heun")
    np.testing.assert_allclose(read(target)["samples"], x, rtol=1e-4, atol=1e-4)
    # Every option overrides the preset's, so that strength 1 is the network alone.
    alone = tmp_path / "alone.npz"
    invoke(
        "sample", "edm2-img512-s-guid-fid", "--weights", tmp_path, "--seeds", "0", "--npz", alone,
        "--threads", "1", "--sampler", "heun", "--steps", "2", "--guidance", "1",
    )  # fmt: skip
    x, _ = plain([0], net, EDMDenoiser(net), steps=2, sampler="heun")
    np.testing.assert_allclose(read(alone)["samples"], x, rtol=1e-4, atol=1e-4)
    said = invoke("sample", "edm2-img512-s-fid", "--npz", target, code=1)
    assert "presets need --weights" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits"], "give --outdir, a folder for images, or --npz, a file"),
        (["nothing", "--npz", "x"], "'nothing' is no file and none of fashion_mnist"),
        (["digits", "--npz", "x", "--seeds", "1-"], "seeds must be numbers and ranges"),
        (["digits", "--npz", "x", "--seeds", "1-3,2"], "name a seed twice"),
        (["digits", "--npz", "x", "--seeds", "3-1"], "end before they begin"),
        (["digits", "--npz", "x", "--class", "10"], "--class must be from 0 to 9, not 10"),
        (["digits", "--npz", "x", "--guidance", "2"], "--guidance 2.0 needs --gnet"),
        (["digits", "--npz", "x", "--gnet", "self"], "--gnet needs --guidance"),
        (["digits", "--npz", "x", "--guide", "erk", "--w-con", "-1"], "w_con must be finite"),
        (["digits", "--npz", "x", "--sampler", "hean"], "did you mean 'heun'?"),
        (["digits", "--npz", "x", "--steps", "0"], "steps must be an integer of at least 2"),
        (["digits", "--npz", "x", "--steps", "1"], "steps must be an integer of at least 2"),
    ],
)
def test_refusals_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = invoke("sample", *arguments, code=1)
    assert message in said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("*.png"))
    assert not (tmp_path / "x").exists()


def test_a_refused_command_can_be_mended(tmp_path):
    arguments = ["sample", "digits", "--seeds", "0", "--npz", tmp_path / "x.npz", "--threads", "1"]
    invoke(*arguments, "--steps", "1", code=1)
    invoke(*arguments, "--steps", "2")


# Processes ----------------------------------------------------------------------------------------


def test_batches_and_seeds():
    assert models.parse_seeds("0-3, 9") == [0, 1, 2, 3, 9]
    assert engine.batches_of(range(5), 2) == [[0, 1], [2, 3], [4]]


def torchrun(size, *arguments):
    code = f"import sys; sys.argv = {['stiffkit', *map(str, arguments)]!r}\n"
    code += "from stiffkit.diffusion.cli import main; main()"
    environment = {
        **os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={size}",
    ]
    return subprocess.run(
        [*command, "--no-python", sys.executable, "-c", code],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_draw_the_same_bits_as_one(tmp_path):
    arguments = ["sample", "digits", "--seeds", "0-8", "--batch", "2", *QUICK]
    done = torchrun(2, *arguments, "--npz", tmp_path / "two.npz")
    assert done.returncode == 0, done.stderr
    invoke(*arguments, "--npz", tmp_path / "one.npz")
    one, two = read(tmp_path / "one.npz"), read(tmp_path / "two.npz")
    assert sorted(one) == sorted(two) == ["images", "labels", "samples", "seeds"]
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    # All processes learn of a refusal of the first.
    again = torchrun(2, *arguments, "--npz", tmp_path / "two.npz")
    assert again.returncode != 0
    assert "exists: --overwrite drops it" in again.stderr


# The other commands -------------------------------------------------------------------------------


def test_help_tells_defaults_that_depend():
    # "[...]" would be taken for markup of rich, and left out.
    text = " ".join(invoke("sample", "--help").replace("│", " ").split())
    for words in ("by default 18", "by default sk44", "by default random"):
        assert words in text


def test_convert_without_a_folder_is_one_line(latent_file, tmp_path):
    said = invoke("convert", latent_file, tmp_path / "none" / "x.safetensors", code=1)
    assert "there is no folder" in said
    assert "Traceback" not in said


def test_convert(latent_file, tmp_path):
    target = tmp_path / "copy.safetensors"
    assert "MB" in invoke("convert", latent_file, target)
    a, b = (load_checkpoint(f) for f in (latent_file, target))
    assert a.arguments == b.arguments
    assert all(torch.equal(b.state_dict[k], v) for k, v in a.state_dict.items())
    (tmp_path / "bad.pkl").write_bytes(b"\x80\x04cos\nsystem\n.")
    said = invoke("convert", tmp_path / "bad.pkl", target, code=1)
    assert "refused" in said
    assert "Traceback" not in said


def test_evaluate_features_and_statistics(tmp_path):
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((60, 4)), draw.standard_normal((50, 4)) + 0.5
    np.savez(tmp_path / "x.npz", features=x)
    np.savez(tmp_path / "y.npz", features=y)
    said = invoke(
        "evaluate", tmp_path / "x.npz", tmp_path / "y.npz", "--json", "--save", tmp_path / "s.npz"
    )
    values = json.loads(said)
    assert values["FD"] == pytest.approx(frechet_distance(x, y), rel=1e-12)
    assert (values["samples"], values["reference samples"]) == (60, 50)
    assert set(values) == {"FD", "KID", "precision", "recall", "samples", "reference samples"}
    assert load_checkpoint(tmp_path / "s.npz").mean.shape == (4,)
    swapped = json.loads(invoke("evaluate", tmp_path / "y.npz", tmp_path / "s.npz", "--json"))
    assert swapped["FD"] == pytest.approx(values["FD"], rel=1e-9)
    assert "KID" not in swapped
    np.savez(tmp_path / "z.npz", other=x)
    assert "has other, but no images" in invoke(
        "evaluate", tmp_path / "z.npz", tmp_path / "x.npz", code=1
    )


def test_evaluate_images(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra metrics is not installed")
    for name, seeds in (("a", "0-5"), ("b", "6-11")):
        invoke("sample", "digits", "--seeds", seeds, "--outdir", tmp_path / name, *QUICK)
    invoke("sample", "digits", "--seeds", "0-5", "--npz", tmp_path / "a.npz", *QUICK)
    said = invoke("evaluate", tmp_path / "a", tmp_path / "b", "--block", "4")
    assert "FD-EffLite0" in said
    same = json.loads(
        invoke("evaluate", tmp_path / "a", tmp_path / "a.npz", "--block", "4", "--json")
    )
    assert same["FD-EffLite0"] < 1e-6
    np.savez(tmp_path / "f.npz", features=np.zeros((9, 40)))
    said = invoke("evaluate", tmp_path / "a", tmp_path / "f.npz", code=1)
    assert "cannot be compared with features of another network" in said


def test_evaluate_with_a_network_of_the_users(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 3, 6, 6), dtype=np.uint8)
    for name, images in zip("ab", pixels, strict=True):
        np.savez(tmp_path / f"{name}.npz", images=images)
    quadrants = pixels[..., :3, :].mean(axis=(3, 4)), pixels[..., :, 3:].mean(axis=(3, 4))
    features = np.concatenate(quadrants, axis=2)
    file = tmp_path / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit, for which users have files
        torch.jit.script(Quadrants()).save(file)
    sides = tmp_path / "a.npz", tmp_path / "b.npz"
    values = json.loads(invoke("evaluate", *sides, "--network", file, "--json"))
    assert values["FD on net"] == pytest.approx(frechet_distance(*features), rel=1e-5)
    file.write_bytes(b"no network")
    said = invoke("evaluate", *sides, "--network", file, code=1)
    assert "is not a TorchScript file" in " ".join(said.split())


class Quadrants(torch.nn.Module):
    """Called as the Inception network of published FIDs is."""

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert return_features
        assert img.dtype == torch.uint8
        x = img.float()
        return torch.cat([x[:, :, :3].mean((2, 3)), x[:, :, :, 3:].mean((2, 3))], 1)


def test_diagnose_prints_and_draws(tmp_path):
    plot = tmp_path / "trace.svg"
    said = invoke(
        "diagnose", "digits", "--seeds", "0-3", "--steps", "4", "--guide", "erk", "--w-con", "0.1",
        "--plot", plot, "--threads", "1",
    )  # fmt: skip
    assert "7 calls of the network for each sample" in said
    assert "<svg" in plot.read_text()


def test_presets_are_the_published_ones():
    said = invoke("presets")
    assert "own download" in said
    assert len(PRESETS) == 36
    a = PRESETS["edm2-img512-xxl-guid-dino"]
    assert a == (
        "edm2-img512-xxl-0939524-0.015.pkl", "edm2-img512-xs-uncond-2147483-0.015.pkl", 1.7,
        "FD-DINOv2", 33.09,
    )  # fmt: skip
    assert PRESETS["edm2-img64-l-fid"][:2] == ("edm2-img64-l-1073741-0.040.pkl", None)
    b = PRESETS["edm2-img512-s-autog-fid"]
    assert b[:3] == ("edm2-img512-s-2147483-0.070.pkl", "edm2-img512-xs-0134217-0.125.pkl", 2.1)


def test_without_its_packages_the_command_says_which_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "stiffkit.diffusion.cli.app")
    with pytest.raises(SystemExit, match=r"no package 'typer': pip install 'stiffkit\[cli\]'"):
        main()
