"""Which users or items are new, and which of their interactions are known, validated on and tested on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_mm.config.cold_start import ColdStart

__all__ = ["SUPPORT", "TEST", "UNUSED", "VALID", "ColdStartSplit", "choose_new", "histories", "item_roles", "last_only",
           "next_item_rows", "ranked_items", "user_roles"]  # fmt: skip

UNUSED, SUPPORT, VALID, TEST = range(4)
_LEAST_ITEMS = 2  # one to validate on, one to test on

Pairs = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class ColdStartSplit:
    """What a cold-start protocol has set aside; every part of the split has it as its attribute ``cold_start``.

    Attributes:
        options: The protocol.
        users: Internal ids of the new users, ascending.
        items: Internal ids of the new items, ascending.
        support: The interactions of new users that are known at evaluation, a row each with the columns of the
            ``.inter`` file.
        candidates: Which items are ranked, a bool array over internal ids; ``None`` is all.
        known: For ``valid`` and ``test``, users and items of the pairs that are known by then besides the training
            part: they are not recommended again where RecBole masks a user's past.
        left_out: Number of interactions that are in no part.
    """

    options: ColdStart
    users: np.ndarray
    items: np.ndarray
    support: Interaction
    candidates: np.ndarray | None
    known: dict[str, Pairs] = field(default_factory=dict)
    left_out: int = 0

    @property
    def ranked(self) -> np.ndarray | None:
        """Internal ids of the items that are ranked, ascending; ``None`` for all."""
        return None if self.candidates is None else np.flatnonzero(self.candidates)

    @property
    def excluded(self) -> np.ndarray:
        """Internal ids of the items that are not ranked, without the padding."""
        if self.candidates is None:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(~self.candidates[1:]) + 1


def choose_new(protocol: ColdStart, ids: np.ndarray, tokens: np.ndarray, first: np.ndarray | None, seed: int) -> Any:
    """Choose the new users or items.

    The choice depends on the tokens and not on the internal ids, so that every model gets the same one.

    Args:
        protocol: The option.
        ids: Internal ids to choose from, distinct. Shape ``(n,)``.
        tokens: Their tokens. Shape ``(n,)``.
        first: Time of the first interaction of each, for ``by: time``. Shape ``(n,)``.
        seed: Of the random choice.

    Returns:
        The chosen ids. The earlier of them validate where new items are divided between validation and test: by time,
        they are in the order of time.

    Raises:
        ValueError: Too few users or items to leave some on both sides.
    """
    count = round(protocol.ratio * len(ids))
    least = _LEAST_ITEMS if protocol.entity == "item" else 1
    if not least <= count < len(ids):
        raise ValueError(
            f"cold_start: ratio {protocol.ratio} of {len(ids)} {protocol.entity}s makes {count} new ones; expected at "
            f"least {least}, and at least one that is not new. Users need enough interactions for their support set, "
            "one to validate on and one to test on. Change ratio or support, or filter the data less."
        )
    by_token = np.argsort(tokens.astype(str), kind="stable")
    if protocol.by == "ratio":
        return ids[by_token][np.random.default_rng(seed).permutation(len(ids))[:count]]
    if first is None:
        raise ValueError("cold_start: by: time needs the time of the first interactions; load the time field.")
    return ids[by_token][np.argsort(first[by_token], kind="stable")[-count:]]


def ranked_items(protocol: ColdStart, new: np.ndarray, n_items: int) -> np.ndarray | None:
    """Which items are ranked, a bool array over internal ids without the padding; ``None`` for all.

    Args:
        protocol: The option.
        new: Internal ids of the new users or items.
        n_items: Number of items, padding included.
    """
    if protocol.entity == "user" or protocol.candidates == "all":
        return None
    ranked = np.zeros(n_items, dtype=bool)
    ranked[new] = True
    ranked = ~ranked if protocol.candidates == "warm" else ranked
    ranked[0] = False
    return ranked


def user_roles(user: np.ndarray, rank: np.ndarray, support: int | None, file: np.ndarray | None = None) -> np.ndarray:
    """What each interaction would be if its user were new.

    Without a fixed split, the support set is all but the last two of a user's interactions or the first ``support``
    ones; the next one validates, the one after it tests, and later ones are not used. With a fixed split, the support
    set is the user's part of the training file, or the first ``support`` interactions of it.

    Args:
        user: User of each interaction. Shape ``(n,)``.
        rank: Distinct numbers that order each user's interactions. Shape ``(n,)``.
        support: Size of the support set.
        file: Number of the file of each interaction (0 training, 1 validation, 2 test) in a fixed split.

    Returns:
        ``SUPPORT``, ``VALID``, ``TEST`` or ``UNUSED`` for each, and ``UNUSED`` for all interactions of the users who
        cannot be new because they lack one of the three. Shape ``(n,)``.
    """
    order = np.lexsort((rank, np.zeros_like(user) if file is None else file, user))
    count = np.bincount(user)
    begin = np.concatenate([[0], np.cumsum(count)])[:-1]
    place = np.empty(len(user), dtype=np.int64)
    place[order] = np.arange(len(user)) - begin[user[order]]
    if file is None:
        end = count[user] - 2 if support is None else np.full(len(user), support)
        role = np.select([place < end, place == end, place == end + 1], [SUPPORT, VALID, TEST], UNUSED)
    else:
        known = place < (len(user) if support is None else support)
        role = np.select([(file == 0) & known, file == 1, file == 2], [SUPPORT, VALID, TEST], UNUSED)
    size = [np.bincount(user[role == kind], minlength=len(count)) for kind in (SUPPORT, VALID, TEST)]
    enough = (size[0] >= (support or 1)) & (size[1] > 0) & (size[2] > 0)
    return np.where(enough[user], role, UNUSED)


def item_roles(item: np.ndarray, new: np.ndarray, n_items: int) -> np.ndarray:
    """What each interaction is when items are new: the first half of them validate, the others test.

    Args:
        item: Item of each interaction. Shape ``(n,)``.
        new: The new items, as :func:`choose_new` returns them.
        n_items: Number of item ids.

    Returns:
        ``VALID`` or ``TEST`` for the interactions with new items, else ``UNUSED``. Shape ``(n,)``.
    """
    role = np.full(n_items, UNUSED)
    role[new[: len(new) // 2]] = VALID
    role[new[len(new) // 2 :]] = TEST
    return role[item]


def last_only(user: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Whether an interaction is its user's last among the given. Shape ``(n,)``, bool.

    Args:
        user: User of each. Shape ``(n,)``.
        rank: Numbers that order them. Shape ``(n,)``.
    """
    order = np.lexsort((rank, user))
    last = np.ones(len(user), dtype=bool)
    last[order[:-1]] = user[order[1:]] != user[order[:-1]]
    return last


