"""Atomic files read by pyarrow where it gives the very frame of RecBole's reader, which is ten times slower."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_mm.data.atomic import READ_AS_MISSING

__all__ = ["read"]

_SEPARATORS = "\t,;|"
_SPECIAL = (b'"', b"\r", b"\0", b"[PAD]")
"""Quotation marks, line ends of other systems and NUL, which readers take in different ways; RecBole's padding."""
_CHUNK = 2**24
# Up to 15 digits are exact in a float64, as is the power of ten that they are divided by, so that every reader rounds
# alike; "-0" is left out: read as a whole number it has no sign.
_NUMBER = r"^(0|-?[1-9][0-9]*|-?[0-9]+\.[0-9]+)$"
_LONGEST = 15


def read(
    path: Path, header: Mapping[str, str], columns: Sequence[str], separator: str, encoding: str
) -> pd.DataFrame | None:
    """The frame that ``pandas.read_csv(..., engine="python")`` gives RecBole, if that is certain.

    Args:
        path: The atomic file, whose first line has been looked at.
        header: Name of every column to its type.
        columns: Names of the columns to read.
        separator: What stands between two columns.
        encoding: How the text is encoded.

    Returns:
        The columns in the order of the file, named ``name:type``; ``None`` where pyarrow is not installed or the file
        has anything that the two might read otherwise, or that is an error: quotation marks, one column only, a number
        with more than 15 digits or in another form than ``-12.5``, lines with more or fewer values, a header again,
        another encoding or separator.
    """
    try:
        import pyarrow as pa
        import pyarrow.csv as csv
    except ImportError:
        return None
    plain = encoding.lower().replace("_", "-") in ("utf-8", "utf8") and len(separator) == 1 and separator in _SEPARATORS
    names = [f"{name}:{kind}" for name, kind in header.items()]
    again = b"\n" + separator.join(names).encode()  # a second header is an error that has a line
    if not plain or len(header) < 2 or not columns or _has(path, (*_SPECIAL, again)):
        return None
    wanted = [f"{name}:{kind}" for name, kind in header.items() if name in columns]
    try:
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(use_threads=False, column_names=names, skip_rows=1),
            parse_options=csv.ParseOptions(delimiter=separator, quote_char=False),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.large_string()),
                include_columns=wanted,
                null_values=list(_missing_values()),
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid:  # a line that is not right: the careful reader says which
        return None
    if not len(table):
        return None
    found = {name: _column(table.column(name), header[name.rpartition(":")[0]]) for name in wanted}
    return None if any(column is None for column in found.values()) else pd.DataFrame(found)


def _has(path: Path, marks: Sequence[bytes]) -> bool:
    overlap, end = max(map(len, marks)) - 1, b""
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            chunk = end + chunk
            if any(mark in chunk for mark in marks):
                return True
            end = chunk[-overlap:]
    return False


@lru_cache(maxsize=1)
def _missing_values() -> tuple[str, ...]:
    """Those that the installed pandas takes for missing, tried out."""
    lines = "\n".join(["value,n", *(f"{value},1" for value in READ_AS_MISSING)])
    read_back = pd.read_csv(io.StringIO(lines), dtype={"value": str}, engine="python")["value"]
    return tuple(value for value, missing in zip(READ_AS_MISSING, read_back.isna()) if missing)


def _column(values: Any, kind: str) -> Any:
    """A column of text as pandas keeps it, or of numbers; ``None`` for numbers that readers may round otherwise."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind != "float":
        text = pd.Series([""], dtype=str).dtype
        if text.kind == "O" and isinstance(text, np.dtype):  # pandas 2
            column = values.to_pandas().to_numpy(dtype=object, copy=True)
            column[pd.isna(column)] = np.nan
            return column
        return pd.array(values.combine_chunks(), dtype=text)
    simple = pc.and_(pc.match_substring_regex(values, _NUMBER), pc.less_equal(pc.binary_length(values), _LONGEST))
    if not pc.all(simple).as_py():  # of those that are not missing
        return None
    return pc.cast(values, pa.float64()).to_numpy()
