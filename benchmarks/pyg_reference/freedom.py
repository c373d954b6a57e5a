"""FREEDOM with PyG message passing, an item graph in COO format and a projection of all items."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pyg_reference import both_directions
from benchmarks.pyg_reference.layers import Weighted, symmetric_weights


class FREEDOM(nn.Module):
    """The released layout; the edges of the first epoch are those that the model draws."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.fields = (model.USER_ID, model.ITEM_ID, model.NEG_ITEM_ID)
        self.n_users, self.n_items = model.n_users, model.n_items
        self.n_layers, self.n_item_layers = model.n_layers, model.n_item_layers
        self.feature_weight, self.modalities = model.feature_weight, list(model.features)
        model.prune(0)
        kept = (model.pruned or model.graph).to_user
        self.register_buffer("edge_index", both_directions(*model.training_pairs, model.n_users))
        self.register_buffer("kept_index", both_directions(kept.row, kept.col, model.n_users))
        pattern, values = model.item_graph.pattern, model.item_graph.values.float()
        graph = torch.sparse_coo_tensor(torch.stack([pattern.row, pattern.col]), values, (self.n_items, self.n_items))
        self.register_buffer("item_graph", graph.coalesce())
        for modality, feature in model.features.items():
            self.register_buffer(f"feature_{modality}", feature)
            self.register_buffer(f"observed_{modality}", model.features.observed[modality])
        self.propagate, self.project = Weighted(), model.project
        self.user_embedding, self.item_embedding = model.user_embedding, model.item_embedding

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of users and items."""
        edges = self.kept_index if self.training else self.edge_index
        weight = symmetric_weights(edges, self.n_users + self.n_items)
        state = total = torch.cat([self.user_embedding, self.item_embedding])
        for _ in range(self.n_layers):
            state = self.propagate(state, edges, weight)
            total = total + state
        total, content = total / (self.n_layers + 1), self.item_embedding
        for _ in range(self.n_item_layers):
            content = torch.sparse.mm(self.item_graph, content)
        return total[: self.n_users], total[self.n_users :] + content

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """BPR and BPR of the projected features."""
        user, positive, negative = (interaction[field] for field in self.fields)
        users, items = self.forward()
        term = users.new_zeros(())
        for modality in self.modalities:
            table = self.project[modality](getattr(self, f"feature_{modality}"))
            gap = (users[user] * (table[negative] - table[positive])).sum(dim=1)
            there = getattr(self, f"observed_{modality}")
            both = there[positive] & there[negative]
            term = term + (F.softplus(gap) * both).sum() / both.sum().clamp(min=1)
        gap = (users[user] * (items[negative] - items[positive])).sum(dim=1)
        return F.softplus(gap).mean(), self.feature_weight * term
