"""Sampling seed by seed, over the processes of torchrun, so that a killed run can go on."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from ..sample import sample
from ..stepping import SeededNoise
from .sinks import Sink

__all__ = ["Rank", "Task", "batches_of", "processes", "run"]


@dataclass(frozen=True)
class Rank:
    """One process among those that torchrun started."""

    index: int = 0
    size: int = 1

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            distributed.barrier()

    def all_agree(self, error: str | None) -> None:
        """Raise ValueError in every process if one of them has an error to tell."""
        told = [error]
        if self.size > 1:
            told = [None] * self.size
            distributed.all_gather_object(told, error)
        message = next((e for e in told if e is not None), None)
        if message is not None:
            raise ValueError(message)


@contextmanager
def processes() -> Iterator[Rank]:
    """Join the processes of torchrun; alone without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Rank()
        return
    # Ranks only wait for each other: gloo does for GPUs, too. One may be a day behind.
    distributed.init_process_group("gloo", timeout=dt.timedelta(days=1))
    try:
        yield Rank(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()


@dataclass(frozen=True, eq=False)
class Task:
    """What is drawn for each seed."""

    net: Any
    """Network, for the shape of its samples and its number of classes."""
    denoiser: Callable[..., Tensor]
    options: dict[str, Any]
    """Of `stiffkit.diffusion.sample`."""
    label: int | None
    """Class of all samples; None draws one for each."""
    device: torch.device
    dtype: torch.dtype

    def draw(self, seeds: Sequence[int], **options: Any) -> tuple[Any, Tensor | None]:
        """Return what `sample` returns, and the classes.

        Noise, then the class, then churn come from one generator for each seed, as in EDM2: a
        sample does not depend on its batch, but for rounding.
        """
        net, like = self.net, torch.zeros(1, device=self.device)
        source = SeededNoise(seeds, like)
        noise = source.normal((net.img_channels, net.img_resolution, net.img_resolution))
        labels = one_hot = None
        if net.label_dim:
            labels = source.integers(net.label_dim)
            if self.label is not None:
                labels = torch.full_like(labels, self.label)
            one_hot = torch.eye(net.label_dim, device=self.device)[labels]
        source.like = like.to(self.dtype)
        result = sample(
            self.denoiser, noise, labels=one_hot, seeds=source, dtype=self.dtype,
            **self.options, **options,
        )  # fmt: skip
        return result, labels


def batches_of(seeds: Sequence[int], size: int) -> list[list[int]]:
    """Split seeds into batches. They do not depend on the number of processes."""
    if size < 1:
        msg = f"batch must be at least 1, not {size!r}"
        raise ValueError(msg)
    return [list(seeds[i : i + size]) for i in range(0, len(seeds), size)]


def run(
    task: Task,
    batches: Sequence[Sequence[int]],
    sink: Sink,
    rank: Rank,
    to_images: Callable[[Tensor], Any],
    progress: Callable[[int], Any],
) -> int:
    """Draw the batches that are not there yet, and return the number of samples drawn here.

    Parameters
    ----------
    task : Task
        What to draw.
    batches : sequence of sequence of int
        Seeds.
    sink : Sink
        Where to.
    rank : Rank
        This process; it draws every `rank.size`-th batch.
    to_images : callable
        From samples to uint8 images, or None.
    progress : callable
        Told of samples that are there.
    """
    drawn = 0
    for seeds in batches[rank.index :: rank.size]:
        if not sink.done(seeds):
            x, labels = task.draw(seeds)
            images = to_images(x)
            classes = None if labels is None else labels.cpu().numpy()
            sink.write(seeds, x.cpu().numpy(), images, classes)
            drawn += len(seeds)
        progress(len(seeds))
    rank.barrier()
    if rank.index == 0:
        sink.finish(batches)
    return drawn
