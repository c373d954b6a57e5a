"""Comparisons and searches that are broken off go on in the epoch where they stood, and end as undisturbed ones."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recbole_mm.comparison.compare import compare
from recbole_mm.comparison.tune import tune
from recbole_mm.experiment import job as jobs
from tests.host.killed import SMALL, PowerCutError, power_cut
from tests.options import QUICK

OPTIONS = {**QUICK, "epochs": 4, "train_batch_size": 1024, "embedding_size": 16}
TIMES = ("time", "date", "memory_mib", "checkpoint")


def compared(folder, **more):
    how = {"seeds": 1, "in_process": True, "verbose": False, "model_settings": {"MCPTR": SMALL["MCPTR"]}, **more}
    table = compare(["BPR", "MCPTR"], "mm-toy", config_dict=OPTIONS, output=folder, **how)
    costs = [column for column in table if column.endswith(("_seconds", "_mib"))]
    return table.drop(columns=costs)


def records(folder):
    """Everything that is kept of the runs but times and places."""
    found = {}
    for file in folder.glob("runs/*/run.json"):
        record = json.loads(file.read_text())
        record = {key: value for key, value in record.items() if key not in TIMES}
        for place in ("checkpoint_dir", "gpu_id"):  # the second is what the environment says
            record["config"].pop(place), record["job"]["settings"].pop(place, None)
        record["health"].pop("seconds")
        record["curve"] = [{**point, "seconds": None} for point in record["curve"]]
        with np.load(file.with_name("users.npz")) as users:
            found[file.parent.name] = record, {key: users[key].tolist() for key in users.files}
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with power_cut() as steps:
        table = compared(folder)
    return folder, table, steps[0]


# Steps of the optimiser: within BPR, which takes eight of them, and within the two stages of MCPTR.
@pytest.mark.parametrize("point", [7, 11, "test"])
def test_a_comparison_goes_on_in_the_epoch(point, whole, tmp_path):
    folder, table, steps = whole
    cut = {"place": point} if point == "test" else {"step": point}
    with pytest.raises(PowerCutError), power_cut(**cut):
        compared(tmp_path / "cut")
    with power_cut() as rest:
        again = compared(tmp_path / "cut")
    assert again.equals(table) and records(tmp_path / "cut") == records(folder)
    done = cut.get("step", 0)
    assert rest[0] <= steps - done + 2, "more than the epoch was done again"
    assert not list(tmp_path.glob("cut/**/checkpoint/*"))


def test_a_kill_after_the_test_repeats_one_epoch(whole, tmp_path, monkeypatch):
    """What is needed to go on stays until the record is written."""
    folder, table, steps = whole

    def cut(*_):
        raise PowerCutError

    with monkeypatch.context() as patch, pytest.raises(PowerCutError), power_cut():
        patch.setattr(jobs, "machine", cut)
        compared(tmp_path / "cut", keep_checkpoints=True)
    with power_cut() as rest:
        again = compared(tmp_path / "cut", keep_checkpoints=True)
    assert again.equals(table) and rest[0] < steps
    assert records(tmp_path / "cut") == records(folder)
    assert {file.suffix for file in tmp_path.glob("cut/**/checkpoint/*")} == {".pth"}
    assert not list(tmp_path.glob("cut/**/checkpoint/*resume*"))


def test_another_version_starts_anew(whole, tmp_path, monkeypatch):
    _, table, steps = whole
    with pytest.raises(PowerCutError), power_cut(step=steps - 1):
        compared(tmp_path)
    known = jobs.versions()
    monkeypatch.setattr(jobs, "versions", lambda: {**known, "torch": "0.1"})
    with power_cut() as rest:
        compared(tmp_path)
    assert rest[0] == steps // 2  # MCPTR, from its beginning


def searched(folder):
    space = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}
    found = tune(
        "BPR",
        "mm-toy",
        config_dict=OPTIONS,
        trials=4,
        space=space,
        output=folder,
        in_process=True,
        verbose=False,
    )
    keep = ("index", "state", "value", "params", "epochs")
    return found.params, found.value, [{key: trial[key] for key in keep} for trial in found.trials]


def test_a_search_goes_on_in_the_trial(tmp_path):
    with power_cut() as steps:
        expected = searched(tmp_path / "whole")
    step = int(0.7 * steps[0])  # of four trials of four epochs of two steps
    with pytest.raises(PowerCutError), power_cut(step=step):
        searched(tmp_path / "cut")
    assert list(tmp_path.glob("cut/search/states/*/trial-*/*.last"))
    with power_cut() as rest:
        assert searched(tmp_path / "cut") == expected
    assert rest[0] <= steps[0] - step + 2
    assert not list(tmp_path.glob("*/search/states/*"))


@pytest.mark.parametrize("name", ["BPR", "MCPTR"])
def test_a_run_whose_best_epoch_is_lost_starts_anew(name, tmp_path):
    """It can neither be tested nor end as the undisturbed run, now or at the next start."""
    how = {"config_dict": OPTIONS, "seeds": 1, "in_process": True, "verbose": False, "output": tmp_path}
    how["model_settings"] = {"MCPTR": SMALL["MCPTR"]} if name == "MCPTR" else None
    with pytest.raises(PowerCutError), power_cut(place="test"):
        compare([name], "mm-toy", **how)
    (folder,) = tmp_path.glob("runs/*/checkpoint")
    lost = [file for file in folder.glob("*.pth") if not file.name.endswith("-resume.pth")]
    assert lost
    for file in lost:
        file.unlink()
    assert compare([name], "mm-toy", **how)["failure"].tolist() == [""]
