"""Runs that were killed and resumed end as the undisturbed run, to the last bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from logging import WARNING

import pytest
import torch

from recbole_mm.experiment.quick_start import run
from tests.conftest import ROOT
from tests.host import killed
from tests.options import QUICK, SEQUENTIAL

PLACES = ("evaluate", "_save_checkpoint", "test")


def point_of(model):
    """A moment of its own for every model: a share of the steps, or within validation, saving or the test."""
    generator = random.Random(model)
    return generator.choice([*PLACES, *(round(generator.uniform(0.05, 0.95), 3) for _ in range(6))])


@pytest.mark.parametrize("model", killed.names())
def test_our_models(model, tmp_path):
    found = killed.killed_and_resumed(model, tmp_path, [point_of(model)])
    assert set(found.values()) == {0.0}, found


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("BPR", {"eval_args": {"mode": "uni10"}}),
        ("MultiVAE", {}),  # counts its annealing steps in a plain attribute
        ("RecVAE", {}),  # has two optimisers
        ("LightGCN", {"stopping_step": 0, "epochs": 4}),
        ("SASRec", SEQUENTIAL),
    ],
)
def test_models_of_recboles(model, options, tmp_path):
    found = killed.killed_and_resumed(model, tmp_path, [0.6, "evaluate", "test"], **options)
    assert set(found.values()) == {0.0}, found


def test_all_options_of_the_checkpoint_hold(caplog):
    odd = {
        "learning_rate": 0.0123,
        "weight_decay": 0.01,
        "train_batch_size": 777,
        "topk": [7],
        "valid_metric": "NDCG@7",
    }
    first = run("BPR", "mm-toy", config_dict={**QUICK, **odd})["checkpoint"]
    plain = {"epochs": 6, "state": "WARNING"}
    with killed.trainers() as made:
        run("BPR", "mm-toy", config_dict=plain, resume=first)
        caplog.set_level(WARNING)
        run("BPR", "mm-toy", config_dict={**plain, "epochs": 8, "learning_rate": 0.5}, resume=first)
    assert all(made[0].config[key] == value for key, value in odd.items())
    assert made[0].optimizer.param_groups[0]["lr"] == 0.0123
    assert made[1].optimizer.param_groups[0]["lr"] == 0.5
    assert "learning_rate is 0.5 from here on" in caplog.text and "0.0123" in caplog.text


def test_another_metric_rates_the_best_epoch_anew():
    first = run("BPR", "mm-toy", config_dict=QUICK)
    result = run(
        "BPR",
        "mm-toy",
        config_dict={"epochs": 3, "state": "ERROR", "valid_metric": "NDCG@5"},
        resume=first["checkpoint"],
    )
    assert result["best_valid_score"] == result["best_valid_result"]["ndcg@5"]
    assert result["best_valid_score"] >= first["best_valid_result"]["ndcg@5"]


def test_the_state_between_two_epochs_is_kept_until_the_test_is_done(tmp_path):
    with pytest.raises(killed.PowerCutError), killed.power_cut(place="test"):
        killed.outcome("BPR", str(tmp_path))
    assert sorted(file.suffix for file in tmp_path.iterdir() if file.is_file()) == [".last", ".pth"]
    killed.outcome("BPR", str(tmp_path), resume="auto")
    assert [file.suffix for file in tmp_path.iterdir() if file.is_file()] == [".pth"]


def test_auto_takes_no_run_of_other_options(tmp_path):
    with pytest.raises(killed.PowerCutError), killed.power_cut(place="test"):
        killed.outcome("BPR", str(tmp_path))
    _, other = killed.outcome("BPR", str(tmp_path), resume="auto", learning_rate=0.02)
    assert other.start_epoch == 0 and len(list(tmp_path.glob("*.pth"))) == 2


def test_a_damaged_state_leaves_the_best_epoch(tmp_path, caplog):
    with pytest.raises(killed.PowerCutError), killed.power_cut(place="test"):
        killed.outcome("BPR", str(tmp_path))
    (last,), (best,) = tmp_path.glob("*.last"), tmp_path.glob("*.pth")
    last.write_bytes(last.read_bytes()[:1000])
    epoch = torch.load(best, weights_only=True)["epoch"]
    _, trainer = killed.outcome("BPR", str(tmp_path), resume=str(best), epochs=5)
    assert trainer.start_epoch == epoch + 1 and "The best epoch is taken instead" in caplog.text


COMMAND = [sys.executable, "-m", "recbole_mm", "--model=BPR", "--dataset=mm-toy", "--epochs=60", "--stopping_step=99",
           "--learning_rate=0.01", "--use_gpu=False"]  # fmt: skip


def shell(folder, *arguments, **options):
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*COMMAND, *arguments], cwd=folder, env=environment, **pipes, **options)


def table(output):
    return [line for line in output.splitlines() if line.startswith(("recall", "mrr", "ndcg", "hit"))]


def test_signals(tmp_path):
    """SIGTERM ends with a message and status 143, SIGKILL with nothing; the metrics of the end are the same."""
    out, err = shell(tmp_path / "whole").communicate(timeout=280)
    expected = table(out)
    assert expected, err
    for number, status in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        folder = tmp_path / number.name
        child = shell(folder)
        while not list(folder.glob("saved/BPR*.last")):
            assert child.poll() is None, child.communicate()
            time.sleep(0.01)
        child.send_signal(number)
        _, err = child.communicate(timeout=60)
        assert child.returncode == status, err
        if status == 143:
            assert "Terminated." in err and "Go on with: python -m recbole_mm" in err and "--resume=saved/BPR" in err
        resumed, err = shell(folder, "--resume=auto").communicate(timeout=280)
        assert table(resumed) == expected, err
        assert [file.suffix for file in (folder / "saved").iterdir()] == [".pth"]
