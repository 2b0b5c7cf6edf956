"""Where samples go: images or one archive, written whole or not at all, and found again."""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np

__all__ = ["Archive", "Images", "Sink"]


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which becomes `path` when all is written."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class Sink(ABC):
    """Takes samples batch by batch, and knows those of an interrupted run."""

    folder: Path
    """Where the settings of the run are kept beside its results."""

    def begin(self, settings: dict[str, Any], *, overwrite: bool) -> None:
        """Prepare the folder; a run that goes on must have the settings of the one before.

        Raises
        ------
        ValueError
            If it has other settings, and `overwrite` is false.
        """
        file = self.folder / "settings.json"
        wanted = json.loads(json.dumps(settings))
        if file.exists() and not overwrite and any(self.results()):
            found = json.loads(file.read_text())
            differ = [k for k in wanted | found if wanted.get(k) != found.get(k)]
            if differ:
                what = "; ".join(f"{k} {found.get(k)!r}, now {wanted.get(k)!r}" for k in differ)
                msg = f"{self.folder} holds a run with other settings: {what}. --overwrite drops it"
                raise ValueError(msg)
        if overwrite:
            for result in list(self.results()):
                result.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in self.folder.glob(".*.part"):  # of a process that was killed while it wrote
            stale.unlink()
        with _whole(file) as part:
            part.write_text(json.dumps(wanted, indent=1))

    @abstractmethod
    def results(self) -> Iterator[Path]:
        """Yield the files that runs have left."""

    @abstractmethod
    def done(self, seeds: Sequence[int]) -> bool:
        """Whether all samples of a batch are there."""

    @abstractmethod
    def write(self, seeds: Sequence[int], samples: Any, images: Any, labels: Any) -> None:
        """Keep a batch: float samples (B, C, H, W), uint8 images alike or None, classes or None."""

    @abstractmethod
    def finish(self, batches: Sequence[Sequence[int]]) -> None:
        """All batches are there."""


@final
class Images(Sink):
    """A PNG file for each seed, ``000000.png`` and so on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _file(self, seed: int) -> Path:
        return self.folder / f"{seed:06d}.png"

    def results(self) -> Iterator[Path]:
        """Yield the images that are there; what else is in the folder is not ours."""
        return (file for file in self.folder.glob("*.png") if file.stem.isdigit())

    def done(self, seeds: Sequence[int]) -> bool:
        """Whether all images of a batch are there."""
        return all(self._file(seed).exists() for seed in seeds)

    def write(self, seeds: Sequence[int], samples: Any, images: Any, labels: Any) -> None:  # noqa: ARG002
        """Write the images."""
        from PIL import Image

        if images is None:
            msg = "these samples are latents, not images: write them with --npz, or give --vae"
            raise ValueError(msg)
        for seed, image in zip(seeds, images, strict=True):
            pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
            with _whole(self._file(seed)) as part:
                Image.fromarray(pixels).save(part, format="PNG")

    def finish(self, batches: Sequence[Sequence[int]]) -> None:
        """Nothing is left to do."""


@final
class Archive(Sink):
    """One .npz file of samples, seeds, labels and images; batches wait in a folder beside it."""

    def __init__(self, file: Path, seeds: str) -> None:
        self.file, self.seeds = file, seeds
        self.folder = file.with_name(file.name + ".parts")

    def begin(self, settings: dict[str, Any], *, overwrite: bool) -> None:
        """Prepare, with the seeds among the settings; an archive that is complete is kept."""
        if self.file.exists() and not overwrite:
            msg = f"{self.file} exists: --overwrite drops it"
            raise ValueError(msg)
        super().begin({**settings, "seeds": self.seeds}, overwrite=overwrite)

    def _part(self, seeds: Sequence[int]) -> Path:
        return self.folder / f"{seeds[0]}-{len(seeds)}.npz"

    def results(self) -> Iterator[Path]:
        """Yield the archive and its parts."""
        yield from self.folder.glob("*.npz")
        if self.file.exists():
            yield self.file

    def done(self, seeds: Sequence[int]) -> bool:
        """Whether a batch is there."""
        return self._part(seeds).exists()

    def write(self, seeds: Sequence[int], samples: Any, images: Any, labels: Any) -> None:
        """Write a part."""
        arrays = {"samples": samples, "images": images, "labels": labels, "seeds": seeds}
        _save(self._part(seeds), {k: np.asarray(v) for k, v in arrays.items() if v is not None})

    def finish(self, batches: Sequence[Sequence[int]]) -> None:
        """Join the parts, and remove them."""
        parts = []
        for seeds in batches:
            with np.load(self._part(seeds), allow_pickle=False) as part:
                parts.append(dict(part))
        _save(self.file, {k: np.concatenate([p[k] for p in parts]) for k in parts[0]})
        shutil.rmtree(self.folder)


def _save(path: Path, arrays: dict[str, Any]) -> None:
    save: Callable[..., None] = np.savez
    with _whole(path) as part, part.open("wb") as file:
        save(file, **arrays)
