"""Does a model use its modalities? It is tested with each one's rows permuted, and retrained without each one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from recbole.utils import get_model, init_seed

from recbole_mm.data.features.permute import permute_modality
from recbole_mm.data.features.table import FeatureStore
from recbole_mm.experiment.observe import per_user_metrics
from recbole_mm.experiment.prepared import Prepared
from recbole_mm.host.loaders import dataset_of
from recbole_mm.slicing.result import split_result

__all__ = ["CONTENT_MODEL", "only_modality", "permuted_results", "without_modality"]

CONTENT_MODEL = "ItemKNNCBF"
"""The model that ranks by features alone: an ablation's answer to whether they know anything about taste."""


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
