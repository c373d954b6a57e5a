"""Projections of some rows of a constant table, without a copy of these rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_mm.nn.linear import Linear, linear

__all__ = ["linear_rows", "project_rows"]

BLOCK = 2**22
"""Numbers of a table that are gathered at a time: 16 MB in float32."""


def project_rows(layer: nn.Module, table: Tensor, ids: Tensor | None) -> Tensor:
    r"""``layer(table[ids])`` for a table without gradients, such as features.

    A :class:`Linear` (alone, or first of an ``nn.Sequential``) is :func:`linear_rows`; other layers take the plain way.

    Args:
        layer: Maps ``(n, width)`` to ``(n, n_out)``.
        table: Shape ``(n_rows, width)``.
        ids: Rows asked for, ``(n,)``; ``None`` for all of them in order.

    Returns:
        Shape ``(n, n_out)``.

    Example:
        >>> layer = Linear(2, 1)
        >>> table = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> torch.equal(project_rows(layer, table, torch.tensor([1])), layer(table[1:]))
        True
    """
    if isinstance(layer, nn.Sequential) and len(layer):
        return layer[1:](project_rows(layer[0], table, ids))  # type: ignore[no-any-return]
    if type(layer) is not Linear or _has_hooks(layer):
        return layer(_whole(table, ids))  # type: ignore[no-any-return]
    return linear_rows(table, ids, layer.weight, layer.bias, layer.backend)


def linear_rows(
    table: Tensor, ids: Tensor | None, weight: Tensor, bias: Tensor | None = None, backend: str | None = None
) -> Tensor:
    r"""``linear(table[ids], weight, bias)`` for a table without gradients, such as features.

    .. math:: Y = X_{ids} W^\top + b, \quad \partial W = \partial Y^\top X_{ids}

    On a CPU a block of rows is gathered at a time, and again for the gradient of the weight: features are wide, and a
    copy of a step's rows costs more than both gathers. Half precision is widened by the block. Other devices and
    autocast take the plain way.

    Args:
        table: Shape ``(n_rows, width)``.
        ids: Rows asked for, ``(n,)``; ``None`` for all of them in order.
        weight: Shape ``(n_out, width)``.
        bias: Shape ``(n_out,)``.
        backend: As for :func:`linear`.

    Returns:
        Shape ``(n, n_out)``.

    Example:
        >>> linear_rows(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1]), torch.tensor([[1.0, 0.5]]))
        tensor([[5.]])
    """
    plain = table.device.type != "cpu" or table.requires_grad or torch.is_autocast_enabled("cpu")
    if plain or (ids is None and table.dtype == weight.dtype):
        return linear(_whole(table, ids), weight, bias, backend)
    return _ProjectRows.apply(table, ids, weight, bias, backend)  # type: ignore[no-any-return]


def _whole(table: Tensor, ids: Tensor | None) -> Tensor:
    rows = table if ids is None else table.index_select(0, ids)
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows


def _has_hooks(layer: nn.Module) -> bool:
    """Whether somebody watches the layer's calls."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def _blocks(table: Tensor, ids: Tensor | None, dtype: torch.dtype) -> Any:
    """Slices of ``ids`` and the rows of each; the rows are valid until the next are asked for."""
    size = max(BLOCK // max(table.shape[1], 1), 1)
    if ids is None:
        for start in range(0, len(table), size):
            part = slice(start, min(start + size, len(table)))
            yield part, table[part].to(dtype)
        return
    buffer = table.new_empty(min(size, len(ids)), table.shape[1])
    for start in range(0, len(ids), size):
        part = slice(start, min(start + size, len(ids)))
        rows = torch.index_select(table, 0, ids[part], out=buffer[: part.stop - start])
        yield part, rows.to(dtype)


class _ProjectRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, table: Tensor, ids: Tensor | None, weight: Tensor, bias: Tensor | None, backend: str | None
    ) -> Tensor:
        ctx.save_for_backward(table, ids, weight)
        ctx.backend = backend
        result = weight.new_empty(len(table if ids is None else ids), weight.shape[0])
        for part, rows in _blocks(table, ids, weight.dtype):
            result[part] = linear(rows, weight, bias, backend)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, ids, weight = ctx.saved_tensors
        of_weight = of_bias = None
        if ctx.needs_input_grad[2]:
            of_weight = torch.zeros_like(weight)
            for part, rows in _blocks(table, ids, weight.dtype):
                of_weight += linear(grad[part].t(), rows.t(), None, ctx.backend)
        if ctx.needs_input_grad[3]:
            of_bias = grad.sum(dim=0)
        return None, None, of_weight, of_bias, None
