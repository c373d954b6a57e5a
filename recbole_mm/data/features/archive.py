"""Vectors that are too large to be read whole: where they stand in an archive, or block by block."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from recbole_mm.data.features import parquet
from recbole_mm.data.features.matrix import FeatureMatrix

__all__ = ["WHOLE", "Member", "blocks", "large_vectors", "member"]

WHOLE = 2**26
"""Bytes up to which an array is simply read: what is smaller is no burden, and stays where it is fast."""

_BLOCK = 2**22  # bytes
_LOCAL = struct.Struct("<4s22xHH")  # a member's own header: its mark, and the lengths of its name and its extras


class Member(NamedTuple):
    """An array in an archive.

    Attributes:
        shape: Its shape.
        dtype: Its type.
        offset: Where in the file its numbers begin; ``None`` where they are compressed.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int | None


def large_vectors(path: Path, in_order: bool) -> FeatureMatrix | None:
    """The vectors of a feature file that are not read whole.

    Args:
        path: A ``.npz`` or ``.parquet`` file.
        in_order: Whether those that can only be read in the order of the file count.

    Returns:
        Vectors that stay in the file; ``None`` for all others, and for whatever is wrong with it.
    """
    if path.suffix == ".parquet" and in_order:
        first = parquet.first_rows(path, WHOLE)
        if first is not None:
            return FeatureMatrix(path, *first, None, stream=partial(parquet.blocks, path, first[0]))
    found = member(path, "feature", without="count") if path.suffix == ".npz" else None
    if found is None or (found.offset is None and not in_order):
        return None
    stream = None if found.offset is not None else partial(blocks, path, "feature")
    return FeatureMatrix(path, found.shape, found.dtype, None, offset=found.offset, stream=stream)


def member(path: Path, name: str, without: str = "") -> Member | None:
    """A large array of an archive, its checksum compared if it is not compressed (then :func:`blocks` does that).

    Args:
        path: The archive.
        name: Name of the array.
        without: Name of an array beside which it is not to be read by itself.

    Returns:
        What is known of it; ``None`` for an array of at most :data:`WHOLE` bytes, for one in columns, and for whatever
        is wrong with the archive: reading it whole tells.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{name}.npy")
            if info.file_size <= WHOLE or f"{without}.npy" in archive.namelist():
                return None
            with archive.open(info) as stream:
                shape, in_columns, dtype = _header(stream)
                start = stream.tell()
                if in_columns or dtype.hasobject or info.file_size - start != math.prod(shape) * dtype.itemsize:
                    return None
                if info.compress_type != zipfile.ZIP_STORED:
                    return Member(shape, dtype, None)
                while stream.read(_BLOCK):
                    pass
        return Member(shape, dtype, _begin(path, info) + start)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError, RuntimeError):
        return None


def blocks(path: Path, name: str) -> Iterator[np.ndarray]:
    """The rows of an array, some at a time, in order.

    Args:
        path: The archive.
        name: Name of the array.

    Raises:
        ValueError: The archive is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
            shape, _, dtype = _header(stream)
            width = math.prod(shape[1:])
            step = max(_BLOCK // max(width * dtype.itemsize, 1), 1)
            for start in range(0, shape[0], step):
                rows = min(step, shape[0] - start)
                data = stream.read(rows * width * dtype.itemsize)
                yield np.frombuffer(data, dtype=dtype).reshape(rows, *shape[1:])
            stream.read(1)  # the end of the member, where its checksum is compared
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Write it again, or copy it again from its source."
        ) from error


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"an array of version {version}")
    shape, in_columns, dtype = read(stream)  # type: ignore[no-untyped-call]
    return tuple(shape), bool(in_columns), dtype


def _begin(path: Path, info: zipfile.ZipInfo) -> int:
    """Where in the file the content of a member begins: its own header may be longer than the archive's list says."""
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        mark, name, extra = _LOCAL.unpack(stream.read(_LOCAL.size))
    if mark != b"PK\x03\x04":
        raise zipfile.BadZipFile("a member does not begin where the archive says")
    return int(info.header_offset) + _LOCAL.size + int(name) + int(extra)
