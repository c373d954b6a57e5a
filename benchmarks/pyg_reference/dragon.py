"""DRAGON with PyG message passing, all users' peers gathered and a dense item graph."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pyg_reference import both_directions
from benchmarks.pyg_reference.layers import Weighted, dense_items, symmetric_weights


class DRAGON(nn.Module):
    """Default options."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.fields = (model.USER_ID, model.ITEM_ID, model.NEG_ITEM_ID)
        self.n_users, self.n_items, self.reg_weight = model.n_users, model.n_items, model.reg_weight
        self.n_layers, self.modalities, self.propagate = model.n_layers, list(model.features), Weighted()
        self.register_buffer("edge_index", both_directions(*model.training_pairs, model.n_users))
        self.register_buffer("neighbours", model.neighbours)
        self.register_buffer("beta", model.beta.float())
        self.register_buffer("item_graph", dense_items(model.item_graph))
        for modality, feature in model.features.items():
            self.register_buffer(f"feature_{modality}", feature)
        self.preference, self.project, self.alpha = model.preference, model.project, model.alpha

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of users and items."""
        users, items = [], []
        for index, modality in enumerate(self.modalities):
            x = self.project[modality](getattr(self, f"feature_{modality}"))
            state = total = F.normalize(torch.cat([self.preference[modality], x]))
            for _ in range(self.n_layers):
                weight = symmetric_weights(self.edge_index, self.n_users + self.n_items)
                state = self.propagate(state, self.edge_index, weight)
                total = total + state
            users.append(self.alpha[:, index : index + 1] * total[: self.n_users])
            items.append(total[self.n_users :])
        user, item = torch.cat(users, dim=1), torch.cat(items, dim=1)
        peers = torch.matmul(self.beta.unsqueeze(1), user[self.neighbours]).squeeze(1)
        return user + peers, item + self.item_graph @ item

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """BPR and regularisation."""
        user, positive, negative = (interaction[field] for field in self.fields)
        users, items = self.forward()
        gap = (users[user] * (items[negative] - items[positive])).sum(dim=1)
        penalty = sum(self.preference[m][user].square().mean() for m in self.modalities)
        penalty = penalty + self.alpha[1:].square().mean()
        return F.softplus(gap).mean() / math.log(2), self.reg_weight * penalty
