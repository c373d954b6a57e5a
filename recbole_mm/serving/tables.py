"""Writers of exported tables: batches go to disk as they come, and the file appears when it is whole."""

from __future__ import annotations

import csv
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recbole_mm.files import check_writable, replacing

__all__ = ["POPULAR", "Batch", "check_format", "write_embeddings", "write_topk"]

TOPK_FORMATS = (".parquet", ".csv", ".npz")
EMBEDDING_FORMATS = (".parquet", ".npz")
#: In the column ``ranked_by`` where no model ranked the list.
POPULAR = "popularity"
_ROWS = 65_536


class Batch(NamedTuple):
    """Lists of some users.

    Attributes:
        users: Raw ids, ``(b,)``.
        items: Raw ids of the items from the best, ``(b, k)``, empty where a list is shorter.
        scores: Their scores, NaN where there is no item.
        known: Number of items of each user that the model knew, ``(b,)``.
        new: Whether each item has no training interaction, ``(b, k)``.
        by: What ranked the lists: the name of the model, or `POPULAR`.
    """

    users: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    known: np.ndarray
    new: np.ndarray
    by: str


_COLUMNS = ("user_id", "rank", "item_id", "score", "known_items", "new", "ranked_by")
Add = Callable[[Batch], None]
Table = tuple[np.ndarray, Callable[[slice], np.ndarray], int]


def check_format(file: str | os.PathLike[str], formats: tuple[str, ...]) -> Path:
    """Refuse a file name whose ending says nothing that can be written, or whose folder is missing.

    Args:
        file: The file.
        formats: Endings that can be written.

    Returns:
        The file.

    Raises:
        ValueError: Another ending, or a folder of this name.
        FileNotFoundError: There is no such folder.
        WriteError: The folder cannot be written to.
        ImportError: A parquet file without pyarrow.
    """
    path = Path(file)
    if path.suffix not in formats:
        raise ValueError(f"{path}: the ending says the format; expected {', '.join(formats)}, got {path.suffix!r}.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.absolute().parent}.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected the name of a file.")
    check_writable(path)
    if path.suffix == ".parquet":
        _pyarrow()
    return path


@contextmanager
def write_topk(file: Path, shape: tuple[int, int], types: tuple[np.dtype, np.dtype, np.dtype]) -> Iterator[Add]:
    """Open a table of recommendations.

    ``.parquet`` and ``.csv`` have a row per recommendation: ``user_id``, ``rank`` (from 1), ``item_id``, ``score``,
    ``known_items`` (the number of the user's items that the model knew), ``new`` (whether the item has no training
    interaction) and ``ranked_by`` (the model, or ``popularity``). ``.npz`` has ``user_id``, ``known_items`` and
    ``ranked_by`` ``(n,)`` and ``item_id``, ``score`` and ``new`` ``(n, k)``, with an empty id and NaN where a user has
    fewer than ``k`` items left.

    Args:
        file: The file; its ending is the format.
        shape: Number of users that will come, and length of the lists.
        types: Types of the raw user and item ids and of ``ranked_by``.

    Yields:
        A function that takes a :class:`Batch`.
    """
    with replacing(file) as temporary:
        writer = {".parquet": _parquet_topk, ".csv": _csv_topk, ".npz": _npz_topk}[file.suffix]
        with writer(temporary, shape, types) as add:
            yield add


def write_embeddings(file: Path, tables: Mapping[str, Table]) -> None:
    """Write embeddings with raw ids.

    ``.npz`` has ``user_id``, ``user_embedding``, ``item_id`` and ``item_embedding``; ``.parquet`` has a row per entity:
    ``entity`` (user or item), ``id`` and ``embedding`` (a list).

    Args:
        file: The file; its ending is the format.
        tables: Entity to its raw ids, a function from a slice of rows to their vectors, and the width.
    """
    with replacing(file) as temporary:
        (_parquet_embeddings if file.suffix == ".parquet" else _npz_embeddings)(temporary, tables)


