"""VBPR that projects all items in every step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VBPR(nn.Module):
    """The layout of a widespread port, with the paper's biases and penalty."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.fields = (model.USER_ID, model.ITEM_ID, model.NEG_ITEM_ID)
        self.register_buffer("feature", torch.cat([model.features[m] for m in model.features], dim=1))
        self.project, self.content_bias = model.project, model.content_bias
        self.user_embedding, self.item_embedding = model.user_embedding, model.item_embedding
        self.user_content, self.item_bias, self.reg_weight = model.user_content, model.item_bias, model.reg_weight

    def forward(self) -> tuple[Tensor, Tensor]:
        """Users, and items with factors and biases of content."""
        users = torch.cat([self.user_embedding, self.user_content], dim=1)
        users = torch.cat([users, users.new_ones(len(users), 1)], dim=1)
        content = self.feature @ torch.cat(list(self.project.values()))
        bias = self.item_bias + self.feature @ torch.cat(list(self.content_bias.values()))
        return users, torch.cat([self.item_embedding, content, bias[:, None]], dim=1)

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """BPR and regularisation."""
        user, positive, negative = (interaction[field] for field in self.fields)
        users, items = self.forward()
        gap = (users[user] * (items[negative] - items[positive])).sum(dim=1)
        penalty = users[user][:, :-1].square().sum()
        for item in (positive, negative):
            penalty = penalty + self.item_embedding[item].square().sum() + self.item_bias[item].square().sum()
        return F.softplus(gap).mean(), self.reg_weight * penalty / (2 * len(user))
