"""Training pairs as a matrix, and what follows from their number."""

from __future__ import annotations

from collections.abc import Mapping
from logging import getLogger
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recbole_mm.data.pairs import training_pairs

__all__ = ["training_interactions", "warn_about_neighbours", "with_pairs"]


def training_interactions(dataset: Any, n_users: int, n_items: int) -> sp.csr_matrix:
    """Distinct (user, item) pairs of the split that ``dataset`` holds, histories included, as a binary CSR matrix."""
    users, items = training_pairs(dataset)
    matrix = sp.csr_matrix((np.ones(len(users), dtype=np.float32), (users, items)), shape=(n_users, n_items))
    matrix.sort_indices()
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
