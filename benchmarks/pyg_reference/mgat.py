"""MGAT with PyG message passing."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import degree, softmax

from benchmarks.pyg_reference import both_directions


class GatedAttention(MessagePassing):
    """Neighbours weighted by the softmax of gated scores, the gate from the source's degree."""

    def __init__(self) -> None:
        super().__init__(aggr="add", node_dim=0)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Propagate ``x``."""
        # The degrees are counted inside every call, as in the released code.
        return self.propagate(edge_index, x=x, root=degree(edge_index[0], x.shape[0], x.dtype).rsqrt()[edge_index[0]])

    def message(self, x_i: Tensor, x_j: Tensor, root: Tensor, index: Tensor, size_i: int) -> Tensor:
        """Gate, weigh and send the source."""
        score = (x_i * F.leaky_relu(x_j)).sum(dim=1)
        alpha = softmax(score * torch.sigmoid(score * root), index, num_nodes=size_i)
        return alpha[:, None] * x_j


class MGAT(nn.Module):
    """Default options: one layer over all nodes per modality, inner gate by the source's degree."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.fields = (model.USER_ID, model.ITEM_ID, model.NEG_ITEM_ID)
        self.n_users, self.n_items = model.n_users, model.n_items
        self.modalities, self.attention = list(model.features), GatedAttention()
        self.register_buffer("edge_index", both_directions(*model.training_pairs, model.n_users))
        for modality, feature in model.features.items():
            self.register_buffer(f"feature_{modality}", feature)
        self.embedding = nn.Parameter(torch.cat([model.user_embedding, model.item_embedding]).detach())
        self.preference, self.project, self.layers = model.preference, model.project, model.layers

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of users and items."""
        states = []
        for modality in self.modalities:
            items = torch.tanh(self.project[modality](getattr(self, f"feature_{modality}")))
            x = F.normalize(torch.cat([self.preference[modality], items]))
            outputs = []
            for layers in self.layers:
                layer = layers[modality]
                received = F.normalize(self.attention(x @ layer.attention, self.edge_index) + layer.bias)
                own = F.leaky_relu(layer.own(x)) + self.embedding
                x = F.leaky_relu(layer.gate(F.leaky_relu(received)) + own)
                outputs.append(x)
            states.append(torch.cat(outputs, dim=1))
        return torch.stack(states).mean(dim=0).split([self.n_users, self.n_items])

    def calculate_loss(self, interaction: Any) -> Tensor:
        """The ranking loss."""
        user, positive, negative = (interaction[field] for field in self.fields)
        users, items = self.forward()
        return F.softplus((users[user] * (items[negative] - items[positive])).sum(dim=1)).mean()
