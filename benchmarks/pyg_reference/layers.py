"""Message passing layers that several references share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import degree

from benchmarks.pyg_reference import both_directions


class Weighted(MessagePassing):
    """Sum of neighbours with one weight per edge."""

    def __init__(self) -> None:
        super().__init__(aggr="add")

    def forward(self, x: Tensor, edge_index: Tensor, weight: Tensor) -> Tensor:
        """Propagate ``x``."""
        return self.propagate(edge_index, x=x, weight=weight)

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        """Scale the source."""
        return weight[:, None] * x_j


def symmetric_weights(edge_index: Tensor, n_nodes: int, kept: Tensor | None = None) -> Tensor:
    """``d^-1/2 d^-1/2`` of every edge; edges that are not kept weigh 0 and do not count in the degrees."""
    row, col = edge_index
    if kept is None:
        root = degree(col, n_nodes).clamp(min=1).rsqrt()
        return root[row] * root[col]
    total = torch.zeros(n_nodes, device=kept.device).index_add(0, col, kept)
    root = total.clamp(min=1).rsqrt()
    return kept * root[row] * root[col]


class LightGCN(nn.Module):
    """LightGCN of a model's id tables, or of another item table, with the users on top of the items."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.users, self.items = model.user_embedding, model.item_embedding
        self.n_users, self.n_nodes, self.n_layers = model.n_users, model.n_users + model.n_items, model.n_layers
        self.add = Weighted()
        self.register_buffer("edge_index", both_directions(*model.training_pairs, model.n_users))

    def weight(self) -> Tensor:
        """Weights of the edges; the degrees are counted at every call, as in released code."""
        return symmetric_weights(self.edge_index, self.n_nodes)

    def forward(self, items: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean over the layers, users and items."""
        state = total = torch.cat([self.users, self.items if items is None else items])
        weight = self.weight()
        for _ in range(self.n_layers):
            state = self.add(state, self.edge_index, weight)
            total = total + state
        total = total / (self.n_layers + 1)
        return total[: self.n_users], total[self.n_users :]


def dense_items(graph: Any) -> Tensor:
    """The item graph of a model as the dense matrix that released code multiplies by. Shape ``(n_items, n_items)``."""
    matrix = torch.zeros(graph.pattern.n_rows, graph.pattern.n_cols, device=graph.values.device)
    matrix[graph.pattern.row, graph.pattern.col] = graph.values.float()
    return matrix
