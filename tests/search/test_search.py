"""A search: what it sees, finds, prints, and how it goes on where a trial fails."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal

import pandas as pd
import pytest

import recbole_mm
from recbole_mm.comparison.tune import tune
from recbole_mm.experiment.children import ChildError
from recbole_mm.experiment.job import Job
from recbole_mm.experiment.store import Store
from recbole_mm.paths import dataset_atomic_dir
from recbole_mm.search import search as module
from recbole_mm.search.search import make_plan
from recbole_mm.search.space import read_space
from recbole_mm.search.storage import open_storage
from recbole_mm.search.trials import Trials
from tests.options import QUICK
from tests.search.spaces import SPACE


def outcome(result):
    return [(t["index"], t["state"], t["value"], t["params"]) for t in result.trials]


@pytest.fixture
def benchmark_data(tmp_path):
    """mm-toy with its split in files, as RecBole's ``benchmark_filename`` wants it."""
    folder = tmp_path / "dataset" / "fixed"
    folder.mkdir(parents=True)
    frame = pd.read_csv(dataset_atomic_dir() / "mm-toy" / "mm-toy.inter", sep="\t").sort_values(
        "timestamp:float", kind="stable"
    )
    place = frame.groupby("user_id:token").cumcount(ascending=False)
    for name, rows in (("train", frame[place > 1]), ("valid", frame[place == 1]), ("test", frame[place == 0])):
        rows.to_csv(folder / f"fixed.{name}.inter", sep="\t", index=False)
    options = {**QUICK, "benchmark_filename": ["train", "valid", "test"], "data_path": str(tmp_path / "dataset")}
    return folder, options


def test_a_corrupted_test_part_changes_nothing_in_the_search(benchmark_data, tmp_path):
    folder, options = benchmark_data
    arguments = {"config_dict": options, "trials": 4, "space": SPACE, "in_process": True}
    before = tune("BPR", "fixed", output=tmp_path / "before", **arguments)
    test = pd.read_csv(folder / "fixed.test.inter", sep="\t")
    test["item_id:token"] = test["item_id:token"].sample(frac=1, random_state=1).to_numpy()
    test.to_csv(folder / "fixed.test.inter", sep="\t", index=False)
    after = tune("BPR", "fixed", output=tmp_path / "after", **arguments)
    assert outcome(before) == outcome(after) and before.params == after.params
    assert before.study != after.study  # other data, so nothing was taken over


def test_a_trial_never_gets_the_test_part(monkeypatch, tmp_path):
    seen = []
    train = module.train

    def watched(prepared, **arguments):
        seen.append(prepared.test_data)
        prepared.trainer.evaluate = _only(prepared.valid_data, prepared.trainer.evaluate)
        return train(prepared, **arguments)

    monkeypatch.setattr(module, "train", watched)
    tune("BPR", "mm-toy", config_dict=QUICK, trials=2, space=SPACE, output=tmp_path, in_process=True)
    assert seen == [None, None]


def _only(valid_data, evaluate):
    def evaluate_valid(data, *args, **kwargs):
        assert data is valid_data
        return evaluate(data, *args, **kwargs)

    return evaluate_valid


def test_the_search_finds_what_a_run_with_its_options_repeats(tmp_path):
    found = tune("BPR", "mm-toy", config_dict=QUICK, trials=3, space=SPACE, output=tmp_path, in_process=True)
    assert len(found.trials) == 3 and found.metric == "recall@10" and found.budget == 3
    assert found.trials[0]["params"]["learning_rate"] == 0.001  # RecBole's default; 64 is not among the sizes
    assert set(found.params) == set(SPACE)
    result = recbole_mm.run("BPR", "mm-toy", config_dict={**QUICK, **found.params}, saved=False)
    assert result["best_valid_score"] == found.value
    stored = json.loads((tmp_path / "search" / f"{found.study}.json").read_text())
    assert stored["params"] == found.params and len(stored["trials"]) == 3
    assert all(trial["epochs"] == 2 and trial["seconds"] > 0 for trial in stored["trials"])
    assert "test" not in json.dumps(stored["trials"])


def test_a_line_per_trial_as_it_ends(capsys, tmp_path):
    """Value, best so far, the options that are not those of the first trial, the time, and an estimate of the rest."""
    arguments = {"config_dict": QUICK, "space": SPACE, "output": tmp_path, "in_process": True}
    found = tune("BPR", "mm-toy", trials=3, **arguments)
    lines = capsys.readouterr().out.splitlines()
    values = [trial["value"] for trial in found.trials]
    assert [line.split(" complete: valid recall@10 ")[0] for line in lines] == ["trial 1/3", "trial 2/3", "trial 3/3"]
    for index, line in enumerate(lines):
        assert f"recall@10 {values[index]:.4f}" in line and re.search(r" \(\d+ s\)", line)
        first = values.index(max(values[: index + 1]))
        assert ("best so far" if first == index else f"best {values[first]:.4f} of trial {first + 1};") in line
        assert ("about" in line) == (index < 2)
        changed = {
            key for key in SPACE if index == 0 or found.trials[index]["params"][key] != found.trials[0]["params"][key]
        }
        assert set(re.findall(r"(\w+)=", line)) == changed
    tune("BPR", "mm-toy", trials=4, **arguments)
    again = capsys.readouterr().out.splitlines()
    assert [line.endswith("done before") for line in again] == [True, True, True, False]
    tune("BPR", "mm-toy", trials=4, verbose=False, **arguments)
    assert not capsys.readouterr().out


