"""Rows that RecBole leaves out because an id reads as missing, counted before any run: its warning is in their logs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

__all__ = ["missing_ids_notes"]

_ROWS_AT_A_TIME = 1_000_000
_NAMED = 10


def missing_ids_notes(dataset: str, config: Any) -> list[str]:
    """A note for each file of interactions with rows whose user or item reads as missing.

    A file that cannot be read has none: the runs say what is wrong with it.

    Args:
        dataset: Name of the data set.
        config: RecBole's Config, with ``data_path`` the folder of the data set.
    """
    parts = config["benchmark_filename"] or [None]
    files = [Path(config["data_path"]) / f"{dataset}{'' if part is None else f'.{part}'}.inter" for part in parts]
    return [note for file in files for note in _note(file, config)]


def _note(file: Path, config: Any) -> Iterator[str]:
    ids = [config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]]
    try:
        lines = _lines_without(file, ids, str(config["field_separator"]), str(config["encoding"] or "utf-8"))
    except (OSError, ValueError, LookupError):
        return
    if lines:
        named = ", ".join(f"{line:,}" for line in lines[:_NAMED]) + (", ..." if len(lines) > _NAMED else "")
        yield (
            f"{len(lines):,} {'row' if len(lines) == 1 else 'rows'} of {file.name} (line {named}): {' or '.join(ids)} "
            "reads as missing (nothing, NaN, None, NA or the like). RecBole leaves such rows out, for every model."
        )


def _lines_without(file: Path, ids: list[str], separator: str, encoding: str) -> list[int]:
    """Numbers of the lines that lack one of the ids, by pandas, with which RecBole reads the file."""
    columns = {f"{name}:token": str for name in ids}
    found: list[int] = []
    with pd.read_csv(
        file,
        delimiter=separator,
        usecols=list(columns),
        dtype=columns,
        encoding=encoding,
        chunksize=_ROWS_AT_A_TIME,
    ) as chunks:
        for rows in chunks:
            found += (rows.index[rows.isna().any(axis=1)] + 2).tolist()
    return found
