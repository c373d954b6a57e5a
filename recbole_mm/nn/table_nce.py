"""The contrast of a batch with all rows of a table, in memory that does not grow with their product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_mm.nn.graph.sparse import full_precision
from recbole_mm.nn.loss import CHUNK_SCORES, check_temperature
from recbole_mm.nn.rows import unit_rows

__all__ = ["table_nce_loss"]

TABLE_SCORES = {True: 2**19, False: CHUNK_SCORES}
"""Scores held at once, on a CPU (2 MB of float32, which caches hold) and elsewhere."""

FAR = 32.0
"""Bound of the scores up to which it is subtracted instead of the highest: no share is then below exp(-64)."""


def table_nce_loss(
    anchor: Tensor,
    table: Tensor,
    ids: Tensor,
    temperature: float,
    valid: Tensor | None = None,
    counted: Tensor | None = None,
    chunk_rows: int | None = None,
    normalize: bool = True,
    largest: float | None = None,
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
        largest: Size that no inner product exceeds, where that is known without ``normalize``. With a bound that is low
            enough nobody looks for the highest score of each anchor.

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
        largest = 1.0 if normalize else largest
        return _TableNCE.apply(anchor, table, ids, valid, counted, temperature, chunk_rows, largest)


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
        largest: float | None,
    ) -> Tensor:
        dim, limits = anchor.shape[1], torch.finfo(anchor.dtype)
        of_anchor = of_table = None
        if ctx.needs_input_grad[1]:  # transposed: with few columns MKL takes three times as long the other way round
            of_table = torch.zeros_like(table.t(), memory_format=torch.contiguous_format)
        bound = 0.0 if largest is None else largest / temperature
        bounded = largest is not None and bound <= FAR
        # Passes over the scores are what costs. One more column lets the product divide by the temperature, mask, and
        # subtract the bound; one of ones lets the product with the table add the scores up.
        below = anchor.new_full((1, len(table)), limits.min / 4)
        below.masked_fill_(valid, -bound if bounded else 0.0)
        keys, ends = torch.cat((table.t(), below)), torch.cat((table, anchor.new_ones(len(table), 1)), dim=1)
        queries = torch.cat((anchor / temperature, anchor.new_ones(len(anchor), 1)), dim=1)
        sums, highest = anchor.new_empty(len(anchor), dim + 1), anchor.new_full((len(anchor), 1), bound)
        weight = (counted.to(anchor.dtype) / temperature).unsqueeze(1)
        for start in range(0, len(anchor), chunk_rows):
            rows = slice(start, start + chunk_rows)
            scores = queries[rows] @ keys
            if not bounded:
                torch.amax(scores, dim=1, keepdim=True, out=highest[rows])
                scores.sub_(highest[rows])
            shares = scores.exp_()
            torch.mm(shares, ends, out=sums[rows])
            if of_table is not None:
                factor = weight[rows] / sums[rows, dim:].clamp_min(limits.tiny)
                of_table.addmm_((anchor[rows] * factor).t(), shares)
        own = table[ids]
        partition = sums[:, dim:].clamp_min(limits.tiny)  # 0 where there is no candidate, and then nothing counts
        losses = partition.log() + highest - (anchor * own).sum(dim=1, keepdim=True) / temperature
        if ctx.needs_input_grad[0]:
            of_anchor = (sums[:, :dim] / partition - own) * weight
        if of_table is not None:
            of_table = of_table.t().contiguous().index_add_(0, ids, anchor * -weight)
        ctx.save_for_backward(of_anchor, of_table)
        return (losses * counted.unsqueeze(1)).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (
            *(None if saved is None else gradient * saved for saved in ctx.saved_tensors),
            *(None,) * 6,
        )
