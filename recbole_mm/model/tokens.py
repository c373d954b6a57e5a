"""What token models share: side fields as tokens, and which rows of a feature table count."""

from __future__ import annotations

from collections.abc import Collection
from logging import getLogger
from typing import Any

import torch
from recbole.utils import FeatureType
from torch import Tensor, nn

from recbole_mm.config.shared import MISSING_FEATURES
from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.model.feature_bank import FeatureBank
from recbole_mm.nn.attention.coattention import Tokens
from recbole_mm.nn.attention.softmax import masked_mean

__all__ = ["SideFields", "assemble", "one_vector", "present_rows", "select_rows"]

_ENTITIES = ("user", "item")


class SideFields(nn.Module):
    r"""Embeds the side fields of users or items, one token per field.

    ==========  ============================================================================================
    field type  token
    ==========  ============================================================================================
    token       its embedding
    token_seq   mean of the embeddings of the values that are really there
    float       value times a learned vector
    float_seq   linear map of the values
    ==========  ============================================================================================

    The ID field is no side field. Floats are standardised here to mean 0 and variance 1 over the entities, position by
    position for float_seq. RecBole scales them to [0, 1] before, unless ``normalize_all`` is switched off; the result
    is the same either way, since standardising undoes any scale and shift. RecBole has also replaced missing floats by
    the mean, so these get a zero token that counts as present. Under an inductive ``cold_start`` mean, variance and
    whether a field varies are those of the entities with a training interaction.

    A value is missing where the token ID is 0, where a sequence has no value, and in row 0 (the padding): its token is
    zero and its mask False. A field that holds the same value everywhere, or none, tells entities apart as little as no
    field at all and is left out.

    Args:
        dataset: RecBole dataset. One without ``.user`` or ``.item`` columns loaded has no fields.
        entity: ``user`` or ``item``.
        dim: Width of the tokens.
        only: Names of the fields to use; all that are loaded if not given.
        known: Entities that statistics may read, bool ``(n,)``; all if not given.

    Attributes:
        fields: Names of the fields, in the order of the tokens.
    """

    none: Tensor

    def __init__(
        self,
        dataset: Any,
        entity: str,
        dim: int,
        only: Collection[str] | None = None,
        known: Tensor | None = None,
    ) -> None:
        super().__init__()
        if entity not in _ENTITIES:
            raise ValueError(f"SideFields: entity must be one of {', '.join(_ENTITIES)}, got {entity!r}")
        self.dim = dim
        id_field = dataset.uid_field if entity == "user" else dataset.iid_field
        table = dataset.user_feat if entity == "user" else dataset.item_feat
        self.n_rows = dataset.user_num if entity == "user" else dataset.item_num
        known = torch.ones(self.n_rows, dtype=torch.bool) if known is None else known.clone()
        known[0] = False  # the padding
        self.embed = nn.ModuleList()
        fields, constant = [], []
        for field in [] if table is None else table.interaction:
            if field == id_field or (only is not None and field not in only):
                continue
            kind = dataset.field2type[field]
            if kind in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ):
                values = table[field].reshape(self.n_rows, -1)
                size = max(int(dataset.num(field)), int(values.max()) + 1)
                module: nn.Module | None = _TokenField(values, size, dim) if _varies(values[known]) else None
            else:
                # A discretised field holds (value, bucket) pairs: the value says it all.
                values = table[field][..., 0] if field in dataset.config["numerical_features"] else table[field]
                values, present = _standardise(values.reshape(self.n_rows, -1), kind == FeatureType.FLOAT_SEQ, known)
                module = _FloatField(values, present, dim) if _varies(values[known]) else None
            if module is None:
                constant.append(field)
            else:
                fields.append(field)
                self.embed.append(module)
        self.fields = tuple(fields)
        # What there is without any field; a buffer, so that it is where the model is.
        self.register_buffer("none", torch.zeros(self.n_rows, 0, dim), persistent=False)
        if constant:
            getLogger().info(f"{entity} fields that hold one value everywhere are left out: {', '.join(constant)}")

    def __len__(self) -> int:
        return len(self.fields)

    def forward(self, ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens of some or all entities.

        Args:
            ids: Internal ids, ``(n,)``; all of them, in order, if not given.

        Returns:
            Tokens with shape ``(n, n_fields, dim)`` and their mask, bool, with shape ``(n, n_fields)``.
        """
        if not self.fields:
            none = select_rows(self.none, ids)
            return none, none.new_zeros(none.shape[:2], dtype=torch.bool)
        tokens, masks = zip(*(embed(ids) for embed in self.embed))
        return torch.stack(tokens, dim=1), torch.stack(masks, dim=1)

    def extra_repr(self) -> str:
        """Names of the fields."""
        return ", ".join(self.fields) or "no fields"


class _TokenField(nn.Module):
    """A token or token_seq field; values ``(n, length)``, 0 where there is none."""

    values: Tensor

    def __init__(self, values: Tensor, size: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(size, dim, mode="mean", padding_idx=0)
        nn.init.xavier_normal_(self.embedding.weight)
        with torch.no_grad():
            self.embedding.weight[0].zero_()
        values = values.clone()
        values[0] = 0
        self.register_buffer("values", values, persistent=False)

    def forward(self, ids: Tensor | None) -> tuple[Tensor, Tensor]:
        values = self.values if ids is None else self.values[ids]
        return self.embedding(values), values.ne(0).any(dim=1)


class _FloatField(nn.Module):
    """A float or float_seq field; standardised values ``(n, length)``, 0 where ``present`` is False."""

    values: Tensor
    present: Tensor

    def __init__(self, values: Tensor, present: Tensor, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(values.shape[1], dim, bias=False)
        nn.init.xavier_normal_(self.project.weight)
        self.register_buffer("values", values, persistent=False)
        self.register_buffer("present", present, persistent=False)

    def forward(self, ids: Tensor | None) -> tuple[Tensor, Tensor]:
        if ids is None:
            return self.project(self.values), self.present
        return self.project(self.values[ids]), self.present[ids]


def _standardise(values: Tensor, sequence: bool, among: Tensor) -> tuple[Tensor, Tensor]:
    """Values with mean 0 and variance 1 over the present rows ``among`` which it counts, and which are present."""
    values = values.double()
    present = values.isfinite().all(dim=1)
    if sequence:  # RecBole pads with zeros: no value but zeros is an empty sequence.
        present &= values.ne(0).any(dim=1)
    present[0] = False
    known = values[present & among]
    if len(known) == 0:
        return torch.zeros_like(values, dtype=torch.float), present
    centred = torch.where(present.unsqueeze(1), values - known.mean(dim=0), torch.zeros(()).double())
    spread = known.std(dim=0, unbiased=False)
    # Rounding leaves a constant column with a tiny spread instead of none.
    spread[spread <= 1e-6 * known.abs().amax(dim=0)] = float("inf")
    return (centred / spread).float(), present


def _varies(values: Tensor) -> bool:
    """Whether any two rows differ."""
    return bool((values[1:] != values[:1]).any())


def present_rows(model: MultimodalRecommender, bank: FeatureBank) -> dict[str, Tensor]:
    """Which rows of each modality count as present, bool ``(n,)``.

    The observed ones, or all but the padding if ``missing_feature`` fills the others.
    """
    filled = model.options.choice("missing_feature", MISSING_FEATURES) in ("mean", "knn")
    return {m: torch.arange(len(rows)) > 0 if filled else rows for m, rows in bank.observed.items()}


def assemble(tokens: list[Tensor], present: Tensor, side: Tensor, side_present: Tensor) -> Tokens:
    """Tokens ``(n, dim)`` one beside the other, and the side fields ``(n, n_fields, dim)`` behind them."""
    return Tokens(torch.cat([torch.stack(tokens, dim=1), side], dim=1), torch.cat([present, side_present], dim=1))


def select_rows(table: Tensor, ids: Tensor | None) -> Tensor:
    """The rows ``ids``, or the table itself."""
    return table if ids is None else table[ids]


def one_vector(features: FeatureBank, modality: str) -> Tensor:
    """Features with one vector per entity, ``(n, d)``: the mean of its own ones where there are several."""
    feature = features[modality]
    return masked_mean(feature, features.own(modality)) if feature.dim() == 3 else feature
