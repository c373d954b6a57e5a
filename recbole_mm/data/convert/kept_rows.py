"""Which rows of a table are interactions: all, or those asked for, such as the purchases of a log of events."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from recbole_mm.config.names import suggest
from recbole_mm.data.convert.columns import no_column, simple_name
from recbole_mm.data.convert.import_report import ImportReport
from recbole_mm.data.convert.text_table import Table, plain

__all__ = ["AllRows", "KeptRows", "rows_asked"]

# Usual names of columns that tell kinds of events; case, blanks, dots and `_` do not count.
_EVENTS = {"event", "eventtype", "eventname", "action", "actiontype", "type", "interaction", "interactiontype"}
_EVENTS |= {"behavior", "behaviour", "behaviortype", "behaviourtype"}
_OBJECTS_TYPE = "type"  # within another object, `device.type`, it is the type of that
_STRONG = re.compile("purchas|buy|bought|order|transaction|sale|sold|paid", flags=re.IGNORECASE)
_FEW = 20  # kinds of events; what has more of them is something else
_COUNTED = 1000  # distinct values in memory; a column of sessions has millions
_SHOWN = 8
_NUMBER = re.compile(r"([-+]?)(0|[1-9]\d*)(?:\.(\d*))?")  # not 007, which is a code
_BOOLEANS = {"true": "1", "false": "0"}


class AllRows:
    """Every row is an interaction; a note says so where a column looks as if only some should be.

    Attributes:
        columns: The columns that were asked about.
    """

    columns: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._where, self._column = "", ""
        self._kinds: Counter[str] = Counter()

    def begin(self, table: Table, taken: Collection[str]) -> list[str]:
        """Start with a table.

        Args:
            table: The table.
            taken: Columns of it that mean something else.

        Returns:
            The columns to read.
        """
        found = (name for name in table.names if _is_event(name, table) and name not in taken)
        column = next((name for name in found if table.reads_along(name)), None)
        if column is None or self._column not in ("", column) or len(self._kinds) > _FEW:
            return []
        self._where, self._column = self._where or table.name, column
        return [column]

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of a piece of the table that are interactions."""
        if self._column and self._column in frame and len(self._kinds) <= _FEW:
            codes, texts = _values(frame[self._column])
            _count(self._kinds, texts, np.bincount(codes), _FEW + 1)
        return frame

    def end(self) -> None:
        """The table has been read."""

    def describe(self, report: ImportReport) -> None:
        """Say which rows were taken, once all tables are read."""
        # A value with one of these could not be given as it is shown.
        kinds = [kind for kind in self._kinds if kind and not set(kind) & set("|'\n")]
        if kinds and 2 <= len(self._kinds) <= _FEW:
            strong = [kind for kind in kinds if _STRONG.search(kind)]
            some = min(strong or kinds, key=lambda kind: self._kinds[kind])
            report.notes.append(
                f"{self._where}: all kinds of event count as interactions ({self._column}: {_listed(self._kinds)}); "
                f"--keep='{self._column}={some}' takes some"
            )


