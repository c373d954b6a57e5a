"""Features of items, users and interactions: read, checked and aligned to RecBole's internal ids."""

from __future__ import annotations

from collections.abc import Mapping
from logging import getLogger

import numpy as np
import torch
from torch import Tensor

from recbole_mm.data.features.files import FeatureFile
from recbole_mm.data.features.matrix import FeatureMatrix
from recbole_mm.data.features.moments import scale_warning
from recbole_mm.data.features.prepare import prepare
from recbole_mm.data.features.stored import StoredTable, StreamedTable, read_finite
from recbole_mm.data.features.table import AnyTable, FeatureStore, FeatureTable, InteractionFeatures

__all__ = [
    "AnyTable",
    "FeatureStore",
    "FeatureTable",
    "InteractionFeatures",
    "align",
    "align_interactions",
    "check_length",
    "prepare",
    "scale_warning",
]

_SPELLING = (
    "Check that the ids are spelt as in the atomic files (leading zeros, .0 of a number, case, blanks), unless a "
    "filter of the data set has left these out."
)


def align(file: FeatureFile, vocabulary: Mapping[str, int], dtype: torch.dtype = torch.float32) -> AnyTable:
    """A feature file of items or users as a table with one row per internal id.

    Only the rows that the vocabulary knows are read, a block at a time. The vectors of a ``.npy`` file, and many of a
    ``.npz`` or ``.parquet``, are checked and stay where they are: a model keeps them as it reads them, and together
    with a table as they stand in the file that would be two.

    Args:
        file: The feature file.
        vocabulary: Raw token to internal id, 0 being the padding.
        dtype: Type of the table.

    Returns:
        The table; row 0 and the rows of entities that the file lacks are zero and not observed.

    Raises:
        ValueError: The file is not what it should be (see :class:`FeatureFile`), no id is in the vocabulary, or a
            number is not finite.
    """
    (tokens,) = file.tokens()
    matrix = file.matrix(in_order=True)
    check_length(file, matrix, len(tokens))
    n = max(vocabulary.values(), default=0) + 1
    ids = _internal_ids(tokens, vocabulary)
    _check_overlap(file, tokens, ids, vocabulary)
    rows = np.flatnonzero(ids)
    rows = rows[np.argsort(ids[rows])]
    target = torch.from_numpy(ids[rows])
    table: AnyTable
    if matrix.array is None:
        for _ in read_finite(matrix, rows, tokens, dtype):
            pass
        row = torch.full((n,), -1)
        row[target] = torch.from_numpy(rows)
        kind = StoredTable if matrix.stream is None else StreamedTable
        table = kind(file.modality, file.entity, matrix, row, dtype)
    else:
        feature = torch.zeros((n, *matrix.shape[1:]), dtype=dtype)
        for part, block in read_finite(matrix, rows, tokens, dtype):
            feature[target[part]] = block
        observed = torch.zeros(n, dtype=torch.bool)
        observed[target] = True
        table = FeatureTable(file.modality, file.entity, feature, observed, _counts(matrix, rows, ids[rows], n))
    getLogger().info(
        f"{file.entity} features [{file.modality}] from {file.path}: {_width(matrix)} {matrix.dtype}; "
        f"{len(rows):,} of {n - 1:,} {file.entity}s have a row, {n - 1 - len(rows):,} do not; "
        f"{len(tokens) - len(rows):,} rows match no {file.entity}"
    )
    _warn_about_strangers(file, tokens, ids, vocabulary)
    return table


def _counts(matrix: FeatureMatrix, rows: np.ndarray, ids: np.ndarray, n: int) -> Tensor | None:
    """Number of vectors of every entity's own; ``None`` where all have all of them."""
    if matrix.count is None or (matrix.count[rows] == matrix.shape[1]).all():
        return None
    count = torch.full((n,), matrix.shape[1])
    count[torch.from_numpy(ids)] = torch.from_numpy(matrix.count[rows].astype(np.int64))
    return count


