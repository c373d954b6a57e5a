"""SMORE with PyG message passing and dense item graphs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pyg_reference.layers import LightGCN, dense_items


class SMORE(nn.Module):
    """Default options, every item with every modality: gates and fusion of all nodes in every step."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.fields = (model.USER_ID, model.ITEM_ID, model.NEG_ITEM_ID)
        self.encode, self.modalities, self.views = LightGCN(model), list(model.features), list(model.gate)
        self.weights, self.tau = (model.reg_weight, model.contrastive_weight), model.contrastive_temperature
        for index, view in enumerate(self.views):
            self.register_buffer(f"graph_{index}", dense_items(model.item_graphs[view]))
        for modality, feature in model.features.items():
            self.register_buffer(f"feature_{modality}", feature)
        self.project, self.filter, self.gate = model.project, model.filter, model.gate
        self.preference_gate, self.query = model.preference_gate, model.query

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of users and items."""
        behaviour, side = self._encode()
        total = behaviour + side
        return total[: self.encode.n_users], total[self.encode.n_users :]

    def _encode(self) -> tuple[Tensor, Tensor]:
        n_users, ids = self.encode.n_users, self.encode.items
        spectra = [
            torch.fft.rfft(self.project[m](getattr(self, f"feature_{m}")), dim=1, norm="ortho") for m in self.modalities
        ]
        product = spectra[0]
        for spectrum in spectra[1:]:
            product = product * spectrum
        states, weight = [], self.encode.weight()
        for index, (view, spectrum) in enumerate(zip(self.views, [*spectra, product])):
            filtered = spectrum * torch.view_as_complex(self.filter[view])
            gate = self.gate[view](torch.fft.irfft(filtered, n=ids.shape[1], dim=1, norm="ortho")).sigmoid()
            items = getattr(self, f"graph_{index}") @ (ids * gate)
            hop = self.encode.add(F.pad(items, (0, 0, n_users, 0)), self.encode.edge_index, weight)
            states.append(torch.cat([hop[:n_users], items]))
        *own, fused = states
        behaviour = torch.cat(self.encode())
        total = self.preference_gate[self.views[-1]](behaviour).sigmoid() * fused
        for modality, state in zip(self.modalities, own):
            share = self.query[modality](fused).softmax(dim=1)
            total = total + share * self.preference_gate[modality](behaviour).sigmoid() * state
        return behaviour, total / (1 + len(own))

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """BPR, penalty and contrast."""
        user, positive, negative = (interaction[field] for field in self.fields)
        behaviour, side = self._encode()
        table, n_users = behaviour + side, self.encode.n_users
        rows = table[user], table[n_users + positive], table[n_users + negative]
        gap = (rows[0] * (rows[2] - rows[1])).sum(dim=1)
        contrast = gap.new_zeros(())
        for ids in (n_users + positive, user):
            distinct = ids.unique()
            logits = F.normalize(side[distinct]) @ F.normalize(behaviour[distinct]).T / self.tau
            contrast = contrast + F.cross_entropy(logits, torch.arange(len(distinct), device=ids.device))
        penalty = sum(x.square().sum() for x in rows) / (2 * len(user))
        # The contrast counts in proportion to the lengths of representations until these are 1.
        lengths = rows[0].detach().norm(dim=1).mean() * rows[1].detach().norm(dim=1).mean()
        weight = self.weights[1] * lengths.clamp(max=1)
        return F.softplus(gap).mean(), self.weights[0] * penalty, weight * contrast
