"""Columns of a ``.parquet`` file as numpy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_mm.data.features.ragged import ragged

__all__ = ["blocks", "first_rows", "ids", "read", "vectors"]

_NUMBERS = 2**20  # of a block
# Otherwise all of a column in a group of rows is fetched at once, and many a file is a single group.
_BY_PAGES = {"pre_buffer": False, "buffer_size": 2**20}


def read(path: Path, columns: Sequence[str]) -> tuple[Any, list[str]]:
    """Read columns of a file.

    Args:
        path: The file.
        columns: Names of the columns; those that the file lacks are left out.

    Returns:
        The pyarrow table, and the names of all columns that the file has.

    Raises:
        ImportError: pyarrow, an optional requirement, is not installed.
        ValueError: Not a parquet file.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError(f"{path}: reading parquet needs pyarrow; pip install pyarrow, or write a .npz.") from error
    try:
        found = parquet.read_schema(path).names
        return parquet.read_table(path, columns=[name for name in columns if name in found]), found
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error


def first_rows(path: Path, whole: int) -> tuple[tuple[int, ...], np.dtype] | None:
    """Shape and type of a large column ``feature`` of vectors of one length, told from its first row.

    Args:
        path: The file.
        whole: Bytes up to which a column is not large.

    Returns:
        Them; ``None`` for other columns, for lists of lists, whose number may differ, and for whatever is wrong with
        the file: reading it whole tells.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        with parquet.ParquetFile(path, **_BY_PAGES) as file:
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
            columns = (group.column(index) for group in groups for index in range(group.num_columns))
            found = (part for part in columns if part.path_in_schema.partition(".")[0] == "feature")
            if sum(part.total_uncompressed_size for part in found) <= whole:
                return None
            rows, batch = file.metadata.num_rows, next(file.iter_batches(batch_size=1, columns=["feature"]))
        array, count = vectors(arrow.Table.from_batches([batch]), path)
    except Exception:  # damage raises whatever it leads to
        return None
    return None if count is not None or array.ndim != 2 else ((rows, *array.shape[1:]), array.dtype)


def blocks(path: Path, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The vectors of a file, some rows at a time, in order.

    Args:
        path: The file.
        shape: From :func:`first_rows`.

    Raises:
        ValueError: A row is null or has another length, or the file is damaged.
    """
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path, **_BY_PAGES) as file:
            for batch in file.iter_batches(batch_size=max(_NUMBERS // max(shape[1], 1), 1), columns=["feature"]):
                array, _ = vectors(arrow.Table.from_batches([batch]), path)
                if array.shape[1:] != shape[1:]:
                    raise ValueError(
                        f"{path}: the lists in feature differ in length ({shape[1]} and {array.shape[-1]})."
                    )
                yield array
    except (OSError, arrow.ArrowException) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error


def ids(table: Any, name: str, path: Path) -> np.ndarray:
    """A column of ids, shape ``(rows,)``.

    Raises:
        ValueError: A row has no id.
    """
    column = table.column(name)
    if column.null_count:
        raise ValueError(f"{path}: column {name} has {column.null_count} nulls; every row needs an id.")
    # Without any row numpy would take them for numbers, and the message would be about their type.
    return np.array(column.to_pylist() or np.empty(0, dtype=str))


def vectors(table: Any, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The column ``feature`` of lists, of lists of lists, or of arrow's tensors; one row of the array per row.

    Lists of lists may differ in the number of their vectors, see :func:`ragged`; then the second result has it.

    Raises:
        ValueError: A row is null, or the lists differ in length.
    """
    column = table.column("feature").combine_chunks()
    shape: list[int] = [len(column)]
    counts: np.ndarray | None = None
    while hasattr(column.type, "value_type"):
        if column.null_count:
            raise ValueError(f"{path}: {column.null_count} rows of feature are null; leave such rows out.")
        if hasattr(column, "to_numpy_ndarray"):
            return column.to_numpy_ndarray(), None
        lengths = np.unique(np.asarray(column.value_lengths() if hasattr(column, "value_lengths") else 0))
        if len(lengths) > 1 and len(shape) == 1 and hasattr(column.type.value_type, "value_type"):
            counts = np.asarray(column.value_lengths(), dtype=np.int64)
            shape = [int(counts.sum())]
            column = column.flatten()
            continue
        if len(lengths) > 1:
            raise ValueError(f"{path}: the lists in feature differ in length ({lengths[0]} to {lengths[-1]}).")
        size = int(lengths[0]) if len(lengths) else 0
        shape.append(column.type.list_size if hasattr(column.type, "list_size") else size)
        column = column.flatten()
    values = column.to_numpy(zero_copy_only=False)
    found = values.reshape(shape) if values.size == np.prod(shape) else values
    return found if counts is None else ragged(found, counts, path), counts
