"""The best items of each user, batch by batch, as a table of recommendations."""

from __future__ import annotations

from collections.abc import Iterator
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_mm.data.negatives import seen_items
from recbole_mm.host.loaders import dataset_of
from recbole_mm.host.tags import tags_of
from recbole_mm.serving.asked import asked_items, asked_users, popularity
from recbole_mm.serving.masking import left_out, training_counts
from recbole_mm.serving.scoring import Scorer, last_rows
from recbole_mm.serving.tables import POPULAR, Batch, write_topk

__all__ = ["export_lists"]


def export_lists(
    loaded: tuple[Any, Any, Any, Any, Any, Any],
    file: Path,
    topk: int,
    users: list[str] | None,
    items: list[str] | None,
    seen: str | None,
    progress: bool,
) -> dict[str, int]:
    """Write the lists of a trained model.

    Args:
        loaded: Config, model, data set and the three loaders.
        file: The table.
        topk: How many items per user.
        users: Raw ids; ``None`` for all.
        items: Raw ids of the candidates; ``None`` for all.
        seen: Which items are left out, see :func:`recbole_mm.export`.
        progress: Whether to show a progress bar.

    Returns:
        ``users``, ``popular``, ``unknown``, ``recommendations`` and ``new``, see :func:`recbole_mm.export`.
    """
    lists = _Lists(loaded, topk, items, seen)
    asked, strangers = asked_users(users, lists.train)
    can = lists.scorer.can_score(asked)
    ids, without = asked[can], asked[~can]
    if len(without):
        getLogger().warning(
            f"{len(without):,} users have no history that {lists.name} could go on from; they get the most popular "
            "items, marked by ranked_by: popularity."
        )
    unknown = int((lists.known[ids] == 0).sum())
    if unknown:
        getLogger().warning(
            f"{unknown:,} of the {len(ids):,} users have no training interaction: {lists.name} knows nothing of "
            "them, and their lists are marked by known_items 0."
        )
    lists.warn_about_new()
    n = len(asked) + len(strangers)
    width = np.array([*strangers, ""], dtype=str).dtype
    types = (np.promote_types(lists.user_tokens.dtype, width), lists.item_tokens.dtype)
    found = new = 0
    with (
        write_topk(file, (n, lists.k), (*types, np.array([lists.name, POPULAR]).dtype)) as add,
        tqdm(total=n, unit="user", desc=f"top-{lists.k}", disable=not progress, ncols=100) as bar,
    ):
        for batch in (*lists.own(ids), *lists.popular(without), *lists.strangers(strangers)):
            add(batch)
            left = batch.items != ""
            found, new = found + int(left.sum()), new + int((batch.new & left).sum())
            bar.update(len(batch.users))
    popular = len(without) + len(strangers)
    return {"users": n, "popular": popular, "unknown": unknown, "recommendations": found, "new": new}


class _Lists:
    """Makes the batches of one export.

    Attributes:
        name: Name of the model.
        train: The training part.
        scorer: Scores of the model.
        known: Number of items of each user that the model knows, by internal id.
        k: Length of the lists.
        user_tokens: Raw ids of the users by internal id.
        item_tokens: Raw ids of the items by internal id.
    """

    def __init__(self, loaded: Any, topk: int, items: list[str] | None, seen: str | None) -> None:
        config, model, _, *loaders = loaded
        self.name, self.train = str(config["model"]), dataset_of(loaders[0])
        fields = self.train.uid_field, self.train.iid_field
        self.user_tokens, self.item_tokens = (np.asarray(self.train.field2id_token[f]).astype(str) for f in fields)
        candidates = asked_items(items, self.train)
        known, masked = left_out(config, loaders, seen)
        last = last_rows(config, known, dataset_of(loaders[2]) if seen is None else None)
        self.scorer = Scorer(config, model, self.train, masked, last, candidates)
        self.known = training_counts(self.train)
        self.is_new = ~seen_items(self.train)
        self.k = min(topk, self.train.item_num - 1 if candidates is None else int(candidates.sum()))
        self._by_count = torch.from_numpy(popularity(self.train).astype(np.float32))

    def warn_about_new(self) -> None:
        """Say where new items are ranked by a model that knows nothing of them."""
        ranked = self.is_new.copy()
        ranked[self.scorer.never.numpy()] = False
        reason = tags_of(self.name).why_no_new_items(self.name)
        if ranked.any() and reason is not None:
            getLogger().warning(
                f"{reason}. Where the {int(ranked.sum()):,} items without a training interaction stand in its lists "
                "says nothing of them."
            )

    def own(self, ids: np.ndarray) -> Iterator[Batch]:
        """Lists that the model ranks."""
        for start in range(0, len(ids), self.scorer.batch_users):
            batch = ids[start : start + self.scorer.batch_users]
            scores, items = torch.topk(self.scorer.scores(batch), self.k, dim=1)
            yield self._batch(self.user_tokens[batch], scores, items, self.known[batch], self.name)

    def popular(self, ids: np.ndarray) -> Iterator[Batch]:
        """Lists of the most popular items, for users of the data set that the model has no history of."""
        for start in range(0, len(ids), self.scorer.batch_users):
            batch = ids[start : start + self.scorer.batch_users]
            scores = self.scorer.mask(self._by_count.repeat(len(batch), 1), batch)
            yield self._batch(self.user_tokens[batch], *self._first(scores), self.known[batch], POPULAR)

    def strangers(self, tokens: list[str]) -> Iterator[Batch]:
        """The same list of the most popular items for every id that the data set does not have."""
        if not tokens:
            return
        row = self._by_count.clone().unsqueeze(0)
        row[:, self.scorer.never] = -torch.inf
        scores, items = self._first(row)
        for start in range(0, len(tokens), self.scorer.batch_users):
            users = np.array(tokens[start : start + self.scorer.batch_users], dtype=str)
            shape = len(users), self.k
            yield self._batch(users, scores.expand(shape), items.expand(shape), np.zeros(len(users), int), POPULAR)

    def _first(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The highest scores, equal ones in the order of the items' internal ids."""
        found, items = torch.sort(scores, dim=1, descending=True, stable=True)
        return found[:, : self.k], items[:, : self.k]

    def _batch(self, users: np.ndarray, scores: Tensor, items: Tensor, known: np.ndarray, by: str) -> Batch:
        values, ids = scores.float().cpu().numpy(), items.cpu().numpy()
        left = values > -np.inf
        chosen = np.where(left, self.item_tokens[ids], "")
        return Batch(users, chosen, np.where(left, values, np.nan), known, left & self.is_new[ids], by)