class KeptRows(AllRows):
    """The rows whose cells are among the values asked for, in all columns asked about.

    Cells and values are compared as text without the blanks around it. Numbers are the same whatever decimals they are
    written with (``1``, ``1.0``), but ``01`` is a code and only itself; ``true`` and ``false`` are ``1`` and ``0`` in
    any case of letters, since typed tables hold either. Otherwise the case of letters counts.

    Args:
        keep: Column, or part of an object, to the values; ``""`` is an empty cell.

    Raises:
        ValueError: A column without a value.
    """

    def __init__(self, keep: Mapping[str, Any]) -> None:
        super().__init__()
        self.columns = tuple(keep)
        self._asked = {column: _forms(column, values) for column, values in keep.items()}
        self._totals: dict[str, Counter[str]] = {column: Counter() for column in keep}
        self._left_out: Counter[str] = Counter()
        self._rows = self._kept = 0
        self._tables: list[str] = []

    def begin(self, table: Table, taken: Collection[str]) -> list[str]:
        """Start with a table, see :meth:`AllRows.begin`.

        Raises:
            KeyError: It lacks a column that was asked about.
        """
        for column in self.columns:
            if column not in table.names:
                raise no_column(table.name, column, "keep", table.names)
        self._where, self._rows, self._kept = table.name, 0, 0
        self._tables.append(table.name)
        self._here: dict[str, Counter[str]] = {column: Counter() for column in self.columns}
        return list(self.columns)

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of a piece of the table that are interactions."""
        keep = np.ones(len(frame), dtype=bool)
        for column, asked in self._asked.items():
            codes, texts = _values(frame[column])
            wanted = np.array([_form(text) in asked for text in texts], dtype=bool)
            _count(self._here[column], texts, np.bincount(codes), _COUNTED, asked)
            self._left_out[column] += int((keep & ~wanted[codes]).sum())
            keep &= wanted[codes]
        self._rows, self._kept = self._rows + len(frame), self._kept + int(keep.sum())
        return frame[keep]

    def end(self) -> None:
        """The table has been read.

        Raises:
            ValueError: None of its rows was asked for.
        """
        for column, counts in self._here.items():
            self._totals[column].update(counts)
        if self._kept or not self._rows:
            return
        rows = {column: self._each(column, counts) for column, counts in self._here.items()}
        for column, each in rows.items():
            if not any(each.values()):
                raise self._nowhere(column, list(each), self._here[column])
        conditions = "; ".join(f"{column}: {_listed(Counter(each))}" for column, each in rows.items())
        raise ValueError(
            f"{self._where}: keep leaves none of {self._rows:,} rows, since none has all that was asked for "
            f"({conditions})."
        )

    def describe(self, report: ImportReport) -> None:
        """Say which rows were taken, once all tables are read.

        Raises:
            ValueError: A value that was asked for is in none of them.
        """
        for column, totals in self._totals.items():
            asked = self._each(column, totals)
            missing = [value for value, rows in asked.items() if not rows]
            if missing:
                self._where = ", ".join(dict.fromkeys(self._tables))
                raise self._nowhere(column, missing, totals)
            report.kept[column] = asked
            report.skip(f"interactions: {column} is not {_words(asked)}", self._left_out[column])
            others = Counter({text: rows for text, rows in totals.items() if _form(text) not in self._asked[column]})
            rest = f"; others are {_listed(others)}" if others else ""
            report.notes.append(f"keep {column}: {_listed(Counter(asked), len(asked))}{rest}")

    def _each(self, column: str, counts: Mapping[str, int]) -> dict[str, int]:
        """The values asked for, as they were asked for, and the rows of each."""
        rows = dict.fromkeys(self._asked[column].values(), 0)
        for text, count in counts.items():
            asked = self._asked[column].get(_form(text))
            if asked is not None:
                rows[asked] += count
        return rows

    def _nowhere(self, column: str, values: Collection[str], counts: Counter[str]) -> ValueError:
        several = any(mark in value for value in values for mark in ",|=")
        return ValueError(
            f"{self._where}, column {column}: no row has {_words(map(repr, values))} (keep)."
            f"{suggest(next(iter(values)), counts)} The most frequent values: {_listed(counts)}."
            + (f" Several values are written as keep={{{column!r}: ['a', 'b']}} (--keep='{column}=a|b')." * several)
        )


def rows_asked(keep: Mapping[str, Any] | None) -> AllRows:
    """The rows that ``keep`` asks for, all where it asks for none.

    Args:
        keep: See :class:`KeptRows`.
    """
    return KeptRows(keep) if keep else AllRows()


def _is_event(name: str, table: Table) -> bool:
    """Whether a column is called as kinds of events are; an object as a whole tells none."""
    if any(part.startswith(f"{name}.") for part in table.parts):
        return False
    whole, last = simple_name(name), simple_name(name.rpartition(".")[2])
    return whole in _EVENTS or (last in _EVENTS and last != _OBJECTS_TYPE)


def _forms(column: str, values: Any) -> dict[str, str]:
    """What the cells are compared with, and how it was asked for."""
    listed = [values] if isinstance(values, (str, int, float)) else list(() if values is None else values)
    if not listed:
        raise ValueError(
            f"keep: {column} has no value; give those whose rows are to be kept, as in "
            f"keep={{{column!r}: ['purchase']}} (--keep='{column}=purchase')."
        )
    forms: dict[str, str] = {}
    for text in map(_text, listed):
        forms.setdefault(_form(text), text)
    return forms


def _text(cell: Any) -> str:
    text = plain(cell)
    if cell is pd.NaT:
        return ""
    return ", ".join(text) if isinstance(text, list) else str(text).strip()


def _form(text: str) -> str:
    """One spelling for all texts that mean the same value."""
    number = _NUMBER.fullmatch(text)
    if number is None:
        return _BOOLEANS.get(text.lower(), text)
    decimals = (number[3] or "").rstrip("0")
    return number[1].replace("+", "") + number[2] + (f".{decimals}" if decimals else "")


def _values(cells: pd.Series) -> tuple[np.ndarray, list[str]]:
    """The number of the value of each cell, and the values as text, which may repeat."""
    try:
        codes, found = pd.factorize(cells, use_na_sentinel=False)
    except TypeError:  # lists
        codes, found = pd.factorize(cells.map(_text))
    return codes, [_text(value) for value in found]


def _count(counts: Counter[str], texts: list[str], rows: np.ndarray, most: int, always: Collection[str] = ()) -> None:
    """Add rows of values; new values join, the frequent first, while there are few or they are always counted."""
    for place in np.argsort(-rows, kind="stable"):
        if len(counts) < most or texts[place] in counts or _form(texts[place]) in always:
            counts[texts[place]] += int(rows[place])


def _listed(counts: Counter[str], shown: int = _SHOWN) -> str:
    more = ", ..." if len(counts) > shown else ""
    return ", ".join(f"{_short(text)} {rows:,}" for text, rows in counts.most_common(shown)) + more


def _words(values: Iterable[str]) -> str:
    return " or ".join(_short(value) for value in values)


def _short(text: str) -> str:
    if not text:
        return "(empty)"
    return text if len(text) <= 60 else f"{text[:60]}..."
