"""From an aligned feature table to what a model reads: missing rows filled, features brought to scale."""

from __future__ import annotations

from dataclasses import replace
from logging import getLogger

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recbole_mm.config.shared import FEATURE_NORMS, MISSING_FEATURES
from recbole_mm.data.cooccurrence import largest_per_row
from recbole_mm.data.features.table import FeatureTable

__all__ = ["chosen_norm", "mean_cosine", "prepare", "scale_warning"]

_BLOCK_ROWS = 4096
_NEIGHBOURS = 10
_COMMON = 0.5  # a mean cosine with the mean above it: the common direction is most of what a vector is


def prepare(
    table: FeatureTable,
    norm: str,
    missing: str,
    interactions: sp.spmatrix | None = None,
    known: Tensor | None = None,
) -> FeatureTable:
    r"""Fill the rows of entities without features and normalise.

    With :math:`O` the observed rows (of the ``known`` entities), and per column

    .. math:: z_{ic} = \frac{x_{ic} - \mu_c}{\sigma_c}, \quad
              \mu_c = \frac{1}{|O|} \sum_{i \in O} x_{ic}, \quad
              \sigma_c^2 = \frac{1}{|O|} \sum_{i \in O} (x_{ic} - \mu_c)^2

    (a constant column becomes 0). ``l2`` divides each row by its length, ``zscore_l2`` does both, in this order. With
    several vectors per entity the statistics run over all of them and each vector gets length 1; places beyond an
    entity's own vectors do not count, and hold the mean of the finished ones. ``auto`` is :func:`chosen_norm`.

    A missing row is filled with zeros (``zero``), with the mean of the observed rows (``mean``, which is zero after a
    z-score), or with the average of the observed entities most similar by training interactions (``knn``: up to ten,
    weighted by :math:`c_{ij} / \sqrt{\deg_i \deg_j}`, :math:`c_{ij}` common partners; the mean where there is none).
    Filling with zeros means zeros in the result, whatever the normalisation: no evidence. Row 0, the padding, is zero.

    Args:
        table: The aligned table; it is not changed.
        norm: ``auto``, ``none``, ``l2``, ``zscore`` or ``zscore_l2``.
        missing: ``zero``, ``mean``, ``knn``, ``error``, or ``drop`` (the data set has dropped them: the same as
            ``error`` here).
        interactions: For ``knn``: the *training* interactions with the entity as columns, ``(users, items)`` for a
            table of items and its transpose for one of users.
        known: Which entities the statistics may be taken from, bool ``(n,)``; ``None`` for all. What they give is
            applied to every row.

    Returns:
        The table itself if nothing changes, otherwise a new one of the same type; ``observed`` is always as it was.

    Raises:
        ValueError: Unknown ``norm`` or ``missing``, rows missing under ``error`` or ``drop``, no (or a wrongly shaped)
            matrix for ``knn``, or statistics of no row at all.
    """
    if norm not in FEATURE_NORMS:
        raise ValueError(f"feature_norm: expected one of {', '.join(FEATURE_NORMS)}, got {norm!r}.")
    if missing not in MISSING_FEATURES:
        raise ValueError(f"missing_feature: expected one of {', '.join(MISSING_FEATURES)}, got {missing!r}.")
    if norm == "auto":
        norm = chosen_norm(table, known)
    lacking = ~table.observed
    lacking[0] = False
    if missing in ("error", "drop") and lacking.any():
        raise ValueError(
            f"missing_feature: {missing} - {int(lacking.sum()):,} of {len(lacking) - 1:,} {table.entity}s have no "
            f"{table.modality} feature; add their rows to the feature file or choose zero, mean or knn."
        )
    if norm == "none" and (missing not in ("mean", "knn") or not lacking.any()):
        return table
    counted = table.observed if known is None else table.observed & known
    if not counted.any() and (norm.startswith("zscore") or missing in ("mean", "knn")):
        raise ValueError(
            f"{table.modality}: no {table.entity} with a training interaction has this modality, so there is nothing "
            f"to take the statistics of feature_norm: {norm} and missing_feature: {missing} from. Leave the modality "
            "out (modality_weight 0), or set cold_features: transductive."
        )
    feature = table.feature.to(
        torch.float32 if table.feature.dtype in (torch.float16, torch.bfloat16) else None, copy=True
    )
    if norm.startswith("zscore"):
        _standardise(feature, table.observed, counted, table.count)
    if missing == "knn" and lacking.any():
        lacking = _fill_from_neighbours(feature, table, lacking, interactions)
    # After a z-score the mean is zero by definition; computing it would leave rounding noise for l2 to blow up.
    if missing in ("mean", "knn") and lacking.any() and not norm.startswith("zscore"):
        feature[lacking] = _moments(feature, counted, table.count)[0].to(feature.dtype)
    if norm.endswith("l2"):
        for block in feature.split(_BLOCK_ROWS):
            block.div_(_length(block))
    if table.count is not None:
        _fill_places(feature, table.count)
    return replace(table, feature=feature.to(table.feature.dtype))


