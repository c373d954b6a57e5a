"""Sums and softmax over the segments of a CSR pointer, and attention over edges."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_mm.nn.graph.sparse import SparsePattern, full_precision, spmm

__all__ = ["attend", "columns", "segment_softmax", "segment_sum"]


def segment_sum(values: Tensor, ptr: Tensor) -> Tensor:
    """Sum of ``values`` within each segment of a CSR pointer; deterministic on every device.

    Args:
        values: Shape ``(n_edges,)`` or ``(n_edges, k)``.
        ptr: Shape ``(n_segments + 1,)``.

    Returns:
        Shape ``(n_segments,)`` or ``(n_segments, k)``; 0 for empty segments.
    """
    return torch.segment_reduce(values, "sum", offsets=ptr, unsafe=True)


def segment_softmax(logits: Tensor, ptr: Tensor, row: Tensor | None = None) -> Tensor:
    r"""Softmax of ``logits`` within each segment of a CSR pointer.

    .. math:: \alpha_e = \exp(s_e - m_r) / \sum_{e' \in r} \exp(s_{e'} - m_r), \quad m_r = \max_{e' \in r} s_{e'}

    Empty segments contribute nothing, so isolated nodes never produce NaN; a logit of minus infinity gets weight 0.

    Args:
        logits: One score, or ``k`` scores, per edge, edges sorted by segment. Shape ``(n_edges,)`` or ``(n_edges, k)``.
        ptr: Start of each segment, then the end. Shape ``(n_segments + 1,)``.
        row: Segment of each edge where it is at hand (``pattern.row``). Shape ``(n_edges,)``.

    Returns:
        Weights that sum to 1 within every non-empty segment. Shape of ``logits``.

    Example:
        >>> segment_softmax(torch.tensor([0.0, 0.0, 5.0]), torch.tensor([0, 2, 2, 3]))
        tensor([0.5000, 0.5000, 1.0000])
    """
    if row is None:
        row = torch.repeat_interleave(ptr.diff(), output_size=logits.shape[0])
    return _SegmentSoftmax.apply(full_precision(logits), ptr, row)


def attend(pattern: SparsePattern, logits: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    r"""Attention of every row over its columns, from one logit per edge.

    .. math:: \alpha_e = \mathrm{softmax}_{e \in r}(s_e), \quad Y_r = \sum_{e = (r, c)} \alpha_e V_c

    Args:
        pattern: Edges from attending rows to attended columns.
        logits: For instance ``sddmm(pattern, query, key)``, gated or scaled. Shape ``(n_edges,)``.
        value: Shape ``(n_cols, dim)``.

    Returns:
        The weighted sums with shape ``(n_rows, dim)``, zero for rows without an edge, and the weights with shape
        ``(n_edges,)``.
    """
    weights = segment_softmax(logits, pattern.ptr, pattern.row)
    return spmm(pattern, weights, value), weights


def columns(pattern: SparsePattern, table: Tensor) -> Tensor:
    """The row of ``table`` that belongs to the column of every edge; the gradient is one sum over segments.

    Args:
        pattern: Edges.
        table: Shape ``(n_cols, k)``.

    Returns:
        Shape ``(n_edges, k)``.

    Example:
        >>> pattern = SparsePattern.from_pairs(torch.tensor([0, 1]), torch.tensor([1, 0]), n_rows=2, n_cols=2)
        >>> columns(pattern, torch.tensor([[1.0], [2.0]])).tolist()
        [[2.0], [1.0]]
    """
    return _Columns.apply(pattern, table)


class _Columns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pattern: SparsePattern, table: Tensor) -> Tensor:
        ctx.pattern = pattern
        return table.index_select(0, pattern.col)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        pattern = ctx.pattern
        return None, segment_sum(gradient.index_select(0, pattern.transpose_order), pattern.transpose.ptr)


class _SegmentSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, ptr: Tensor, row: Tensor) -> Tensor:
        limits = torch.finfo(logits.dtype)
        highest = torch.segment_reduce(logits, "max", offsets=ptr, unsafe=True).clamp_(min=limits.min)
        weights = (logits - highest.index_select(0, row)).exp_()
        weights = weights.div_(segment_sum(weights, ptr).clamp_(min=limits.tiny).index_select(0, row))
        ctx.save_for_backward(weights, ptr, row)
        return weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weights, ptr, row), (grad,) = ctx.saved_tensors, grads
        weighted = weights * grad
        return weighted - weights * segment_sum(weighted, ptr).index_select(0, row), None, None
