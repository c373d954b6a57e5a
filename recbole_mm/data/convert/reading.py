"""Tables as people have them: csv, tsv, jsonl, parquet or a DataFrame, read in chunks of text."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Union

import numpy as np
import pandas as pd

__all__ = ["CHUNK_ROWS", "Source", "Table", "open_table"]

CHUNK_ROWS = 200_000
"""Rows that are in memory at once."""

Source = Union[str, Path, pd.DataFrame]

_SEPARATORS = ("\t", ",", ";", "|")
_SAMPLE_ROWS = 200
_SUFFIXES = {"csv": "text", "tsv": "text", "txt": "text", "dat": "text", "tab": "text", "inter": "text", "item": "text"}
_SUFFIXES |= {"user": "text", "jsonl": "json", "ndjson": "json", "json": "json", "parquet": "parquet", "pq": "parquet"}
# A description may be longer than what the csv module takes for one cell. Raised only, for whoever else reads csv.
csv.field_size_limit(max(csv.field_size_limit(), 1 << 24))
_PACKED: dict[str, Any] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}


class Table(ABC):
    """A table whose cells are text, read from the start as often as wanted.

    Attributes:
        name: What messages call it: the file, or ``the DataFrame``.
        columns: Names of its columns.
        size: Bytes of the file, for a progress bar; ``None`` where a bar counts rows.
    """

    name: str
    columns: list[str]
    size: int | None = None

    @abstractmethod
    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[tuple[pd.DataFrame, int]]:
        """Pieces of the table in order.

        Args:
            columns: The columns wanted; all when not given.

        Yields:
            A frame of text (lists stay lists, times stay times) whose index counts rows from 0, and how many bytes of
            the file (rows of a DataFrame) have been read so far.

        Raises:
            ValueError: The table is damaged; names the file and the place.
        """

    def read(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The whole table in one frame."""
        pieces = [piece for piece, _ in self.chunks(columns)]
        return pd.concat(pieces) if pieces else pd.DataFrame(columns=list(columns or self.columns), dtype=str)