def _fill_places(feature: Tensor, count: Tensor) -> None:
    """Put the mean of an entity's own vectors into the places beyond: that of lengths of 1 has another length."""
    for rows in (count < feature.shape[1]).nonzero().squeeze(1).split(_BLOCK_ROWS):
        block, own = feature[rows], _own(count[rows], feature.shape[1]).unsqueeze(-1)
        mean = (block.double() * own).sum(dim=1, keepdim=True) / own.sum(dim=1, keepdim=True)
        feature[rows] = torch.where(own, block, mean.to(block.dtype))


def _own(count: Tensor, places: int) -> Tensor:
    """Which places hold an entity's own vectors, bool ``(n, places)``."""
    return torch.arange(places) < count.unsqueeze(1)


def _vectors(feature: Tensor, rows: Tensor, count: Tensor | None) -> Tensor:
    """All vectors of some rows, one below the other: their own ones."""
    block = feature[rows]
    return block.reshape(-1, block.shape[-1]) if count is None else block[_own(count[rows], block.shape[1])]


def mean_cosine(table: FeatureTable, known: Tensor | None = None) -> float:
    r"""How much of the vectors is one common direction: the mean cosine between the observed rows and their mean.

    Vectors of pretrained networks often have .9 and more of it: without centring, all items look alike.

    Args:
        table: The table as read.
        known: Which entities may be looked at, as for :func:`prepare`.

    Returns:
        A number in [-1, 1]; 0 where nothing is observed or the mean is zero.
    """
    counted = table.observed if known is None else table.observed & known
    if not counted.any():
        return 0.0
    mean = _moments(table.feature, counted, table.count)[0]
    mean = mean / mean.norm().clamp_min(torch.finfo(torch.float64).tiny)
    total, count = 0.0, 0
    for rows in counted.nonzero().squeeze(1).split(_BLOCK_ROWS):
        vectors = _vectors(table.feature, rows, table.count).double()
        total += float((vectors @ mean / _length(vectors).squeeze(1)).sum())
        count += len(vectors)
    return total / count


def chosen_norm(table: FeatureTable, known: Tensor | None = None) -> str:
    """What ``feature_norm: auto`` is for a table: ``zscore_l2`` where its rows have a common direction, else ``l2``.

    Rows of length 1 are what the models' initialisations are made for, whatever network the vectors come from.

    Args:
        table: The table as read.
        known: Which entities may be looked at, as for :func:`prepare`.
    """
    return "zscore_l2" if mean_cosine(table, known) > _COMMON else "l2"


def scale_warning(table: FeatureTable) -> str | None:
    """What is odd about the values of a table, or ``None``: constant columns, or values of an unusual scale."""
    if int(table.observed.sum()) < 2:
        return None
    mean, deviation = _moments(table.feature, table.observed, table.count)
    scale = float((mean.square() + deviation.square()).mean().sqrt())
    varying = deviation[deviation > 1e-6 * mean.abs().clamp_min(1e-30)]
    what = f"{table.entity} features [{table.modality}]"
    advice = "feature_norm: zscore, l2 or zscore_l2 brings features to a common scale"
    if len(varying) == 0:
        return f"{what} are constant: all rows are the same; check the file ({advice}, but cannot help here)."
    if 2 * len(varying) < len(deviation):
        constant = len(deviation) - len(varying)
        return f"{what}: {constant:,} of {len(deviation):,} columns are constant; check the file ({advice})."
    if not 1e-3 <= scale <= 1e2:
        return f"{what} are badly scaled: root mean square {scale:.3g}; {advice}."
    spread = float(varying.max() / varying.median())
    if spread > 100:
        return f"{what} are badly scaled: one column varies {spread:.3g} times as much as the median one; {advice}."
    return None


