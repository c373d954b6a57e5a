"""MMGCL with one PyG LightGCN per branch and view: 27 propagations a step with two modalities and three layers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pyg_reference import both_directions
from benchmarks.pyg_reference.layers import Weighted, symmetric_weights
from recbole_mm.nn.graph.branches import drop_edges


class MMGCL(nn.Module):
    """Default options; random numbers are drawn in the same order as in the model, so that losses are equal."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.fields = (model.USER_ID, model.ITEM_ID, model.NEG_ITEM_ID)
        self.n_users, self.n_items, self.n_layers = model.n_users, model.n_items, model.n_layers
        self.weight, self.tau, self.dropout = (
            model.contrastive_weight,
            model.contrastive_temperature,
            model.edge_dropout,
        )
        self.modalities, self.draw, self.graph = list(model.features), model._draw_branch, model.graph
        self.propagate = Weighted()
        self.register_buffer("edge_index", both_directions(*model.training_pairs, model.n_users))
        for modality, feature in model.features.items():
            self.register_buffer(f"feature_{modality}", feature)
        self.user_embedding, self.item_embedding = model.user_embedding, model.item_embedding
        self.project, self.read_users, self.read_items = model.project, model.read_users, model.read_items

    def forward(self) -> tuple[Tensor, Tensor]:
        """Readouts of users and items."""
        return self._read(self._encode(self._tables(), None))

    def _tables(self) -> list[Tensor]:
        return [self.item_embedding, *(self.project[m](getattr(self, f"feature_{m}")) for m in self.modalities)]

    def _encode(self, tables: list[Tensor], kept: Tensor | None) -> list[Tensor]:
        kept = None if kept is None else torch.cat([kept, kept])
        weight = symmetric_weights(self.edge_index, self.n_users + self.n_items, kept)
        branches = []
        for table in tables:
            state = total = torch.cat([self.user_embedding, table])
            for _ in range(self.n_layers):
                state = self.propagate(state, self.edge_index, weight)
                total = total + state
            branches.append(total / (self.n_layers + 1))
        return branches

    def _read(self, branches: list[Tensor]) -> tuple[Tensor, Tensor]:
        users, items = torch.cat(branches, dim=1).split([self.n_users, self.n_items])
        return self.read_users(users), self.read_items(items)

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """BPR and the contrastive loss."""
        user, positive, negative = (interaction[field] for field in self.fields)
        tables = self._tables()
        users, items = self._read(self._encode(tables, None))
        gap = (users[user] * (items[negative] - items[positive])).sum(dim=1)
        kept = drop_edges(self.graph, self.dropout)
        in_a = self._encode(tables, kept)
        branch = self.draw()
        noise = torch.randn_like(tables[branch]) * tables[branch].detach().std()
        in_b = self._encode([noise if index == branch else table for index, table in enumerate(tables)], None)
        (users_a, items_a), (users_b, items_b) = self._read(in_a), self._read(in_b)
        swapped = self.draw()
        positives = [b[self.n_users + positive] for b in in_a]
        positives[swapped] = in_a[swapped][self.n_users + negative]
        challenge = self.read_items(torch.cat(positives, dim=1))
        rows = _first(user), _first(positive)
        contrast = self._contrast(users_a[user][rows[0]], users_b[user][rows[0]], None)
        contrast = contrast + self._contrast(items_a[positive][rows[1]], items_b[positive][rows[1]], challenge[rows[1]])
        # The contrast counts in proportion to the lengths of the read-outs until these are 1.
        lengths = users[user].detach().norm(dim=1).mean() * items[positive].detach().norm(dim=1).mean()
        return F.softplus(gap).mean(), self.weight * lengths.clamp(max=1) * contrast

    def _contrast(self, left: Tensor, right: Tensor, extra: Tensor | None) -> Tensor:
        left, right = F.normalize(left), F.normalize(right)
        logits = left @ right.T / self.tau
        if extra is not None:
            logits = torch.cat([logits, (left * F.normalize(extra)).sum(dim=1, keepdim=True) / self.tau], dim=1)
        return F.cross_entropy(logits, torch.arange(len(left), device=left.device))


def _first(ids: Tensor) -> Tensor:
    """Positions of the first of equal ids."""
    unique, place = torch.unique(ids, return_inverse=True)
    positions = torch.full_like(unique, len(ids))
    return positions.scatter_reduce(0, place, torch.arange(len(ids), device=ids.device), "amin").sort().values
