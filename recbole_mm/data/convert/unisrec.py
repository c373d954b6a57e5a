"""The file layout of the UniSRec family: raw float32 vectors, with the ids in a file beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recbole_mm.data.convert.untyped import read_lines, read_mapping

__all__ = ["read_features", "read_index", "read_pairs"]


def read_index(file: Path) -> dict[str, int]:
    """Raw id to row, from ``<name>.item2index`` (id, tab, row) or ``<name>.data_maps`` (JSON with ``item2id``).

    Raises:
        FileNotFoundError: Neither lies beside ``file``.
        ValueError: A line is no pair, or a row is given twice.
    """
    index, maps = file.with_suffix(".item2index"), file.with_suffix(".data_maps")
    if index.is_file():
        found = read_pairs(index)
    elif maps.is_file():
        table = read_mapping(maps, "item2id")
        if table is None:
            raise ValueError(f"{maps}: expected a JSON object with item2id, a number for each raw id.")
        found = table
    else:
        raise FileNotFoundError(f"{file} has no ids: expected {index.name} or {maps.name} beside it.")
    if len(set(found.values())) != len(found):
        raise ValueError(f"{index if index.is_file() else maps}: two ids have one row.")
    return found


def read_pairs(file: Path) -> dict[str, int]:
    """Raw id to row, from lines of an id, a tab and a row.

    Raises:
        ValueError: A line is no pair.
    """
    found: dict[str, int] = {}
    for number, line in enumerate(read_lines(file), start=1):
        raw, tab, row = line.rpartition("\t")
        if not tab or not row.strip().isdecimal():
            raise ValueError(f"{file}, line {number}: expected an id, a tab and a row number, got {line[:80]!r}.")
        found[raw] = int(row)
    return found


def read_features(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Ids and vectors of ``<name>.feat1CLS`` (or ``.feat2CLS``): row k belongs to index k.

    The file has no shape; its width follows from the number of ids, counted from 0 or from 1 (then row 0 is the padding
    or is not there).

    Returns:
        Raw ids, shape ``(n,)``, and vectors, ``(n, width)``.

    Raises:
        ValueError: The size of the file is no multiple of the number of ids.
    """
    index = read_index(file)
    values = np.fromfile(file, dtype=np.float32)
    rows, least = max(index.values(), default=-1) + 1, min(index.values(), default=0)
    # With indices from 1 on, some files keep a row for the padding and some do not.
    shift = next(
        (start for start in sorted({0, min(least, 1)}) if rows - start and not len(values) % (rows - start)), None
    )
    if shift is None or not len(values):
        raise ValueError(
            f"{file}: {len(values):,} numbers do not fill {rows:,} rows (one for each id); the file and its ids do not "
            "belong together, or it is not raw float32."
        )
    matrix = values.reshape(rows - shift, -1)
    ids = np.array(list(index), dtype=str)
    return ids, matrix[np.array(list(index.values())) - shift]
