"""Searches from the command line: with a comparison, killed and started again, and shared by two commands."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time

import pandas as pd
import pytest
import yaml

from recbole_mm.cli.main import main as cli_main
from recbole_mm.comparison import compare as runner
from recbole_mm.comparison import tune as tuner
from recbole_mm.comparison.compare import compare
from tests.options import QUICK
from tests.search.spaces import SPACE


def test_compare_searches_with_one_budget_and_runs_the_best(tmp_path):
    table = compare(
        ["Pop", "BPR"], "mm-toy", config_dict=QUICK, seeds=2, trials=3, search_spaces={"BPR": SPACE}, output=tmp_path,
        in_process=True, verbose=False,
    )  # fmt: skip
    about = json.loads((tmp_path / "compare.json").read_text())
    best = about["searches"]["BPR"]["params"]
    assert table["runs"].tolist() == [2, 2] and "learning_rate=" in table["params"][1] and table["params"][0] == ""
    for file in tmp_path.glob("runs/BPR-*/run.json"):
        config = json.loads(file.read_text())["config"]
        assert config["learning_rate"] == best["learning_rate"] and config["embedding_size"] == best["embedding_size"]
    assert len(set(table.attrs["splits"].values())) == 1  # no test part of another split was seen by the search
    assert "3 trials for every model" in (tmp_path / "table.md").read_text()


def test_a_model_that_cannot_be_searched_fails_alone(tmp_path):
    table = compare(
        ["ENMF", "BPR"], "mm-toy", config_dict=QUICK, seeds=1, trials=1, search_spaces={"BPR": SPACE}, output=tmp_path,
        in_process=True, verbose=False,
    )  # fmt: skip
    assert table["runs"].tolist() == [0, 1] and "no search space for ENMF" in table["failure"][0]


@pytest.fixture
def here(monkeypatch):
    """Run a command line in this process, with its searches and runs: importing torch for each takes seconds."""
    compare, tune = runner.compare, tuner.tune
    monkeypatch.setattr(runner, "compare", lambda *a, **k: compare(*a, **{**k, "in_process": True}))
    monkeypatch.setattr(tuner, "tune", lambda *a, **k: tune(*a, **{**k, "in_process": True}))
    return cli_main


@pytest.fixture
def start(monkeypatch):
    """Start a command line in a copy of this process, which has imported everything."""
    monkeypatch.setattr("sys.argv", ["run_recbole_mm.py"])
    started = []

    def run(arguments):
        process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(cli_main(arguments)))
        started.append(process)
        process.start()
        return process

    yield run
    for process in started:
        process.kill()


def _trial_begun(folder):
    return any("epoch 2" in file.read_text() for file in folder.glob("**/log/*/*.log"))


def _run_begun(folder):
    return any("epoch 1 training" in file.read_text() for file in folder.glob("runs/LightGCN-*/output"))


def _wait_until(reached, folder, process):
    while not reached(folder):
        assert process.is_alive(), f"{reached.__name__} was not seen in time"
        time.sleep(0.02)


@pytest.mark.slow
def test_kill_9_in_search_and_comparison_then_again_gives_the_same_table(start, request, tmp_path):
    """The command is killed within a trial and within a run; the final table is that of an undisturbed one."""
    (tmp_path / "spaces.yaml").write_text(yaml.safe_dump({"LightGCN": {"n_layers": [1, 2, 3]}}))
    arguments = [
        "--models=LightGCN,Pop", "--dataset=mm-toy", "--seeds=1", "--trials=3", "--epochs=6", "--topk=[10]",
        "--use_gpu=False", "--search_spaces=spaces.yaml",
    ]  # fmt: skip
    killed = tmp_path / "killed"
    for reached in (_trial_begun, _run_begun):
        # Only the parent is killed: the processes it started must notice and end by themselves.
        parent = start([*arguments, "--output=killed"])
        _wait_until(reached, killed, parent)
        parent.kill()
        parent.join()
        for file in killed.rglob("*.json"):
            json.loads(file.read_text())
    here = request.getfixturevalue("here")  # not before: what was killed had a process for every search and run
    tables = []
    for name in ("killed", "undisturbed"):
        assert here([*arguments, f"--output={name}"]) == 0
        table = pd.read_csv(tmp_path / name / "table.csv")
        costs = [column for column in table if column.endswith("_seconds") or column.endswith("_mib")]
        tables.append(table.drop(columns=costs))
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.slow
def test_two_commands_share_one_study(here, start, tmp_path):
    """Two processes, as on two machines, with one database: each trial is run by one of them."""
    (tmp_path / "spaces.yaml").write_text(yaml.safe_dump({"BPR": SPACE}))
    arguments = [
        "--model=BPR", "--dataset=mm-toy", "--trials=10", "--epochs=6", "--use_gpu=False",
        f"--storage=sqlite:///{tmp_path}/shared.db", "--search_spaces=spaces.yaml",
    ]  # fmt: skip
    other = start([*arguments, "--output=a"])
    assert here([*arguments, "--output=b"]) == 0
    other.join(timeout=400)
    assert other.exitcode == 0
    options = [yaml.safe_load((tmp_path / name / "BPR.yaml").read_text()) for name in ("a", "b")]
    assert options[0] == options[1] and set(options[0]) == set(SPACE)
    results = [json.loads(next((tmp_path / name / "search").glob("*.json")).read_text()) for name in ("a", "b")]
    assert results[0]["trials"] == results[1]["trials"] and len(results[0]["trials"]) == 10
    assert len({trial["worker"] for trial in results[0]["trials"]}) == 2
