"""The option ``mask_validation``: the test's figures recomputed from scores and the lists of the split alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

import recbole_mm
from tests.options import QUICK, SEQUENTIAL

RANDOM = {"rm_dup_inter": "last", "eval_args": {"split": {"RS": [0.5, 0.2, 0.3]}, "order": "RO", "mode": "full"}}


def parts(model: str, options: dict[str, Any]) -> tuple[Any, ...]:
    config = Config(model, "mm-toy", config_dict={**QUICK, "metric_decimal_place": 12, **options})
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    return (config, dataset, *data_preparation(config, dataset))


def pairs(loader: Any) -> set[tuple[int, int]]:
    rows = loader._dataset.inter_feat
    return set(zip(rows["user_id"].tolist(), rows["item_id"].tolist()))


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("model", ["BPR", "MMGCN"])
def test_recall_is_that_of_lists_without_the_masked_items(model: str, mask: bool) -> None:
    config, _, train, valid, test = parts(model, {**RANDOM, "mask_validation": mask})
    network = get_model(model)(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, network)
    reported = trainer.evaluate(test, load_best_model=False)
    past, asked = pairs(train) | (pairs(valid) if mask else set()), pairs(test)
    network.eval()
    recalls = []
    for user in sorted({user for user, _ in asked}):
        interaction = trainer.model.full_sort_predict({"user_id": torch.tensor([user])})
        scores = interaction.detach().numpy().reshape(-1).astype(np.float64)
        scores[[0, *(item for owner, item in past if owner == user and (user, item) not in asked)]] = -np.inf
        best = np.argsort(-scores, kind="stable")[:10].tolist()
        positives = {item for owner, item in asked if owner == user}
        recalls.append(len(positives.intersection(best)) / len(positives))
    assert reported["recall@10"] == pytest.approx(np.mean(recalls), abs=1e-9)


def test_validation_masks_the_same_either_way_and_the_test_does_not() -> None:
    masked = {
        value: [
            sum(len(items) for items in loader.uid2history_item if items is not None)
            for loader in parts("BPR", {**RANDOM, "mask_validation": value})[3:]
        ]
        for value in (True, False)
    }
    assert masked[True][0] == masked[False][0]
    assert masked[True][1] > masked[False][1] > 0


def test_sampled_candidates_may_be_validation_items_only_without_the_mask() -> None:
    sampled = {**RANDOM, "eval_args": {**RANDOM["eval_args"], "mode": "uni50"}}
    drawn = {}
    for value in (True, False):
        *_, valid, test = parts("BPR", {**sampled, "mask_validation": value})
        rows = [batch[0] for batch in test]
        candidates = {(u, i) for row in rows for u, i in zip(row["user_id"].tolist(), row["item_id"].tolist())}
        drawn[value] = len(candidates & (pairs(valid) - pairs(test)))
    assert drawn[True] == 0 < drawn[False]


@pytest.mark.parametrize("mask", [True, False])
def test_support_of_new_users_is_masked_and_their_validation_items_by_the_option(mask: bool) -> None:
    cold = {"cold_start": {"entity": "user", "ratio": 0.3, "support": 2}, "mask_validation": mask}
    _, _, train, valid, test = parts("BPR", cold)
    split = train._dataset.cold_start
    support = set(zip(*(ids.tolist() for ids in split.known["valid"])))
    history = {(u, i) for u in test.uid_list.tolist() for i in test.uid2history_item[u].tolist()}
    assert support - pairs(test) <= history
    assert bool(history & (pairs(valid) - support - pairs(test))) is mask


def test_a_sequential_model_alone_is_told_that_nothing_is_masked(caplog: Any) -> None:
    recbole_mm.run("SASRec", "mm-toy", config_dict={**QUICK, **SEQUENTIAL, "epochs": 1, "mask_validation": False})
    assert any("mask_validation: False changes nothing" in record.getMessage() for record in caplog.records)
    assert not [r for r in caplog.records if "changes nothing" in r.getMessage() and r.levelno < logging.WARNING]


def test_a_comparison_masks_every_kind_of_model_alike_and_says_so(tmp_path: Path) -> None:
    options = {**QUICK, "epochs": 1, "mask_validation": False}
    settings = {"SASRec": {key: value for key, value in SEQUENTIAL.items() if key != "train_neg_sample_args"}}
    tables = {}
    for mask in (True, False):
        tables[mask] = recbole_mm.compare(
            ["BPR", "SASRec"], "mm-toy", config_dict={**options, "mask_validation": mask}, seeds=1, in_process=True,
            model_settings=settings, output=tmp_path / "out", verbose=False,
        )  # fmt: skip
    assert any("training items only (mask_validation: False" in note for note in tables[False].attrs["notes"])
    assert any("training and validation items (mask_validation: True" in note for note in tables[True].attrs["notes"])
    runs = sorted(path.name for path in (tmp_path / "out" / "runs").iterdir())
    assert len(runs) == 4, "the mask is part of what a run is"
    for model in (0, 1):
        assert tables[True]["recall@10"][model] >= tables[False]["recall@10"][model]


@pytest.mark.parametrize("value", ["no", 0])
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="mask_validation"):
        Config("BPR", "mm-toy", config_dict={**QUICK, "mask_validation": value})
