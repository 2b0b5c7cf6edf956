"""Reads pickles as data: nothing is imported, called or constructed.

A pickle is a program for a stack machine. Python's own unpickler imports what the program names and
calls it, so a pickle from elsewhere can do anything. The machine here knows the same instructions,
but a name stays a name, and a call becomes an `Inert` record of what would have been called. Names
that are not expected are refused where they appear.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Inert", "Name", "Refused", "Stream", "read_pickle"]

MAX_INSTRUCTIONS = 500_000
"""Of one pickle; those of the published networks have less than 100,000."""

MAX_LINE = 1 << 16
"""Length of an argument that ends with a line break; names and numbers, in old protocols."""


class Refused(ValueError):
    """What a file asks for is not allowed, or makes no sense."""


@dataclass(frozen=True, slots=True)
class Name:
    """A global that the pickle names, "module.attribute"."""

    text: str


@dataclass(slots=True, eq=False)
class Inert:
    """A call that was not made."""

    name: str
    arguments: tuple[Any, ...]
    items: dict[Any, Any] = field(default_factory=dict)
    """What the pickle would then have stored in it, as into a dict."""
    state: Any = None
    """What it would have been told by ``__setstate__``."""


class Stream:
    """Bytes with a position; reading past the end is refused before anything is allocated."""

    def __init__(self, data: Any) -> None:
        self.data, self.position = data, 0

    def tell(self) -> int:
        """Return the position."""
        return self.position

    def read(self, n: int) -> bytes:
        """Return the next `n` bytes."""
        left = len(self.data) - self.position
        if not 0 <= n <= left:
            msg = f"{n} bytes are declared at {self.position}, {left} are left"
            raise Refused(msg)
        self.position += n
        return bytes(self.data[self.position - n : self.position])

    def readline(self) -> bytes:
        """Return what there is up to and with the next line break."""
        end = self.data.find(b"\n", self.position, self.position + MAX_LINE)
        if end < 0:
            msg = f"no line ends within {MAX_LINE} bytes after {self.position}"
            raise Refused(msg)
        return self.read(end + 1 - self.position)


def read_pickle(
    stream: Stream,
    allowed: Collection[str],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle and leave the stream behind it.

    Parameters
    ----------
    stream : Stream
    allowed : collection of str
        Names that may appear.
    persistent : callable, optional
        Given a persistent id, returns what stands for it; without it there may be none.

    Returns
    -------
    object
        Of None, bool, int, float, str, bytes, list, tuple, `Name`, `Inert`, and dicts and sets with
        strings as keys.

    Raises
    ------
    Refused
        For a name that is not allowed, an instruction that is not, or a program that is no pickle.
    """
    machine = _Machine(allowed, persistent)
    for _ in range(MAX_INSTRUCTIONS):
        position = stream.position
        instruction = _INSTRUCTIONS.get(stream.read(1))
        if instruction is None:
            msg = f"the instruction {stream.data[position : position + 1]!r} at {position}"
            raise Refused(msg)
        name, read = instruction
        try:
            argument = None if read is None else read(stream)
            if name == "STOP":
                return machine.pop()
            machine.do(name, argument)
        except Refused:
            raise
        except (ValueError, IndexError) as error:
            # An argument that cannot be decoded, or an empty stack.
            msg = f"{name} at {position}: {type(error).__name__} {str(error)[:200]}"
            raise Refused(msg) from error
    msg = f"more than {MAX_INSTRUCTIONS} instructions"
    raise Refused(msg)


