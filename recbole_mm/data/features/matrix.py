"""The vectors of a feature file: in memory, or read row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FeatureMatrix"]


@dataclass(frozen=True)
class FeatureMatrix:
    """The vectors of a feature file, in memory (``array``) or on disk.

    Attributes:
        path: The file.
        shape: ``(rows, d)`` or ``(rows, R, d)``.
        dtype: Type of the numbers in the file.
        array: The vectors; ``None`` for those that stay in the file.
        count: How many vectors of each row are its own, ``(rows,)``, where the file says it; the places beyond hold
            their mean.
        offset: Where the numbers of an array in an archive begin in the file; ``None`` in a ``.npy`` file.
        stream: For vectors that can only be read in order: makes an iterator over blocks of rows.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    array: np.ndarray | None
    count: np.ndarray | None = None
    offset: int | None = None
    stream: Callable[[], Iterable[np.ndarray]] | None = None

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The given rows, ``(len(rows), ...)``, as a new array."""
        if self.array is not None:
            return self.array[rows]
        if self.offset is not None:
            return self._read_rows(rows, self.offset)
        try:
            matrix = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise ValueError(
                f"{self.path} can no longer be read, it has changed since it was opened: {error}."
            ) from error
        if not matrix.flags.c_contiguous:
            return np.asarray(matrix[rows])
        return self._read_rows(rows, matrix.offset)

    def _read_rows(self, rows: np.ndarray, offset: int) -> np.ndarray:
        # Read, not taken from a mapping: a page that is touched brings its neighbours into memory, which for rows in
        # random order is most of the file.
        block = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        bytes_of = block.reshape(len(rows), -1).view(np.uint8)
        first = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        with self.path.open("rb", buffering=0) as stream:
            for start, stop in zip(first.tolist(), [*first[1:].tolist(), len(rows)]):
                stream.seek(offset + int(rows[start]) * bytes_of.shape[1])
                _fill(stream, bytes_of[start:stop].data.cast("B"), self.path)
        return block


def _fill(stream: Any, room: memoryview, path: Path) -> None:
    while len(room):
        got = stream.readinto(room)
        if not got:
            raise ValueError(f"{path} ends before its last row; it has changed since it was opened.")
        room = room[got:]
