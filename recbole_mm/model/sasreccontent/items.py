"""Items of SASRecContent: what an item's embedding and its content make of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.model.feature_bank import FeatureBank
from recbole_mm.model.next_item import content_shares, own_or_mean
from recbole_mm.nn.attention.sequence import INITIAL_SCALE
from recbole_mm.nn.rows import rows_at

__all__ = ["FUSIONS", "PROJECTORS", "ContentItems", "ItemTable"]

FUSIONS = ("id", "content", "add", "concat", "gate", "dif")
PROJECTORS = ("linear", "mlp")


class ItemTable(NamedTuple):
    """Vectors of some items.

    Attributes:
        read: What the encoder reads of an item in a history, ``(n_rows, dim)``.
        vector: The item as a candidate, ``(n_rows, dim)``.
        content: Modality to projected features, ``(n_rows, dim)``.
        observed: Modality to the items that have it, bool ``(n_rows,)``.
    """

    read: Tensor
    vector: Tensor
    content: dict[str, Tensor]
    observed: dict[str, Tensor]


class ContentItems(nn.Module):
    """Embeddings and projected features of items, and their fusion.

    Args:
        features: The items' features.
        seen: Items with a training interaction, bool ``(n_items,)``.
        dim: Width of the vectors.
        fusion: One of :data:`FUSIONS`.
        projector: One of :data:`PROJECTORS`.
        hidden: Width of the hidden layer of the projector ``mlp``.
        feature_dropout: Dropout of the features.
        id_dropout: Probability that the mean embedding stands for an item's in a training step.
        train_features: Whether features are parameters.
    """

    shares: Tensor
    seen: Tensor

    def __init__(
        self,
        features: FeatureBank,
        seen: Tensor,
        dim: int,
        fusion: str,
        projector: str,
        hidden: int,
        feature_dropout: float,
        id_dropout: float,
        train_features: bool,
    ) -> None:
        super().__init__()
        self.fusion, self.feature_dropout, self.id_dropout = fusion, feature_dropout, id_dropout
        self.register_buffer("seen", seen, persistent=False)
        self.item_embedding = None if fusion == "content" else nn.Embedding(len(seen), dim)
        self.project, self.absent = nn.ModuleDict(), nn.ParameterDict()
        self.feature = nn.ParameterDict()
        if fusion != "id":
            self.register_buffer("shares", content_shares(features), persistent=False)
            for modality, feature in features.items():
                self.project[modality] = _projector(projector, feature.shape[1], hidden, dim, feature_dropout)
                if train_features:
                    self.feature[modality] = nn.Parameter(feature.clone())
        if fusion == "concat":
            self.absent.update({modality: nn.Parameter(torch.zeros(dim)) for modality in features})
            self.combine = nn.Linear((1 + len(features)) * dim, dim)
        elif fusion == "gate":
            self.combine = nn.Linear(2 * dim, dim)
        self.apply(_initialise)
        if fusion == "concat":  # starts as the sum of its blocks, of the scale of an embedding
            with torch.no_grad():
                self.combine.weight.copy_(torch.eye(dim).repeat(1, 1 + len(features)))

    def forward(self, features: FeatureBank, rows: Tensor | None = None) -> ItemTable:
        """Vectors of the items ``rows``, by default of all."""
        content: dict[str, Tensor] = {}
        observed: dict[str, Tensor] = {}
        for modality, project in self.project.items():
            table = self.feature[modality] if modality in self.feature else features[modality]
            content[modality] = project(F.dropout(rows_at(table, rows), self.feature_dropout, self.training))
            there = features.observed[modality]
            observed[modality] = there if rows is None else there[rows]
        if self.fusion == "id":
            embedded = rows_at(self.item_embedding.weight, rows)  # type: ignore[union-attr]
            return ItemTable(embedded, embedded, content, observed)
        mixed = self._mixed(content, rows)
        if self.fusion == "content":
            return ItemTable(mixed, mixed, content, observed)
        dropout = self.id_dropout if self.training else 0.0
        embedded, real = own_or_mean(self.item_embedding.weight, self.seen, rows, dropout)  # type: ignore[union-attr]
        if self.fusion == "dif":
            return ItemTable(embedded * real, (embedded + mixed) * real, content, observed)
        fused = self._fuse(embedded, mixed, content, observed, features) * real
        return ItemTable(fused, fused, content, observed)

    def _mixed(self, content: dict[str, Tensor], rows: Tensor | None) -> Tensor:
        shares = self.shares if rows is None else self.shares[rows]
        parts = [share.unsqueeze(1) * part for share, part in zip(shares.unbind(1), content.values())]
        return torch.stack(parts).sum(dim=0)

    def _fuse(
        self,
        embedded: Tensor,
        mixed: Tensor,
        content: dict[str, Tensor],
        observed: dict[str, Tensor],
        features: FeatureBank,
    ) -> Tensor:
        if self.fusion == "add":
            return embedded + mixed
        if self.fusion == "gate":
            gate = self.combine(torch.cat([embedded, mixed], dim=1)).sigmoid()
            # An item without content is its embedding, not half of it.
            anything = torch.stack(list(observed.values())).any(dim=0).unsqueeze(1)
            return torch.where(anything, embedded * gate + mixed * (1 - gate), embedded)
        blocks, lacking = [embedded], torch.zeros_like(embedded)
        for modality, part in content.items():
            there = observed[modality].unsqueeze(1)
            blocks.append(part * (there * features.weight[modality]))
            lacking = lacking + ~there * self.absent[modality]
        return self.combine(torch.cat(blocks, dim=1)) + lacking


def _projector(kind: str, width: int, hidden: int, dim: int, dropout: float) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width, dim)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        module.weight.data.normal_(std=INITIAL_SCALE)
    if isinstance(module, nn.Linear):
        module.bias.data.zero_()
