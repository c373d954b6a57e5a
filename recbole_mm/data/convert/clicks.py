"""The interactions of an import: read in chunks, kept as numbers, written as an atomic file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from recbole_mm.data.convert.columns import find_roles, no_column
from recbole_mm.data.convert.import_report import ImportReport
from recbole_mm.data.convert.instants import Clock
from recbole_mm.data.convert.kept_rows import AllRows, rows_asked
from recbole_mm.data.convert.text_table import Table
from recbole_mm.data.convert.vocabulary import Vocabulary

__all__ = ["Clicks"]

_TYPES = {"user_id": "token", "item_id": "token", "timestamp": "float", "rating": "float", "label": "float"}
_LABELS = {"true": "1", "false": "0", "yes": "1", "no": "0"}
_ROWS_AT_ONCE = 200_000


@dataclass
class _Part:
    """A part of the interactions as columns of numbers."""

    columns: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def column(self, name: str) -> np.ndarray:
        pieces = self.columns[name]
        if len(pieces) > 1:
            self.columns[name] = pieces = [np.concatenate(pieces)]
        return pieces[0]


class Clicks:
    """Interactions of one table, or of the parts of a split.

    Args:
        time_format: How dates are written, where not in ISO form.
        reviews: Columns of text to keep, for encoders.
        keep: Columns and the values whose rows are interactions; ``None`` for all rows.

    Attributes:
        vocabulary: ``user`` and ``item`` to their ids.
        fields: Fields of the atomic file.
        columns: ``user`` and ``item`` to the name of the column in the table.
    """

    def __init__(
        self, time_format: str | None = None, reviews: Sequence[str] = (), keep: Mapping[str, Any] | None = None
    ) -> None:
        self._time_format, self._reviews = time_format, list(reviews)
        self._rows: AllRows = rows_asked(keep)
        self._texts: list[pd.DataFrame] = []
        self._parts: dict[str, _Part] = {}
        self._report = ImportReport("")
        self._clocks: list[Clock] = []
        self.vocabulary = {entity: Vocabulary(entity, "") for entity in ("user", "item")}
        self.fields: list[str] = []
        self.columns: dict[str, str] = {}

    def add(self, name: str, table: Table, given: Mapping[str, str | None], progress: bool) -> None:
        """Read a table.

        Args:
            name: ``all``, or the part of the split.
            table: The table.
            given: Role to the column that the caller named, ``None`` to guess.
            progress: Show a progress bar.

        Raises:
            KeyError: A column that was named is not there.
            ValueError: A row that cannot be read, or a part of a split with other columns than the one before.
        """
        roles = find_roles(table.names, given, table.name)
        fields = ["user_id", "item_id", *(f for r, f in (("rating", "rating"), ("label", "label")) if r in roles)]
        fields += ["timestamp"] if "time" in roles else []
        if self.fields and self.fields != fields:
            raise ValueError(
                f"{table.name} has the fields {', '.join(fields)}, the part before {', '.join(self.fields)}."
            )
        self.fields = fields
        self.columns = {entity: roles[entity] for entity in ("user", "item")}
        guessed = [f"{role} is {column}" for role, column in roles.items() if given.get(role) is None]
        if guessed:
            self._report.notes.append(f"{table.name}, columns guessed: {', '.join(guessed)}")
        for column in self._reviews:
            if column not in table.names:
                raise no_column(table.name, column, "reviews", table.names)
        used = (*roles.values(), *self._reviews, *self._rows.columns)
        unused = [c for c in table.columns if c not in used and not any(name.startswith(f"{c}.") for name in used)]
        if unused:
            self._report.notes.append(f"{table.name}, columns left out: {', '.join(unused)}")
        for vocabulary in self.vocabulary.values():
            vocabulary.where = table.name
        clock = Clock(roles.get("time", ""), table.name, self._time_format)
        part = self._parts.setdefault(name, _Part())
        wanted = list(dict.fromkeys((*used, *self._rows.begin(table, used))))
        with tqdm(total=table.size, unit="B", unit_scale=True, desc="reading", disable=not progress) as bar:
            for frame, position in table.chunks(wanted):
                # First of all, so that nothing in the rows left out can stop the import.
                kept = self._rows.of(frame)
                for column, values in (self._read(kept, roles, clock, table.name) if len(kept) else {}).items():
                    part.columns.setdefault(column, []).append(values)
                self._report.rows_read += len(frame)
                bar.update(position - bar.n)
        self._rows.end()
        if not part.columns or not len(part.column("user_id")):
            raise ValueError(f"{table.name} has no interaction: no row with a user and an item.")
        if "time" in roles:
            self._clocks.append(clock)

    def _read(self, frame: pd.DataFrame, roles: Mapping[str, str], clock: Clock, where: str) -> dict[str, np.ndarray]:
        columns: dict[str, np.ndarray] = {}
        keep = pd.Series(True, index=frame.index)
        ids = {}
        for entity in ("user", "item"):
            ids[entity] = self.vocabulary[entity].checked(frame.loc[keep, roles[entity]], self._report, "interactions")
            keep &= frame.index.isin(ids[entity].index)
        for role, name in (("rating", "rating"), ("label", "label")):
            if role in roles:
                values = _numbers(frame[roles[role]], where, roles[role], labels=role == "label")
                keep &= self._there(values, keep, f"{role} empty")
                columns[name] = values
        if "time" in roles:
            columns["timestamp"] = clock.read(frame[roles["time"]])
            keep &= self._there(columns["timestamp"], keep, "time empty")
        rows = keep.to_numpy()
        if self._reviews:
            texts = frame.loc[rows, self._reviews].map(lambda cell: cell if isinstance(cell, str) else ", ".join(cell))
            for place, entity in enumerate(ids):
                texts.insert(place, f"{entity}_id", ids[entity].loc[texts.index])
            self._texts.append(texts)
        columns = {name: values[rows] for name, values in columns.items()}
        for entity in ("user", "item"):
            columns[f"{entity}_id"] = self.vocabulary[entity].encode(ids[entity].loc[frame.index[rows]])
        return columns

    def _there(self, values: np.ndarray, keep: pd.Series, why: str) -> np.ndarray:
        there = ~np.isnan(values)
        self._report.skip(f"interactions: {why}", int((~there & keep.to_numpy()).sum()))
        return there

    def describe_rows(self, report: ImportReport) -> None:
        """Say which rows of the tables were taken.

        Raises:
            ValueError: A value whose rows were asked for is in none of them.
        """
        self._rows.describe(report)

    def check_split(self, drop_unseen: bool) -> None:
        """Count validation and test rows of users or items that training lacks, and drop them if asked to."""
        known = {f"{entity}_id": np.unique(self._parts["train"].column(f"{entity}_id")) for entity in ("user", "item")}
        pairs = {name: self._pairs(name) for name in ("train", "valid", "test")}
        for name in ("valid", "test"):
            part = self._parts[name]
            again = int(np.isin(pairs[name], pairs["train"]).sum())
            if again:
                self._report.notes.append(
                    f"{name}: {again:,} of {len(pairs[name]):,} rows are pairs of a user and an item that training "
                    "has, too, so that they are known before they are asked"
                )
            new = {column: ~np.isin(part.column(column), ids) for column, ids in known.items()}
            either = new["user_id"] | new["item_id"]
            counts = {column: len(np.unique(part.column(column)[rows])) for column, rows in new.items()}
            self._report.notes.append(
                f"{name}: {int(either.sum()):,} of {len(either):,} rows are of {counts['user_id']:,} users and "
                f"{counts['item_id']:,} items that training lacks; " + ("dropped" if drop_unseen else "kept")
            )
            if drop_unseen:
                part.columns = {column: [part.column(column)[~either]] for column in part.columns}
                if either.all():
                    raise ValueError(f"drop_unseen leaves no {name} row: training has none of its users or items.")
        if drop_unseen:
            self._forget_unseen(known)

    def _forget_unseen(self, known: Mapping[str, np.ndarray]) -> None:
        """Leave the users and items of dropped rows out of the vocabularies and of the texts, too."""
        for entity, vocabulary in self.vocabulary.items():
            column = f"{entity}_id"
            vocabulary.keep(known[column])
            for part in self._parts.values():
                part.columns[column] = [np.searchsorted(known[column], part.column(column)).astype(np.int32)]
            self._texts = [texts[texts[column].isin(list(vocabulary.number))] for texts in self._texts]

    def describe(self, report: ImportReport) -> None:
        """Say what was read."""
        report.notes += self._report.notes
        report.skipped.update(self._report.skipped)
        report.rows_read = self._report.rows_read
        users = np.concatenate([part.column("user_id") for part in self._parts.values()])
        items = np.concatenate([part.column("item_id") for part in self._parts.values()])
        report.users, report.items, report.interactions = (
            len(self.vocabulary["user"]),
            len(self.vocabulary["item"]),
            len(users),
        )
        pairs = np.sort(users.astype(np.int64) * len(self.vocabulary["item"]) + items)
        report.repeated = int((pairs[1:] == pairs[:-1]).sum())
        report.short_users = int((np.bincount(users, minlength=report.users) < 3).sum())
        if "timestamp" in self.fields:
            times = np.concatenate([part.column("timestamp") for part in self._parts.values()])
            report.times = (float(times.min()), float(times.max()))
            report.time_unit = self._clocks[0].meaning
        if "label" in self.fields:
            labels = np.concatenate([part.column("label") for part in self._parts.values()])
            if (labels <= 0).any():
                report.notes.append(
                    f"{int((labels <= 0).sum()):,} interactions have the label 0; general models take every row for a "
                    "like; --val_interval=\"{'label': '[1,inf)'}\" keeps the others"
                )

    def _pairs(self, name: str) -> np.ndarray:
        part = self._parts[name]
        return part.column("user_id").astype(np.int64) * len(self.vocabulary["item"]) + part.column("item_id")

    def texts(self) -> pd.DataFrame | None:
        """User, item and the texts of every interaction; ``None`` where none were to be kept."""
        return pd.concat(self._texts, ignore_index=True) if self._texts else None

    def write(self, folder: Path, name: str) -> None:
        """Write ``name.inter``, and ``name.<part>.inter`` for the parts of a split."""
        tokens = {f"{entity}_id": vocabulary.tokens() for entity, vocabulary in self.vocabulary.items()}
        whole = folder / f"{name}.inter"
        for place, (part_name, part) in enumerate(self._parts.items()):
            self._write(part, tokens, whole, append=place > 0)
            if part_name != "all":
                self._write(part, tokens, folder / f"{name}.{part_name}.inter", append=False)

    def _write(self, part: _Part, tokens: Mapping[str, np.ndarray], file: Path, append: bool) -> None:
        with file.open("a" if append else "w", encoding="utf-8", newline="") as stream:
            if not append:
                stream.write("\t".join(f"{field}:{_TYPES[field]}" for field in self.fields) + "\n")
            for start in range(0, len(part.column("user_id")), _ROWS_AT_ONCE):
                rows = slice(start, start + _ROWS_AT_ONCE)
                columns = {}
                for name in self.fields:
                    values = part.column(name)[rows]
                    columns[name] = tokens[name][values] if name in tokens else _shortest(values)
                pd.DataFrame(columns).to_csv(stream, sep="\t", header=False, index=False, lineterminator="\n")


def _numbers(cells: pd.Series, where: str, column: str, labels: bool) -> np.ndarray:
    text = cells.map(str).str.strip()
    if labels:
        text = text.str.lower().replace(_LABELS)
    values = pd.to_numeric(text.where(text != ""), errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero((text != "").to_numpy() & ~np.isfinite(values))
    if len(wrong):
        shown = ", ".join(f"row {cells.index[row] + 1} {str(cells.iloc[row])!r}" for row in wrong[:5])
        raise ValueError(
            f"{where}, column {column}: {len(wrong):,} value(s) are no numbers: {shown}; "
            + ("write 1 or 0, true or false, yes or no." if labels else "write 4.5, not 4,5.")
        )
    return values


def _shortest(values: np.ndarray) -> np.ndarray:
    """Whole numbers without a point, others with all their digits."""
    whole = bool(((values == np.floor(values)) & (np.abs(values) < 2**63)).all())
    return values.astype(np.int64) if whole else values
