"""Examples of the pages that are no doctests run here, each word by word.

Where one needs what cannot be here (a cluster, MPI, published weights, others' scripts), it finds
the smallest thing with the same interface in its place, and the test says which.
"""

import os
import re
import shlex
import subprocess
import sys
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import checkpoint_files as files
import numpy as np
import pytest
import torch

import stiffkit as sk

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "CONTRIBUTING.md",
    *(ROOT / "docs").glob("*.md"),
    *(path for path in (ROOT / "docs").glob("[a-z]*/*.md") if path.parent.name != "method"),
]


def blocks(name):
    """The Python of a page that Sphinx does not run."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


COUNTS = {
    "CONTRIBUTING.md": 1,
    "docs/guides/adapters.md": 2,
    "docs/guides/checkpoints.md": 1,
    "docs/guides/ensembles.md": 3,
    "docs/guides/from-diffrax.md": 1,
}
"""How many a page has: all run below, and those of the README in `test_readme`."""


def test_no_page_has_an_example_that_nothing_runs():
    found = {str(path.relative_to(ROOT)): blocks(path) for path in PAGES}
    assert {name: len(those) for name, those in found.items() if those} == COUNTS


def run(block, names):
    exec(compile(block, "<example>", "exec"), names)
    return names


def test_contributing_shows_the_literal_of_bosh3():
    names = run(blocks("CONTRIBUTING.md")[0], {"ButcherTableau": sk.ButcherTableau})
    shown, ours = names["BOSH3"], sk.METHODS["bosh3"]
    assert (shown.name, shown.order, shown.order_hat) == (ours.name, ours.order, ours.order_hat)
    for part in ("c", "A", "b", "b_hat"):
        np.testing.assert_array_equal(getattr(shown, part), getattr(ours, part))
    assert shown.reference == ours.reference


def test_a_pipeline_of_diffusers(tmp_path, monkeypatch):
    """A small network with random weights stands in the folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that diffusers imports
        diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8,),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "a/folder")
    monkeypatch.chdir(tmp_path)
    names = run(blocks("docs/guides/adapters.md")[0], {})
    assert [image.size for image in names["images"]] == [(8, 8)] * 4
    assert names["pipe"].scheduler.config.sampler == "sk44"


def test_a_sampler_for_edm2_s_generate_images():
    """That function is another repository's; here it is what it does with a `sampler_fn`."""
    calls = []

    def net(x, sigma, labels=None):
        calls.append(labels)
        return x / (1 + sigma.to(x.dtype).reshape(-1, 1, 1, 1) ** 2)

    def generate_images(net, gnet, sampler_fn, **sampler_kwargs):
        noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        return sampler_fn(
            net=net,
            noise=noise,
            labels=torch.eye(2),
            gnet=gnet,
            randn_like=torch.randn_like,
            **sampler_kwargs,
        )

    names = {"generate_images": generate_images, "net": net, "gnet": net}
    images = run(blocks("docs/guides/adapters.md")[1], names)["images"]
    assert images.shape == (2, 3, 8, 8)
    assert len(calls) == 2 * 32  # sk44: one call of each network a level
    assert all(torch.equal(labels, torch.eye(2)) for labels in calls)


def test_a_checkpoint_is_read_built_and_converted(tmp_path, monkeypatch):
    """A small network of random weights lies in the file of that name."""
    monkeypatch.chdir(tmp_path)
    Path("edm2-img512-xs-2147483-0.135.pkl").write_bytes(files.edm2_pickle()[0])
    names = run(blocks("docs/guides/checkpoints.md")[0], {})
    assert names["checkpoint"].network == "EDM2"
    assert isinstance(names["net"], torch.nn.Module)
    assert names["load_checkpoint"]("edm2-xs.safetensors").build() is not None


# Commands -----------------------------------------------------------------------------------------

