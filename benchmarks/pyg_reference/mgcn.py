"""MGCN with PyG message passing and item graphs in COO format, for all users and items in every step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pyg_reference import both_directions
from benchmarks.pyg_reference.layers import Weighted, symmetric_weights


class MGCN(nn.Module):
    """The released layout with its default options; repeated ids of a batch count once, as in ours."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.fields = (model.USER_ID, model.ITEM_ID, model.NEG_ITEM_ID)
        self.n_users, self.n_items, self.n_layers = model.n_users, model.n_items, model.n_layers
        self.reg_weight, self.modalities = model.reg_weight, list(model.features)
        self.contrastive = (model.contrastive_weight, model.contrastive_temperature)
        self.register_buffer("edge_index", both_directions(*model.training_pairs, model.n_users))
        self.register_buffer("present", torch.cat([model.user_observed, model.item_observed]))
        for modality, feature in model.features.items():
            pattern, values = model.item_graphs[modality].pattern, model.item_graphs[modality].values.float()
            index = torch.stack([pattern.row, pattern.col])
            graph = torch.sparse_coo_tensor(index, values, (self.n_items, self.n_items)).coalesce()
            self.register_buffer(f"graph_{modality}", graph)
            self.register_buffer(f"feature_{modality}", feature)
        self.propagate, self.project, self.query = Weighted(), model.project, model.query
        self.gate, self.preference_gate = model.gate, model.preference_gate
        self.user_embedding, self.item_embedding = model.user_embedding, model.item_embedding

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of users and items."""
        behaviour, side = self._views()
        both = behaviour + side
        return both[: self.n_users], both[self.n_users :]

    def _views(self) -> tuple[Tensor, Tensor]:
        weight = symmetric_weights(self.edge_index, self.n_users + self.n_items)
        state = total = torch.cat([self.user_embedding, self.item_embedding])
        for _ in range(self.n_layers):
            state = self.propagate(state, self.edge_index, weight)
            total = total + state
        behaviour, views = total / (self.n_layers + 1), []
        for index, modality in enumerate(self.modalities):
            gate = self.gate[modality](self.project[modality](getattr(self, f"feature_{modality}"))).sigmoid()
            items = self.item_embedding * gate * self.present[self.n_users :, [index]]
            items = torch.sparse.mm(getattr(self, f"graph_{modality}"), items)
            nodes = torch.cat([torch.zeros_like(self.user_embedding), items])
            users = self.propagate(nodes, self.edge_index, weight)[: self.n_users]
            views.append(torch.cat([users, items]))
        logits = torch.cat([self.query(view) for view in views], dim=1).masked_fill(~self.present, -1e30)
        attention = logits.softmax(dim=1) * self.present
        common = sum(attention[:, [x]] * view for x, view in enumerate(views))
        own = sum(
            self.present[:, [x]] * self.preference_gate[m](behaviour).sigmoid() * (views[x] - common)
            for x, m in enumerate(self.modalities)
        )
        return behaviour, (common + own) / (1 + self.present.sum(dim=1, keepdim=True))

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """BPR, regularisation and contrast."""
        user, positive, negative = (interaction[field] for field in self.fields)
        behaviour, side = self._views()
        both = behaviour + side
        rows = both[user], both[positive + self.n_users], both[negative + self.n_users]
        gap = (rows[0] * (rows[2] - rows[1])).sum(dim=1)
        penalty = sum(row.square().sum() for row in rows) / (2 * len(user))
        contrast = self._contrast(side, behaviour, (positive + self.n_users).unique())
        contrast = contrast + self._contrast(side, behaviour, user.unique())
        # The contrast counts in proportion to the lengths of representations until these are 1.
        lengths = rows[0].detach().norm(dim=1).mean() * rows[1].detach().norm(dim=1).mean()
        weight = self.contrastive[0] * lengths.clamp(max=1)
        return F.softplus(gap).mean(), self.reg_weight * penalty, weight * contrast

    def _contrast(self, side: Tensor, behaviour: Tensor, ids: Tensor) -> Tensor:
        scores = F.normalize(side[ids]) @ F.normalize(behaviour[ids]).T / self.contrastive[1]
        return F.cross_entropy(scores, torch.arange(len(ids), device=ids.device))
