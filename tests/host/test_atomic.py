"""What RecBole's data sets say of atomic files, columns, histories and thresholds, for our models and its own."""

from __future__ import annotations

from logging import WARNING
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recbole.config import Config
from recbole.data import create_dataset

import recbole_mm
from recbole_mm.experiment.store import neutral_settings
from tests.data.support import random_pairs, write_inter, write_npz
from tests.options import QUICK


def data_set(model: str, **options: Any) -> Any:
    settings = {"data_path": "ds", "state": "ERROR", "show_progress": False, **options}
    if model == "SASRec":
        settings["train_neg_sample_args"] = None
    return create_dataset(Config(model, "tiny", config_dict=settings))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    folder = tmp_path / "ds" / "tiny"
    pairs = random_pairs()
    write_inter(folder, "tiny", pairs)
    write_npz(folder, "tiny.item.image", sorted({item for _, item in pairs}))
    return folder


def pre_split(folder: Path) -> None:
    """Three files with histories, whose items come in another order than the targets."""
    rows = [(f"u{n}", f"i{n % 7}", " ".join(f"i{(n + k) % 7}" for k in range(3, 0, -1))) for n in range(21)]
    for part, chosen in (("train", rows[:15]), ("valid", rows[15:18]), ("test", rows[18:])):
        lines = ["user_id:token\titem_id:token\titem_id_list:token_seq", *("\t".join(row) for row in chosen), ""]
        (folder / f"tiny.{part}.inter").write_text("\n".join(lines), encoding="utf-8")


def test_columns_that_are_passed_over_are_said(tiny: Path, caplog: Any) -> None:
    (tiny / "tiny.item").write_text("item_id:token\tprice:float\ni1\t2.5\n", encoding="utf-8")
    with caplog.at_level(WARNING):
        columns = {"inter": ["user_id", "item_id", "timestmap"], "item": ["item_id", "price"], "user": ["age"]}
        data_set("BPR", load_col=columns)
    assert "load_col names timestmap, and ds/tiny/tiny.inter has no such column" in caplog.text
    assert "Did you mean 'timestamp'?" in caplog.text and "price" not in caplog.text
    assert "load_col names age of user, and there is no file ds/tiny/tiny.user" in caplog.text
    caplog.clear()
    with caplog.at_level(WARNING):
        data_set("BPR", load_col=None, unload_col={"item": ["prise"]})
        assert "unload_col names prise" in caplog.text
        caplog.clear()
        data_set("BPR", load_col={"inter": ["user_id", "item_id"], "item": "*", "user": "*"})
    assert "load_col" not in caplog.text


def test_a_column_of_two_files(tiny: Path, caplog: Any) -> None:
    for entity, token in zip(("user", "item"), random_pairs()[0]):
        lines = f"{entity}_id:token\tland:token\tage:float\n{token}\tde\t9\n"
        (tiny / f"tiny.{entity}").write_text(lines, encoding="utf-8")
    columns = {"inter": ["user_id", "item_id"], "user": "*", "item": "*"}
    with pytest.raises(ValueError, match=r"tiny.item: the column land is also one of .user.*unload_col: {item: \[land"):
        data_set("BPR", load_col=columns)
    with caplog.at_level(WARNING):
        made = data_set("BPR", load_col={**columns, "item": ["item_id", "age"]})
    assert "the column age is also one of .user" in caplog.text and "land" in made.user_feat.columns


@pytest.mark.parametrize("model", ["MMGCN", "BPR", "SASRec", "MML"])
@pytest.mark.parametrize("alias", [None, ["item_id_list"]])
def test_histories_in_the_files_have_the_ids_of_the_items(model: str, alias: Any, tiny: Path, caplog: Any) -> None:
    pre_split(tiny)
    options = {} if alias is None else {"alias_of_item_id": alias}
    columns = {"inter": ["user_id", "item_id", "item_id_list"]}
    with caplog.at_level(WARNING):
        made = data_set(model, benchmark_filename=["train", "valid", "test"], load_col=columns, **options)
    assert ("alias_of_item_id: [item_id_list]" in caplog.text) == (alias is None)
    tokens = made.field2id_token["item_id"]
    assert made.field2id_token["item_id_list"] is tokens
    history = [tokens[index] for index in made.inter_feat["item_id_list"][0].tolist()]
    assert history == ["i3", "i2", "i1"]


@pytest.mark.parametrize("model", ["MMGCN", "BPR", "SASRec"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace(":token", ""), "has no type"),
        (lambda text: text.replace("\t", ","), "commas"),
        (lambda text: "", "is empty"),
        (lambda text: "\ufeff" + text, "byte order mark"),
        (lambda text: text.replace("item_id", "item"), "no column item_id"),
        (lambda text: text + "u1\n", "expected 3 values"),
        (lambda text: text + "u1\ti1\tyesterday\n", "'yesterday' is no number"),
    ],
)
def test_a_bad_file_is_named_for_every_kind_of_model(model: str, change: Any, words: str, tiny: Path) -> None:
    file = tiny / "tiny.inter"
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        data_set(model, load_col={"inter": ["user_id", "item_id", "timestamp"]})
    assert words in str(caught.value) and "tiny.inter" in str(caught.value)


def test_a_file_of_which_nothing_is_loaded_is_not_looked_at(tiny: Path) -> None:
    (tiny / "tiny.item").write_text("no,header\n", encoding="utf-8")
    assert data_set("BPR").item_num == data_set("BPR", load_col={"inter": ["user_id", "item_id"]}).item_num
    with pytest.raises(ValueError, match=r"tiny.item, line 1"):
        data_set("BPR", load_col=None)


