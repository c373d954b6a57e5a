"""Runs that lack a part: negatives, labels, a validation or a test part; each is said before training."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from recbole_mm.cli.main import main
from recbole_mm.experiment.split import unmeasured

TOY = "--dataset=mm-toy --epochs=1 --show_progress=False --verbose"


@pytest.fixture(autouse=True)
def _program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["recbole-mm"])


@pytest.mark.parametrize(
    ("model", "column", "words"),
    [
        ("BPR", "neg_item_id", "compares with sampled negatives, and none are drawn; set train_neg_sample_args"),
        ("MMGCN", "neg_item_id", "compares with sampled negatives"),
        ("SASRec --loss_type=BPR", "neg_item_id", "compares with sampled negatives"),
        ("DMF", "label", "Labels come of sampled negatives"),
        ("FM --eval_args={mode: full} --metrics=[Recall] --valid_metric=Recall@10", "label", "a threshold such as"),
    ],
)
def test_a_batch_without_what_the_model_reads(model: str, column: str, words: str, capsys: Any) -> None:
    line = shlex.split(f"train {TOY} --train_neg_sample_args=~") + [f"--model={model.split(' --')[0]}"]
    assert main(line + [f"--{rest}" for rest in model.split(" --")[1:]]) == 2
    error = capsys.readouterr().err
    assert f"no column {column!r}" in error and words in error and "Traceback" not in error


def test_nothing_to_validate_or_to_test_on_is_said_twice(capsys: Any, caplog: Any) -> None:
    assert main(shlex.split(f"train --model=BPR {TOY} --eval_args='{{split: {{RS: [1, 0, 0]}}}}'")) == 0
    report = capsys.readouterr().out
    assert "There is nothing to validate on (eval_args): all 1 epochs are trained" in caplog.text
    assert "note: there is nothing to validate on" in report and "note: there is nothing to test on" in report


def test_what_is_unmeasured() -> None:
    whole, options = {"valid": 3, "test": 3}, {"eval_step": 1, "epochs": 7}
    assert unmeasured(whole, options) == []
    assert "eval_step is 0: all 7 epochs" in unmeasured(whole, {**options, "eval_step": 0})[0]
    assert len(unmeasured({"valid": 0, "test": 0}, options)) == 2


@pytest.mark.parametrize("option", ["--eval_args='{split: {RS: [9, 0, 1]}}'", "--eval_step=0"])
def test_a_search_without_validation_ends_before_it_trains(option: str, capsys: Any, monkeypatch: Any) -> None:
    from recbole.trainer import Trainer

    from recbole_mm.search import search as module

    def here(task: Any, plan: Any, storage: Any, folder: Any, look: Any, children: Any) -> Any:
        return module.search_task(task, look)

    monkeypatch.setattr(module, "_in_children", here)
    monkeypatch.setattr(Trainer, "_train_epoch", lambda *_, **__: pytest.fail("training began"))
    assert main(shlex.split(f"search --model=BPR --trials=3 {TOY} {option}")) == 2
    assert "on the validation part, and there is none" in capsys.readouterr().err
