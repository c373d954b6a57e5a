"""Nothing of new users and items reaches training; every kind of model runs under the protocols."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.quick_start import load_data_and_model, run_recbole
from recbole.utils import get_model, get_trainer, init_seed

from recbole_mm.data.cooccurrence import cooccurrence
from recbole_mm.experiment.quick_start import run
from tests.host.cold_data import MODELS, Row, config, loaders, toy_rows, write


def rewritten(rows: list[Row], new: set[str], column: int) -> list[Row]:
    """Other interactions of the new, as many others as before and some more, all warm ones as they were."""
    generator = np.random.default_rng(1)
    others = sorted({row[1 - column] for row in rows})
    changed = []
    for row in rows:
        if row[column] in new:
            for _ in range(generator.integers(1, 4)):
                other = str(generator.choice(others))
                pair = (row[0], other) if column == 0 else (other, row[1])
                changed.append((*pair, int(row[2] + generator.integers(-50_000, 50_000))))
    return changed


@pytest.fixture(params=["user", "item"])
def two_files(request: Any, tmp_path: Path) -> tuple[dict[str, Any], Path, Path]:
    """The same warm rows with two versions of the new users' or items' rows, so that internal ids are the same."""
    option = {"entity": request.param, "ratio": 0.3}
    train = loaders(config("BPR", cold_start=option))[0]._dataset
    column = ("user", "item").index(request.param)
    field, ids = (("user_id", train.cold_start.users), ("item_id", train.cold_start.items))[column]
    new, rows = set(train.id2token(field, ids).tolist()), toy_rows()
    # First a row of each user and item, at the old times: internal ids follow the order of first appearance.
    rows.sort(key=lambda row: row[column] in new)
    warm = [row for row in rows if row[column] not in new]
    write(tmp_path / "before", rows)
    cold = [row for row in rows if row[column] in new]
    firsts = [row for k, row in enumerate(cold) if row[column] not in {other[column] for other in cold[:k]}]
    seen = {row[1 - column] for row in warm}
    unseen = [row for row in cold if row[1 - column] not in seen and row not in firsts]
    write(tmp_path / "after", [*warm, *firsts, *unseen, *rewritten(rows, new, column)])
    return option, tmp_path / "before", tmp_path / "after"


POPULAR = {"train_neg_sample_args": {"distribution": "popularity", "sample_num": 1}}


@pytest.mark.parametrize(("model", "extra"), [*((name, {}) for name in sorted(MODELS)), ("BPR", POPULAR)])
def test_other_interactions_of_the_new_change_nothing_in_training(model: str, extra: Any, two_files: Any) -> None:
    """Rows, graphs and every parameter after an epoch are the same to the last bit; what is evaluated is not."""
    option, *folders = two_files
    made = []
    for folder in folders:
        settings = config(model, folder, cold_start=option, eval_step=0, checkpoint_dir=str(folder), **extra)
        train_data, valid_data, test_data = loaders(settings)
        train = train_data._dataset
        init_seed(settings["seed"], settings["reproducibility"])
        network = get_model(model)(settings, train)
        trainer = get_trainer(settings["MODEL_TYPE"], model)(settings, network)
        trainer.fit(train_data, valid_data=None, saved=False, show_progress=False)
        made.append((train, network, valid_data._dataset, test_data._dataset))
    (train, network, valid, _), (other_train, other_network, other_valid, _) = made
    assert train.field2token_id == other_train.field2token_id, "the two files must differ in the cold rows only"
    assert set(train.inter_feat.columns) == set(other_train.inter_feat.columns)
    for name in train.inter_feat.columns:
        assert torch.equal(train.inter_feat[name], other_train.inter_feat[name])
    matrices = [part.inter_matrix(form="csr") for part in (train, other_train)]
    assert (matrices[0] != matrices[1]).nnz == 0
    shared = [cooccurrence(matrix) for matrix in matrices] if option["entity"] == "item" else []
    assert not shared or (shared[0] != shared[1]).nnz == 0
    state, other_state = network.state_dict(), other_network.state_dict()
    assert set(state) == set(other_state)
    for name, value in state.items():
        assert torch.equal(value, other_state[name]), name
    assert len(valid) != len(other_valid) or not torch.equal(
        valid.inter_feat["item_id"], other_valid.inter_feat["item_id"]
    )


def test_without_the_protocol_they_would(two_files: Any) -> None:
    """The test above can fail."""
    _, *folders = two_files
    before, after = (loaders(config("BPR", folder))[0]._dataset.inter_matrix(form="csr") for folder in folders)
    assert (before != after).nnz > 0


@pytest.mark.parametrize("option", [{"entity": "user"}, {"entity": "item", "candidates": "cold"}], ids=["user", "item"])
@pytest.mark.parametrize("model", sorted(MODELS))
def test_recboles_quick_start(model: str, option: Any) -> None:
    made = config(model, cold_start=option)
    settings = dict(made.variable_config_dict)
    result = run_recbole(model=model, dataset="mm-toy", config_dict=settings, saved=False)
    assert 0 <= result["test_result"]["recall@5"] <= 1
    if model in ("BPR", "SASRec"):
        assert run_recbole(model=model, dataset="mm-toy", config_dict=settings, saved=False) == result


@pytest.mark.parametrize("model", ["BPR", "MML"])
def test_a_checkpoint_brings_the_protocol_back(model: str, tmp_path: Path) -> None:
    made = config(model, cold_start={"entity": "user", "seed": 4}, checkpoint_dir=str(tmp_path))
    result = run(model, "mm-toy", config_dict=dict(made.variable_config_dict))
    settings, network, _, *_, test = load_data_and_model(result["checkpoint"])
    assert settings["cold_start"] == {"entity": "user", "seed": 4} and len(test._dataset.cold_start.users) > 10
    again = get_trainer(settings["MODEL_TYPE"], model)(settings, network).evaluate(test, load_best_model=False)
    assert again == result["test_result"]


def test_slices_agree_about_who_is_new() -> None:
    """Slices tell cold from the training part alone; their random floor knows the candidates."""
    options = {"slices": ["cold_users", "warm_users", "cold_items", "warm_items"]}
    made = {}
    for entity in ("user", "item"):
        option = {"entity": entity, **({"candidates": "cold"} if entity == "item" else {})}
        settings = config("BPR", cold_start=option, **options)
        result = run_recbole(
            model="BPR", dataset="mm-toy", config_dict=dict(settings.variable_config_dict), saved=False
        )
        made[entity] = result["test_result"]
    assert made["user"]["cases[cold_users]"] > 10 and made["user"]["cases[warm_users]"] == 0
    assert made["item"]["cases[cold_items]"] > 10 and made["item"]["cases[warm_items]"] == 0
    assert made["item"]["recall@5[cold_items,random]"] > 3 * made["user"]["recall@5[cold_users,random]"]


def test_adaptation_reads_the_support_set_of_new_users() -> None:
    """MML scores a new user differently once it may adapt to the support set."""
    train_data, _, test_data = loaders(config("MML", cold_start={"entity": "user"}))
    users = torch.from_numpy(train_data._dataset.cold_start.users)
    settings = config("MML", cold_start={"entity": "user"}, adapt_learning_rate=1.0)
    torch.manual_seed(0)
    network = get_model("MML")(settings, train_data._dataset).eval()
    assert (network.support.count[users.numpy()] > 0).mean() > 0.9
    interaction = next(iter(test_data))[0]
    adapted = network.full_sort_predict(interaction)
    network.support.count[users.numpy()] = 0
    network._cache = None
    assert not torch.allclose(adapted, network.full_sort_predict(interaction))


def test_new_items_of_content_models_are_ranked_by_content() -> None:
    """Without a training row an item embedding stays what it was drawn as; a content model still scores the item."""
    train_data, *_ = loaders(config("MMGCN", cold_start={"entity": "item", "ratio": 0.3}))
    train = train_data._dataset
    assert not train.inter_matrix(form="csr")[:, train.cold_start.items].nnz
    network = get_model("MMGCN")(config("MMGCN"), train).eval()
    _, items = network.representations()
    assert torch.isfinite(items).all() and len(items[train.cold_start.items].unique(dim=0)) > 1