COMMANDS = [
    shlex.split(line, comments=True)
    for path in [ROOT / "README.md", *PAGES]
    for line in re.findall(
        r"^(?:torchrun .* )?stiffkit (.*)$",
        path.read_text(encoding="utf-8").replace("\\\n", " "),
        re.M,
    )
    if line.split()[0] in {"sample", "convert", "evaluate", "diagnose"}
]


def test_pages_show_commands():
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_has_the_options_that_a_page_gives_it(words):
    typer = pytest.importorskip("typer", reason="needs the extra cli")
    from stiffkit.diffusion.cli.app import app

    known = {
        option
        for parameter in typer.main.get_command(app).commands[words[0]].params
        for option in [*parameter.opts, *parameter.secondary_opts]
    }
    assert {word for word in words if word.startswith("--")} <= known


# Ensembles ----------------------------------------------------------------------------------------

SWEEP = """
import stiffkit as sk

def decay(t, y, rate):
    return -rate * y

problem = {"f": decay, "t_span": (0.0, 1.0), "y0": [1.0]}
parameters = [0.1, 1.0, 10.0]
"""


def assert_the_sweep_is_complete(result):
    ends = [member.value.y[-1, 0] for member in result]
    np.testing.assert_allclose(ends, np.exp([-0.1, -1.0, -10.0]), rtol=1e-4)


def test_a_script_with_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"{SWEEP}\n{blocks('docs/guides/ensembles.md')[0]}    print(result)\n", encoding="utf-8"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, script], env=env, capture_output=True, text=True, check=True, timeout=100
    )
    assert ran.stdout == "<Ensemble of 3: 3 succeeded>\n"


def test_a_cluster_of_dask(tmp_path, monkeypatch):
    """A scheduler and a worker of this process are at the address; nothing else is changed."""
    distributed = pytest.importorskip("distributed", reason="needs dask[distributed]")
    monkeypatch.chdir(tmp_path)
    block = blocks("docs/guides/ensembles.md")[1]
    with distributed.LocalCluster(
        1, processes=False, threads_per_worker=1, dashboard_address=":0", protocol="tcp"
    ) as cluster:
        block = block.replace("tcp://scheduler:8786", cluster.scheduler_address)
        assert cluster.scheduler_address in block
        names = run(f"{SWEEP}\n{block}", {"__name__": "__main__"})
    assert_the_sweep_is_complete(names["result"])
    assert (tmp_path / "sweep").is_dir()


def test_an_executor_of_mpi(tmp_path, monkeypatch):
    """MPIPoolExecutor is an executor of the standard library's interface: one of threads, here."""
    package, futures = types.ModuleType("mpi4py"), types.ModuleType("mpi4py.futures")
    futures.MPIPoolExecutor = ThreadPoolExecutor
    monkeypatch.setitem(sys.modules, "mpi4py", package)
    monkeypatch.setitem(sys.modules, "mpi4py.futures", futures)
    monkeypatch.chdir(tmp_path)
    block = blocks("docs/guides/ensembles.md")[2]
    names = run(f"{SWEEP}\n{block}", {"__name__": "__main__"})
    assert_the_sweep_is_complete(names["result"])
    assert (tmp_path / "sweep").is_dir()


def test_the_same_in_diffrax():
    """Only where diffrax is installed, as `make bench` does."""
    pytest.importorskip("diffrax", reason="diffrax is not installed")
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that diffrax imports
        exec("from diffrax import *", names)
        import jax.numpy as jnp
    times = np.linspace(0.0, 10.0, 5)
    names |= {"f": lambda t, y, rate: -rate * y, "y0": jnp.ones(1), "rate": 0.3, "times": times}
    found = run(blocks("docs/guides/from-diffrax.md")[0], names)["solution"].ys
    how = {"method": "tsit5", "args": (0.3,), "rtol": 1e-6, "atol": 1e-9}
    ours = sk.solve(lambda t, y, rate: -rate * y, (0.0, 10.0), [1.0], **how, t_eval=times)
    # Single precision there: a few hundred operations of 6e-8 beside the tolerance.
    np.testing.assert_allclose(found, ours.y, rtol=2e-5)
