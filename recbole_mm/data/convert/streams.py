"""Tables in files of lines, packed or not: csv, tsv and the like, and JSON."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pandas as pd

from recbole_mm.data.convert.packed import DAMAGED, unpacked
from recbole_mm.data.convert.text_table import CHUNK_ROWS, Table, check_columns, plain

__all__ = ["JsonTable", "TextTable"]

_SEPARATORS = ("\t", ",", ";", "|")
_SAMPLE_ROWS = 200
# A description may be longer than what the csv module takes for one cell. Raised only, for whoever else reads csv.
csv.field_size_limit(max(csv.field_size_limit(), 1 << 24))


class _StreamTable(Table):
    """A file that is read line by line, packed or not."""

    def __init__(self, path: Path, packed: str | None) -> None:
        self.name, self.size, self._path, self._packed = str(path), path.stat().st_size, path, packed

    @contextmanager
    def _opened(self, wrong: Callable[[], str]) -> Iterator[tuple[IO[str], IO[bytes]]]:
        """The text of the file, and the file below it, whose position tells how far reading is.

        Args:
            wrong: What to say of a file that is damaged, when that is met.

        Raises:
            ValueError: While it is read, the file turns out to be damaged or no text in UTF-8.
        """
        with self._path.open("rb") as below:
            raw: Any = below if self._packed is None else unpacked(self._path, self._packed, below)
            if self._packed is None and below.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise ValueError(f"{self._path} is UTF-16, as some spreadsheets save; save it as UTF-8.")
            if self._packed is None:
                below.seek(0)
            try:
                yield io.TextIOWrapper(raw, encoding="utf-8-sig", newline=""), below
            except UnicodeDecodeError as error:
                raise self._undecodable(error) from error
            except DAMAGED as error:
                raise ValueError(f"{self._path} {wrong()} ({error}); copy it again.") from error

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


class TextTable(_StreamTable):
    """Columns with a character between them."""

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
        check_columns(self.columns, self.name)

    def _sample(self) -> str:
        """The first lines, whole ones where the file is longer."""
        with self._opened(lambda: "cannot be unpacked") as (text, _):
            sample = text.read(1 << 18)
            more = bool(text.read(1))
        if "\0" in sample:
            raise ValueError(f"{self._path} is no text (it has zero bytes); expected a table in UTF-8.")
        return sample.rpartition("\n")[0] if more and "\n" in sample else sample

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[tuple[pd.DataFrame, int]]:
        """Pieces of the file, see :meth:`Table.chunks`."""
        wanted, start = list(self.columns if columns is None else columns), 0
        with self._opened(lambda: f"is damaged after row {start:,}") as (text, below), warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # columns that pandas would drop with a warning
            try:
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
            except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
                message = str(error).replace("Error tokenizing data. C error: ", "").strip()
                raise ValueError(
                    f"{self._path} cannot be read as a table of {len(self.columns)} columns separated by "
                    f"{self._separator!r}: {message}. A line with a separator or a line break within a value needs "
                    "quotes around the value, and a quote within it is written twice."
                ) from error


class JsonTable(_StreamTable):
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
        with self._opened(lambda: "is damaged") as (text, self._below):
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

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[tuple[pd.DataFrame, int]]:
        """Pieces of the file, see :meth:`Table.chunks`."""
        wanted, start = list(self.columns if columns is None else columns), 0
        rows: list[list[Any]] = []
        read = 0
        for _, record in self._records():
            rows.append([plain(record.get(name)) for name in wanted])
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


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
