"""The softmax of RecBole's sequential models over the items that ``negative_items`` lets training draw."""

from __future__ import annotations

from logging import getLogger
from typing import Any

import numpy as np
import recbole.model.sequential_recommender as sequential_models
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.sequential_recommender import bert4rec
from torch import Tensor, nn

from recbole_mm.host.editing import edit
from recbole_mm.host.wrapping import wrap

__all__ = ["SeenCrossEntropy", "elementwise", "install"]


class SeenCrossEntropy(nn.CrossEntropyLoss):
    """Cross entropy without the logits of some items.

    Args:
        unseen: The items left out, bool ``(n_items,)``; logits of another width are something else and stay.
        reduction: As torch's.
    """

    unseen: Tensor

    def __init__(self, unseen: Tensor, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.register_buffer("unseen", unseen, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of scores ``(batch, n_items)`` and targets ``(batch,)``, as torch's."""
        if logits.dim() == 2 and logits.shape[1] == len(self.unseen):
            logits = logits.masked_fill(self.unseen, -torch.inf)
        return super().forward(logits, target)


def install() -> None:
    """Let the models with cross entropy over all items limit it; calling it again does nothing.

    Where every item may be drawn the models keep RecBole's loss as it is. Its padding stays a candidate.
    """
    for cls in list(vars(sequential_models).values()):
        if isinstance(cls, type) and issubclass(cls, SequentialRecommender) and "__init__" in vars(cls):
            wrap(cls, "__init__", _limited)
    if "recbole_mm" not in vars(bert4rec):
        vars(bert4rec)["recbole_mm"] = elementwise
        loss = 'nn.CrossEntropyLoss(reduction="none")'
        edit(bert4rec.BERT4Rec.calculate_loss, {loss: "recbole_mm(self)"})


def elementwise(model: Any) -> nn.CrossEntropyLoss:
    """BERT4Rec's loss, which it makes anew in every step."""
    limited: nn.CrossEntropyLoss | None = getattr(model, "seen_cross_entropy", None)
    return nn.CrossEntropyLoss(reduction="none") if limited is None else limited


def _limited(original: Any, self: Any, config: Any, dataset: Any, *args: Any, **kwargs: Any) -> None:
    original(self, config, dataset, *args, **kwargs)
    pool = getattr(dataset, "negative_items", None)
    if pool is None:
        return
    unseen = np.ones(self.n_items, dtype=bool)
    unseen[0] = False  # some targets are the padding, and count nothing
    unseen[pool] = False
    mask = torch.from_numpy(unseen)
    if isinstance(self, bert4rec.BERT4Rec):
        self.seen_cross_entropy = SeenCrossEntropy(mask, "none")
    elif type(getattr(self, "loss_fct", None)) is nn.CrossEntropyLoss:
        self.loss_fct = SeenCrossEntropy(mask)
    elif getattr(self, "loss_type", None) == "CE":
        getLogger().warning(
            f"negative_items: {type(self).__name__} has a cross entropy of its own, over all items; those without a "
            "training interaction are candidates in it."
        )
