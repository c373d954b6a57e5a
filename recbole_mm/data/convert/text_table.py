"""What a table is to whoever reads one: chunks of text, whatever it was written in."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["CHUNK_ROWS", "Table", "as_text", "check_columns", "plain"]

CHUNK_ROWS = 200_000
"""Rows that are in memory at once."""


class Table(ABC):
    """A table whose cells are text, read from the start as often as wanted.

    Attributes:
        name: What messages call it: the file, or ``the DataFrame``.
        columns: Names of its columns.
        parts: Names of what stands in objects of its cells, such as ``user.id``; read like columns where asked for.
        size: Bytes of the file, for a progress bar; ``None`` where a bar counts rows.
    """

    name: str
    columns: list[str]
    parts: Collection[str] = ()
    size: int | None = None

    @property
    def names(self) -> list[str]:
        """All that can be read: columns, then parts of objects."""
        return [*self.columns, *self.parts]

    @abstractmethod
    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[tuple[pd.DataFrame, int]]:
        """Pieces of the table in order.

        Args:
            columns: The columns and parts of objects wanted; all columns when not given.

        Yields:
            A frame of text (lists stay lists, times stay times) whose index counts rows from 0, and how many bytes of
            the file (rows of a DataFrame) have been read so far.

        Raises:
            ValueError: The table is damaged; names the file and the place.
        """

    def reads_along(self, column: str) -> bool:
        """Whether a column that nobody asked for can be read beside others, at little cost and without fail."""
        return True

    def read(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The whole table in one frame."""
        pieces = [piece for piece, _ in self.chunks(columns)]
        return pd.concat(pieces) if pieces else pd.DataFrame(columns=list(columns or self.columns), dtype=str)


def check_columns(columns: Sequence[str], name: str) -> None:
    """Refuse a column that is there twice."""
    repeated = sorted(column for column, count in Counter(columns).items() if count > 1)
    if repeated:
        raise ValueError(f"{name}: the column {repeated[0]!r} is there {columns.count(repeated[0])} times; rename one.")


def as_text(column: pd.Series, where: str) -> pd.Series:
    """Cells of a typed column as text; missing ones empty, lists and times as they are.

    Args:
        column: The cells.
        where: The table, for messages.

    Raises:
        ValueError: Bytes that are no text, such as pictures.
    """
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return column
    missing = column.isna()
    if pd.api.types.is_bool_dtype(column.dtype):
        return column.astype("Int8").astype(object).where(~missing, "").map(str)
    if pd.api.types.is_float_dtype(column.dtype):
        # Whole numbers become floats wherever a table in memory lacks one of them; an id 7 was never 7.0.
        whole = bool((column[~missing] % 1 == 0).all()) and bool((column[~missing].abs() < 2**53).all())
        text = column[~missing].astype(np.int64).map(str) if whole else column[~missing].map(_shortest)
        return text.reindex(column.index, fill_value="")
    if column.dtype == object or missing.any():
        try:
            return column.astype(object).where(~missing, "").map(plain)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{where}, column {column.name}: expected text, got bytes that are no UTF-8 ({error}). Of products and "
                f"users such a column is left out with types={{{str(column.name)!r}: 'drop'}} "
                f"(--types={column.name}=drop); pictures are read from files."
            ) from error
    return column.map(str)


def _shortest(value: float) -> str:
    """The shortest text that reads as the same number."""
    return repr(float(value))


def plain(value: Any) -> Any:
    """A cell as text, or as a list of texts."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, bytes):  # texts of programs that say nothing of their encoding, such as Impala's parquet
        return value.decode("utf-8")
    if isinstance(value, (list, tuple, np.ndarray)):
        return [str(plain(entry)) for entry in value if entry is not None]
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return json.dumps(value, ensure_ascii=False, default=plain) if isinstance(value, dict) else str(value)
