"""Mixtures over modalities of which an item may lack some."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["modality_shares"]


def modality_shares(base: Tensor, observed: Tensor) -> Tensor:
    r"""Shares of each item in a mixture: those of the modalities it lacks go to the others.

    .. math:: c_{im} = c_m o_{im} / \textstyle\sum_n c_n o_{in}

    Args:
        base: Shares :math:`c_m` (learned ones get gradients). Shape ``(n_modalities,)``, or a row for each item.
        observed: What each item has. Shape ``(n_items, n_modalities)``, bool.

    Returns:
        Shape ``(n_items, n_modalities)``; a row sums to 1, or is 0 where nothing is observed.

    Example:
        >>> modality_shares(torch.tensor([0.2, 0.8]), torch.tensor([[True, True], [True, False], [False, False]]))
        tensor([[0.2000, 0.8000],
                [1.0000, 0.0000],
                [0.0000, 0.0000]])
    """
    present = base * observed
    total = present.sum(dim=1, keepdim=True)
    return present / torch.where(total > 0, total, torch.ones_like(total))
