"""Users who share items, and sums of hops over the user-item graph: common parts of the models with user graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_mm.nn.graph.bipartite import BipartiteGraph, SparsePattern, segment_softmax

__all__ = ["add_peers", "neighbour_table", "sum_hops"]


def neighbour_table(counts: Any, aggregation: str = "softmax") -> tuple[Tensor, Tensor]:
    """Peers of every user and their weights, as tables of one width.

    Args:
        counts: Numbers of shared items, a scipy sparse matrix ``(n_users, n_users)``.
        aggregation: ``softmax`` of the numbers, or ``mean`` for equal weights.

    Returns:
        Neighbour ids and weights in float64, ``(n_users, k)`` each, short rows padded with weight 0.

    Example:
        >>> import scipy.sparse as sp
        >>> neighbour_table(sp.csr_matrix([[0.0, 2.0], [2.0, 0.0]]))[0].tolist()
        [[1], [0]]
    """
    pattern, shared = SparsePattern.from_scipy(counts)
    if aggregation == "mean":
        shared = torch.zeros_like(shared)
    weights = segment_softmax(shared.double(), pattern.ptr)
    place = torch.arange(pattern.n_edges) - pattern.ptr[pattern.row]
    width = max(int(pattern.degree().max()), 1)
    neighbours = torch.zeros(pattern.n_rows, width, dtype=torch.long)
    beta = torch.zeros(pattern.n_rows, width, dtype=torch.float64)
    neighbours[pattern.row, place], beta[pattern.row, place] = pattern.col, weights
    return neighbours, beta


def add_peers(states: Tensor, neighbours: Tensor, beta: Tensor, user: Tensor | None = None) -> Tensor:
    r"""Add the weighted states of a user's peers: :math:`q_u + \sum_v \beta_{uv} q_v`.

    Args:
        states: :math:`q` of all users. Shape ``(n_users, dim)``.
        neighbours: From :func:`neighbour_table`. Shape ``(n_users, k)``.
        beta: Their weights. Shape ``(n_users, k)``.
        user: Users asked for, all if not given. Shape ``(batch,)``.

    Returns:
        Shape ``(batch, dim)``, or ``(n_users, dim)``.
    """

    def of_peers(ids: Tensor, weights: Tensor) -> Tensor:
        return F.embedding_bag(ids, states, per_sample_weights=weights.to(states.dtype), mode="sum")

    if user is None or len(user) >= len(states):
        everyone = states + of_peers(neighbours, beta)
        return everyone if user is None else F.embedding(user, everyone)
    return F.embedding(user, states) + of_peers(neighbours[user], beta[user])


def sum_hops(
    graph: BipartiteGraph,
    users: Tensor,
    items: Tensor,
    n_layers: int,
    reduce_items: Callable[[Tensor], Tensor] = lambda states: states,
) -> tuple[Tensor, Tensor]:
    r"""The sum over :math:`l = 0 \dots L` of :math:`S^l [U; I]` with :math:`S = D^{-1/2} A D^{-1/2}`.

    Args:
        graph: The training pairs.
        users: Shape ``(n_users, dim)``.
        items: Shape ``(n_items, dim)``.
        n_layers: :math:`L`.
        reduce_items: A linear map of the columns, such as a sum over modalities, wanted of the items' result; the last
            product is then computed at its width.

    Returns:
        Users with shape ``(n_users, dim)`` and reduced items.
    """
    user_sum, item_sum = users, reduce_items(items)
    for layer in range(1, n_layers + 1):
        to_users = graph.gather_users(items)
        if layer < n_layers:
            items = graph.gather_items(users)
            item_sum = item_sum + reduce_items(items)
        else:
            item_sum = item_sum + graph.gather_items(reduce_items(users))
        users = to_users
        user_sum = user_sum + users
    return user_sum, item_sum
