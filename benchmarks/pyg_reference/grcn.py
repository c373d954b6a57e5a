"""GRCN with PyG message passing."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import degree, softmax

from benchmarks.pyg_reference import both_directions
from benchmarks.pyg_reference.layers import Weighted
from recbole_mm.nn.loss import l2_penalty


class Attention(MessagePassing):
    """Neighbours weighted by the softmax of inner products; keeps the weights, as the released layer does."""

    def __init__(self) -> None:
        super().__init__(aggr="add", node_dim=0)
        self.alpha: Tensor | None = None

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        """Propagate ``x``; also returns the weight of every edge."""
        out = self.propagate(edge_index, x=x)
        alpha, self.alpha = self.alpha, None
        return out, alpha

    def message(self, x_i: Tensor, x_j: Tensor, index: Tensor, size_i: int) -> Tensor:
        """Weigh the source."""
        self.alpha = softmax((x_i * x_j).sum(dim=1), index, num_nodes=size_i)
        return self.alpha[:, None] * x_j


class GRCN(nn.Module):
    """Default options: routing towards users, confidence, soft pruning, messages as in LightGCN, concatenation."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.fields = (model.USER_ID, model.ITEM_ID, model.NEG_ITEM_ID)
        self.n_users, self.n_items, self.reg_weight = model.n_users, model.n_items, model.reg_weight
        self.n_routings, self.n_layers, self.modalities = model.n_routings, model.n_layers, list(model.features)
        self.attention, self.propagate = Attention(), Weighted()
        self.scale = F.normalize if model.normalize_tables else nn.Identity()
        users, items = model.training_pairs
        self.register_buffer("to_users", torch.stack([items + model.n_users, users]))
        self.register_buffer("edge_index", both_directions(users, items, model.n_users))
        for modality, feature in model.features.items():
            self.register_buffer(f"feature_{modality}", feature)
        self.preference, self.project = model.preference, model.project
        self.embedding, self.confidence = model.embedding, model.confidence

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of users and items."""
        parts, weights = [], []
        for modality in self.modalities:
            items = F.normalize(F.leaky_relu(self.project[modality](getattr(self, f"feature_{modality}"))))
            users = self.scale(self.preference[modality])
            for _ in range(self.n_routings):
                received, _ = self.attention(torch.cat([users, items]), self.to_users)
                users = F.normalize(users + received[: self.n_users])
            nodes = torch.cat([users, items])
            received, alpha = self.attention(nodes, self.edge_index)
            parts.append(nodes + received)
            weights.append(alpha)
        weight = (torch.stack(weights, dim=1) * self.confidence[self.edge_index[0]]).max(dim=1).values
        degrees = degree(self.edge_index[1], self.n_users + self.n_items)
        weight = weight * (degrees[self.edge_index[1]] / degrees[self.edge_index[0]]).sqrt()
        state = total = self.scale(self.embedding)
        for _ in range(self.n_layers):
            state = self.propagate(state, self.edge_index, weight)
            total = total + state
        return torch.cat([total, *parts], dim=1).split([self.n_users, self.n_items])

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """BPR and regularisation."""
        user, positive, negative = (interaction[field] for field in self.fields)
        users, items = self.forward()
        gap = (users[user] * (items[negative] - items[positive])).sum(dim=1)
        item = torch.cat([positive, negative]) + self.n_users
        tables = [self.embedding, *(self.preference[m] for m in self.modalities)]
        penalty = l2_penalty(*(table[user] for table in tables), self.embedding[item])
        return F.softplus(gap).mean(), self.reg_weight * penalty
