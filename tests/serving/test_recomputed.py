"""Recall and NDCG of the test, recomputed from exported files and the data set's own file alone, for every protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from recbole_mm.config.names import known_keys
from recbole_mm.host.registry import registered_models
from recbole_mm.serving.export import export
from tests.host.cold_data import MODELS
from tests.options import QUICK, SEQUENTIAL

K = (5, 10)
EXTRA: dict[str, dict[str, Any]] = {**MODELS, "SASRec": SEQUENTIAL}
OURS = [(name, {}) for name in sorted(registered_models())]
PROTOCOLS = [
    ("BPR", {}),
    ("LightGCN", {}),
    ("NeuMF", {"mf_embedding_size": 8, "mlp_embedding_size": 8, "mlp_hidden_size": [8]}),
    ("SASRec", {}),
    ("GRU4Rec", {}),
    ("BPR", {"repeatable": True}),
    ("MMGCN", {"repeatable": True}),
    ("BPR", {"rm_dup_inter": None, "eval_args": {"split": {"RS": [0.5, 0.2, 0.3]}, "order": "RO", "mode": "full"}}),
    ("BPR", {"cold_start": {"entity": "user", "ratio": 0.3}}),
    ("BPR", {"cold_start": {"entity": "user", "ratio": 0.3, "evaluate": "all", "support": 2}}),
    ("MMGCN", {"cold_start": {"entity": "item", "ratio": 0.3, "candidates": "cold"}}),
    ("MMGCN", {"cold_start": {"entity": "item", "ratio": 0.3, "evaluate": "all"}}),
    ("SASRec", {"cold_start": {"entity": "item", "ratio": 0.3, "candidates": "cold"}}),
    ("SASRec", {"cold_start": {"entity": "user", "ratio": 0.3}}),
]
if "mask_validation" in known_keys():
    PROTOCOLS += [(name, {"mask_validation": False}) for name in ("BPR", "MMGCN")]


def untrained(model: str, options: dict[str, Any]) -> tuple[Any, ...]:
    """What `recbole_mm.serving.export.load` gives, without a training: any parameters rank."""
    made = {**QUICK, **EXTRA.get(model, {}), "metric_decimal_place": 12, **options}
    config = Config(model, "mm-toy", config_dict=made)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    loaders = data_preparation(config, dataset)
    network = get_model(model)(config, loaders[0]._dataset)
    return (config, network, dataset, *loaders)


def recomputed(lists: dict[str, list[str]], truth: dict[str, set[str]]) -> dict[str, float]:
    """Mean over the test users, by the textbook."""
    rows = []
    for user, positive in truth.items():
        gain = np.array([item in positive for item in lists.get(user, [])][: max(K)], dtype=float)
        discount = 1 / np.log2(np.arange(2, max(K) + 2))
        row = {}
        for k in K:
            row[f"recall@{k}"] = gain[:k].sum() / len(positive)
            row[f"ndcg@{k}"] = (gain[:k] * discount[: len(gain[:k])]).sum() / discount[: min(k, len(positive))].sum()
        rows.append(row)
    return pd.DataFrame(rows).mean().to_dict()


@pytest.mark.parametrize(("model", "options"), [*OURS, *PROTOCOLS])
def test_the_figures_of_the_test_follow_from_the_file(model: str, options: dict[str, Any], tmp_path: Path) -> None:
    loaded = untrained(model, options)
    config, network, _, *_, test = loaded
    reported = get_trainer(config["MODEL_TYPE"], config["model"])(config, network).evaluate(test, load_best_model=False)
    export(loaded, tmp_path / "lists.csv", topk=max(K), progress=False)
    frame = pd.read_csv(tmp_path / "lists.csv", dtype={"user_id": str, "item_id": str})
    lists = {user: part.sort_values("rank")["item_id"].tolist() for user, part in frame.groupby("user_id")}
    part = test._dataset
    truth: dict[str, set[str]] = {}
    for user, item in zip(*(part.id2token(name, part.inter_feat[name].numpy()) for name in ("user_id", "item_id"))):
        truth.setdefault(user, set()).add(item)
    assert len(truth) > 5
    for name, value in recomputed(lists, truth).items():
        assert value == pytest.approx(reported[name], abs=1e-9), name
    assert max(reported.values()) > 0


@pytest.mark.parametrize(("model", "options"), [("BPR", {}), ("SASRec", {}), ("BPR", {"repeatable": True})])
def test_other_values_of_seen_are_other_lists(model: str, options: dict[str, Any], tmp_path: Path) -> None:
    """The test above can fail: only one value gives the evaluated lists."""
    loaded = untrained(model, options)
    texts = {}
    for seen in (None, "none", "history", "all"):
        export(loaded, tmp_path / "lists.csv", topk=10, seen=seen, progress=False)
        texts[seen] = (tmp_path / "lists.csv").read_text(encoding="utf-8")
    evaluated = "none" if model == "SASRec" or options else "history"
    assert [seen for seen in ("none", "history", "all") if texts[seen] == texts[None]] == [evaluated]
    assert len(set(texts.values())) == 3


def test_lists_of_users_without_interactions_are_marked(tmp_path: Path) -> None:
    loaded = untrained("BPR", {"cold_start": {"entity": "user", "ratio": 0.3}})
    split = loaded[3]._dataset.cold_start
    report = export(loaded, tmp_path / "lists.npz", topk=3, progress=False)
    assert report["unknown"] == 0  # their support sets are known
    loaded = untrained("BPR", {"eval_args": {"split": {"RS": [0.3, 0.2, 0.5]}, "order": "RO", "group_by": None}})
    report = export(loaded, tmp_path / "lists.npz", topk=3, progress=False)
    with np.load(tmp_path / "lists.npz") as archive:
        known = archive["known_items"]
        trained = loaded[3]._dataset.inter_feat["user_id"].unique()
        assert report["unknown"] == (known == 0).sum() == 120 - len(trained) > 0
    assert len(split.users)
