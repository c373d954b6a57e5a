"""Neighbours drawn at random: some edges of the rows of a pattern, and some of weighted peers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recbole_mm.nn.graph.sparse import SparsePattern

__all__ = ["SPARSELY", "SampledRows", "sample_peers", "sample_rows"]

SPARSELY = 8
"""How many times as many nodes as a step meets make it cheaper to sort these than to go through all."""

LONG = 32
"""How many times its fanout a row may have edges and still be gone through edge by edge."""

FEW = 8
"""Up to which fanout the first columns of all rows are found one after the other."""


class SampledRows(NamedTuple):
    """Some of the edges of some rows of a pattern.

    Attributes:
        pattern: The edges, a row for every row asked for. Its columns may be numbered anew.
        edge: Where each of them is in the pattern that they come from. Shape ``(n_kept,)``.
        kept: Edges kept of each row. Shape ``(n_rows,)``.
        degree: Edges that each row has. Shape ``(n_rows,)``.
    """

    pattern: SparsePattern
    edge: Tensor
    kept: Tensor
    degree: Tensor

    def importance(self, dtype: torch.dtype) -> Tensor:
        """Degree over number kept, of every edge: with it a sum over the kept edges is an unbiased sum over all."""
        return (self.degree.to(dtype) / self.kept.clamp(min=1).to(dtype))[self.pattern.row]


def sample_rows(
    pattern: SparsePattern, index: Tensor, fanout: int, generator: torch.Generator | None = None
) -> SampledRows:
    r"""Keep at most ``fanout`` edges of each of the given rows, drawn uniformly without replacement.

    All columns are put into one random order and every row keeps its first ones. For a row alone that is uniform
    sampling without replacement, so :math:`\sum_{kept} \tfrac{d_r}{k_r} v_e x_e` is unbiased for the row's sum; rows
    that share columns prefer the same ones, so that fewer distinct columns are needed in all than by independent draws.
    Rows of more than ``LONG`` times ``fanout`` edges, which popular items have, draw independently of all others, since
    looking at their edges is most of the work and they share little; rows with ``fanout`` edges or fewer keep them all
    and draw nothing. PyG's ``neighbor_sampler`` draws all rows independently of each other and from a generator of its
    own: another law, and so it is not used here.

    The number of edges depends on the data, so on CUDA this waits for the device.

    Args:
        pattern: Edges to choose from.
        index: Rows asked for. Shape ``(n_index,)``.
        fanout: Most edges to keep of a row, at least 1.
        generator: Source of the order, on the pattern's device; torch's own if not given.

    Returns:
        The kept edges, columns ascending within a row as in ``pattern`` and numbered as there.

    Example:
        >>> pattern = SparsePattern.from_pairs(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 2, 1]), 2, 3)
        >>> kept = sample_rows(pattern, torch.tensor([1, 0]), fanout=2)
        >>> kept.kept.tolist(), kept.degree.tolist(), kept.importance(torch.float32).tolist()
        ([1, 2], [1, 3], [1.0, 1.5, 1.5])
    """
    start = pattern.ptr[index]
    degree = pattern.ptr[index + 1] - start
    kept = degree.clamp(max=fanout)
    ptr = torch.cat((kept.new_zeros(1), kept.cumsum(0)))
    row = torch.repeat_interleave(kept)
    edge = torch.arange(row.numel(), device=row.device) + (start - ptr[:-1])[row]
    long = degree > LONG * fanout
    for rows, draw in (((degree > fanout) & ~long, _first_in_random_order), (long, _independently)):
        if bool(rows.any()):
            edge[rows[row]] = draw(pattern, index[rows], fanout, generator).flatten()
    return SampledRows(SparsePattern(ptr, pattern.col[edge], row, pattern.n_cols), edge, kept, degree)


def _first_in_random_order(
    pattern: SparsePattern, index: Tensor, fanout: int, generator: torch.Generator | None
) -> Tensor:
    """Edges of the columns that come first in an order that all rows share, of rows that have more than ``fanout``.

    In edge order, shape ``(n_index, fanout)``.
    """
    part, edge = pattern.rows(index)
    col, n = part.col, pattern.n_cols
    if SPARSELY * len(edge) < n:  # an order of the columns that are met, not of all there are
        met, col = torch.unique(col, return_inverse=True)
        n = len(met)
    place = torch.randperm(n, generator=generator, device=edge.device)[col]
    keep = torch.zeros_like(edge, dtype=torch.bool)
    if fanout > FEW:
        ranked = (part.row * n + place).argsort()
        keep[ranked[torch.arange(len(edge), device=edge.device) - part.ptr[part.row] < fanout]] = True
    else:
        for _ in range(fanout):  # the next of each row; cheaper than a sort of all edges
            first = place.new_full((len(index),), n).scatter_reduce(0, part.row, place, "amin")
            taken = place == first[part.row]
            keep |= taken
            place = place.masked_fill(taken, n)
    return edge[keep].view(-1, fanout)


def _independently(pattern: SparsePattern, index: Tensor, fanout: int, generator: torch.Generator | None) -> Tensor:
    """Any ``fanout`` edges of rows that have more, in a time that does not depend on how many (Floyd's sampling).

    The j-th draw is among the first ``degree - fanout + j + 1`` edges and, where it is one that was drawn before, the
    last of these takes its place. In edge order, shape ``(n_index, fanout)``.
    """
    start = pattern.ptr[index]
    fewest = pattern.ptr[index + 1] - start - fanout
    chosen = index.new_empty(len(index), fanout)
    for j in range(fanout):
        share = torch.rand(len(index), dtype=torch.float64, device=index.device, generator=generator)
        drawn = (share * (fewest + j + 1)).long()
        again = (chosen[:, :j] == drawn[:, None]).any(dim=1)
        chosen[:, j] = torch.where(again, fewest + j, drawn)
    return start[:, None] + chosen.sort(dim=1).values


def sample_peers(weights: Tensor, fanout: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    r"""Choose among weighted neighbours, the heavy ones first, so that weighted sums stay unbiased.

    A neighbour is kept with probability :math:`\pi_v = \min(1, k \beta_{uv})` and then weighs
    :math:`\beta_{uv} / \pi_v`. One random number a row decides (systematic sampling): the running sum of :math:`\pi`
    plus it is cut at whole numbers, so that no row keeps more than ``fanout``. Rows with ``fanout`` neighbours or fewer
    keep them all.

    Args:
        weights: :math:`\beta`, a row sums to 1 or is 0; 0 is no neighbour. Shape ``(n, width)``.
        fanout: :math:`k`, at least 1.
        generator: As for :func:`sample_rows`.

    Returns:
        Columns chosen and their new weights, ``(n, min(fanout, width))`` each; weight 0 where fewer were.

    Example:
        >>> sample_peers(torch.tensor([[0.5, 0.5, 0.0]]), fanout=2)[1].tolist()
        [[0.5, 0.5]]
    """
    there = weights > 0
    few = there.sum(dim=1, keepdim=True) <= fanout
    share = torch.where(few, there.to(weights.dtype), (fanout * weights).clamp(max=1))
    kept = there
    if not bool(few.all()):
        offset = torch.rand(len(weights), 1, dtype=torch.float64, device=weights.device, generator=generator)
        ends = share.double().cumsum(dim=1) + offset
        starts = torch.cat((offset, ends[:, :-1]), dim=1)
        kept = there & torch.where(few, there, ends.floor() > starts.floor())
    slots = kept.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :fanout]
    chosen = kept.gather(1, slots)
    weight = torch.where(chosen, weights.gather(1, slots) / share.gather(1, slots).clamp(min=1e-30), 0.0)
    return slots, weight.to(weights.dtype)
