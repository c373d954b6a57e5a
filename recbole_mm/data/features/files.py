"""Feature files: how they are named, where they are found, and how ids and rows are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_mm.data.features import parquet
from recbole_mm.data.features.archive import large_vectors
from recbole_mm.data.features.matrix import FeatureMatrix
from recbole_mm.data.features.names import check_modality_name
from recbole_mm.data.features.ragged import ragged

__all__ = [
    "ENTITIES",
    "FeatureFile",
    "check_dataset_name",
    "discover",
    "search_folders",
]

#: Entities that can have features, with the names of the id arrays of a ``.npz`` or ``.parquet`` file.
ENTITIES = {"item": ("id",), "user": ("id",), "inter": ("user_id", "item_id")}
_SUFFIXES = ("npz", "npy", "parquet")


@dataclass(frozen=True)
class FeatureFile:
    """A feature file that exists; reading it checks it.

    Attributes:
        entity: ``item``, ``user`` or ``inter``.
        modality: Name of the modality.
        path: The ``.npz``, ``.npy`` or ``.parquet`` file.
    """

    entity: str
    modality: str
    path: Path

    def tokens(self) -> tuple[np.ndarray, ...]:
        """Raw tokens of every row: one array for items and users, two (user, item) for interactions.

        Raises:
            ValueError: Ids of a wrong type, empty or duplicate ids, or columns of different lengths.
        """
        names = ENTITIES[self.entity]
        if self.path.suffix == ".npy":
            columns = self._read_ids_file(len(names))
        elif self.path.suffix == ".npz":
            columns = [_as_tokens(array, name, self.path) for name, array in self._npz(*names).items()]
        else:
            table = self._parquet(*names)
            columns = [_as_tokens(parquet.ids(table, name, self.path), name, self.path) for name in names]
        if len({len(column) for column in columns}) != 1:
            sizes = ", ".join(f"{name}: {len(column):,}" for name, column in zip(names, columns))
            raise ValueError(f"{self.path}: the id columns differ in length ({sizes}); write one id per row in each.")
        self._check_distinct(columns)
        return tuple(columns)

    def matrix(self, in_order: bool = False) -> FeatureMatrix:
        """The vectors, checked for type and rank; a ``.npy`` matrix and a large one of a plain ``.npz`` stay on disk.

        Args:
            in_order: Whether it is enough to get the rows in the order of the file; large vectors that are compressed
                or in a ``.parquet`` are then a ``stream``.

        Raises:
            ValueError: Not a numeric array of rank 2 or 3, or without rows or columns.
        """
        array: Any = None
        count: np.ndarray | None = None
        large = large_vectors(self.path, in_order)
        if large is not None:
            return self._checked(large)
        if self.path.suffix == ".npz":
            arrays = self._npz("feature", "count")
            array, count = arrays["feature"], arrays.get("count")
            if count is not None:
                array = ragged(array, count, self.path)
        elif self.path.suffix == ".parquet":
            array, count = parquet.vectors(self._parquet("feature"), self.path)
        shape, dtype = (array.shape, array.dtype) if array is not None else self._npy_header()
        return self._checked(FeatureMatrix(self.path, tuple(shape), dtype, array, count))

    def _checked(self, matrix: FeatureMatrix) -> FeatureMatrix:
        shape, dtype = matrix.shape, matrix.dtype
        if dtype.kind not in "biuf":
            raise ValueError(
                f"{self.path}: expected numbers (float16 or float32), got dtype {dtype}; convert them first."
            )
        if len(shape) not in (2, 3):
            raise ValueError(
                f"{self.path}: expected features of shape (rows, columns) or (rows, vectors, columns), got {shape}; "
                "one row per id."
            )
        if 0 in shape:
            raise ValueError(
                f"{self.path}: features of shape {shape} hold no number; write at least one row and column."
            )
        return matrix

    def _npz(self, *names: str) -> dict[str, np.ndarray]:
        try:
            archive = np.load(self.path, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds a single array, not a .npz archive")
            with archive:
                found = archive.files
                arrays = {name: archive[name] for name in names if name in found}
        except Exception as error:  # a damaged archive raises whatever its damage leads to
            raise ValueError(f"{self.path} cannot be read: {_reason(error)}. {_REMEDY}") from error
        self._check_names([name for name in names if name != "count"], found, "arrays")
        return arrays

    def _npy_header(self) -> tuple[tuple[int, ...], np.dtype]:
        try:
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
            if not isinstance(array, np.ndarray):
                raise ValueError("it is an archive, not a single array; give it the suffix .npz")
        except Exception as error:
            raise ValueError(f"{self.path} cannot be read: {_reason(error)}. {_REMEDY}") from error
        return array.shape, array.dtype

    def _read_ids_file(self, n_columns: int) -> list[np.ndarray]:
        path = self.path.with_name(self.path.name[: -len(".npy")] + ".ids")
        with path.open(encoding="utf-8") as stream:
            lines = stream.read().split("\n")
        if lines and not lines[-1]:
            lines.pop()  # the last line ends with a line break
        expected = _ids_header(self.entity)
        header = lines[0].split("\t") if lines else []
        if header != expected.split("\t"):
            raise ValueError(f"{path}: expected the first line {expected!r}, got {lines[0] if lines else ''!r}.")
        rows = [line.split("\t") for line in lines[1:]]
        for number, row in enumerate(rows, start=2):
            if len(row) != n_columns:
                raise ValueError(f"{path}, line {number}: expected {n_columns} column(s), got {len(row)}.")
        return [_as_tokens(np.array([row[c] for row in rows], dtype=str), header[c], path) for c in range(n_columns)]

    def _parquet(self, *names: str) -> Any:
        table, found = parquet.read(self.path, names)
        self._check_names(names, found, "columns")
        return table

    def _check_names(self, wanted: Iterable[str], found: Iterable[str], what: str) -> None:
        missing = [name for name in wanted if name not in found]
        if missing:
            raise ValueError(
                f"{self.path}: expected the {what} {', '.join((*ENTITIES[self.entity], 'feature'))}; "
                f"{', '.join(missing)} missing, found {', '.join(found) or 'none'}."
            )

    def _check_distinct(self, columns: list[np.ndarray]) -> None:
        rows = columns[0].tolist() if len(columns) == 1 else list(zip(*(column.tolist() for column in columns)))
        if len(set(rows)) == len(rows):
            return
        repeated = {token: count for token, count in Counter(rows).items() if count > 1}
        examples = ", ".join(
            f"{token!r} in rows {', '.join(str(row) for row, other in enumerate(rows) if other == token)}"
            for token in list(repeated)[:3]
        )
        surplus = sum(repeated.values()) - len(repeated)
        what = "(user, item) pairs" if len(columns) == 2 else "ids"
        raise ValueError(
            f"{self.path}: {len(repeated):,} of {len(set(rows)):,} {what} occur more than once ({surplus:,} rows too "
            f"many; rows counted from 0): {examples}. Keep one row for each."
        )


def _reason(error: Exception) -> str:
    """Arrays of Python objects are what pandas hands out for a column of texts, and pickles in a file."""
    if "allow_pickle" in str(error):
        return (
            "it holds an array of Python objects (read without allow_pickle, since a pickle can run code), as a column "
            "of a pandas table gives it; write "
            "frame['id'].to_numpy(dtype=str) or ids.astype(str), and vectors as numpy.stack(frame['vector'])"
        )
    return str(error)


_REMEDY = "Write it with numpy.savez(path, id=ids, feature=matrix), ids as an array of str, no Python objects."


def check_dataset_name(name: str) -> None:
    """Refuse names that would lead out of the folder of data sets, or that RecBole could not read.

    Raises:
        ValueError: Such a name.
    """
    if not name or name != Path(name).name or name.startswith(".") or any(mark in name for mark in " \t\n\\"):
        raise ValueError(f"{name!r} is no name for a data set; use letters, digits, '-' and '_', without a path.")


def search_folders(dataset: str, data_path: str | Path, packaged: str | Path, feature_path: str | None) -> list[Path]:
    """Folders to look for feature files in; the first that holds any for the data set is the one that is used.

    Args:
        dataset: Name of the data set.
        data_path: Folder of its atomic files.
        packaged: Folder of the packaged data sets.
        feature_path: The option of that name: if given, the only place (or its sub-folder with the data set's name).
    """
    if feature_path is None:
        return [Path(data_path), Path(packaged) / dataset]
    if not isinstance(feature_path, str) or not Path(feature_path).expanduser().is_dir():
        raise FileNotFoundError(f"feature_path: expected an existing folder, got {feature_path!r}.")
    return [Path(feature_path).expanduser(), Path(feature_path).expanduser() / dataset]


def discover(dataset: str, folders: Iterable[Path]) -> dict[str, dict[str, FeatureFile]]:
    """Feature files of a data set: entity to modality to file, modalities sorted by name.

    Raises:
        FileNotFoundError: No folder holds a feature file of the data set.
        ValueError: A modality in two formats, a matrix without ids or ids without a matrix, or a name that is none.
    """
    folders = list(folders)
    for folder in folders:
        found = {entity: _scan(folder, f"{dataset}.{entity}.", entity) for entity in ENTITIES}
        if any(found.values()):
            return found
    raise FileNotFoundError(
        f"No feature file of data set {dataset!r} in {' or '.join(str(folder) for folder in folders)}: expected names "
        f"like {dataset}.item.image.npz, or {dataset}.item.image.npy with {dataset}.item.image.ids. "
        "Put them there or set feature_path."
    )


def _scan(folder: Path, prefix: str, entity: str) -> dict[str, FeatureFile]:
    paths: dict[str, list[Path]] = {}
    ids = set()
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        stem, _, suffix = path.name.rpartition(".")
        if not stem.startswith(prefix):
            continue
        modality = stem[len(prefix) :]
        if suffix in (*_SUFFIXES, "ids"):
            check_modality_name(modality, str(path))
        if suffix in _SUFFIXES:
            paths.setdefault(modality, []).append(path)
        elif suffix == "ids":
            ids.add(modality)
    for modality, candidates in paths.items():
        if len(candidates) > 1:
            raise ValueError(
                f"Modality {modality!r} of {entity} is there in {len(candidates)} formats: "
                f"{' and '.join(str(path) for path in candidates)}; keep one of them."
            )
        if candidates[0].suffix == ".npy" and modality not in ids:
            raise FileNotFoundError(
                f"{candidates[0]} has no ids: expected {prefix}{modality}.ids beside it, "
                f"first line {_ids_header(entity)!r}, then the token of each row."
            )
    for modality in sorted(ids):
        if modality not in paths or paths[modality][0].suffix != ".npy":
            beside = f" (the modality is in {paths[modality][0]})" if modality in paths else ""
            raise FileNotFoundError(
                f"{folder / (prefix + modality)}.ids has no matrix: expected {prefix}{modality}.npy beside it{beside}; "
                "write it or remove the ids."
            )
    return {modality: FeatureFile(entity, modality, paths[modality][0]) for modality in sorted(paths)}


def _ids_header(entity: str) -> str:
    """First line of an ``.ids`` file; it says whose ids they are, whatever the data set calls these fields."""
    return "user_id:token\titem_id:token" if entity == "inter" else f"{entity}_id:token"


def _as_tokens(array: np.ndarray, name: str, path: Path) -> np.ndarray:
    if array.ndim != 1:
        raise ValueError(f"{path}: {name} should be one-dimensional, got shape {array.shape}.")
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: {name} should be text in UTF-8, got bytes that are not: {error}.") from error
    elif array.dtype.kind in "iu":
        array = array.astype(str)
    elif array.dtype.kind != "U":
        raise ValueError(f"{path}: {name} should be text (the tokens of the atomic files), got dtype {array.dtype}.")
    empty = np.flatnonzero(array == "")
    if len(empty):
        raise ValueError(f"{path}: {name} is empty in {len(empty)} rows (first: row {empty[0]}, counted from 0).")
    return array
