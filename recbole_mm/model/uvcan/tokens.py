"""The tokens of UVCAN: what its co-attention sees of an item."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from recbole_mm.model.feature_bank import FeatureBank
from recbole_mm.model.tokens import SideFields, assemble, select_rows
from recbole_mm.nn.attention.coattention import AdditiveAttention, Tokens
from recbole_mm.nn.attention.softmax import attention_pool
from recbole_mm.nn.linear import Linear

__all__ = ["ItemTokens"]


class ItemTokens(nn.Module):
    r"""ID, modalities and side fields of items.

    A modality of one vector per item gives the token :math:`w_m (W_m f_i + b_m)`, with :math:`w_m` its
    ``modality_weight``. One of :math:`R > 1` vectors (patches) is pooled once per query :math:`q`, the queries being
    the ID token and the token of every modality with one vector, each with parameters of its own:

    .. math:: p_r = w_m (W_m f_{i,r} + b_m), \quad s_r = a^\top \tanh(A p_r + B q), \quad
              v_i^q = \textstyle\sum_r \mathrm{softmax}_r(s_r)\, p_r

    over the vectors that are the item's own, where their number varies.

    Args:
        features: Item features.
        observed: Which items have each modality, bool ``(n_items,)``, for each of ``features``.
        n_items: Number of items.
        dim: Width of the tokens.
        hidden: Width of the comparisons of patches with queries.
        side: Side fields.

    Attributes:
        slots: Modality to the positions of its tokens.
    """

    present: Tensor

    def __init__(
        self, features: FeatureBank, observed: dict[str, Tensor], n_items: int, dim: int, hidden: int, side: SideFields
    ) -> None:
        super().__init__()
        self.features, self.side = features, side
        self.embedding = nn.Embedding(n_items, dim)
        self.project = nn.ModuleDict({m: Linear(width, dim) for m, width in features.dims.items()})
        patched = [m for m, feature in features.items() if feature.dim() == 3 and feature.shape[1] > 1]
        self.plain = [m for m in features if m not in patched]
        self.patch_attention = nn.ModuleDict(
            {m: nn.ModuleList(AdditiveAttention(dim, hidden, False) for _ in ("id", *self.plain)) for m in patched}
        )
        present, self.slots = [torch.ones(n_items, dtype=torch.bool)], {}
        for modality in (*self.plain, *patched):
            start = len(present)
            present.append(observed[modality])
            if modality in patched:
                present += [observed[modality] & observed[query] for query in self.plain]
            self.slots[modality] = list(range(start, len(present)))
        self.register_buffer("present", torch.stack(present, dim=1), persistent=False)

    def forward(self, ids: Tensor | None = None) -> Tokens:
        """Tokens of the given items, ``(n,)``, or of all of them, in order."""
        tokens = [self.embedding.weight if ids is None else self.embedding(ids)]
        tokens += [self._project(modality, ids).reshape(len(tokens[0]), -1) for modality in self.plain]
        queries = tuple(tokens)
        for modality, attentions in self.patch_attention.items():
            patches = self._project(modality, ids)
            own = self.features.own(modality, ids)
            own = torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device) if own is None else own
            for attention, query in zip(cast("list[AdditiveAttention]", attentions), queries):
                tokens.append(attention_pool(attention(attention.keys(patches), query, own), patches))
        return assemble(tokens, select_rows(self.present, ids), *self.side(ids))

    def _project(self, modality: str, ids: Tensor | None) -> Tensor:
        return self.features.weight[modality] * self.project[modality](select_rows(self.features[modality], ids))
