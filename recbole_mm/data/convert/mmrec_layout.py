"""The folder layout of the MMRec toolbox: what its files and columns are called, for reading and for writing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["COLUMNS", "PARTS", "Column", "column_role", "feature_file", "feature_files", "mapping_file"]

_SUFFIX = "_feat.npy"
# The layout knows no features of users; they stand beside those of items under this prefix.
_PREFIX = {"item": "", "user": "user_"}


class Column(NamedTuple):
    """A column of the ``.inter`` file.

    Attributes:
        written: Its name in a file that is written.
        names: What it may be called in a file that is read, in lower case without underscores.
        field: The atomic field it stands for, with its type.
    """

    written: str
    names: tuple[str, ...]
    field: str

    @property
    def name(self) -> str:
        """The atomic field without its type."""
        return self.field.split(":")[0]


#: The columns of the ``.inter`` file by what they mean, in the order in which they are written.
COLUMNS = {
    "user": Column("userID", ("userid", "user", "uid"), "user_id:token"),
    "item": Column("itemID", ("itemid", "item", "iid"), "item_id:token"),
    "rating": Column("rating", ("rating",), "rating:float"),
    "time": Column("timestamp", ("timestamp", "time"), "timestamp:float"),
    "split": Column("x_label", ("xlabel", "split"), "x_label:token"),
}
#: Names of the parts of the split, in the order of ``x_label``.
PARTS = ("train", "valid", "test")


def column_role(column: str) -> str | None:
    """What a column of a file means by its name, a key of :data:`COLUMNS`; ``None`` if the name says nothing."""
    plain = re.sub(r"[_:\W]|token$|float$", "", column).lower()
    return next((role for role, known in COLUMNS.items() if plain in known.names), None)


def feature_file(entity: str, modality: str) -> str:
    """Name of the file whose row k is the feature of the item (or user) with id k."""
    return f"{_PREFIX[entity]}{modality}{_SUFFIX}"


def feature_files(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """The feature files among some names.

    Args:
        names: Names of the files of a folder.

    Returns:
        ``item`` and ``user``, each modality to file.
    """
    found: dict[str, dict[str, str]] = {"item": {}, "user": {}}
    for name in sorted(names):
        if name.endswith(_SUFFIX):
            entity = "user" if name.startswith(_PREFIX["user"]) else "item"
            found[entity][name[len(_PREFIX[entity]) : -len(_SUFFIX)]] = name
    return found


def mapping_file(entity: str) -> str:
    """Name of the table that says which token has which number."""
    return f"{entity[0]}_id_mapping.csv"
