"""ItemKNNCBF: items that look like those of a user's history; nothing is trained."""

from __future__ import annotations

from typing import Any

import torch
from recbole.utils import ModelType
from torch import Tensor, nn

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.nn.graph.bipartite import SparsePattern, knn_graph, spmm
from recbole_mm.nn.graph.item_graph import edge_cosines
from recbole_mm.nn.rows import unit_rows

__all__ = ["ItemKNNCBF"]


class ItemKNNCBF(MultimodalRecommender):
    r"""An item scores by its similarity to the items of the user's history: does the content know anything?

    .. math::
        q_i = [\sqrt{w_1} f^1_i / \|f^1_i\| \; \| \; \sqrt{w_2} f^2_i / \|f^2_i\| \; \| \dots], \qquad
        \hat y_{ui} = \textstyle\sum_{j \in N(u),\, j \in K(i)} \cos(q_i, q_j)

    :math:`K(i)` are the ``knn_k`` items nearest to :math:`i`, itself excluded (``neighbours_of: candidate``); with
    ``history`` the sum runs over :math:`i \in K(j)`. Without ``knn_k`` every other item is a neighbour. A modality
    that an item lacks counts in neither product nor length. :math:`w_m` is ``modality_weight``.

    Reference:
        Dacrema, Cremonesi and Jannach. "Are We Really Making Much Progress? A Worrying Analysis of Recent Neural
        Recommendation Approaches." RecSys 2019.

    Options:
        knn_k, neighbours_of.

    Note:
        A widespread port takes the neighbours of the history with the item itself among them, and concatenates raw
        vectors, so that the modality with the larger numbers decides; ``ItemKNNCBF-reference.yaml`` has its neighbours.
        New items are ranked; a user without history scores every item 0. There is no contrastive term.
    """

    type = ModelType.TRADITIONAL

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        k = self.options.optional_integer("knn_k", minimum=1)
        of_candidate = self.options.choice("neighbours_of", ("candidate", "history")) == "candidate"
        if self.contrastive_weight > 0:
            raise ValueError(
                f"ItemKNNCBF trains nothing, so contrastive_weight can have no effect: expected 0, got "
                f"{self.contrastive_weight}; leave the option out."
            )
        # RecBole's trainer wants a parameter and a loss.
        self.unused = nn.Parameter(torch.zeros(1))
        self.history = self.interaction_graph().to_user
        content = self._content()
        if k is None:
            self.register_buffer("content", content, persistent=False)
            return
        # Histories hold known items only, so those of a candidate are sought among them, however many are new.
        pattern, _ = knn_graph(content, k, candidates=self.known_items if of_candidate else None)
        self.neighbours = pattern.transpose if of_candidate else pattern
        self.register_buffer("similarity", self._similarity(self.neighbours), persistent=False)

    def _content(self) -> Tensor:
        """Rows ``q`` at unit length; zero for items without any modality. Shape ``(n_items, sum of widths)``."""
        parts = [
            self.features.weight[m] ** 0.5 * unit_rows(f * self.features.observed[m].unsqueeze(1))
            for m, f in self.features.items()
        ]
        return unit_rows(torch.cat(parts, dim=1))

    def _similarity(self, pattern: SparsePattern) -> Tensor:
        """Cosines of ``q`` in float64, from those of each modality."""
        square = torch.zeros(self.n_items, dtype=torch.float64)
        product = torch.zeros(pattern.n_edges, dtype=torch.float64)
        for modality, feature in self.features.items():
            there = self.features.observed[modality] & feature.ne(0).any(dim=1)
            square += self.features.weight[modality] * there
            both = there[pattern.row] & there[pattern.col]
            product += self.features.weight[modality] * edge_cosines(pattern, feature) * both
        return product / (square[pattern.row] * square[pattern.col]).sqrt()

    def _scores(self, user: Tensor) -> Tensor:
        """Scores of every item, ``(batch, n_items)``, from the sparse rows of the users' histories."""
        rows, _ = self.history.rows(user)
        if hasattr(self, "content"):
            taste = spmm(rows, self.content.new_ones(rows.n_edges), self.content)
            scores = taste @ self.content.T
            scores[rows.row, rows.col] -= self.content.square().sum(dim=1)[rows.col]
            return scores
        near, position = self.neighbours.rows(rows.col)
        scores = self.similarity.new_zeros(len(user) * self.n_items)
        scores.index_add_(0, rows.row[near.row] * self.n_items + near.col, self.similarity[position])
        return scores.view(len(user), -1).to(self.unused.dtype)

    def forward(self) -> tuple[Tensor, Tensor]:
        """There are no representations: scores come from neighbours."""
        raise TypeError("ItemKNNCBF has no representations of users and items; ask for scores with full_sort_predict")

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Zero: nothing is trained."""
        return self.unused.sum() * 0.0

    def predict(self, interaction: Any) -> Tensor:
        """Scores of the given pairs, shape ``(batch,)``."""
        users, place = torch.unique(interaction[self.USER_ID], return_inverse=True)
        return self._scores(users)[place, interaction[self.ITEM_ID]]

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of every item for the given users, flattened from ``(batch, n_items)``."""
        return self._scores(interaction[self.USER_ID]).view(-1)
