"""Columns of a ``.parquet`` file as numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_mm.data.features.ragged import ragged

__all__ = ["ids", "read", "vectors"]


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
