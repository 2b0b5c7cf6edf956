"""Rooted trees and the order conditions of Runge-Kutta methods.

A tree is the tuple of its subtrees, sorted: ``()`` is the single node, ``((),)`` the tree of order
two. For a method with matrix A the stage weights of a tree are

    u(()) = 1,      u([t1, ..., tm]) = (A u(t1)) * ... * (A u(tm))      (componentwise),

and a row b satisfies the tree's order condition when ``b . u(t) = 1 / gamma(t)``.

References
----------
J. C. Butcher, Coefficients for the study of Runge-Kutta integration processes, J. Austral. Math.
Soc. 3 (1963) 185-201, doi:10.1017/S1446788700027932. E. Hairer, S. P. Nørsett, G. Wanner, Solving
Ordinary Differential Equations I, 2nd ed., Springer (1993), section II.2,
doi:10.1007/978-3-540-78862-1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = [
    "MAX_ORDER",
    "Tree",
    "coloured_weights",
    "density",
    "rooted_trees",
    "size",
    "symmetry",
    "tree_name",
    "weights",
]

Tree = tuple["Tree", ...]

MAX_ORDER = 10
"""Largest number of nodes handled: 719 trees of order 10, 1205 up to it."""


@cache
def rooted_trees(p: int) -> tuple[Tree, ...]:
    """All rooted trees with `p` nodes (1, 1, 2, 4, 9, 20, 48, 115, 286, 719 for p = 1 ... 10)."""
    if not 1 <= p <= MAX_ORDER:
        msg = f"rooted trees are listed for orders 1 to {MAX_ORDER}, not p={p}"
        raise ValueError(msg)
    if p == 1:
        return ((),)
    return tuple(sorted({grown for tree in rooted_trees(p - 1) for grown in _grow(tree)}))


def _grow(tree: Tree) -> Iterator[Tree]:
    """Every tree that one more leaf can make of `tree`."""
    yield tuple(sorted((*tree, ())))
    for i, child in enumerate(tree):
        for grown in _grow(child):
            yield tuple(sorted((*tree[:i], grown, *tree[i + 1 :])))


@cache
def size(tree: Tree) -> int:
    """Return ``|t|``, the number of nodes."""
    return 1 + sum(size(child) for child in tree)


@cache
def density(tree: Tree) -> int:
    """Return gamma(t), ``|t|`` times the densities of the subtrees."""
    return size(tree) * math.prod(density(child) for child in tree)


@cache
def symmetry(tree: Tree) -> int:
    """Return sigma(t), the order of the tree's symmetry group."""
    groups = Counter(tree)
    return math.prod(math.factorial(m) * symmetry(child) ** m for child, m in groups.items())


def tree_name(tree: Tree) -> str:
    """Write the tree in Butcher's bracket notation: ``τ``, ``[τ]``, ``[τ,[τ]]``."""
    return "[" + ",".join(map(tree_name, tree)) + "]" if tree else "τ"


def weights(A: npt.NDArray[np.float64], p: int) -> dict[Tree, npt.NDArray[np.float64]]:
    """Stage weights u(t), shape (s,), of every tree with up to `p` nodes.

    Called with ``abs(A)`` they bound the rounding error of the conditions.
    """
    u: dict[Tree, npt.NDArray[np.float64]] = {}
    image: dict[Tree, npt.NDArray[np.float64]] = {}  # A u(t), shared by every tree above t
    for order in range(1, p + 1):
        for tree in rooted_trees(order):
            value = np.ones(len(A))
            for child in tree:
                value = value * image[child]
            u[tree] = value
            image[tree] = A @ value
    return u


def coloured_weights(
    tree: Tree, matrices: Sequence[npt.NDArray[np.float64]]
) -> list[npt.NDArray[np.float64]]:
    """Stage weights u(t) of an additive method, one for each colouring of the tree's edges.

    The edge to a child takes any of the `matrices`, that of the part of f which the child stands
    for. With one matrix the list holds what `weights` gives.
    """
    us = [np.ones(len(matrices[0]))]
    for child in tree:
        images = [A @ v for A in matrices for v in coloured_weights(child, matrices)]
        us = [u * image for u in us for image in images]
    return us