def _moments(feature: Tensor, observed: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per column over the observed rows, float64; two passes, a block of rows at a time."""
    rows = observed.nonzero().squeeze(1)
    parts = rows.split(_BLOCK_ROWS)
    number = len(rows) * (feature.shape[1] if feature.dim() == 3 else 1) if count is None else int(count[rows].sum())
    mean = sum(_vectors(feature, part, count).double().sum(dim=0) for part in parts) / number
    square = sum((_vectors(feature, part, count).double() - mean).square().sum(dim=0) for part in parts)
    return torch.as_tensor(mean), torch.as_tensor(square / number).sqrt()


def _length(block: Tensor) -> Tensor:
    """Length of each vector; never zero, so that a vector of zeros can be divided by it."""
    length = block.norm(dim=-1, keepdim=True)
    # Squares leave the range of float32 long before the numbers do: 1e-20 would count as zero, 1e20 as infinite.
    doubtful = ~((length > 1e-15) & (length < 1e15))
    if doubtful.any():
        exact = block.double().norm(dim=-1, keepdim=True)
        length = torch.where(doubtful, exact.to(length.dtype), length)
    return length.clamp_min(torch.finfo(length.dtype).tiny)


def _standardise(feature: Tensor, observed: Tensor, counted: Tensor, count: Tensor | None) -> None:
    mean, deviation = _moments(feature, counted, count)
    constant = deviation <= 1e-6 * mean.abs()  # what rounding leaves of a column without variation
    deviation[constant] = float("inf")
    for part in observed.nonzero().squeeze(1).split(_BLOCK_ROWS):
        feature[part] = ((feature[part].double() - mean) / deviation).to(feature.dtype)


def _fill_from_neighbours(
    feature: Tensor, table: FeatureTable, lacking: Tensor, interactions: sp.spmatrix | None
) -> Tensor:
    """Fill the lacking rows that have observed neighbours; return the mask of those that have none."""
    n = len(lacking)
    if interactions is None or interactions.shape[1] != n:
        got = "none" if interactions is None else f"one of shape {interactions.shape}"
        raise ValueError(
            f"missing_feature: knn needs a matrix of training interactions with {n} {table.entity}s as columns, "
            f"got {got}."
        )
    binary = sp.csc_matrix(interactions, dtype=np.float64, copy=True)
    binary.sum_duplicates()
    binary.eliminate_zeros()
    binary.data[:] = 1.0
    degree = np.asarray(binary.sum(axis=0)).ravel()
    scaled = (binary @ sp.diags(1.0 / np.sqrt(np.maximum(degree, 1.0)))).tocsc()
    known = (scaled @ sp.diags(table.observed.numpy().astype(np.float64))).tocsr()
    known.eliminate_zeros()
    values = feature.reshape(n, -1).numpy()
    alone = lacking.clone()
    for rows in lacking.nonzero().squeeze(1).split(_BLOCK_ROWS):
        weights = largest_per_row((scaled[:, rows.numpy()].T @ known).tocsr(), _NEIGHBOURS)
        total = np.asarray(weights.sum(axis=1)).ravel()
        filled = torch.from_numpy(total > 0)
        average = (sp.diags(1.0 / np.where(total > 0, total, 1.0)) @ weights).astype(values.dtype) @ values
        feature[rows[filled]] = torch.from_numpy(average).reshape(len(rows), *feature.shape[1:])[filled]
        alone[rows[filled]] = False
    if alone.any():
        getLogger().warning(
            f"missing_feature: knn - {int(alone.sum()):,} of {int(lacking.sum()):,} {table.entity}s without "
            f"{table.modality} share no training partner with one that has it; they get the mean."
        )
    return alone