def align_interactions(
    file: FeatureFile,
    users: Mapping[str, int],
    items: Mapping[str, int],
    dtype: torch.dtype = torch.float32,
) -> InteractionFeatures:
    """Read a feature file of interactions; rows whose user or item is unknown are left out.

    Args:
        file: The feature file.
        users: Raw user token to internal id.
        items: Raw item token to internal id.
        dtype: Type of the vectors.

    Returns:
        The known pairs and their vectors, in the order of (user, item).

    Raises:
        ValueError: As for :func:`align`.
    """
    user_tokens, item_tokens = file.tokens()
    matrix = file.matrix(in_order=True)
    check_length(file, matrix, len(user_tokens))
    user, item = _internal_ids(user_tokens, users), _internal_ids(item_tokens, items)
    known = (user > 0) & (item > 0)
    if not known.any():
        side, tokens, vocabulary = ("item", item_tokens, items) if user.any() else ("user", user_tokens, users)
        raise ValueError(
            f"{file.path}: no row has both a known user and a known item. " + _contrast(side, tokens, vocabulary)
        )
    rows = np.flatnonzero(known)
    rows = rows[np.lexsort((item[rows], user[rows]))]
    feature = torch.zeros((len(rows), *matrix.shape[1:]), dtype=dtype)
    pairs = np.array([f"{u}, {i}" for u, i in zip(user_tokens, item_tokens)])
    for part, block in read_finite(matrix, rows, pairs, dtype):
        feature[part] = block
    getLogger().info(
        f"interaction features [{file.modality}] from {file.path}: {_width(matrix)} {matrix.dtype}; "
        f"{len(rows):,} rows of a known user and item, {len(known) - len(rows):,} others"
    )
    return InteractionFeatures(file.modality, torch.from_numpy(user[rows]), torch.from_numpy(item[rows]), feature)


def _internal_ids(tokens: np.ndarray, vocabulary: Mapping[str, int]) -> np.ndarray:
    """Internal id of every token; 0 (the padding, which no token of a file can mean) for unknown ones."""
    return np.fromiter((vocabulary.get(token, 0) for token in tokens.tolist()), dtype=np.int64, count=len(tokens))


def check_length(file: FeatureFile, matrix: FeatureMatrix, n_ids: int) -> None:
    """Refuse a file that has not one id for each row of features."""
    if matrix.shape[0] != n_ids:
        raise ValueError(
            f"{file.path}: {n_ids:,} ids but {matrix.shape[0]:,} rows of features; there must be one id per row."
        )


def _check_overlap(file: FeatureFile, tokens: np.ndarray, ids: np.ndarray, vocabulary: Mapping[str, int]) -> None:
    if not ids.any():
        raise ValueError(
            f"{file.path}: none of its {len(tokens):,} ids is among the {len(vocabulary) - 1:,} {file.entity}s of the "
            "data set. " + _contrast(file.entity, tokens, vocabulary)
        )


def _warn_about_strangers(
    file: FeatureFile, tokens: np.ndarray, ids: np.ndarray, vocabulary: Mapping[str, int]
) -> None:
    """Half of the ids without an entity: a filter has left the others out, or they are spelt otherwise."""
    strangers = tokens[ids == 0]
    lacking = len(vocabulary) - 1 - int((ids > 0).sum())
    if 2 * len(strangers) < len(tokens):
        return
    getLogger().warning(
        f"{file.path}: {len(strangers):,} of its {len(tokens):,} ids match no {file.entity} of the data set, such as "
        f"{strangers[:3].tolist()}, and {lacking:,} {file.entity}s have no row. {_SPELLING}"
    )


def _contrast(entity: str, tokens: np.ndarray, vocabulary: Mapping[str, int]) -> str:
    known = [str(token) for token, index in vocabulary.items() if index > 0][:3]
    return (
        f"Ids must be the raw {entity} tokens of the atomic files: the data set has {known}, ..., the file "
        f"{tokens[:3].tolist()}, ...; write the same tokens, or check that the file belongs to this data set."
    )


def _width(matrix: FeatureMatrix) -> str:
    return " x ".join(str(size) for size in matrix.shape[1:]) + "-dimensional"
