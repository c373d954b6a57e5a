"""BM3: LightGCN trained without negatives, by predicting dropped-out views of users, items and modalities."""

from __future__ import annotations

from logging import getLogger
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.nn.graph.lightgcn import lightgcn
from recbole_mm.nn.linear import Linear
from recbole_mm.nn.loss import frobenius_penalty
from recbole_mm.nn.rows import batch_rows, rows_at

__all__ = ["BM3"]


class BM3(MultimodalRecommender):
    r"""Predicted users and items point where the other side points; so do predicted modality vectors. No negatives.

    With :math:`(g_U, g_I)` the LightGCN of the id tables, one predictor :math:`P(x) = x W_P + b_P`,
    :math:`x^m_i = f^m_i W_m + b_m`, and targets :math:`\tilde x` that are dropped out and get no gradient:

    .. math::
        u &= g_u, \qquad i = g_i + e_i, \qquad \hat y_{ui} = \langle P(u), i \rangle + \langle u, P(i) \rangle, \\
        L &= [1 - \cos(P(u), \tilde\imath)] + [1 - \cos(P(i), \tilde u)] + \lambda (\|U\|_F + \|I\|_F) / n_{items} \\
          &+ \beta \textstyle\sum_m w_m \{[1 - \cos(P(x^m_i), \tilde\imath)] + [1 - \cos(P(x^m_i), \tilde x^m_i)]\},

    cosines averaged over the batch's pairs, those of modality :math:`m` over the pairs whose item has it.
    :math:`\beta` is ``contrastive_weight``, :math:`\lambda` is ``reg_weight``, and the norms are those of all users
    and items.

    Reference:
        Zhou et al. "Bootstrap Latent Representations for Multi-modal Recommendation." WWW 2023.

    Options:
        embedding_size, n_layers, dropout, reg_weight, score, cold_items.

    Note:
        The score is ours, ``score: aligned``: the loss trains :math:`P(u)` towards :math:`i` and :math:`P(i)` towards
        :math:`u`. ``score: predicted`` is the paper's :math:`\langle P(u), P(i) \rangle`, in which :math:`W_P` counts
        twice, so that its longest directions, what is popular, win as training goes on: on dense data validation fell
        by an eighth and ended below BPR. On sparse data that smooths, and is a few per cent better.
        Features enter the loss only: **items that are new at evaluation are ranked by untrained ids**.
        ``cold_items: content``, ours, ranks an item without training pairs by :math:`P(\sum_m w_m x^m_i / \sum_m w_m)`
        over its modalities, which the alignment trains towards its target, in the places of :math:`i` and :math:`P(i)`.
        The released code trains the feature tables too; here they are constant. The penalty is the code's, lengths of
        both whole tables that are not squared; the paper's, as we understand it, squares those of the batch, for which
        the weights that the authors searched would be none. ``contrastive_temperature`` has no use: cosines are not
        divided by anything.
    """

    has_contrastive_term = True
    ranks_new_items = False
    ranks_new_items_with = "cold_items: content or new_item_neighbours: 5"
    ranks_by_features = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        dim = self.options.integer("embedding_size", minimum=1)
        self.n_layers = self.options.integer("n_layers", minimum=0)
        self.dropout = self.options.number("dropout", minimum=0, maximum=1)
        self.reg_weight = self.options.number("reg_weight", minimum=0)
        self.score = self.options.choice("score", ("aligned", "predicted"), before="predicted")
        self.cold_items = self.options.choice("cold_items", ("id", "content"))
        self.graph = self.interaction_graph()
        self.user_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_users, dim)))
        self.item_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_items, dim)))
        self.predictor = nn.Linear(dim, dim)
        self.project = nn.ModuleDict({m: Linear(width, dim) for m, width in self.features.dims.items()})
        for layer in (self.predictor, *self.project.values()):
            nn.init.xavier_normal_(layer.weight)  # type: ignore[arg-type]
        new = int((self.graph.item_degree[1:] == 0).sum())
        if new and self.cold_items == "id" and self.options.integer("new_item_neighbours", before=0) == 0:
            getLogger().warning(
                f"BM3 reads features only in its loss: the {new} items without training interactions are ranked by "
                "untrained ids, which say nothing of them. cold_items: content ranks them by their features."
            )

    def forward(self) -> tuple[Tensor, Tensor]:
        """What is ranked by: predicted users and items, ``(n, d)``, or all that their score takes, ``(n, 2 d)``."""
        users, items = self._encode()
        predicted_items = self.predictor(items)
        if self.cold_items == "content":
            content, known = self._content()
            cold = (known & (self.graph.item_degree == 0)).unsqueeze(1)
            predicted_items = torch.where(cold, self.predictor(content.to(items.dtype)), predicted_items)
            items = torch.where(cold, predicted_items, items)
        if self.score == "predicted":
            return self.predictor(users), predicted_items
        return torch.cat([self.predictor(users), users], dim=1), torch.cat([items, predicted_items], dim=1)

    def _encode(self) -> tuple[Tensor, Tensor]:
        users, items = lightgcn([self.graph] * self.n_layers, self.user_embedding, self.item_embedding)
        return users, items + self.item_embedding

    def _content(self) -> tuple[Tensor, Tensor]:
        """Weighted mean of each item's projected modalities, and which items have any."""
        total = count = torch.zeros((), device=self.item_embedding.device)
        for modality, feature in self.features.items():
            share = (self.features.weight[modality] * self.features.observed[modality]).unsqueeze(1)
            total, count = total + share * self.project[modality](feature), count + share
        known = count.squeeze(1) > 0
        return total / torch.where(count > 0, count, torch.ones_like(count)), known

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """Reconstruction, penalty and the weighted alignment of modalities of a batch of pairs."""
        user, item = interaction[self.USER_ID], interaction[self.ITEM_ID]
        users, items = self._encode()
        u, i = F.embedding(user, users), F.embedding(item, items)
        user_target, item_target = self._target(u), self._target(i)
        distances = _distance(self.predictor(u), item_target), _distance(self.predictor(i), user_target)
        # The padding row is nobody: it takes no part in the norms.
        penalty = frobenius_penalty(users[1:], items[1:]) / (self.n_items - 1)
        losses: tuple[Tensor, ...] = (distances[0].mean() + distances[1].mean(), self.reg_weight * penalty)
        if self.contrastive_weight > 0:
            losses += (self.contrastive_weight * self._alignment(item, item_target),)
        return losses

    def _alignment(self, item: Tensor, target: Tensor) -> Tensor:
        rows, place = batch_rows(item, self.n_items)
        total = target.new_zeros(())
        for modality, feature in self.features.items():
            x = self.project[modality](rows_at(feature, rows))
            predicted, x = (F.embedding(place, table) for table in (self.predictor(x), x))  # type: ignore[arg-type]
            present = self.features.observed[modality][item].to(target.dtype)
            distance = _distance(predicted, target) + _distance(predicted, self._target(x))
            total = total + self.features.weight[modality] * (present * distance).sum() / present.sum().clamp(min=1)
        return total

    def _target(self, states: Tensor) -> Tensor:
        return F.dropout(states.detach(), self.dropout, self.training)


def _distance(left: Tensor, right: Tensor) -> Tensor:
    """One minus the cosine of each row, in float32 at least."""
    with torch.autocast(left.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
        return 1 - F.cosine_similarity(left.to(dtype), right.to(dtype), dim=1)
