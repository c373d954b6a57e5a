"""Graphs of items with similar content: neighbours, normalisation, mixing over modalities, and spreading over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import scipy.sparse as sp
import torch
from torch import Tensor, nn

from recbole_mm.nn.graph.bipartite import edges_of_rows, knn_graph, sym_norm
from recbole_mm.nn.graph.segment import segment_sum
from recbole_mm.nn.graph.sparse import SparsePattern, spmm

__all__ = [
    "ItemGraph",
    "base_shares",
    "content_graph",
    "content_neighbours",
    "edge_cosines",
    "merge_graphs",
    "mix_graphs",
    "row_sum_norm",
    "symmetric_graph",
    "undirected",
]

EDGE_BLOCK = 2**23
"""Numbers that the exact cosines of a block of edges hold at once: 64 MB of float64."""


def row_sum_norm(pattern: SparsePattern, values: Tensor) -> Tensor:
    r"""Edge weights divided by the roots of the *row* sums of both end points.

    .. math:: w_{ij} = v_{ij} / \sqrt{r_i r_j}, \quad r_i = \sum_{j'} v_{ij'}

    The published item graphs are normalised so. Neighbour lists are directed, hence this is not ``sym_norm``, which
    takes the sum of the column on the right.

    Args:
        pattern: Edges of a square graph.
        values: Non-negative weights (learned ones get gradients). Shape ``(n_edges,)``.

    Returns:
        Shape ``(n_edges,)``; 0 on edges with an end point whose row sums to 0.

    Example:
        >>> pattern = SparsePattern.from_pairs(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), n_rows=2, n_cols=2)
        >>> row_sum_norm(pattern, torch.tensor([1.0, 3.0, 1.0]))
        tensor([0.2500, 1.5000, 1.0000])
    """
    rows = segment_sum(values, pattern.ptr)
    positive = rows > 0
    root = torch.where(positive, rows, torch.ones_like(rows)).rsqrt() * positive
    return values * root[pattern.row] * root[pattern.col]


def content_neighbours(
    feature: Tensor, observed: Tensor, k: int, include_self: bool = True, candidates: Tensor | None = None
) -> tuple[SparsePattern, Tensor]:
    """``knn_graph`` among the rows that were observed: what fills the others has no neighbours and is nobody's.

    Args:
        feature: Shape ``(n, dim)``.
        observed: Bool, shape ``(n,)``.
        k: Neighbours of a row, itself included if ``include_self``.
        include_self: Whether a row is its own neighbour.
        candidates: Which rows may be a neighbour of another, bool ``(n,)``: the model's ``known_items``.

    Returns:
        The pattern and the cosines, ``(n_edges,)``.
    """
    missing = ~observed
    if feature[missing].any():
        feature = feature.masked_fill(missing.unsqueeze(1), 0.0)
    return knn_graph(feature, k, include_self, candidates=candidates)


@torch.no_grad()
def undirected(pattern: SparsePattern, values: Tensor, known: Tensor | None = None) -> tuple[SparsePattern, Tensor]:
    r"""A neighbour graph with every edge in both directions: :math:`\max(S, S^\top)`.

    Args:
        pattern: Edges from items to their neighbours, square.
        values: :math:`S`, non-negative; edges of weight 0 are left out. Shape ``(n_edges,)``.
        known: Items among which this holds, bool ``(n,)``: the model's ``known_items``. The others keep their own
            edges and nobody's lead to them, so that they change nothing for these.

    Returns:
        The pattern and its weights.

    Example:
        >>> pattern = SparsePattern.from_pairs(torch.tensor([0]), torch.tensor([1]), n_rows=2, n_cols=2)
        >>> undirected(pattern, torch.tensor([3.0]))[0].col.tolist()
        [1, 0]
    """
    shape = (pattern.n_rows, pattern.n_cols)
    directed = sp.csr_matrix((values.numpy(), (pattern.row.numpy(), pattern.col.numpy())), shape=shape)
    if known is None:
        return SparsePattern.from_scipy(directed.maximum(directed.T))
    inside = sp.diags(known.numpy().astype(directed.dtype)) @ directed
    return SparsePattern.from_scipy(inside.maximum(inside.T) + (directed - inside))


def symmetric_graph(
    pattern: SparsePattern, similarity: Tensor, known: Tensor | None = None
) -> tuple[SparsePattern, Tensor]:
    """Neighbours in both directions, symmetrically normalised; new items count in no degree but their own.

    Args:
        pattern: Edges from items to their neighbours, square.
        similarity: Their cosines; negative ones are left out. Shape ``(n_edges,)``.
        known: As of :func:`undirected`.

    Returns:
        The pattern and its weights.

    Example:
        >>> pattern = SparsePattern.from_pairs(torch.tensor([0]), torch.tensor([1]), n_rows=2, n_cols=2)
        >>> symmetric_graph(pattern, torch.tensor([0.5]))[1].round(decimals=3)
        tensor([1., 1.])
    """
    pattern, values = undirected(pattern, similarity.clamp(min=0), known)
    return pattern, sym_norm(pattern, values, counted=known)


@torch.no_grad()
def content_graph(
    feature: Tensor, observed: Tensor, k: int, weighted: bool = True, candidates: Tensor | None = None
) -> tuple[SparsePattern, Tensor]:
    r"""The constant item graph of one modality: ``k`` nearest neighbours, an item always among its own, normalised.

    .. math:: S_{ij} = s_{ij} / \sqrt{r_i r_j}, \quad r_i = \textstyle\sum_j s_{ij}

    with :math:`s_{ij} = \max(\cos(f_i, f_j), 0)`, or 1 in an unweighted graph, whose full rows are plain means.
    Negative cosines occur only where fewer than ``k`` items lie within 90 degrees; they would make roots of negative
    row sums.

    Args:
        feature: Shape ``(n, dim)``.
        observed: Rows that have the modality; the others have no edge. Bool, shape ``(n,)``.
        k: Neighbours of an item, itself included.
        weighted: Whether edges weigh by cosine.
        candidates: Which items may be a neighbour of another, bool ``(n,)``: the model's ``known_items``. The others
            are attached to these, which do not notice: a row's weights depend on its own neighbours only.

    Returns:
        The pattern and its weights in float64, shape ``(n_edges,)``.

    Example:
        >>> graph = content_graph(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), torch.tensor([1, 1, 0]).bool(), 2)
        >>> graph[0].col.tolist(), graph[1].float().tolist()
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5])
    """
    pattern, _ = content_neighbours(feature, observed, k, candidates=candidates)
    values = edge_cosines(pattern, feature) if weighted else torch.ones_like(pattern.col, dtype=torch.float64)
    return pattern, row_sum_norm(pattern, values.clamp(min=0))


def base_shares(modalities: Sequence[str], weight: Mapping[str, float], image_share: float | None = None) -> Tensor:
    r"""Shares :math:`c_m \propto b_m w_m` of the modalities in a mixture of item graphs, before anything is missing.

    Args:
        modalities: Their names.
        weight: Relative weight :math:`w_m` of each.
        image_share: :math:`b_m` of the modality named ``image`` where there are others; they divide the rest equally.
            Equal :math:`b_m` if not given.

    Returns:
        Shape ``(n_modalities,)``, float64, sum 1 (0 where every share is 0).

    Example:
        >>> base_shares(["audio", "image", "text"], {"audio": 1.0, "image": 1.0, "text": 1.0}, 0.1).tolist()
        [0.45, 0.1, 0.45]
    """
    base = torch.ones(len(modalities), dtype=torch.float64)
    if image_share is not None and "image" in modalities and len(modalities) > 1:
        base.fill_((1 - image_share) / (len(modalities) - 1))
        base[list(modalities).index("image")] = image_share
    base = base * torch.tensor([weight[modality] for modality in modalities], dtype=torch.float64)
    return base / base.sum().clamp(min=torch.finfo(base.dtype).tiny)


@torch.no_grad()
def merge_graphs(graphs: Sequence[tuple[SparsePattern, Tensor]], reduce: str = "sum") -> tuple[SparsePattern, Tensor]:
    """One pattern over the union of the edges of several constant graphs.

    Args:
        graphs: Patterns of one shape with their weights, ``(n_edges,)`` each.
        reduce: What becomes of an edge that several graphs have: ``sum`` or ``amax``.

    Returns:
        The pattern without edges of weight 0, and its weights.
    """
    n_rows, n_cols = graphs[0][0].n_rows, graphs[0][0].n_cols
    key = torch.cat([pattern.row * n_cols + pattern.col for pattern, _ in graphs])
    values = torch.cat([value for _, value in graphs])
    edge, place = torch.unique(key, return_inverse=True)
    merged = values.new_zeros(len(edge)).scatter_reduce_(0, place, values, reduce, include_self=reduce == "sum")
    edge, merged = edge[merged != 0], merged[merged != 0]
    return SparsePattern.from_pairs(edge.div(n_cols, rounding_mode="floor"), edge % n_cols, n_rows, n_cols), merged


@torch.no_grad()
def mix_graphs(graphs: Sequence[tuple[SparsePattern, Tensor]], shares: Tensor) -> tuple[SparsePattern, Tensor]:
    r"""The mixture :math:`S = \sum_m \mathrm{diag}(c_{\cdot m}) S_m` of constant item graphs as one pattern.

    Args:
        graphs: Pattern and weights of each modality.
        shares: :math:`c_{im}`, shape ``(n_items, n_modalities)``.

    Returns:
        The pattern, at most the sum of the graphs' edges, and its weights.
    """
    scaled = [
        (pattern, values * shares[pattern.row, index].to(values.dtype))
        for index, (pattern, values) in enumerate(graphs)
    ]
    return merge_graphs(scaled)


class ItemGraph(nn.Module):
    r"""A constant weighted graph to spread states over, with the transpose kept for the gradient.

    Args:
        pattern: Edges, row = receiving item.
        values: Their weights; keep them in float64, so that a model in float64 computes as precisely as it may.
            Shape ``(n_edges,)``.
        known: Items whose edges training may use, bool ``(n_items,)``, the model's ``known_items``; in evaluation mode
            all edges count. ``None``: the same graph for both.

    Example:
        >>> graph = ItemGraph(*content_graph(torch.eye(2), torch.tensor([True, True]), k=1))
        >>> graph.spread(torch.tensor([[2.0], [4.0]]), n_layers=1).tolist()
        [[2.0], [4.0]]
    """

    values: Tensor
    _kept: Tensor | None
    _kept_transposed: Tensor | None

    def __init__(self, pattern: SparsePattern, values: Tensor, known: Tensor | None = None) -> None:
        super().__init__()
        self.attached = None if known is None else ItemGraph(pattern, values)
        if known is not None:
            pattern, values = edges_of_rows(pattern, values, known)
        self.pattern = pattern
        _ = pattern.transpose  # built here: a step on a device must not wait for it
        self.register_buffer("values", values, persistent=False)
        self.register_buffer("_kept", None, persistent=False)
        self.register_buffer("_kept_transposed", None, persistent=False)

    def spread(self, states: Tensor, n_layers: int) -> Tensor:
        r""":math:`S^K X`: the last layer only, without activation. Shape ``(n_items, dim)``."""
        if self.attached is not None and not self.training:
            return self.attached.spread(states, n_layers)
        forward, backward = self._weights(states.dtype)
        for _ in range(n_layers):
            states = spmm(self.pattern, forward, states, backward)
        return states

    def _weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The weights and the same in transposed order, in the type of the states, kept between steps."""
        dtype = dtype if dtype == torch.float64 else torch.float32
        if self._kept is None or self._kept.dtype != dtype:
            # What inference mode makes can never be part of a training step, and these outlive the evaluation.
            with torch.inference_mode(False):
                self._kept = self.values.to(dtype)
                self._kept_transposed = self._kept.index_select(0, self.pattern.transpose_order)
        return self._kept, self._kept_transposed  # type: ignore[return-value]

    def _apply(self, fn: Any, recurse: bool = True) -> ItemGraph:
        # Made again after a move: what was kept in float32 would keep its errors in float64.
        self._kept = self._kept_transposed = None
        return super()._apply(fn)


def edge_cosines(pattern: SparsePattern, feature: Tensor) -> Tensor:
    """Cosines of the end points of every edge in float64, a block of edges at a time.

    Args:
        pattern: Edges between rows of ``feature``.
        feature: Shape ``(n, dim)``.

    Returns:
        Shape ``(n_edges,)``; 0 on edges of rows of zeros.
    """
    length = torch.linalg.vector_norm(feature, dim=1, dtype=torch.float64).clamp_min(torch.finfo(torch.float64).tiny)
    result = length.new_empty(pattern.n_edges)
    block = max(1, EDGE_BLOCK // (2 * max(feature.shape[1], 1)))
    for start in range(0, pattern.n_edges, block):
        row, col = pattern.row[start : start + block], pattern.col[start : start + block]
        product = torch.linalg.vecdot(feature[row].double(), feature[col].double())
        result[start : start + block] = product / length[row] / length[col]  # the product of two lengths may be 0
    return result