@pytest.mark.parametrize("model", ["MML", "SASRec"])
def test_a_sequential_model_without_the_time_names_load_col(model: str, tiny: Path) -> None:
    with pytest.raises(ValueError, match=r"set load_col: \{inter: \[user_id, item_id, timestamp\]\}"):
        data_set(model, load_col={"inter": ["user_id", "item_id"]})
    with pytest.raises(ValueError, match="needs the time field 'time', and .* has no such column .* TIME_FIELD"):
        data_set(model, TIME_FIELD="time")


def test_a_split_by_time_without_the_time_names_load_col(tiny: Path) -> None:
    with pytest.raises(ValueError, match="order: TO needs the time field 'timestamp', and load_col"):
        data_set("BPR", eval_args={"order": "TO"}, load_col={"inter": ["user_id", "item_id"]})


def test_a_knowledge_graph_that_is_not_loaded_names_load_col(tiny: Path) -> None:
    (tiny / "tiny.kg").write_text("head_id:token\trelation_id:token\ttail_id:token\ne1\tr\te2\n", encoding="utf-8")
    (tiny / "tiny.link").write_text("item_id:token\tentity_id:token\ni1\te1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"load_col leaves out .* Add kg: \[head_id, relation_id, tail_id\]"):
        data_set("CKE", load_col={"inter": ["user_id", "item_id"]})


@pytest.mark.parametrize(
    ("model", "options", "warns"),
    [
        ("MMGCN", {}, True),
        ("BPR", {}, True),
        ("CMBF", {}, True),
        ("CMBF", {"train_neg_sample_args": None, "eval_args": {"mode": "labeled"}, "metrics": ["AUC"],
                  "valid_metric": "AUC"}, False),
        ("DeepFM", {}, False),
    ],
)  # fmt: skip
def test_a_threshold_that_does_nothing_names_val_interval(model: str, options: Any, warns: bool, caplog: Any) -> None:
    settings = {"state": "ERROR", "threshold": {"rating": 3}, "load_col": {"inter": ["user_id", "item_id", "rating"]}}
    with caplog.at_level(WARNING):
        create_dataset(Config(model, "mm-toy", config_dict={**settings, **options}))
    assert ("val_interval: {rating: '[3,inf)'}" in caplog.text) == warns


@pytest.mark.parametrize("dataset", ["mm-toy", "ml-100k"])
def test_a_data_path_that_is_not_there_is_refused(dataset: str, tmp_path: Path) -> None:
    for model in ("MMGCN", "BPR"):
        with pytest.raises(FileNotFoundError, match="data_path: there is no folder 'nowhere/"):
            Config(model, dataset, config_dict={"data_path": "nowhere", "state": "ERROR"})
    (tmp_path / "here" / dataset).mkdir(parents=True)
    assert Config("BPR", dataset, config_dict={"data_path": "here"})["data_path"] == f"here/{dataset}"
    for options in ({}, {"data_path": "dataset"}, {"data_path": "dataset/"}):  # RecBole's default
        assert Path(Config("BPR", dataset, config_dict={"state": "ERROR", **options})["data_path"]).is_dir()


@pytest.mark.parametrize("wrong", [0, 10, 20])
def test_half_of_the_features_without_an_item_is_a_warning(wrong: int, tiny: Path, caplog: Any) -> None:
    items = sorted({line.split("\t")[1] for line in (tiny / "tiny.inter").read_text("utf-8").splitlines()[1:]})
    write_npz(tiny, "tiny.item.image", [*items, *(f"0{item}" for item in (items * 2)[:wrong])][: len(items) + wrong])
    if wrong == 20:
        write_npz(tiny, "tiny.item.image", [*items[: len(items) // 2], *(f"{n}.0" for n in range(wrong))])
    made = data_set("MMGCN")
    with caplog.at_level(WARNING):
        assert made.features.item["image"].observed.any()
    assert ("match no item of the data set" in caplog.text) == (wrong == 20)


def test_workers_and_saved_loaders_are_no_neutral_settings() -> None:
    kept = {"worker": 2, "save_dataloaders": True, "dataloaders_save_path": "x"}
    assert neutral_settings({**kept, "gpu_id": "1"}) == kept


def test_features_of_histories_are_those_of_the_items(tiny: Path) -> None:
    """End to end: what a model reads of a history is what the file says of its items."""
    pre_split(tiny)
    write_npz(tiny, "tiny.item.image", [f"i{n}" for n in range(7)], feature=np.arange(7.0)[:, None] + np.ones((7, 3)))
    options = {"benchmark_filename": ["train", "valid", "test"],
               "load_col": {"inter": ["user_id", "item_id", "item_id_list"]}}  # fmt: skip
    made = data_set("MML", **options)
    rows = made.inter_feat["item_id_list"][0]
    assert made.features.item["image"].feature[rows][:, 0].tolist() == [4.0, 3.0, 2.0]
    settings = {**QUICK, "data_path": "ds", "epochs": 1, "topk": [5], "valid_metric": "Recall@5", **options}
    assert recbole_mm.run("UVCAN", "tiny", config_dict=settings)["test_result"]


def test_a_data_set_that_is_not_there_is_named_with_the_nearest(tiny: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no data set 'tinny' in ds: expected ds.tinny.tinny\.inter.*Did you mean 'tiny'"
    ):
        recbole_mm.run("BPR", "tinny", config_dict={**QUICK, "data_path": "ds"})
