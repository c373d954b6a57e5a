"""The last hop over a whole graph, to those rows alone that a batch needs."""

from __future__ import annotations

from typing import Union

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_mm.nn.graph.bipartite import BipartiteGraph
from recbole_mm.nn.graph.sampling import Hop, Neighbourhood
from recbole_mm.nn.graph.sparse import SparsePattern, spmm

__all__ = ["AnyHop", "CutHop", "cut_last"]


class CutHop:
    """One hop of a :class:`BipartiteGraph` that some users and items receive; all users and items send.

    A table that sends is mostly also read for the receivers' own states. Both come out of one sparse product, the own
    rows as rows with one edge of weight 1: as look-ups they would have a gradient as long as the table, to be filled
    with zeros and added to that of the messages.

    Args:
        graph: The training pairs.
        users: Users that receive, without repetition. Shape ``(n,)``.
        items: Items that receive, without repetition. Shape ``(n',)``.

    Attributes:
        n_users: Users that receive.
        n_items: Items that receive.

    Example:
        >>> graph = BipartiteGraph(torch.tensor([0, 0]), torch.tensor([0, 1]), n_users=1, n_items=2)
        >>> hop = CutHop(graph, users=torch.tensor([0]), items=torch.tensor([1]))
        >>> hop.send_items(torch.tensor([[1.0], [3.0]]), norm="row")
        (tensor([[2.]]), tensor([[3.]]))
    """

    def __init__(self, graph: BipartiteGraph, users: Tensor, items: Tensor) -> None:
        self.graph, self._users, self._items = graph, users, items
        self.n_users, self.n_items = len(users), len(items)
        self._from_items = _with_own(graph.to_user, users, items)
        self._from_users = _with_own(graph.to_item, items, users)

    def send_items(self, items: Tensor, norm: str = "sym") -> tuple[Tensor, Tensor]:
        """Messages to the users that receive, and the rows of the items that do: ``(n, dim)``, ``(n', dim)``."""
        return self._send("user", self._from_items, items, norm)

    def send_users(self, users: Tensor, norm: str = "sym") -> tuple[Tensor, Tensor]:
        """Messages to the items that receive, and the rows of the users that do: ``(n', dim)``, ``(n, dim)``."""
        return self._send("item", self._from_users, users, norm)

    def receiving_users(self, table: Tensor) -> Tensor:
        """Rows of the users that receive."""
        return F.embedding(self._users, table)

    def receiving_items(self, table: Tensor) -> Tensor:
        """Rows of the items that receive."""
        return F.embedding(self._items, table)

    def _send(self, side: str, edges: tuple[SparsePattern, Tensor], table: Tensor, norm: str) -> tuple[Tensor, Tensor]:
        pattern, position = edges
        weights = self.graph.norm_weights(side, norm, table.dtype)[0][position]
        n_own = pattern.n_edges - len(position)
        both = spmm(pattern, torch.cat((weights, weights.new_ones(n_own))), table)
        return both.split((pattern.n_rows - n_own, n_own))  # type: ignore[return-value]


AnyHop = Union[Hop, CutHop]


def cut_last(part: Neighbourhood) -> tuple[tuple[AnyHop, ...], Tensor | None, Tensor | None]:
    """The hops of a step, the last one cut to the batch where it goes through the whole graph and cutting pays.

    On CUDA it is left whole: how many rows and edges a batch needs is known only after waiting for the device.

    Returns:
        The hops; places of the batch's users among those that the last one gives (``None``: all of them in order); and
        those of its items.
    """
    whole = part.hops[-1]
    if not isinstance(whole, BipartiteGraph) or part.user is None or part.item is None:
        return part.hops, part.user, part.item
    if part.user.device.type != "cpu" or len(part.user) >= whole.n_users or len(part.item) >= whole.n_items:
        return part.hops, part.user, part.item
    users, user = torch.unique(part.user, return_inverse=True)
    items, item = torch.unique(part.item, return_inverse=True)
    return (*part.hops[:-1], CutHop(whole, users, items)), user, item


def _with_own(pattern: SparsePattern, rows: Tensor, own: Tensor) -> tuple[SparsePattern, Tensor]:
    """Some rows of a pattern and below them, of one edge each, rows of the table; where the former's edges are."""
    cut, position = pattern.rows(rows)
    single = torch.arange(1, len(own) + 1, device=own.device)
    ptr = torch.cat((cut.ptr, cut.n_edges + single))
    row = torch.cat((cut.row, cut.n_rows - 1 + single))
    return SparsePattern(ptr, torch.cat((cut.col, own)), row, pattern.n_cols), position
