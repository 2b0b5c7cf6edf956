"""Reads the numbers that torch writes inside a pickle, without its unpickler.

`torch.save` in its older format, which is what a storage pickles to: a magic number, a version,
facts about the system, a persistent id that describes the storage, its key, and its bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from .._optional import require
from .inert_pickle import Name, Refused, Stream, read_pickle

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["read_storage"]

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_DTYPES = {
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
# A storage that was on a GPU has its class in torch.cuda; what it holds is the same.
_DTYPES |= {name.replace("torch.", "torch.cuda."): dtype for name, dtype in _DTYPES.items()}


def read_storage(data: Any) -> Tensor:
    """Return the numbers of one storage, shape (n,).

    Parameters
    ----------
    data : bytes
        What `torch.save` wrote for a storage, in its older format.

    Returns
    -------
    Tensor

    Raises
    ------
    Refused
        If it is anything else.
    """
    torch = require("torch", "torch", "a checkpoint")
    if not isinstance(data, bytes):
        msg = f"a storage in a {type(data).__name__}"
        raise Refused(msg)
    stream = Stream(data)
    if read_pickle(stream, ()) != _MAGIC or read_pickle(stream, ()) != _VERSION:
        msg = "a storage in another format"
        raise Refused(msg)
    system = read_pickle(stream, ())
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        msg = "a storage that is not little-endian"
        raise Refused(msg)
    described = read_pickle(stream, _DTYPES, persistent=lambda value: value)
    keys = read_pickle(stream, ())
    match described:
        case ("storage", Name(kind), str(key), str(), int(n), None) if keys == [key]:
            dtype = getattr(torch, _DTYPES[kind])
        case _:
            msg = "a storage that is described in another way"
            raise Refused(msg)
    (count,) = struct.unpack("<q", stream.read(8))
    left = len(data) - stream.position
    if not count == n >= 0 or n * dtype.itemsize != left:
        msg = f"a storage of {n} and {count} numbers in {left} bytes"
        raise Refused(msg)
    if n == 0:
        return torch.empty(0, dtype=dtype)  # type: ignore[no-any-return]
    return torch.frombuffer(bytearray(memoryview(data)[-left:]), dtype=dtype)  # type: ignore[no-any-return]
