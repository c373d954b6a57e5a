"""Mixtures over modalities of which an item may lack some."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from recbole_mm.nn.graph.item_graph import base_shares, content_graph, mix_graphs
from recbole_mm.nn.graph.sparse import SparsePattern

__all__ = ["mixed_graph", "modality_shares"]


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


def mixed_graph(
    features: Iterable[tuple[str, Tensor]],
    observed: Mapping[str, Tensor],
    weight: Mapping[str, float],
    k: int,
    image_share: float | None,
    candidates: Tensor | None = None,
) -> tuple[SparsePattern, Tensor]:
    r"""FREEDOM's frozen item graph: the mean over an item's nearest ones by each modality, mixed by shares.

    .. math:: S = \textstyle\sum_m \mathrm{diag}(c_{\cdot m}) S_m

    Args:
        features: Modalities and their tables, ``(n_items, d_m)`` each; one at a time is held.
        observed: Modality to the items that have it. Bool, shape ``(n_items,)``.
        weight: Modality to its relative weight.
        k: Neighbours of an item, itself included.
        image_share: As of :func:`~recbole_mm.nn.graph.item_graph.base_shares`.
        candidates: As of :func:`~recbole_mm.nn.graph.item_graph.content_graph`.

    Returns:
        The pattern and its weights.

    Example:
        >>> table, there = torch.eye(2), torch.tensor([True, True])
        >>> mixed_graph([("text", table)], {"text": there}, {"text": 1.0}, k=1, image_share=None)[1].tolist()
        [1.0, 1.0]
    """
    graphs = {m: content_graph(f, observed[m], k, weighted=False, candidates=candidates) for m, f in features}
    shares = base_shares(list(graphs), weight, image_share)
    return mix_graphs(list(graphs.values()), modality_shares(shares, torch.stack([observed[m] for m in graphs], dim=1)))
