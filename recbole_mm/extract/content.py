"""Which raw content belongs to which id: text columns, or files by a pattern."""

from __future__ import annotations

import hashlib
import html
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_mm.config.names import suggest

__all__ = ["Content", "files_content", "plain_text", "read_atomic", "read_rows", "text_content"]

_TAG = re.compile(r"<(?:/?[A-Za-z][^<>]*|!--.*?--)>", flags=re.DOTALL)
_NOTES = (".json", ".txt", ".xml", ".xmp", ".csv", ".html", ".md", ".npy", ".npz", ".tmp", ".part", "")


@dataclass(frozen=True)
class Content:
    """Raw inputs of a modality.

    Attributes:
        ids: Raw ids, in the order of ``inputs``.
        inputs: A text, or the path of a file, for each id.
        failed: Id to the reason why there is no input.
        read: What makes an encoder's input of one of ``inputs``; raises ``ValueError`` where it cannot.
        described: Where the content comes from, for the provenance.
    """

    ids: list[str]
    inputs: list[Any]
    failed: dict[str, str]
    read: Callable[[Any], Any]
    described: str

    def marks(self) -> dict[str, str]:
        """Id to what changes with its input: a hash of the text, or size and date of the file."""
        return {token: _mark(entry) for token, entry in zip(self.ids, self.inputs)}


