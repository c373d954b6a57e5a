"""A smallest multimodal model, for tests of what happens around models. Tests register it; importing it does not."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.nn.loss import bpr_loss


class HostToy(MultimodalRecommender):
    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        dim = self.options.integer("toy_dim", minimum=1)
        self.user_embedding = nn.Embedding(self.n_users, dim)
        self.project = nn.ModuleDict({name: nn.Linear(table.shape[1], dim) for name, table in self.features.items()})

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.user_embedding.weight, sum(self.project[name](table) for name, table in self.features.items())

    def calculate_loss(self, interaction: Any) -> Tensor:
        users, items = self.forward()
        user = users[interaction[self.USER_ID]]
        positive, negative = items[interaction[self.ITEM_ID]], items[interaction[self.NEG_ITEM_ID]]
        return bpr_loss((user * positive).sum(-1), (user * negative).sum(-1))
