"""Training of an embedding generator: positions of a task at random get generated embeddings."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from recbole_mm.nn.meta.generator import ItemGenerator
from recbole_mm.nn.meta.learner import Learner
from recbole_mm.nn.meta.tasks import TaskBatch

__all__ = ["GeneratorLoss", "Replacement", "draw_replacement", "replace"]


class Replacement(NamedTuple):
    """Which positions of a task's windows, targets and negatives get a generated embedding.

    ``slot`` counts through the three tensors laid one after another, and is one past their end where a task has fewer
    replacements than another. Both are ``(T, most)``.
    """

    slot: Tensor
    item: Tensor


def draw_replacement(ids: Tensor, rate: float) -> Replacement:
    """Choose positions independently with probability ``rate``; padding is never replaced.

    Args:
        ids: Item ids, ``(T, n)``, on the CPU: the widest task sets the shape of the result.
        rate: Probability of a replacement.

    Returns:
        The chosen positions, padded with position ``n``.
    """
    chosen = (torch.rand(ids.shape) < rate) & ids.ne(0)
    most = int(chosen.sum(dim=1).max())
    slot = chosen.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    there = chosen.gather(1, slot)
    return Replacement(torch.where(there, slot, ids.shape[1]), ids.gather(1, slot))


def replace(embedded: Tensor, slot: Tensor, generated: Tensor) -> Tensor:
    """Put generated vectors into slots; those for the slot one past the end are dropped.

    Args:
        embedded: Vectors of all positions, ``(n, dim)``.
        slot: Positions, ``(most,)``.
        generated: Their new vectors, ``(most, dim)``.

    Returns:
        Shape ``(n, dim)``, with gradients for both inputs.

    Example:
        >>> replace(torch.zeros(3, 1), torch.tensor([1, 3]), torch.tensor([[5.0], [6.0]])).flatten()
        tensor([0., 5., 0.])
    """
    room = F.pad(embedded, (0, 0, 0, 1))
    return room.scatter(0, slot.unsqueeze(-1).expand_as(generated), generated.to(room.dtype))[:-1]


class GeneratorLoss:
    """Loss of one task as a function of the generator's parameters; the learner is a constant.

    Args:
        generator: The generator.
        learner: Learner of item embeddings.
        feature: The feature table that the learner reads.
    """

    def __init__(self, generator: ItemGenerator, learner: Learner, feature: Tensor) -> None:
        self.generator, self.learner, self.feature = generator, learner, feature

    def prepare(self, batch: TaskBatch, rate: float, device: torch.device) -> tuple[Tensor, ...]:
        """What the generator does not change, for every task of a batch that lies on the CPU.

        Args:
            batch: Windows, targets and negatives.
            rate: Probability that a position gets a generated embedding.
            device: Where the result is wanted.

        Returns:
            Vectors of all positions, replaced positions and their items, attention term, which positions count.
        """
        ids = torch.stack(batch, dim=1).flatten(1)
        slot, item, ids, window, counted = (
            part.to(device, non_blocking=True)
            for part in (*draw_replacement(ids, rate), ids, batch.window, batch.target.ne(0))
        )
        base, bias = self.learner.embed(ids, self.feature), self.learner.attention_bias(window, self.feature)
        return base, slot, item, bias, counted

    def __call__(
        self, parameters: dict[str, Tensor], base: Tensor, slot: Tensor, item: Tensor, bias: Tensor, counted: Tensor,
        *tables: Tensor,
    ) -> Tensor:  # fmt: skip
        """The task's BPR loss."""
        generated = functional_call(self.generator, parameters, (item, *tables))
        window, positive, negative = replace(base, slot, generated).view(3, *counted.shape, -1)
        return self.learner.local_loss(window, bias, negative - positive, counted)
