"""Comparisons under a cold-start protocol: one split, the same candidates and masks for every kind of model."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from recbole_mm.comparison.compare import compare
from recbole_mm.comparison.protocol import make_protocol
from recbole_mm.experiment.job import Job, prepare
from recbole_mm.serving.masking import left_out
from recbole_mm.serving.scoring import Scorer
from tests.options import QUICK, SEQUENTIAL

TINY = {"SASRec": {key: value for key, value in SEQUENTIAL.items() if key != "train_neg_sample_args"}}
OPTIONS: list[dict[str, Any]] = [
    {"entity": "user"},
    {"entity": "user", "support": 3, "evaluate": "all"},
    {"entity": "item", "ratio": 0.5},
    {"entity": "item", "ratio": 0.5, "candidates": "cold"},
    {"entity": "item", "ratio": 0.5, "candidates": "all", "evaluate": "all"},
]


def prepared(model: str, option: dict[str, Any] | None, models: tuple[str, ...] = ("BPR", "SASRec", "FM")) -> Any:
    own = {name: settings for name, settings in TINY.items() if name in models}
    protocol = make_protocol(models, "mm-toy", None, {**QUICK, "cold_start": option}, own)
    return prepare(Job(model, "mm-toy", protocol.settings[model], 2020, 2020, protocol.mask_seen))


def scorer(entry: Any) -> Scorer:
    data = entry.train_data._dataset
    return Scorer(entry.config, entry.model, data, left_out(entry.config, [entry.train_data], "history")[1])


def masked(loader: Any) -> dict[tuple[int, int], set[int]]:
    """Items that are not ranked, for each question."""
    found = {}
    for users, history, rows, targets in loader:
        scores = torch.zeros(len(users), loader._dataset.item_num)
        scores[history] = 1
        for row, target in zip(rows.tolist(), targets.tolist()):
            found[int(users["user_id"][row]), target] = set(scores[row].nonzero().squeeze(1).tolist())
    return found


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_general_sequential_and_context_models_answer_the_same_questions(option: dict[str, Any]) -> None:
    entries = [prepared(model, option) for model in ("BPR", "SASRec", "FM")]
    assert len({(entry.split["hash"], entry.split["candidates"]) for entry in entries}) == 1
    for part in ("valid_data", "test_data"):
        first, *others = (masked(getattr(entry, part)) for entry in entries)
        assert len(first) > 10 and all(other == first for other in others)


def test_the_hashes_cover_the_protocol() -> None:
    splits = [prepared("BPR", option, ("BPR",)).split for option in (None, *OPTIONS)]
    assert len({(split["hash"], split["candidates"]) for split in splits}) == len(splits)
    again = prepared("BPR", {"entity": "user", "seed": 1}, ("BPR",)).split
    assert again["parts"]["support"] != splits[1]["parts"]["support"]


def test_the_notes_say_what_is_new() -> None:
    protocol = make_protocol(["BPR"], "mm-toy", None, {**QUICK, "cold_start": {"entity": "item", "by": "time"}})
    assert protocol.notes == [
        "The test masks training and validation items (mask_validation: True, RecBole's protocol).",
        "Cold start: 20% of the items, chosen by time, have no training row; evaluated are the interactions of cold "
        "items, ranked among all items. Multimodal models read the features of the new at evaluation only "
        "(cold_features: inductive).",
        "BPR cannot rank new items: it has no features. Its figures on new items say nothing about the model.",
    ]


def test_a_single_model_cannot_have_its_own() -> None:
    with pytest.raises(ValueError, match="cold_start must be the same for every model"):
        make_protocol(["BPR", "MMGCN"], "mm-toy", None, QUICK, {"BPR": {"cold_start": {"entity": "user"}}})


def test_a_comparison_runs(tmp_path) -> None:
    options = {**QUICK, "epochs": 1, "cold_start": {"entity": "item", "candidates": "cold", "ratio": 0.3}}
    compare(["MMGCN", "BPR"], "mm-toy", config_dict=options, seeds=1, output=tmp_path, in_process=True, verbose=False)
    records = [json.loads(file.read_text()) for file in tmp_path.glob("runs/*/run.json")]
    assert [record["status"] for record in records] == ["finished"] * 2
    assert len({record["split"]["hash"] for record in records}) == 1


@pytest.mark.parametrize("candidates", ["cold", "warm", "all"])
def test_only_candidates_are_recommended(candidates: str) -> None:
    options = {"entity": "item", "ratio": 0.4, "candidates": candidates}
    entry = prepared("BPR", options, ("BPR",))
    cold = set(entry.train_data._dataset.cold_start.items.tolist())
    allowed = {"cold": cold, "warm": set(range(1, 81)) - cold, "all": set(range(1, 81))}[candidates]
    scores = scorer(entry).scores(np.arange(1, 121))
    assert set(torch.isfinite(scores).any(dim=0).nonzero().squeeze(1).tolist()) == allowed


def test_recommendations_leave_the_support_set_out() -> None:
    entry = prepared("BPR", {"entity": "user"}, ("BPR",))
    cold = entry.train_data._dataset.cold_start
    scores = scorer(entry).scores(cold.users)
    for row, user in enumerate(cold.users.tolist()):
        support = cold.support["item_id"][cold.support["user_id"] == user]
        assert torch.isinf(scores[row, support]).all() and torch.isfinite(scores[row]).sum() > 20
