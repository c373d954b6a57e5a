from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from recbole_mm.experiment import observe
from recbole_mm.experiment.job import Job, prepare, train
from recbole_mm.experiment.observe import Curve, peak_memory, per_user_metrics
from tests.options import QUICK, SEQUENTIAL


def prepared(model, **options):
    return prepare(Job(model, "mm-toy", {**QUICK, **options}, 2020, 2020))


# RecBole 1.2.1 fails by itself on ItemCoverage and its like, whose data are no tensors.
EVERY = ["Recall", "NDCG", "MRR", "Hit", "Precision", "MAP", "GAUC", "ShannonEntropy"]


def test_every_metric_with_values_per_user_is_recboles_own():
    entry = prepared("BPR", metrics=EVERY, metric_decimal_place=12)
    with per_user_metrics(entry.trainer, entry.dataset) as users:
        result = entry.trainer.evaluate(entry.test_data, load_best_model=False)
    ranked = {name for name in result if not name.startswith(("shannonentropy", "gauc"))}
    assert set(users) == {"user", *ranked}
    for name in ranked:
        assert users[name].mean() == pytest.approx(result[name], abs=1e-9)
    assert users["user"].tolist() == sorted(
        entry.dataset.id2token("user_id", entry.test_data.uid_list.numpy()).tolist()
    )


def test_values_belong_to_their_users():
    """Hand check: a model that scores by a fixed list has a hit exactly where a user's test item is in it."""
    entry = prepared("BPR")
    dataset, model = entry.dataset, entry.trainer.model
    with torch.no_grad():
        model.user_embedding.weight[:] = 0
        model.user_embedding.weight[:, 0] = 1
        model.item_embedding.weight[:] = 0
        model.item_embedding.weight[:, 0] = -torch.arange(dataset.item_num, dtype=torch.float32)
    with per_user_metrics(entry.trainer, dataset) as users:
        entry.trainer.evaluate(entry.test_data, load_best_model=False)
    for user, value in zip(users["user"], users["recall@5"]):
        row = dataset.token2id("user_id", user)
        positives = set(entry.test_data.uid2positive_item[row].tolist())
        history = set(entry.test_data.uid2history_item[row].tolist())
        top = [item for item in range(1, dataset.item_num) if item not in history][:5]
        assert value == pytest.approx(len(positives & set(top)) / len(positives))


def test_sampled_candidates_and_sequential_models_have_values_per_user():
    for entry in (prepared("BPR", eval_args={"mode": "uni20"}), prepared("SASRec", **SEQUENTIAL)):
        with per_user_metrics(entry.trainer, entry.dataset) as users:
            result = entry.trainer.evaluate(entry.test_data, load_best_model=False)
        assert users["recall@10"].mean() == pytest.approx(result["recall@10"], abs=5.1e-5)
        assert len(users["user"]) == len(set(users["user"])) > 100


def test_several_rows_of_a_user_are_averaged():
    entry = prepared("SASRec", **SEQUENTIAL, eval_args={"split": {"RS": [0.5, 0.2, 0.3]}, "order": "TO"})
    rows = entry.test_data._dataset.inter_feat["user_id"].numpy()
    with per_user_metrics(entry.trainer, entry.dataset) as users:
        result = entry.trainer.evaluate(entry.test_data, load_best_model=False)
    assert len(users["user"]) == len(np.unique(rows)) < len(rows)
    counts = np.array([(rows == entry.dataset.token2id("user_id", user)).sum() for user in users["user"]])
    assert (users["recall@10"] * counts).sum() / len(rows) == pytest.approx(result["recall@10"], abs=5.1e-5)


def test_the_trainer_is_left_as_it_was():
    entry = prepared("BPR")
    before = set(vars(entry.trainer)), set(vars(entry.trainer.eval_collector))
    with per_user_metrics(entry.trainer, entry.dataset), Curve(entry.trainer):
        entry.trainer.evaluate(entry.test_data, load_best_model=False)
    after = set(vars(entry.trainer)) - {"_session"}, set(vars(entry.trainer.eval_collector))  # the curve is kept there
    assert after == before
    assert not any("topk_result" in vars(metric) for metric in entry.trainer.evaluator.metric_class.values())


def test_value_metrics_have_no_values_per_user():
    entry = prepared("FM", metrics=["AUC"], valid_metric="AUC", eval_args={"mode": "labeled"}, threshold={"rating": 4})
    with per_user_metrics(entry.trainer, entry.dataset) as users:
        result = entry.trainer.evaluate(entry.test_data, load_best_model=False)
    assert "auc" in result and users == {}


def test_the_curve_follows_the_validations():
    entry = prepared("BPR", epochs=5, eval_step=2)
    seen = []
    training = train(entry, saved=False, on_validation=lambda epoch, result: seen.append((epoch, result["recall@10"])))
    assert [point["epoch"] for point in training["curve"]] == [2, 4] == [epoch for epoch, _ in seen]
    assert [value for _, value in seen] == [point["valid"]["recall@10"] for point in training["curve"]]
    assert training["epochs"] == 5 and training["best_epoch"] in (2, 4)
    time = training["time"]
    assert 0 < time["evaluation"] < time["train"] and time["epoch"] * 5 == pytest.approx(
        time["train"] - time["evaluation"]
    )


def test_a_training_can_be_stopped_from_a_validation():
    entry = prepared("BPR", epochs=5)

    def stop(epoch, result):
        if epoch == 2:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        train(entry, saved=False, on_validation=stop)
    assert len(entry.trainer.train_loss_dict) == 2 and "evaluate" not in vars(entry.trainer)


def test_models_without_epochs_have_costs_too():
    training = train(prepared("Pop"), saved=False)
    assert training["time"]["train"] > 0 and training["best_valid_score"] >= 0


def test_peak_memory_is_that_of_the_process_itself():
    """A child's peak must not start from its parent's, as ``getrusage`` counts it on Linux."""
    ballast = np.ones(40_000_000)  # 320 MB
    code = (
        f"import sys, importlib.util as u; s = u.spec_from_file_location('o', {observe.__file__!r});"
        "m = u.module_from_spec(s); s.loader.exec_module(m); print(m._peak_resident())"
    )
    child = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    own = peak_memory(torch.device("cpu"))
    assert own["device"] is None and own["process"] > 320 + 100
    assert child < own["process"] and ballast.any()


def test_peak_memory_without_proc(monkeypatch, tmp_path):
    monkeypatch.setattr(observe, "Path", lambda name: tmp_path / "missing")
    assert observe._peak_resident() > 50
    monkeypatch.setattr(observe.os, "name", "nt")
    assert observe._peak_resident() is None
