"""MMGCN with PyG message passing."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from benchmarks.pyg_reference import both_directions
from recbole_mm.nn.loss import l2_penalty


class Mean(MessagePassing):
    """Mean over the neighbours of every node."""

    def __init__(self) -> None:
        super().__init__(aggr="mean")

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Propagate ``x``."""
        return self.propagate(edge_index, x=x)

    def message(self, x_j: Tensor) -> Tensor:
        """Send the source as it is."""
        return x_j


class MMGCN(nn.Module):
    """The released layout: per modality a graph network over all nodes, in every layer and step."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.fields = (model.USER_ID, model.ITEM_ID, model.NEG_ITEM_ID)
        self.n_users, self.n_items, self.reg_weight = model.n_users, model.n_items, model.reg_weight
        self.modalities, self.scale = (
            list(model.features.keys()),
            F.normalize if model.normalize_tables else nn.Identity(),
        )
        self.mean, self.activation = Mean(), nn.LeakyReLU(model.negative_slope)
        self.register_buffer("edge_index", both_directions(*model.training_pairs, model.n_users))
        for modality, feature in model.features.items():
            self.register_buffer(f"feature_{modality}", feature)
        trainable = model.user_embedding.requires_grad
        embedding = torch.cat([model.user_embedding, model.item_embedding]).detach()
        self.embedding = nn.Parameter(embedding, requires_grad=trainable)
        self.preference, self.project, self.layers = model.preference, model.project, model.layers

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of users and items."""
        states = []
        for modality in self.modalities:
            items = self.project[modality](getattr(self, f"feature_{modality}"))
            x = torch.cat([self.scale(self.preference[modality]), F.normalize(items)])
            for layer in self.layers:
                x = self._layer(layer[modality], x)
            states.append(x)
        return torch.stack(states).mean(dim=0).split([self.n_users, self.n_items])

    def _layer(self, layer: Any, x: Tensor) -> Tensor:
        message = self.activation(self.mean(x @ layer.convolve, self.edge_index))
        own = self.activation(layer.own(x)) + self.embedding
        if layer.concat:
            return self.activation(layer.gate(torch.cat([message, own], dim=1)))
        return self.activation(layer.gate(message) + own)

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """BPR and regularisation."""
        user, positive, negative = (interaction[field] for field in self.fields)
        users, items = self.forward()
        gap = (users[user] * (items[negative] - items[positive])).sum(dim=1)
        item = torch.cat([positive, negative]) + self.n_users
        embeddings = l2_penalty(self.embedding[user], self.embedding[item])
        preferences = sum(l2_penalty(self.preference[m][user]) for m in self.modalities) / len(self.modalities)
        return F.softplus(gap).mean(), self.reg_weight * (embeddings + preferences)