def open_table(source: Source, separator: str | None = None, header: Sequence[str] | None = None) -> Table:
    """Find out what a table is written in.

    Args:
        source: A file (.csv, .tsv, .txt, .jsonl, .parquet; each also .gz, .bz2, .xz or .zst), or a DataFrame.
        separator: What separates the columns of a text file, where it is not to be found out.
        header: Names of the columns of a text file without a header line.

    Returns:
        The table; nothing but its head has been read.

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
    packed = parts.pop() if parts and parts[-1] in (*_PACKED, "zst") else None
    kind = _SUFFIXES.get(parts[-1]) if parts else None
    if kind is None:
        known = ", ".join(f".{suffix}" for suffix in ("csv", "tsv", "txt", "jsonl", "parquet"))
        raise ValueError(f"{path}: expected a file that ends in {known} (or one of these and .gz, .bz2, .xz, .zst).")
    if kind == "parquet":
        return _ParquetTable(path)
    return _JsonTable(path, packed) if kind == "json" else _TextTable(path, packed, separator, header)


class _FrameTable(Table):
    def __init__(self, frame: pd.DataFrame) -> None:
        self.name, self._frame = "the DataFrame", frame
        self.columns = [str(column) for column in frame.columns]
        _check_columns(self.columns, self.name)

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[tuple[pd.DataFrame, int]]:
        wanted = list(self.columns if columns is None else columns)
        frame = self._frame.set_axis(self.columns, axis=1)[wanted]
        for start in range(0, len(frame), CHUNK_ROWS):
            piece = frame.iloc[start : start + CHUNK_ROWS]
            as_text = {column: _as_text(piece[column], self.name) for column in wanted}
            yield pd.DataFrame(as_text).set_axis(range(start, start + len(piece))), start + len(piece)


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
        _check_columns(self.columns, self.name)

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[tuple[pd.DataFrame, int]]:
        wanted, start = list(self.columns if columns is None else columns), 0
        total = max(self._file.metadata.num_rows, 1)
        try:
            for batch in self._file.iter_batches(CHUNK_ROWS, columns=wanted):
                piece = {name: _as_text(batch.column(name).to_pandas(), self.name) for name in wanted}
                frame = pd.DataFrame(piece).set_axis(range(start, start + batch.num_rows))
                start += batch.num_rows
                yield frame, int((self.size or 0) * start / total)
        except OSError as error:
            raise ValueError(f"{self._path} is damaged after row {start:,} ({error}); copy it again.") from error


class _StreamTable(Table):
    """A file that is read line by line, packed or not."""

    def __init__(self, path: Path, packed: str | None) -> None:
        self.name, self.size, self._path, self._packed = str(path), path.stat().st_size, path, packed

    def _open(self) -> tuple[IO[str], IO[bytes]]:
        """The text of the file, and the file below it, whose position tells how far reading is."""
        below = self._path.open("rb")
        if self._packed == "zst":
            try:
                import zstandard
            except ImportError as error:
                raise ImportError(f"{self._path}: reading .zst needs zstandard: pip install zstandard.") from error
            raw: Any = zstandard.ZstdDecompressor().stream_reader(below)
        else:
            raw = below if self._packed is None else _PACKED[self._packed](below)
        if self._packed is None and below.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError(f"{self._path} is UTF-16, as some spreadsheets save; save it as UTF-8.")
        if self._packed is None:
            below.seek(0)
        return io.TextIOWrapper(raw, encoding="utf-8-sig", newline=""), below

    def _undecodable(self, error: UnicodeDecodeError) -> ValueError:
        wrong = bytes(error.object[error.start : error.end])
        line = 1
        with self._path.open("rb") as stream:
            for line, text in enumerate(stream, start=1):  # noqa: B007 - the last value counts
                try:
                    text.decode("utf-8")
                except UnicodeDecodeError:
                    break
        where = f", line {line}" if self._packed is None else ""
        return ValueError(
            f"{self._path}{where}: expected text in UTF-8, got the byte {wrong!r}; save the file as UTF-8 "
            "(iconv -f latin1 -t utf-8 converts files of older programs)."
        )


class _TextTable(_StreamTable):
    def __init__(self, path: Path, packed: str | None, separator: str | None, header: Sequence[str] | None) -> None:
        super().__init__(path, packed)
        sample = self._sample()
        self._separator = separator or _find_separator(sample, path)
        try:
            rows = list(csv.reader(io.StringIO(sample, newline=""), delimiter=self._separator))
        except (csv.Error, TypeError) as error:
            raise ValueError(f"{path} cannot be read as a table separated by {self._separator!r}: {error}.") from error
        rows = [row for row in rows if row]
        if not rows:
            raise ValueError(f"{path} has no line of text; expected a table with a header line.")
        self._has_header = header is None
        # A table that pandas wrote with its index has no name over the first column.
        self.columns = [name.strip() or f"column_{place}" for place, name in enumerate(header or rows[0], start=1)]
        if self._has_header and any(_is_number(cell) for cell in rows[0]):
            raise ValueError(
                f"{path}: the first line, {sample.splitlines()[0][:80]!r}, should name the columns. If the file has no "
                "such line, name them: header=['user', 'item', ...] (--header=user,item,...)."
            )
        _check_columns(self.columns, self.name)

    def _sample(self) -> str:
        """The first lines, whole ones where the file is longer."""
        text, below = self._open()
        try:
            sample = text.read(1 << 18)
            more = bool(text.read(1))
        except UnicodeDecodeError as error:
            raise self._undecodable(error) from error
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise ValueError(f"{self._path} cannot be unpacked ({error}); copy it again.") from error
        finally:
            below.close()
        if "\0" in sample:
            raise ValueError(f"{self._path} is no text (it has zero bytes); expected a table in UTF-8.")
        return sample.rpartition("\n")[0] if more and "\n" in sample else sample

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[tuple[pd.DataFrame, int]]:
        wanted, start = list(self.columns if columns is None else columns), 0
        text, below = self._open()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # columns that pandas would drop with a warning
                # All columns are read, since with some of them pandas would forgive lines with too many cells.
                pieces = pd.read_csv(
                    text,
                    sep=self._separator,
                    names=self.columns,
                    header=0 if self._has_header else None,
                    dtype=str,
                    keep_default_na=False,
                    na_filter=False,
                    index_col=False,
                    chunksize=CHUNK_ROWS,
                )
                for piece in pieces:
                    frame = piece[wanted].set_axis(range(start, start + len(piece)))
                    start += len(frame)
                    yield frame, below.tell()
        except UnicodeDecodeError as error:
            raise self._undecodable(error) from error
        except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
            message = str(error).replace("Error tokenizing data. C error: ", "").strip()
            raise ValueError(
                f"{self._path} cannot be read as a table of {len(self.columns)} columns separated by "
                f"{self._separator!r}: {message}. A line with a separator or a line break within a value needs quotes "
                "around the value, and a quote within it is written twice."
            ) from error
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise ValueError(f"{self._path} is damaged after row {start:,} ({error}); copy it again.") from error
        finally:
            below.close()


class _JsonTable(_StreamTable):
    """One JSON object a line. Numbers keep the digits they are written with."""

    def __init__(self, path: Path, packed: str | None) -> None:
        super().__init__(path, packed)
        names: dict[str, None] = {}
        for number, record in self._records():
            names.update(dict.fromkeys(record))
            if number >= _SAMPLE_ROWS:
                break
        if not names:
            raise ValueError(f'{path} has no line of JSON; expected an object a line, such as {{"user": "u1", ...}}.')
        self.columns = list(names)

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        text, below = self._open()
        self._below = below
        try:
            for number, line in enumerate(text, start=1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line, parse_float=str, parse_int=str, parse_constant=lambda _: "")
                except ValueError as error:
                    raise ValueError(
                        f"{self._path}, line {number}: no JSON ({error}); expected an object a line."
                    ) from error
                if not isinstance(record, dict):
                    raise ValueError(f"{self._path}, line {number}: expected an object, got {type(record).__name__}.")
                yield number, record
        except UnicodeDecodeError as error:
            raise self._undecodable(error) from error
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise ValueError(f"{self._path} is damaged ({error}); copy it again.") from error
        finally:
            below.close()

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[tuple[pd.DataFrame, int]]:
        wanted, start = list(self.columns if columns is None else columns), 0
        rows: list[list[Any]] = []
        read = 0
        for _, record in self._records():
            rows.append([_plain(record.get(name)) for name in wanted])
            if len(rows) == CHUNK_ROWS:
                read = self._below.tell()
                yield pd.DataFrame(rows, columns=wanted, index=range(start, start + len(rows)), dtype=object), read
                start, rows = start + len(rows), []
        if rows:
            frame = pd.DataFrame(rows, columns=wanted, index=range(start, start + len(rows)), dtype=object)
            yield frame, self.size or 0


def _find_separator(sample: str, path: Path) -> str:
    """The separator that cuts the first lines into the same number of columns, the most if several do."""
    if path.name.lower().endswith((".inter", ".user", ".item")):
        return "\t"
    best: tuple[float, int, str] | None = None
    for separator in _SEPARATORS:
        try:
            rows = [row for row in csv.reader(io.StringIO(sample, newline=""), delimiter=separator) if row][
                :_SAMPLE_ROWS
            ]
        except csv.Error:
            continue
        widths = Counter(len(row) for row in rows)
        width = len(rows[0]) if rows else 1
        if width > 1 and (best is None or (widths[width] / len(rows), width) > best[:2]):
            best = (widths[width] / len(rows), width, separator)
    if best is not None:
        return best[2]
    first = sample.splitlines()[0][:80] if sample.strip() else ""
    known = ", ".join(repr(separator) for separator in _SEPARATORS)
    raise ValueError(
        f"{path}: none of {known} separates the first line, {first!r}, into columns; name the character that does "
        "(separator=' ', --separator=' ')."
    )


def _check_columns(columns: Sequence[str], name: str) -> None:
    repeated = sorted(column for column, count in Counter(columns).items() if count > 1)
    if repeated:
        raise ValueError(f"{name}: the column {repeated[0]!r} is there {columns.count(repeated[0])} times; rename one.")


def _as_text(column: pd.Series, name: str) -> pd.Series:
    """Cells of a typed column as text; missing ones empty, lists and times as they are."""
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
        return column.astype(object).where(~missing, "").map(_plain)
    return column.map(str)


def _shortest(value: float) -> str:
    """The shortest text that reads as the same number."""
    return repr(float(value))


def _plain(value: Any) -> Any:
    """A cell as text, or as a list of texts."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (list, tuple, np.ndarray)):
        return [str(_plain(entry)) for entry in value if entry is not None]
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
