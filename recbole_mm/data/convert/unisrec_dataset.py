"""From the folder layout of the UniSRec family to atomic files, pre-split histories and feature files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from recbole_mm.data.convert.unisrec import read_features, read_index, read_pairs
from recbole_mm.data.convert.untyped import read_mapping, read_untyped
from recbole_mm.data.convert.vectors import write_vectors
from recbole_mm.data.features.files import check_dataset_name
from recbole_mm.data.features.names import check_new_modality
from recbole_mm.folders import replacing_folder

__all__ = ["from_unisrec"]

_PARTS = ("train", "valid", "test")
_COLUMNS = ("user_id", "item_id_list", "item_id")


def from_unisrec(
    source: Path, target: Path, name: str, modality: str = "text", width: int | None = None, force: bool = False
) -> list[str]:
    """Convert a data set of the UniSRec family.

    ``source`` holds ``<ds>.train.inter``, ``<ds>.valid.inter`` and ``<ds>.test.inter`` (a user, a history and the next
    item in a row), the numbers of raw ids in ``<ds>.item2index`` and ``<ds>.user2index`` or in ``<ds>.data_maps``, and
    raw float32 vectors in ``<ds>.feat1CLS``, whose row k belongs to item number k; ``<ds>.feat2CLS``, of texts with
    words dropped, is read where it is there.

    ``target/name`` gets the three parts with raw ids, ``name.inter`` (every user's items in order), feature files by
    raw id, of the modality and of ``<modality>_dropped``, and ``name.yaml``, to be passed to RecBole as a config file.

    Args:
        source: The folder.
        target: Folder of data sets (RecBole's ``data_path``).
        name: Name of the data set.
        modality: Name of the vectors' modality.
        width: Width of the vectors, to be checked; the files do not tell it.
        force: Overwrite the files of an earlier conversion.

    Returns:
        What was done, a line each.

    Raises:
        FileNotFoundError: A file is missing.
        FileExistsError: The folder is there already, and not ``force``.
        ValueError: A file is not what it should be, or vectors and items do not belong together.
    """
    check_dataset_name(name)
    check_new_modality(modality, "--modality")
    stem = _stem(source)
    items = read_index(source / f"{stem}.feat1CLS")
    users = _user_index(source, stem)
    frames = {part: _read_part(source / f"{stem}.{part}.inter") for part in _PARTS}
    for part, frame in frames.items():
        file = source / f"{stem}.{part}.inter"
        frame["item_id"] = _raw(frame["item_id"], items, file)
        frame["item_id_list"] = _raw_lists(frame["item_id_list"], items, file)
        if users is not None:
            frame["user_id"] = _raw(frame["user_id"], users, file)
    whole = _sequences(frames)
    report = [
        f"{source / stem}: {whole.user_id.nunique():,} users, {whole.item_id.nunique():,} items in histories, "
        f"{len(items):,} in the index; rows: " + ", ".join(f"{part} {len(frame):,}" for part, frame in frames.items())
    ]
    vectors = {}
    for ending, called in (("feat1CLS", modality), ("feat2CLS", f"{modality}_dropped")):
        if (source / f"{stem}.{ending}").is_file():
            vectors[called] = _vectors(source / f"{stem}.{ending}", width, len(items), report)
    if not vectors:
        raise FileNotFoundError(f"{source} has no vectors {stem}.feat1CLS.")
    with replacing_folder(target / name, force, report) as folder:
        header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
        for part, frame in frames.items():
            _write(frame[list(_COLUMNS)], header, folder / f"{name}.{part}.inter")
        _write(whole, "user_id:token\titem_id:token\ttimestamp:float\n", folder / f"{name}.inter")
        for called, (ids, matrix) in vectors.items():
            write_vectors(folder / f"{name}.item.{called}", ids, matrix)
        (folder / f"{name}.yaml").write_text(_configuration(name, modality), encoding="utf-8")
    return report


def _stem(source: Path) -> str:
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder.")
    found = sorted(source.glob("*.train.inter"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise FileNotFoundError(f"{source}: expected exactly one <ds>.train.inter, found {names}.")
    return found[0].name.removesuffix(".train.inter")


def _user_index(source: Path, stem: str) -> dict[str, int] | None:
    """Raw user id to number; ``None`` where nothing tells."""
    index, maps = source / f"{stem}.user2index", source / f"{stem}.data_maps"
    if index.is_file():
        return read_pairs(index)
    if maps.is_file():
        return read_mapping(maps, "user2id")
    return None


def _read_part(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: the parts are <ds>.train.inter, <ds>.valid.inter, <ds>.test.inter."
        )
    frame = read_untyped(path)
    frame.columns = [column.partition(":")[0] for column in frame.columns]
    lacking = [column for column in _COLUMNS if column not in frame]
    if lacking:
        raise ValueError(f"{path}: no column {' and '.join(lacking)} among {', '.join(frame.columns)}.")
    return frame[list(_COLUMNS)]


def _raw(tokens: pd.Series, index: dict[str, int], file: Path) -> pd.Series:
    """Raw ids of tokens that are numbers of the index, or raw ids already."""
    if tokens.isin(list(index)).all():
        return tokens
    by_number = {str(number): raw for raw, number in index.items()}
    found = tokens.map(by_number)
    if found.isna().any():
        wrong = tokens[found.isna()].iloc[0]
        raise ValueError(
            f"{file}: {wrong!r} is neither a number nor an id of the index ({int(found.isna().sum()):,} such entries). "
            "The index must be that of this data set."
        )
    return found


def _raw_lists(lists: pd.Series, index: dict[str, int], file: Path) -> pd.Series:
    entries = lists.str.split(" ").explode()
    entries = entries[entries != ""]
    raw = _raw(entries, index, file)
    if raw.str.contains(" ").any():
        raise ValueError(
            f"{file}: histories are separated by blanks, and {raw[raw.str.contains(' ')].iloc[0]!r} has one."
        )
    return raw.groupby(level=0).agg(" ".join).reindex(lists.index, fill_value="")


def _sequences(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Every user's items in the order in which histories have them, each once."""
    rows = pd.concat(frames.values(), ignore_index=True)
    rows["length"] = rows.item_id_list.str.count(" ") + (rows.item_id_list != "")
    rows = rows.sort_values("length", kind="stable")
    rows["items"] = (rows.item_id_list + " " + rows.item_id).str.strip().str.split(" ")
    pairs = rows[["user_id", "items"]].explode("items").rename(columns={"items": "item_id"})
    pairs = pairs.drop_duplicates(["user_id", "item_id"])
    pairs["timestamp"] = pairs.groupby("user_id").cumcount()
    return pairs.sort_values(["user_id", "timestamp"], kind="stable").reset_index(drop=True)


def _vectors(file: Path, width: int | None, n_items: int, report: list[str]) -> tuple[np.ndarray, np.ndarray]:
    numbers = file.stat().st_size / 4
    if width is not None and numbers not in (n_items * width, (n_items + 1) * width):  # with a row for the padding
        raise ValueError(
            f"{file}: {numbers:,.0f} numbers, and {n_items:,} items with vectors of width {width:,} make "
            f"{n_items * width:,}. The file is of other items, of another width or not float32."
        )
    ids, matrix = read_features(file)
    if not np.isfinite(matrix).all():
        raise ValueError(f"{file}: NaN or infinite numbers; it is not raw float32, or its width is another one.")
    report.append(f"{file.name}: {len(matrix):,} rows of {matrix.shape[1]:,} numbers")
    return ids, matrix


def _write(frame: pd.DataFrame, header: str, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        stream.write(header)
        frame.to_csv(stream, sep="\t", index=False, header=False, lineterminator="\n")


def _configuration(name: str, modality: str) -> str:
    settings = {
        "field_separator": "\t", "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id",
        "load_col": {"inter": list(_COLUMNS)}, "alias_of_item_id": ["item_id_list"],
        "benchmark_filename": list(_PARTS), "modalities": [modality],
    }  # fmt: skip
    head = (
        f"# Data set {name}: histories and split that came with it, for sequential models. Pass this file to\n"
        "# RecBole as a config file. Without it RecBole splits the .inter file, whose times are places in histories.\n"
    )
    return head + yaml.safe_dump(settings, sort_keys=False)
