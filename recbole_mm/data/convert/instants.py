"""Dates and times, however they are written, as seconds since 1970."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

__all__ = ["Clock"]

# The ranges of numbers that mean a time between 1973 and 2096, so that no two units overlap.
_UNITS = {"days": (1e3, 5e4, 86400.0), "seconds": (1e8, 4e9, 1.0), "milliseconds": (1e11, 4e12, 1e-3)}
_UNITS |= {"microseconds": (1e14, 4e15, 1e-6), "nanoseconds": (1e17, 4e18, 1e-9)}
_DATE_NUMBER = re.compile(r"(19|20)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(([01]\d|2[0-3])[0-5]\d([0-5]\d)?)?")
_DATE_FORMS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
# How people write dates that are not in ISO form; which of day and month comes first only the values can tell.
_SPOKEN = [f"{day}{time}" for day in ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%d.%m.%y", "%m/%d/%y")
           for time in ("", " %H:%M", " %H:%M:%S")]  # fmt: skip
_WORDS = {"days": "days since 1970", "none": "numbers of no known unit, kept as they are"}


@dataclass
class Clock:
    """Reads one column of times chunk by chunk; the first chunk settles how they are written.

    Attributes:
        column: Name of the column, for messages.
        where: The table, for messages.
        pattern: How the dates are written, as in ``strptime``; found out when not given.
        unit: What was found: ``seconds``, ``milliseconds``, ..., ``days``, ``dates``, or ``none`` for numbers that are
            no time we know (their order is all that counts then).
    """

    column: str
    where: str
    pattern: str | None = None
    unit: str | None = None

    @property
    def meaning(self) -> str:
        """The unit in words."""
        return _WORDS.get(self.unit or "none", self.unit or "")

    def read(self, cells: pd.Series) -> np.ndarray:
        """Seconds of every cell; NaN where a cell is empty.

        Args:
            cells: Text, or times of pandas.

        Returns:
            float64, shape ``(len(cells),)``.

        Raises:
            ValueError: A date that does not exist, or cells written in several ways; names the rows.
        """
        if pd.api.types.is_datetime64_any_dtype(cells.dtype):
            self._settle("dates", cells)
            return self._seconds(pd.to_datetime(cells, utc=True), cells)
        text = cells.map(str).str.strip()
        empty = (text == "").to_numpy()
        numbers = pd.to_numeric(text.where(~empty), errors="coerce").to_numpy(dtype=np.float64)
        numeric = np.isfinite(numbers)
        as_date = self.pattern is not None or bool(
            (text[~empty].str.fullmatch(_DATE_NUMBER).to_numpy(dtype=bool)).all() and (~empty).any()
        )
        if as_date or (self.unit in (None, "dates") and not numeric[~empty].any() and (~empty).any()):
            return self._dates(text, empty)
        self._refuse(cells, ~numeric & ~empty, f"is no number, and others are ({self.unit or 'numbers'})")
        return self._numbers(numbers, cells)

    def _dates(self, text: pd.Series, empty: np.ndarray) -> np.ndarray:
        self._settle("dates", text)
        there = text[~empty]
        lengths = there.str.len().unique() if there.str.fullmatch(_DATE_NUMBER).all() else []
        given = self.pattern or (_DATE_FORMS[lengths[0]] if len(lengths) == 1 else "ISO8601")
        times = pd.to_datetime(text.where(~empty), format=given, utc=True, errors="coerce")
        hint = f"does not fit time_format={self.pattern!r}" if self.pattern else "is no date in ISO form (2024-05-31)"
        self._refuse(text, times.isna().to_numpy() & ~empty, hint)
        return self._seconds(times, text)

    def _seconds(self, times: pd.Series, cells: pd.Series) -> np.ndarray:
        """Seconds of times in UTC; those of no click (0001-01-01, 9999-12-31) are a word for "unknown"."""
        first, last = pd.Timestamp.min.tz_localize("UTC"), pd.Timestamp.max.tz_localize("UTC")
        outside = ((times < first) | (times > last)).to_numpy()
        self._refuse(cells, outside, "is before 1678 or after 2261; leave the cell empty where the time is unknown")
        seconds = times.dt.tz_localize(None).astype("datetime64[ns]").astype(np.int64).to_numpy() / 1e9
        return np.where(times.isna().to_numpy(), np.nan, seconds)

    def _numbers(self, numbers: np.ndarray, cells: pd.Series) -> np.ndarray:
        there = numbers[np.isfinite(numbers)]
        if not len(there):
            return numbers
        if self.unit is None:
            low, high = float(there.min()), float(there.max())
            fits = [name for name, (least, most, _) in _UNITS.items() if least <= low and high <= most]
            # A first value of one unit and others far beyond it are two ways of writing, not an unknown one.
            partly = [name for name, (least, most, _) in _UNITS.items() if ((least <= there) & (there <= most)).any()]
            self.unit = fits[0] if fits else (partly[0] if len(partly) > 1 and "seconds" in partly else "none")
        self._refuse_other_calendars(there)
        if self.unit == "none":
            return numbers
        self._settle(self.unit, cells)
        least, most, factor = _UNITS.get(self.unit, (0.0, 0.0, 1.0))
        outside = np.isfinite(numbers) & ~((least <= numbers) & (numbers <= most))
        self._refuse(cells, outside, f"is out of the range of {self.meaning}, in which others are")
        return numbers * factor

    def _refuse_other_calendars(self, numbers: np.ndarray) -> None:
        """Years, and the days that spreadsheets count from 1900, would be read as days since 1970."""
        whole = self.unit == "days" and bool((numbers == np.floor(numbers)).all())
        low, high = float(numbers.min()), float(numbers.max())
        if whole and low >= 1900 and high <= 2100:
            what, remedy = "years", "write dates, such as 2024-01-01"
        elif self.unit == "days" and low >= 36_500:  # days since 1970 of a time after 2069
            what, remedy = "days as spreadsheets count them", "save the column as ISO dates (2024-05-31)"
        else:
            return
        raise ValueError(
            f"{self.where}, column {self.column}: numbers from {low:g} to {high:g} look like {what}, and would be read "
            f"as days since 1970; {remedy}."
        )

    def _settle(self, unit: str, cells: pd.Series) -> None:
        if self.unit is not None and self.unit != unit:
            self._refuse(
                cells, np.ones(len(cells), dtype=bool), f"is written otherwise than the rows before ({self.unit})"
            )
        self.unit = unit

    def _refuse(self, cells: pd.Series, wrong: np.ndarray, why: str) -> None:
        if not wrong.any():
            return
        rows = np.flatnonzero(wrong)
        shown = ", ".join(f"row {cells.index[row] + 1} {str(cells.iloc[row])!r}" for row in rows[:5])
        raise ValueError(
            f"{self.where}, column {self.column}: {len(rows):,} time(s) cannot be read, since it {why}: {shown}. "
            "Write all times in one way: ISO dates, or numbers of seconds, milliseconds or days since 1970; or say "
            f"how they are written: {self._forms(cells[wrong])} (--time_format)."
        )

    def _forms(self, cells: pd.Series) -> str:
        """The usual forms that fit all of the cells; an example where none does."""
        text = cells.map(str).str.strip()
        forms = [form for form in _SPOKEN if pd.to_datetime(text, format=form, errors="coerce").notna().all()]
        return "time_format=" + " or ".join(repr(form) for form in forms or ["%d/%m/%Y %H:%M"])
