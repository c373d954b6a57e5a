"""BM3 with PyG message passing: all items projected and predicted, as in the released layout."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pyg_reference.layers import LightGCN


class BM3(nn.Module):
    """Default options; dropout is drawn in the order of the model, so that losses are equal."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.fields, self.rate = (model.USER_ID, model.ITEM_ID), model.dropout
        self.weights = model.reg_weight, model.contrastive_weight
        self.encode, self.modalities = LightGCN(model), list(model.features)
        for modality, feature in model.features.items():
            self.register_buffer(f"feature_{modality}", feature)
        self.predictor, self.project, self.score = model.predictor, model.project, model.score

    def forward(self) -> tuple[Tensor, Tensor]:
        """Predicted users and items, and those that were predicted from where the score takes both."""
        users, items = self.encode()
        items = items + self.encode.items
        predicted = self.predictor(users), self.predictor(items)
        if self.score == "predicted":
            return predicted
        return torch.cat([predicted[0], users], dim=1), torch.cat([items, predicted[1]], dim=1)

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """Reconstruction, penalty and alignment."""
        user, item = (interaction[field] for field in self.fields)
        users, items = self.encode()
        items = items + self.encode.items
        predicted = self.predictor(users), self.predictor(items)
        drop = [F.dropout(x.detach(), self.rate) for x in (users[user], items[item])]
        cosine = F.cosine_similarity
        main = 2 - cosine(predicted[0][user], drop[1]).mean() - cosine(predicted[1][item], drop[0]).mean()
        align = main.new_zeros(())
        for modality in self.modalities:
            x = self.project[modality](getattr(self, f"feature_{modality}"))
            rows, target = self.predictor(x)[item], F.dropout(x[item].detach(), self.rate)
            align = align + 2 - cosine(rows, drop[1]).mean() - cosine(rows, target).mean()
        penalty = (users[1:].norm() + items[1:].norm()) / (len(items) - 1)
        return main, self.weights[0] * penalty, self.weights[1] * align
