"""The operators of the speed benchmark, each as ours and as PyG message passing over one edge index."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import softmax

from benchmarks.pyg_reference import both_directions
from benchmarks.pyg_reference.layers import Weighted
from benchmarks.pyg_reference.mmgcn import Mean
from recbole_mm.nn.graph.bipartite import BipartiteGraph, attend, sddmm, spmm

Operator = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Attention(MessagePassing):
    """Sum of neighbours weighted by the softmax of their inner products with the node."""

    def __init__(self) -> None:
        super().__init__(aggr="add", node_dim=0)

    def forward(self, x: Tensor, edge_index: Tensor, weight: Tensor) -> Tensor:
        """Propagate ``x``; there is no use for weights."""
        return self.propagate(edge_index, x=x)

    def message(self, x_i: Tensor, x_j: Tensor, index: Tensor, size_i: int) -> Tensor:
        """Weigh the source."""
        return softmax((x_i * x_j).sum(dim=1), index, num_nodes=size_i)[:, None] * x_j


def operator(name: str, implementation: str, users: Tensor, items: Tensor, n_users: int, n_items: int) -> Operator:
    """The function ``(user table, item table, weights of the pairs) -> (new users, new items)``.

    ``mean`` averages neighbours, ``attention`` weighs them by the softmax of inner products, and ``learned`` by the
    given weights, which get gradients. ``coo`` does the latter with ``torch.sparse.mm`` on a COO tensor.
    """
    if implementation == "ours":
        return _ours(name, BipartiteGraph(users, items, n_users, n_items))
    edge_index, sizes = both_directions(users, items, n_users), [n_users, n_items]
    if implementation == "coo":
        if name != "learned":
            raise ValueError(f"coo is there for 'learned' only, got {name!r}")

        def coo(user: Tensor, item: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
            matrix = torch.sparse_coo_tensor(edge_index.flip(0), torch.cat([weight, weight]), (sum(sizes), sum(sizes)))
            return torch.sparse.mm(matrix, torch.cat([user, item])).split(sizes)

        return coo
    layer = {"mean": Mean, "attention": Attention, "learned": Weighted}[name]()

    def pyg(user: Tensor, item: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        nodes = torch.cat([user, item])
        extra = () if name == "mean" else (torch.cat([weight, weight]),)
        return layer(nodes, edge_index, *extra).split(sizes)

    return pyg


def _ours(name: str, graph: BipartiteGraph) -> Operator:
    order = graph.to_user.transpose_order

    def mean(user: Tensor, item: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return graph.propagate(user, item, norm="row")

    def attention(user: Tensor, item: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        logits = sddmm(graph.to_user, user, item)  # the inner product is the same in both directions
        return attend(graph.to_user, logits, item)[0], attend(graph.to_item, logits.index_select(0, order), user)[0]

    def learned(user: Tensor, item: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return spmm(graph.to_user, weight, item), spmm(graph.to_item, weight.index_select(0, order), user)

    return {"mean": mean, "attention": attention, "learned": learned}[name]
