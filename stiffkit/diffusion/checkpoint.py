"""Reads the checkpoints of EDM and EDM2 without executing anything in them.

The published ``.pkl`` files hold pickled modules together with their Python source, which the
authors' loader executes. Here a pickle is read as data (`stiffkit.diffusion.inert_pickle`), from
which the class name, the arguments of its constructor and the weights are taken. The network is
then one of `stiffkit.diffusion.networks`.
"""

from __future__ import annotations

import json
import mmap
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._optional import require
from .inert_pickle import Refused
from .snapshot import read_snapshot

if TYPE_CHECKING:
    from torch import Tensor

    from .networks.precond import Preconditioned

__all__ = ["Checkpoint", "CheckpointError", "Statistics", "convert", "load_checkpoint"]


class CheckpointError(ValueError):
    """A file that is no checkpoint, or has something in it that is not allowed."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint says, and nothing of what it could do."""

    path: Path
    network: str
    """"EDM2" or "EDM"; for other classes their own name, and `build` refuses."""
    arguments: dict[str, Any]
    """Of the constructor of that network."""
    state_dict: dict[str, Tensor] = field(repr=False)
    """Weights and buffers, in the precision of the file."""
    encoder: dict[str, Any]
    """Class name and constants of the image or latent encoder of EDM2; else empty."""
    metadata: dict[str, str]
    """Further metadata of a safetensors file."""

    def build(self) -> Preconditioned:
        """Return the network in evaluation mode, weights in float32, without gradients.

        Raises
        ------
        CheckpointError
            If stiffkit has no such network, or weights and arguments do not fit.
        """
        from . import networks

        torch = require("torch", "torch", "a network")
        if self.network not in networks.__all__:
            msg = f"{self.path}: stiffkit has no network {self.network!r}"
            raise CheckpointError(msg)
        arguments = dict(self.arguments)
        levels = arguments.get("channel_mult", (1, 2, 3, 4))
        blocks = arguments.get("num_blocks", 1)
        # Arguments may be anything. A network with more blocks than tensors is not even begun.
        sane = isinstance(levels, list | tuple) and isinstance(blocks, int)
        if not sane or not 0 <= len(levels) * blocks <= len(self.state_dict):
            msg = f"{self.path}: the arguments do not fit {len(self.state_dict)} tensors"
            raise CheckpointError(msg)
        try:
            if "dtype" in arguments:
                arguments["dtype"] = {
                    name: getattr(torch, name) for name in ("float16", "bfloat16", "float32")
                }[arguments["dtype"]]
            with torch.device("meta"):  # no memory, whatever the sizes
                net = getattr(networks, self.network)(**arguments)
            weights = {name: value.float() for name, value in self.state_dict.items()}
            net.load_state_dict(weights, assign=True)
        except (
            TypeError,
            ValueError,
            KeyError,
            RuntimeError,
            OverflowError,
            ArithmeticError,
        ) as error:
            msg = f"{self.path}: weights and arguments do not fit: {str(error)[:500]}"
            raise CheckpointError(msg) from error
        return net.eval().requires_grad_(False)  # type: ignore[no-any-return]


class Statistics(NamedTuple):
    """Moments of features, for `stiffkit.diffusion.metrics.frechet_from_moments`."""

    mean: npt.NDArray[np.float64]
    """Shape (d,)."""
    cov: npt.NDArray[np.float64]
    """Shape (d, d)."""


