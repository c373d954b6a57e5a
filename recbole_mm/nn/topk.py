"""The largest numbers of every row: blocks that cannot hold one of them are never looked into."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["top_columns"]

BLOCK = 32
"""Columns of a block. With blocks of the size of the list, both steps look at about as many numbers."""


def top_columns(scores: Tensor, k: int) -> Tensor:
    """``torch.topk(scores, k).indices``, the largest first, several times as fast for short lists on a CPU.

    The ``k + 1`` largest numbers of a row lie in the ``k + 1`` blocks of columns with the largest maxima. Rows with
    equal numbers among them are ranked by ``torch.topk`` itself, so that ties are broken as it breaks them.

    Args:
        scores: Shape ``(n_rows, n_columns)``, without NaN.
        k: Length of the lists.

    Returns:
        Columns, int64, shape ``(n_rows, k)``.

    Example:
        >>> top_columns(torch.tensor([[0.0, 3.0, 1.0, 2.0]]), 2)
        tensor([[1, 3]])
    """
    n_rows, n_columns = scores.shape
    n_blocks = n_columns // BLOCK
    if scores.device.type != "cpu" or not n_rows or n_blocks < 4 * (k + 1):
        return torch.topk(scores, k, dim=-1).indices
    cut = n_blocks * BLOCK
    blocks = scores[:, :cut].unflatten(1, (n_blocks, BLOCK))
    chosen = torch.topk(blocks.amax(dim=2), k + 1, dim=1, sorted=False).indices
    inside = (chosen.unsqueeze(2) * BLOCK + torch.arange(BLOCK)).flatten(1)
    columns = torch.cat([inside, torch.arange(cut, n_columns).expand(n_rows, -1)], dim=1)
    found = torch.topk(scores.gather(1, columns), k + 1, dim=1)
    ranked = columns.gather(1, found.indices[:, :k])
    tied = (found.values[:, 1:] == found.values[:, :-1]).any(dim=1).nonzero()[:, 0]
    if len(tied):
        ranked[tied] = torch.topk(scores[tied], k, dim=-1).indices
    return ranked