def _mark(entry: Any) -> str:
    if isinstance(entry, str):
        return hashlib.blake2b(entry.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    try:
        status = entry.stat()
    except OSError:  # it went meanwhile, which whoever reads it will say
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def read_rows(folder: Path, name: str, entity: str) -> pd.DataFrame:
    """What is known of every item, user or interaction of a data set: its atomic file, and the texts of an import.

    Of several interactions of one user with one item, which a feature file cannot tell apart, the last is taken.

    Returns:
        Text, a column per field, the raw id as the index; of an interaction those of user and item, a tab between.

    Raises:
        FileNotFoundError: There is no such data set.
    """
    key = f"{entity}_id"
    inter = folder / f"{name}.inter"
    if not inter.is_file():
        raise FileNotFoundError(
            f"There is no data set {name!r} in {folder.parent}: expected {inter}. `recbole-mm import {name} "
            "--interactions=...` makes one."
        )
    if entity == "inter":
        return _interactions(folder, name)
    frames = []
    kept = folder / (f"{name}.text.parquet" if entity == "item" else f"{name}.user_text.parquet")
    if (folder / f"{name}.{entity}").is_file():
        frames.append(read_atomic(folder / f"{name}.{entity}").set_index(key))
    if kept.is_file():
        frames.append(pd.read_parquet(kept).astype(str).set_index(key))
    clicked = pd.Index(read_atomic(inter, [key])[key].unique(), name=key)
    rows = pd.concat(frames, axis=1) if frames else pd.DataFrame(index=clicked)
    return rows.reindex(rows.index.union(clicked, sort=False)).fillna("")


def _interactions(folder: Path, name: str) -> pd.DataFrame:
    kept = folder / f"{name}.inter_text.parquet"
    frame = pd.read_parquet(kept).astype(str) if kept.is_file() else read_atomic(folder / f"{name}.inter")
    keys = frame["user_id"] + "\t" + frame["item_id"]
    rows = frame.set_index(keys).drop(columns=["user_id", "item_id"])
    return rows[~rows.index.duplicated(keep="last")].fillna("")


def text_content(rows: pd.DataFrame, columns: Sequence[str]) -> Content:
    """Texts of one or several columns, without tags of HTML, joined with their names where there are several.

    Raises:
        KeyError: A column is not there.
    """
    for column in columns:
        _check_column(column, rows)
    if len(set(columns)) < len(columns):
        raise ValueError(f"text: expected every column once, got {', '.join(columns)}.")
    cells = rows[list(columns)].astype(str).map(plain_text)
    if len(columns) == 1:
        texts = cells[columns[0]]
    else:
        named = [cells[c].map(lambda text, c=c: f"{c}: {text}" if text else "") for c in columns]
        texts = pd.Series([". ".join(filter(None, parts)) for parts in zip(*named)], index=rows.index)
    failed = dict.fromkeys(rows.index[texts == ""], "no text")
    texts = texts[texts != ""]
    return Content(list(texts.index), list(texts), failed, str, f"text of {', '.join(columns)}")


def plain_text(text: str) -> str:
    """A text as a browser shows it: descriptions of shops are often HTML, whose tags an encoder would read as words.

    Example:
        >>> plain_text("<p>Mug &amp; <b>saucer</b></p> 3 < 4")
        'Mug & saucer 3 < 4'
    """
    if "<" in text:
        text = _TAG.sub(" ", text)
    return " ".join((html.unescape(text) if "&" in text else text).split())


def files_content(rows: pd.DataFrame, pattern: str, entity: str, read: Callable[[Path], Any], base: Path) -> Content:
    """Files by a pattern such as ``pictures/{item_id}.jpg``; ``{item_id}.*`` takes any suffix.

    Raises:
        KeyError: A column in braces is not there.
        ValueError: No column in braces.
        FileNotFoundError: Not one file is there; shows what the folder has.
    """
    key = f"{entity}_id"
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None]
    except ValueError as error:
        raise ValueError(f"{pattern!r}: a brace has no partner ({error}); expected pictures/{{{key}}}.jpg.") from error
    if not names:
        raise ValueError(f"{pattern!r}: expected a pattern with a column in braces, such as pictures/{{{key}}}.jpg.")
    for name in names:
        if name != key:
            _check_column(name, rows)
    paths = [
        base / Path(pattern.format(**{key: index, **cells})).expanduser()
        for index, cells in zip(rows.index, rows.to_dict("records"))
    ]
    if pattern.endswith(".*"):
        folders = {path.parent for path in paths}
        found = {folder: {file.stem: file for file in sorted(folder.glob("*"), key=_rank)} for folder in folders}
        paths = [found[path.parent].get(path.name[:-2], path) for path in paths]
    there = [path.is_file() for path in paths]
    if paths and not any(there):
        folder = paths[0].parent
        has = sorted(file.name for file in folder.glob("*"))[:5] if folder.is_dir() else []
        shown = f"{folder} has {', '.join(has)}, ..." if has else f"the folder {folder} is not there or empty"
        raise FileNotFoundError(
            f"{pattern!r}: none of the {len(paths):,} files is there; the first would be {paths[0]}, but {shown}."
        )
    ids = [index for index, exists in zip(rows.index, there) if exists]
    inputs = [path for path, exists in zip(paths, there) if exists]
    stems = {folder: {file.stem for file in folder.glob("*")} for folder in {path.parent for path in paths}}
    missing = [(index, path) for index, path, exists in zip(rows.index, paths, there) if not exists]
    other = "no file of this suffix, but of another one: write .* for any"
    failed = {index: other if path.stem in stems[path.parent] else "no such file" for index, path in missing}
    return Content(ids, inputs, failed, read, f"files {pattern}")


def _rank(file: Path) -> tuple[bool, Path]:
    """Of several files that differ in their suffix, the last one is taken, and no notes beside a picture."""
    return file.suffix.lower() not in _NOTES, file


def read_atomic(file: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """An atomic file as text, its columns without their types.

    Args:
        file: The file.
        columns: The columns wanted; all when not given.

    Raises:
        ValueError: One of them is not there.
    """
    with file.open(encoding="utf-8") as stream:
        header = [field.rpartition(":")[0] or field for field in stream.readline().rstrip("\n").split("\t")]
    if not set(columns or ()) <= set(header):
        raise ValueError(f"{file}: expected the columns {', '.join(columns or ())}, got {', '.join(header)}.")
    return pd.read_csv(
        file, sep="\t", names=header, header=0, dtype=str, keep_default_na=False, usecols=columns, encoding="utf-8"
    )


def _check_column(column: str, rows: pd.DataFrame) -> None:
    if column not in rows.columns:
        raise KeyError(
            f"There is no column {column!r}.{suggest(column, rows.columns)} There is "
            f"{', '.join(rows.columns) or 'none'}; texts are kept by `recbole-mm import NAME "
            "--items=FILE`, those of reviews by its --reviews=COLUMNS."
        )
