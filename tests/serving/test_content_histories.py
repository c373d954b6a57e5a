"""Histories of users who are in no file, answered by the models of the next item."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import recbole_mm
from tests.model.conftest import build

SMALL = {"embedding_size": 8, "inner_size": 8, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 10}


@pytest.mark.parametrize(
    ("name", "options"),
    [("SASRecContent", {}), ("SASRecContent", {"fusion": "dif", "score": "cosine"}), ("UniSRec", {"n_experts": 2})],
)
def test_a_saved_model_answers_a_history_as_the_model_does(name, options, tmp_path):
    made = build(name, **SMALL, **options)
    model, dataset = made.model.eval(), made.train_data.dataset
    source = (made.config, model, None, made.train_data, made.valid_data, made.test_data)
    recommender = recbole_mm.load(recbole_mm.save(source, tmp_path / "model"))
    history = ["i20", "i2", "i7"]
    found = recommender.recommend(history=history, k=5, exclude_seen=False)
    items = torch.tensor([[0, 0, *dataset.token2id("item_id", history)]])
    scores = model.score_states(model.encode_history(items))[0]
    scores[0] = -torch.inf
    best = scores.topk(5)
    assert found["item_id"].tolist() == dataset.id2token("item_id", best.indices.numpy()).tolist()
    np.testing.assert_allclose(found["score"], best.values, rtol=1e-4, atol=1e-6)
    left = recommender.recommend(history=history, k=80)["item_id"].tolist()
    assert not set(history) & set(left) and len(left) == 77
