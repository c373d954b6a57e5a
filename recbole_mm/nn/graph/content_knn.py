"""Ranking by content alone: an item scores by its similarity to the items of a history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from recbole_mm.nn.graph.bipartite import knn_graph
from recbole_mm.nn.graph.item_graph import edge_cosines
from recbole_mm.nn.graph.sparse import SparsePattern
from recbole_mm.nn.rows import places_in, unit_rows

__all__ = ["content_rows", "nearest_content", "nearest_known", "neighbour_scores"]

ROWS = 2**23
"""Numbers of content rows that are made at a time where not all are needed at once: 32 MB, and as much to make them."""


def content_rows(features: Mapping[str, Tensor], observed: Mapping[str, Tensor], weight: Mapping[str, float]) -> Tensor:
    r"""All modalities of an item side by side, so that their inner product is the weighted mean of their cosines.

    .. math:: q_i \propto [\sqrt{w_1} f^1_i / \|f^1_i\| \; \| \; \sqrt{w_2} f^2_i / \|f^2_i\| \; \| \dots]

    Args:
        features: Modality to its table. Shape ``(n_items, d_m)``.
        observed: Modality to the items that have it. Bool, shape ``(n_items,)``.
        weight: Modality to :math:`w_m`.

    Returns:
        Rows of length 1; zero for items without any modality. Shape ``(n_items, sum of widths)``.
    """
    parts = [weight[m] ** 0.5 * unit_rows(table * observed[m].unsqueeze(1)) for m, table in features.items()]
    return unit_rows(torch.cat(parts, dim=1))


def nearest_content(
    features: Mapping[str, Tensor],
    observed: Mapping[str, Tensor],
    weight: Mapping[str, float],
    k: int,
    candidates: Tensor | None = None,
    of_candidate: bool = True,
) -> tuple[SparsePattern, Tensor]:
    r"""Which items an item of a history speaks for, and how much.

    Args:
        features: Modality to its table. Shape ``(n_items, d_m)``.
        observed: Modality to the items that have it. Bool, shape ``(n_items,)``.
        weight: Modality to its weight.
        k: Neighbours of an item, itself excluded.
        candidates: Items that histories hold, bool ``(n_items,)``; with ``of_candidate`` neighbours are sought among
            them, however many items are new.
        of_candidate: Whether the ``k`` nearest of the *ranked* item count, or those of the item of the history.

    Returns:
        Edges from the item of a history to the ranked item, and their cosines :math:`\cos(q_i, q_j)` in float64,
        ``(n_edges,)``.

    Example:
        >>> table = {"text": torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])}
        >>> edges, cosine = nearest_content(table, {"text": torch.ones(4).bool()}, {"text": 1.0}, k=1)
        >>> list(zip(edges.row.tolist(), edges.col.tolist())), cosine.tolist()[:2]
        ([(0, 1), (0, 3), (1, 0), (3, 2)], [1.0, 0.7071067811865475])
    """
    content = content_rows(features, observed, weight)
    pattern, _ = knn_graph(content, k, candidates=candidates if of_candidate else None)
    pattern = pattern.transpose if of_candidate else pattern
    square = torch.zeros(len(content), dtype=torch.float64)
    product = torch.zeros(pattern.n_edges, dtype=torch.float64)
    for modality, feature in features.items():
        there = observed[modality] & feature.ne(0).any(dim=1)
        square += weight[modality] * there.double()  # a bool table times a weight would be float32
        both = there[pattern.row] & there[pattern.col]
        product += weight[modality] * edge_cosines(pattern, feature) * both
    return pattern, product / (square[pattern.row] * square[pattern.col]).sqrt()


@torch.no_grad()
def nearest_known(
    features: Mapping[str, Tensor],
    observed: Mapping[str, Tensor],
    weight: Mapping[str, float],
    known: Tensor,
    k: int,
) -> tuple[Tensor, Tensor]:
    """The known items that are nearest to each new one by the weighted mean of cosines of their modalities.

    Tables may be as large as memory: rows of length 1 are made by the block, and no second table is.

    Args:
        features: Modality to its table. Shape ``(n_items, d_m)``.
        observed: Modality to the items that have it. Bool, shape ``(n_items,)``.
        weight: Modality to its weight.
        known: Items with a training interaction. Bool, shape ``(n_items,)``.
        k: Neighbours of a new item.

    Returns:
        Ids of the new items that have content, ``(n_new,)``, and of their neighbours, ``(n_new, k)``, nearest first;
        fewer columns where fewer items are known.

    Example:
        >>> table = {"text": torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.2], [0.0, 0.0]])}
        >>> known = torch.tensor([False, True, True, False, False])
        >>> new, near = nearest_known(table, {"text": torch.ones(5).bool()}, {"text": 1.0}, known, k=1)
        >>> new.tolist(), near.tolist()
        ([3], [[1]])
    """

    def content(ids: Tensor) -> Tensor:
        return content_rows({m: t[ids] for m, t in features.items()}, {m: o[ids] for m, o in observed.items()}, weight)

    size = max(1, ROWS // sum(table.shape[1] for table in features.values()))
    everyone = torch.arange(len(known), device=known.device)
    there = torch.cat([content(ids).ne(0).any(dim=1) for ids in everyone.split(size)])
    new, old = (~known & there).nonzero().view(-1), (known & there).nonzero().view(-1)
    k = min(k, len(old))
    if not k or not len(new):
        return new[:0], new.new_empty((0, k))
    return new, torch.cat([_nearest(content, rows, old.split(size), k) for rows in new.split(size)])


def _nearest(content: Callable[[Tensor], Tensor], rows: Tensor, others: Sequence[Tensor], k: int) -> Tensor:
    """The ``k`` nearest of ``others`` to some rows, nearest first; a part of the others at a time."""
    own = content(rows)
    best, ids = own.new_empty(len(rows), 0), rows.new_empty(len(rows), 0)
    for part in others:
        score = torch.cat((best, own @ content(part).T), dim=1)
        ids = torch.cat((ids, part.expand(len(rows), -1)), dim=1)
        best, place = score.topk(min(k, score.shape[1]), dim=1)
        ids = ids.gather(1, place)
    return ids


def neighbour_scores(
    history: SparsePattern, neighbours: SparsePattern, similarity: Tensor, wanted: Tensor | None = None
) -> Tensor:
    r"""Scores of items for some users.

    .. math:: \hat y_{ui} = \textstyle\sum_{j \in N(u)} s_{ji}

    Args:
        history: Items of each user. Shape ``(n_users, n_items)``.
        neighbours: From :func:`nearest_content`.
        similarity: From the same. Shape ``(n_edges,)``.
        wanted: Distinct items whose scores are wanted, ``(n_wanted,)``; every item, in order, if not given.

    Returns:
        Shape ``(n_users, n_items)`` or ``(n_users, n_wanted)``, of the dtype of ``similarity``.
    """
    near, position = neighbours.rows(history.col)
    row, col, n_columns = history.row[near.row], near.col, neighbours.n_cols
    if wanted is not None:
        col, n_columns = places_in(wanted, n_columns)[col], len(wanted)
        kept = col >= 0
        row, col, position = row[kept], col[kept], position[kept]
    scores = similarity.new_zeros(history.n_rows * n_columns)
    scores.index_add_(0, row * n_columns + col, similarity[position])
    return scores.view(history.n_rows, n_columns)
