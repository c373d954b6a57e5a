"""Measures that tell whether a training went wrong: of gradients, representations, lists and parts of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Part",
    "concentration",
    "coverage_and_gini",
    "effective_rank",
    "gradient_shares",
    "idle",
    "overlap",
    "stored_values",
]

# Of a share: from here on one of several holds everything.
_EVERYTHING = 0.99
# Relative spread below which numbers count as equal; float32 leaves some 1e-7 of its own.
_EQUAL = 1e-4


class Part(NamedTuple):
    """What a part of a model does at present, for :func:`idle`.

    Attributes:
        kind: ``assignment``, shares of rows in groups, which are nothing where one group holds all rows or all rows are
            alike; or ``weights``, numbers that are nothing where they are all equal.
        values: Shape ``(n_rows, n_groups)`` for an assignment, any shape for weights.
    """

    kind: Literal["assignment", "weights"]
    values: Tensor


def idle(part: Part) -> str | None:
    """Why a part of a model does nothing; ``None`` where it does something.

    Args:
        part: The part. Rows of zeros of an assignment belong to nothing and do not count.

    Example:
        >>> idle(Part("assignment", torch.tensor([[1.0, 0.0], [1.0, 0.0]])))
        'one of its 2 groups holds 100% of everything'
        >>> idle(Part("weights", torch.tensor([0.5, 0.2])))
    """
    values = part.values.detach().double()
    if part.kind == "assignment":
        rows = values[values.sum(dim=1) > 0]
        if not len(rows) or rows.shape[1] < 2:
            return None
        largest = float((rows.sum(dim=0) / rows.sum()).max())
        if largest > _EVERYTHING:
            return f"one of its {rows.shape[1]} groups holds {largest:.0%} of everything"
        if len(rows) > 1 and float(rows.std(dim=0).max()) < _EQUAL:
            return "every row belongs to its groups alike"
        return None
    flat = values.flatten()
    if flat.numel() < 2 or float(flat.std()) > _EQUAL * max(float(flat.abs().mean()), 1e-12):
        return None
    return f"its {flat.numel():,} values are all {float(flat.mean()):.3g}"


def gradient_shares(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[float] | None:
    r"""Share of each part of a loss in the gradient of the parameters that several parts reach.

    .. math:: s_k = \|\nabla_\theta L_k\| / \sum_j \|\nabla_\theta L_j\|

    The graph is kept, and no ``.grad`` is touched, so that the training step that follows is the same.

    Args:
        losses: Scalars.
        parameters: Parameters that require gradients.

    Returns:
        The shares, which sum to 1; ``None`` where no parameter is shared or no gradient differs from 0.
    """
    gradients = [
        torch.autograd.grad(loss, list(parameters), retain_graph=True, allow_unused=True)
        if loss.requires_grad
        else [None] * len(parameters)
        for loss in losses
    ]
    squares = [0.0] * len(losses)
    for column in zip(*gradients):
        norms = [
            0.0 if gradient is None else float(torch.linalg.vector_norm(stored_values(gradient))) for gradient in column
        ]
        if sum(norm > 0 for norm in norms) > 1:
            squares = [total + norm**2 for total, norm in zip(squares, norms)]
    lengths = [square**0.5 for square in squares]
    whole = sum(lengths)
    return [length / whole for length in lengths] if 0 < whole < float("inf") else None


def stored_values(gradient: Tensor) -> Tensor:
    """The numbers of a gradient that are there: all, or of a sparse one those that it holds."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def effective_rank(rows: Tensor) -> float:
    r"""How many directions the rows really spread in, around their mean.

    .. math:: \exp\Big(-\sum_k p_k \ln p_k\Big), \quad p_k = \sigma_k^2 / \sum_j \sigma_j^2

    with the singular values of the centred rows (after Roy and Vetterli, EUSIPCO 2007, who take :math:`\sigma_k`).

    Args:
        rows: Shape ``(n, d)``.

    Returns:
        Between 1 (a line) and ``min(n, d)``; 0 for a point, whose spread is a millionth of its distance from 0.

    Example:
        >>> round(effective_rank(torch.tensor([[1.0, 1.0], [2.0, 2.0], [5.0, 5.0]])), 3)
        1.0
    """
    rows = rows.detach().double()
    centred = rows - rows.mean(dim=0)
    spread = torch.linalg.svdvals(centred).square()
    total = float(spread.sum())
    if total <= 1e-12 * float(rows.square().sum()) or total == 0:
        return 0.0
    shares = spread / spread.sum()
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def concentration(lists: Tensor) -> float:
    """Share of the places of all lists that the most frequent items take, as many items as a list is long.

    Args:
        lists: Items of each list. Shape ``(n_lists, k)``.

    Returns:
        1 where everybody gets the same.
    """
    counts = torch.unique(lists, return_counts=True)[1].sort(descending=True).values
    return float(counts[: lists.shape[1]].sum() / lists.numel())


def coverage_and_gini(lists: Tensor, n_items: int) -> tuple[float, float]:
    """Share of the items that are in a list, and the Gini index of how often they are.

    Args:
        lists: Items of each list, from 1. Shape ``(n_lists, k)``.
        n_items: Number of items with the padding.
    """
    counts = torch.bincount(lists.flatten(), minlength=n_items)[1:].double().sort().values
    place = torch.arange(1, len(counts) + 1, dtype=torch.float64)
    gini = float(((2 * place - len(counts) - 1) * counts).sum() / (len(counts) * counts.sum()))
    return float((counts > 0).double().mean()), gini


def overlap(lists: Tensor, others: Tensor) -> float:
    """Mean share of the items that two lists of the same row have in common.

    Args:
        lists: Shape ``(n_lists, k)``, each item once a list.
        others: The same shape.
    """
    return float((lists.unsqueeze(2) == others.unsqueeze(1)).any(dim=2).double().mean())
