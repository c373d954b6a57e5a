"""Feature tables aligned to RecBole's internal ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Union

import torch
from torch import Tensor

from recbole_mm.data.features.stored import StoredTable, StreamedTable, in_blocks

__all__ = ["AnyTable", "FeatureStore", "FeatureTable", "InteractionFeatures"]


@dataclass(frozen=True)
class FeatureTable:
    """One modality of one entity, a row per internal id.

    Attributes:
        modality: Name of the modality, such as ``image``.
        entity: ``item`` or ``user``.
        feature: Vectors, ``(n, d)``, or ``(n, R, d)`` with ``R`` vectors (patches, tokens) per entity. Row 0 is
            RecBole's padding; it and the rows that are not observed are zero.
        observed: Which rows the feature file really has, bool ``(n,)``. Filling missing rows leaves it as it is.
        count: How many of the ``R`` vectors are an entity's own, ``(n,)``, where their number varies; the places beyond
            hold the mean of these. All ``R`` of a row that is not observed. ``None``: all ``R`` everywhere.
    """

    modality: str
    entity: str
    feature: Tensor
    observed: Tensor
    count: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the table, ``(n, d)`` or ``(n, R, d)``."""
        return tuple(self.feature.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the vectors."""
        return self.feature.dtype

    def rows(self, ids: Tensor) -> Tensor:
        """The vectors of some entities; a new tensor of shape ``(len(ids), ...)``."""
        return self.feature[ids]

    def blocks(self, ids: Tensor) -> tuple[Tensor, ...]:
        """The ids in the blocks of :func:`~recbole_mm.data.features.stored.in_blocks`."""
        return in_blocks(ids, self.shape)

    def parts(self, ids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Some of the ids and their vectors, a block at a time."""
        for part in self.blocks(ids):
            yield part, self.rows(part)

    def means(self) -> FeatureTable:
        """The same table with one vector for each entity, the mean of its several."""
        return FeatureTable(self.modality, self.entity, self.feature.mean(dim=1), self.observed)


AnyTable = Union[FeatureTable, StoredTable, StreamedTable]


@dataclass(frozen=True)
class InteractionFeatures:
    """One modality of interactions, such as the text of reviews.

    The rows cover the whole data set, whatever split it belongs to: a model must keep the training pairs only.

    Attributes:
        modality: Name of the modality.
        user: Internal user ids, ``(k,)``.
        item: Internal item ids, ``(k,)``.
        feature: Vectors, ``(k, d)`` or ``(k, R, d)``.
    """

    modality: str
    user: Tensor
    item: Tensor
    feature: Tensor


@dataclass(frozen=True)
class FeatureStore:
    """All active features of a data set; each mapping goes from modality to table, in the order of the names.

    ``available`` names the chosen modalities before those of weight 0 were left out: the names that an option per
    modality may use.
    """

    item: dict[str, AnyTable] = field(default_factory=dict)
    user: dict[str, AnyTable] = field(default_factory=dict)
    inter: dict[str, InteractionFeatures] = field(default_factory=dict)
    available: tuple[str, ...] = ()
