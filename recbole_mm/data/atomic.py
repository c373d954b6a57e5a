"""RecBole's atomic files, checked before they are read: what is wrong is named with file, line and remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_mm.config.names import suggest
from recbole_mm.data.quotes import quoted_rows

__all__ = ["READ_AS_MISSING", "check_atomic", "check_columns", "check_numbers", "check_untyped", "read_header"]

READ_AS_MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
"""What pandas, with which RecBole reads atomic files, may take for a missing value, whatever its version."""

_TYPES = ("token", "token_seq", "float", "float_seq")
_PADDING = "[PAD]"
_OTHER_SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars", " ": "blanks"}


def read_header(path: Path, separator: str = "\t", encoding: str = "utf-8") -> dict[str, str]:
    """Columns of an atomic file and their types, from its first line.

    Args:
        path: The file.
        separator: What stands between two columns.
        encoding: How the text is encoded.

    Returns:
        Name to type.

    Raises:
        ValueError: No text in this encoding, a byte order mark, no line, or a line that is not ``name:type`` between
            separators, every name once.
    """
    line = _first_line(path, encoding).rstrip("\r\n")
    if not line.strip():
        raise ValueError(
            f"{path}, line 1: expected the columns with their types, such as user_id:token{_shown(separator)}"
            "item_id:token, and the line is empty."
        )
    columns = line.split(separator)
    found: dict[str, str] = {}
    for column in columns:
        name, colon, kind = column.partition(":")
        if not colon or not name:
            raise ValueError(_no_type(path, line, columns, column, separator))
        if kind not in _TYPES:
            raise ValueError(_unknown_type(path, name, kind, separator))
        if name in found:
            raise ValueError(f"{path}, line 1: the column {name} is there twice; give each column a name of its own.")
        found[name] = kind
    return found


def check_columns(path: Path, header: Mapping[str, str], needed: Sequence[tuple[str, str]]) -> None:
    """Check that an atomic file has the columns that options name, ids as tokens.

    Args:
        path: The file.
        header: The columns that it has, each with its type.
        needed: Columns that must be there, each with the option that names it.

    Raises:
        ValueError: One is not there, or of another type.
    """
    for name, option in needed:
        if name not in header:
            raise ValueError(
                f"{path}, line 1: there is no column {name}, which {option} names.{suggest(name, header)} There is "
                f"{', '.join(header)}; rename the column, or set {option}."
            )
        if option.endswith("_ID_FIELD") and header[name] != "token":
            raise ValueError(
                f"{path}, line 1: {name} holds ids ({option}), which are of the type token, got {header[name]}; write "
                f"{name}:token."
            )


def check_atomic(
    path: Path, separator: str = "\t", encoding: str = "utf-8", needed: Sequence[tuple[str, str]] = ()
) -> None:
    """Check an atomic file: its text, its first line and the number of values in every line.

    Args:
        path: The file.
        separator: What stands between two columns.
        encoding: How the text is encoded.
        needed: Columns that must be there, each with the option that names it.

    Raises:
        ValueError: Anything that RecBole would stumble over, or read as something else, with the line.
    """
    header = read_header(path, separator, encoding)
    check_columns(path, header, needed)
    ids = {list(header).index(name): name for name, option in needed if option.endswith("_ID_FIELD")}
    first, lines = [f"{name}:{kind}" for name, kind in header.items()], 0
    for number, row in _full_rows(path, list(header), separator, encoding):
        if row[0] == first[0] and row == first:
            raise ValueError(
                f"{path}, line {number}: the line with the names of the columns is there again, as where files were "
                "put one behind the other; remove it."
            )
        if _PADDING in row and any(row[index] == _PADDING for index in ids):
            raise ValueError(
                f"{path}, line {number}: an id is {_PADDING}, which RecBole calls the empty place of a list; give it "
                "another name."
            )
        lines += 1
    if not lines:
        raise ValueError(f"{path} has columns, but no line below them; there is nothing to read.")


def check_untyped(path: Path, separator: str = "\t") -> None:
    """Check a table in UTF-8 whose columns have names, and maybe no types: its text and the number of values a line.

    Args:
        path: The file.
        separator: What stands between two columns.

    Raises:
        ValueError: No text, a column that is there twice, or a line with more or fewer values than columns.
    """
    columns = _first_line(path, "utf-8-sig").rstrip("\r\n").split(separator)
    repeated = next((name for name in columns if columns.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(f"{path}, line 1: the column {repeated!r} is there twice; give each column a name of its own.")
    for _ in _full_rows(path, columns, separator, "utf-8-sig"):
        pass


def check_numbers(path: Path, separator: str, encoding: str, seq_separator: str) -> None:
    """Find what is no number in a column of numbers; for a file that could not be read.

    Raises:
        ValueError: Such a value, with its line and column.
    """
    header = read_header(path, separator, encoding)
    numeric = [(index, name, kind) for index, (name, kind) in enumerate(header.items()) if kind.startswith("float")]
    for number, row in _rows(path, separator, encoding):
        for index, name, kind in numeric:
            values = row[index].split(seq_separator) if kind == "float_seq" else [row[index]]
            for value in filter(None, values):
                try:
                    float(value)
                except ValueError:
                    raise ValueError(
                        f"{path}, line {number}: {name} is of type {kind}, and {value!r} is no number; mend the value, "
                        f"or make the column {name}:{kind.replace('float', 'token')}."
                    ) from None


def _first_line(path: Path, encoding: str) -> str:
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected a file of tab-separated lines.")
    with path.open("rb") as stream:
        start = stream.read(4)
    if not start:
        raise ValueError(
            f"{path} is empty; expected a first line such as user_id:token\\titem_id:token, and a line per row."
        )
    if start[:2] in (b"\xff\xfe", b"\xfe\xff") and "16" not in encoding:
        raise ValueError(f"{path} is encoded in UTF-16; save it as UTF-8, or set encoding: utf-16.")
    if start[:3] == b"\xef\xbb\xbf" and encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        raise ValueError(
            f"{path}, line 1: there is a byte order mark before the first column, which would be part of its name; "
            "save the file as UTF-8 without BOM, or set encoding: utf-8-sig."
        )
    for line in _lines(path, encoding):
        return line
    return ""


def _lines(path: Path, encoding: str) -> Iterator[str]:
    number = 0
    try:
        with path.open(encoding=encoding, newline="") as stream:
            for line in stream:
                number += 1
                if "\0" in line:
                    raise ValueError(
                        f"{path}, line {number}: there is a zero byte in the text; the file was damaged, or is no text."
                    )
                yield line
    except LookupError as error:
        raise ValueError(f"encoding: {encoding!r} is no encoding that Python knows; usual is utf-8.") from error
    except UnicodeError as error:
        bad = _undecodable(path, encoding) or number + 1
        raise ValueError(
            f"{path}, line {bad}: the text is not {encoding} ({error}); save the file as UTF-8, or name its encoding "
            "with the option encoding, such as encoding: latin-1."
        ) from error


def _undecodable(path: Path, encoding: str) -> int | None:
    """Number of the first line that cannot be decoded alone; ``None`` where lines cannot be told apart so."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode(encoding)
            except UnicodeError:
                return number
    return None


