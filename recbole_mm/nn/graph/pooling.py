"""User-side features from the items of a user's history, with the scored item left out where it belongs to it."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_mm.nn.graph.sparse import SparsePattern, full_precision, spmm

__all__ = ["history_mean", "history_mean_without", "history_sum"]


def history_sum(history: SparsePattern, feature: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    r"""Sum of the feature vectors in every user's history, and how many there are.

    .. math:: S_u = \sum_{i \in \mathcal N(u)} m_i F_i, \quad n_u = \sum_{i \in \mathcal N(u)} m_i

    One sparse product; build ``history`` from training pairs only.

    Args:
        history: Distinct (user, item) pairs, ``n_users x n_items``.
        feature: Item vectors, raw or projected (pooling is linear). Shape ``(n_items, dim)``.
        observed: Whether an item has the modality, :math:`m`. Bool, shape ``(n_items,)``.

    Returns:
        :math:`S` with shape ``(n_users, dim)`` and :math:`n`, float, with shape ``(n_users,)``.

    Example:
        >>> history = SparsePattern.from_pairs(torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2]), n_rows=2, n_cols=3)
        >>> history_sum(history, torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([True, True, False]))
        (tensor([[3.],
                [0.]]), tensor([2., 0.]))
    """
    feature = full_precision(feature)
    present = observed.to(feature.dtype).unsqueeze(1)
    ones = feature.new_ones(history.n_edges)
    count = spmm(history, ones, present).squeeze(1)
    return spmm(history, ones, feature * present), count


def history_mean(total: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean over a history, :math:`x_u = S_u / \max(n_u, 1)`.

    Args:
        total: :math:`S_u` from :func:`history_sum`, for any users and one or several modalities. Shape ``(..., dim)``.
        count: :math:`n_u`. Shape ``(...)``.

    Returns:
        The means with shape ``(..., dim)``, and whether anything was averaged, bool, with shape ``(...)``.
    """
    return total / count.clamp(min=1).unsqueeze(-1), count > 0


def history_mean_without(total: Tensor, count: Tensor, target: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean over a history without the target item, for pairs whose target belongs to that history.

    .. math:: x_{u \setminus i} = \frac{S_u - m_i F_i}{\max(n_u - m_i, 1)}

    Otherwise a positive item's own features would sit in the user vector that it is scored with, while a negative's do
    not, and a model would learn to match an item with itself. Only training positives are part of the history; use
    :func:`history_mean` for negatives and for evaluation.

    Args:
        total: :math:`S_u`. Shape ``(..., dim)``.
        count: :math:`n_u`. Shape ``(...)``.
        target: :math:`F_i`, in the space of ``total``. Shape ``(..., dim)``.
        observed: :math:`m_i`, whether the target has the modality. Bool, shape ``(...)``.

    Returns:
        The means with shape ``(..., dim)``, and whether anything was left to average, bool, with shape ``(...)``.
        Where nothing was left the mean is exactly zero.

    Example:
        >>> total, count, target = torch.tensor([[6.0]]), torch.tensor([3.0]), torch.tensor([[2.0]])
        >>> history_mean_without(total, count, target, torch.tensor([True]))
        (tensor([[2.]]), tensor([True]))
    """
    removed = observed.to(total.dtype)
    left = count - removed
    mean = (total - target * removed.unsqueeze(-1)) / left.clamp(min=1).unsqueeze(-1)
    # The difference of two equal sums need not be zero in floating point.
    return torch.where((left > 0).unsqueeze(-1), mean, torch.zeros_like(mean)), left > 0
