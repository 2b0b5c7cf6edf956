"""Where Jacobians have entries, and which of their columns one difference can give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import scipy.sparse as sps

from .linalg import Banded

__all__ = ["Pattern", "banded", "coloured", "column_groups", "full"]

Floats = npt.NDArray[Any]
Integers = npt.NDArray[np.intp]


def _band_entries(n: int, ml: int, mu: int) -> tuple[Integers, Integers]:
    """Rows and columns of a band's entries, by columns."""
    rows, cols = np.arange(-mu, ml + 1)[None, :] + np.arange(n)[:, None], np.arange(n)[:, None]
    inside = (rows >= 0) & (rows < n)
    return rows[inside], np.broadcast_to(cols, rows.shape)[inside]


def column_groups(pattern: Any) -> Integers:
    """Colour the columns so that two of one colour never share a row.

    One difference quotient then gives all columns of a colour (Curtis, Powell and Reid). Columns
    take the lowest colour still free, in their given order: for a band of ml + mu + 1 diagonals
    that many colours, which is the least possible.

    Parameters
    ----------
    pattern : (m, n) sparse matrix, or array_like
        Its nonzeros are where the Jacobian may have some; stored zeros of a sparse one count.

    Returns
    -------
    ndarray of int, shape (n,)
        Colours 0, 1, ....

    References
    ----------
    A. R. Curtis, M. J. D. Powell, J. K. Reid, On the estimation of sparse Jacobian matrices, IMA
    J. Appl. Math. 13 (1974) 117–119, doi:10.1093/imamat/13.1.117.
    """
    csc = sps.csc_array(pattern)
    taken: list[set[int]] = [set() for _ in range(csc.shape[0])]
    colours = np.empty(csc.shape[1], dtype=np.intp)
    for j, (start, end) in enumerate(zip(csc.indptr[:-1], csc.indptr[1:], strict=True)):
        rows = [taken[i] for i in csc.indices[start:end].tolist()]
        colour = 0
        while any(colour in row for row in rows):
            colour += 1
        colours[j] = colour
        for row in rows:
            row.add(colour)
    return colours


class Pattern(Protocol):
    """Where a Jacobian has entries, and which columns are perturbed together.

    `Differences` works on the *entries*: an array that holds each of them once, in whatever shape
    suits the pattern.
    """

    @property
    def groups(self) -> Sequence[Any]:
        """Indices of the columns of each group."""

    def groups_with(self, chosen: Any) -> Sequence[int]:
        """Return the numbers of the groups that hold one of the chosen columns, a mask."""

    def spread(self, changes: Floats) -> Floats:
        """Return the entries, given the change of f for each group, shape (n, groups)."""

    def of_rows(self, x: Floats) -> Floats:
        """Return x_i for each entry (i, j); it may be left to broadcast."""

    def of_columns(self, x: Floats) -> Floats:
        """Return x_j for each entry (i, j); it may be left to broadcast."""

    def row_products(self, entries: Floats, x: Floats) -> Floats:
        """Return the product of the matrix of these entries with x."""

    def column_tops(self, entries: Floats) -> Floats:
        """Maximum of non-negative entries over each column; NaN where there is one."""

    def matrix(self, entries: Floats) -> Any:
        """Return the Jacobian."""


class _Full:
    """Every entry may be nonzero; one column at a time. Jacobians are arrays."""

    def __init__(self, n: int) -> None:
        self.groups = range(n)

    def groups_with(self, chosen: Any) -> Sequence[int]:
        return np.flatnonzero(chosen).tolist()

    def spread(self, changes: Floats) -> Floats:
        return changes

    def of_rows(self, x: Floats) -> Floats:
        return x[:, None]

    def of_columns(self, x: Floats) -> Floats:
        return x

    def row_products(self, entries: Floats, x: Floats) -> Floats:
        return np.asarray(entries.dot(x))

    def column_tops(self, entries: Floats) -> Floats:
        return np.asarray(np.maximum.reduce(entries, 0, initial=0.0))  # max() costs twice as much

    def matrix(self, entries: Floats) -> Any:
        return entries


class _Coloured:
    """Entries at given places, several columns at a time. Jacobians are CSC arrays."""

    def __init__(self, pattern: Any) -> None:
        csc = sps.csc_array(pattern, copy=True)
        csc.sum_duplicates()
        self.n, self.indices, self.indptr = csc.shape[1], csc.indices, csc.indptr
        self._place(self.indices, np.repeat(np.arange(self.n), np.diff(self.indptr)))
        self._colour(column_groups(csc))

    def _place(self, rows: Integers, cols: Integers) -> None:
        self.rows, self.cols = rows, cols

    def _colour(self, colours: Integers) -> None:
        self.colours = colours
        count = int(colours.max(initial=-1)) + 1
        self.groups = [np.flatnonzero(colours == colour) for colour in range(count)]

    def groups_with(self, chosen: Any) -> Sequence[int]:
        return np.flatnonzero(np.bincount(self.colours[chosen])).tolist()

    def spread(self, changes: Floats) -> Floats:
        return np.asarray(changes[self.rows, self.colours[self.cols]])

    def of_rows(self, x: Floats) -> Floats:
        return np.asarray(x[self.rows])

    def of_columns(self, x: Floats) -> Floats:
        return np.asarray(x[self.cols])

    def row_products(self, entries: Floats, x: Floats) -> Floats:
        return np.bincount(self.rows, entries * x[self.cols], self.n).astype(entries.dtype)

    def column_tops(self, entries: Floats) -> Floats:
        tops = np.zeros(self.n, dtype=entries.dtype)
        np.maximum.at(tops, self.cols, entries)
        return tops

    def matrix(self, entries: Floats) -> Any:
        return sps.csc_array((entries, self.indices, self.indptr), shape=(self.n, self.n))


class _Band(_Coloured):
    """Entries on ml lower and mu upper diagonals. Jacobians are `Banded`."""

    def __init__(self, n: int, ml: int, mu: int) -> None:
        self.n, self.ml, self.mu = n, ml, mu
        self._place(*_band_entries(n, ml, mu))
        self._colour(np.arange(n) % (ml + mu + 1))

    def matrix(self, entries: Floats) -> Banded:
        ab = np.zeros((self.ml + self.mu + 1, self.n), dtype=entries.dtype)
        ab[self.mu + self.rows - self.cols, self.cols] = entries
        return Banded(ab, self.ml, self.mu)


def full(n: int) -> Pattern:
    """Return the pattern of n × n entries, one column at a time."""
    return _Full(n)


def coloured(pattern: Any) -> Pattern:
    """Return the pattern of a sparse matrix, or array_like, grouped by `column_groups`."""
    return _Coloured(pattern)


def banded(n: int, ml: int, mu: int) -> Pattern:
    """Return the pattern of ml lower and mu upper diagonals, in ml + mu + 1 groups."""
    return _Band(n, ml, mu)
