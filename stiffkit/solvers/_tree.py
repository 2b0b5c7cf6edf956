"""States that are tuples and dicts of arrays: flattened at the door of `solve`, and put back.

The solvers know one array. A structure is a (nested) tuple, named tuple or dict, whose leaves are
arrays of one library, dtype and device. Lists are array_like, as ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._array import Array, backend_of, is_torch, to_numpy

__all__ = ["Layout", "is_tree", "solve_tree", "tree_join", "tree_map"]


def is_tree(y: Any) -> bool:
    """Whether a state is a structure of arrays: a dict, or a tuple with an array or dict in it."""
    if isinstance(y, dict):
        return True
    return isinstance(y, tuple) and any(
        is_torch(part) or isinstance(part, dict) or getattr(part, "ndim", 0) > 0 or is_tree(part)
        for part in y
        if not isinstance(part, float)
    )


def tree_map(f: Callable[[Array], Any], tree: Any) -> Any:
    """Return the structure of what f makes of each leaf."""
    if isinstance(tree, dict):
        mapped = copy(tree)  # a dict of its own kind
        mapped.update((key, tree_map(f, part)) for key, part in tree.items())
        return mapped
    if isinstance(tree, tuple):
        parts = [tree_map(f, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return f(tree)


def tree_join(join: Callable[[list[Array]], Any], trees: list[Any]) -> Any:
    """Return the structure of what `join` makes of the leaves that several trees have in one place.

    Raises
    ------
    ValueError
        If their structures differ.
    """
    columns = zip(*(_leaves(tree, trees[0], "a state") for tree in trees), strict=True)
    return tree_map(lambda _: join(list(next(columns))), trees[0])


def _leaves(tree: Any, like: Any, name: str) -> list[Any]:
    """Leaves of `tree` in the order of `like`, whose structure it must have."""
    if isinstance(like, dict):
        if not isinstance(tree, Mapping) or set(tree) != set(like):
            got = str(sorted(map(str, tree)) if isinstance(tree, Mapping) else type(tree).__name__)
            msg = f"{name} must be a dict with the keys {sorted(map(str, like))}, not {got}"
            raise ValueError(msg)
        return [leaf for key in like for leaf in _leaves(tree[key], like[key], name)]
    if isinstance(like, tuple):
        if not isinstance(tree, (tuple, list)) or len(tree) != len(like):
            got = str(len(tree)) if isinstance(tree, (tuple, list)) else type(tree).__name__
            msg = f"{name} must be a tuple of {len(like)} parts, not {got}"
            raise ValueError(msg)
        pairs = zip(tree, like, strict=True)
        return [leaf for part, other in pairs for leaf in _leaves(part, other, name)]
    if isinstance(tree, (dict, tuple)):
        msg = f"{name} has a {type(tree).__name__} where y0 has an array"
        raise ValueError(msg)  # noqa: TRY004 - the structure is wrong, and told like the above
    return [tree]


@dataclass(frozen=True, eq=False)
class Layout:
    """How a structure of arrays lies in one array, whose last axis has the n components.

    Parameters
    ----------
    like : tuple or dict
        The structure; of its leaves only the shapes count.
    leading : int
        Axes at the front of each leaf that count samples, 0 or 1.

    Raises
    ------
    TypeError, ValueError
        If the leaves are not arrays of one library, dtype, device and, where that counts samples,
        first axis.
    """

    like: Any
    leading: int = 0

    @classmethod
    def of(cls, y0: Any, *, batched: bool) -> Layout:
        """Return the layout of an initial state, checked."""
        leaves = _leaves(y0, y0, "y0")
        if not leaves:
            msg = f"y0={y0!r} holds no arrays"
            raise ValueError(msg)
        torch_like = any(map(is_torch, leaves))
        for leaf in leaves:
            if torch_like and not is_torch(leaf):
                msg = f"y0 mixes tensors with {type(leaf).__name__}"
                raise TypeError(msg)
        if not torch_like:
            y0 = tree_map(backend_of(None).state, y0)
            leaves = _leaves(y0, y0, "y0")
        kinds = {(str(leaf.dtype), str(getattr(leaf, "device", ""))) for leaf in leaves}
        if len(kinds) != 1:
            msg = f"the arrays of y0 must have one dtype and device, not {sorted(kinds)}"
            raise ValueError(msg)
        if batched and len({tuple(leaf.shape[:1]) or None for leaf in leaves} | {None}) != 2:
            shapes = [tuple(leaf.shape) for leaf in leaves]
            msg = f"the first axis of a batched y0 counts the samples; the shapes are {shapes}"
            raise ValueError(msg)
        return cls(y0, int(batched))

    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the leaves, without the axis that counts samples."""
        return [tuple(a.shape)[self.leading :] for a in _leaves(self.like, self.like, "y0")]

    def flatten(self, tree: Any, name: str = "y0", lead: Sequence[int] = ()) -> Array:
        """Return one array of shape (*lead, n).

        Raises
        ------
        ValueError
            If `tree` has another structure, or leaves of other shapes.
        """
        leaves = _leaves(tree, self.like, name)
        flat = []
        for leaf, shape in zip(leaves, self.shapes(), strict=True):
            part = leaf if hasattr(leaf, "reshape") else np.asarray(leaf)
            if tuple(part.shape) != (*lead, *shape):
                msg = (
                    f"{name} has an array of shape {tuple(part.shape)} for one of {(*lead, *shape)}"
                )
                raise ValueError(msg)
            flat.append(part.reshape((*lead, math.prod(shape))))
        xp: Any = backend_of(flat[0]).xp
        return xp.concatenate(flat, -1)

    def unflatten(self, flat: Array) -> Any:
        """Return the structure of an array of shape (*lead, n)."""
        lead, position = tuple(flat.shape[:-1]), 0
        shapes = iter(self.shapes())

        def next_part(_: Any) -> Array:
            nonlocal position
            shape = next(shapes)
            size = math.prod(shape)
            part = flat[..., position : position + size]
            position += size
            return part.reshape((*lead, *shape))

        return tree_map(next_part, self.like)

    def tolerance(self, value: Any, name: str) -> Any:
        """Return a tolerance for the flat state: a number stays one, parts are spread out."""
        if not isinstance(value, (tuple, dict, list)):
            return value
        lead = [tuple(a.shape)[: self.leading] for a in _leaves(self.like, self.like, "y0")]
        parts = []
        for part, first, shape in zip(
            _leaves(value, self.like, name), lead, self.shapes(), strict=True
        ):
            try:
                whole = np.broadcast_to(to_numpy(part), (*first, *shape))
            except ValueError as error:
                msg = f"{name} has a part that does not broadcast to y0's {(*first, *shape)}"
                raise ValueError(msg) from error
            parts.append(whole.reshape((*first, math.prod(shape))))
        return np.concatenate(parts, -1)


