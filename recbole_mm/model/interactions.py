"""Training pairs as a matrix, and what follows from their number."""

from __future__ import annotations

from collections.abc import Mapping
from logging import getLogger
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

__all__ = ["training_interactions", "warn_about_neighbours", "with_pairs"]


def training_interactions(dataset: Any, n_users: int, n_items: int) -> sp.csr_matrix:
    """Distinct (user, item) pairs of the split that ``dataset`` holds, as a binary CSR matrix."""
    users = dataset.inter_feat[dataset.uid_field].numpy()
    items = dataset.inter_feat[dataset.iid_field].numpy()
    item_list = dataset.iid_field + dataset.config["LIST_SUFFIX"]
    if item_list in dataset.inter_feat.interaction:
        # A sequential data set holds (history, next item) rows: the history is training data as well.
        history = dataset.inter_feat[item_list].numpy()
        rows, columns = history.nonzero()
        users, items = np.concatenate([users, users[rows]]), np.concatenate([items, history[rows, columns]])
    matrix = sp.csr_matrix((np.ones(len(users), dtype=np.float32), (users, items)), shape=(n_users, n_items))
    matrix.sum_duplicates()
    matrix.sort_indices()
    matrix.data[:] = 1.0
    return matrix


def with_pairs(matrix: sp.csr_matrix) -> Tensor:
    """Which columns have a training pair, bool."""
    found = torch.zeros(matrix.shape[1], dtype=torch.bool)
    found[torch.from_numpy(matrix.indices.astype(np.int64))] = True
    return found


def warn_about_neighbours(config: Any, rows: Mapping[str, int]) -> None:
    """Graphs of nearest neighbours have no more of them than there are.

    Args:
        config: RecBole's Config.
        rows: Option that counts neighbours to the number of ids, padding included, that they are among.
    """
    for key, n in rows.items():
        value = config[key]
        asked = list(value.values()) if isinstance(value, Mapping) else [value]
        if any(isinstance(k, int) and not isinstance(k, bool) and k >= n for k in asked):
            getLogger().warning(
                f"{key}={value} is more than the {n - 1:,} there are to choose from: every one is everybody's "
                f"neighbour, so that the graph says nothing. Choose a {key} far below that."
            )
