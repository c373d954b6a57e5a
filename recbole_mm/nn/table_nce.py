"""The contrast of a batch with all rows of a table, in memory that does not grow with their product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_mm.nn.graph.sparse import full_precision
from recbole_mm.nn.loss import CHUNK_SCORES, check_temperature
from recbole_mm.nn.rows import unit_rows

__all__ = ["table_nce_loss"]

TABLE_SCORES = {True: 2**21, False: CHUNK_SCORES}
"""Scores held at once, on a CPU (8 MB of float32, which caches hold) and elsewhere."""


def table_nce_loss(
    anchor: Tensor,
    table: Tensor,
    ids: Tensor,
    temperature: float,
    valid: Tensor | None = None,
    counted: Tensor | None = None,
    chunk_rows: int | None = None,
    normalize: bool = True,
) -> Tensor:
    r"""Contrast of anchors with their rows of a whole table, all other rows being negatives; a sum over the anchors.

    .. math:: \sum_b \ln \sum_{j \in V} \exp s(a_b, y_j) - s(a_b, y_{i_b}),
        \quad s(x, y) = \frac{\langle x, y \rangle}{\tau \, \|x\| \|y\|}

    The ``(batch, n_rows)`` scores are never held at once, neither now nor for the backward pass: a chunk of anchors at
    a time gives its part of the loss and, the loss being a sum, its part of the gradients. Can be differentiated once.

    Args:
        anchor: Shape ``(batch, dim)``; an id may occur in several rows.
        table: Shape ``(n_rows, dim)``.
        ids: Row of the table that belongs to each anchor. Shape ``(batch,)``.
        temperature: :math:`\tau`, greater than 0.
        valid: Rows of the table that are candidates, :math:`V`; all if not given. Bool, shape ``(n_rows,)``.
        counted: Anchors that are added up, those whose own row is a candidate at most; all of these if not given. Bool,
            shape ``(batch,)``.
        chunk_rows: Anchors whose scores are held at once.
        normalize: Whether rows are divided by their lengths; otherwise :math:`s` is the inner product over
            :math:`\tau`.

    Returns:
        A scalar; 0 if no anchor is counted.

    Raises:
        ValueError: If the shapes do not match or the temperature is not a positive number.

    Example:
        >>> table_nce_loss(torch.eye(4), torch.eye(4), torch.arange(4), temperature=0.2)
        tensor(0.0800)
    """
    check_temperature(temperature)
    batch = len(ids)
    if anchor.shape != (batch, table.shape[-1]) or table.dim() != 2:
        raise ValueError(
            f"expected anchors (batch, dim) for {batch} ids and a table (n_rows, dim), "
            f"got {tuple(anchor.shape)} and {tuple(table.shape)}"
        )
    for name, mask, size in (("valid", valid, len(table)), ("counted", counted, batch)):
        if mask is not None and (mask.dtype != torch.bool or mask.shape != (size,)):
            raise ValueError(f"{name} must be a bool vector of shape ({size},), got {mask.dtype} {tuple(mask.shape)}")
    if valid is None:
        valid = torch.ones(len(table), dtype=torch.bool, device=table.device)
    counted = valid[ids] if counted is None else counted & valid[ids]
    if chunk_rows is None:
        chunk_rows = max(1, TABLE_SCORES[anchor.device.type == "cpu"] // max(len(table), 1))
    with torch.autocast(anchor.device.type, enabled=False):
        anchor, table = ((unit_rows if normalize else full_precision)(view) for view in (anchor, table))
        return _TableNCE.apply(anchor, table, ids, valid, counted, temperature, chunk_rows)


class _TableNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        table: Tensor,
        ids: Tensor,
        valid: Tensor,
        counted: Tensor,
        temperature: float,
        chunk_rows: int,
    ) -> Tensor:
        total = anchor.new_zeros(())
        gradients = [
            torch.zeros_like(view) if need else None for view, need in zip((anchor, table), ctx.needs_input_grad)
        ]
        scale = counted.to(anchor.dtype) / temperature
        for start in range(0, len(anchor), chunk_rows):
            rows = slice(start, start + chunk_rows)
            part, weight, own = anchor[rows], scale[rows].unsqueeze(1), table[ids[rows]]
            scores = (part @ table.t()).div_(temperature).masked_fill_(~valid, torch.finfo(anchor.dtype).min / 4)
            highest = scores.amax(dim=1, keepdim=True)
            shares = scores.sub_(highest).exp_()
            partition = shares.sum(dim=1, keepdim=True)
            losses = partition.log() + highest - (part * own).sum(dim=1, keepdim=True) / temperature
            total += (losses * counted[rows].unsqueeze(1)).sum()
            shares.mul_(weight / partition)
            if gradients[0] is not None:
                gradients[0][rows] = torch.addmm(own * weight, shares, table, beta=-1)
            if gradients[1] is not None:
                gradients[1].addmm_(shares.t(), part)
        if gradients[1] is not None:
            gradients[1].index_add_(0, ids, anchor * -scale.unsqueeze(1))
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (
            *(None if saved is None else gradient * saved for saved in ctx.saved_tensors),
            None,
            None,
            None,
            None,
            None,
        )
