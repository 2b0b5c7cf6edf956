"""The arguments of `solve` that a problem and the entry of one member make."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = ["as_arguments", "further", "replaces", "solve_arguments"]


def replaces(kind: type) -> bool:
    """Whether objects of a type are arguments by name; others are further arguments of f."""
    return issubclass(kind, Mapping) or dataclasses.is_dataclass(kind)


def as_arguments(x: Any) -> Mapping[str, Any] | None:
    """Return a mapping or a dataclass's fields as keyword arguments; None if x is neither."""
    if isinstance(x, (dict, Mapping)):  # a dict is known at once
        return x
    if not replaces(type(x)):
        return None
    return {field.name: getattr(x, field.name) for field in dataclasses.fields(x)}


def further(entry: Any) -> tuple[Any, ...] | list[Any]:
    """Return the further arguments of f that an entry stands for: itself, or each of a tuple."""
    return entry if isinstance(entry, (tuple, list)) else (entry,)


def solve_arguments(problem: Any, entry: Any) -> dict[str, Any]:
    """Merge one entry of `parameters` into the arguments of `solve`."""
    arguments = dict(as_arguments(problem) or {})
    replaced = as_arguments(entry)
    if replaced is not None:
        return arguments | dict(replaced)
    arguments["args"] = (*arguments.get("args", ()), *further(entry))
    return arguments
