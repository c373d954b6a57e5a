"""SLMRec (task FAC) with one PyG LightGCN per branch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pyg_reference.layers import LightGCN


class SLMRec(nn.Module):
    """Default options."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.fields = (model.USER_ID, model.ITEM_ID)
        self.tau, self.tau_ssl = model.temperature, model.contrastive_temperature
        self.weight, self.encode, self.modalities = model.contrastive_weight, LightGCN(model), list(model.features)
        for modality, feature in model.features.items():
            self.register_buffer(f"feature_{modality}", feature)
        self.project, self.read_users, self.read_items = model.project, model.read_users, model.read_items
        self.joint, self.own = model.joint, model.own
        pairs = torch.bincount(model.training_pairs[1], minlength=model.n_items).clamp(min=1)
        self.register_buffer("popularity", model.popularity_correction * pairs.log())

    def _branches(self) -> list[tuple[Tensor, Tensor]]:
        # The padding row has no modality: its input is 0, not the bias.
        tables = [F.pad(self.project[m](getattr(self, f"feature_{m}"))[1:], (0, 0, 1, 0)) for m in self.modalities]
        return [self.encode(table) for table in (self.encode.items, *tables)]

    def forward(self) -> tuple[Tensor, Tensor]:
        """Read-outs of users and items."""
        return self._read(self._branches())

    def _read(self, branches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        users, items = (torch.cat(tables, dim=1) for tables in zip(*branches))
        return self.read_users(users), self.read_items(items)

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """The in-batch softmax and the chain."""
        user, item = (interaction[field] for field in self.fields)
        branches = self._branches()
        users, items = self._read(branches)
        logits = F.normalize(users[user]) @ F.normalize(items[item]).T / self.tau - self.popularity[item]
        place = torch.arange(len(item), device=item.device)
        copies = (item[:, None] == item) & (place[:, None] != place)
        main = F.cross_entropy(logits.masked_fill(copies, float("-inf")), place)
        distinct = item.unique()
        joint, chain = branches[0][1][distinct], main.new_zeros(())
        for modality, (_, states) in zip(self.modalities, branches[1:]):
            joint, own = self.joint[modality](joint), self.own[modality](states[distinct])
            logits = joint @ own.T / self.tau_ssl
            chain = chain + F.cross_entropy(logits, torch.arange(len(distinct), device=item.device))
        return main, self.weight * chain
