from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from tests.host.cold_data import MODELS
from tests.options import QUICK


def prepared(model: str, **options):
    config = Config(model, "mm-toy", config_dict={**QUICK, **MODELS.get(model, {}), **options})
    init_seed(config["seed"], config["reproducibility"])
    loaders = data_preparation(config, create_dataset(config))
    network = get_model(model)(config, loaders[0]._dataset)
    return get_trainer(config["MODEL_TYPE"], model)(config, network), loaders


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("BPR", {}),
        ("MMGCN", {}),
        ("NeuMF", {}),  # scores pairs only
        ("SASRec", {}),
        ("BPR", {"eval_args": {"split": {"RS": [8, 1, 1]}, "order": "RO", "mode": "uni20"}}),
        (
            "FM",
            {"threshold": {"rating": 3}, "eval_args": {"mode": "labeled"}, "metrics": ["AUC"], "valid_metric": "AUC"},
        ),
    ],
)
def test_scores_that_are_not_finite_are_never_ranked(model, options, value):
    if model == "NeuMF" and value == np.inf:
        pytest.skip("a sigmoid makes finite scores of infinite parameters")
    trainer, loaders = prepared(model, **options)
    for parameter in trainer.model.parameters():
        with torch.no_grad():
            parameter.fill_(value)
    with pytest.raises(
        ValueError, match=f"{model} gives .* scores.*NaN or infinite in the evaluation.*parameters are not"
    ):
        trainer.evaluate(loaders[2], load_best_model=False)


def test_finite_scores_are_as_before():
    trainer, loaders = prepared("BPR")
    assert trainer.evaluate(loaders[2], load_best_model=False)["recall@10"] > 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("model", ["BPR", "MMGCN", "MML"])
def test_a_loss_that_is_not_finite_ends_the_training(model, value):
    trainer, loaders = prepared(model, epochs=2)
    for parameter in trainer.model.parameters():
        with torch.no_grad():
            parameter.fill_(value)
    where = "in epoch 0" if model == "MML" else "in epoch 0, batch 0"
    with pytest.raises(
        ValueError, match=f"{model}: the training loss is (nan|inf|-inf) {where}.*learning_rate"
    ) as caught:
        trainer.fit(loaders[0], loaders[1], saved=False, show_progress=False)
    assert "parameters are not finite" in str(caught.value)


def test_an_infinite_loss_of_finite_parameters_is_noticed(monkeypatch):
    trainer, loaders = prepared("BPR", train_batch_size=100)
    loss = trainer.model.calculate_loss
    calls = iter([1.0, 1.0, torch.inf])
    monkeypatch.setattr(
        trainer.model, "calculate_loss", lambda interaction: (loss(interaction), loss(interaction) * next(calls))
    )
    with pytest.raises(ValueError, match="BPR: the training loss is inf in epoch 0, batch 2") as caught:
        trainer.fit(loaders[0], loaders[1], saved=False, show_progress=False)
    assert "parameters are not finite" not in str(caught.value)


def test_the_validation_score_of_stages_without_validation_is_none():
    """MML chooses its fusion by a cross entropy, which is no validation score."""
    trainer, loaders = prepared("MML", train_stage="all")
    assert trainer.fit(loaders[0], None, saved=False, show_progress=False) == (-np.inf, None)
