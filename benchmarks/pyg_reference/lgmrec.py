"""LGMRec with PyG message passing and whole matrices of scores in its contrast."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pyg_reference.layers import LightGCN, Weighted


class LGMRec(nn.Module):
    """Default options, two modalities; noise and dropout in the order of the model, so that losses are equal."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.fields = (model.USER_ID, model.ITEM_ID, model.NEG_ITEM_ID)
        self.model_options = {
            "hops": model.n_modality_layers,
            "t": model.hyperedge_temperature,
            "alpha": model.global_weight,
            "drop": model.dropout,
            "weights": (model.reg_weight, model.contrastive_weight),
            "tau": model.contrastive_temperature,
        }
        self.encode, self.add, self.modalities = LightGCN(model), Weighted(), list(model.features)
        self.register_buffer("degree", model.graph.user_degree.clamp(min=1))
        for modality, feature in model.features.items():
            self.register_buffer(f"feature_{modality}", feature)
        self.project, self.membership = model.project, model.membership

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of users and items."""
        return self._encode()[:2]

    def _encode(self) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        o, (users, items), n_users = self.model_options, self.encode(), self.encode.n_users
        local, whole, hyper = torch.cat([users, items]), 0.0, []
        ones = torch.ones_like(self.encode.weight())
        for modality in self.modalities:
            feature = getattr(self, f"feature_{modality}")
            x, logits = self.project[modality](feature), self.membership[modality](feature)
            sums = self.add(F.pad(x, (0, 0, n_users, 0)), self.encode.edge_index, ones)[:n_users]
            state = torch.cat([sums / self.degree[:, None], x])
            for _ in range(o["hops"]):
                state = self.add(state, self.encode.edge_index, self.encode.weight())
            local = local + F.normalize(state)
            of_users = self.add(F.pad(logits, (0, 0, n_users, 0)), self.encode.edge_index, ones)[:n_users]
            rows = [self._member(table) for table in (of_users, logits)]
            edges = rows[1].T @ items
            hyper.append((rows[0] @ edges, rows[1] @ edges))
            whole = whole + torch.cat(hyper[-1])
        table = local + o["alpha"] * F.normalize(whole)
        return table[:n_users], table[n_users:], hyper

    def _member(self, logits: Tensor) -> Tensor:
        if self.training:
            logits = logits - torch.empty_like(logits).exponential_().log()
        rows = (logits / self.model_options["t"]).softmax(dim=1)
        return F.dropout(F.pad(rows[1:], (0, 0, 1, 0)), self.model_options["drop"], self.training)

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """BPR, penalty and contrast."""
        user, positive, negative = (interaction[field] for field in self.fields)
        users, items, hyper = self._encode()
        rows = users[user], items[positive], items[negative]
        gap = (rows[0] * (rows[2] - rows[1])).sum(dim=1)
        contrast = gap.new_zeros(())
        for side, ids in enumerate((user, positive)):
            left, right = F.normalize(hyper[0][side][ids]), F.normalize(hyper[1][side])
            logits = (left @ right.T / self.model_options["tau"])[:, 1:]  # the padding row is no candidate
            contrast = contrast + F.cross_entropy(logits, ids - 1, reduction="sum")
        penalty = sum(table.norm() for table in rows) / len(user)
        weights = self.model_options["weights"]
        return F.softplus(gap).mean(), weights[0] * penalty, weights[1] * contrast
