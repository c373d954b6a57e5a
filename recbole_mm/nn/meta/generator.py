"""Generator of ID embeddings for items without interactions, from their features and those of similar items."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.nn.attention.sequence import INITIAL_SCALE

__all__ = ["EmbeddingGenerator", "ItemGenerator", "nearest_items"]


class EmbeddingGenerator(nn.Module):
    r"""An item's embedding from its own attributes and, by attention, those of its neighbours.

    .. math::
        z_j = W_g a_j + b_g, \quad s_j = w^\top [z_i; z_j] + c, \quad \alpha = \mathrm{softmax}_{j \in N(i)}(s), \quad
        g_i = \mathrm{ReLU}\Big(z_i + \sum_j \alpha_j z_j\Big)

    Args:
        width: Width of the attributes.
        dim: Width of the embeddings.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.project_weight = nn.Parameter(torch.empty(dim, width).normal_(std=INITIAL_SCALE))
        self.project_bias = nn.Parameter(torch.zeros(dim))
        self.score_weight = nn.Parameter(torch.empty(2 * dim).normal_(std=INITIAL_SCALE))
        self.score_bias = nn.Parameter(torch.zeros(()))

    def forward(self, own: Tensor, near: Tensor, there: Tensor) -> Tensor:
        """Generated embeddings.

        Args:
            own: Attributes of the items, ``(n, width)``.
            near: Attributes of their neighbours, ``(n, k, width)``.
            there: Which neighbours exist, ``(n, k)``; an item without any is generated from itself alone.

        Returns:
            Shape ``(n, dim)``, not negative.
        """
        own = F.linear(own, self.project_weight, self.project_bias)
        near = F.linear(near, self.project_weight, self.project_bias)
        for_own, for_near = self.score_weight.chunk(2)
        score = (own @ for_own).unsqueeze(-1) + near @ for_near + self.score_bias
        weight = score.masked_fill(~there, torch.finfo(score.dtype).min).softmax(dim=-1).masked_fill(~there, 0)
        return F.relu(own + (weight.unsqueeze(-1) * near).sum(dim=-2))


class ItemGenerator(nn.Module):
    """The mean of one :class:`EmbeddingGenerator` per attribute table, looked up by item.

    Args:
        tables: Attribute tables, ``(n_items, width)`` each, rows without attributes being zero.
        dim: Width of the embeddings.
        k: Neighbours of an item.
        known: Which items may be a neighbour, bool ``(n_items,)``; all if not given.
    """

    def __init__(self, tables: Sequence[Tensor], dim: int, k: int, known: Tensor | None = None) -> None:
        super().__init__()
        self.generators = nn.ModuleList([EmbeddingGenerator(table.shape[1], dim) for table in tables])
        for index, table in enumerate(tables):
            self.register_buffer(f"neighbors_{index}", nearest_items(table, k, known=known), persistent=False)

    def forward(self, items: Tensor, *tables: Tensor) -> Tensor:
        """Generated embeddings of items ``(n,)``, given the attribute tables: ``(n, dim)``."""
        generated = []
        for index, (generator, table) in enumerate(zip(self.generators, tables)):
            near = getattr(self, f"neighbors_{index}")[items]
            generated.append(generator(table[items], table[near], near.ne(0)))
        return torch.stack(generated).mean(dim=0)


def nearest_items(table: Tensor, k: int, block: int = 1024, known: Tensor | None = None) -> Tensor:
    """The ``k`` items with the largest dot product, for every item.

    The padding item, rows without attributes (all zero) and the item itself are no candidates. Of equal products the
    smaller id comes first.

    Args:
        table: Attributes, ``(n_items, width)``.
        k: Neighbours per item.
        block: Items whose products are held at once.
        known: Which items may be a neighbour, bool ``(n_items,)``; all if not given.

    Returns:
        Item ids ``(n_items, min(k, n_items - 2))``, at least one column, 0 where there are fewer candidates; row 0 is
        all 0.

    Example:
        >>> nearest_items(torch.tensor([[0.0], [1.0], [2.0], [3.0]]), k=2)
        tensor([[0, 0],
                [3, 2],
                [3, 1],
                [2, 1]])
    """
    n = len(table)
    table = table.float() if table.dtype in (torch.float16, torch.bfloat16) else table
    candidate = table.ne(0).any(dim=1)
    candidate[0] = False
    if known is not None:
        candidate &= known
    width = max(1, min(k, n - 2))  # neither the padding item nor the item itself
    nearest = torch.zeros(n, width, dtype=torch.long, device=table.device)
    for start in range(0, n, block):
        rows = torch.arange(start, min(start + block, n), device=table.device)
        product = (table[rows] @ table.T).masked_fill(~candidate, -torch.inf)
        product[rows - start, rows] = -torch.inf
        value, order = product.sort(dim=1, descending=True, stable=True)
        nearest[rows] = torch.where(value[:, :width] > -torch.inf, order[:, :width], 0)
    nearest[0] = 0
    return nearest
