"""LATTICE with dense item graphs and PyG message passing."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pyg_reference import both_directions
from benchmarks.pyg_reference.layers import Weighted


def nearest(table: Tensor, observed: Tensor, k: int) -> Tensor:
    """Cosines of every row's k nearest, the others 0. Shape ``(n, n)``."""
    unit = F.normalize(table * observed[:, None])
    cosine = unit @ unit.T
    masked = cosine.detach().masked_fill(~observed, -2.0)
    index = masked.topk(k, dim=1).indices
    kept = torch.zeros_like(cosine).scatter(1, index, cosine.gather(1, index).clamp(min=0))
    return kept * observed[:, None]


def normalised(graph: Tensor) -> Tensor:
    """Divided by the roots of the row sums of both ends."""
    total = graph.sum(dim=1)
    root = torch.where(total > 0, total, torch.ones_like(total)).rsqrt() * (total > 0)
    return root[:, None] * graph * root[None, :]


class LATTICE(nn.Module):
    """The released layout: matrices of items x items; the graph is learned in the first step of an epoch."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.fields = (model.USER_ID, model.ITEM_ID, model.NEG_ITEM_ID)
        self.n_users, self.n_items, self.n_layers = model.n_users, model.n_items, model.n_layers
        self.knn_k, self.skip_weight, self.reg_weight = model.knn_k, model.skip_weight, model.reg_weight
        self.modalities, self.kept, self.left = list(model.features), None, 0
        self.steps_per_epoch = model.clock.steps_per_epoch
        self.register_buffer("edge_index", both_directions(*model.training_pairs, model.n_users))
        self.register_buffer("observed", model.observed)
        for index, (modality, feature) in enumerate(model.features.items()):
            self.register_buffer(f"feature_{modality}", feature)
            constant = normalised(nearest(feature, model.observed[:, index], self.knn_k))
            self.register_buffer(f"constant_{modality}", constant)
        self.propagate, self.project, self.logits = Weighted(), model.project, model.modality_logits
        self.user_embedding, self.item_embedding = model.user_embedding, model.item_embedding

    def _item_graph(self) -> Tensor:
        shares = self.logits.softmax(dim=0) * self.observed
        shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-12)
        constant = learned = 0.0
        for index, modality in enumerate(self.modalities):
            share = shares[:, [index]]
            table = self.project[modality](getattr(self, f"feature_{modality}"))
            constant = constant + share * getattr(self, f"constant_{modality}")
            learned = learned + share * nearest(table, self.observed[:, index], self.knn_k)
        return self.skip_weight * constant + (1 - self.skip_weight) * normalised(learned)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of users and items."""
        graph = self._item_graph()
        if self.training:
            if self.left == 0:
                self.kept, self.left = graph.detach(), self.steps_per_epoch
            self.left -= 1
        return self._with(graph)

    def _with(self, graph: Tensor) -> tuple[Tensor, Tensor]:
        content = F.normalize(graph @ self.item_embedding)
        source, target = self.edge_index
        degree = torch.bincount(target, minlength=self.n_users + self.n_items).float() + 1
        weight, own = 1 / degree[target], (1 / degree)[:, None]
        state = total = torch.cat([self.user_embedding, self.item_embedding])
        for _ in range(self.n_layers):
            state = self.propagate(state, self.edge_index, weight) + own * state
            total = total + state
        total = total / (self.n_layers + 1)
        return total[: self.n_users], total[self.n_users :] + content

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """BPR and regularisation."""
        user, positive, negative = (interaction[field] for field in self.fields)
        if self.left > 0:
            self.left -= 1
            users, items = self._with(self.kept)
        else:
            users, items = self.forward()
        gap = (users[user] * (items[negative] - items[positive])).sum(dim=1)
        squares = sum(x.square().sum() for x in (users[user], items[positive], items[negative]))
        return F.softplus(gap).mean(), self.reg_weight * squares / (2 * len(user))
