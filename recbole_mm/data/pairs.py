"""Who had what: the distinct user-item pairs of a part of a split."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["distinct", "target_pairs", "training_pairs"]

_MARKS = 2**24  # pairs that may be marked one by one, a byte each, before they are sorted


def training_pairs(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Distinct users and items of a training part, with the histories of a sequential one.

    Args:
        dataset: The part, a RecBole ``Dataset`` or ``SequentialDataset`` after the split.

    Returns:
        Internal user and item ids of the distinct pairs.
    """
    users, items = target_pairs(dataset)
    item_list = dataset.iid_field + (dataset.config["LIST_SUFFIX"] or "_list")
    if item_list in dataset.inter_feat.interaction:
        # A sequential model's first item of each user is no example of its own; it stands in the histories only.
        history = dataset.inter_feat[item_list].numpy()
        row, column = history.nonzero()
        owner = dataset.inter_feat[dataset.uid_field].numpy()[row]
        users, items = distinct(np.concatenate([users, owner]), np.concatenate([items, history[row, column]]))
    return users, items


def target_pairs(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs of the rows of a part, without the histories."""
    return distinct(dataset.inter_feat[dataset.uid_field].numpy(), dataset.inter_feat[dataset.iid_field].numpy())


def distinct(users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs, sorted by user and then item."""
    if not len(users):
        return users.astype(np.int64), items.astype(np.int64)
    n_users, n_items = int(users.max()) + 1, int(items.max()) + 1
    if n_users * n_items <= max(_MARKS, 4 * len(users)):
        marks = np.zeros(n_users * n_items, dtype=np.bool_)
        marks[users.astype(np.int64) * n_items + items] = True
        return np.divmod(np.flatnonzero(marks), n_items)
    keys = np.unique(users.astype(np.int64) << 32 | items.astype(np.int64))  # ids are less than 2 ** 31
    return keys >> 32, keys & (2**32 - 1)
