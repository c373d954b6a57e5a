"""Tables in files of lines, packed or not: csv, tsv and the like, and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pandas as pd

from recbole_mm.data.convert.objects import part, part_names
from recbole_mm.data.convert.packed import DAMAGED, unpacked
from recbole_mm.data.convert.text_table import CHUNK_ROWS, Table, check_columns, plain
from recbole_mm.data.quotes import quoted_rows

__all__ = ["JsonTable", "TextTable"]

_SEPARATORS = ("\t", ",", ";", "|")
_SAMPLE_ROWS = 200
_NAMED_SEPARATOR = re.compile(r"sep=([^\r\n])\r?\n", flags=re.IGNORECASE)  # what Excel writes above the header
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
            "(in Excel: CSV UTF-8; iconv -f cp1252 -t utf-8 converts what it writes otherwise)."
        )


class TextTable(_StreamTable):
    """Columns with a character between them."""

    def __init__(self, path: Path, packed: str | None, separator: str | None, header: Sequence[str] | None) -> None:
        super().__init__(path, packed)
        sample = self._sample()
        named = _NAMED_SEPARATOR.match(sample)
        self._above = 0 if named is None else 1  # lines above the header
        if named is not None:
            separator, sample = separator or named[1], sample[named.end() :]
        self._separator = separator or _find_separator(sample, path)
        header_line = sample.lstrip("\r\n").partition("\n")[0].split(self._separator)
        self._blanks = header is None and len(header_line) > 1 and all(name[:1] == " " for name in header_line[1:])
        try:
            rows = list(
                csv.reader(io.StringIO(sample, newline=""), delimiter=self._separator, skipinitialspace=self._blanks)
            )
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
        with self._opened(lambda: f"is damaged after row {start:,}") as (opened, below), warnings.catch_warnings():
            text = _Counted(opened)
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
                    skiprows=self._above,
                    skipinitialspace=self._blanks,
                )
                for piece in pieces:
                    self._refuse_header(piece, start)
                    frame = piece[wanted].set_axis(range(start, start + len(piece)))
                    start += len(frame)
                    yield frame, below.tell()
                if text.lines > start + self._above + 1:
                    self._check_quotes()
            except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
                message = str(error).replace("Error tokenizing data. C error: ", "").strip()
                raise ValueError(
                    f"{self._path} cannot be read as a table of {len(self.columns)} columns separated by "
                    f"{self._separator!r}: {message}. A line with a separator or a line break within a value needs "
                    "quotes around the value, and a quote within it is written twice."
                ) from error

    def _refuse_header(self, piece: pd.DataFrame, start: int) -> None:
        """Files that were put one behind the other have the names of the columns again, which are no ids."""
        again = piece[piece[self.columns[0]].str.strip(" \ufeff") == self.columns[0]]
        for name in self.columns[1:]:
            again = again[again[name].str.strip() == name]
        if len(again):
            row = start + int(piece.index.get_indexer(again.index)[0]) + 1
            raise ValueError(
                f"{self._path}, row {row}: the names of the columns "
                "stand among the values, as where files were put one behind the other; remove the line."
            )

    def _check_quotes(self) -> None:
        """Of more lines than rows some are blank, or part of a value; was it meant so?"""
        with self._opened(lambda: "is damaged") as (text, _):
            for _ in quoted_rows(text, self._path, self._separator, self._blanks):
                pass


class _Counted:
    """A text that counts its lines while it is read."""

    def __init__(self, text: IO[str]) -> None:
        self._text, self.lines = text, 0

    def read(self, size: int = -1) -> str:
        piece = self._text.read(size)
        self.lines += piece.count("\n")
        return piece

    def __iter__(self) -> Iterator[str]:  # pandas takes for a file what can be iterated
        return iter(self._text)


class JsonTable(_StreamTable):
    """One JSON object a line. Numbers keep the digits they are written with."""

    def __init__(self, path: Path, packed: str | None) -> None:
        super().__init__(path, packed)
        names: dict[str, None] = {}
        parts: dict[str, None] = {}
        for _, record in self._records():  # to the end, since a key may be rare
            names.update(dict.fromkeys(record))
            parts.update(dict.fromkeys(part_names(record)))
        if not names:
            raise ValueError(f'{path} has no line of JSON; expected an object a line, such as {{"user": "u1", ...}}.')
        self.columns, self.parts = list(names), [name for name in parts if name not in names]

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
            rows.append([plain(part(record, name)) for name in wanted])
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
