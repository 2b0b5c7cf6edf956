"""A sweep on disk: a directory of .npz files, each complete or not there."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..._array import is_torch
from ..solution import EventRecord, Solution, Status, Switch
from .member import Failure, Outcome

__all__ = ["Store"]

_FORMAT = 1
_PLAIN = (type(None), bool, int, float, str)


class Store:
    """Outcomes of a sweep by index, in a directory that outlives the process.

    ``sweep.json`` says which sweep it is. ``000000.npz``, ``000001.npz``, … hold some members each,
    and what a later one says of a member counts. Their array ``members`` is JSON text as bytes, and
    arrays in it stand beside it as ``a0``, ``a1``, … Nothing is pickled. A file is written under
    another name, synced, and renamed.

    Parameters
    ----------
    path : path
        The directory; made if missing.
    size : int
        Number of members.
    parts : mapping of str to str
        Fingerprints of what makes the sweep this one, by name.

    Raises
    ------
    ValueError
        If the directory holds another sweep, or something else.
    RuntimeError
        If another process is writing to it.
    """

    def __init__(self, path: Any, size: int, parts: Mapping[str, str]) -> None:
        self.path = Path(path)
        self.files: dict[int, Path] = {}
        """Where each stored member is."""
        self.errors: set[int] = set()
        """Stored members that ended with an exception or a lost worker."""
        self._read: tuple[Path | None, dict[int, Outcome]] = (None, {})
        self.path.mkdir(parents=True, exist_ok=True)
        self._check(size, dict(parts))
        self._lock = _lock(self.path / "lock")
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        for partial in self.path.glob("*.tmp"):
            partial.unlink()
        files = sorted(self.path.glob("*.npz"), key=lambda file: int(file.stem))
        self._next = int(files[-1].stem) + 1 if files else 0
        for file in files:
            self._scan(file)

    def _check(self, size: int, parts: dict[str, str]) -> None:
        manifest = self.path / "sweep.json"
        if not manifest.exists():
            if any(p.name != "lock" and p.suffix != ".tmp" for p in self.path.iterdir()):
                msg = f"store {str(self.path)!r} is not empty, and holds no ensemble"
                raise ValueError(msg)
            told = {"format": _FORMAT, "size": size, "fingerprints": parts}
            _write(manifest, lambda file: file.write(json.dumps(told, indent=1).encode()))
            return
        found = json.loads(manifest.read_text())
        if found.get("format") != _FORMAT:
            msg = f"store {str(self.path)!r} has format {found.get('format')!r}, not {_FORMAT}"
            raise ValueError(msg)
        here, there = parts | {"size": size}, found["fingerprints"] | {"size": found["size"]}
        differ = [name for name in here if here[name] != there.get(name)]
        if differ:
            msg = (
                f"store {str(self.path)!r} holds another sweep, with other "
                f"{' and '.join(differ)}: give this one a directory of its own"
            )
            raise ValueError(msg)

    def _scan(self, file: Path) -> None:
        try:
            with file.open("rb") as raw, np.load(raw) as arrays:
                rows = _rows(arrays)
        except (zipfile.BadZipFile, ValueError, KeyError, EOFError) as error:
            file = file.rename(file.with_suffix(".damaged"))
            msg = f"{str(file)!r} cannot be read ({error}): its members will be solved again"
            warnings.warn(msg, RuntimeWarning, stacklevel=2)
            return
        for row in rows:
            self.files[row["index"]] = file
            if row["error"] is None:
                self.errors.discard(row["index"])
            else:
                self.errors.add(row["index"])

    def write(self, indices: Sequence[int], outcomes: Iterable[Outcome]) -> None:
        """Add members: after this they survive the process, and with fsync the machine.

        Raises
        ------
        TypeError
            If a value is none that a store can hold.
        """
        arrays: list[Any] = []
        rows = []
        for i, outcome in zip(indices, outcomes, strict=True):
            try:
                value = _encode(outcome.value, arrays)
            except TypeError as error:
                msg = (
                    f"the store cannot hold the value of member {i}: {error}. Let `reduce` return "
                    "arrays, numbers, strings, or lists, tuples and dicts of these"
                )
                raise TypeError(msg) from None
            status = None if outcome.status is None else outcome.status.name
            rows.append({"index": i, **outcome._asdict(), "value": value, "status": status})
        text = np.frombuffer(json.dumps(rows).encode(), dtype=np.uint8)
        named = {f"a{k}": array for k, array in enumerate(arrays)}
        file = self.path / f"{self._next:06d}.npz"
        _write(file, lambda out: np.savez(out, members=text, **named))
        self._next += 1
        self.files.update(dict.fromkeys(indices, file))

    def read(self, i: int) -> Outcome:
        """Return a stored member's outcome."""
        file = self.files[i]
        if self._read[0] != file:
            with file.open("rb") as raw, np.load(raw) as arrays:
                self._read = (file, {row["index"]: _outcome(row, arrays) for row in _rows(arrays)})
        return self._read[1][i]

    def close(self) -> None:
        """Let others write."""
        if self._lock is not None:
            self._lock.close()


