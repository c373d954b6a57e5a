"""The part of a graph that a batch needs: hops of sampled neighbours, weighted so that sums stay unbiased."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Union

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_mm.nn.graph.bipartite import BipartiteGraph, Weights, head
from recbole_mm.nn.graph.neighbours import SPARSELY, SampledRows, sample_rows
from recbole_mm.nn.graph.sparse import SparsePattern, sddmm, spmm

__all__ = ["Hop", "Neighbourhood", "SampledHop", "sample_neighbourhood"]


class SampledHop:
    """One layer of propagation to some users and items from sampled neighbours of theirs.

    It is used as a :class:`BipartiteGraph` is: users and items are numbered within the neighbourhood, and those that
    receive come first among those that send (of the first layer the batch alone, where no layer reads own states).
    Weights and degrees are those of the whole graph, times the importance of the kept edges. Tables that are longer
    than needed are cut.

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

    def send_users(self, users: Tensor, norm: str = "sym") -> tuple[Tensor, Tensor]:
        """Messages to the receiving items, and the own states of the receiving users."""
        return self.gather_items(users, norm), self.receiving_users(users)

    def send_items(self, items: Tensor, norm: str = "sym") -> tuple[Tensor, Tensor]:
        """Messages to the receiving users, and the own states of the receiving items."""
        return self.gather_users(items, norm), self.receiving_items(items)

    def receiving_users(self, table: Tensor) -> Tensor:
        """Rows of the users that receive: they come first."""
        return head(table, self.n_users)

    def receiving_items(self, table: Tensor) -> Tensor:
        """Rows of the items that receive: they come first."""
        return head(table, self.n_items)

    def _gather(self, rows: SampledRows, side: str, table: Tensor, norm: str) -> Tensor:
        whole = self.graph.norm_weights(side, norm, table.dtype)[0]
        weights = whole[rows.edge] * rows.importance(whole.dtype)
        return spmm(rows.pattern, weights, head(table, rows.pattern.n_cols))

    def of_pairs(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values of the training pairs at the edges to users and to items, see :meth:`BipartiteGraph.of_pairs`."""
        to_users, to_items = self.pairs()
        return values[to_users], values[to_items]

    def pairs(self) -> tuple[Tensor, Tensor]:
        """The training pairs behind the edges to users and behind those to items."""
        return self._at_users.edge, self.graph.to_user.transpose_order[self._at_items.edge]

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

    @property
    def n_batch_items(self) -> int:
        """How many of ``items``, from the front, are the batch's own; of a part only."""
        return self.hops[-1].n_items if self.hops else len(self.items)  # type: ignore[arg-type]

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

    def first(self, n: int) -> _Numbering:
        """A numbering of the first ``n`` alone, with the numbers that they have."""
        return _Numbering(len(self.place), self.ids[:n])


def sample_neighbourhood(
    graph: BipartiteGraph,
    user: Tensor,
    item: Tensor,
    fanout: Sequence[int],
    routes: bool = False,
    generator: torch.Generator | None = None,
    own_states: bool = True,
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
        own_states: Whether a layer reads the former states of the nodes that it computes, as self loops and attention
            do. Without, the first layer's states are wanted of the batch and of what sends to somebody there, and not
            of those who only receive: of the items, about half, and with them their features.

    Returns:
        Hops whose last one gives the distinct users and items of the batch.

    Example:
        >>> graph = BipartiteGraph(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]), n_users=2, n_items=3)
        >>> part = sample_neighbourhood(graph, torch.tensor([0, 0]), torch.tensor([1]), fanout=[2])
        >>> part.users.tolist(), part.items.tolist(), part.user.tolist()
        ([0], [1, 0], [0, 0])
    """
    users, items = _Numbering(graph.n_users, user), _Numbering(graph.n_items, item)
    batch = len(users.ids), len(items.ids)
    hops: list[Hop] = []
    for layer, k in enumerate(fanout, start=1):
        at_users = sample_rows(graph.to_user, users.ids, k, generator)
        at_items = sample_rows(graph.to_item, items.ids, k, generator)
        if layer == len(fanout) and not own_states:
            users, items = users.first(batch[0]), items.first(batch[1])
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
