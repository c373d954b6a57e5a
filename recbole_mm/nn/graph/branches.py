"""LightGCN over several item inputs that share one user table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_mm.nn.graph.bipartite import BipartiteGraph, Weights, head, spmm
from recbole_mm.nn.graph.pruning import whole
from recbole_mm.nn.graph.sampling import Hop

__all__ = ["Encoding", "choose_edges", "drop_edges", "drop_nodes", "encode_branches"]

MANY = 2**18
"""Edges from which a CPU draws the few that are dropped one by one; a permutation of 1.3 million takes 30 ms."""


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


def encode_branches(hops: Sequence[Hop], values: Tensor, users: Tensor, items: Tensor) -> tuple[Encoding, Encoding]:
    r"""LightGCN of every branch :math:`b`: the mean over :math:`l = 0 \dots L` of :math:`S^l [E_U; X_b]`.

    The graph has two sides and all branches start from the same users. So users at even layers and items at odd layers
    depend on :math:`E_U` alone: they are propagated once, at width ``dim``, and not once a branch. Exact.

    Args:
        hops: What each of the :math:`L` layers propagates over, the first layer first: ``[graph] * L``, or the hops of
            a sampled neighbourhood.
        values: Weight of each training pair in ``graph.to_user`` order, for both directions. Shape ``(n_edges,)``.
        users: :math:`E_U`, of the users that the first layer reads. Shape ``(n_users, dim)``.
        items: The branches' item inputs :math:`X_b` side by side. Shape ``(n_items, n_branches * dim)``.

    Returns:
        Encodings of the users and of the items that the last layer gives.

    Example:
        >>> graph = BipartiteGraph(torch.tensor([0]), torch.tensor([0]), n_users=1, n_items=1)
        >>> encoded = encode_branches([graph], torch.ones(1), torch.tensor([[1.0]]), torch.tensor([[3.0, 5.0]]))
        >>> encoded[0].rows().tolist()
        [[[2.0], [3.0]]]
    """
    n_users, n_items = (hops[-1].n_users, hops[-1].n_items) if hops else (len(users), len(items))
    user_shared, item_own = head(users, n_users), head(items, n_items)
    user_own, item_shared = items.new_zeros(n_users, items.shape[1]), users.new_zeros(n_items, users.shape[1])
    weights: dict[Hop, tuple[Weights, Weights]] = {}  # layers over one graph share them
    shared, own = users, items
    for layer, hop in enumerate(hops, start=1):
        if hop not in weights:
            weights[hop] = hop.weigh(values)
        at_users, at_items = weights[hop]
        if layer % 2:  # own are states of items, shared of users
            shared, own = (
                spmm(hop.to_item, at_items[0], shared, at_items[1]),
                spmm(hop.to_user, at_users[0], own, at_users[1]),
            )
            item_shared, user_own = item_shared + head(shared, n_items), user_own + head(own, n_users)
        else:
            shared, own = (
                spmm(hop.to_user, at_users[0], shared, at_users[1]),
                spmm(hop.to_item, at_items[0], own, at_items[1]),
            )
            user_shared, item_own = user_shared + head(shared, n_users), item_own + head(own, n_items)
    scale = 1.0 / (len(hops) + 1)
    return Encoding(user_shared * scale, user_own * scale), Encoding(item_shared * scale, item_own * scale)


def choose_edges(graph: BipartiteGraph, share: float) -> Tensor:
    r"""The edges of a graph that are dropped: all but :math:`\lfloor (1 - \rho) E \rfloor`, drawn uniformly.

    Args:
        graph: The training pairs.
        share: :math:`\rho`, the share of the edges to drop.

    Returns:
        Distinct edges in no order, in ``graph.to_user`` numbering. Shape ``(n_dropped,)``.
    """
    n, device = graph.n_edges, graph.to_user.col.device
    n_kept = whole((1 - share) * n)
    n_dropped = n - n_kept
    if device.type != "cpu" or n < MANY or 8 * n_dropped > n:
        return torch.randperm(n, device=device)[n_kept:]
    # Whatever is met twice is drawn again: no edge is treated unlike another, so every set is as likely.
    chosen = torch.empty(0, dtype=torch.long)
    while len(chosen) < n_dropped:
        chosen = torch.unique(torch.cat([chosen, torch.randint(n, (n_dropped - len(chosen),))]))
    return chosen


def drop_edges(graph: BipartiteGraph, share: float) -> Tensor:
    """Mask of a graph without the edges that :func:`choose_edges` draws.

    Args:
        graph: The training pairs.
        share: Share of the edges to drop.

    Returns:
        1 for kept edges and 0 for dropped ones, in ``graph.to_user`` order. Shape ``(n_edges,)``.
    """
    kept = torch.ones(graph.n_edges, device=graph.to_user.col.device)
    return kept.index_fill_(0, choose_edges(graph, share), 0.0)


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
        removed = torch.randperm(n_nodes, device=device)[: whole(share * n_nodes)]
        masks.append(torch.ones(n_nodes, device=device).index_fill_(0, removed, 0.0))
    return masks[0][graph.to_user.row] * masks[1][graph.to_user.col]
