"""An exact short cut through RecBole's full ranking, which also feeds the slices of an evaluation."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.evaluator.collector import Collector
from recbole.trainer import Trainer
from torch import Tensor

from recbole_mm.host.deferred import Deferred
from recbole_mm.host.loaders import dataset_of
from recbole_mm.host.products import scores_of
from recbole_mm.host.wrapping import wrap
from recbole_mm.nn.topk import top_columns

__all__ = ["Ranked", "install", "mask_others", "rank", "top_hits"]


class Ranked(NamedTuple):
    """The best items of each row, and the positives.

    Attributes:
        items: Shape ``(n_users, k)``.
        hits: 1 where the item is a positive, int64. Shape ``(n_users, k)``.
        row: Row of each distinct positive. Shape ``(n_positives,)``.
        item: The positive. Shape ``(n_positives,)``.
    """

    items: Tensor
    hits: Tensor
    row: Tensor
    item: Tensor


def rank(scores: Tensor | Deferred, k: int, positive_u: Tensor, positive_i: Tensor) -> Ranked:
    """Rank the items of each row and find the positives among the best ``k``.

    RecBole marks the positives in a table of users x items, which costs more than ranking. The same follows from the
    positives alone.

    Args:
        scores: Shape ``(n_users, n_items)``, or computed while they are ranked.
        k: Length of the lists.
        positive_u: Row of each positive. Shape ``(n_positives,)``.
        positive_i: Item of each positive. Shape ``(n_positives,)``.

    Returns:
        The lists; repeated positives count once.
    """
    if isinstance(scores, Deferred):
        n_users, n_items, ranked = len(scores), scores.n_items, scores.lists(k)
    else:
        (n_users, n_items), ranked = scores.shape, top_columns(scores, k)
    rows = torch.arange(n_users, device=scores.device).unsqueeze(1)
    positives = torch.unique(positive_u.to(scores.device) * n_items + positive_i.to(scores.device))
    hits = torch.isin(rows * n_items + ranked, positives).long()
    return Ranked(ranked, hits, torch.div(positives, n_items, rounding_mode="floor"), positives % n_items)


def top_hits(ranked: Ranked) -> Tensor:
    """What RecBole's ranking metrics are computed from: hits among the best items, and how many there could be.

    Args:
        ranked: From :func:`rank`.

    Returns:
        Shape ``(n_users, k + 1)``, int64: 1 where the list has a positive, then the number of positives.
    """
    counts = torch.bincount(ranked.row, minlength=len(ranked.hits))
    return torch.cat([ranked.hits, counts.unsqueeze(1)], dim=1)


def install() -> None:
    """Let RecBole's evaluation take the short cut where its metrics need nothing else; a second call does nothing."""
    Collector.slice_recorder = None  # recbole_mm.host.slices gives one to collectors whose options ask for slices
    wrap(Collector, "eval_batch_collect", _collect)
    wrap(Trainer, "evaluate", _evaluate)
    wrap(Trainer, "_full_sort_batch_eval", _score)


def _needs_lists_only(collector: Any) -> bool:
    others = ("rec.items", "rec.meanrank", "rec.score", "data.label")
    return bool(collector.register.need("rec.topk") and not any(collector.register.need(key) for key in others))


def _collect(
    original: Any, self: Any, scores_tensor: Any, interaction: Any, positive_u: Tensor, positive_i: Tensor
) -> None:
    short = _needs_lists_only(self)
    if self.slice_recorder is not None:
        self.slice_recorder.check()  # before anything is kept, which the next evaluation would find
    if not short:
        original(self, scores_tensor, interaction, positive_u, positive_i)
    if not short and self.slice_recorder is None:
        return
    ranked = rank(scores_tensor, max(self.topk), positive_u, positive_i)
    if short:
        self.data_struct.update_tensor("rec.topk", top_hits(ranked))
    if self.slice_recorder is not None:
        self.slice_recorder.record(scores_tensor, interaction, *ranked)


def _evaluate(original: Any, self: Any, eval_data: Any, *args: Any, **more: Any) -> Any:
    """Let the scores be computed while they are ranked, where nobody else looks at them on the way."""
    collector = self.eval_collector
    own = type(self)._full_sort_batch_eval is Trainer._full_sort_batch_eval and type(collector) is Collector
    watched = "_full_sort_batch_eval" in vars(self) or "eval_batch_collect" in vars(collector)
    if not own or watched or not isinstance(eval_data, FullSortEvalDataLoader) or not _needs_lists_only(collector):
        return original(self, eval_data, *args, **more)
    cold = getattr(dataset_of(eval_data), "cold_start", None)
    ranked = None if cold is None else cold.ranked
    self.ranked_columns = None if ranked is None else torch.from_numpy(ranked).to(self.device)
    self.defers_scores = eval_data.masks_history_only = True
    try:
        return original(self, eval_data, *args, **more)
    finally:
        self.defers_scores = eval_data.masks_history_only = False


def _score(original: Any, self: Any, batched_data: Any) -> Any:
    if not getattr(self, "defers_scores", False):
        return original(self, batched_data)
    interaction, history, positive_u, positive_i = batched_data
    scores = scores_of(self.model, interaction.to(self.device), self.ranked_columns)
    if scores is not None:
        deferred = Deferred(self.model, scores, self.tot_item_num, self.ranked_columns, history)
        return interaction, deferred, positive_u, positive_i
    if self.ranked_columns is not None:
        history = mask_others(self.tot_item_num, self.ranked_columns.cpu(), len(interaction), history)
    return original(self, (interaction, history, positive_u, positive_i))


def mask_others(n_items: int, columns: Tensor, n_rows: int, history: Any) -> Tensor:
    """A mask of all scores but those of the ranked items, where RecBole masks a user's history.

    A byte a score in place of RecBole's two numbers a masked pair: most of the items may be masked.

    Args:
        n_items: Number of items, the padding included.
        columns: Ids of the ranked items.
        n_rows: Users of the batch.
        history: Row and item of the pairs of RecBole's own mask, or nothing.

    Returns:
        True where a score is masked, ``(n_rows, n_items)``.
    """
    mask = torch.ones(n_rows, n_items, dtype=torch.bool)
    mask[:, columns] = False
    if history is not None:
        mask[history] = True
    return mask