def test_a_search_whose_database_cannot_be_asked_goes_on(monkeypatch, tmp_path):
    def settled(storage, name):
        raise OSError("the database is out of reach")

    monkeypatch.setattr("recbole_mm.search.progress.settled_trials", settled)
    assert len(tune("BPR", "mm-toy", config_dict=QUICK, trials=1, space=SPACE, output=tmp_path, in_process=True).trials)


def test_a_smaller_budget_takes_no_more_trials_of_a_larger_search(tmp_path):
    """Otherwise a model that was searched before would be chosen from more trials than the others."""
    arguments = {"config_dict": QUICK, "space": SPACE, "output": tmp_path, "in_process": True}
    assert len(tune("BPR", "mm-toy", trials=3, **arguments).trials) == 3
    found = tune("BPR", "mm-toy", trials=1, **arguments)
    assert [trial["index"] for trial in found.trials] == [0] and found.params == found.trials[0]["params"]


def test_what_the_caller_sets_is_not_searched(tmp_path):
    options = {**QUICK, "learning_rate": 0.02}
    found = tune("BPR", "mm-toy", config_dict=options, trials=2, output=tmp_path, in_process=True)
    assert [set(trial["params"]) for trial in found.trials] == [{"weight_decay"}] * 2
    with pytest.raises(ValueError, match="learning_rate is set as an option already"):
        tune("BPR", "mm-toy", config_dict=options, trials=2, space=SPACE, output=tmp_path, in_process=True)


def test_trials_that_kill_their_process_do_not_stop_the_others(monkeypatch, tmp_path):
    """Two of five options need more memory than there is: each is tried a few times, then the search goes on."""

    def killed_at(plan, deadly):
        def objective(trial):
            if trial.user_attrs["index"] in deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            trial.set_user_attr("options", {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1)})
            return 0.5

        Trials(open_storage(plan["storage"]), plan["study"], True, 1).run(objective, plan["trials"])

    def run_in_child(function, task, folder, models, look, children):
        child = multiprocessing.get_context("fork").Process(target=killed_at, args=(task["plan"], deadly))
        child.start()
        child.join()
        if child.exitcode:
            raise ChildError("its process was ended by SIGKILL", died=True)
        return function(task)

    monkeypatch.setattr(module, "run_in_child", run_in_child)
    plan = make_plan(Job("BPR", "mm-toy", dict(QUICK), 1, 1), "f", read_space("BPR", SPACE), 5, None)
    deadly = (1, 3)
    found = module.search(plan, Store(tmp_path / "two"))
    assert [trial["index"] for trial in found.trials] == [0, 2, 4]
    deadly = range(5)
    with pytest.raises(ChildError, match="SIGKILL"):
        module.search(plan, Store(tmp_path / "all"))


def test_folders_of_other_machines_are_left_alone(monkeypatch, tmp_path):
    """Those of node-2 begin as those of node, and end in no number."""
    monkeypatch.setattr(module.socket, "gethostname", lambda: "node")
    monkeypatch.setattr(module, "run_in_child", lambda function, task, *_, **__: function(task))
    plan = make_plan(Job("BPR", "mm-toy", {**QUICK, "epochs": 1}, 1, 1), "f", read_space("BPR", SPACE), 1, None)
    folders = [tmp_path / "search" / f"{plan.study}-{name}" for name in ("node-2-77", "node-999999999")]
    for folder in folders:
        folder.mkdir(parents=True)
    module.search(plan, Store(tmp_path))
    assert [folder.is_dir() for folder in folders] == [True, False]


def test_a_search_without_validation_says_so(tmp_path):
    options = {**QUICK, "eval_args": {"split": {"RS": [0.8, 0.0, 0.2]}}}
    with pytest.raises(ValueError, match="on the validation part, and there is none: give eval_args a split"):
        tune("BPR", "mm-toy", config_dict=options, trials=1, space=SPACE, output=tmp_path, in_process=True)


def test_a_search_in_its_own_process_is_the_same(capsys, tmp_path):
    arguments = {"config_dict": QUICK, "trials": 2, "space": SPACE}
    here = tune("BPR", "mm-toy", output=tmp_path / "here", in_process=True, **arguments)
    lines = capsys.readouterr().out.splitlines()
    own = tune("BPR", "mm-toy", output=tmp_path / "own", **arguments)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trial")]
    assert [line.split(" (")[0] for line in lines] == [line.split(" (")[0] for line in said]
    assert outcome(here) == outcome(own) and here.study == own.study
    assert {trial["worker"] for trial in own.trials} != {trial["worker"] for trial in here.trials}
    assert not list((tmp_path / "own" / "search").glob(f"{own.study}-*"))  # folders of its processes


def test_a_search_without_any_value_says_why(tmp_path):
    space = {"embedding_size": [-1]}
    with pytest.raises(ValueError, match="No trial of 2.*embedding_size: expected an integer of at least 1"):
        tune("BPR", "mm-toy", config_dict=QUICK, trials=2, space=space, output=tmp_path, in_process=True)


def test_nothing_to_search_is_no_search(tmp_path):
    found = tune("Pop", "mm-toy", config_dict=QUICK, trials=5, output=tmp_path, in_process=True)
    assert found.params == {} and found.trials == [] and not (tmp_path / "search" / "study.db").exists()


def test_lists_are_choices_like_others(tmp_path):
    space = {"mlp_hidden_size": [[8], [8, 4]]}
    options = {**QUICK, "mf_embedding_size": 4, "mlp_embedding_size": 4}
    found = tune("NeuMF", "mm-toy", config_dict=options, trials=3, space=space, output=tmp_path, in_process=True)
    assert found.params["mlp_hidden_size"] in ([8], [8, 4]) and len(found.trials) == 3
