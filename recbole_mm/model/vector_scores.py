"""How most models score: a vector per user and per item, computed once, and their inner products."""

from __future__ import annotations

from typing import Any

import scipy.sparse as sp
import torch
from torch import Tensor

from recbole_mm.config import ModelOptions
from recbole_mm.model.feature_bank import FeatureBank
from recbole_mm.model.interactions import with_pairs
from recbole_mm.nn.graph.content_knn import nearest_known
from recbole_mm.nn.linear import linear

__all__ = ["VectorScores"]


class VectorScores:
    """Scores of an evaluation as inner products of the representations that ``forward`` gives.

    They are computed once and kept until the parameters change: the cache is dropped by ``train()``, by loading a
    state dict, and whenever a parameter was written to since it was filled. With ``new_item_neighbours`` an item
    without a training interaction takes the mean of the representations of its nearest known items.

    It reads ``options``, ``features``, ``interactions`` and ``dense_backend`` of the model that it is part of.
    """

    options: ModelOptions
    features: FeatureBank
    interactions: sp.csr_matrix
    dense_backend: str
    new_item_ids: Tensor | None
    new_item_near: Tensor

    def _set_up_scores(self) -> None:
        """Register the neighbours of new items, and make the cache forget when a state dict is loaded."""
        self._find_neighbours_of_new_items()
        self._cache: tuple[tuple[Any, ...], tuple[Tensor, Tensor]] | None = None
        self.register_load_state_dict_post_hook(VectorScores._forget_representations)  # type: ignore[attr-defined]

    def _find_neighbours_of_new_items(self) -> None:
        """Keep which known items stand for each item without a training interaction, where that is asked for."""
        k = self.options.integer("new_item_neighbours", minimum=0, before=0)
        if k and not self.scores_by_vectors():
            raise ValueError(
                f"new_item_neighbours: {type(self).__name__} ranks a new item by itself and takes no vector from its "
                "neighbours. Set new_item_neighbours: 0."
            )
        new = near = None
        if k:
            known = with_pairs(self.interactions)
            if not known[1:].all():
                tables = dict(self.features.items())
                new, near = nearest_known(tables, self.features.observed, self.features.weight, known, k)
        self.register_buffer("new_item_ids", new, persistent=False)  # type: ignore[attr-defined]
        self.register_buffer("new_item_near", near, persistent=False)  # type: ignore[attr-defined]

    @classmethod
    def scores_by_vectors(cls) -> bool:
        """Whether a score is the inner product of :meth:`representations`, so that another item's may stand in."""
        return cls.full_sort_predict is VectorScores.full_sort_predict

    def _forget_representations(self, *_: Any) -> None:
        self._cache = None

    def train(self, mode: bool = True) -> Any:
        """Set training or evaluation mode; either way evaluation starts from fresh representations."""
        self._cache = None
        return super().train(mode)  # type: ignore[misc]

    def representations(self) -> tuple[Tensor, Tensor]:
        """User and item representations for evaluation, shapes ``(n_users, d)`` and ``(n_items, d)``, computed once."""
        if self._cache is not None and self._cache[0] == self._versions() and not self.training:  # type: ignore[attr-defined]
            return self._cache[1]
        with torch.no_grad():
            computed: tuple[Tensor, Tensor] = self.forward()  # type: ignore[attr-defined]
            if self.new_item_ids is not None and not self.training:  # type: ignore[attr-defined]
                users, items = computed
                near = items[self.new_item_near].mean(dim=1)
                computed = users, items.index_copy(0, self.new_item_ids, near)
        if not self.training:  # type: ignore[attr-defined]
            # Read now and not before: the first pass over a graph keeps its edge weights, in buffers.
            self._cache = (self._versions(), computed)
        return computed

    def _versions(self) -> tuple[Any, ...]:
        """What changes whenever a parameter or buffer is written to or exchanged."""
        tensors = (*self.parameters(), *self.buffers())  # type: ignore[attr-defined]
        return tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)

    def predict(self, interaction: Any) -> Tensor:
        """Scores of the given pairs, shape ``(batch,)``."""
        users, items = self.representations()
        return (users[interaction[self.USER_ID]] * items[interaction[self.ITEM_ID]]).sum(dim=-1)  # type: ignore[attr-defined]

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of every item for the given users, flattened from ``(batch, n_items)``."""
        return linear(*self.score_factors(interaction), backend=self.dense_backend).view(-1)

    def score_factors(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """Vectors of the given users, ``(batch, d)``, and of all items, ``(n_items, d)``: scores are their products.

        An evaluation reads them in place of :meth:`full_sort_predict`, to score the items that are ranked alone and a
        few users at a time. It does not where a class has a ``full_sort_predict`` of its own below this method; one
        that scores other than by products says ``score_items(interaction, items)`` for some items, or nothing.
        """
        users, items = self.representations()
        return users[interaction[self.USER_ID]], items  # type: ignore[attr-defined]
