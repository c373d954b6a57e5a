"""Which users and items are warm, cold or in the long tail, told from the training part alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

__all__ = ["members", "tail_limit"]


def tail_limit(count: np.ndarray, share: float) -> int:
    """Largest number of interactions that still belongs to the long tail.

    The smallest :math:`t` such that those with at least one and at most :math:`t` interactions have together at least
    ``share`` of all interactions. Equal numbers are never separated, so that nothing depends on the order of the ids.

    Args:
        count: Interactions of each user or item. Shape ``(n,)``.
        share: Share of all interactions.

    Returns:
        The limit; 0 where there is no interaction.

    Example:
        >>> tail_limit(np.array([0, 1, 1, 2, 6]), 0.2)  # the two with one interaction have 2 of 10
        1
    """
    held = np.bincount(count) * np.arange(count.max(initial=0) + 1)
    total = held.sum()
    # In interactions, not in shares: a share of .2 is not quite .2 in binary, and a limit reached exactly must count.
    return int(np.argmax(held.cumsum() >= share * total - 1e-9 * total)) if total else 0


def members(
    names: Iterable[str], users: np.ndarray, items: np.ndarray, n_users: int, n_items: int, share: float
) -> dict[str, np.ndarray]:
    """Members of each slice.

    ``warm`` has a training interaction, ``cold`` has none, ``tail`` is the least active part of ``warm``
    (:func:`tail_limit`). The padding 0 is in no slice.

    Args:
        names: Slices out of :data:`~recbole_mm.config.slices.SLICES`; ``all`` has no members to list.
        users: User of each distinct training pair. Shape ``(n_pairs,)``.
        items: Its item. Shape ``(n_pairs,)``.
        n_users: Number of users, with the padding.
        n_items: Number of items, with the padding.
        share: Share of the training interactions that makes the long tail.

    Returns:
        Slice to a table of truth values, of shape ``(n_users,)`` or ``(n_items,)``.
    """
    counts = {"users": np.bincount(users, minlength=n_users), "items": np.bincount(items, minlength=n_items)}
    found = {}
    for name in names:
        if name == "all":
            continue
        kind, _, entity = name.partition("_")
        count = counts[entity]
        if kind == "cold":
            table = count == 0
        else:
            table = (count > 0) & (count <= (tail_limit(count, share) if kind == "tail" else count.max(initial=0)))
        table[0] = False
        found[name] = table
    return found
