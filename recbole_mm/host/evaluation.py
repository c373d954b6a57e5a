"""An exact short cut through RecBole's collection of ranking results, which also feeds the slices of an evaluation."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from recbole.evaluator.collector import Collector
from torch import Tensor

from recbole_mm.host.wrapping import wrap
from recbole_mm.nn.topk import top_columns

__all__ = ["Ranked", "install", "rank", "top_hits"]


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


def rank(scores: Tensor, k: int, positive_u: Tensor, positive_i: Tensor) -> Ranked:
    """Rank the items of each row and find the positives among the best ``k``.

    RecBole marks the positives in a table of users x items, which costs more than ranking. The same follows from the
    positives alone.

    Args:
        scores: Shape ``(n_users, n_items)``.
        k: Length of the lists.
        positive_u: Row of each positive. Shape ``(n_positives,)``.
        positive_i: Item of each positive. Shape ``(n_positives,)``.

    Returns:
        The lists; repeated positives count once.
    """
    n_users, n_items = scores.shape
    ranked = top_columns(scores, k)
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
    """Let RecBole's collector take the short cut where its metrics need nothing else; a second call does nothing."""

    def eval_batch_collect(
        original: Any, self: Any, scores_tensor: Tensor, interaction: Any, positive_u: Tensor, positive_i: Tensor
    ) -> None:
        others = ("rec.items", "rec.meanrank", "rec.score", "data.label")
        short = self.register.need("rec.topk") and not any(self.register.need(key) for key in others)
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

    Collector.slice_recorder = None  # recbole_mm.host.slices gives one to collectors whose options ask for slices
    wrap(Collector, "eval_batch_collect", eval_batch_collect)
