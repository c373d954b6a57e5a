"""Message passing layers that several references share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import degree


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
