"""The largest numbers of every row: blocks that cannot hold one of them are never looked into."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BLOCK", "top_columns", "top_without_ties"]

BLOCK, SMALL = 32, 8
"""Columns of a block, and of a block in the blocks that were chosen or of a short row."""


def top_columns(scores: Tensor, k: int) -> Tensor:
    """``torch.topk(scores, k).indices``, the largest first, several times as fast for short lists on a CPU.

    Rows with equal numbers among the ``k + 1`` largest are ranked by ``torch.topk`` itself, so that ties are broken as
    it breaks them.

    Args:
        scores: Shape ``(n_rows, n_columns)``, without NaN.
        k: Length of the lists.

    Returns:
        Columns, int64, shape ``(n_rows, k)``.

    Example:
        >>> top_columns(torch.tensor([[0.0, 3.0, 1.0, 2.0]]), 2)
        tensor([[1, 3]])
    """
    if scores.device.type != "cpu" or not len(scores) or scores.shape[1] // SMALL < 4 * (k + 1):
        return torch.topk(scores, k, dim=-1).indices
    ranked, tied = top_without_ties(scores, k)
    if len(tied):
        ranked[tied] = torch.topk(scores[tied], k, dim=-1).indices
    return ranked


def top_without_ties(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The lists of the rows that leave no choice, and the rows that do.

    The ``k + 1`` largest numbers of a row lie in the ``k + 1`` blocks of columns with the largest maxima; the same
    holds of smaller blocks in them.

    Args:
        scores: Shape ``(n_rows, n_columns)``, without NaN, more than ``k`` columns. Rows that are contiguous and a
            multiple of :data:`BLOCK` long are read fastest.
        k: Length of the lists.

    Returns:
        Columns, int64, shape ``(n_rows, k)``; and the rows with equal numbers among the ``k + 1`` largest, whose list
        is one of several, int64.

    Example:
        >>> top_without_ties(torch.tensor([[0.0, 3.0, 1.0], [2.0, 2.0, 0.0]]), 1)
        (tensor([[1],
                [0]]), tensor([1]))
    """
    n_rows, n_columns = scores.shape
    if not n_rows:
        return torch.empty(0, k, dtype=torch.int64, device=scores.device), torch.arange(0, device=scores.device)
    columns: Tensor | None = None
    for size in (BLOCK, SMALL):
        if scores.device.type == "cpu" and scores.shape[1] // size >= 4 * (k + 1):
            inside, scores = _chosen_blocks(scores, k + 1, size)
            columns = inside if columns is None else columns.gather(1, inside)
    values, place = torch.topk(scores, k + 1, dim=1)
    ranked = place[:, :k] if columns is None else columns.gather(1, place[:, :k])
    return ranked, (values[:, 1:] == values[:, :-1]).any(dim=1).nonzero()[:, 0]


def _chosen_blocks(scores: Tensor, n: int, size: int) -> tuple[Tensor, Tensor]:
    """Columns and numbers of the ``n`` blocks of each row with the largest maxima, and of the rest of the row."""
    n_rows, n_columns = scores.shape
    n_blocks = n_columns // size
    cut = n_blocks * size
    blocks = scores[:, :cut].unflatten(1, (n_blocks, size))
    chosen = torch.topk(blocks.amax(dim=2), n, dim=1, sorted=False).indices
    columns = (chosen.unsqueeze(2) * size + torch.arange(size)).flatten(1)
    if cut == n_columns and scores.is_contiguous():
        rows = (chosen + torch.arange(0, n_rows * n_blocks, n_blocks).unsqueeze(1)).flatten()
        return columns, scores.view(-1, size).index_select(0, rows).view(n_rows, -1)
    columns = torch.cat([columns, torch.arange(cut, n_columns).expand(n_rows, -1)], dim=1)
    return columns, scores.gather(1, columns)
