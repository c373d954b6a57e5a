"""User-item graphs, normalisations and nearest-neighbour graphs over sparse patterns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_mm.nn.graph.knn import knn_graph
from recbole_mm.nn.graph.segment import attend, columns, segment_softmax, segment_sum
from recbole_mm.nn.graph.sparse import SparsePattern, sddmm, spmm

__all__ = [
    "BipartiteGraph",
    "SparsePattern",
    "Weights",
    "attend",
    "columns",
    "edges_of_rows",
    "head",
    "knn_graph",
    "norm_without",
    "row_norm",
    "sddmm",
    "segment_softmax",
    "segment_sum",
    "spmm",
    "sym_norm",
]

Weights = tuple[Tensor, "Tensor | None"]
"""Weights of edges, and the same in the order of the transpose where they are at hand."""


def sym_norm(
    pattern: SparsePattern,
    values: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    counted: Tensor | None = None,
) -> Tensor:
    r"""Symmetrically normalised edge weights.

    .. math:: w_{rc} = v_{rc} \, d_r^{-1/2} d_c^{-1/2}, \quad d_r = \sum_c v_{rc}, \; d_c = \sum_r v_{rc}

    Args:
        pattern: Edges of the graph.
        values: Non-negative weights (learned ones get gradients), all 1 if not given. Shape ``(n_edges,)``.
        dtype: Type of the result where ``values`` is not given.
        counted: Rows whose edges count in the degrees of the columns, bool ``(n_rows,)``; all if not given.

    Returns:
        Shape ``(n_edges,)``; 0 on edges of rows or columns whose weights sum to 0.
    """
    if values is None:
        values = torch.ones(pattern.n_edges, dtype=dtype, device=pattern.col.device)
    rows = segment_sum(values, pattern.ptr)
    into = values if counted is None else values * counted[pattern.row]
    cols = segment_sum(into[pattern.transpose_order], pattern.transpose.ptr)
    return values * _power(rows, -0.5)[pattern.row] * _power(cols, -0.5)[pattern.col]


def row_norm(pattern: SparsePattern, values: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    r"""Edge weights that sum to 1 in every row: :math:`w_{rc} = v_{rc} / \sum_{c'} v_{rc'}`.

    Args:
        pattern: Edges of the graph.
        values: Non-negative weights (learned ones get gradients), all 1 if not given. Shape ``(n_edges,)``.
        dtype: Type of the result where ``values`` is not given.

    Returns:
        Shape ``(n_edges,)``; 0 in rows whose weights sum to 0.
    """
    if values is None:
        values = torch.ones(pattern.n_edges, dtype=dtype, device=pattern.col.device)
    return values * _power(segment_sum(values, pattern.ptr), -1.0)[pattern.row]


class BipartiteGraph(nn.Module):
    r"""The user-item graph, kept as two halves with both orientations.

    Users and items have tables of their own, so nothing is concatenated and one hop of the ``(n_users + n_items)``-node
    graph costs one product per half. Repeated pairs count once.

    Args:
        users: User of each training pair. Shape ``(n_pairs,)``.
        items: Item of each training pair. Shape ``(n_pairs,)``.
        n_users: Number of users, padding included.
        n_items: Number of items, padding included.

    Attributes:
        to_user: Pattern ``n_users x n_items``: messages from items to users.
        to_item: Pattern ``n_items x n_users``, the transpose: messages from users to items.
        user_degree: Number of items of each user, float. Shape ``(n_users,)``.
        item_degree: Number of users of each item, float. Shape ``(n_items,)``.

    Example:
        >>> graph = BipartiteGraph(torch.tensor([0, 0]), torch.tensor([0, 1]), n_users=1, n_items=2)
        >>> graph.propagate(torch.tensor([[6.0]]), torch.tensor([[1.0], [3.0]]), norm="row")
        (tensor([[2.]]), tensor([[6.],
                [6.]]))
    """

    user_degree: Tensor
    item_degree: Tensor

    # Edge weights of each normalisation, in the order of the half's pattern and of its transpose.
    _kept_weights = tuple(
        f"_{kind}_{order}" for kind in ("sym", "row_user", "row_item") for order in ("edge", "transposed")
    )

    def __init__(self, users: Tensor, items: Tensor, n_users: int, n_items: int) -> None:
        self._hold(SparsePattern.from_pairs(users, items, n_users, n_items))

    def _hold(self, to_user: SparsePattern) -> None:
        super().__init__()
        self.n_users, self.n_items = to_user.n_rows, to_user.n_cols
        self.to_user = to_user
        self.register_buffer("user_degree", self.to_user.degree().float(), persistent=False)
        self.register_buffer("item_degree", self.to_item.degree().float(), persistent=False)
        for name in self._kept_weights:
            self.register_buffer(name, None, persistent=False)

    @property
    def to_item(self) -> SparsePattern:
        """Pattern ``n_items x n_users``."""
        return self.to_user.transpose

    @property
    def n_edges(self) -> int:
        """Number of distinct pairs."""
        return self.to_user.n_edges

    def subgraph(self, keep: Tensor) -> BipartiteGraph:
        """The graph of some of the pairs, with the degrees that they give. ``keep``: bool, in ``to_user`` order."""
        graph = BipartiteGraph.__new__(BipartiteGraph)
        graph._hold(self.to_user.select(keep))
        return graph

    def sym_norm(self, dtype: torch.dtype = torch.float32) -> Tensor:
        r"""Weights :math:`d_u^{-1/2} d_i^{-1/2}` in ``to_user`` order. Shape ``(n_edges,)``."""
        return sym_norm(self.to_user, dtype=dtype)

    def row_norm(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        r"""Weights :math:`1 / d_u` in ``to_user`` order, :math:`1 / d_i` in ``to_item`` order, ``(n_edges,)`` each."""
        return row_norm(self.to_user, dtype=dtype), row_norm(self.to_item, dtype=dtype)

    def propagate(self, users: Tensor, items: Tensor, norm: str = "sym") -> tuple[Tensor, Tensor]:
        r"""One hop in both directions with constant weights.

        .. math:: U' = \hat R I, \quad I' = \check R U

        with :math:`\hat R = \check R^\top = D_u^{-1/2} R D_i^{-1/2}` for ``sym``, and the mean over neighbours,
        :math:`\hat R = D_u^{-1} R` and :math:`\check R = D_i^{-1} R^\top`, for ``row``. Isolated nodes get 0. To
        propagate several tables at once, put them side by side.

        Args:
            users: Shape ``(n_users, dim)``.
            items: Shape ``(n_items, dim')``.
            norm: ``sym`` or ``row``.

        Returns:
            New users with shape ``(n_users, dim')`` and new items with shape ``(n_items, dim)``.
        """
        return self.gather_users(items, norm), self.gather_items(users, norm)

    def gather_users(self, items: Tensor, norm: str = "sym") -> Tensor:
        """The user half of :meth:`propagate`. Shape ``(n_items, dim)`` to ``(n_users, dim)``."""
        forward, backward = self.norm_weights("user", norm, items.dtype)
        return spmm(self.to_user, forward, items, backward)

    def gather_items(self, users: Tensor, norm: str = "sym") -> Tensor:
        """The item half of :meth:`propagate`. Shape ``(n_users, dim)`` to ``(n_items, dim)``."""
        forward, backward = self.norm_weights("item", norm, users.dtype)
        return spmm(self.to_item, forward, users, backward)

    def send_users(self, users: Tensor, norm: str = "sym") -> tuple[Tensor, Tensor]:
        """Messages to all items, and the own states of the users that receive: the table itself."""
        return self.gather_items(users, norm), users

    def send_items(self, items: Tensor, norm: str = "sym") -> tuple[Tensor, Tensor]:
        """Messages to all users, and the own states of the items that receive: the table itself."""
        return self.gather_users(items, norm), items

    def receiving_users(self, table: Tensor) -> Tensor:
        """Rows of the users that receive: all."""
        return table

    def receiving_items(self, table: Tensor) -> Tensor:
        """Rows of the items that receive: all."""
        return table

    def of_pairs(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values of the pairs, in ``to_user`` order, as the edges to users and those to items have them."""
        return values, values.index_select(0, self.to_user.transpose_order)

    def at_edges(self, to_users: Tensor, to_items: Tensor) -> tuple[Tensor, Tensor]:
        """Values of this graph's edges, each in its half's order: here, what is given."""
        return to_users, to_items

    def weigh(self, values: Tensor) -> tuple[Weights, Weights]:
        """Weights of the messages to users and to items from one value per pair, in ``to_user`` order."""
        to_users, to_items = self.of_pairs(values)
        return (to_users, to_items), (to_items, to_users)

    def scores(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Inner products of the two ends of each edge, of the edges to users and of those to items."""
        return self.of_pairs(sddmm(self.to_user, users, items))

    def norm_weights(self, side: str, norm: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weights of one half, ``user`` or ``item``, and the same in transposed order; kept between steps."""
        if norm not in ("sym", "row"):
            raise ValueError(f"norm must be 'sym' or 'row', got {norm!r}")
        if norm == "sym" and side == "item":
            to_user, to_item = self.norm_weights("user", norm, dtype)
            return to_item, to_user
        dtype = dtype if dtype == torch.float64 else torch.float32
        pattern = self.to_user if side == "user" else self.to_item
        kind = norm if norm == "sym" else f"row_{side}"
        weights = getattr(self, f"_{kind}_edge")
        if weights is None or weights.dtype != dtype:
            # What inference mode makes can never be part of a training step, and these outlive the evaluation.
            with torch.inference_mode(False):
                weights = (sym_norm if norm == "sym" else row_norm)(pattern, dtype=dtype)
                setattr(self, f"_{kind}_edge", weights)
                setattr(self, f"_{kind}_transposed", weights.index_select(0, pattern.transpose_order))
        return weights, getattr(self, f"_{kind}_transposed")

    def _apply(self, fn: Any, recurse: bool = True) -> BipartiteGraph:
        # Kept weights are made again after a move: casting float32 weights to float64 would keep float32 errors.
        for name in self._kept_weights:
            setattr(self, name, None)
        return super()._apply(fn)


def norm_without(graph: BipartiteGraph, dropped: Tensor, pairs: Tensor) -> Tensor:
    r"""Weights :math:`d_u^{-1/2} d_i^{-1/2}` of some pairs in a graph that lost others, with the degrees after.

    :func:`sym_norm` of the graph's mask goes through all pairs several times; this through those that are dropped or
    asked for.

    Args:
        graph: The training pairs.
        dropped: Pairs that are lost, distinct, in ``to_user`` order. Shape ``(n_dropped,)``.
        pairs: Pairs whose weights are wanted, repeated ones included. Shape ``(n_pairs,)``.

    Returns:
        In ``to_user`` order, float32 and 0 on pairs that are dropped or not asked for. Shape ``(n_edges,)``.

    Example:
        >>> graph = BipartiteGraph(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), n_users=2, n_items=2)
        >>> norm_without(graph, torch.tensor([1]), torch.tensor([0, 1])).tolist()
        [1.0, 0.0, 0.0]
    """
    user, item = graph.to_user.row, graph.to_user.col
    of_users = (graph.to_user.degree() - torch.bincount(user[dropped], minlength=graph.n_users)).float()
    of_items = (graph.to_item.degree() - torch.bincount(item[dropped], minlength=graph.n_items)).float()
    weights = of_users.new_zeros(graph.n_edges)
    weights[pairs] = _power(of_users, -0.5)[user[pairs]] * _power(of_items, -0.5)[item[pairs]]
    return weights.index_fill_(0, dropped, 0.0)


def head(table: Tensor, n: int) -> Tensor:
    """The first ``n`` rows; the table itself where that is all, so that no gradient is copied."""
    return table if table.shape[0] == n else table[:n]


def edges_of_rows(pattern: SparsePattern, values: Tensor, rows: Tensor) -> tuple[SparsePattern, Tensor]:
    """The part of a graph whose rows are chosen, in its full shape.

    Args:
        pattern: Edges of the graph.
        values: Their weights. Shape ``(n_edges,)``.
        rows: Which rows keep their edges, bool ``(n_rows,)``.

    Example:
        >>> pattern = SparsePattern.from_pairs(torch.tensor([0, 1]), torch.tensor([1, 0]), n_rows=2, n_cols=2)
        >>> edges_of_rows(pattern, torch.tensor([3.0, 4.0]), torch.tensor([False, True]))[1]
        tensor([4.])
    """
    kept = rows[pattern.row]
    part = SparsePattern.from_pairs(pattern.row[kept], pattern.col[kept], pattern.n_rows, pattern.n_cols)
    return part, values[kept]


def _power(degree: Tensor, exponent: float) -> Tensor:
    """``degree ** exponent``, with value and gradient 0 where the degree is 0."""
    positive = degree > 0
    return torch.where(positive, degree, torch.ones_like(degree)).pow(exponent) * positive
