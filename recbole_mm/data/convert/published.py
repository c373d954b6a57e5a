"""Data sets as others publish them: each folder becomes arguments of the import."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_mm.data.convert.columns import find_roles
from recbole_mm.data.convert.reading import open_table

__all__ = ["LAYOUTS", "Found", "one_file"]

_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_DUCHO = {"visual": "image", "textual": "text", "audio": "audio"}


@dataclass
class Found:
    """What a folder of some layout holds.

    Attributes:
        arguments: Arguments of :func:`~recbole_mm.data.convert.tables.import_tables`.
        pictures: Pattern of the picture files, for ``extract``; empty where there are none.
    """

    arguments: dict[str, Any]
    pictures: str = ""


def _amazon_2023(folder: Path) -> Found:
    """Amazon Reviews 2023: reviews and products as jsonl, or the csv of ratings or of a split."""
    arguments: dict[str, Any] = {"user": "user_id", "item": "parent_asin", "time": "timestamp", "rating": "rating"}
    parts = {part: sorted(folder.glob(f"*.{part}.csv*")) for part in ("train", "valid", "test")}
    meta = sorted(folder.glob("meta_*.jsonl*"))
    reviews = [file for file in sorted(folder.glob("*.jsonl*")) if file not in meta]
    if all(len(files) == 1 for files in parts.values()):
        arguments.update({part: files[0] for part, files in parts.items()})
    else:
        patterns = ["CATEGORY.jsonl", "CATEGORY.jsonl.gz", "CATEGORY.csv"]
        arguments["interactions"] = _only(reviews or sorted(folder.glob("*.csv*")), folder, patterns)
    if meta:
        arguments["items"] = _only(meta, folder, ["meta_CATEGORY.jsonl"])
        there = open_table(arguments["items"]).columns
        kinds = {
            "title": "text",
            "features": "text",
            "description": "text",
            "store": "token",
            "categories": "token_seq",
        }
        # What other customers saw or bought is no content, and numbers of ratings tell of the test.
        out = (
            "images",
            "videos",
            "details",
            "bought_together",
            "average_rating",
            "rating_number",
            "subtitle",
            "author",
        )
        kinds.update(dict.fromkeys(out, "drop"))
        arguments["types"] = {column: kind for column, kind in kinds.items() if column in there}
        arguments["duplicates"] = "first"
    return Found(arguments, _pictures(folder))


def _microlens(folder: Path) -> Found:
    """MicroLens: pairs of users and videos, titles, and a folder of covers."""
    pairs = one_file(folder, ["*pairs*.csv"], "the pairs")
    arguments: dict[str, Any] = {"interactions": pairs, "user": "user", "item": "item", "time": "timestamp"}
    titles = sorted(folder.glob("*title*.csv"))
    if titles:
        file = _only(titles, folder, ["NAME_titles.csv"])
        arguments["items"] = _headless(file, ",", ("item", "title"))
        arguments["types"] = {"title": "text"}
    return Found(arguments, _pictures(folder))


def _movielens(folder: Path) -> Found:
    """MovieLens: ml-latest, ml-25m (csv), ml-1m, ml-10m (``::``) and ml-100k; posters if there is a folder of them."""
    if (folder / "ratings.csv").is_file():
        arguments: dict[str, Any] = {"interactions": folder / "ratings.csv", "user": "userId", "item": "movieId"}
        movies: Any = folder / "movies.csv"
        arguments.update({"items": movies} if movies.is_file() else {})
        types = {"title": "text", "genres": "token_seq"} if movies.is_file() else {}
        return Found({**arguments, "types": types}, _pictures(folder))
    names = ("user", "item", "rating", "timestamp")
    if (folder / "u.data").is_file():
        found: dict[str, Any] = {"interactions": _split_lines(folder / "u.data", "\t", names)}
        if (folder / "u.item").is_file():
            found["items"] = _split_lines(folder / "u.item", "|", ("item", "title"))
            found["types"] = {"title": "text"}
        return Found(found, _pictures(folder))
    found = {"interactions": _split_lines(one_file(folder, ["ratings.dat"], "the ratings"), "::", names), "types": {}}
    if (folder / "movies.dat").is_file():
        found["items"] = _split_lines(folder / "movies.dat", "::", ("item", "title", "genres"))
        found["types"].update(title="text", genres="token_seq")
    if (folder / "users.dat").is_file():
        found["users"] = _split_lines(folder / "users.dat", "::", ("user", "gender", "age", "occupation", "zip"))
        found["types"].update(dict.fromkeys(("gender", "age", "occupation", "zip"), "token"))
    return Found(found, _pictures(folder))


def _elliot(folder: Path) -> Found:
    """Elliot: tables without a header, whole or split, and Ducho's folders of one .npy a product."""
    names = ("user", "item", "rating", "timestamp")
    parts = {"train": ["train.tsv"], "valid": ["val.tsv", "valid.tsv", "validation.tsv"], "test": ["test.tsv"]}
    if (folder / "train.tsv").is_file():
        found: dict[str, Any] = {
            part: _headless(one_file(folder, patterns, f"the {part} part"), "\t", names)
            for part, patterns in parts.items()
        }
    else:
        found = {"interactions": _headless(one_file(folder, ["dataset.tsv", "*.tsv"], "the interactions"), "\t", names)}
    found["vectors"] = {}
    for kind, modality in _DUCHO.items():
        below = sorted({file.parent for file in folder.glob(f"{kind}*/**/*.npy")})
        if len(below) > 1:
            raise ValueError(
                f"{folder} has {kind} vectors of {len(below)} extractions ({', '.join(map(str, below[:4]))}); "
                f"keep one of them there, and name it where you want another: vectors {modality}=FOLDER."
            )
        if below:
            found["vectors"][modality] = str(below[0])
    return Found(found)


