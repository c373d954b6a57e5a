"""Does a model use its modalities? It is tested with each one's rows permuted, and retrained without each one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from recbole.utils import get_model, init_seed
from torch import Tensor

from recbole_mm.data.features.table import FeatureStore, FeatureTable, InteractionFeatures
from recbole_mm.experiment.observe import per_user_metrics
from recbole_mm.experiment.prepared import Prepared
from recbole_mm.host.loaders import dataset_of
from recbole_mm.slicing.result import split_result

__all__ = ["CONTENT_MODEL", "only_modality", "permute_modality", "permuted_results", "without_modality"]

CONTENT_MODEL = "ItemKNNCBF"
"""The model that ranks by features alone: an ablation's answer to whether they know anything about taste."""

Table = TypeVar("Table", FeatureTable, InteractionFeatures)


def without_modality(settings: Mapping[str, Any], modality: str, modalities: Iterable[str]) -> dict[str, Any]:
    """Settings of the same model without a modality.

    The modality gets weight 0, which is the same as leaving it out, and lets options per modality name it still.

    Args:
        settings: Options that differ from the defaults.
        modality: The modality to leave out.
        modalities: All that the model uses.

    Returns:
        The settings with another ``modality_weight``.
    """
    weight = settings.get("modality_weight")
    weights = weight if isinstance(weight, Mapping) else dict.fromkeys(modalities, 1.0 if weight is None else weight)
    return {**settings, "modality_weight": {**weights, modality: 0.0}}


def only_modality(settings: Mapping[str, Any], modality: str, modalities: Iterable[str]) -> dict[str, Any]:
    """Settings of the same model with one modality alone.

    Args:
        settings: Options that differ from the defaults.
        modality: The modality to keep, with the weight that it has.
        modalities: All that the model uses.

    Returns:
        The settings with another ``modality_weight``.
    """
    names = list(modalities)
    for name in names:
        settings = settings if name == modality else without_modality(settings, name, names)
    return dict(settings)


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


def permuted_results(prepared: Prepared, seed: int) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Test a trained model once per modality, with the rows of that modality permuted.

    The model is built anew from the permuted features and gets the trained parameters, so everything it derives from
    the features at the start (item graphs, projections) is derived from the permuted ones.

    Args:
        prepared: The trained model with its data and trainer.
        seed: Seed of the permutations.

    Returns:
        Modality to test metrics, and the metrics of the test users as ``permuted/<modality>/<metric>``; both empty for
        a model without features.
    """
    trainer, config, dataset = prepared.trainer, prepared.config, dataset_of(prepared.train_data)
    store: FeatureStore = getattr(dataset, "features", FeatureStore())
    trained = trainer.model
    results: dict[str, dict[str, float]] = {}
    users: dict[str, np.ndarray] = {}
    for modality in sorted(store.item):
        init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
        model = get_model(config["model"])(config, dataset.with_features(permute_modality(store, modality, seed)))
        model.load_state_dict(trained.state_dict())
        model.load_other_parameter(trained.other_parameter())
        trainer.model = model.to(config["device"])
        try:
            with per_user_metrics(trainer, dataset) as found:
                result = trainer.evaluate(prepared.test_data, load_best_model=False)
                results[modality], _ = split_result(result)
        finally:
            trainer.model = trained
        users.update({f"permuted/{modality}/{name}": value for name, value in found.items() if name != "user"})
    return results, users


def _exchange(table: Table, generator: torch.Generator) -> Table:
    if isinstance(table, InteractionFeatures):
        return replace(table, feature=table.feature[torch.randperm(len(table.feature), generator=generator)])
    rows: Tensor = table.observed.nonzero().squeeze(1)
    feature = table.feature.clone()
    feature[rows] = table.feature[rows[torch.randperm(len(rows), generator=generator)]]
    return replace(table, feature=feature)
