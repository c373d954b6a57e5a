"""Users who share items, and sums of hops over the user-item graph: common parts of the models with user graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_mm.nn.graph.bipartite import SparsePattern, head, segment_softmax
from recbole_mm.nn.graph.sampling import Hop

__all__ = ["add_peers", "neighbour_table", "sum_hops", "sum_peers"]


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
    if user is None or len(user) >= len(states):
        everyone = states + sum_peers(states, neighbours, beta)
        return everyone if user is None else F.embedding(user, everyone)
    return F.embedding(user, states) + sum_peers(states, neighbours[user], beta[user])


def sum_peers(states: Tensor, peers: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of the states of peers, ``(n, dim)``: rows of ``states``, ``(n, k)``, and weights, ``(n, k)``."""
    return F.embedding_bag(peers, states, per_sample_weights=weights.to(states.dtype), mode="sum")


def sum_hops(
    hops: Sequence[Hop],
    users: Tensor,
    items: Tensor,
    reduce_items: Callable[[Tensor], Tensor] = lambda states: states,
) -> tuple[Tensor, Tensor]:
    r"""The sum over :math:`l = 0 \dots L` of :math:`S^l [U; I]` with :math:`S = D^{-1/2} A D^{-1/2}`.

    Args:
        hops: What each of the :math:`L` layers propagates over, the first layer first: ``[graph] * L``, or the hops of
            a sampled neighbourhood.
        users: Users that the first layer reads. Shape ``(n_users, dim)``.
        items: Items that it reads. Shape ``(n_items, dim)``.
        reduce_items: A linear map of the columns, such as a sum over modalities, wanted of the items' result; the last
            product is then computed at its width.

    Returns:
        Users that the last layer gives with shape ``(n_users, dim)``, and reduced items.
    """
    n_users, n_items = (hops[-1].n_users, hops[-1].n_items) if hops else (len(users), len(items))
    user_sum, item_sum = head(users, n_users), reduce_items(head(items, n_items))
    for layer, hop in enumerate(hops, start=1):
        to_users = hop.gather_users(items)
        if layer < len(hops):
            items = hop.gather_items(users)
            item_sum = item_sum + reduce_items(head(items, n_items))
        else:
            item_sum = item_sum + hop.gather_items(reduce_items(users))
        users = to_users
        user_sum = user_sum + head(users, n_users)
    return user_sum, item_sum
