"""The reviews of every user, for MCPTR: from interaction features, or the item vectors of the history instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recbole_mm.data.features.store import FeatureTable, InteractionFeatures, prepare

__all__ = ["ReviewTable", "history_as_reviews", "training_reviews"]


class ReviewTable(nn.Module):
    """Vectors and, per user, which of them are the user's; constant buffers outside the state dict.

    Args:
        feature: Shape ``(n_reviews, width)``.
        slots: Rows of ``feature`` that belong to each user, -1 where there are fewer. Shape ``(n_users, n_slots)``.
        slot_items: Item that each of them is about. Shape ``(n_users, n_slots)``.
    """

    feature: Tensor
    slots: Tensor
    slot_items: Tensor

    def __init__(self, feature: Tensor, slots: Tensor, slot_items: Tensor) -> None:
        super().__init__()
        for name, tensor in (("feature", feature), ("slots", slots), ("slot_items", slot_items)):
            self.register_buffer(name, tensor, persistent=False)

    def of(self, users: Tensor, without: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Reviews of some users.

        Args:
            users: Shape ``(batch,)``.
            without: An item of each user whose review does not count. Shape ``(batch,)``.

        Returns:
            Rows of ``feature``, ``(batch, n_slots)``, and whether there is such a review, bool, of the same shape.
        """
        slots = self.slots[users]
        present = slots >= 0
        if without is not None:
            present = present & (self.slot_items[users] != without.unsqueeze(1))
        return slots.clamp(min=0), present


def training_reviews(
    reviews: InteractionFeatures, dataset: Any, n_users: int, n_items: int, limit: int, norm: str
) -> ReviewTable | None:
    """The latest reviews of every user that belong to training interactions.

    Reviews of other interactions would tell what is to be predicted; they do not take part in the normalisation
    either.

    Args:
        reviews: Reviews of all splits.
        dataset: RecBole data set of the training split.
        n_users: Number of users, padding included.
        n_items: Number of items, padding included.
        limit: Reviews per user.
        norm: ``feature_norm`` of the modality.

    Returns:
        The table; ``None`` if no training interaction has a review.
    """
    user, item = reviews.user.numpy(), reviews.item.numpy()
    rows, position = _training_rows(user * n_items + item, dataset, n_items)
    rows, slots = _latest(rows, user[rows], position, n_users, limit)
    if len(rows) == 0:
        return None
    feature = reviews.feature[torch.from_numpy(rows)]
    feature = feature.mean(dim=1) if feature.dim() == 3 else feature
    table = FeatureTable(reviews.modality, "interaction", feature, torch.ones(len(rows), dtype=torch.bool))
    slot_items = np.where(slots >= 0, item[rows][slots.clip(min=0)], 0)
    return ReviewTable(prepare(table, norm, "zero").feature, torch.from_numpy(slots), torch.from_numpy(slot_items))


def history_as_reviews(feature: Tensor, observed: Tensor, dataset: Any, n_users: int, limit: int) -> ReviewTable | None:
    """The item vectors of every user's latest training interactions, as if they were the user's reviews.

    Args:
        feature: Prepared item vectors, ``(n_items, width)``.
        observed: Which items have one, bool ``(n_items,)``.
        dataset: RecBole data set of the training split.
        n_users: Number of users, padding included.
        limit: Items per user.
    """
    n_items = len(feature)
    users, items = dataset.inter_feat[dataset.uid_field].numpy(), dataset.inter_feat[dataset.iid_field].numpy()
    keys = np.unique(users * n_items + items)
    keys = keys[observed.cpu().numpy()[keys % n_items]]
    rows, position = _training_rows(keys, dataset, n_items)
    rows, slots = _latest(rows, keys[rows] // n_items, position, n_users, limit)
    if len(rows) == 0:
        return None
    slot_items = np.where(slots >= 0, (keys % n_items)[rows][slots.clip(min=0)], 0)
    # The item table itself is the table of vectors: nothing is copied.
    item_slots = np.where(slots >= 0, slot_items, -1)
    return ReviewTable(feature, torch.from_numpy(item_slots), torch.from_numpy(slot_items))


def _training_rows(keys: np.ndarray, dataset: Any, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions in ``keys`` (user times n_items plus item) of training pairs, and when each was last seen."""
    users, items = dataset.inter_feat[dataset.uid_field].numpy(), dataset.inter_feat[dataset.iid_field].numpy()
    trained = users * n_items + items
    time = dataset.inter_feat[dataset.time_field].numpy() if dataset.time_field in dataset.inter_feat else None
    order = np.arange(len(trained)) if time is None else np.argsort(time, kind="stable")
    # np.unique finds first occurrences, so the last ones are found from behind.
    known, last = np.unique(trained[order[::-1]], return_index=True)
    if len(known) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    place = np.searchsorted(known, keys).clip(max=len(known) - 1)
    rows = np.flatnonzero(known[place] == keys)
    return rows, len(trained) - last[place[rows]]


def _latest(
    rows: np.ndarray, users: np.ndarray, position: np.ndarray, n_users: int, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Keep the ``limit`` latest rows of each user: these rows, and per user their places among them (-1: none)."""
    order = np.lexsort((rows, -position, users))
    rows, users = rows[order], users[order]
    counts = np.bincount(users, minlength=n_users)
    rank = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = rank < limit
    rows, users, rank = rows[kept], users[kept], rank[kept]
    slots = np.full((n_users, int(counts.clip(max=limit).max(initial=0))), -1, dtype=np.int64)
    slots[users, rank] = np.arange(len(rows))
    return rows, slots
