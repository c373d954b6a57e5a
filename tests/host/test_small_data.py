"""``shrink_batches``: an epoch of a small data set has ten steps or more, unless somebody named the batch."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.quick_start import load_data_and_model

import recbole_mm
from recbole_mm.experiment.job import without_arguments
from recbole_mm.host.small_data import suit_batch

OPTIONS: dict[str, Any] = {
    "state": "ERROR",
    "show_progress": False,
    "use_gpu": False,
    "data_path": str(Path(__file__).resolve().parents[2] / "dataset_atomic"),
}


def prepared(model: str, **options: Any) -> tuple[Any, Any]:
    """The Config and the training loader that RecBole's own functions make."""
    with without_arguments():
        config = Config(model=model, dataset="mm-toy", config_dict={**OPTIONS, **options})
    return config, data_preparation(config, create_dataset(config))[0]


def rows_of_batches(loader: Any) -> list[int]:
    return [len(batch) for batch in loader]


@pytest.mark.parametrize("model", ["MMGCN", "FREEDOM", "MCPTR"])  # RecBole's batch, and those of the models' own files
def test_an_epoch_has_ten_steps_or_more(model: str) -> None:
    config, loader = prepared(model)
    assert config["train_batch_size"] == 64 and 10 <= len(loader) < 20
    assert set(rows_of_batches(loader)[:-1]) == {64} and sum(rows_of_batches(loader)) == loader.sample_size


def test_rows_of_a_pair_stay_together() -> None:
    """RecBole's batch of a pointwise model counts its negatives, which are rows of their own."""
    config, loader = prepared("NeuMF", shrink_batches=True)
    assert loader.times == 2 and config["train_batch_size"] == 128 and loader.step == 64


def test_sequences_count_as_rows() -> None:
    config, loader = prepared("SASRecContent", train_neg_sample_args=None)
    assert config["train_batch_size"] < 2048 and 10 <= len(loader) <= 20


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("MMGCN", {"train_batch_size": 2048}),
        ("MMGCN", {"shrink_batches": False}),
        ("UniSRec", {"pretrain_datasets": ["mm-toy", "ml-100k"], "train_neg_sample_args": None}),
        ("MML", {"train_neg_sample_args": None}),
        ("BPR", {}),  # RecBole's own trains as it does without this package
    ],
)
def test_what_somebody_chose_is_left_alone(model: str, options: dict[str, Any]) -> None:
    config, loader = prepared(model, **options)
    assert config["train_batch_size"] == 2048 and len(loader) == 1


def test_the_settings_of_a_data_set_are_a_choice(tmp_path: Path) -> None:
    source = Path(OPTIONS["data_path"]) / "mm-toy"
    (tmp_path / "mm-toy").mkdir()
    for file in source.iterdir():
        (tmp_path / "mm-toy" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "mm-toy" / "mm-toy.yaml").write_text("train_batch_size: 1000\n")
    config, loader = prepared("MMGCN", data_path=str(tmp_path))
    assert config["train_batch_size"] == 1000 and len(loader) == 2


@pytest.mark.parametrize(("rows", "times", "size"), [(6145, 1, 2048), (6144, 1, 512), (6144, 2, 2048), (3000, 2, 512)])
def test_four_steps_are_enough(rows: int, times: int, size: int) -> None:
    config = prepared("MMGCN", shrink_batches=False)[0]
    config["shrink_batches"] = True
    assert suit_batch(config, SimpleNamespace(sample_size=rows, times=times)) is (size != 2048)
    assert config["train_batch_size"] == size


def test_there_is_a_batch_for_any_number_of_rows() -> None:
    for rows in (1, 5, 19, 100):
        config = prepared("MMGCN", shrink_batches=False)[0]
        config["shrink_batches"] = True
        assert suit_batch(config, SimpleNamespace(sample_size=rows)) and config["train_batch_size"] == 8


@pytest.mark.parametrize("then", [{}, {"shrink_batches": False}, {"train_batch_size": 200}])
@pytest.mark.parametrize("first", [{}, {"shrink_batches": False}, {"train_batch_size": 100}])
def test_saved_loaders_are_those_of_a_new_run(tmp_path: Path, first: dict[str, Any], then: dict[str, Any]) -> None:
    """RecBole would go on with the batches that were saved, whatever the options say."""
    options = {"checkpoint_dir": str(tmp_path), "save_dataloaders": True}
    prepared("FREEDOM", **options, **first)
    config, read = prepared("FREEDOM", **options, **then)
    anew, made = prepared("FREEDOM", **then)
    assert config["train_batch_size"] == anew["train_batch_size"] and len(read) == len(made)
    assert rows_of_batches(read) == rows_of_batches(made)


def test_a_script_may_choose_after_all() -> None:
    with without_arguments():
        config = Config(model="MMGCN", dataset="mm-toy", config_dict=OPTIONS)
    config["train_batch_size"] = 1000
    assert len(data_preparation(config, create_dataset(config))[0]) == 2 and config["train_batch_size"] == 1000


def test_a_checkpoint_knows_its_batch_and_goes_on_with_it(tmp_path: Path) -> None:
    options = {**OPTIONS, "epochs": 2, "checkpoint_dir": str(tmp_path)}
    whole = recbole_mm.run("MMGCN", "mm-toy", config_dict={**options, "epochs": 4})
    first = recbole_mm.run("MMGCN", "mm-toy", config_dict=options)
    on = recbole_mm.run("MMGCN", "mm-toy", config_dict={**options, "epochs": 4}, resume=first["checkpoint"])
    assert on["test_result"] == whole["test_result"]
    assert load_data_and_model(first["checkpoint"])[0]["train_batch_size"] == 64


def compared(folder: Path, **more: Any) -> tuple[set[tuple[int, int]], list[str]]:
    """Batch and steps of the runs of a comparison, and its notes about them."""
    options = {**OPTIONS, "epochs": 2, "metrics": ["Recall"], "topk": [10], "valid_metric": "Recall@10", **more}
    table = recbole_mm.compare(
        ["Pop", "BPR", "MMGCN"], "mm-toy", config_dict=options, seeds=1, output=folder, in_process=True, verbose=False
    )
    records = [json.loads(file.read_text()) for file in (folder / "runs").glob("*/run.json")]
    about = {(r["config"]["train_batch_size"], r["steps"]) for r in records if r["job"]["model"] != "Pop"}
    return about, [note for note in table.attrs["notes"] if note.startswith("Small data")]


def test_a_comparison_says_which_models_had_few_steps(tmp_path: Path) -> None:
    about, (note,) = compared(tmp_path)
    assert about == {(64, 17), (2048, 1)} and "BPR (1), but MMGCN (17). --shrink_batches=True" in note


@pytest.mark.parametrize(("option", "value", "batch"), [("shrink_batches", True, 64), ("train_batch_size", 256, 256)])
def test_all_models_of_a_comparison_may_have_them(tmp_path: Path, option: str, value: Any, batch: int) -> None:
    about, notes = compared(tmp_path, **{option: value})
    assert {size for size, _ in about} == {batch} and len(about) == 1 and not notes
