"""Tables as people have them: csv, tsv, jsonl, parquet or a DataFrame, read in chunks of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Union

import pandas as pd

from recbole_mm.data.convert.objects import part
from recbole_mm.data.convert.packed import SUFFIXES
from recbole_mm.data.convert.streams import JsonTable, TextTable
from recbole_mm.data.convert.text_table import CHUNK_ROWS, Table, as_text, check_columns

__all__ = ["Source", "open_table"]

Source = Union[str, Path, pd.DataFrame]

_SUFFIXES = {"csv": "text", "tsv": "text", "txt": "text", "dat": "text", "tab": "text", "inter": "text", "item": "text"}
_SUFFIXES |= {"user": "text", "jsonl": "json", "ndjson": "json", "json": "json", "parquet": "parquet", "pq": "parquet"}


def open_table(source: Source, separator: str | None = None, header: Sequence[str] | None = None) -> Table:
    """Find out what a table is written in.

    Args:
        source: A file (.csv, .tsv, .txt, .jsonl, .parquet; each also .gz, .bz2, .xz or .zst), or a DataFrame.
        separator: What separates the columns of a text file, where it is not to be found out.
        header: Names of the columns of a text file without a header line.

    Returns:
        The table; what has been read are its columns.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, not UTF-8, or nothing that can be read.
    """
    if isinstance(source, pd.DataFrame):
        return _FrameTable(source)
    path = Path(source).expanduser()
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected a file: .csv, .tsv, .jsonl or .parquet.")
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob("*")) if path.parent.is_dir() else []
        raise FileNotFoundError(f"There is no file {path}; {path.parent} has {', '.join(near[:10]) or 'no file'}.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; expected a table with a header line.")
    parts = path.name.lower().split(".")[1:]
    packed = parts.pop() if parts and parts[-1] in SUFFIXES else None
    kind = _SUFFIXES.get(parts[-1]) if parts else None
    if kind is None:
        known = ", ".join(f".{suffix}" for suffix in ("csv", "tsv", "txt", "jsonl", "parquet"))
        raise ValueError(f"{path}: expected a file that ends in {known} (or one of these and .gz, .bz2, .xz, .zst).")
    if kind == "parquet":
        return _ParquetTable(path)
    return JsonTable(path, packed) if kind == "json" else TextTable(path, packed, separator, header)


class _FrameTable(Table):
    def __init__(self, frame: pd.DataFrame) -> None:
        self.name, self._frame = "the DataFrame", frame
        self.columns = [str(column) for column in frame.columns]
        check_columns(self.columns, self.name)

    def reads_along(self, column: str) -> bool:
        return bool(pd.api.types.infer_dtype(self._frame.iloc[:, self.columns.index(column)]) != "bytes")

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[tuple[pd.DataFrame, int]]:
        wanted = list(self.columns if columns is None else columns)
        frame = self._frame.set_axis(self.columns, axis=1)[wanted]
        for start in range(0, len(frame), CHUNK_ROWS):
            piece = frame.iloc[start : start + CHUNK_ROWS]
            cells = {column: as_text(piece[column], self.name) for column in wanted}
            yield pd.DataFrame(cells).set_axis(range(start, start + len(piece))), start + len(piece)


class _ParquetTable(Table):
    def __init__(self, path: Path) -> None:
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise ImportError(f"{path}: reading parquet needs pyarrow: pip install 'recbole-mm[parquet]'.") from error
        self.name, self.size, self._path = str(path), path.stat().st_size, path
        try:
            self._file = parquet.ParquetFile(path)
        except Exception as error:  # pyarrow raises whatever the damage leads to
            raise ValueError(f"{path} is no complete parquet file ({error}); write or copy it again.") from error
        self.columns = list(self._file.schema_arrow.names)
        check_columns(self.columns, self.name)
        self._top = {name: field.name for field in self._file.schema_arrow for name in _leaves(field, "")}
        self.parts = [name for name in self._top if name not in self.columns]

    def reads_along(self, column: str) -> bool:
        # Of an object, all parts would be read.
        return column in self.columns and "binary" not in str(self._file.schema_arrow.field(column).type)

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[tuple[pd.DataFrame, int]]:
        wanted, start = list(self.columns if columns is None else columns), 0
        total = max(self._file.metadata.num_rows, 1)
        try:
            read = dict.fromkeys(name if name in self.columns else self._top[name] for name in wanted)
            for batch in self._file.iter_batches(CHUNK_ROWS, columns=list(read)):
                # As floats, which is how whole numbers come beside missing ones, long ids would become the same.
                columns_read = batch.to_pandas(integer_object_nulls=True, ignore_metadata=True)
                for name in set(wanted) - set(read):
                    cells = [part({self._top[name]: cell}, name) for cell in columns_read[self._top[name]]]
                    columns_read[name] = pd.Series(cells, index=columns_read.index, dtype=object)
                piece = {name: as_text(columns_read[name], self.name) for name in wanted}
                frame = pd.DataFrame(piece).set_axis(range(start, start + batch.num_rows))
                start += batch.num_rows
                yield frame, int((self.size or 0) * start / total)
        except OSError as error:
            raise ValueError(f"{self._path} is damaged after row {start:,} ({error}); copy it again.") from error


def _leaves(field: Any, above: str) -> Iterator[str]:
    """Names of the parts of a column of pyarrow that holds objects (structs)."""
    import pyarrow

    for below in field.type if pyarrow.types.is_struct(field.type) else ():
        name = f"{above or field.name}.{below.name}"
        deeper = list(_leaves(below, name))
        yield from deeper or [name]
