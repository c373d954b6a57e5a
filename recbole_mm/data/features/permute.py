"""Exchanges the vectors of a modality among those that have it: what a model loses then is what it read there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from recbole_mm.data.features.table import FeatureStore, FeatureTable, InteractionFeatures

__all__ = ["permute_modality"]

Table = TypeVar("Table", FeatureTable, InteractionFeatures)


def permute_modality(store: FeatureStore, modality: str, seed: int) -> FeatureStore:
    """Exchange the vectors of a modality among the entities that have it.

    What the modality says about an item is then what it said about another one, while its distribution, and who lacks
    it, stay the same. Vectors of users and interactions of the same modality are exchanged too.

    Args:
        store: Features of a data set; not changed.
        modality: Which modality.
        seed: Seed of the permutation; no global random state is used.

    Returns:
        Features that share every other table with ``store``.
    """
    generator = torch.Generator().manual_seed(seed)

    def exchange(tables: Mapping[str, Table]) -> dict[str, Table]:
        return {name: _exchange(table, generator) if name == modality else table for name, table in tables.items()}

    return replace(store, item=exchange(store.item), user=exchange(store.user), inter=exchange(store.inter))


def _exchange(table: Table, generator: torch.Generator) -> Table:
    if isinstance(table, InteractionFeatures):
        return replace(table, feature=table.feature[torch.randperm(len(table.feature), generator=generator)])
    rows: Tensor = table.observed.nonzero().squeeze(1)
    feature, source = table.feature.clone(), rows[torch.randperm(len(rows), generator=generator)]
    feature[rows] = table.feature[source]
    if table.count is None:
        return replace(table, feature=feature)
    count = table.count.clone()
    count[rows] = table.count[source]
    return replace(table, feature=feature, count=count)
