"""What a model was trained on, in hashes: the numbering of the ids, the split and the feature files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recbole_mm.data.pairs import target_pairs, training_pairs

__all__ = ["changes", "data_fingerprint", "feature_hash", "file_hash", "id_hashes", "pairs_hash"]

_BLOCK = 2**20
_hashes: dict[tuple[str, int, int], str] = {}


def data_fingerprint(train: Any, valid: Any = None) -> dict[str, Any]:
    """Fingerprint of the data of a training.

    Args:
        train: The training part, a data set of RecBole's after the split.
        valid: The validation part, if there is one.

    Returns:
        ``ids`` (field to the hash of its raw tokens in the order of the internal ids), ``split`` (part to the hash of
        its distinct pairs), ``test`` (that hash of the test part, where the training part was told it), ``columns``
        (``user.NAME``, ``item.NAME`` or ``train.NAME`` to the hash of the values of a loaded column), ``features``
        (``entity.modality`` to the name and hash of its file) and ``modalities`` (the modalities that the data set may
        use; ``None`` for a data set without features).
    """
    parts = {"train": training_pairs(train)}
    if valid is not None:
        parts["valid"] = target_pairs(valid)
    files = train._feature_files() if hasattr(train, "_feature_files") else {}
    return {
        "ids": id_hashes(train),
        "split": {name: _hash_pairs(pairs) for name, pairs in parts.items()},
        "test": getattr(train, "test_part", None),
        "columns": _columns(train),
        "features": {
            f"{entity}.{modality}": {"file": file.path.name, "sha256": feature_hash(file.path)}
            for entity, found in files.items()
            for modality, file in found.items()
        },
        "modalities": [str(name) for name in train._available_modalities] if files else None,
    }


def _columns(train: Any) -> dict[str, str]:
    """Hashes of what is known of users and items, in the order of their ids, and of the training rows beside the ids.

    Histories and their lengths, which follow from the pairs and their order, are left out.
    """
    found: dict[str, str] = {}
    rows, suffix = train.inter_feat, train.config["LIST_SUFFIX"] or "_list"
    parts = {"user": train.user_feat, "item": train.item_feat, "train": rows}
    sort = _Sorter(rows[train.uid_field].numpy(), rows[train.iid_field].numpy())
    for part, frame in parts.items():
        for name, values in getattr(frame, "interaction", {}).items():
            derived = part == "train" and (name.endswith(suffix) or values.dim() > 1)
            if name in (train.uid_field, train.iid_field, train.config["ITEM_LIST_LENGTH_FIELD"]) or derived:
                continue
            array = values.numpy()
            if part == "train":  # whatever the order of the rows
                array = sort(array)
            found[f"{part}.{name}"] = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return found


class _Sorter:
    """Values of rows in the order of their pairs, those of one pair in the order of the values.

    ``values[np.lexsort((values, items, users))]`` with one sort of all rows for all columns.

    Args:
        users: Shape ``(n,)``.
        items: Shape ``(n,)``.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray) -> None:
        self._users, self._items = users, items
        self._order: np.ndarray | None = None

    def __call__(self, values: np.ndarray) -> np.ndarray:
        if self._order is None:
            self._key = self._users.astype(np.int64) << 32 | self._items
            self._order = np.argsort(self._key)
            ordered = self._key[self._order]
            same = np.concatenate([[False], ordered[1:] == ordered[:-1], [False]])
            self._tied = same[1:] | same[:-1]
        found = values[self._order]
        if self._tied.any():
            rows = np.sort(self._order[self._tied])
            found[self._tied] = values[rows[np.lexsort((values[rows], self._key[rows]))]]
        return np.asarray(found)


def pairs_hash(part: Any) -> str:
    """Hash of the distinct pairs of a part of a split."""
    return _hash_pairs(target_pairs(part))


def id_hashes(dataset: Any) -> dict[str, str]:
    """For every field with a vocabulary, the hash of its raw tokens in the order of the internal ids."""
    return {str(field): _hash_tokens(tokens) for field, tokens in sorted(dataset.field2id_token.items())}


def changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, in words; parts that only one of them has are not compared.

    Args:
        there: Fingerprint of a checkpoint.
        here: Fingerprint of the data at hand.

    Returns:
        A text for each difference.
    """
    found = []
    for field, value in there.get("ids", {}).items():
        if here.get("ids", {}).get(field, value) != value:
            found.append(f"the values of {field} have other internal ids")
    names = {"train": "training", "valid": "validation"}
    for part, value in there.get("split", {}).items():
        if not found and here.get("split", {}).get(part, value) != value:  # with other ids every pair is another one
            found.append(f"the {names.get(part, part)} part has other interactions")
    for name, value in there.get("columns", {}).items() if not found else ():
        part, _, column = name.partition(".")
        if here.get("columns", {}).get(name, value) != value:
            where = "the training rows" if part == "train" else f"the {part}s"
            found.append(f"the column {column} of {where} has other values")
    if "features" in here and "features" in there:
        found += _feature_changes(there["features"], here["features"])
    return found


def _feature_changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    found = []
    for name, value in there.items():
        if name not in here:
            found.append(f"the feature file {value['file']} is gone")
        elif here[name]["sha256"] != value["sha256"]:
            found.append(f"the feature file {here[name]['file']} has another content")
    return found + [f"there is a new feature file {here[name]['file']}" for name in here if name not in there]


def file_hash(file: Path) -> str:
    """SHA-256 of a file, read once per process and state of the file."""
    stat = file.stat()
    key = (str(file.resolve()), stat.st_mtime_ns, stat.st_size)
    if key not in _hashes:
        state = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                state.update(block)
        _hashes[key] = state.hexdigest()
    return _hashes[key]


def feature_hash(file: Path) -> str:
    """Hash of a feature file, with that of its ids where they are beside it."""
    ids = file.with_suffix(".ids")
    if file.suffix == ".npy" and ids.is_file():
        return hashlib.sha256((file_hash(file) + file_hash(ids)).encode("ascii")).hexdigest()
    return file_hash(file)


def _hash_tokens(tokens: Any) -> str:
    return hashlib.sha256("\0".join(str(token) for token in tokens).encode("utf-8", "surrogatepass")).hexdigest()


def _hash_pairs(pairs: tuple[np.ndarray, np.ndarray]) -> str:
    return hashlib.sha256(np.stack(pairs, axis=1).astype("<i8").tobytes()).hexdigest()
