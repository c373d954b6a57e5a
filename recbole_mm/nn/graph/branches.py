"""LightGCN over several item inputs that share one user table."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_mm.nn.graph.bipartite import BipartiteGraph, spmm

__all__ = ["Encoding", "drop_edges", "drop_nodes", "encode_branches"]


class Encoding(NamedTuple):
    """Encoded users or items of several branches, as a part that all branches share and a part of each.

    Attributes:
        shared: Shape ``(n, dim)``.
        own: The branches side by side. Shape ``(n, n_branches * dim)``.
    """

    shared: Tensor
    own: Tensor

    def rows(self, ids: Tensor | None = None) -> Tensor:
        """Encodings of the given rows (all if ``None``), ``(n_ids, n_branches, dim)``."""
        shared, own = self.shared, self.own
        if ids is not None:
            shared, own = F.embedding(ids, shared), F.embedding(ids, own)
        return own.view(own.shape[0], -1, shared.shape[1]) + shared.unsqueeze(1)


def encode_branches(
    graph: BipartiteGraph, values: Tensor, users: Tensor, items: Tensor, n_layers: int
) -> tuple[Encoding, Encoding]:
    r"""LightGCN of every branch :math:`b`: the mean over :math:`l = 0 \dots L` of :math:`S^l [E_U; X_b]`.

    The graph has two sides and all branches start from the same users. So users at even layers and items at odd layers
    depend on :math:`E_U` alone: they are propagated once, at width ``dim``, and not once a branch. Exact.

    Args:
        graph: The training pairs.
        values: Weight of each pair in ``graph.to_user`` order, for both directions. Shape ``(n_edges,)``.
        users: :math:`E_U`. Shape ``(n_users, dim)``.
        items: The branches' item inputs :math:`X_b` side by side. Shape ``(n_items, n_branches * dim)``.
        n_layers: :math:`L`.

    Returns:
        Encodings of the users and of the items.

    Example:
        >>> graph = BipartiteGraph(torch.tensor([0]), torch.tensor([0]), n_users=1, n_items=1)
        >>> encoded = encode_branches(graph, torch.ones(1), torch.tensor([[1.0]]), torch.tensor([[3.0, 5.0]]), 1)
        >>> encoded[0].rows().tolist()
        [[[2.0], [3.0]]]
    """
    reversed_values = values.index_select(0, graph.to_user.transpose_order)

    def to_users(table: Tensor) -> Tensor:
        return spmm(graph.to_user, values, table, reversed_values)

    def to_items(table: Tensor) -> Tensor:
        return spmm(graph.to_item, reversed_values, table, values)

    user_shared, item_own = users, items
    user_own = items.new_zeros(users.shape[0], items.shape[1])
    item_shared = users.new_zeros(items.shape[0], users.shape[1])
    shared, own = users, items
    for layer in range(1, n_layers + 1):
        if layer % 2:
            shared, own = to_items(shared), to_users(own)
            item_shared, user_own = item_shared + shared, user_own + own
        else:
            shared, own = to_users(shared), to_items(own)
            user_shared, item_own = user_shared + shared, item_own + own
    scale = 1.0 / (n_layers + 1)
    return Encoding(user_shared * scale, user_own * scale), Encoding(item_shared * scale, item_own * scale)


def drop_edges(graph: BipartiteGraph, share: float) -> Tensor:
    r"""Mask that keeps exactly :math:`\lfloor (1 - \rho) E \rfloor` edges, drawn uniformly on the graph's device.

    Args:
        graph: The training pairs.
        share: :math:`\rho`, the share of the edges to drop.

    Returns:
        1 for kept edges and 0 for dropped ones, in ``graph.to_user`` order. Shape ``(n_edges,)``.
    """
    device = graph.to_user.col.device
    kept = torch.randperm(graph.n_edges, device=device)[: _whole((1 - share) * graph.n_edges)]
    return torch.zeros(graph.n_edges, device=device).index_fill_(0, kept, 1.0)


def drop_nodes(graph: BipartiteGraph, share: float) -> Tensor:
    """Mask that removes the edges of a uniformly drawn share of the users and of the items.

    Args:
        graph: The training pairs.
        share: Share of the users, and of the items, to remove.

    Returns:
        As :func:`drop_edges`.
    """
    device = graph.to_user.col.device
    masks = []
    for n_nodes in (graph.n_users, graph.n_items):
        removed = torch.randperm(n_nodes, device=device)[: _whole(share * n_nodes)]
        masks.append(torch.ones(n_nodes, device=device).index_fill_(0, removed, 0.0))
    return masks[0][graph.to_user.row] * masks[1][graph.to_user.col]


def _whole(number: float) -> int:
    """Whole part, where a float just below an integer is that integer: (1 - 0.9) * 10 is 1 although floats say less."""
    return math.floor(round(number, 6))
