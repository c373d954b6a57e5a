"""Which rows of a table a training step has to compute."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["batch_rows"]


def batch_rows(ids: Tensor | None, n_rows: int) -> tuple[Tensor | None, Tensor | None]:
    """The distinct rows behind a batch of ids, where cutting them out pays.

    On CUDA it does not: how many ids are distinct is known only after waiting for the device. Nor does it with as many
    ids as rows. Then all rows are computed and the ids look their rows up.

    Args:
        ids: Rows asked for, repeated ones included; ``None`` asks for all. Shape ``(batch,)``.
        n_rows: Number of rows there are.

    Returns:
        The rows to compute (``None``: all), and the place of each id among them (``None``: everything, in order).

    Example:
        >>> batch_rows(torch.tensor([7, 2, 7]), n_rows=10)
        (tensor([2, 7]), tensor([1, 0, 1]))
        >>> batch_rows(torch.tensor([1, 1, 0]), n_rows=2)
        (None, tensor([1, 1, 0]))
    """
    if ids is None:
        return None, None
    if ids.is_cuda or len(ids) >= n_rows:
        return None, ids
    rows, place = torch.unique(ids, return_inverse=True)
    return rows, place
