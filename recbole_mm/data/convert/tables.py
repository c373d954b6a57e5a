"""From tables of clicks and products to atomic files: ``recbole-mm import`` and :func:`import_tables`."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from recbole_mm.data.atomic import READ_AS_MISSING
from recbole_mm.data.convert.clicks import Clicks
from recbole_mm.data.convert.columns import KINDS, Column, classify, find_roles, in_kind
from recbole_mm.data.convert.import_report import ImportReport
from recbole_mm.data.convert.reading import Source, open_table
from recbole_mm.data.convert.vectors import Vectors, read_vectors, write_vectors
from recbole_mm.data.convert.vocabulary import Vocabulary
from recbole_mm.data.features.files import check_dataset_name
from recbole_mm.folders import replacing_folder

__all__ = ["import_tables"]

# RecBole knows a column by its name alone, and these may be columns of clicks.
_TAKEN = ("user_id", "item_id", "rating", "label", "timestamp")
PARTS = ("train", "valid", "test")


def import_tables(
    name: str,
    interactions: Source | None = None,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
    label: str | None = None,
    items: Source | None = None,
    users: Source | None = None,
    train: Source | None = None,
    valid: Source | None = None,
    test: Source | None = None,
    vectors: Mapping[str, str] | None = None,
    types: Mapping[str, str] | None = None,
    keep: Mapping[str, Any] | None = None,
    reviews: Sequence[str] | None = None,
    time_format: str | None = None,
    separator: str | None = None,
    header: Sequence[str] | None = None,
    duplicates: str = "error",
    drop_unseen: bool = False,
    replace: bool = False,
    data_path: str | Path = "dataset",
    progress: bool = False,
) -> ImportReport:
    """Make a data set of RecBole from a table of clicks, with products, vectors and a split if there are any.

    ``data_path/name`` gets ``name.inter``, ``name.item`` and ``name.user`` where such a table is given, feature files,
    ``name.text.parquet`` (columns for encoders) and ``name.yaml``, which RecBole
    finds by the name of the data set after ``import recbole_mm``. All files appear, or none.

    Args:
        name: Name of the data set.
        interactions: The clicks: a file (csv, tsv, jsonl, parquet, also packed) or a DataFrame.
        user: Column of the user, or part of an object such as ``user.id`` (jsonl, parquet); guessed from usual names
            when not given, as the next four.
        item: Column of the item.
        time: Column of the time: ISO dates, or seconds, milliseconds or days since 1970.
        rating: Column of a rating.
        label: Column of a label, 0 or 1.
        items: The products; the column of their ids is called as in ``interactions``, ``id``, or has a usual name.
        users: The same for users.
        train: The training part of a split that exists already, instead of ``interactions``.
        valid: Its validation part.
        test: Its test part.
        vectors: Modality to vectors that exist already, see :func:`~recbole_mm.data.convert.vectors.read_vectors`.
        types: Column of ``items`` or ``users`` to what it shall become: ``token``, ``token_seq``, ``float``,
            ``float_seq``, ``text`` (kept for encoders) or ``drop``.
        keep: Column of ``interactions``, or part of an object, to the values of the rows that are read, as in
            ``{"event": ["purchase", "like"]}``; all columns have to hold. ``1``, ``1.0`` and ``true`` are the same, see
            :class:`~recbole_mm.data.convert.kept_rows.KeptRows`.
        reviews: Columns of ``interactions`` with texts, kept in ``name.inter_text.parquet`` for encoders; in memory
            meanwhile.
        time_format: How dates are written where they are not in ISO form, as in ``strptime``.
        separator: What separates the columns of text files, where it is not to be found out.
        header: Names of the columns of ``interactions`` where the file has no header line.
        duplicates: What to do with several rows of one product or user that differ: ``error``, ``first`` or ``last``.
        drop_unseen: Drop validation and test rows of users or items that training lacks.
        replace: Overwrite a data set of this name.
        data_path: Folder of data sets, RecBole's ``data_path``.
        progress: Show a progress bar.

    Returns:
        What was read, kept and left out; ``print(report)`` shows it in some ten lines.

    Raises:
        FileNotFoundError: A file is missing.
        FileExistsError: There is a data set of this name, and not ``replace``.
        KeyError: A column that was named is not there.
        ValueError: A table is damaged, or a value is not what its column needs; names rows.

    Example:
        >>> import pandas as pd
        >>> import recbole_mm
        >>> clicks = pd.DataFrame({"customer": ["a", "b"], "sku": ["007", "008"], "ts": ["2024-05-01", "2024-05-02"]})
        >>> report = recbole_mm.import_tables("tiny-shop", clicks)
        >>> report.users, report.items, report.interactions
        (2, 2, 2)
    """
    check_dataset_name(name)
    if duplicates not in ("error", "first", "last"):
        raise ValueError(f"duplicates: expected error, first or last, got {duplicates!r}.")
    for column, kind in (types or {}).items():
        if kind not in KINDS:
            raise ValueError(f"types: {column}={kind!r}: expected one of {', '.join(KINDS)}.")
    sources = _sources(interactions, {"train": train, "valid": valid, "test": test})
    if drop_unseen and "train" not in sources:
        raise ValueError("drop_unseen does nothing without a split; give train, valid and test.")
    roles = {"user": user, "item": item, "time": time, "rating": rating, "label": label}
    report = ImportReport(name)
    clicks = Clicks(time_format, reviews or (), keep)
    for part, source in sources.items():
        clicks.add(part, open_table(source, separator, header), roles, progress)
    clicks.describe_rows(report)
    if "train" in sources:
        clicks.check_split(drop_unseen)
    clicks.describe(report)
    types_left = dict(types or {})
    tables = {
        entity: _read_table(source, entity, clicks.columns[entity], types_left, separator, duplicates, report)
        for entity, source in (("item", items), ("user", users))
        if source is not None
    }
    if types_left:
        raise KeyError(f"types: no table of items or users has the column {next(iter(types_left))!r}.")
    matrices = _vectors(vectors or {}, report)
    folder = Path(data_path).expanduser() / name
    with replacing_folder(folder, replace, report.notes, "replace=True (--replace)") as target:
        clicks.write(target, name)
        texts = clicks.texts()
        if texts is not None:
            _write_parquet(texts, target / f"{name}.inter_text.parquet")
        fields: dict[str, list[str]] = {"inter": clicks.fields}
        for entity, (columns, frame) in tables.items():
            taken = {*_TAKEN, *fields.get("item", ())}
            fields[entity] = _write_table(target, name, entity, columns, frame, taken, report)
            report.count_new(entity, frame.index, clicks.vocabulary[entity])
        for modality, (ids, matrix, count) in sorted(matrices.items()):
            write_vectors(target / f"{name}.item.{modality}", ids, matrix, count=count)
            report.add_vectors(modality, ids, matrix, clicks.vocabulary["item"])
        may_be_new = "item" in tables or bool(matrices)
        settings = _settings(clicks, fields, list(sources) if "train" in sources else None, may_be_new)
        (target / f"{name}.yaml").write_text(settings, encoding="utf-8")
    report.folder = folder
    return report


def _sources(interactions: Source | None, parts: Mapping[str, Source | None]) -> dict[str, Source]:
    given = {part: source for part, source in parts.items() if source is not None}
    if interactions is not None and given:
        raise ValueError(
            f"interactions and {', '.join(given)}: give the whole table, or the parts of a split, not both."
        )
    if interactions is not None:
        return {"all": interactions}
    if set(given) != set(PARTS):
        missing = ", ".join(part for part in PARTS if part not in given)
        raise ValueError(
            f"Which clicks? Give interactions=FILE (--interactions=FILE), or a split as train, valid and test; "
            f"{missing} missing."
        )
    return given


def _vectors(sources: Mapping[str, str], report: ImportReport) -> dict[str, Vectors]:
    """The vectors by modality, without those of ids that clicks and tables leave out, too."""
    matrices = {}
    for modality, source in sources.items():
        ids, matrix, count = read_vectors(modality, source)
        there = ~np.isin(ids, READ_AS_MISSING)
        report.skip(f"vectors {modality}: ids that RecBole reads as missing", int((~there).sum()))
        if not there.all():
            ids, matrix, count = ids[there], matrix[there], None if count is None else count[there]
        matrices[modality] = ids, matrix, count
    return matrices


def _read_table(
    source: Source,
    entity: str,
    id_column: str,
    types: dict[str, str],
    separator: str | None,
    duplicates: str,
    report: ImportReport,
) -> tuple[list[Column], pd.DataFrame]:
    """A table of items or users: what its columns are, and its rows by raw id."""
    table = open_table(source, separator)
    key = next((name for name in (id_column, id_column.rpartition(".")[2]) if name in table.names), None)
    key = find_roles(table.names, {entity: key}, table.name, called=id_column)[entity]
    if key != id_column:
        report.notes.append(f"{entity} table: {key} is the {entity}")
    # A column that is to be dropped need not be readable, such as one of pictures.
    dropped = [name for name in table.columns if name != key and types.get(name) == "drop"]
    for name in dropped:
        del types[name]
    asked = [name for name in types if name in table.parts]
    parts = [name for name in table.parts if not name.startswith(tuple(f"{column}." for column in dropped))]
    if parts:
        shown = ", ".join(parts[:10])
        report.notes.append(f"{entity} table: parts of objects are columns where --types says so, such as {shown}")
    frame = table.read(list(dict.fromkeys([key, *(c for c in table.columns if c not in dropped), *asked])))
    ids = Vocabulary(entity, table.name).checked(frame[key], report, f"{entity} table")
    frame = frame.loc[ids.index].set_index(ids).drop(columns=key)
    if not len(frame):
        raise ValueError(f"{table.name} has no row with an id in the column {key}.")
    # Rows that are the same throughout are one; those that differ are for the caller to choose from.
    distinct = frame.index[~frame.map(str).assign(**{key: frame.index}).duplicated().to_numpy()]
    differ = distinct[distinct.duplicated()].unique()
    if len(differ) and duplicates == "error":
        raise ValueError(
            f"{table.name}: {len(differ):,} {entity}s have several rows that differ, such as {differ[0]!r}; keep one "
            "row for each, or choose with duplicates='first' or 'last' (--duplicates=first)."
        )
    rows = len(frame)
    frame = frame[~frame.index.duplicated(keep="last" if duplicates == "last" else "first")]
    if len(frame) < rows:
        report.notes.append(f"{entity} table: {rows - len(frame):,} further rows of the same {entity}s left out")
    columns = [classify(name, frame[name], types.pop(name, None)) for name in frame.columns]
    columns += [Column(name, "drop", "as you said") for name in dropped]
    report.columns[entity] = columns
    return columns, frame


def _write_table(
    folder: Path,
    name: str,
    entity: str,
    columns: Iterable[Column],
    frame: pd.DataFrame,
    taken: Container[str],
    report: ImportReport,
) -> list[str]:
    """Write ``name.<entity>`` and the texts beside it; returns the fields of the atomic file."""
    kept = [column for column in columns if column.kind not in ("text", "drop")]
    texts = [column.name for column in columns if column.kind == "text"]
    key = f"{entity}_id"
    atomic = pd.DataFrame(index=frame.index)
    fields: dict[str, Column] = {}
    for column in kept:
        # Models that read columns make modules of these names, which hold no dot.
        field = "_".join(column.name.replace(":", "_").replace(".", "_").split()) or "column"
        if field in taken:
            report.notes.append(
                f"{entity} table: {field} is written as {entity}_{field}, since the other name is taken"
            )
            field = f"{entity}_{field}"
        if field in fields or field in taken:
            field = f"{field}_{len(fields)}"
        fields[field] = column
        atomic[f"{field}:{column.kind}"] = in_kind(column, frame[column.name], f"{entity} table")
    atomic.index.name = f"{key}:token"
    atomic.to_csv(folder / f"{name}.{entity}", sep="\t", encoding="utf-8")
    if texts:
        content = frame[texts].map(lambda cell: ", ".join(cell) if isinstance(cell, list) else str(cell))
        content.insert(0, key, frame.index)
        _write_parquet(content, folder / (f"{name}.text.parquet" if entity == "item" else f"{name}.user_text.parquet"))
    return [key, *fields]


def _write_parquet(frame: pd.DataFrame, file: Path) -> None:
    try:
        frame.to_parquet(file, index=False)
    except ImportError as error:
        raise ImportError(
            f"Texts are kept in {file.name}, which needs pyarrow: pip install 'recbole-mm[parquet]'."
        ) from error


def _settings(clicks: Clicks, fields: Mapping[str, list[str]], parts: list[str] | None, new_items: bool) -> str:
    settings: dict[str, Any] = {"field_separator": "\t", "seq_separator": " "}
    settings.update({"USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id"})
    for key, field in (("TIME_FIELD", "timestamp"), ("RATING_FIELD", "rating")):
        if field in clicks.fields:
            settings[key] = field
    settings["load_col"] = dict(fields)
    if new_items:
        settings["new_items"] = True  # those that only the products' table or the vectors know are ranked, too
    if parts is not None:
        settings["benchmark_filename"] = list(PARTS)
    head = (
        "# Written by import; read for every model on this data set after `import recbole_mm`. Your own options win.\n"
    )
    return head + yaml.safe_dump(settings, sort_keys=False)
