"""Takes the network out of a pickle of EDM or EDM2, read as data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .inert_pickle import Inert, Name, Refused, Stream, read_pickle
from .storage import read_storage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Snapshot", "read_snapshot"]

_PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
_STORAGE = "torch.storage._load_from_bytes"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_CONTAINER = "torch.nn.modules.container.ModuleDict"
_DICTS = {"collections.OrderedDict", "dnnlib.util.EasyDict"}
_NUMPY = {
    f"numpy.{core}.multiarray.{name}": name
    for core in ("core", "_core")
    for name in ("_reconstruct", "scalar")
}
_ALLOWED = {
    *(_PERSISTENT, _STORAGE, _TENSOR, _PARAMETER, _CONTAINER),
    *_DICTS,
    *_NUMPY,
    "numpy.ndarray",
    "numpy.dtype",
}

MAX_DEPTH = 64
MAX_NODES = 100_000
"""Bounds of what is taken from a pickle: memo entries can make a small one refer to itself."""


class Snapshot(NamedTuple):
    """What a pickle of EDM or EDM2 says about its network."""

    network: str
    """"EDM2" or "EDM"; the class name of others."""
    arguments: dict[str, Any]
    """Of the constructor; for "EDM2" and "EDM" those of `stiffkit.diffusion.networks`."""
    state_dict: dict[str, Tensor]
    """Views of the storages in the file, in its precision."""
    encoder: dict[str, Any]
    """Class name and constants of the encoder of EDM2, else empty."""


def read_snapshot(data: Any) -> Snapshot:
    """Read the averaged network ("ema") of a pickle of EDM or EDM2.

    Parameters
    ----------
    data : bytes-like, with ``find``
        The file, for example as an `mmap.mmap`.

    Returns
    -------
    Snapshot

    Raises
    ------
    Refused
        If there is anything unexpected in it.
    """
    root = read_pickle(Stream(data), _ALLOWED)
    reader = _Reader(len(data))
    ema = reader.items(root).get("ema")
    class_name, state = reader.persistent(ema)
    state_dict = dict(reader.tensors(ema))
    keywords = reader.plain(state.get("_init_kwargs") or {})
    if state.get("_init_args"):
        msg = f"positional arguments of {class_name}"
        raise Refused(msg)
    encoder: dict[str, Any] = {}
    if (record := reader.items(root).get("encoder")) is not None:
        name, fields = reader.persistent(record)
        constants = {k: v for k, v in fields.items() if not k.startswith("_")}
        encoder = {"class_name": name, **reader.plain(constants)}
    return Snapshot(*_translated(class_name, keywords), state_dict, encoder)


class _Reader:
    """Takes values from the inert records of one pickle."""

    def __init__(self, size: int) -> None:
        self.bytes_left, self.nodes_left = size, MAX_NODES
        self.storages: dict[int, Tensor] = {}

    def items(self, value: Any) -> dict[str, Any]:
        """Return a dict or what stands for one."""
        if isinstance(value, Inert) and value.name in _DICTS and not value.arguments:
            value = value.items
        if not isinstance(value, dict):
            msg = f"a {_kind(value)} where a dict should be"
            raise Refused(msg)
        return value

    def persistent(self, value: Any) -> tuple[str, dict[str, Any]]:
        """Return class name and state of a persistent object of EDM's."""
        if not isinstance(value, Inert) or value.name != _PERSISTENT or len(value.arguments) != 1:
            msg = f"a {_kind(value)} where a persistent object should be"
            raise Refused(msg)
        meta = self.items(value.arguments[0])
        name = meta.get("class_name")
        if meta.get("type") != "class" or meta.get("version") != 6 or not isinstance(name, str):
            kind = ", ".join(_brief(meta.get(k)) for k in ("type", "version", "class_name"))
            msg = f"a persistent object of type, version and class {kind}"
            raise Refused(msg)
        return name, self.items(meta.get("state"))

    def tensors(self, module: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
        """Walk a module and yield (name, tensor), in the order of a state dict."""
        self._count(depth)
        if isinstance(module, Inert) and module.name == _CONTAINER:
            fields = self.items(module.state)
        else:
            _, fields = self.persistent(module)
        for group in ("_parameters", "_buffers"):
            for name, value in self.items(fields.get(group, {})).items():
                if value is not None:
                    yield f"{prefix}{name}", self.tensor(value)
        for name, child in self.items(fields.get("_modules", {})).items():
            if child is not None:
                yield from self.tensors(child, f"{prefix}{name}.", depth + 1)

    def tensor(self, value: Any) -> Tensor:
        """Rebuild one tensor, a view of its storage."""
        if isinstance(value, Inert) and value.name == _PARAMETER and value.arguments:
            value = value.arguments[0]
        if not isinstance(value, Inert) or value.name != _TENSOR or len(value.arguments) < 4:
            msg = f"a {_kind(value)} where a tensor should be"
            raise Refused(msg)
        storage = self.storage(value.arguments[0])
        (offset,), size, stride = map(_sizes, ((value.arguments[1],), *value.arguments[2:4]))
        if len(size) != len(stride):
            msg = f"a tensor of {len(size)} axes and {len(stride)} strides"
            raise Refused(msg)
        n = math.prod(size)
        last = offset + sum((m - 1) * s for m, s in zip(size, stride, strict=True))
        if n and (last >= storage.numel() or n > storage.numel()):
            msg = f"a tensor of {n} numbers that end at {last}, in {storage.numel()}"
            raise Refused(msg)
        self._count(0)
        self.bytes_left -= n * storage.element_size()
        if self.bytes_left < 0:
            msg = "tensors that are larger together than the file"
            raise Refused(msg)
        return storage.as_strided(size, stride, offset) if n else storage.new_empty(size)

    def storage(self, value: Any) -> Tensor:
        """Read the numbers of a storage, once."""
        if id(value) not in self.storages:
            if not isinstance(value, Inert) or value.name != _STORAGE or len(value.arguments) != 1:
                msg = f"a {_kind(value)} where a storage should be"
                raise Refused(msg)
            self.storages[id(value)] = read_storage(value.arguments[0])
            value.arguments = ()  # the bytes are not needed any more, and may be gigabytes
        return self.storages[id(value)]

    def plain(self, value: Any, depth: int = 0) -> Any:
        """Return numbers, strings, lists and dicts; arrays become lists."""
        self._count(depth)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list | tuple):
            return [self.plain(v, depth + 1) for v in value]
        if isinstance(value, Inert) and value.name in _NUMPY:
            return self._array(value).tolist()
        return {k: self.plain(v, depth + 1) for k, v in self.items(value).items()}

    def _array(self, value: Inert) -> npt.NDArray[Any]:
        if _NUMPY[value.name] == "scalar":
            shape, dtype, data = (), *_tuple(value.arguments, 2)
        elif value.arguments[:1] == (Name("numpy.ndarray"),):
            _, shape, dtype, fortran, data = _tuple(value.state, 5)
            if fortran:
                msg = "an array in Fortran order"
                raise Refused(msg)
        else:
            msg = "an array of another class"
            raise Refused(msg)
        match dtype:
            case Inert("numpy.dtype", (str(kind), *_), {}, None | (_, "<" | "|", *_)) if (
                kind in _KINDS
            ):
                pass
            case _:
                msg = "an array of another type than " + ", ".join(sorted(_KINDS))
                raise Refused(msg)
        n = math.prod(_sizes(shape))
        if not isinstance(data, bytes) or n * int(kind[1]) != len(data) or n > self.nodes_left:
            msg = f"an array of {n} numbers in a {_brief(data)}"
            raise Refused(msg)
        return np.frombuffer(data, f"<{kind}").reshape(shape)

    def _count(self, depth: int) -> None:
        self.nodes_left -= 1
        if depth > MAX_DEPTH or self.nodes_left < 0:
            msg = f"more than {MAX_DEPTH} levels or {MAX_NODES} objects"
            raise Refused(msg)


