"""The short cut through RecBole's collector gives RecBole's own numbers."""

from __future__ import annotations

import inspect

import pytest
import torch
from recbole.config import Config
from recbole.evaluator.collector import Collector
from recbole.quick_start import run_recbole
from recbole.trainer import Trainer

from recbole_mm.host.evaluation import install, rank, top_hits

QUIET = {"state": "ERROR", "use_gpu": False, "show_progress": False}


def collected(collect, metrics, scores, positive_u, positive_i):
    config = Config(model="BPR", dataset="mm-toy", config_dict={**QUIET, "metrics": metrics, "topk": [3, 5]})
    collector = Collector(config)
    for part in (slice(0, 3), slice(3, 7)):
        inside = (positive_u >= part.start) & (positive_u < part.stop)
        collect(collector, scores[part].clone(), None, positive_u[inside] - part.start, positive_i[inside])
    return collector.get_data_struct()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(7, 40, generator=generator)
    scores[:, 0] = -torch.inf
    scores[2, 5:30] = -torch.inf
    positive_u = torch.tensor([0, 0, 1, 2, 3, 3, 3, 6])
    positive_i = torch.tensor([4, 7, 1, 39, 5, 2, 9, 8])
    return scores, positive_u, positive_i


def test_equals_recboles_collector_to_the_last_bit(batch):
    metrics = ["Recall", "MRR", "NDCG", "Hit", "Precision", "MAP"]
    ours = collected(Collector.eval_batch_collect, metrics, *batch)
    theirs = collected(Collector.eval_batch_collect.__wrapped__, metrics, *batch)
    assert torch.equal(ours.get("rec.topk"), theirs.get("rec.topk"))
    assert ours.get("rec.topk").dtype == theirs.get("rec.topk").dtype


def test_repeated_positives_count_once(batch):
    scores, positive_u, positive_i = batch
    twice = torch.cat([positive_u, positive_u]), torch.cat([positive_i, positive_i])
    assert torch.equal(top_hits(rank(scores, 5, *twice)), top_hits(rank(scores, 5, positive_u, positive_i)))


@pytest.mark.parametrize("metrics", [["GAUC"], ["Recall", "ItemCoverage"]])
def test_metrics_that_need_more_are_left_to_recbole(batch, metrics, monkeypatch):
    monkeypatch.setattr("recbole_mm.host.evaluation.rank", lambda *_: pytest.fail("the short cut was taken"))
    collected(Collector.eval_batch_collect, metrics, *batch)


def test_installing_twice_wraps_once():
    before = Collector.eval_batch_collect
    install()
    assert Collector.eval_batch_collect is before


def test_a_model_of_labels_is_ranked_as_recbole_ranks_it(monkeypatch):
    options = {**QUIET, "epochs": 1, "eval_args": {"mode": "full"}, "metrics": ["Recall"], "threshold": None}
    options.update(valid_metric="Recall@10", train_neg_sample_args={"distribution": "uniform"})
    ours = run_recbole("FM", "mm-toy", config_dict=dict(options), saved=False)
    monkeypatch.setattr(Trainer, "evaluate", inspect.unwrap(Trainer.evaluate))
    assert ours == run_recbole("FM", "mm-toy", config_dict=dict(options), saved=False)
