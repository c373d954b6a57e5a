"""The part of a graph that a batch needs: hops of sampled neighbours, weighted so that sums stay unbiased."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Union

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_mm.nn.graph.bipartite import BipartiteGraph, Weights, head
from recbole_mm.nn.graph.sparse import SparsePattern, sddmm, spmm

__all__ = ["Hop", "Neighbourhood", "SampledHop", "SampledRows", "sample_neighbourhood", "sample_peers", "sample_rows"]


SPARSELY = 8
"""How many times as many nodes as a step meets make it cheaper to sort these than to go through all."""


class SampledRows(NamedTuple):
    """Some of the edges of some rows of a pattern.

    Attributes:
        pattern: The edges, a row for every row asked for. Its columns may be numbered anew.
        edge: Where each of them is in the pattern that they come from. Shape ``(n_kept,)``.
        kept: Edges kept of each row. Shape ``(n_rows,)``.
        degree: Edges that each row has. Shape ``(n_rows,)``.
    """

    pattern: SparsePattern
    edge: Tensor
    kept: Tensor
    degree: Tensor

    def importance(self, dtype: torch.dtype) -> Tensor:
        """Degree over number kept, of every edge: with it a sum over the kept edges is an unbiased sum over all."""
        return (self.degree.to(dtype) / self.kept.clamp(min=1).to(dtype))[self.pattern.row]


def sample_rows(
    pattern: SparsePattern, index: Tensor, fanout: int, generator: torch.Generator | None = None
) -> SampledRows:
    r"""Keep at most ``fanout`` edges of each of the given rows, drawn uniformly without replacement.

    All columns are put into one random order and every row keeps its first ones. For a row alone that is uniform
    sampling without replacement, so :math:`\sum_{kept} \tfrac{d_r}{k_r} v_e x_e` is unbiased for the row's sum; rows
    that share columns prefer the same ones, so that fewer distinct columns are needed in all than by independent draws.
    Rows with ``fanout`` edges or fewer keep them all and draw nothing. PyG's ``neighbor_sampler`` draws the rows
    independently of each other and from a generator of its own: another law, and so it is not used here.

    The number of edges depends on the data, so on CUDA this waits for the device.

    Args:
        pattern: Edges to choose from.
        index: Rows asked for. Shape ``(n_index,)``.
        fanout: Most edges to keep of a row, at least 1.
        generator: Source of the order, on the pattern's device; torch's own if not given.

    Returns:
        The kept edges, columns ascending within a row as in ``pattern`` and numbered as there.

    Example:
        >>> pattern = SparsePattern.from_pairs(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 2, 1]), 2, 3)
        >>> kept = sample_rows(pattern, torch.tensor([1, 0]), fanout=2)
        >>> kept.kept.tolist(), kept.degree.tolist(), kept.importance(torch.float32).tolist()
        ([1, 2], [1, 3], [1.0, 1.5, 1.5])
    """
    start = pattern.ptr[index]
    degree = pattern.ptr[index + 1] - start
    kept = degree.clamp(max=fanout)
    ptr = torch.cat((kept.new_zeros(1), kept.cumsum(0)))
    row = torch.repeat_interleave(kept)
    edge = torch.arange(row.numel(), device=row.device) + (start - ptr[:-1])[row]
    crowded = degree > fanout
    chosen = index[crowded]
    if chosen.numel():
        edge[crowded[row]] = _first_in_random_order(pattern, chosen, fanout, generator)
    return SampledRows(SparsePattern(ptr, pattern.col[edge], row, pattern.n_cols), edge, kept, degree)


def _first_in_random_order(
    pattern: SparsePattern, index: Tensor, fanout: int, generator: torch.Generator | None
) -> Tensor:
    """Edges of rows that all have more than ``fanout``: those of the columns that come first, in edge order."""
    part, edge = pattern.rows(index)
    col, n = part.col, pattern.n_cols
    if SPARSELY * len(edge) < n:  # an order of the columns that are met, not of all there are
        met, col = torch.unique(col, return_inverse=True)
        n = len(met)
    order = torch.randperm(n, generator=generator, device=edge.device)
    ranked = (part.row * n + order[col]).argsort()
    place = torch.arange(len(edge), device=edge.device) - part.ptr[part.row]
    keep = torch.zeros_like(edge, dtype=torch.bool)
    keep[ranked[place < fanout]] = True
    return edge[keep]


def sample_peers(weights: Tensor, fanout: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    r"""Choose among weighted neighbours, the heavy ones first, so that weighted sums stay unbiased.

    A neighbour is kept with probability :math:`\pi_v = \min(1, k \beta_{uv})` and then weighs
    :math:`\beta_{uv} / \pi_v`. One random number a row decides (systematic sampling): the running sum of :math:`\pi`
    plus it is cut at whole numbers, so that no row keeps more than ``fanout``. Rows with ``fanout`` neighbours or fewer
    keep them all.

    Args:
        weights: :math:`\beta`, a row sums to 1 or is 0; 0 is no neighbour. Shape ``(n, width)``.
        fanout: :math:`k`, at least 1.
        generator: As for :func:`sample_rows`.

    Returns:
        Columns chosen and their new weights, ``(n, min(fanout, width))`` each; weight 0 where fewer were.

    Example:
        >>> sample_peers(torch.tensor([[0.5, 0.5, 0.0]]), fanout=2)[1].tolist()
        [[0.5, 0.5]]
    """
    there = weights > 0
    few = there.sum(dim=1, keepdim=True) <= fanout
    share = torch.where(few, there.to(weights.dtype), (fanout * weights).clamp(max=1))
    kept = there
    if not bool(few.all()):
        offset = torch.rand(len(weights), 1, dtype=torch.float64, device=weights.device, generator=generator)
        ends = share.double().cumsum(dim=1) + offset
        starts = torch.cat((offset, ends[:, :-1]), dim=1)
        kept = there & torch.where(few, there, ends.floor() > starts.floor())
    slots = kept.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :fanout]
    chosen = kept.gather(1, slots)
    weight = torch.where(chosen, weights.gather(1, slots) / share.gather(1, slots).clamp(min=1e-30), 0.0)
    return slots, weight.to(weights.dtype)


class SampledHop:
    """One layer of propagation to some users and items from sampled neighbours of theirs.

    It is used as a :class:`BipartiteGraph` is: users and items are numbered within the neighbourhood, and those that
    receive come first among those that send. Weights and degrees are those of the whole graph, times the importance of
    the kept edges. Tables that are longer than needed are cut.

    Attributes:
        to_user: Pattern ``n_users x (items that send)``.
        to_item: Pattern ``n_items x (users that send)``; not the transpose, since each side draws its own.
        n_users: Users that receive.
        n_items: Items that receive.
        user_degree: Number of items of each receiving user in the whole graph, float.
        item_degree: Number of users of each receiving item in the whole graph, float.
    """

    def __init__(self, graph: BipartiteGraph, at_users: SampledRows, at_items: SampledRows) -> None:
        self.graph, self._at_users, self._at_items = graph, at_users, at_items
        self.to_user, self.to_item = at_users.pattern, at_items.pattern
        self.n_users, self.n_items = self.to_user.n_rows, self.to_item.n_rows
        self.user_degree, self.item_degree = at_users.degree.float(), at_items.degree.float()

    def gather_users(self, items: Tensor, norm: str = "sym") -> Tensor:
        """Weighted sums of items at the receiving users, see :meth:`BipartiteGraph.gather_users`."""
        return self._gather(self._at_users, "user", items, norm)

    def gather_items(self, users: Tensor, norm: str = "sym") -> Tensor:
        """Weighted sums of users at the receiving items, see :meth:`BipartiteGraph.gather_items`."""
        return self._gather(self._at_items, "item", users, norm)

    def _gather(self, rows: SampledRows, side: str, table: Tensor, norm: str) -> Tensor:
        whole = self.graph.norm_weights(side, norm, table.dtype)[0]
        weights = whole[rows.edge] * rows.importance(whole.dtype)
        return spmm(rows.pattern, weights, head(table, rows.pattern.n_cols))

    def of_pairs(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values of the training pairs at the edges to users and to items, see :meth:`BipartiteGraph.of_pairs`."""
        return values[self._at_users.edge], values[self.graph.to_user.transpose_order[self._at_items.edge]]

    def at_edges(self, to_users: Tensor, to_items: Tensor) -> tuple[Tensor, Tensor]:
        """Values of the whole graph's edges, each in its half's order, at the edges of this hop."""
        return to_users[self._at_users.edge], to_items[self._at_items.edge]

    def weigh(self, values: Tensor) -> tuple[Weights, Weights]:
        """Weights of the messages from one value per pair, importance included: to users and to items."""
        to_users, to_items = self.of_pairs(values)
        to_users = to_users * self._at_users.importance(values.dtype)
        to_items = to_items * self._at_items.importance(values.dtype)
        return (to_users, None), (to_items, None)

    def scores(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Inner products of the two ends of each edge, of the edges to users and of those to items."""
        at_users = sddmm(self.to_user, head(users, self.n_users), head(items, self.to_user.n_cols))
        return at_users, sddmm(self.to_item, head(items, self.n_items), head(users, self.to_item.n_cols))


Hop = Union[BipartiteGraph, SampledHop]


class Neighbourhood(NamedTuple):
    """What a step propagates over: the whole graph, or the part that a batch needs.

    Attributes:
        hops: One a layer, the first layer first.
        users: Users whose states the first layer reads, ``None`` for all. Shape ``(n,)``.
        items: The same of items.
        user: Place of the batch's users among those that the last layer gives, ``None`` for all of them in order.
        item: The same of its items.
        routes: Items of all ``users`` and where these edges are in ``graph.to_user``; their columns are ``items``.
            ``None`` for the whole graph, and where nobody asked.
        sparse: Whether gradients of the tables that rows are taken of shall hold these rows only.
    """

    hops: tuple[Hop, ...]
    users: Tensor | None
    items: Tensor | None
    user: Tensor | None
    item: Tensor | None
    routes: SampledRows | None = None
    sparse: bool = False

    @property
    def sampled(self) -> bool:
        """Whether it is a part only."""
        return self.users is not None

    def of_users(self, table: Tensor) -> Tensor:
        """Rows of the users whose states the first layer reads. Shape ``(n_users, k)`` to ``(n, k)``."""
        return table if self.users is None else F.embedding(self.users, table, sparse=self.sparse)

    def of_items(self, table: Tensor) -> Tensor:
        """Rows of the items whose states the first layer reads."""
        return table if self.items is None else F.embedding(self.items, table, sparse=self.sparse)


class _Numbering:
    """Gives nodes numbers in the order in which they are met."""

    def __init__(self, n: int, first: Tensor) -> None:
        self.place = torch.full((n,), -1, device=first.device)
        self.ids = first.new_empty(0)
        self.add(first)

    def add(self, found: Tensor) -> None:
        if SPARSELY * len(found) < len(self.place):  # the same nodes, without a look at all others
            new = torch.unique(found[self.place[found] < 0])
        else:
            fresh = torch.zeros_like(self.place, dtype=torch.bool)
            fresh[found] = True
            new = (fresh & (self.place < 0)).nonzero().squeeze(1)
        self.place[new] = torch.arange(len(new), device=new.device) + len(self.ids)
        self.ids = torch.cat((self.ids, new))


def sample_neighbourhood(
    graph: BipartiteGraph,
    user: Tensor,
    item: Tensor,
    fanout: Sequence[int],
    routes: bool = False,
    generator: torch.Generator | None = None,
) -> Neighbourhood:
    """Draw the part of a graph that the last layer's states of a batch depend on.

    The batch's users and items draw ``fanout[0]`` neighbours each, they and their neighbours ``fanout[1]``, and so on:
    the first entry is the last layer's. Every layer draws anew, so that products of layers stay unbiased.

    Args:
        graph: The training pairs.
        user: Users of the batch, repeated ones included. Shape ``(n,)``.
        item: Items of the batch, repeated ones included. Shape ``(n',)``.
        fanout: Most neighbours of a node in each layer, the last layer's first.
        routes: Whether items of all users that take part are wanted besides, ``fanout[-1]`` of each.
        generator: As for :func:`sample_rows`.

    Returns:
        Hops whose last one gives the distinct users and items of the batch.

    Example:
        >>> graph = BipartiteGraph(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]), n_users=2, n_items=3)
        >>> part = sample_neighbourhood(graph, torch.tensor([0, 0]), torch.tensor([1]), fanout=[2])
        >>> part.users.tolist(), part.items.tolist(), part.user.tolist()
        ([0], [1, 0], [0, 0])
    """
    users, items = _Numbering(graph.n_users, user), _Numbering(graph.n_items, item)
    hops: list[Hop] = []
    for k in fanout:
        at_users = sample_rows(graph.to_user, users.ids, k, generator)
        at_items = sample_rows(graph.to_item, items.ids, k, generator)
        items.add(at_users.pattern.col)
        users.add(at_items.pattern.col)
        hops.append(SampledHop(graph, _renumbered(at_users, items), _renumbered(at_items, users)))
    routing = None
    if routes:
        at_users = sample_rows(graph.to_user, users.ids, fanout[-1], generator)
        items.add(at_users.pattern.col)
        routing = _renumbered(at_users, items)
    return Neighbourhood(tuple(reversed(hops)), users.ids, items.ids, users.place[user], items.place[item], routing)


def _renumbered(rows: SampledRows, numbering: _Numbering) -> SampledRows:
    pattern = rows.pattern
    col = numbering.place[pattern.col]
    return rows._replace(pattern=SparsePattern(pattern.ptr, col, pattern.row, len(numbering.ids)))
