"""The commands."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ...guidance import ERKGuidance, FittedExtrapolation
from .. import checkpoint
from .evaluation import distances, read_side, save_statistics
from .models import digest, guided, load, parse_seeds, pixels_of
from .presets import PRESETS
from .run import Task, batches_of, processes, run
from .sinks import Archive, Images, Sink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...solvers import StepHook

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Sample diffusion models, and look at them."
)
console = Console(stderr=True)
output = Console()


class Guide(StrEnum):
    """Guides of the step."""

    none = "none"
    erk = "erk"
    fx = "fx"


class Precision(StrEnum):
    """Precisions of the state."""

    float32 = "float32"
    float64 = "float64"


@contextmanager
def _clear_errors() -> Iterator[None]:
    """End with one line for what the user can mend."""
    try:
        yield
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        console.print(f"stiffkit: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error


Model = Annotated[
    str,
    typer.Argument(help="fashion_mnist, digits, a checkpoint file, or a preset with --weights."),
]
Seeds = Annotated[str, typer.Option(help="Seeds, one for each sample, such as '0-49,100'.")]
Steps = Annotated[int | None, typer.Option(help="Noise levels; by default 18, of presets 32.")]
Sampler = Annotated[str | None, typer.Option(help="Sampler; by default sk44, with a guide heun.")]
GuideOption = Annotated[Guide, typer.Option(help="Guide of the step.")]
WStiff = Annotated[float, typer.Option(help="ERK-Guid's scale.")]
WCon = Annotated[float, typer.Option(help="ERK-Guid's gate.")]
Std = Annotated[
    float | None, typer.Option(help="Deviation of the data, for fx; by default the network's.")
]
Gnet = Annotated[
    str | None, typer.Option(help="Guiding network, name or file; 'self' is without labels.")
]
Guidance = Annotated[float | None, typer.Option(help="Strength of --gnet; 1 is none.")]
Interval = Annotated[
    tuple[float, float], typer.Option(help="Noise levels low < σ <= high at which --gnet acts.")
]
ClassOption = Annotated[int | None, typer.Option("--class", help="Class; by default random.")]
Weights = Annotated[Path | None, typer.Option(help="Folder with the files of a preset.")]
Device = Annotated[str | None, typer.Option(help="torch device; by default cuda, if there is one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads on the CPU.")]


def _task(
    model: str,
    *,
    weights: Path | None,
    steps: int | None,
    sigma_min: float,
    sigma_max: float,
    rho: float,
    sampler: str | None,
    guide: Guide,
    w_stiff: float,
    w_con: float,
    std: float | None,
    gnet: str | None,
    guidance: float | None,
    interval: tuple[float, float],
    label: int | None,
    churn: float,
    device: str | None,
    dtype: Precision,
) -> tuple[Task, dict[str, Any]]:
    """Load what is named; return the task, and the settings on which its samples depend."""
    if model in PRESETS and weights is not None:
        preset, steps = PRESETS[model], 32 if steps is None else steps
        model = str(weights / preset.net)
        if preset.gnet is not None:
            gnet = gnet or str(weights / preset.gnet)
            guidance = preset.guidance if guidance is None else guidance
    if guidance is None and gnet is not None:
        msg = "--gnet needs --guidance, a strength"
        raise ValueError(msg)
    steps, strength = 18 if steps is None else steps, 1.0 if guidance is None else guidance
    if strength != 1 and gnet is None:
        msg = f"--guidance {guidance} needs --gnet, a guiding network or 'self'"
        raise ValueError(msg)
    gnet = None if strength == 1 else gnet
    gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    where = torch.device(device or (gpu if torch.cuda.is_available() else "cpu"))
    net = load(model).to(where)
    if label is not None and not 0 <= label < net.label_dim:
        msg = f"--class must be from 0 to {net.label_dim - 1}, not {label}"
        raise ValueError(msg)
    weak = None if gnet in (None, "self") else load(str(gnet)).to(where)
    step_guide: StepHook | None = None
    if guide == Guide.erk:
        step_guide = ERKGuidance(w_stiff, w_con)
    elif guide == Guide.fx:
        step_guide = FittedExtrapolation(net.sigma_data if std is None else std)
    options = {
        "steps": steps, "sigma_min": sigma_min, "sigma_max": sigma_max, "rho": rho,
        "sampler": sampler, "guide": step_guide, "churn": churn,
    }  # fmt: skip
    settings = {
        **options, "guide": repr(step_guide), "net": digest(model), "gnet": digest(gnet),
        "guidance": strength, "interval": [str(level) for level in interval], "class": label,
        "dtype": dtype, "device": where.type,
    }  # fmt: skip
    denoiser = guided(net, weak, strength, interval)
    return Task(net, denoiser, options, label, where, getattr(torch, dtype)), settings


@app.command("sample")
def sample_command(
    model: Model,
    seeds: Seeds = "0-9",
    outdir: Annotated[Path | None, typer.Option(help="Folder for PNG files.")] = None,
    npz: Annotated[Path | None, typer.Option(help="One file for all samples.")] = None,
    steps: Steps = None,
    sampler: Sampler = None,
    guide: GuideOption = Guide.none,
    w_stiff: WStiff = 1.0,
    w_con: WCon = 0.5,
    std: Std = None,
    gnet: Gnet = None,
    guidance: Guidance = None,
    interval: Interval = (0.0, math.inf),
    label: ClassOption = None,
    weights: Weights = None,
    vae: Annotated[
        Path | None, typer.Option(help="Folder of an AutoencoderKL of diffusers, for latents.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples at a time.")] = 32,
    dtype: Annotated[Precision, typer.Option(help="Of the state.")] = Precision.float32,
    sigma_min: Annotated[float, typer.Option(help="Lowest noise level.")] = 0.002,
    sigma_max: Annotated[float, typer.Option(help="Highest noise level.")] = 80.0,
    rho: Annotated[float, typer.Option(help="Of Karras' grid.")] = 7.0,
    churn: Annotated[float, typer.Option(help="EDM's S_churn.")] = 0.0,
    device: Device = None,
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option(help="Drop what an earlier run left.")] = False,
) -> None:
    """Draw a sample for each seed; a run that was killed goes on where it was.

    Under torchrun the batches are shared among the processes. A sample depends on its seed and the
    settings alone, to rounding; with the same batch size and number of threads to the last bit.
    """
    with _clear_errors(), processes() as rank:
        if (outdir is None) == (npz is None):
            msg = "give --outdir, a folder for images, or --npz, a file"
            raise ValueError(msg)
        if threads is not None:
            torch.set_num_threads(threads)
        batches = batches_of(parse_seeds(seeds), batch)
        task, settings = _task(
            model, weights=weights, steps=steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho,
            sampler=sampler, guide=guide, w_stiff=w_stiff, w_con=w_con, std=std, gnet=gnet,
            guidance=guidance, interval=interval, label=label, churn=churn, device=device,
            dtype=dtype,
        )  # fmt: skip
        decoder = None if vae is None else _decoder(vae, task.device)
        if outdir is not None and decoder is None and task.net.img_channels == 4:
            msg = "these samples are latents, not images: write them with --npz, or give --vae"
            raise ValueError(msg)
        sink: Sink = Images(outdir) if outdir is not None else Archive(Path(str(npz)), seeds)
        settings |= {"batch": batch, "vae": vae and str(vae)}
        refused = None
        if rank.index == 0:
            try:
                sink.begin(settings, overwrite=overwrite)
            except ValueError as error:
                refused = str(error)
        rank.all_agree(refused)
        mine = sum(len(part) for part in batches[rank.index :: rank.size])
        with _bar(mine, shown=rank.index == 0) as advance, _costs(task.net) as costs:
            drawn = run(
                task, batches, sink, rank, lambda x: pixels_of(task.net, x, decoder), advance
            )
        if rank.index == 0:
            kept = "" if drawn == mine else f", {mine - drawn} were there"
            console.print(f"{outdir or npz}: {drawn} samples drawn by this process{kept}")
            if costs:
                console.print(", ".join(costs))


@contextmanager
def _costs(net: Any) -> Iterator[list[str]]:
    """Yield a list that then has the network's calls, the time of each, and the peak of memory."""
    costs: list[str] = []
    calls, start = [0], time.perf_counter()

    def count(*_: Any) -> None:
        calls[0] += 1

    hook = net.register_forward_pre_hook(count)
    try:
        yield costs
    finally:
        hook.remove()
    if calls[0]:
        each = (time.perf_counter() - start) / calls[0]
        costs += [f"{calls[0]} calls of the network", f"{each:.3g} s each with all around them"]
        with suppress(ImportError):  # there is none on Windows
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            costs.append(f"{peak / 2 ** (20 if sys.platform != 'darwin' else 30):.2f} GiB at most")


@contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[Any]:
    """Yield a function that advances a progress bar with rate and time left."""
    columns = (
        TextColumn("samples"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not shown) as progress:
        task = progress.add_task("", total=total, rate="")

        def advance(count: int) -> None:
            progress.advance(task, count)
            speed = progress.tasks[0].speed
            progress.update(task, rate="" if not speed else f"{speed:.3g}/s")

        yield advance


def _decoder(folder: Path, device: torch.device) -> Any:
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        msg = "--vae needs diffusers: pip install 'stiffkit[diffusers]'"
        raise ImportError(msg) from error
    if not folder.is_dir():
        msg = f"--vae {folder} is no folder; nothing is downloaded"
        raise ValueError(msg)
    return AutoencoderKL.from_pretrained(folder, local_files_only=True).to(device).eval()


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A .pkl of EDM or EDM2.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors to write.")],
) -> None:
    """Write a checkpoint's weights as safetensors; nothing in the source is executed."""
    with _clear_errors():
        checkpoint.convert(source, target)
        console.print(f"{target}: {target.stat().st_size / 1e6:.3g} MB")


@app.command()
def evaluate(
    samples: Annotated[
        Path, typer.Argument(help="Folder of PNGs, or .npz with images or features.")
    ],
    reference: Annotated[Path, typer.Argument(help="The same, or .npz with mu and sigma.")],
    k: Annotated[int, typer.Option(help="Neighbour of precision and recall.")] = 3,
    block: Annotated[int, typer.Option(help="Block of EfficientNet-Lite0, for images.")] = 10,
    network: Annotated[
        Path | None,
        typer.Option(help="TorchScript file, or folder for transformers, for images' features."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write mean and covariance of the samples to this .npz.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two sets: Fréchet and kernel distance, precision and recall.

    Images are compared by features of EfficientNet-Lite0, which gives an FD-EffLite0. It is not the
    FID and cannot be compared with one. For an FID give --network inception-2015-12-05.pt, for an
    FD-DINOv2 a folder with DINOv2-L, or bring features.
    """
    with _clear_errors():
        a, b = (read_side(path, block, network) for path in (samples, reference))
        values = distances(a, b, k)
        if save is not None:
            save_statistics(a, save)
        if as_json:
            output.print_json(json.dumps(values))
            return
        table = Table("", "value", title=f"{samples} against {reference}")
        for name, value in values.items():
            table.add_row(name, str(value) if isinstance(value, int) else f"{value:.4g}")
        output.print(table)


@app.command()
def diagnose(
    model: Model,
    plot: Annotated[Path | None, typer.Option(help="Figure to write, .svg or .png.")] = None,
    seeds: Seeds = "0-15",
    steps: Steps = None,
    sampler: Sampler = "heun",
    guide: GuideOption = Guide.none,
    w_stiff: WStiff = 1.0,
    w_con: WCon = 0.5,
    std: Std = None,
    gnet: Gnet = None,
    guidance: Guidance = None,
    interval: Interval = (0.0, math.inf),
    label: ClassOption = None,
    weights: Weights = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Show how stiff a model is along its samples' paths: what the steps' own estimates say.

    For each step the medians over the samples: ρ̂ and λ̂ in 1/σ, z = hλ̂, the share of samples that
    the guide moves, the embedded error estimate and the correction.
    """
    with _clear_errors():
        if threads is not None:
            torch.set_num_threads(threads)
        task, _ = _task(
            model, weights=weights, steps=steps, sigma_min=0.002, sigma_max=80.0, rho=7.0,
            sampler=sampler, guide=guide, w_stiff=w_stiff, w_con=w_con, std=std, gnet=gnet,
            guidance=guidance, interval=interval, label=label, churn=0.0, device=device,
            dtype=Precision.float32,
        )  # fmt: skip
        (_, trace), _ = task.draw(parse_seeds(seeds), trace=True)
        table = Table("σ", "ρ̂", "λ̂", "z", "gate", "error", "correction", title=model)
        for sigma, row in zip(trace.sigma, trace.medians(), strict=True):
            table.add_row(*("" if math.isnan(v) else f"{v:.3g}" for v in (sigma, *row)))
        output.print(table)
        output.print(f"{trace.nfev} calls of the network for each sample")
        if plot is not None:
            axes = trace.plot()
            axes[0].figure.savefig(plot)
            console.print(f"{plot}")


@app.command()
def presets() -> None:
    """List the published configurations of EDM2, with their files and published figures."""
    table = Table("preset", "file", "guided by", "strength", "metric", "published")
    for name, p in PRESETS.items():
        table.add_row(
            name, p.net, p.gnet or "", f"{p.guidance:g}" if p.gnet else "", p.metric,
            f"{p.published:g}",
        )  # fmt: skip
    output.print(table)
    output.print(
        "The files are the reader's own download (CC BY-NC-SA 4.0, github.com/NVlabs/edm2); "
        "stiffkit sample PRESET --weights FOLDER uses them."
    )