_KINDS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}

# Arguments of EDM2's constructor that stiffkit's has as fixed numbers.
_FIXED = {
    "channel_mult_noise": None,
    "channel_mult_emb": None,
    "label_balance": 0.5,
    "concat_balance": 0.5,
    "resample_filter": [1, 1],
    "attn_balance": 0.3,
    "res_balance": 0.3,
    "clip_act": 256,
}
_TRANSLATED: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "Precond": ("EDM2", True, _FIXED),
    "EDMPrecond": ("EDM", False, {"decoder_type": "standard"}),
}
"""Our name of a network, whether it is in float16 unless told, and arguments that must be so."""


def _translated(class_name: str, keywords: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return our name of a network of EDM or EDM2, and our arguments for theirs."""
    if class_name not in _TRANSLATED:
        return class_name, keywords
    network, half, fixed = _TRANSLATED[class_name]
    arguments = dict(keywords)
    for name, expected in fixed.items():
        if arguments.pop(name, expected) != expected:
            msg = f"{class_name} with {name} = {_brief(keywords[name])}, not {expected}"
            raise Refused(msg)
    arguments.pop("label_dropout", None)  # of EDM's training alone
    arguments["dtype"] = "float16" if arguments.pop("use_fp16", half) else "float32"
    return network, arguments


def _kind(value: Any) -> str:
    return value.name if isinstance(value, Inert) else type(value).__name__


def _brief(value: Any) -> str:
    """Return a short text: what was refused may be large, deep, or a number of many digits."""
    if isinstance(value, str):
        return repr(value[:50])
    if value is None or isinstance(value, bool | float):
        return str(value)
    if isinstance(value, int) and abs(value) < 1 << 63:
        return str(value)
    size = f" of length {len(value)}" if isinstance(value, bytes | list | tuple | dict) else ""
    return _kind(value) + size


def _whole(value: Any) -> int:
    """Return an integer of reasonable size, or -1."""
    return value if type(value) is int and value < 1 << 40 else -1


def _sizes(value: Any) -> tuple[int, ...]:
    """Return a tuple of at most 8 integers of reasonable size."""
    if len(_tuple(value)) > 8 or any(_whole(v) < 0 for v in value):
        msg = f"sizes {', '.join(_brief(v) for v in value[:8])}"
        raise Refused(msg)
    return tuple(value)


def _tuple(value: Any, n: int | None = None) -> tuple[Any, ...]:
    if not isinstance(value, tuple) or (n is not None and len(value) != n):
        msg = f"a {_kind(value)} where a tuple should be"
        raise Refused(msg)
    return value