def _write(path: Path, content: Any) -> None:
    partial = path.with_name(path.name + ".tmp")
    with partial.open("wb") as file:
        content(file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _lock(path: Path) -> IO[bytes] | None:
    """Lock the store for this process, where the system can: the lock dies with the process."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    file = path.open("ab")
    try:
        # Unlike flock's, a lock of this kind is not shared with forked workers that live on.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        msg = f"store {str(path.parent)!r} is in use by another process"
        raise RuntimeError(msg) from None
    except OSError:  # a file system without locks
        file.close()
        return None
    return file


def _rows(arrays: Any) -> list[dict[str, Any]]:
    return json.loads(arrays["members"].tobytes())  # type: ignore[no-any-return]


def _outcome(row: dict[str, Any], arrays: Any) -> Outcome:
    return Outcome(
        _decode(row["value"], arrays),
        row["success"],
        None if row["status"] is None else Status[row["status"]],
        row["message"],
        None if row["error"] is None else Failure(*row["error"]),
        row["seconds"],
    )


_SOLUTION = ("t", "y", "message", "stats", "log")


def _encode(x: Any, arrays: list[Any]) -> Any:
    """Return x as JSON's values, with its arrays appended to `arrays`.

    What JSON has no word for becomes ``{kind: content}``.
    """

    def array(kind: str, a: Any) -> dict[str, int]:
        if a.dtype.hasobject:
            msg = "it has an array of objects"
            raise TypeError(msg)
        arrays.append(a)
        return {kind: len(arrays) - 1}

    if type(x) in _PLAIN:
        return x
    if isinstance(x, np.ndarray):
        return array("array", x)
    if isinstance(x, np.generic):
        return array("scalar", np.asarray(x))
    if is_torch(x):
        return array("tensor", x.detach().cpu().numpy())
    if type(x) is complex:
        return {"complex": [x.real, x.imag]}
    if type(x) in (list, tuple):
        return {type(x).__name__: [_encode(v, arrays) for v in x]}
    if type(x) is dict:
        return {"dict": [[_encode(k, arrays), _encode(v, arrays)] for k, v in x.items()]}
    if isinstance(x, Status):
        return {"status": x.name}
    if isinstance(x, Solution):
        return {"solution": _encode(_solution_fields(x), arrays)}
    msg = f"{type(x).__module__}.{type(x).__qualname__} is of no such type"
    raise TypeError(msg)


def _solution_fields(x: Solution) -> dict[str, Any]:
    if x.interpolant is not None:
        msg = "a solution with dense=True has an interpolant; use t_eval"
        raise TypeError(msg)
    fields = {name: getattr(x, name) for name in _SOLUTION}
    fields |= {"status": x.status, "stats": dict(x.stats)}
    fields["log"] = None if x.log is None else dict(x.log)
    return fields | {"events": [tuple(e) for e in x.events], "switches": [*map(tuple, x.switches)]}


def _decode(x: Any, arrays: Any) -> Any:
    """Undo `_encode`."""
    if not isinstance(x, dict):
        return x
    ((kind, content),) = x.items()
    return _DECODERS[kind](content, arrays)


def _decode_solution(content: Any, arrays: Any) -> Solution:
    fields = _decode(content, arrays)
    fields["events"] = tuple(EventRecord(*e) for e in fields["events"])
    fields["switches"] = tuple(Switch(*s) for s in fields["switches"])
    return Solution(**fields)


def _decode_tensor(k: int, arrays: Any) -> Any:
    import torch

    return torch.from_numpy(arrays[f"a{k}"])


_DECODERS: dict[str, Any] = {
    "array": lambda k, arrays: arrays[f"a{k}"],
    "scalar": lambda k, arrays: arrays[f"a{k}"][()],
    "tensor": _decode_tensor,
    "complex": lambda parts, _: complex(*parts),
    "list": lambda items, arrays: [_decode(v, arrays) for v in items],
    "tuple": lambda items, arrays: tuple(_decode(v, arrays) for v in items),
    "dict": lambda items, arrays: {_decode(k, arrays): _decode(v, arrays) for k, v in items},
    "status": lambda name, _: Status[name],
    "solution": _decode_solution,
}
