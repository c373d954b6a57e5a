"""Sliced metrics through RecBole's own evaluation equal a plain loop, and change nothing where they are off."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.evaluator.collector import Collector
from recbole.evaluator.evaluator import Evaluator
from recbole.quick_start import load_data_and_model, run_recbole
from recbole.utils import get_model, get_trainer, init_seed

from recbole_mm import run
from recbole_mm.config.slices import DEFAULT_TAIL, SLICES
from recbole_mm.host import slices as host
from recbole_mm.slicing.result import slice_rows, split_result

QUIET = {"state": "ERROR", "show_progress": False, "epochs": 1, "use_gpu": False, "eval_batch_size": 400}
METRICS = ["Recall", "MRR", "NDCG", "Hit", "Precision", "MAP"]
RANKED = {"metrics": METRICS, "topk": [1, 5, 20], "valid_metric": "NDCG@20", "metric_decimal_place": 12}
# A random split over all rows leaves users and items without a training row.
SPLIT = {"split": {"RS": [0.5, 0.25, 0.25]}, "group_by": None, "order": "RO"}
SASREC = {
    "train_neg_sample_args": None, "hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1,
    "MAX_ITEM_LIST_LENGTH": 5, "embedding_size": 8,
}  # fmt: skip
KINDS = {
    "general": ("BPR", {"eval_args": {**SPLIT, "mode": "full"}}),
    "multimodal": ("MMGCN", {"eval_args": {**SPLIT, "mode": "full"}}),
    "sampled": ("BPR", {"eval_args": {**SPLIT, "mode": "uni20"}}),
    "sequential": ("SASRec", SASREC),
    "sequential, sampled": (
        "SASRec",
        {
            **SASREC,
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni20"},
        },
    ),
    "no short cut": ("BPR", {"eval_args": {**SPLIT, "mode": "full"}, "metrics": [*METRICS, "GAUC"]}),
}


def evaluated(model: str, **options: Any) -> tuple[Any, list[Any], Any, Any]:
    """Train, test, and return the result, what the collector was given, the training part and the trainer."""
    config = Config(model, "mm-toy", config_dict={**QUIET, **RANKED, **options})
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train_data._dataset))
    trainer.fit(train_data, valid_data, saved=False, verbose=False)
    batches = []
    collect = trainer.eval_collector.eval_batch_collect

    def watch(scores: Any, interaction: Any, row: Any, item: Any) -> None:
        batches.append((scores.double().numpy(), interaction["user_id"].numpy(), row.numpy(), item.numpy()))
        collect(scores, interaction, row, item)

    trainer.eval_collector.eval_batch_collect = watch
    return trainer.evaluate(test_data, load_best_model=False), batches, train_data._dataset, trainer


def activity(dataset: Any) -> tuple[Counter, Counter]:
    """Training interactions of every user and item, from the rows and the histories in them."""
    rows, pairs = dataset.inter_feat, set()
    for index in range(len(rows)):
        user = int(rows["user_id"][index])
        pairs.add((user, int(rows["item_id"][index])))
        if "item_id_list" in rows:
            pairs |= {(user, int(item)) for item in rows["item_id_list"][index] if item > 0}
    return Counter(user for user, _ in pairs), Counter(item for _, item in pairs)


def belongs(name: str, count: Counter, one: int) -> bool:
    kind = name.partition("_")[0]
    if kind == "tail":
        limit = 1
        while sum(n for n in count.values() if n <= limit) < DEFAULT_TAIL * sum(count.values()):
            limit += 1
        return 0 < count[one] <= limit
    return kind == "all" or (count[one] > 0) == (kind == "warm")


def metrics_of(ranking: list[int], positives: set[int], k: int) -> dict[str, float]:
    hits = [item in positives for item in ranking[:k]]
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(positives))))
    return {
        "recall": sum(hits) / len(positives),
        "precision": sum(hits) / k,
        "hit": float(any(hits)),
        "mrr": 1 / (hits.index(True) + 1) if any(hits) else 0.0,
        "ndcg": sum(hit / math.log2(place + 2) for place, hit in enumerate(hits)) / ideal,
        "map": sum(hit * sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits))
        / min(k, len(positives)),
    }


def plain(batches: list[Any], dataset: Any, name: str) -> tuple[int, int, dict[str, float], float]:
    """Cases, positives, metrics and the recall@5 of a random ranking, case by case."""
    users, items = activity(dataset)
    found, floor, n_positives = [], [], 0
    for scores, user_of, row_of, item_of in batches:
        owners = user_of if len(user_of) == len(scores) else list(dict.fromkeys(user_of.tolist()))
        for row, user in enumerate(owners):
            positives = {int(item) for item in item_of[row_of == row]}
            if name.endswith("_items"):
                positives = {item for item in positives if belongs(name, items, item)}
            elif not belongs(name, users, int(user)):
                continue
            if not positives:
                continue
            ranking = sorted(range(scores.shape[1]), key=lambda item: -scores[row, item])
            candidates = np.isfinite(scores[row]).sum()
            found.append({f"{m}@{k}": v for k in (1, 5, 20) for m, v in metrics_of(ranking, positives, k).items()})
            floor.append(min(5, candidates) / candidates)
            n_positives += len(positives)
    mean = {key: float(np.mean([one[key] for one in found])) for key in (found[0] if found else {})}
    return len(found), n_positives, mean, float(np.mean(floor)) if floor else math.nan


@pytest.mark.parametrize("kind", KINDS)
def test_equal_a_plain_loop(kind: str) -> None:
    model, options = KINDS[kind]
    result, batches, dataset, _ = evaluated(model, slices=True, **options)
    rows = slice_rows(result)
    assert list(rows) == list(SLICES)
    for name in SLICES:
        cases, positives, expected, floor = plain(batches, dataset, name)
        assert (rows[name]["cases"], rows[name]["positives"]) == (cases, positives)
        measured = {key: value for key, value in rows[name].items() if key in expected}
        assert measured == pytest.approx(expected, abs=1e-10)
        assert bool(expected) == ("recall@5" in rows[name])
        if cases:
            assert rows[name]["recall@5,random"] == pytest.approx(floor, abs=1e-10)
    if kind == "general":
        assert all(row["cases"] for row in rows.values())


@pytest.mark.parametrize("kind", KINDS)
def test_recboles_own_metrics_are_the_same_to_the_last_bit(kind: str) -> None:
    model, options = KINDS[kind]
    with_slices, *_ = evaluated(model, slices=["cold_items", "tail_users"], **options)
    without, *_ = evaluated(model, **options)
    assert type(without).__name__ == "OrderedDict"
    assert list(split_result(with_slices)[0].items()) == list(without.items())


def test_warm_and_cold_users_add_up_to_all() -> None:
    result, *_ = evaluated("BPR", slices=True, **KINDS["general"][1])
    rows = slice_rows(result)
    for key in ("recall@5", "ndcg@20", "mrr@20,random"):
        parts = sum(rows[name]["cases"] * rows[name][key] for name in ("warm_users", "cold_users"))
        assert parts == pytest.approx(rows["all"]["cases"] * rows["all"][key])
    assert rows["all"]["positives"] == rows["warm_items"]["positives"] + rows["cold_items"]["positives"]
    assert all(result[f"{metric.lower()}@5"] == rows["all"][f"{metric.lower()}@5"] for metric in METRICS)


def test_recall_of_items_weighted_by_positives_adds_up() -> None:
    result, batches, *_ = evaluated("BPR", slices=["all", "warm_items", "cold_items"], **KINDS["general"][1])
    rows = slice_rows(result)
    hits = {name: row["precision@5"] * 5 * row["cases"] for name, row in rows.items()}
    assert hits["all"] == pytest.approx(hits["warm_items"] + hits["cold_items"])


def test_a_masked_target_counts_as_missed_by_the_random_ranking_too() -> None:
    config = Config("BPR", "mm-toy", config_dict={**QUIET, **RANKED, "topk": [2], "slices": "all"})
    rows = Interaction({"user_id": torch.tensor([1, 1]), "item_id": torch.tensor([1, 4])})
    part = SimpleNamespace(
        uid_field="user_id", iid_field="item_id", inter_feat=rows, config={"LIST_SUFFIX": None}, user_num=3, item_num=6
    )
    collector = Collector(config)
    collector.data_collect(SimpleNamespace(_dataset=part))
    scores = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf, 3.0, 0.0]])
    users = Interaction({"user_id": torch.tensor([2])})
    collector.eval_batch_collect(scores, users, torch.tensor([0, 0]), torch.tensor([2, 3]))
    result = Evaluator(config).evaluate(collector.get_data_struct())
    # One of four candidates is a target, two are looked at, and one of two targets is out of reach.
    assert result["recall@2[all,random]"] == pytest.approx(1 / 4 * 2 / 2)
    assert (result["positives[all]"], result["recall@2[all]"]) == (2, 0.5)


def test_a_training_of_stages_without_an_epoch_knows_the_training_part() -> None:
    options = {**QUIET, "epochs": 0, "pretrain_epochs": 0, "slices": ["cold_items"]}
    assert "cases[cold_items]" in run("MCPTR", "mm-toy", config_dict=options)["best_valid_result"]


def test_without_slices_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.SliceRecorder, "__init__", lambda *_: pytest.fail("slices were prepared"))
    _, _, _, trainer = evaluated("BPR", slices=[])
    assert trainer.eval_collector.slice_recorder is None


def test_a_slice_can_choose_the_best_epoch() -> None:
    split = {"split": {"RS": [0.1, 0.5, 0.4]}, "group_by": None, "order": "RO", "mode": "full"}
    options = {"slices": "cold_items", "valid_metric": "Recall@20[cold_items]", "eval_args": split}
    done = run_recbole("BPR", "mm-toy", config_dict={**QUIET, **RANKED, **options, "epochs": 3})
    assert done["best_valid_score"] == done["best_valid_result"]["recall@20[cold_items]"]
    assert "recall@20[cold_items]" in done["test_result"] and done["valid_score_bigger"]


def test_a_validation_metric_without_cases_is_explained() -> None:
    with pytest.raises(KeyError, match=r"no case .* in the slice 'cold_users'"):
        evaluated("BPR", slices=True, valid_metric="Recall@20[cold_users]")


def test_a_loaded_checkpoint_needs_the_training_part_first() -> None:
    options = {**QUIET, **RANKED, **KINDS["general"][1], "slices": True, "checkpoint_dir": "kept"}
    done = run("BPR", "mm-toy", config_dict=options)
    config, model, _, train_data, _, test_data = load_data_and_model(done["checkpoint"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    with pytest.raises(ValueError, match=r"data_collect\(train_data\)"):
        trainer.evaluate(test_data, load_best_model=False)
    trainer.eval_collector.data_collect(train_data)
    assert trainer.evaluate(test_data, load_best_model=False) == done["test_result"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["GAUC"], "valid_metric": "GAUC"}, "only recall, mrr, ndcg"),
        ({"single_spec": False}, "ours can"),
    ],
)
def test_an_evaluation_that_cannot_be_sliced_is_refused(options: dict[str, Any], message: str) -> None:
    config = Config("BPR", "mm-toy", config_dict={**QUIET, "slices": True, **options})
    config["single_spec"] = options.get("single_spec", True)
    with pytest.raises(ValueError, match=message):
        Collector(config)


def test_installing_twice_wraps_once() -> None:
    before = Evaluator.evaluate, Collector.__init__
    host.install()
    assert (Evaluator.evaluate, Collector.__init__) == before
