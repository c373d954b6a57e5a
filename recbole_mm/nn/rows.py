"""Rows of tables: which of them a training step has to compute, and their lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_mm.nn.graph.sparse import full_precision

__all__ = ["batch_rows", "places_in", "rows_at", "unit_rows"]

_EPS = 1e-12  # that of torch.nn.functional.normalize


def batch_rows(ids: Tensor | None, n_rows: int, distinct: bool = False) -> tuple[Tensor | None, Tensor | None]:
    """The distinct rows behind a batch of ids, where cutting them out pays.

    With as many ids as rows it does not: then all rows are computed and the ids look their rows up. On CUDA repeated
    ids stay, since how many are distinct is known only after waiting for the device; where they must not, all rows are
    computed.

    Args:
        ids: Rows asked for, repeated ones included; ``None`` asks for all. Shape ``(batch,)``.
        n_rows: Number of rows there are.
        distinct: Whether no row may be repeated.

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
    if len(ids) >= n_rows:
        return None, ids
    if ids.device.type != "cpu":
        return (None, ids) if distinct else (ids, torch.arange(len(ids), device=ids.device))
    rows, place = torch.unique(ids, return_inverse=True)
    return rows, place


def rows_at(table: Tensor, ids: Tensor | None) -> Tensor:
    """Rows of a table, or the table itself where all are asked for (``None``), as :func:`batch_rows` says it.

    Args:
        table: Shape ``(n_rows, dim)``.
        ids: Shape ``(n,)``.

    Returns:
        Shape ``(n, dim)``.

    Example:
        >>> rows_at(torch.tensor([[1.0], [2.0]]), torch.tensor([1, 1]))
        tensor([[2.],
                [2.]])
    """
    return table if ids is None else F.embedding(ids, table)


def unit_rows(table: Tensor) -> Tensor:
    r"""Divide every row by its length: ``torch.nn.functional.normalize``, with fewer passes over memory.

    .. math:: y = x / \max(\|x\|, \epsilon), \quad \partial x = (\partial y - y \langle y, \partial y \rangle) / \|x\|

    On large tables the composed operators of torch spend most of a backward pass reading and writing; here it is three
    passes. Values are the same to the last bit. Half precision is computed and returned in float32, where epsilon is
    not 0 and a long row's length not infinite. Can be differentiated once.

    Args:
        table: Shape ``(n_rows, dim)``.

    Returns:
        Shape ``(n_rows, dim)``; rows of zeros stay zero.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    return _UnitRows.apply(full_precision(table))


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(table, dim=1, keepdim=True)
        divisor = length.clamp_min(_EPS)
        result = table / divisor
        ctx.save_for_backward(result, length, divisor)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        result, length, divisor = ctx.saved_tensors
        # Below epsilon the divisor is a constant, so nothing is projected out, as in torch.
        along = torch.linalg.vecdot(result, gradient).unsqueeze(1).neg_().mul_(length >= _EPS)
        return torch.addcmul(gradient, result, along).div_(divisor)


def places_in(ids: Tensor, n_rows: int) -> Tensor:
    """Place of each row among some distinct ids, -1 of the others. Shape ``(n,)`` to ``(n_rows,)``.

    Example:
        >>> places_in(torch.tensor([3, 1]), n_rows=4)
        tensor([-1,  1, -1,  0])
    """
    place = torch.full((n_rows,), -1, device=ids.device)
    place[ids] = torch.arange(len(ids), device=ids.device)
    return place
