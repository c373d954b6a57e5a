"""Vectors of entities without a feature from the entities most similar by training interactions."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from recbole_mm.data.cooccurrence import largest_per_row

__all__ = ["neighbour_weights"]

_BLOCK_ROWS = 4096
_NEIGHBOURS = 10


def neighbour_weights(
    interactions: sp.spmatrix | None, observed: Tensor, lacking: Tensor, entity: str
) -> sp.csr_matrix:
    r"""What the observed entities weigh in the vector of each entity that has none.

    .. math:: w_{ij} \propto c_{ij} / \sqrt{\deg_i \deg_j}

    over the ten largest, :math:`c_{ij}` common partners in training.

    Args:
        interactions: The *training* interactions with the entity as columns.
        observed: Which entities have a vector, bool ``(n,)``.
        lacking: Ids of those that have none.
        entity: ``item`` or ``user``, for messages.

    Returns:
        Weights ``(len(lacking), n)``; each row adds up to 1, or is empty where no partner is common.

    Raises:
        ValueError: No matrix, or one of another shape.
    """
    n = len(observed)
    if interactions is None or interactions.shape[1] != n:
        got = "none" if interactions is None else f"one of shape {interactions.shape}"
        raise ValueError(
            f"missing_feature: knn needs a matrix of training interactions with {n} {entity}s as columns, got {got}."
        )
    binary = sp.csc_matrix(interactions, dtype=np.float64, copy=True)
    binary.sum_duplicates()
    binary.eliminate_zeros()
    binary.data[:] = 1.0
    degree = np.asarray(binary.sum(axis=0)).ravel()
    scaled = (binary @ sp.diags(1.0 / np.sqrt(np.maximum(degree, 1.0)))).tocsc()
    known = (scaled @ sp.diags(observed.numpy().astype(np.float64))).tocsr()
    known.eliminate_zeros()
    parts = []
    for rows in lacking.split(_BLOCK_ROWS):
        weights = largest_per_row((scaled[:, rows.numpy()].T @ known).tocsr(), _NEIGHBOURS)
        total = np.asarray(weights.sum(axis=1)).ravel()
        parts.append(sp.diags(1.0 / np.where(total > 0, total, 1.0)) @ weights)
    return sp.vstack(parts, format="csr")
