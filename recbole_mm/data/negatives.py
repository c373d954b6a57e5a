"""Which items may be drawn as negatives in training: all, or those that somebody had."""

from __future__ import annotations

from logging import getLogger
from typing import Any

import numpy as np

from recbole_mm.data.pairs import training_pairs

__all__ = ["negative_pool", "seen_items"]


def seen_items(*parts: Any) -> np.ndarray:
    """Which items have an interaction in a part of a split, a bool array over internal ids; the padding has none.

    Args:
        parts: Data sets of RecBole's after the split; the histories of a sequential one count.
    """
    seen = np.zeros(parts[0].item_num, dtype=bool)
    for part in parts:
        item_list = part.iid_field + (part.config["LIST_SUFFIX"] or "_list")
        for field in (part.iid_field, item_list):
            if field in part.inter_feat.interaction:
                seen[part.inter_feat[field].numpy().ravel()] = True
    seen[0] = False
    return seen


def negative_pool(train: Any, asked: str | None) -> np.ndarray | None:
    """The items that ``negative_items`` lets a training draw.

    An item that nobody had is only ever a negative: every step pushes it down, whatever its pictures and texts say,
    until it is at the end of all lists. ``seen`` leaves such items alone.

    Args:
        train: The training part, a data set of RecBole's after the split.
        asked: The option: ``seen``, ``all``, or ``None`` for ``seen`` where that is possible.

    Returns:
        Internal ids, ascending, shape ``(n,)``; ``None`` for every item, also where ``seen`` is every item.

    Raises:
        ValueError: ``seen`` was asked for, and some user had every item that may be drawn.
    """
    seen = seen_items(train)
    unseen = int(len(seen) - 1 - seen.sum())
    if asked == "all" or not unseen:
        return None
    pool = np.flatnonzero(seen)
    user = _has_everything(train, len(pool))
    if user is not None:
        reason = f"user {user!r} had every one of the {len(pool):,} items with a training interaction"
        if asked == "seen":
            raise ValueError(f"negative_items: seen leaves nothing to draw: {reason}. Choose negative_items: all.")
        getLogger().warning(f"{unseen:,} items without a training interaction are drawn as negatives: {reason}.")
        return None
    return pool


def _has_everything(train: Any, n_seen: int) -> str | None:
    """The user who has all of ``n_seen`` items, if there is one."""
    rows = train.inter_feat[train.uid_field].numpy()
    item_list = train.iid_field + (train.config["LIST_SUFFIX"] or "_list")
    if item_list not in train.inter_feat.interaction and np.bincount(rows, minlength=1).max() < n_seen:
        return None  # found without sorting all pairs, which takes seconds for millions
    counts = np.bincount(training_pairs(train)[0], minlength=1)
    most = int(counts.argmax())
    return str(train.id2token(train.uid_field, most)) if counts[most] >= n_seen else None
