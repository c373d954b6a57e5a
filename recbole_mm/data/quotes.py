"""Lines of a table with their quotation marks, of which one that is left open makes many rows one."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

__all__ = ["quoted_rows"]


def quoted_rows(
    lines: Iterable[str], path: Path, separator: str, skip_blanks: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table as pandas reads them: a quoted value may hold line breaks.

    Args:
        lines: The text, with its line ends.
        path: The file, for messages.
        separator: What stands between two columns.
        skip_blanks: Blanks behind a separator are none of the value.

    Yields:
        The number of the first line of a row, from 1, and its values; none for a blank line.

    Raises:
        ValueError: A quotation mark that is not closed where a value ends, with its line.
    """
    raw: list[str] = []
    reader = csv.reader(_recorded(lines, raw), delimiter=separator, skipinitialspace=skip_blanks)
    start = 1
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{path}, line {start}: the line cannot be read ({error}).") from error
        if row is None:
            return
        if len(raw) > 1:
            _check_quotes(path, start, raw, separator, skip_blanks)
        raw.clear()
        yield start, row
        start = reader.line_num + 1


def _recorded(lines: Iterable[str], raw: list[str]) -> Iterator[str]:
    for line in lines:
        raw.append(line)
        yield line


def _check_quotes(path: Path, start: int, raw: Sequence[str], separator: str, skip_blanks: bool) -> None:
    """A value that goes on in the next line was either meant so, or a quotation mark was left open."""
    try:
        if len(list(csv.reader(raw, delimiter=separator, skipinitialspace=skip_blanks, strict=True))) == 1:
            return
    except csv.Error:
        pass
    raise ValueError(
        f"{path}, line {start}: a value begins with a quotation mark that is not closed in its line, so that the lines "
        'below would be part of it. Remove the mark, or write the value as "..." with every mark in it doubled.'
    )