def histories(user: np.ndarray, rank: np.ndarray, known: np.ndarray, targets: np.ndarray) -> Any:
    """Where the history of each target lies among the known interactions.

    Args:
        user: User of each interaction. Shape ``(n,)``.
        rank: Distinct numbers that order each user's interactions. Shape ``(n,)``.
        known: Indices of the interactions that may stand in a history. Shape ``(k,)``.
        targets: Indices of the interactions asked for. Shape ``(t,)``.

    Returns:
        ``known`` sorted by user and rank, and for each target begin and end of its history in it: the known
        interactions of its user that come before it. Shapes ``(k,)``, ``(t,)`` and ``(t,)``.
    """
    place = np.empty(len(user), dtype=np.int64)
    place[np.lexsort((rank, user))] = np.arange(len(user))
    known = known[np.argsort(place[known])]
    begin = np.searchsorted(user[known], user[targets], side="left")
    return known, begin, np.searchsorted(place[known], place[targets], side="left")


def next_item_rows(
    rows: Interaction,
    user_field: str,
    history: tuple[np.ndarray, np.ndarray, np.ndarray],
    targets: np.ndarray,
    length: int,
    names: tuple[str, str],
) -> Interaction:
    """Rows of a sequential data set, as RecBole makes them: a target and the items before it, at most ``length``.

    Args:
        rows: All interactions, one a row.
        user_field: Name of the user field, which has no history.
        history: What :func:`histories` returned.
        targets: Indices of the interactions asked for, each with a history. Shape ``(t,)``.
        length: Longest history; the latest items stay.
        names: RecBole's ``LIST_SUFFIX`` and ``ITEM_LIST_LENGTH_FIELD``.

    Returns:
        ``t`` rows with every column, its history and the history's length.
    """
    known, begin, end = history
    begin = np.maximum(begin, end - length)
    index = begin[:, None] + np.arange(length)
    inside = torch.from_numpy(index < end[:, None])
    index = np.minimum(index, max(len(known) - 1, 0))
    source = torch.from_numpy(known[index] if len(known) else np.zeros_like(index))
    asked = torch.from_numpy(targets)
    columns: dict[str, Tensor] = {name: column[asked] for name, column in rows.interaction.items()}
    columns[names[1]] = torch.from_numpy(end - begin)
    for name, column in rows.interaction.items():
        if name != user_field:
            shown = inside.view(*inside.shape, *([1] * (column.dim() - 1)))
            columns[name + names[0]] = torch.where(shown, column[source], torch.zeros((), dtype=column.dtype))
    return Interaction(columns)
