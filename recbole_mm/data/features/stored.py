"""Vectors that stay in their file: read when asked for, some rows at a time or in the order of the file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from recbole_mm.data.features.matrix import FeatureMatrix
from recbole_mm.data.features.storage import new_table

__all__ = ["StoredTable", "StreamedTable", "TableInFile", "in_blocks", "read_finite"]

_BLOCK_NUMBERS = 2**20  # that are worked on at a time: 8 MB in float64


def in_blocks(rows: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Rows of a table of this shape, as many together as a computation may have in memory at a time."""
    return rows.split(max(1, _BLOCK_NUMBERS // max(1, math.prod(shape[1:]))))


@dataclass(frozen=True)
class TableInFile:
    """One modality of one entity whose vectors stay in their file.

    Attributes:
        modality: Name of the modality.
        entity: ``item`` or ``user``.
        matrix: The file.
        row: Row in the file of each internal id, -1 where it has none. Shape ``(n,)``.
        dtype: Type of the vectors when they are read.
        averaged: Whether several vectors of an entity are read as their mean.
    """

    modality: str
    entity: str
    matrix: FeatureMatrix
    row: Tensor
    dtype: torch.dtype
    averaged: bool = False

    @property
    def observed(self) -> Tensor:
        """Which rows the feature file really has, bool ``(n,)``."""
        return self.row >= 0

    @property
    def count(self) -> None:
        """All entities have the same number of vectors: a matrix cannot say otherwise."""
        return

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the table, ``(n, d)`` or ``(n, R, d)``."""
        inner = self.matrix.shape[1:]
        return (len(self.row), *(inner[1:] if self.averaged else inner))

    @property
    def feature(self) -> Tensor:
        """All vectors, read now. Shape ``(n, d)`` or ``(n, R, d)``."""
        return self.load()

    def parts(self, ids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The vectors of entities that have them, a block at a time, in the order that the file is best read in.

        Yields:
            Some of the ids, and their vectors.
        """
        for place, block in _blocks(self.matrix, self.row[ids].numpy()):
            yield ids[torch.from_numpy(place)], self._vectors(block)

    def load(self, folder: str | os.PathLike[str] | None = None) -> Tensor:
        """All vectors, in memory or in a scratch file in ``folder``. Shape ``(n, d)`` or ``(n, R, d)``."""
        table = new_table(self.shape, self.dtype, folder)
        for ids, vectors in self.parts(self.observed.nonzero().squeeze(1)):
            table[ids] = vectors
        return table

    def means(self: _Table) -> _Table:
        """The same table with one vector for each entity, the mean of its several."""
        return replace(self, averaged=True)

    def _vectors(self, block: np.ndarray) -> Tensor:
        found = torch.from_numpy(_torch_array(block)).to(self.dtype)
        return found.mean(dim=1) if self.averaged else found


_Table = TypeVar("_Table", bound=TableInFile)


class StoredTable(TableInFile):
    """A table any row of which is read when asked for; the same face as ``FeatureTable``."""

    def rows(self, ids: Tensor) -> Tensor:
        """The vectors of some entities, zero where there are none; a new tensor of shape ``(len(ids), ...)``."""
        place = self.row[ids]
        there = place >= 0
        result = torch.zeros(len(ids), *self.shape[1:], dtype=self.dtype)
        if there.any():
            result[there] = self._vectors(self.matrix.read(place[there].numpy()))
        return result

    def blocks(self, ids: Tensor) -> tuple[Tensor, ...]:
        """The ids in the blocks of :func:`in_blocks`."""
        return in_blocks(ids, self.matrix.shape)


class StreamedTable(TableInFile):
    """A table whose file can only be read from its first row to its last, as what is compressed.

    It has no ``rows``: a few of them would cost as much as all, which ``load`` and ``parts`` read in one pass.
    """


def read_finite(
    matrix: FeatureMatrix, rows: np.ndarray, tokens: np.ndarray, dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of a file in a torch type, a block at a time; numbers that are not finite are refused at the end.

    Args:
        matrix: The file.
        rows: Which of its rows.
        tokens: The raw tokens of all rows of the file, for messages.
        dtype: Type of the vectors.

    Yields:
        Places in ``rows`` of the rows of a block, and the block.

    Raises:
        ValueError: A number that is not finite, in the file or in the type.
    """
    bad: list[int] = []
    too_large: list[int] = []
    for place, block in _blocks(matrix, rows):
        part, converted = rows[place], torch.from_numpy(_torch_array(block)).to(dtype)
        held = converted.isfinite().reshape(len(part), -1).all(dim=1).numpy()
        # What is finite after the conversion was so before; NumPy is slow at asking that of float16.
        for index in np.flatnonzero(~held).tolist():
            (too_large if np.isfinite(block[index]).all() else bad).append(int(part[index]))
        yield torch.from_numpy(place), converted
    if bad:
        raise ValueError(
            f"{matrix.path}: {len(bad):,} of {len(rows):,} rows hold NaN or infinity (first: {str(tokens[bad[0]])!r}); "
            "leave these rows out (missing_feature says what happens then) or repair them."
        )
    if too_large:
        raise ValueError(
            f"{matrix.path}: {len(too_large):,} of {len(rows):,} rows hold numbers beyond the range of {dtype} "
            f"(first: {str(tokens[too_large[0]])!r}); choose feature_dtype: float32 or rescale the features."
        )


def _blocks(matrix: FeatureMatrix, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some rows as they stand in the file, a block at a time, each with its places in ``rows``."""
    if matrix.stream is None:
        for place in map(Tensor.numpy, in_blocks(torch.arange(len(rows)), matrix.shape)):
            yield place, matrix.read(rows[place])
        return
    order, start = np.argsort(rows), 0
    ascending = rows[order]
    for block in matrix.stream():
        if block.shape[1:] != matrix.shape[1:]:
            break
        first, last = np.searchsorted(ascending, [start, start + len(block)])
        if first < last:
            yield order[first:last], block[ascending[first:last] - start]
        start += len(block)
    if start != matrix.shape[0]:
        raise ValueError(f"{matrix.path} has no longer the shape {matrix.shape}; it has changed since it was opened.")


def _torch_array(block: np.ndarray) -> np.ndarray:
    """The block in a type and byte order that torch knows."""
    if block.dtype.kind == "u" and block.dtype.itemsize > 1 or block.dtype.itemsize > 8:
        return block.astype(np.float64)
    return np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("="))
