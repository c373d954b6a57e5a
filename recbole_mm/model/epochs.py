"""Work that a model does once an epoch: RecBole's trainer does not say when one starts, so the model counts steps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from recbole_mm.nn.graph.bipartite import BipartiteGraph
from recbole_mm.nn.graph.pruning import prune_popular

__all__ = ["EpochClock", "PrunesEdges", "epoch_steps"]


class EpochClock(nn.Module):
    """Counts training steps, in the state dict and on the host, so that no step waits for the device.

    Args:
        steps_per_epoch: Training steps of an epoch.

    Example:
        >>> clock = EpochClock(2)
        >>> [clock.tick() for _ in range(4)]
        [(0, True), (0, False), (1, True), (1, False)]
    """

    steps: Tensor

    def __init__(self, steps_per_epoch: int) -> None:
        super().__init__()
        self.steps_per_epoch = steps_per_epoch
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self._steps = 0
        self.register_load_state_dict_post_hook(EpochClock._read_steps)

    def _read_steps(self, *_: Any) -> None:
        self._steps = int(self.steps)

    def tick(self) -> tuple[int, bool]:
        """Count one more training step: the number of its epoch, from 0, and whether it is the epoch's first."""
        epoch, step = divmod(self._steps, self.steps_per_epoch)
        self._steps += 1
        self.steps += 1
        return epoch, step == 0


def epoch_steps(config: Any, dataset: Any) -> int:
    """Batches of an epoch. RecBole's loader counts every negative of a pair as a row of the batch."""
    n_negatives = config["train_neg_sample_args"]["sample_num"]
    pairs = config["train_batch_size"] // (n_negatives if isinstance(n_negatives, int) else 1)
    return max(math.ceil(len(dataset.inter_feat) / max(pairs, 1)), 1)


class PrunesEdges:
    r"""Beside a model base: in every epoch training does without some edges, those of popular nodes first.

    :math:`\lfloor (1 - \rho) E \rfloor` edges are drawn on the model's device, without replacement and with weights
    :math:`(d_u d_i)^{-1/2}`; evaluation uses all. The seed and the number of the epoch decide which, so that a run
    which goes on from a checkpoint draws the same. A model sets ``graph``, calls :meth:`set_up_pruning`, propagates
    over :meth:`present_graph` and calls :meth:`prune` in every step.
    """

    graph: BipartiteGraph
    training: bool

    def set_up_pruning(self, config: Any, share: float) -> None:
        r"""Keep which share of the edges an epoch does without, :math:`\rho`."""
        self.edge_dropout = share
        self.pruned: BipartiteGraph | None = None
        self.seed, self._pruned_in = int(config["seed"]), -1

    def present_graph(self) -> BipartiteGraph:
        """The graph of the epoch in training, all edges otherwise."""
        return self.pruned if self.training and self.pruned is not None else self.graph

    def prune(self, epoch: int) -> None:
        """Draw the edges of an epoch, on the device, unless they are at hand."""
        if self.edge_dropout == 0 or epoch == self._pruned_in:
            return
        generator = torch.Generator(self.graph.user_degree.device)
        generator.manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        self.pruned, self._pruned_in = prune_popular(self.graph, self.edge_dropout, generator), epoch