def _cornac(folder: Path) -> Found:
    """Cornac: ratings and texts without a header, and a matrix of features with a file of ids."""
    file = one_file(folder, ["rating.txt", "ratings.txt", "feedback.txt", "data.txt", "*rating*.*"], "the ratings")
    found: dict[str, Any] = {"interactions": _headless(file, None, ("user", "item", "rating", "timestamp"))}
    texts = sorted(folder.glob("text*.t*"))
    if texts:
        found["items"] = _split_lines(_only(texts, folder, ["text.txt"]), "\t", ("item", "text"))
        found["types"] = {"text": "text"}
    ids = [file for name in ("item_ids.txt", "image_item_ids.txt") for file in sorted(folder.glob(name))]
    for modality, pattern in (("image", "*image*.npy"), ("text", "*text*.npy")):
        matrices = sorted(folder.glob(pattern))
        if matrices and not ids:
            raise FileNotFoundError(f"{matrices[0]} has no ids: expected item_ids.txt beside it, an id a line.")
        if matrices:
            found.setdefault("vectors", {})[modality] = f"{_only(matrices, folder, [pattern])},{ids[0]}"
    return Found(found, _pictures(folder))


#: Name to what reads the folder.
LAYOUTS: dict[str, Callable[[Path], Found]] = {
    "amazon2023": _amazon_2023,
    "cornac": _cornac,
    "elliot": _elliot,
    "microlens": _microlens,
    "movielens": _movielens,
}


def one_file(folder: Path, patterns: Sequence[str], what: str) -> Path:
    """The file of the first pattern that has any.

    Args:
        folder: Where to look.
        patterns: Names in which ``*`` may stand for a part.
        what: What the file holds, for messages.

    Raises:
        FileNotFoundError: No pattern has a file; the message lists what is there.
        ValueError: A pattern has several.
    """
    for pattern in patterns:
        files = sorted(folder.glob(pattern))
        if files:
            return _only(files, folder, [pattern])
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
    raise FileNotFoundError(f"{folder} lacks {what}: expected {' or '.join(patterns)}; it has {there}.")


def _only(files: Sequence[Path], folder: Path, patterns: Sequence[str]) -> Path:
    if len(files) == 1:
        return files[0]
    if not files:
        return one_file(folder, patterns, "its table")
    raise ValueError(
        f"{folder} has {len(files)} files where one is expected: {', '.join(file.name for file in files[:5])}; "
        "keep one data set in a folder."
    )


def _pictures(folder: Path) -> str:
    """The pattern of pictures that are named by ids, where one folder of them lies there."""
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    for place in below:
        suffixes = {file.suffix for file in place.iterdir() if file.suffix.lower() in _PICTURES}
        if suffixes:
            return str(place / ("{item_id}" + (suffixes.pop() if len(suffixes) == 1 else ".*")))
    return ""


def _headless(file: Path, separator: str | None, names: Sequence[str]) -> pd.DataFrame | Path:
    """A table whose first line may name its columns or not."""
    roles: dict[str, str | None] = {name: None for name in names if name in ("user", "item")}
    try:
        find_roles(open_table(file, separator).columns, roles, str(file))
        return file
    except ValueError:  # numbers, or none of the usual names
        pass
    if separator is None:
        with file.open(encoding="utf-8-sig") as stream:
            separator = "\t" if "\t" in stream.readline() else ","
    return _split_lines(file, separator, names)


def _split_lines(file: Path, separator: str, names: Sequence[str]) -> pd.DataFrame:
    """Lines of values without a header; further values of a line are left out, and so are names without one."""
    data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # the older MovieLens
    quoting = csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE
    if len(separator) > 1:
        text, separator = text.replace(separator, "\t"), "\t"
    try:
        frame = pd.read_csv(
            io.StringIO(text), sep=separator, header=None, dtype=str, na_filter=False, quoting=quoting, index_col=False
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{file}: expected lines of {', '.join(names)} ({str(error).strip()}).") from error
    if frame.shape[1] < 2:
        raise ValueError(f"{file}: expected lines of {', '.join(names)} separated by {separator!r}.")
    frame = frame.iloc[:, : len(names)]
    return frame.set_axis(list(names[: frame.shape[1]]), axis=1)
