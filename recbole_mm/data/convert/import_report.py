"""What an import read, kept and left out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from recbole_mm.data.convert.columns import Column

__all__ = ["ImportReport"]


@dataclass
class ImportReport:
    """The result of :func:`~recbole_mm.data.convert.tables.import_tables`.

    Attributes:
        name: The data set.
        folder: Where it is.
        rows_read: Rows of the tables of interactions.
        interactions: Rows that were kept.
        users: Users of these.
        items: Items of these.
        repeated: Rows that repeat a pair of user and item (kept; ``rm_dup_inter`` decides later).
        short_users: Users with fewer than three interactions.
        times: First and last time, seconds since 1970.
        time_unit: How the times were written.
        new_items: Items of the table of items without an interaction.
        kept: Column asked about by ``keep`` to its values and the rows that have each.
        skipped: Reason to the number of rows that were left out.
        columns: ``item`` and ``user`` to the columns of their tables.
        vectors: Modality to a line about its vectors.
        notes: Whatever else there is to know.

    Example:
        >>> import pandas as pd
        >>> import recbole_mm
        >>> clicks = pd.DataFrame({"user": ["a", "a", None], "item": ["x", "y", "y"], "time": [1.6e9, 1.7e9, 1.7e9]})
        >>> report = recbole_mm.import_tables("tiny-clicks", clicks)
        >>> report.rows_read, report.interactions, sum(report.skipped.values())
        (3, 2, 1)
    """

    name: str
    folder: Path | None = None
    rows_read: int = 0
    interactions: int = 0
    users: int = 0
    items: int = 0
    repeated: int = 0
    short_users: int = 0
    times: tuple[float, float] | None = None
    time_unit: str | None = None
    new_items: int = 0
    kept: dict[str, dict[str, int]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    columns: dict[str, list[Column]] = field(default_factory=dict)
    vectors: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def skip(self, reason: str, rows: int) -> None:
        """Count rows that are left out."""
        if rows:
            self.skipped[reason] = self.skipped.get(reason, 0) + rows

    def count_new(self, entity: str, ids: Collection[str], known: Any) -> None:
        """Count rows of a table whose id has no interaction, and ids without a row; none in common is an error."""
        new = sum(token not in known.number for token in ids)
        if new == len(ids):
            raise ValueError(_none_in_common(f"{entity} table", ids, entity, known))
        lacking = len(known) - (len(ids) - new)
        if entity == "item":
            self.new_items = new
        self.notes.append(
            f"{entity} table: {len(ids):,} {entity}s, {new:,} without an interaction; {lacking:,} have no row"
        )

    def add_vectors(self, modality: str, ids: np.ndarray, matrix: np.ndarray, known: Any) -> None:
        """Describe vectors."""
        matched = sum(str(token) in known.number for token in ids)
        size = " x ".join(str(length) for length in matrix.shape)
        self.vectors[modality] = f"{size}, {matched:,} of {len(known):,} items have one"
        if not matched:
            raise ValueError(_none_in_common(f"vectors {modality}", ids, "item", known))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        found = asdict(self)
        return {**found, "folder": None if self.folder is None else str(self.folder)}

    def __str__(self) -> str:
        pairs = max(self.users * self.items, 1)
        lines = [
            f"{self.name}: {self.users:,} users, {self.items:,} items, {self.interactions:,} interactions, density "
            f"{100 * self.interactions / pairs:.3g} %",
            f"rows read: {self.rows_read:,}, kept: {self.interactions:,}",
            *(f"  left out: {count:,} rows, {reason}" for reason, count in self.skipped.items()),
            f"repeated pairs: {self.repeated:,} (kept; rm_dup_inter decides later)",
            f"users with fewer than 3 interactions: {self.short_users:,}",
            f"items without an interaction: {self.new_items:,}",
        ]
        if self.times is not None:
            days = [
                datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d") for time in self.times if _is_day(time)
            ]
            span = " to ".join(days) if len(days) == 2 else f"{self.times[0]:g} to {self.times[1]:g}"
            lines.append(f"time: {span}, written as {self.time_unit}")
        for entity, columns in self.columns.items():
            lines.append(f"{entity} columns: " + ", ".join(f"{c.name} {c.kind} ({c.reason})" for c in columns))
        lines += [f"vectors {modality}: {text}" for modality, text in self.vectors.items()]
        lines += self.notes
        if self.folder is not None:
            lines.append(f"written to {self.folder}")
        return "\n".join(lines)


def _none_in_common(where: str, ids: Collection[str], entity: str, known: Any) -> str:
    shown, have = (", ".join(repr(str(token)) for token in islice(tokens, 3)) for tokens in (ids, known.number))
    return (
        f"{where}: none of the {len(ids):,} ids is one of the interactions; ids are such as {shown}, {entity}s such as "
        f"{have}. They must be written alike."
    )


def _is_day(seconds: float) -> bool:
    return 0 < seconds < 4.2e9
