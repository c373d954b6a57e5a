"""The ids of an import: which are none, which are odd, and the number of each."""

from __future__ import annotations

import numpy as np
import pandas as pd

from recbole_mm.data.atomic import READ_AS_MISSING
from recbole_mm.data.convert.import_report import ImportReport
from recbole_mm.data.convert.objects import is_object

__all__ = ["Vocabulary"]

#: Pattern of odd ids, what is odd about them, and what that means.
_ODD = (
    (
        "[\u00a0\u00ad\u200b-\u200f\u2028\u2029\u2060\ufeff]",
        "hold characters that do not show",
        "they are other ids than those without",
    ),
    ("^ | $", "begin or end with a blank", "they are other ids than those without"),
    (
        r"^\d[.,]\d+[Ee]\+\d\d$",
        "are long numbers that a spreadsheet or a float cut short",
        "several may have become one; write the column as text",
    ),
)


class Vocabulary:
    """The raw ids of users or items, numbered in the order in which they come.

    Args:
        entity: ``user`` or ``item``.
        where: The table, for messages.
    """

    def __init__(self, entity: str, where: str) -> None:
        self.entity, self.where = entity, where
        self.number: dict[str, int] = {}

    def checked(self, cells: pd.Series, report: ImportReport, what: str) -> pd.Series:
        """The ids of the rows that have one, exactly as they are written.

        Args:
            cells: The column.
            report: Where rows without an id are counted.
            what: What the rows are, for the report.

        Raises:
            ValueError: An id with a tab or a line break, which no atomic file can hold, a list or an object.
        """
        lists = np.array([isinstance(cell, list) for cell in cells], dtype=bool)
        ids = cells.map(str)
        broken = np.flatnonzero(lists | ids.str.contains("[\t\r\n]", regex=True).to_numpy(dtype=bool))
        if len(broken):
            shown = ", ".join(f"row {cells.index[row] + 1} {cells.iloc[row]!r}" for row in broken[:5])
            raise ValueError(
                f"{self.where}: {len(broken):,} {self.entity} id(s) hold a tab, a line break or a list, which no "
                f"atomic file can: {shown}. Are the quotes of the table as they should be?"
            )
        objects = ids[ids.str.startswith("{")]
        objects = objects[objects.map(is_object)]
        if len(objects):  # all of their parts together would be the id: somebody who moves would be somebody else
            raise ValueError(
                f"{self.where}: {len(objects):,} {self.entity} id(s) are objects, such as row {objects.index[0] + 1} "
                f"{objects.iloc[0][:100]!r}; name the part that is the id, as in {self.entity}='{self.entity}.id' "
                f"(--{self.entity}={self.entity}.id, of jsonl and parquet), or make a column of it."
            )
        if (ids == "[PAD]").any():
            raise ValueError(
                f"{self.where}: a {self.entity} id is [PAD], which RecBole calls the empty place of a list; give it "
                "another name."
            )
        self._note_odd(ids, report)
        missing = ids.isin(READ_AS_MISSING)
        for text, count in ids[missing].value_counts().items():
            report.skip(
                f"{what}: {self.entity} id " + (f"{text!r}, which RecBole reads as missing" if text else "empty"), count
            )
        return ids[~missing]

    def _note_odd(self, ids: pd.Series, report: ImportReport) -> None:
        """Ids that are hardly what was meant; they stay as they are written all the same."""
        ids = ids.drop_duplicates()
        for pattern, what, consequence in _ODD:
            odd = ids[ids.str.contains(pattern, regex=True)]
            if len(odd):
                report.notes.append(
                    f"{self.where}: {len(odd):,} {self.entity} ids {what}, such as {ascii(odd.iloc[0])}; {consequence}"
                )

    def encode(self, ids: pd.Series) -> np.ndarray:
        """Numbers of ids; new ones join."""
        codes, found = pd.factorize(ids)
        numbers = np.array([self.number.setdefault(token, len(self.number)) for token in found], dtype=np.int32)
        return numbers[codes]

    def keep(self, numbers: np.ndarray) -> None:
        """Forget the ids of other numbers than these, ascending; the others are numbered anew in their order."""
        self.number = {token: number for number, token in enumerate(self.tokens()[numbers])}

    def tokens(self) -> np.ndarray:
        """The ids by number."""
        return np.array(list(self.number), dtype=object)

    def __len__(self) -> int:
        return len(self.number)