def _rows(path: Path, separator: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """The rows below the header with their lines, as pandas reads them for RecBole: a quoted value may hold breaks."""
    if len(separator) != 1:  # a pattern, which pandas reads in another way
        for number, line in enumerate(_lines(path, encoding), start=1):
            if number > 1 and line.strip():
                yield number, line.rstrip("\r\n").split(separator)
        return
    for number, row in quoted_rows(_lines(path, encoding), path, separator):
        if number > 1 and row:
            yield number, row


def _full_rows(path: Path, columns: Sequence[str], separator: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """The rows below the header, each of which has a value for every column."""
    for number, row in _rows(path, separator, encoding):
        if len(row) != len(columns):
            raise ValueError(
                f"{path}, line {number}: expected {len(columns)} values, one for each of {', '.join(columns)}, got "
                f"{len(row)}. Put {_name(separator)} between the values, also beside an empty one, and none in a value."
            )
        yield number, row


def _no_type(path: Path, line: str, columns: Sequence[Any], column: str, separator: str) -> str:
    other = next((name for mark, name in _OTHER_SEPARATORS.items() if mark != separator and mark in line), None)
    if len(columns) == 1 and other is not None:
        return (
            f"{path}, line 1: expected {_name(separator)} between the columns, and the line has {other}: "
            f"{line[:80]!r}. Write {_name(separator)}, or set field_separator."
        )
    return (
        f"{path}, line 1: the column {column!r} has no type. Expected name:type, such as user_id:token"
        f"{_shown(separator)}item_id:token{_shown(separator)}timestamp:float, with a type of {', '.join(_TYPES)}."
    )


def _unknown_type(path: Path, name: str, kind: str, separator: str) -> str:
    other = next((text for mark, text in _OTHER_SEPARATORS.items() if mark != separator and mark in kind), None)
    if other is not None:
        return (
            f"{path}, line 1: expected {_name(separator)} between the columns, and the line has {other} "
            f"({f'{name}:{kind}'[:60]!r}). Write {_name(separator)}, or set field_separator."
        )
    return (
        f"{path}, line 1: the column {name} has the type {kind!r}; expected one of {', '.join(_TYPES)}."
        f"{suggest(kind, _TYPES)}"
    )


def _name(separator: str) -> str:
    return _OTHER_SEPARATORS.get(separator, f"{separator!r}")


def _shown(separator: str) -> str:
    return "\\t" if separator == "\t" else separator
