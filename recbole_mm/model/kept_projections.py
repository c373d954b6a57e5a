"""Projections of items that are far from a batch, kept from the step in which they were last in one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from recbole_mm.model.epochs import EpochClock

__all__ = ["KeptProjections"]


class KeptProjections(nn.Module):
    """Projected features of all items, made at the first step of an epoch and then where batches meet them.

    Features are wide, and most items of a sampled neighbourhood are neighbours of neighbours: to project these anew is
    most of a step. Here the batch's own items are projected, with gradients, and written down; the others are read as
    constants. What is read is at most an epoch old. An epoch's first step makes all of it, so that a training which
    goes on after an epoch does what it would have done.

    Args:
        steps_per_epoch: Training steps of an epoch.

    Reference:
        Fey et al. "GNNAutoScale: Scalable and Expressive Graph Neural Networks via Historical Embeddings." ICML 2021,
        whose historical embeddings these are, of the input layer alone.

    Example:
        >>> kept, ids = KeptProjections(steps_per_epoch=2), torch.tensor([2, 0])
        >>> weight = torch.ones(3, 1)
        >>> project = lambda rows: weight.clone() if rows is None else weight[rows]
        >>> kept.begin_step()
        >>> kept.rows("image", project, ids, n_fresh=1).flatten()
        tensor([1., 1.])
        >>> weight *= 5
        >>> kept.begin_step()
        >>> kept.rows("image", project, ids, n_fresh=1).flatten()
        tensor([5., 1.])
    """

    def __init__(self, steps_per_epoch: int) -> None:
        super().__init__()
        self.clock = EpochClock(steps_per_epoch)
        self._tables: dict[str, Tensor] = {}  # not in the state dict: an epoch makes them anew

    def begin_step(self) -> None:
        """Count a training step; the first of an epoch forgets what was kept."""
        _, first = self.clock.tick()
        if first:
            self._tables.clear()

    def rows(self, name: str, project: Callable[[Tensor | None], Tensor], ids: Tensor, n_fresh: int) -> Tensor:
        """Projections of some items, ``(n, width)``.

        Args:
            name: What is projected, such as a modality.
            project: Projections of the given items, of all for ``None``.
            ids: The items, distinct. Shape ``(n,)``.
            n_fresh: How many of them, from the front, are projected now; the others are constants.
        """
        if name not in self._tables:
            with torch.no_grad():
                self._tables[name] = project(None)
        table, fresh = self._tables[name], project(ids[:n_fresh])
        table[ids[:n_fresh]] = fresh.detach().to(table.dtype)
        return torch.cat([fresh, table[ids[n_fresh:]].to(fresh.dtype)])
