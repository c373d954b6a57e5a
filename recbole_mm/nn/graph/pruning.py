"""Random subgraphs that keep the edges of popular nodes less often."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recbole_mm.nn.graph.bipartite import BipartiteGraph

__all__ = ["draw_edges", "prune_popular", "whole"]


def draw_edges(weight: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    r"""Draw ``n`` edges one after the other without replacement, each with a probability proportional to its weight.

    An exponential race is the same: the edges with the ``n`` smallest :math:`x_e / w_e`, :math:`x_e \sim
    \mathrm{Exp}(1)`. It needs no loop and, unlike ``torch.multinomial``, no bound on the number of edges.

    Args:
        weight: Positive weights. Shape ``(n_edges,)``.
        n: Number of edges to keep.
        generator: Source of the noise, on the weights' device; torch's own if not given.

    Returns:
        Which edges are kept, exactly ``n`` of them. Bool, shape ``(n_edges,)``.

    Example:
        >>> draw_edges(torch.ones(5), 2).sum()
        tensor(2)
    """
    arrival = torch.empty_like(weight, dtype=torch.float64).exponential_(generator=generator) / weight.double()
    kept = torch.zeros_like(weight, dtype=torch.bool)
    kept[arrival.topk(n, largest=False, sorted=False).indices] = True
    return kept


def prune_popular(graph: BipartiteGraph, share: float, generator: torch.Generator | None = None) -> BipartiteGraph:
    r"""A subgraph of :math:`\lfloor (1 - \rho) E \rfloor` edges drawn with weights :math:`(d_u d_i)^{-1/2}`.

    Its own degrees are those of the kept edges, so its messages are normalised anew, alike in both directions.

    Args:
        graph: The training pairs.
        share: :math:`\rho`, the share of the edges to drop.
        generator: As for :func:`draw_edges`.

    Returns:
        The subgraph; edges keep their order, so nothing is sorted.
    """
    n = whole((1 - share) * graph.n_edges)
    return graph.subgraph(draw_edges(graph.sym_norm(torch.float64), n, generator))


def whole(number: float) -> int:
    """Whole part, where a float just below an integer is that integer: (1 - 0.9) * 10 is 1 although floats say less."""
    return math.floor(round(number, 6))
