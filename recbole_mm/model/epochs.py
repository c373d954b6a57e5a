"""Work that a model does once an epoch: RecBole's trainer does not say when one starts, so the model counts steps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["EpochClock", "epoch_steps"]


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
