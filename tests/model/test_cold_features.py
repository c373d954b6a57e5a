"""Under ``cold_start``, other features of what is new leave every training loss as it is, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from recbole.utils import get_model, get_trainer, init_seed

from recbole_mm.data.features.table import FeatureStore
from recbole_mm.host.tags import tags_of
from tests.model.conftest import build as build_model
from tests.model.test_contract import SMALLER, learns

QUICKER = {
    "MML": {**SMALLER["MML"], "generator_epochs": 1, "fusion_epochs": 1},
    "MCPTR": {"pretrain_epochs": 1},
}
OPTIONS: dict[str, Any] = {"epochs": 2, "feature_norm": "zscore", "eval_step": 1, "topk": [5], "valid_metric": "MRR@5"}


def changed(store: FeatureStore, entity: str, new: torch.Tensor) -> FeatureStore:
    """Other vectors of the new users or items, on another scale, in every file."""
    generator = torch.Generator().manual_seed(0)

    def other(feature: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        feature = feature.clone()
        feature[rows] = 40 * torch.randn(feature[rows].shape, generator=generator) + 3
        return feature

    tables = {m: replace(table, feature=other(table.feature, new)) for m, table in getattr(store, entity).items()}
    inter = {
        m: replace(table, feature=other(table.feature, torch.isin(getattr(table, entity), new)))
        for m, table in store.inter.items()
    }
    return replace(store, inter=inter, **{entity: tables})


def trained(name: str, entity: str, other: bool, **options: Any) -> tuple[list[Any], torch.Tensor]:
    """Losses of all epochs of a whole training, and scores of the first test users afterwards."""
    settings = {**OPTIONS, **QUICKER.get(name, {}), "cold_start": {"entity": entity, "ratio": 0.3}, **options}
    built = build_model(name, **settings)
    config, dataset = built.config, built.train_data._dataset
    new = torch.from_numpy(getattr(dataset.cold_start, f"{entity}s"))
    assert len(new) > 10
    if other:
        dataset = dataset.with_features(changed(dataset.features, entity, new))
    built.rewind()
    model = get_model(name)(config, dataset)
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    losses, epoch = [], trainer._train_epoch
    trainer._train_epoch = lambda *args, **kwargs: losses.append(epoch(*args, **kwargs)) or losses[-1]
    init_seed(config["seed"], True)
    trainer.fit(built.train_data, built.valid_data, saved=False, show_progress=False)
    interaction = next(iter(built.test_data))[0]
    with torch.no_grad():
        return losses, model.eval().full_sort_predict(interaction).view(len(interaction), -1)


@pytest.mark.parametrize("entity", ["item", "user"])
def test_features_of_the_new_change_no_training_loss(name, entity):
    (losses, scores), (again, others) = (trained(name, entity, other) for other in (False, True))
    assert len(losses) >= (2 if learns(name) else 1) and losses == again
    if entity == "item":
        by_features = tags_of(name).ranks_new_items
        assert torch.equal(scores, others) != by_features, "new items are scored by their features at evaluation"


@pytest.mark.parametrize(("name", "norm"), [("MMGCN", "zscore"), ("HCGCN", "none"), ("MMGCL", "none"), ("MML", "none")])
def test_in_the_transductive_protocol_they_do(name, norm):
    """The test above can fail: statistics, graphs, clusters, noise and the fusion's candidates read all items."""
    options = {"cold_features": "transductive", "feature_norm": norm}
    first, second = (trained(name, "item", other, **options)[0] for other in (False, True))
    assert first != second


def test_without_cold_start_the_option_changes_nothing():
    models = [build_model("HCGCN", cold_features=value).model for value in ("inductive", "transductive")]
    assert models[0].known_items is None
    assert all(torch.equal(*pair) for pair in zip(*(model.state_dict().values() for model in models)))
