"""Writers of exported tables: batches go to disk as they come, and the file appears when it is whole."""

from __future__ import annotations

import csv
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["check_format", "write_embeddings", "write_topk"]

TOPK_FORMATS = (".parquet", ".csv", ".npz")
EMBEDDING_FORMATS = (".parquet", ".npz")
_ROWS = 65_536

Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
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
        ValueError: Another ending.
        FileNotFoundError: There is no such folder.
        ImportError: A parquet file without pyarrow.
    """
    path = Path(file)
    if path.suffix not in formats:
        raise ValueError(f"{path}: the ending says the format; expected {', '.join(formats)}, got {path.suffix!r}.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.absolute().parent}.")
    if path.suffix == ".parquet":
        _pyarrow()
    return path


@contextmanager
def write_topk(file: Path, shape: tuple[int, int], types: tuple[np.dtype, np.dtype]) -> Iterator[Add]:
    """Open a table of recommendations.

    ``.parquet`` and ``.csv`` have a row per recommendation: ``user_id``, ``rank`` (from 1), ``item_id``, ``score`` and
    ``known_items``, the number of the user's items that the model knew. ``.npz`` has ``user_id`` and ``known_items``
    ``(n,)`` and ``item_id``, ``score`` ``(n, k)``, with an empty id and NaN where a user has fewer than ``k`` items
    left.

    Args:
        file: The file; its ending is the format.
        shape: Number of users that will come, and length of the lists.
        types: Types of the raw user and item ids.

    Yields:
        A function that takes a batch: raw user ids ``(b,)``, raw item ids ``(b, k)`` (empty for none), scores, and the
        number of known items of each user ``(b,)``.
    """
    with _whole(file) as temporary:
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
    with _whole(file) as temporary:
        (_parquet_embeddings if file.suffix == ".parquet" else _npz_embeddings)(temporary, tables)


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    temporary = file.with_name(f".{file.stem}.{os.getpid()}.tmp{file.suffix}")
    try:
        yield temporary
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _rows(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A batch in rows: users, ranks, items, scores, numbers of known items."""
    users, items, scores, known = batch
    row, rank = np.nonzero(items != "")
    return users[row], (rank + 1).astype(np.int32), items[row, rank], scores[row, rank].astype(np.float32), known[row]


@contextmanager
def _parquet_topk(file: Path, shape: Any, types: Any) -> Iterator[Add]:
    pa, pq = _pyarrow()
    types = [("user_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()), ("score", pa.float32())]
    schema = pa.schema([*types, ("known_items", pa.int64())])
    with pq.ParquetWriter(file, schema) as writer:
        yield lambda batch: writer.write_table(pa.table([pa.array(column) for column in _rows(batch)], schema=schema))


@contextmanager
def _csv_topk(file: Path, shape: Any, types: Any) -> Iterator[Add]:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["user_id", "rank", "item_id", "score", "known_items"])
        yield lambda batch: writer.writerows(zip(*(column.tolist() for column in _rows(batch))))


@contextmanager
def _npz_topk(file: Path, shape: tuple[int, int], types: tuple[np.dtype, np.dtype]) -> Iterator[Add]:
    """Three matrices on disk, packed into one archive at the end: memory holds one batch."""
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".export") as folder:
        columns = {
            name: np.lib.format.open_memmap(f"{folder}/{name}.npy", "w+", dtype, size)
            for name, dtype, size in (
                ("user_id", types[0], shape[:1]),
                ("item_id", types[1], shape),
                ("score", np.dtype(np.float32), shape),
                ("known_items", np.dtype(np.int64), shape[:1]),
            )
        }
        done = 0

        def add(batch: Batch) -> None:
            nonlocal done
            for column, values in zip(columns.values(), batch):
                column[done : done + len(values)] = values
            done += len(batch[0])

        yield add
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
            for name, column in columns.items():
                column.flush()
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
