"""Exchanges the vectors of a modality among those that have it: what a model loses then is what it read there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from recbole_mm.data.features.stored import TableInFile
from recbole_mm.data.features.table import AnyTable, FeatureStore

__all__ = ["permute_modality"]


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

    def exchange(tables: Mapping[str, AnyTable]) -> dict[str, AnyTable]:
        return {name: _exchange(table, generator) if name == modality else table for name, table in tables.items()}

    item, user = exchange(store.item), exchange(store.user)
    inter = dict(store.inter)
    if modality in inter:
        feature = inter[modality].feature
        inter[modality] = replace(inter[modality], feature=feature[torch.randperm(len(feature), generator=generator)])
    return replace(store, item=item, user=user, inter=inter)


def _exchange(table: AnyTable, generator: torch.Generator) -> AnyTable:
    rows: Tensor = table.observed.nonzero().squeeze(1)
    source = rows[torch.randperm(len(rows), generator=generator)]
    if isinstance(table, TableInFile):
        row = table.row.clone()
        row[rows] = table.row[source]
        return replace(table, row=row)
    feature = table.feature.clone()
    feature[rows] = table.feature[source]
    if table.count is None:
        return replace(table, feature=feature)
    count = table.count.clone()
    count[rows] = table.count[source]
    return replace(table, feature=feature, count=count)