def load_checkpoint(path: str | Path) -> Checkpoint | Statistics:
    """Read a network or reference statistics; nothing in the file is executed.

    The content decides what the file is, not its name.

    Parameters
    ----------
    path : str or Path
        A ``.pkl`` of EDM or EDM2, a ``.safetensors`` written by `convert`, or an ``.npz`` with
        the arrays ``mu`` and ``sigma``.

    Returns
    -------
    Checkpoint or Statistics

    Raises
    ------
    CheckpointError
        A ValueError that names the file and what was refused in it.
    OSError
        If the file cannot be read.
    ImportError
        If torch, or safetensors for that format, is not installed.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(9)
        try:
            if head[:2] == b"PK":
                return _read_statistics(path)
            if head[8:9] == b"{":
                return _read_safetensors(path)
            if head[:1] == b"\x80":
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    return Checkpoint(path, *read_snapshot(data), {})
        except Refused as error:
            msg = f"{path}: refused {error}"
            raise CheckpointError(msg) from error
        except (
            ArithmeticError,
            LookupError,
            MemoryError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as e:
            # Nothing known gets here that Refused should not have caught; a hostile file may.
            msg = f"{path}: refused as malformed ({type(e).__name__}: {str(e)[:200]})"
            raise CheckpointError(msg) from e
    msg = f"{path}: neither a pickle, nor safetensors, nor npz (it begins with {head!r})"
    raise CheckpointError(msg)


def convert(source: str | Path, target: str | Path) -> None:
    """Write a checkpoint as safetensors: weights, arguments and encoder, and no code.

    Parameters
    ----------
    source : str or Path
        What `load_checkpoint` reads.
    target : str or Path
        Appears whole or not at all; weights keep their precision.

    Raises
    ------
    CheckpointError
        If `source` is refused, or holds no network.
    FileNotFoundError
        If there is no file `source`, or no folder for `target`.
    """
    target = Path(target)
    if not target.parent.is_dir():
        msg = f"target: there is no folder {str(target.parent)!r}"
        raise FileNotFoundError(msg)
    checkpoint = load_checkpoint(source)
    if not isinstance(checkpoint, Checkpoint):
        msg = f"{source}: statistics, not a network"
        raise CheckpointError(msg)
    save = require("safetensors.torch", "torch", "safetensors").save_file
    metadata = {
        **checkpoint.metadata,
        "network": checkpoint.network,
        "arguments": json.dumps(checkpoint.arguments),
        "encoder": json.dumps(checkpoint.encoder),
    }
    part = target.with_name(target.name + ".part")
    # Copies: tensors of a pickle may share memory, and safetensors wants each its own.
    save({k: v.clone().contiguous() for k, v in checkpoint.state_dict.items()}, part, metadata)
    part.replace(target)


def _read_safetensors(path: Path) -> Checkpoint:
    package = require("safetensors", "torch", "a safetensors file")
    try:
        with package.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state_dict = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except package.SafetensorError as error:
        msg = f"a broken safetensors file: {error}"
        raise Refused(msg) from error
    try:
        network = metadata.pop("network")
        arguments = json.loads(metadata.pop("arguments"))
        encoder = json.loads(metadata.pop("encoder", "{}"))
    except (KeyError, ValueError, RecursionError) as error:
        msg = f"a safetensors file without network and arguments in its metadata ({error!r})"
        raise Refused(msg) from error
    if not isinstance(arguments, dict) or not isinstance(encoder, dict):
        msg = "metadata that are no dict"
        raise Refused(msg)
    return Checkpoint(path, network, arguments, state_dict, encoder, metadata)


def _read_statistics(path: Path) -> Statistics:
    try:
        mean, cov = _moments(path)
    except Refused:
        raise
    except Exception as error:  # zipfile and NumPy raise many things for a broken file
        msg = f"what is no archive of the arrays mu and sigma: {str(error)[:200]}"
        raise Refused(msg) from error
    if mean.ndim != 1 or cov.shape != 2 * mean.shape:
        msg = f"moments of shapes {mean.shape} and {cov.shape}"
        raise Refused(msg)
    return Statistics(mean, cov)


def _moments(path: Path) -> list[npt.NDArray[np.float64]]:
    with zipfile.ZipFile(path) as archive:
        size, packed = sum(e.file_size for e in archive.infolist()), path.stat().st_size
    # A compressed file of zeros grows a thousandfold; moments hardly compress.
    if size > 20 * packed:
        msg = f"an archive that grows from {packed} to {size} bytes"
        raise Refused(msg)
    with np.load(path, allow_pickle=False) as data:
        return [np.asarray(data[name], dtype=np.float64) for name in ("mu", "sigma")]