_VALUES = {
    "BINBYTES",
    "BINBYTES8",
    "BINFLOAT",
    "BININT",
    "BININT1",
    "BININT2",
    "BINUNICODE",
    "BINUNICODE8",
    "LONG1",
    "LONG4",
    "SHORT_BINBYTES",
    "SHORT_BINUNICODE",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MEMO_STORE = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_MEMO_FETCH = {"BINGET", "LONG_BINGET"}


class _Machine:
    def __init__(
        self, allowed: Collection[str], persistent: Callable[[Any], Any] | None = None
    ) -> None:
        self.allowed, self.persistent = allowed, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # a stack for each open mark
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        """Take the top of the stack."""
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        """Take what was put on the stack since the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def do(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        push = self.stack.append
        if name in _VALUES:
            push(argument)
        elif name in _CONSTANTS:
            push(_CONSTANTS[name])
        elif name in _EMPTY:
            push(_EMPTY[name]())
        elif name in _TUPLES:
            n = _TUPLES[name]
            if len(self.stack) < n:
                msg = "a tuple of more than there is"
                raise Refused(msg)
            self.stack[-n:] = [tuple(self.stack[-n:])]
        elif name in _MEMO_STORE:
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in _MEMO_FETCH:
            if argument not in self.memo:
                msg = f"memo entry {argument}, which is empty"
                raise Refused(msg)
            push(self.memo[argument])
        elif name in _METHODS:
            _METHODS[name](self, argument)

    def _mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_to_mark()

    def _pop_mark(self, _: Any) -> None:
        self.pop_to_mark()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _tuple(self, _: Any) -> None:
        items = self.pop_to_mark()
        self.stack.append(tuple(items))

    def _additems(self, _: Any) -> None:
        items = self.pop_to_mark()
        self._insert(self.pop(), items)

    def _insert(self, members: Any, items: list[Any]) -> None:
        if not isinstance(members, set) or not all(isinstance(x, str) for x in items):
            msg = "a set of something other than strings"
            raise Refused(msg)
        members.update(items)
        self.stack.append(members)

    def _append(self, _: Any) -> None:
        self._extend([self.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self.pop_to_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            msg = f"items for a {_kind(self.stack[-1])}"
            raise Refused(msg)
        self.stack[-1].extend(items)

    def _setitem(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._store([key, value])

    def _setitems(self, _: Any) -> None:
        self._store(self.pop_to_mark())

    def _store(self, items: list[Any]) -> None:
        target = self.stack[-1]
        target = target.items if isinstance(target, Inert) else target
        if not isinstance(target, dict) or len(items) % 2:
            msg = f"{len(items)} keys and values for a {_kind(self.stack[-1])}"
            raise Refused(msg)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a deep tuple would exhaust the C stack, and numbers can be made to collide.
            if not isinstance(key, str):
                msg = f"a {_kind(key)} as a key"
                raise Refused(msg)
            target[key] = value

    def _stack_global(self, _: Any) -> None:
        attribute, module = self.pop(), self.pop()
        if not (isinstance(module, str) and isinstance(attribute, str)):
            msg = f"a name made of a {_kind(module)} and a {_kind(attribute)}"
            raise Refused(msg)
        self._name(f"{module}.{attribute}")

    def _name(self, name: str) -> None:
        if name not in self.allowed:
            msg = f"the name {name[:200]!r}"
            raise Refused(msg)
        self.stack.append(Name(name))

    def _reduce(self, _: Any) -> None:
        arguments = self.pop()
        self._call(self.pop(), arguments)

    def _call(self, called: Any, arguments: Any) -> None:
        if not isinstance(called, Name) or not isinstance(arguments, tuple):
            msg = f"a call of a {_kind(called)} with a {_kind(arguments)}"
            raise Refused(msg)
        self.stack.append(Inert(called.text, arguments))

    def _build(self, _: Any) -> None:
        state = self.pop()
        target = self.stack[-1]
        if not isinstance(target, Inert) or target.state is not None:
            msg = f"a state for a {_kind(target)}, or a second one"
            raise Refused(msg)
        target.state = state

    def _binpersid(self, _: Any) -> None:
        if self.persistent is None:
            msg = "a persistent id"
            raise Refused(msg)
        self.stack.append(self.persistent(self.pop()))


def _two_lines(stream: Stream) -> str:
    """Read module and attribute, each on a line of its own."""
    return ".".join(stream.readline()[:-1].decode("utf-8") for _ in range(2))


_METHODS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "POP": _Machine._pop,
    "POP_MARK": _Machine._pop_mark,
    "DUP": _Machine._dup,
    "TUPLE": _Machine._tuple,
    "ADDITEMS": _Machine._additems,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._setitem,
    "SETITEMS": _Machine._setitems,
    "GLOBAL": _Machine._name,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._reduce,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._binpersid,
}
# Instructions of protocols 2 to 5; the text of protocols 0 and 1 is refused, and so is what calls
# anything in another way (OBJ, INST, the extension registry, constructors with keywords).
_KNOWN = {
    *(_VALUES | _MEMO_STORE | _MEMO_FETCH),
    *(_CONSTANTS | _EMPTY | _TUPLES | _METHODS),
    *("PROTO", "FRAME", "STOP"),
}
_INSTRUCTIONS: dict[bytes, tuple[str, Callable[[Any], Any] | None]] = {
    op.code.encode("latin-1"): (op.name, None if op.arg is None else op.arg.reader)
    for op in pickletools.opcodes
    if op.name in _KNOWN
}
# pickletools also resolves escape sequences, which warns of unknown ones; names have none.
_INSTRUCTIONS[b"c"] = ("GLOBAL", _two_lines)


def _kind(value: Any) -> str:
    return value.name if isinstance(value, Inert) else type(value).__name__