def _rows(batch: Batch) -> tuple[np.ndarray, ...]:
    """A batch in rows, an array for each of the columns."""
    row, rank = np.nonzero(batch.items != "")
    ids = batch.users[row], (rank + 1).astype(np.int32), batch.items[row, rank]
    scores = batch.scores[row, rank].astype(np.float32)
    return (*ids, scores, batch.known[row].astype(np.int64), batch.new[row, rank], np.full(len(row), batch.by))


@contextmanager
def _parquet_topk(file: Path, shape: Any, types: Any) -> Iterator[Add]:
    pa, pq = _pyarrow()
    kinds = pa.string(), pa.int32(), pa.string(), pa.float32(), pa.int64(), pa.bool_(), pa.string()
    schema = pa.schema(list(zip(_COLUMNS, kinds)))
    with pq.ParquetWriter(file, schema) as writer:
        yield lambda batch: writer.write_table(pa.table([pa.array(column) for column in _rows(batch)], schema=schema))


@contextmanager
def _csv_topk(file: Path, shape: Any, types: Any) -> Iterator[Add]:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(_COLUMNS)
        yield lambda batch: writer.writerows(zip(*(column.tolist() for column in _rows(batch))))


@contextmanager
def _npz_topk(file: Path, shape: tuple[int, int], types: tuple[np.dtype, np.dtype, np.dtype]) -> Iterator[Add]:
    """The matrices on disk, packed into one archive at the end: memory holds one batch.

    They are written row by row, not mapped into memory: on a full disk a write fails, a mapping ends the process.
    """
    arrays = {
        "user_id": (types[0], shape[:1]),
        "item_id": (types[1], shape),
        "score": (np.dtype(np.float32), shape),
        "known_items": (np.dtype(np.int64), shape[:1]),
        "new": (np.dtype(np.bool_), shape),
        "ranked_by": (types[2], shape[:1]),
    }
    # In the hidden name of the file, so that an error in it is one of the file.
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f"{file.name}-") as folder, ExitStack() as streams:
        columns = []
        for name, (dtype, size) in arrays.items():
            stream = streams.enter_context(open(f"{folder}/{name}.npy", "wb"))
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(size)}
            np.lib.format.write_array_header_1_0(stream, header)
            columns.append((stream, dtype))

        def add(batch: Batch) -> None:
            for (stream, dtype), values in zip(columns, batch):
                rows = np.asarray(values, dtype=dtype)
                stream.write((np.full(len(batch.users), rows) if rows.ndim == 0 else rows).tobytes())

        yield add
        streams.close()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
            for name in arrays:
                archive.write(f"{folder}/{name}.npy", f"{name}.npy")


def _npz_embeddings(file: Path, tables: Mapping[str, Table]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for entity, (ids, vectors, width) in tables.items():
            with archive.open(f"{entity}_id.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, ids, allow_pickle=False)
            with archive.open(f"{entity}_embedding.npy", "w", force_zip64=True) as stream:
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(ids), width)}
                np.lib.format.write_array_header_1_0(stream, header)
                for start in range(0, len(ids), _ROWS):
                    stream.write(np.ascontiguousarray(vectors(slice(start, start + _ROWS)), dtype="<f4").tobytes())


def _parquet_embeddings(file: Path, tables: Mapping[str, Table]) -> None:
    pa, pq = _pyarrow()
    schema = pa.schema([("entity", pa.string()), ("id", pa.string()), ("embedding", pa.list_(pa.float32()))])
    with pq.ParquetWriter(file, schema) as writer:
        for entity, (ids, vectors, _) in tables.items():
            for start in range(0, len(ids), _ROWS):
                rows = slice(start, start + _ROWS)
                block = list(vectors(rows).astype(np.float32))
                columns = [pa.array([entity] * len(block)), pa.array(ids[rows]), pa.array(block, type=schema.types[2])]
                writer.write_table(pa.table(columns, schema=schema))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "A .parquet file needs pyarrow, which is not installed: pip install 'recbole-mm[parquet]', or choose .npz."
        ) from error
    return pyarrow, pyarrow.parquet
