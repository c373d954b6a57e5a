"""ItemKNNCBF: items that look like those of a user's history; nothing is trained."""

from __future__ import annotations

from typing import Any

import torch
from recbole.utils import ModelType
from torch import Tensor, nn

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.nn.graph.bipartite import spmm
from recbole_mm.nn.graph.content_knn import content_rows, nearest_content, neighbour_scores
from recbole_mm.nn.rows import places_in

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
        tables, observed, weight = dict(self.features.items()), self.features.observed, self.features.weight
        if k is None:
            self.register_buffer("content", content_rows(tables, observed, weight), persistent=False)
            return
        self.neighbours, similarity = nearest_content(tables, observed, weight, k, self.known_items, of_candidate)
        self.register_buffer("similarity", similarity, persistent=False)

    def _scores(self, user: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Scores of every item or of the wanted ones, ``(batch, n)``, from the sparse rows of the users' histories."""
        rows, _ = self.history.rows(user)
        if not hasattr(self, "content"):
            return neighbour_scores(rows, self.neighbours, self.similarity, wanted).to(self.unused.dtype)
        taste = spmm(rows, self.content.new_ones(rows.n_edges), self.content)
        row, item, content = rows.row, rows.col, self.content
        if wanted is not None:
            content, place = content[wanted], places_in(wanted, len(content))[item]
            row, item = row[place >= 0], place[place >= 0]
        scores = taste @ content.T
        scores[row, item] -= content.square().sum(dim=1)[item]
        return scores

    def forward(self) -> tuple[Tensor, Tensor]:
        """There are no representations: scores come from neighbours."""
        raise TypeError("ItemKNNCBF has no vectors of users and items; its scores are those of full_sort_predict")

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

    def score_items(self, interaction: Any, wanted: Tensor) -> Tensor:
        """Scores of the wanted items for the given users, ``(batch, n)``."""
        return self._scores(interaction[self.USER_ID], wanted)
