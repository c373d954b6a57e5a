"""The tokens of an item for CMBF: fields for its text branch, scalars or patches for its image branch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_mm.config.names import suggest
from recbole_mm.model.feature_bank import FeatureBank
from recbole_mm.model.tokens import SideFields, one_vector, select_rows
from recbole_mm.nn.attention.coattention import Tokens
from recbole_mm.nn.attention.cross_modal import ScalarTokens

__all__ = ["ImageTokens", "ItemFields", "image_branch"]


def image_branch(requested: str | None, features: FeatureBank) -> str:
    """The modality of the image branch: the one asked for, or ``image``, or that with the widest vectors.

    Raises:
        ValueError: The modality asked for is not in use.
    """
    if requested is None:
        return "image" if "image" in features else max(features.keys(), key=lambda m: features.dims[m])
    if requested not in features:
        raise ValueError(
            f"CMBF option 'image_modality': {requested!r} is no modality in use.{suggest(requested, features.keys())} "
            f"There is {', '.join(features)}; ~ chooses by itself."
        )
    return requested


class ImageTokens(nn.Module):
    """Tokens of the image branch: one per entry of a (reduced) vector, or one per vector where items have several.

    Args:
        features: Item features.
        modality: Which of them.
        n_scalars: Entries after the reduction; ``None`` keeps all.
        dim: Width of the tokens.

    Attributes:
        n_tokens: Number of tokens of an item.
        width: Entries of an item's vectors.
    """

    def __init__(self, features: FeatureBank, modality: str, n_scalars: int | None, dim: int) -> None:
        super().__init__()
        self.features, self.modality = features, modality
        feature = features[modality]
        self.patched = feature.dim() == 3 and feature.shape[1] > 1
        self.width, width = feature[0].numel(), feature.shape[-1]
        self.n_tokens = feature.shape[1] if self.patched else n_scalars or width
        self.embed: nn.Module = nn.Linear(width, dim) if self.patched else ScalarTokens(width, self.n_tokens, dim)

    def forward(self, ids: Tensor | None = None) -> Tensor:
        """Tokens ``(n, n_tokens, dim)`` of the given items, or of all of them, in order."""
        feature = select_rows(self.features[self.modality], ids)
        return self.features.weight[self.modality] * self.embed(feature if self.patched else feature.flatten(1))

    def own(self, ids: Tensor | None = None) -> Tensor | None:
        """Which tokens are of vectors that the items have, bool ``(n, n_tokens)``; ``None`` where all are."""
        return self.features.own(self.modality, ids) if self.patched else None


class ItemFields(nn.Module):
    """Tokens of an item in the text branch: its ID, its other modalities and its side fields.

    A modality gives one token, a linear map of its vector (of the mean of several), or ``n_scalars`` tokens, one per
    entry of its reduced vector as in the image branch.

    Args:
        features: Item features.
        observed: Which items have each modality, bool ``(n_items,)``.
        modalities: The modalities that take part.
        n_items: Number of items.
        dim: Width of the tokens.
        n_scalars: Tokens per modality from its entries; 0 maps the vector to one token.
        side: Side fields.

    Attributes:
        slots: Modality to the positions of its tokens.
    """

    present: Tensor

    def __init__(
        self,
        features: FeatureBank,
        observed: dict[str, Tensor],
        modalities: list[str],
        n_items: int,
        dim: int,
        n_scalars: int,
        side: SideFields,
    ) -> None:
        super().__init__()
        self.features, self.side = features, side
        self.embedding = nn.Embedding(n_items, dim)
        self.project, self.slots = nn.ModuleDict(), {}
        present = [torch.ones(n_items, dtype=torch.bool)]
        for modality in modalities:
            width = features.dims[modality]
            self.project[modality] = ScalarTokens(width, n_scalars, dim) if n_scalars else nn.Linear(width, dim)
            self.slots[modality] = list(range(len(present), len(present) + (n_scalars or 1)))
            present += [observed[modality]] * (n_scalars or 1)
        self.register_buffer("present", torch.stack(present, dim=1), persistent=False)

    def forward(self, ids: Tensor | None = None) -> Tokens:
        """Tokens of the given items, ``(n,)``, or of all of them, in order."""
        tokens = [(self.embedding.weight if ids is None else self.embedding(ids)).unsqueeze(1)]
        for modality, project in self.project.items():
            mapped = project(select_rows(one_vector(self.features, modality), ids))
            tokens.append(self.features.weight[modality] * mapped.view(len(mapped), -1, self.embedding.embedding_dim))
        side, side_present = self.side(ids)
        present = torch.cat([select_rows(self.present, ids), side_present], dim=1)
        return Tokens(torch.cat([*tokens, side], dim=1), present)