@dataclass(frozen=True, eq=False)
class _TreeDense:
    """Dense output as structures."""

    flat: Any
    layout: Layout

    def __call__(self, t: Any) -> Any:
        return self.layout.unflatten(self.flat(t))

    def sample(self, i: int) -> _TreeDense:
        return _TreeDense(self.flat.sample(i), self.layout)


def solve_tree(solve: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Solve with a structure for a state; the arguments are those of `stiffkit.solve`, by name.

    f, events, `jvp`, `radius`, `callback`, `on_attempt` and `norm` see structures, and `jac` too,
    whose rows and columns are the components in the structure's order. Hooks (`observe`, `guide`)
    see the flat state, and so do a Step's `k` and `err`.
    """
    layout = Layout.of(given["y0"], batched=given["batched"])
    un = layout.unflatten

    def argument(g: Any) -> Any:
        """`g(t, y, ...)` that sees structures."""
        return (lambda t, y, *rest: g(t, un(y), *rest)) if callable(g) else g

    def slope(t: Any, y: Any, *args: Any) -> Any:
        return layout.flatten(f(t, un(y), *args), "what f returns", tuple(y.shape[:-1]))

    def product(t: Any, y: Any, v: Any) -> Any:
        return layout.flatten(jvp(t, un(y), un(v)), "what jvp returns")

    def show(first: Any, *rest: Any) -> Any:
        if rest:  # the batched loop: t, y, and which rows accepted
            return callback(first, un(rest[0]), *rest[1:])
        return callback(replace(first, y=un(first.y), y_new=un(first.y_new)))

    def event(g: Any) -> Any:
        if not callable(g):
            return g
        on_flat = argument(g)
        for name in ("terminal", "direction"):
            setattr(on_flat, name, getattr(g, name, None))
        return on_flat

    f, jvp, callback, norm = (given[name] for name in ("f", "jvp", "callback", "norm"))
    events = given["events"]
    several = isinstance(events, (list, tuple))
    events = [event(g) for g in events] if several else event(events)
    whole = layout.flatten(layout.like, lead=tuple(_first(layout.like).shape[: layout.leading]))
    flat = {
        **given,
        "y0": whole,
        "f": slope if callable(f) else f,
        "jvp": product if callable(jvp) else jvp,
        "norm": (lambda x: norm(un(x))) if callable(norm) else norm,
        "events": events,
        "callback": show if callable(callback) else callback,
        "rtol": layout.tolerance(given["rtol"], "rtol"),
        "atol": layout.tolerance(given["atol"], "atol"),
    }
    for name in ("jac", "radius", "on_attempt"):
        flat[name] = argument(given[name])
    try:
        solution = solve(**flat)
    except BaseException as error:
        if hasattr(error, "solution"):
            error.solution = _restore(error.solution, layout)
        raise
    return _restore(solution, layout)


def _first(tree: Any) -> Array:
    return _leaves(tree, tree, "y0")[0]


def _restore(solution: Any, layout: Layout) -> Any:
    """Return the solution with structures in the places of arrays."""
    dense = solution.interpolant
    return replace(
        solution,
        y=layout.unflatten(solution.y),
        events=tuple(record._replace(y=layout.unflatten(record.y)) for record in solution.events),
        interpolant=None if dense is None else _TreeDense(dense, layout),
    )
