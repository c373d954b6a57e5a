"""Files of other toolboxes: tables as texts, and JSON; what cannot be read is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_mm.data.atomic import check_untyped

__all__ = ["check_finite", "read_lines", "read_mapping", "read_untyped"]


def read_untyped(path: Path) -> pd.DataFrame:
    """A table with tabs between its columns, every value as it is written.

    Raises:
        ValueError: Anything that would be read as something else than it says, with the line.
    """
    check_untyped(path)
    # Everything is read as text, so that ratings and timestamps keep the digits they have.
    try:
        return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except pd.errors.ParserError as error:  # such as a quotation mark that is left open in the last line
        raise ValueError(f"{path} cannot be read: {error}.") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text.

    Raises:
        ValueError: It is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8, got other bytes ({error}); save it as UTF-8.") from error


def read_mapping(path: Path, key: str) -> dict[str, int] | None:
    """Raw id to number from a JSON object of such tables, ``None`` where it has none; ``[PAD]`` is no id.

    Raises:
        ValueError: It is no such object.
    """
    try:
        table: Any = json.loads(path.read_text(encoding="utf-8")).get(key)
        return None if table is None else {str(raw): int(row) for raw, row in table.items() if raw != "[PAD]"}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected a JSON object with {key}, a number for each raw id.") from error


def check_finite(matrix: np.ndarray, path: Path, remedy: str) -> None:
    """Refuse features that training would refuse, or that would make NaN of a toolbox's results.

    Args:
        matrix: A row for each item, as it is to be written.
        path: Where they are from.
        remedy: What the message advises.

    Raises:
        ValueError: A number that is not finite.
    """
    bad = np.flatnonzero(~np.isfinite(matrix.reshape(len(matrix), -1)).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{path}: {len(bad):,} of {len(matrix):,} rows hold NaN or infinity as {matrix.dtype} (first: row "
            f"{bad[0]:,}, counted from 0); {remedy}."
        )
