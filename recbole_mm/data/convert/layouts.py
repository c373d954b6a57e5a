"""Folders of a known layout, or of one that a yaml file of yours describes, become data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_mm.config import read_options
from recbole_mm.config.names import suggest
from recbole_mm.data.convert.import_report import ImportReport
from recbole_mm.data.convert.published import LAYOUTS, Found, one_file
from recbole_mm.data.convert.tables import import_tables

__all__ = ["LAYOUTS", "Found", "import_layout", "read_layout"]

_TABLES = ("interactions", "items", "users", "train", "valid", "test")
_OWN = (
    *_TABLES, "user", "item", "time", "rating", "label", "vectors", "types", "keep", "time_format", "separator",
    "header", "duplicates", "pictures",
)  # fmt: skip
# Names and values, with an example; what the caller says is added to what the layout says.
_MAPPINGS = {"vectors": "{image: emb.npy,ids.txt}", "types": "{price: float}", "keep": "{event: [purchase]}"}


def import_layout(name: str, layout: str, source: str | Path, **arguments: Any) -> tuple[ImportReport, Found]:
    """Import a folder of a known layout.

    Args:
        name: Name of the data set.
        layout: One of :data:`LAYOUTS`, or a yaml file of your own: see :func:`read_layout`.
        source: The folder.
        **arguments: Arguments of :func:`~recbole_mm.data.convert.tables.import_tables`, which win.

    Returns:
        The report of the import, and what was found.

    Raises:
        FileNotFoundError: The folder lacks a file of the layout.
        ValueError: No such layout, or a file is not what the layout says.
    """
    found = read_layout(layout, source)
    given = {key: value for key, value in arguments.items() if value is not None and value != {}}
    merged = {key: {**found.arguments.pop(key, {}), **given.pop(key, {})} for key in _MAPPINGS}
    if {"train", "valid", "test"} & set(given):
        found.arguments.pop("interactions", None)
    return import_tables(name, **{**found.arguments, **given, **merged}), found


def read_layout(layout: str, source: str | Path) -> Found:
    """Find the tables of a folder.

    A yaml file of your own has the names of the arguments of the import as keys, with files relative to the folder
    (``*`` may stand for a part of a name), and ``pictures`` for the pattern of picture files::

        interactions: clicks_*.csv
        user: kunde
        item: artikel
        time: wann
        time_format: "%d.%m.%Y"
        items: products.csv
        types: {title: text, price: float}
        keep: {event: [purchase, like]}
        vectors: {image: "emb.npy,ids.txt"}
        pictures: photos/{item_id}.jpg

    Args:
        layout: One of :data:`LAYOUTS`, or the yaml file.
        source: The folder.

    Raises:
        FileNotFoundError: There is no such folder or yaml file, or the folder lacks a file.
        ValueError: No such layout, or a key of the yaml file that the import has not.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"source: there is no folder {folder}; expected the folder of the data set's files.")
    if layout.endswith((".yaml", ".yml")):
        return _own(Path(layout).expanduser(), folder)
    if layout not in LAYOUTS:
        raise ValueError(
            f"layout: expected one of {', '.join(LAYOUTS)}, or a yaml file of your own, got {layout!r}."
            f"{suggest(layout, LAYOUTS)}"
        )
    return LAYOUTS[layout](folder)


def _own(file: Path, folder: Path) -> Found:
    if not file.is_file():
        raise FileNotFoundError(f"layout: there is no file {file}.")
    given = read_options(str(file))
    for key in given:
        if key not in _OWN:
            raise ValueError(f"{file}: {key!r} is no key of a layout.{suggest(key, _OWN)} Keys are {', '.join(_OWN)}.")
    for key, example in _MAPPINGS.items():
        if not isinstance(given.get(key, {}), dict):
            raise ValueError(f"{file}, {key}: expected names and values such as {example}, got {given[key]!r}.")
    pictures = str(given.pop("pictures", ""))
    for key in _TABLES:
        if key in given:
            given[key] = one_file(folder, [str(given[key])], f"{file.name}, {key}")
    if "vectors" in given:
        given["vectors"] = {name: _vectors(folder, str(value)) for name, value in given["vectors"].items()}
    return Found(given, str(folder / pictures) if pictures else "")


def _vectors(folder: Path, value: str) -> str:
    """Files of one form of vectors, each from the folder."""
    return ",".join(str(folder / part.strip()) for part in value.split(","))
