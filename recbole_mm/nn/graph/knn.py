"""Nearest neighbours of every row by content, in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_mm.nn.graph.sparse import SparsePattern
from recbole_mm.nn.linear import linear

__all__ = ["knn_graph"]

BLOCK = 2**23
"""Similarities that are held at once: 32 MB."""


@torch.no_grad()
def knn_graph(
    features: Tensor,
    k: int,
    include_self: bool = False,
    block_rows: int | None = None,
    candidates: Tensor | None = None,
) -> tuple[SparsePattern, Tensor]:
    r"""Exact ``k`` nearest neighbours of every row by cosine similarity.

    Computed in blocks of rows: no ``n x n`` matrix and no second table is ever made. Of rows that are as similar as the
    ``k``-th one (within rounding: ``4e-6`` in float32) those with the smaller ids are taken, so that equal rows give
    the same graph on every machine; a row which counts as its own neighbour is always among them. All-zero rows, such
    as padding and missing features, have no neighbours and are nobody's neighbour.

    Args:
        features: Shape ``(n, dim)``.
        k: Neighbours per row; rows with fewer candidates get fewer.
        include_self: Whether a row counts as its own neighbour.
        block_rows: Rows per block; chosen so that a block of similarities takes about 32 MB if not given.
        candidates: Which rows may be a neighbour of another one, bool ``(n,)``; all if not given. The others have
            neighbours all the same (and themselves, with ``include_self``): so new items are attached to known ones.

    Returns:
        The ``n x n`` pattern, row = node, col = its neighbours, and the similarities in edge order with shape
        ``(n_edges,)``.

    Raises:
        ValueError: If ``k`` is not positive or ``features`` is not a matrix.

    Example:
        >>> pattern, similarity = knn_graph(torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 1.0]]), k=1)
        >>> pattern.col.tolist()
        [1, 0, 0]
    """
    if k < 1 or features.dim() != 2 or features.shape[0] < 1:
        raise ValueError(f"expected k >= 1 and features (n, dim) with n >= 1, got k = {k} and {tuple(features.shape)}")
    features = features if features.dtype == torch.float64 else features.float()
    n = features.shape[0]
    k = min(k, n)
    # What is kept of a block is written here at once: small results between large blocks would pin the heap under them.
    row, col = (torch.empty(n * k, dtype=torch.int32, device=features.device) for _ in range(2))
    similarity = features.new_empty(n * k)
    filled = 0
    for start, rows, cols, values in _blocks(features, k, include_self, block_rows or max(1, BLOCK // n), candidates):
        place = slice(filled, filled := filled + len(rows))
        row[place], col[place], similarity[place] = rows + start, cols, values
    # Blocks come in the order of their rows, and a row's neighbours in that of their ids: this is edge order.
    return SparsePattern.from_pairs(row[:filled], col[:filled], n, n), similarity[:filled].clone()


def _blocks(
    features: Tensor, k: int, include_self: bool, block: int, candidates: Tensor | None
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """First row of each block, and row within it, column and similarity of what it keeps."""
    length = torch.linalg.vector_norm(features, dim=1)
    valid = _any_in_rows(features, block)
    inverse = length.clamp_min(1e-12).reciprocal()
    forbidden = ~(valid if candidates is None else valid & candidates)
    # A product's rounding depends on the machine and its library: 1.5e-6 was the most between equal float32 rows.
    tolerance = 1e-12 if features.dtype == torch.float64 else 4e-6
    for start in range(0, len(features), block):
        # The unit vectors of a block against the table as it is: a table of all unit vectors would be a second one.
        similarity = linear(F.normalize(features[start : start + block], dim=1), features).mul_(inverse)
        rank = similarity.masked_fill(forbidden, float("-inf"))
        local = torch.arange(rank.shape[0], device=rank.device)
        rank[local, local + start] = torch.finfo(rank.dtype).max if include_self else float("-inf")
        threshold = rank.topk(k, dim=1).values[:, -1:]
        above = rank > threshold + tolerance
        tie = (rank >= threshold - tolerance).logical_and_(~above)
        room = k - above.sum(dim=1, keepdim=True)
        keep = above.logical_or_(tie.logical_and_(tie.cumsum(dim=1, dtype=torch.int32) <= room))
        keep &= rank.ne(float("-inf"))
        row, col = keep.logical_and_(valid[start : start + block, None]).nonzero(as_tuple=True)
        yield start, row, col, similarity[row, col]


def _any_in_rows(features: Tensor, block: int) -> Tensor:
    """Which rows hold anything but zeros; a mask of the whole table would take a quarter of it."""
    return torch.cat([part.ne(0).any(dim=1) for part in features.split(block)])
