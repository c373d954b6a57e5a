"""What the models of the next item share: which items a loss ranks, histories, and candidates cached at evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor
from torch.nn import functional as F

from recbole_mm.model.base import MultimodalModelMixin
from recbole_mm.model.feature_bank import FeatureBank
from recbole_mm.model.interactions import with_pairs
from recbole_mm.nn.mixture import modality_shares
from recbole_mm.nn.rows import rows_at, unit_rows
from recbole_mm.nn.table_nce import table_nce_loss

# Nothing: what a file of models lists is registered as a model, and this is none.
__all__: list[str] = []

LENGTH_GROUPS = 4
"""Groups of histories of like length into which a batch is cut on a CPU."""


def content_shares(features: FeatureBank, modalities: Iterable[str] | None = None) -> Tensor:
    r"""Share of each modality in an item's content, :math:`a_{im} = w_m o_{im} / \sum_{m'} w_{m'} o_{im'}`.

    Args:
        features: The items' features.
        modalities: The modalities that share; all of them by default.

    Returns:
        Shape ``(n_items, n_modalities)``; rows without any modality are 0.
    """
    names, there = list(features if modalities is None else modalities), features.observed
    # Weights as products with what is on the device: a tensor made of them here would be copied there in every step.
    weights = torch.stack([there[name].float() * features.weight[name] for name in names], dim=1)
    return modality_shares(weights, torch.stack([there[name] for name in names], dim=1))


def own_or_mean(weight: Tensor, seen: Tensor, rows: Tensor | None, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
    """Embeddings of items, the mean one where training never saw the item, or where dropout takes its own.

    Args:
        weight: Embeddings of all items, ``(n_items, dim)``. The mean, over those of ``seen``, is a constant.
        seen: Items with a training interaction, bool ``(n_items,)``.
        rows: Items asked for, ``(n_rows,)``; all of them by default.
        dropout: Probability with which the mean stands for an item's own.

    Returns:
        Shape ``(n_rows, dim)``, and which rows are items and not the padding, bool ``(n_rows, 1)``.
    """
    own, there = rows_at(weight, rows), seen if rows is None else seen[rows]
    every = weight.detach()
    mean = (seen.to(every.dtype) @ every) / seen.sum().clamp_min(1)
    if dropout > 0:
        there = there & (torch.rand(len(there), device=there.device) >= dropout)
    ids = torch.arange(len(weight), device=weight.device) if rows is None else rows
    return torch.where(there.unsqueeze(1), own, mean), ids.ne(0).unsqueeze(1)


class NextItemModel(MultimodalModelMixin, SequentialRecommender):
    """A state of the history is compared with a vector of every item.

    A model of this kind implements :meth:`item_vectors` and :meth:`states`, or :meth:`history_states`. RecBole decides
    by the option ``loss_type`` whether rows of training have negatives, so that the class has no ``input_type``.

    Attributes:
        seen: Items with a training interaction, bool ``(n_items,)``.
        candidates: Items that a loss over all items ranks: those, or with ``negative_items: all`` every item that
            training may know. The padding is none. Bool ``(n_items,)``.
    """

    new_users = True

    seen: Tensor
    candidates: Tensor
    step_rows: Tensor | None
    step_place: Tensor
    step_valid: Tensor
    cosine: bool
    temperature: float

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.n_users = dataset.num(self.USER_ID)  # RecBole's sequential base counts items only
        self._set_up_multimodal(config, dataset)
        seen = with_pairs(self.interactions)
        candidates = seen.clone()
        if self.options.optional_text("negative_items") == "all":
            candidates = torch.ones_like(seen) if self.known_items is None else self.known_items.clone()
        seen[0] = candidates[0] = False
        self.register_buffer("seen", seen, persistent=False)
        self.register_buffer("candidates", candidates, persistent=False)

    def choose_rows(self, padding: bool) -> None:
        """Settle which items a step of :meth:`softmax_loss` computes: those that it reads or ranks, and the padding.

        ``step_rows`` (``None`` where it is all), ``step_place`` (each item's row) and ``step_valid`` (the candidates
        among the rows) are there afterwards.

        Args:
            padding: Whether the padding is a candidate, as in RecBole's own models.
        """
        valid, wanted = self.candidates.clone(), self.candidates | self.seen
        valid[0], wanted[0] = padding, True
        rows = wanted.nonzero().squeeze(1)
        place = torch.zeros(self.n_items, dtype=torch.long)
        place[rows] = torch.arange(len(rows))
        self.register_buffer("step_rows", None if len(rows) == self.n_items else rows, persistent=False)
        self.register_buffer("step_place", place, persistent=False)
        self.register_buffer("step_valid", valid[rows], persistent=False)

    def item_vectors(self) -> tuple[Any, Tensor]:
        """What histories are read from, and the vector of every item as a candidate, ``(n_items, dim)``."""
        raise NotImplementedError

    def states(self, table: Any, item_seq: Tensor, last: Tensor) -> Tensor:
        """States ``(batch, dim)`` of position ``last`` of each history; the items are looked up in ``table``."""
        raise NotImplementedError

    def history_states(self, table: Any, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """States after the last item of histories that are filled up on the right, ``(batch, dim)``.

        On a CPU histories of like length are worked off together, without the padding of the longest one.
        """
        last = (item_seq_len - 1).clamp_min(0)
        if item_seq.is_cuda:  # asking a CUDA device for a length would wait for it
            return self.states(table, item_seq, last)
        order = last.argsort(stable=True)
        states = [
            self.states(table, item_seq[rows, : int(last[rows[-1]]) + 1], last[rows])
            for rows in order.chunk(LENGTH_GROUPS if len(order) >= 64 * LENGTH_GROUPS else 1)
        ]
        return torch.cat(states)[order.argsort()]

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """States after the last item of each history, ``(batch, dim)``.

        Args:
            item_seq: Internal item ids, filled up with 0 on the right. Shape ``(batch, length)``.
            item_seq_len: Numbers of items. Shape ``(batch,)``.
        """
        table = self.item_vectors()[0] if self.training else self._evaluated()[0]
        return self.history_states(table, item_seq, item_seq_len)

    @torch.no_grad()
    def encode_history(self, item_ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """States of histories from anywhere, such as of users who are in no file.

        Args:
            item_ids: Internal item ids, most recent last, 0 being padding on either side. Shape ``(batch, length)``;
                of longer histories than the model's the latest items are read.
            lengths: Numbers of items, ``(batch,)``; by default those that are not 0.

        Returns:
            Shape ``(batch, dim)``.

        Raises:
            ValueError: An id that is no item's, or no matrix of ids.
        """
        if item_ids.dim() != 2 or item_ids.is_floating_point():
            raise ValueError(
                f"expected a matrix of item ids (batch, length), got {item_ids.dtype} {tuple(item_ids.shape)}"
            )
        if item_ids.numel() and not 0 <= int(item_ids.min()) <= int(item_ids.max()) < self.n_items:
            raise ValueError(f"expected internal item ids from 0 (padding) to {self.n_items - 1}")
        item_ids = item_ids.to(self.seen.device).long()
        there = item_ids.ne(0)
        if lengths is not None:
            there &= torch.arange(item_ids.shape[1], device=item_ids.device) < lengths.to(item_ids.device)[:, None]
        item_ids = item_ids * there
        # Items to the right, the latest ones kept, then items to the left.
        item_ids = item_ids.gather(1, item_ids.ne(0).to(torch.int8).argsort(dim=1, stable=True))
        item_ids = item_ids[:, -self.max_seq_length :]
        item_ids = item_ids.gather(1, item_ids.eq(0).to(torch.int8).argsort(dim=1, stable=True))
        if item_ids.shape[1] == 0:
            item_ids = F.pad(item_ids, (0, 1))
        return self.forward(item_ids, item_ids.ne(0).sum(dim=1))

    def score_states(self, states: Tensor) -> Tensor:
        """Scores of every item after the histories with the given states, ``(batch, n_items)``."""
        queries, candidates = self._factors(states)
        return queries @ candidates.T

    def _factors(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return (unit_rows(states) / self.temperature if self.cosine else states), self._evaluated()[1]

    def predict(self, interaction: Any) -> Tensor:
        """Scores of the given pairs of a history and an item, ``(batch,)``."""
        queries, candidates = self.score_factors(interaction)
        return (queries * candidates[interaction[self.ITEM_ID]]).sum(dim=1)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of every item after the given histories, flattened from ``(batch, n_items)``."""
        states = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return self.score_states(states).view(-1)

    def score_factors(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """Vectors of the given histories and of all items, whose inner products are the scores."""
        return self._factors(self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]))

    def _evaluated(self) -> tuple[Any, Tensor]:
        """Items for histories and as candidates, computed once an evaluation; normalised where cosines rank."""
        if self._cache is not None and self._cache[0] == self._versions() and not self.training:
            return self._cache[1]
        with torch.no_grad():
            table, vectors = self.item_vectors()
            found = (table, unit_rows(vectors) if self.cosine else vectors)
        if not self.training:
            self._cache = (self._versions(), found)
        return found

    def softmax_loss(self, states: Tensor, vectors: Tensor, place: Tensor, valid: Tensor) -> Tensor:
        """Cross entropy of the next items among the candidates, the exact sum, worked off in chunks.

        Args:
            states: Shape ``(batch, dim)``.
            vectors: Vectors of the items computed in this step, ``(n_rows, dim)``.
            place: Row of each next item in ``vectors``, ``(batch,)``.
            valid: Rows that are candidates, bool ``(n_rows,)``.

        Returns:
            A scalar, the mean over the batch.
        """
        temperature = self.temperature if self.cosine else 1.0
        total = table_nce_loss(states, vectors, place, temperature, valid=valid, normalize=self.cosine)
        return total / max(len(place), 1)
