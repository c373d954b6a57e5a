"""The features that a model reads, as constant tables by modality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recbole_mm.data.features.store import FeatureTable
from recbole_mm.nn.graph.sparse import full_precision
from recbole_mm.nn.projection import project_rows

__all__ = ["FeatureBank", "relative_weights"]


class FeatureBank(nn.Module):
    """Feature tables of one entity as constant buffers: a mapping from modality to a ``(n, d)`` tensor.

    The tables move with the model (device, dtype) but are not part of its state dict: they are rebuilt from the
    dataset, so a checkpoint holds parameters only. Copies of the model share them, because nothing ever writes to them.

    Attributes:
        observed: Modality to a bool tensor ``(n,)``: which rows were really in the feature file.
        weight: Modality to its relative weight; the weights have mean 1.
    """

    def __init__(self, tables: Mapping[str, FeatureTable], weight: Mapping[str, float]) -> None:
        super().__init__()
        self._modalities = tuple(tables)
        self.weight = {modality: float(weight[modality]) for modality in tables}
        for index, table in enumerate(tables.values()):
            self.register_buffer(f"feature_{index}", table.feature, persistent=False)
            self.register_buffer(f"observed_{index}", table.observed, persistent=False)
            self.register_buffer(f"count_{index}", table.count, persistent=False)

    def __getitem__(self, modality: str) -> Tensor:
        feature: Tensor = getattr(self, f"feature_{self._modalities.index(modality)}")
        # Half precision saves memory at rest; the models' weights are float32, so the table is widened when it is used.
        return full_precision(feature)

    def projected(self, modality: str, layer: nn.Module, ids: Tensor | None) -> Tensor:
        """``layer`` of some rows of a table (all if ``None``): only they are read. Shape ``(n_ids, n_out)``.

        Half precision is widened by the block, so that no table of float32 is made.
        """
        table: Tensor = getattr(self, f"feature_{self._modalities.index(modality)}")
        if ids is None and table.dtype not in (torch.float16, torch.bfloat16):
            return layer(table)  # type: ignore[no-any-return]
        return project_rows(layer, table, ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modalities)

    def __len__(self) -> int:
        return len(self._modalities)

    def __contains__(self, modality: object) -> bool:
        return modality in self._modalities

    def keys(self) -> tuple[str, ...]:
        """The modalities, sorted by name."""
        return self._modalities

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Pairs of modality and feature table."""
        return ((modality, self[modality]) for modality in self._modalities)

    @property
    def observed(self) -> dict[str, Tensor]:
        """Modality to the bool tensor of the rows that have it."""
        return {modality: getattr(self, f"observed_{index}") for index, modality in enumerate(self._modalities)}

    def stacked_observed(self) -> Tensor:
        """Which rows have which modality, bool ``(n, n_modalities)``."""
        return torch.stack(list(self.observed.values()), dim=1)

    def stacked_weight(self) -> Tensor:
        """The relative weights in float64, ``(n_modalities,)``."""
        return torch.tensor([self.weight[modality] for modality in self._modalities], dtype=torch.float64)

    def own(self, modality: str, ids: Tensor | None = None) -> Tensor | None:
        """Which of an entity's ``R`` vectors are its own, bool ``(n, R)``; ``None`` where all are, of every entity.

        Args:
            modality: The modality.
            ids: Internal ids, ``(n,)``; all of them, in order, if not given.
        """
        count: Tensor | None = getattr(self, f"count_{self._modalities.index(modality)}")
        if count is None:
            return None
        places = torch.arange(self[modality].shape[1], device=count.device)
        return places < (count if ids is None else count[ids]).unsqueeze(1)

    @property
    def dims(self) -> dict[str, int]:
        """Modality to the width of its vectors."""
        return {modality: int(self[modality].shape[-1]) for modality in self._modalities}

    def weighted_mean(self, states: Mapping[str, Tensor]) -> Tensor:
        r"""Weighted mean over modalities, :math:`\tfrac1M \sum_m w_m x_m`, shaped as the states."""
        return torch.stack([self.weight[modality] * state for modality, state in states.items()]).mean(dim=0)

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureBank:
        tables = {
            modality: FeatureTable(
                modality, "item", *(getattr(self, f"{part}_{index}") for part in ("feature", "observed", "count"))
            )
            for index, modality in enumerate(self._modalities)
        }
        clone = FeatureBank(tables, self.weight)
        clone.train(self.training)
        memo[id(self)] = clone
        return clone


def relative_weights(weight: Mapping[str, float], modalities: Mapping[str, Any]) -> dict[str, float]:
    """Scale the weights of ``modalities`` to mean 1, so that equal weights are the unweighted model."""
    total = sum(weight[modality] for modality in modalities)
    return {modality: weight[modality] * len(modalities) / total for modality in sorted(modalities)}
