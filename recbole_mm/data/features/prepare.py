"""From an aligned feature table to what a model reads: missing rows filled, features brought to scale."""

from __future__ import annotations

import os
from logging import getLogger

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recbole_mm.config.shared import FEATURE_NORMS, MISSING_FEATURES
from recbole_mm.data.features.moments import chosen_norm, lengths, moments, own_places
from recbole_mm.data.features.neighbours import neighbour_weights
from recbole_mm.data.features.storage import new_table
from recbole_mm.data.features.stored import StoredTable, StreamedTable
from recbole_mm.data.features.table import AnyTable, FeatureTable

__all__ = ["prepare"]


def prepare(
    table: AnyTable,
    norm: str,
    missing: str,
    interactions: sp.spmatrix | None = None,
    known: Tensor | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> FeatureTable:
    r"""Fill the rows of entities without features and normalise.

    With :math:`O` the observed rows (of the ``known`` entities), and per column

    .. math:: z_{ic} = \frac{x_{ic} - \mu_c}{\sigma_c}, \quad
              \mu_c = \frac{1}{|O|} \sum_{i \in O} x_{ic}, \quad
              \sigma_c^2 = \frac{1}{|O|} \sum_{i \in O} (x_{ic} - \mu_c)^2

    (a constant column becomes 0). ``l2`` divides each row by its length, ``zscore_l2`` does both, in this order. With
    several vectors per entity the statistics run over all of them and each vector gets length 1; places beyond an
    entity's own vectors do not count, and hold the mean of the finished ones. ``auto`` is
    :func:`~recbole_mm.data.features.moments.chosen_norm`.

    A missing row is filled with zeros (``zero``), with the mean of the observed rows (``mean``, which is zero after a
    z-score), or with the average of the observed entities most similar by training interactions (``knn``: up to ten,
    weighted by :math:`c_{ij} / \sqrt{\deg_i \deg_j}`, :math:`c_{ij}` common partners; the mean where there is none).
    Filling with zeros means zeros in the result, whatever the normalisation: no evidence. Row 0, the padding, is zero.

    Rows are read and finished a block at a time, so that this takes the memory of the result.

    Args:
        table: The aligned table; it is not changed. One that is streamed is read once.
        norm: ``auto``, ``none``, ``l2``, ``zscore`` or ``zscore_l2``.
        missing: ``zero``, ``mean``, ``knn``, ``error``, or ``drop`` (the data set has dropped them: the same as
            ``error`` here).
        interactions: For ``knn``: the *training* interactions with the entity as columns, ``(users, items)`` for a
            table of items and its transpose for one of users.
        known: Which entities the statistics may be taken from, bool ``(n,)``; ``None`` for all. What they give is
            applied to every row.
        folder: Where a scratch file may hold the result in place of memory, see
            :func:`~recbole_mm.data.features.storage.new_table`.

    Returns:
        The table itself if it is in memory and nothing changes, otherwise a new one of the same type; ``observed`` is
        always as it was.

    Raises:
        ValueError: Unknown ``norm`` or ``missing``, rows missing under ``error`` or ``drop``, no (or a wrongly shaped)
            matrix for ``knn``, statistics of no row at all, or no room in ``folder``.
    """
    if norm not in FEATURE_NORMS:
        raise ValueError(f"feature_norm: expected one of {', '.join(FEATURE_NORMS)}, got {norm!r}.")
    if missing not in MISSING_FEATURES:
        raise ValueError(f"missing_feature: expected one of {', '.join(MISSING_FEATURES)}, got {missing!r}.")
    lacking = ~table.observed
    lacking[0] = False
    if missing in ("error", "drop") and lacking.any():
        raise ValueError(
            f"missing_feature: {missing} - {int(lacking.sum()):,} of {len(lacking) - 1:,} {table.entity}s have no "
            f"{table.modality} feature; add their rows to the feature file or choose zero, mean or knn."
        )
    feature: Tensor | None = None
    if isinstance(table, StreamedTable):
        # What is finished takes the place of what was read: neither a second table, nor the file once for each pass.
        feature = table.load(folder)
        table = FeatureTable(table.modality, table.entity, feature, table.observed)
    if norm == "auto":
        norm, known = chosen_norm(table, known)
    if norm == "none" and (missing not in ("mean", "knn") or not lacking.any()):
        if isinstance(table, FeatureTable):
            return table
        return FeatureTable(table.modality, table.entity, table.load(folder), table.observed)
    counted = table.observed if known is None else table.observed & known
    if not counted.any() and (norm.startswith("zscore") or missing in ("mean", "knn")):
        raise ValueError(
            f"{table.modality}: no {table.entity} with a training interaction has this modality, so there is nothing "
            f"to take the statistics of feature_norm: {norm} and missing_feature: {missing} from. Leave the modality "
            "out (modality_weight 0), or set cold_features: transductive."
        )
    finish = _Finish(table, norm, counted)
    if missing in ("mean", "knn"):
        finish.fill(lacking, counted, interactions if missing == "knn" else None, missing == "knn")
    if feature is None:
        feature = new_table(table.shape, table.dtype, folder if isinstance(table, StoredTable) else None)
    # Those without features first: their neighbours' vectors must still be there as they were read.
    for rows in (lacking, ~lacking):
        for ids in table.blocks(rows.nonzero().squeeze(1)):
            feature[ids] = finish(ids).to(feature.dtype)
    return FeatureTable(table.modality, table.entity, feature, table.observed, table.count)


class _Finish:
    """Finished vectors of some entities."""

    def __init__(self, table: FeatureTable | StoredTable, norm: str, counted: Tensor) -> None:
        self.table = table
        half = table.dtype in (torch.float16, torch.bfloat16)
        self.dtype = torch.float32 if half else table.dtype
        self.unit = norm.endswith("l2")
        self.mean: Tensor | None = None
        self.lacking: Tensor | None = None
        self.weights: sp.csr_matrix | None = None
        if norm.startswith("zscore"):
            self.mean, self.deviation = moments(table, counted)
            # What rounding leaves of a column without variation.
            self.deviation[self.deviation <= 1e-6 * self.mean.abs()] = float("inf")

    def fill(self, lacking: Tensor, counted: Tensor, interactions: sp.spmatrix | None, knn: bool) -> None:
        """Give the lacking entities the mean, or what their neighbours have."""
        if not lacking.any():
            return
        self.lacking = lacking
        # After a z-score the mean is zero by definition; computing it would leave rounding noise for l2 to blow up.
        zero = torch.zeros(self.table.shape[-1], dtype=torch.float64)
        self.filling = (zero if self.mean is not None else moments(self.table, counted)[0]).to(self.dtype)
        if not knn:
            return
        self.place = lacking.cumsum(0) - 1
        self.weights = neighbour_weights(
            interactions, self.table.observed, lacking.nonzero().squeeze(1), self.table.entity
        )
        alone = int((np.diff(self.weights.indptr) == 0).sum())
        if alone:
            getLogger().warning(
                f"missing_feature: knn - {alone:,} of {int(lacking.sum()):,} {self.table.entity}s without "
                f"{self.table.modality} share no training partner with one that has it; they get the mean."
            )

    def __call__(self, ids: Tensor) -> Tensor:
        block = self._scaled(ids)
        if self.lacking is not None:
            for rows in self.lacking[ids].nonzero().squeeze(1).split(max(1, len(ids) // 10)):
                block[rows] = self.filling
                if self.weights is not None:
                    self._average_neighbours(block, rows, self.weights[self.place[ids[rows]].numpy()])
        if self.unit:
            block.div_(lengths(block))
        if self.table.count is not None:
            _fill_places(block, self.table.count[ids])
        return block

    def _scaled(self, ids: Tensor) -> Tensor:
        block = self.table.rows(ids).to(self.dtype)
        if self.mean is not None:
            there = self.table.observed[ids]
            block[there] = ((block[there].double() - self.mean) / self.deviation).to(self.dtype)
        return block

    def _average_neighbours(self, block: Tensor, rows: Tensor, weights: sp.csr_matrix) -> None:
        columns, place = np.unique(weights.indices, return_inverse=True)
        if not len(columns):
            return
        values = self._scaled(torch.from_numpy(columns.astype(np.int64))).flatten(1).numpy()
        small = sp.csr_matrix(
            (weights.data.astype(values.dtype), place, weights.indptr), shape=(len(rows), len(columns))
        )
        filled = torch.from_numpy(np.diff(weights.indptr) > 0)
        block[rows[filled]] = torch.from_numpy(small @ values).reshape(len(rows), *block.shape[1:])[filled]


def _fill_places(block: Tensor, count: Tensor) -> None:
    """Put the mean of an entity's own vectors into the places beyond: that of lengths of 1 has another length."""
    rows = (count < block.shape[1]).nonzero().squeeze(1)
    own = own_places(count[rows], block.shape[1]).unsqueeze(-1)
    mean = (block[rows].double() * own).sum(dim=1, keepdim=True) / own.sum(dim=1, keepdim=True)
    block[rows] = torch.where(own, block[rows], mean.to(block.dtype))
