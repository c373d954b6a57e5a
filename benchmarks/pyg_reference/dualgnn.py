"""DualGNN with PyG message passing and a gathered table of neighbours."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pyg_reference import both_directions
from benchmarks.pyg_reference.layers import Weighted, symmetric_weights
from recbole_mm.nn.loss import l2_penalty


class DualGNN(nn.Module):
    """The released layout with its default options: a propagation per modality, then all users' neighbours gathered."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.fields = (model.USER_ID, model.ITEM_ID, model.NEG_ITEM_ID)
        self.n_users, self.n_items, self.reg_weight = model.n_users, model.n_items, model.reg_weight
        self.n_layers, self.modalities = model.n_layers, list(model.features)
        self.scale = F.normalize if model.normalize_tables else nn.Identity()
        self.propagate = Weighted()
        self.register_buffer("edge_index", both_directions(*model.training_pairs, model.n_users))
        self.register_buffer("neighbours", model.neighbours)
        self.register_buffer("beta", model.beta.float())
        for modality, feature in model.features.items():
            self.register_buffer(f"feature_{modality}", feature)
        self.preference, self.project, self.alpha = model.preference, model.project, model.alpha

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of users and items."""
        branches = []
        for modality in self.modalities:
            items = self.project[modality](getattr(self, f"feature_{modality}"))
            state = total = torch.cat([self.scale(self.preference[modality]), F.normalize(items)])
            for _ in range(self.n_layers):
                # The degrees are counted inside every call, as in the released code.
                weight = symmetric_weights(self.edge_index, self.n_users + self.n_items)
                state = self.propagate(state, self.edge_index, weight)
                total = total + state
            branches.append(total)
        items = sum(branch[self.n_users :] for branch in branches)
        states = torch.stack([branch[: self.n_users] for branch in branches], dim=1)
        users = (self.alpha.unsqueeze(2) * states).sum(dim=1)
        peers = torch.matmul(self.beta.unsqueeze(1), users[self.neighbours]).squeeze(1)
        return users + peers, items

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """BPR and regularisation."""
        user, positive, negative = (interaction[field] for field in self.fields)
        users, items = self.forward()
        gap = (users[user] * (items[negative] - items[positive])).sum(dim=1)
        penalty = l2_penalty(*(self.preference[m][user] for m in self.modalities), self.alpha[user])
        return F.softplus(gap).mean() / math.log(2), self.reg_weight * penalty
