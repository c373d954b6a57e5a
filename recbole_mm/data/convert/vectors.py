"""Vectors that exist already, in the forms in which people keep them, to feature files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Union

import numpy as np

from recbole_mm.data.convert.untyped import read_lines
from recbole_mm.data.features import parquet
from recbole_mm.data.features.files import FeatureFile
from recbole_mm.data.features.names import check_new_modality

__all__ = ["LARGE", "Vectors", "read_array", "read_vectors", "write_vectors"]

LARGE = 64 * 2**20
"""Bytes from which a matrix is written as ``.npy`` with ``.ids``, which is read in part, instead of ``.npz``."""

_FORMS = (
    "MODALITY=MATRIX.npy,IDS.txt (an id a line), MODALITY=FILE.npz (arrays id and feature), "
    "MODALITY=TABLE.parquet:COLUMN (with a column of ids), MODALITY=FOLDER of one <id>.npy per item, or "
    "MODALITY=FILE.feat1CLS with its .item2index or .data_maps beside it"
)

Vectors = tuple[np.ndarray, np.ndarray, Union[np.ndarray, None]]
"""Ids, vectors, and how many of them each row has where that varies."""


def read_vectors(modality: str, source: str, id_column: str | None = None) -> Vectors:
    """Ids and vectors out of one of the usual forms.

    Args:
        modality: Name of the modality.
        source: ``MATRIX.npy,IDS.txt``, ``FILE.npz``, ``TABLE.parquet:COLUMN``, a folder of ``<id>.npy``, or a
            ``.feat1CLS`` file of the UniSRec family.
        id_column: Column of ids of a parquet table; ``id``, ``item_id`` or the first column when not given.

    Returns:
        Ids as text, shape ``(n,)``, vectors, ``(n, d)`` or ``(n, R, d)``, and where items have several of them in
        varying number, how many, ``(n,)``, else ``None``.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: No such form, numbers of ids and vectors that differ, an id twice, or a vector that is not finite.
    """
    check_new_modality(modality, f"vectors {modality}={source}")
    ids, matrix, number = _read(modality, source, id_column)
    where = f"vectors {modality}={source}"
    found, counts = np.unique(ids, return_counts=True)
    if len(found) < len(ids):
        raise ValueError(
            f"{where}: {len(ids) - len(found):,} id(s) are there twice, such as {str(found[counts > 1][0])!r}."
        )
    bad = ~np.isfinite(matrix.reshape(len(matrix), -1)).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{where}: the vectors of {int(bad.sum()):,} id(s) hold NaN or infinity, such as that of "
            f"{str(ids[bad][0])!r}; leave out the rows of items without a vector."
        )
    return ids, matrix, number


def _read(modality: str, source: str, id_column: str | None) -> Vectors:
    path = Path(source).expanduser()
    if path.is_dir():
        return *_from_folder(path), None
    matrix, comma, ids = source.partition(",")
    if comma:
        return *_with_ids(Path(matrix).expanduser(), Path(ids).expanduser()), None
    table, colon, column = source.rpartition(":")
    if colon and table.endswith((".parquet", ".pq")):
        return _from_parquet(Path(table).expanduser(), column, id_column)
    if path.suffix == ".npz":
        file = FeatureFile("item", modality, _existing(path))
        found = file.matrix()
        return file.tokens()[0], found.read(np.arange(found.shape[0])), found.count
    if ".feat" in path.name:
        from recbole_mm.data.convert.unisrec import read_features

        return *read_features(_existing(path)), None
    raise ValueError(f"vectors {modality}={source}: expected {_FORMS}.")


def write_vectors(
    stem: Path, ids: np.ndarray, matrix: np.ndarray, entity: str = "item", count: np.ndarray | None = None
) -> Path:
    """Write a feature file: ``.npz``, or ``.npy`` and ``.ids`` from :data:`LARGE` on, where there is no ``count``.

    Args:
        stem: The file without its suffix, ``<dataset>.<entity>.<modality>``.
        ids: Raw ids, shape ``(n,)``; of interactions, those of user and item with a tab between.
        matrix: Vectors, ``(n, d)`` or ``(n, R, d)``.
        entity: ``item``, ``user`` or ``inter``.
        count: How many of the ``R`` vectors each row has.

    Returns:
        The file with the vectors.
    """
    if matrix.dtype not in (np.float16, np.float32):
        matrix = matrix.astype(np.float32)
    if matrix.nbytes < LARGE or count is not None:
        file = stem.with_name(f"{stem.name}.npz")
        texts = np.asarray(ids, dtype=str)
        keys: dict[str, Any] = {"id": texts}
        if entity == "inter":
            users, _, items = (np.array(part, dtype=str) for part in zip(*(text.partition("\t") for text in texts)))
            keys = {"user_id": users, "item_id": items}
        if count is not None:
            keys["count"] = count
        np.savez(file, **keys, feature=matrix)
        return file
    file = stem.with_name(f"{stem.name}.npy")
    np.save(file, np.ascontiguousarray(matrix))
    header = "user_id:token\titem_id:token" if entity == "inter" else f"{entity}_id:token"
    lines = [header, *map(str, ids), ""]
    stem.with_name(f"{stem.name}.ids").write_text("\n".join(lines), encoding="utf-8")
    return file


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}; vectors are given as {_FORMS}.")
    return path


def read_array(path: Path) -> np.ndarray:
    """The numbers in a ``.npy`` file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no array of numbers.
    """
    try:
        matrix = np.load(_existing(path), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} cannot be read as a plain array: {error}. Write it with numpy.save.") from error
    if not isinstance(matrix, np.ndarray) or matrix.dtype.kind not in "biuf":
        raise ValueError(f"{path}: expected a .npy file with an array of numbers; write it with numpy.save.")
    return matrix


def _with_ids(path: Path, ids: Path) -> tuple[np.ndarray, np.ndarray]:
    matrix = read_array(path)
    lines = read_lines(_existing(ids))
    if lines and lines[0].partition(":")[2] == "token":
        lines = lines[1:]
    if matrix.ndim not in (2, 3) or len(lines) != len(matrix):
        raise ValueError(
            f"{ids} has {len(lines):,} lines and {path} the shape {matrix.shape}; expected one id for each row."
        )
    return np.array(lines, dtype=str), matrix


def _from_folder(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise FileNotFoundError(f"{folder} has no .npy file; expected one <id>.npy per item.")
    vectors = [read_array(file) for file in files]
    shapes = {vector.shape for vector in vectors}
    if len(shapes) > 1:
        raise ValueError(f"{folder}: vectors of several shapes, such as {' and '.join(map(str, sorted(shapes)[:2]))}.")
    matrix = np.stack(vectors)
    # Some extractors write the vector of a product as a matrix of one row.
    matrix = matrix[:, 0] if matrix.ndim == 3 and matrix.shape[1] == 1 else matrix
    return np.array([file.name[: -len(".npy")] for file in files], dtype=str), matrix


def _from_parquet(path: Path, column: str, id_column: str | None) -> Vectors:
    _, names = parquet.read(_existing(path), ())
    if column not in names:
        raise KeyError(f"{path} has no column {column!r}; it has {', '.join(names)}.")
    key = id_column or next((name for name in ("id", "item_id", "user_id") if name in names), names[0])
    table, _ = parquet.read(path, (key, column))
    ids = parquet.ids(table, key, path).astype(str)
    return ids, *parquet.vectors(table.rename_columns(["id", "feature"]), path)
