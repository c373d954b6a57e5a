from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import time

import pandas as pd
import pytest
import yaml
from recbole.utils import ModelType

import recbole_mm
from recbole_mm.cli.main import main as cli_main
from recbole_mm.comparison import compare as runner
from recbole_mm.comparison import tune as tuner
from recbole_mm.comparison.compare import compare
from recbole_mm.comparison.tune import tune
from recbole_mm.experiment.job import Job
from recbole_mm.experiment.processes import ChildError
from recbole_mm.experiment.store import Store
from recbole_mm.host.names import recbole_models
from recbole_mm.paths import dataset_atomic_dir, properties_dir
from recbole_mm.search import search as module
from recbole_mm.search.search import make_plan
from recbole_mm.search.space import Choices, Range, read_space
from recbole_mm.search.storage import open_storage, without_password
from recbole_mm.search.trials import Trials
from tests.options import QUICK

SPACE = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "embedding_size": [8, 16]}


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


def test_a_search_without_validation_says_so(tmp_path):
    options = {**QUICK, "eval_args": {"split": {"RS": [0.8, 0.0, 0.2]}}}
    with pytest.raises(ValueError, match="never validated"):
        tune("BPR", "mm-toy", config_dict=options, trials=1, space=SPACE, output=tmp_path, in_process=True)


def test_the_password_of_a_database_is_not_in_the_results():
    shown = without_password("postgresql://me:secret@host:5432/studies")
    assert "secret" not in shown and "me:" in shown and "@host:5432/studies" in shown
    assert without_password("sqlite:////tmp/study.db") == "sqlite:////tmp/study.db"
    assert without_password("postgresql://me:p@ss:w/ord@host/x?a=1&password=se").count("***") == 2


def test_a_search_in_its_own_process_is_the_same(capsys, tmp_path):
    arguments = {"config_dict": QUICK, "trials": 2, "space": SPACE}
    here = tune("BPR", "mm-toy", output=tmp_path / "here", in_process=True, **arguments)
    lines = capsys.readouterr().out.splitlines()
    own = tune("BPR", "mm-toy", output=tmp_path / "own", **arguments)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trial")]
    assert [line.split(" (")[0] for line in lines] == [line.split(" (")[0] for line in said]
    assert outcome(here) == outcome(own) and here.study == own.study
    assert {trial["worker"] for trial in own.trials} != {trial["worker"] for trial in here.trials}


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


def test_a_search_without_any_value_says_why(tmp_path):
    space = {"embedding_size": [-1]}
    with pytest.raises(ValueError, match="No trial of 2.*embedding_size: expected an integer of at least 1"):
        tune("BPR", "mm-toy", config_dict=QUICK, trials=2, space=space, output=tmp_path, in_process=True)


def test_nothing_to_search_is_no_search(tmp_path):
    found = tune("Pop", "mm-toy", config_dict=QUICK, trials=5, output=tmp_path, in_process=True)
    assert found.params == {} and found.trials == [] and not (tmp_path / "search" / "study.db").exists()


def test_the_study_is_named_after_everything_that_matters():
    def name(**changes):
        job = Job("BPR", "mm-toy", {"epochs": 2, **changes.pop("settings", {})}, changes.pop("seed", 1), 1)
        arguments = {"fingerprint": "f", "space": read_space("BPR", SPACE), "trials": 5, "storage": None, **changes}
        return make_plan(job, **arguments).study

    same = [name(), name(trials=9), name(storage="sqlite:///x"), name(settings={"gpu_id": "3", "data_path": "/y"})]
    assert len(set(same)) == 1
    others = [name(seed=2), name(settings={"epochs": 3}), name(fingerprint="g"), name(space={})]
    assert len({*same, *others}) == 5


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"topk": [[5]]}, "must be the same for all"),
        ({"seed": [1, 2]}, "must be the same for all"),
        ({"learning_rat": [0.1]}, "no option 'learning_rat'.*learning_rate"),
        ({"learning_rate": {"low": "1e-4", "high": 0.1}}, r"expected numbers, got '1e-4'.*1\.0e-4"),
        ({"learning_rate": {"low": 0.1, "high": 0.01}}, "low must not exceed high"),
        ({"learning_rate": {"low": 0, "high": 0.01, "log": True}}, "low > 0"),
        ({"learning_rate": {"low": 0.1, "high": 0.2, "steps": 3}}, "got steps"),
        ({"learning_rate": 0.1}, "a list of values"),
        ({"learning_rate": []}, "a list of values"),
        ({"learning_rate": {"low": True, "high": 2}}, "expected numbers"),
    ],
)
def test_mistakes_in_a_space_are_named(space, message):
    with pytest.raises(ValueError, match=message):
        make_plan(Job("BPR", "mm-toy", {}, 1, 1), "f", read_space("BPR", space), 3, None)


def test_a_space_that_is_no_mapping(tmp_path):
    (tmp_path / "space.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="expected a mapping"):
        read_space("BPR", tmp_path / "space.yaml")


def test_an_unknown_model_has_no_space():
    with pytest.raises(FileNotFoundError, match="no search space for LightGCM.*Did you mean 'LightGCN'.*search_spaces"):
        read_space("LightGCM")


def test_dimensions_know_their_values():
    assert Range(1, 4).whole and not Range(1.0, 4).whole
    assert [Range(1, 5, step=2).holds(v) for v in (1, 3, 4, 7, True, "3")] == [True, True, False, False, False, False]
    assert Range(0.0, 0.5, step=0.1).holds(0.3) and not Range(0.0, 0.5, step=0.1).holds(0.35)
    assert Choices(([1, 2], [3])).holds([3]) and Choices(([1, 2],)).stored([1, 2]) == "[1, 2]"


def test_lists_are_choices_like_others(tmp_path):
    space = {"mlp_hidden_size": [[8], [8, 4]]}
    options = {**QUICK, "mf_embedding_size": 4, "mlp_embedding_size": 4}
    found = tune("NeuMF", "mm-toy", config_dict=options, trials=3, space=space, output=tmp_path, in_process=True)
    assert found.params["mlp_hidden_size"] in ([8], [8, 4]) and len(found.trials) == 3


@pytest.mark.parametrize("file", sorted((properties_dir() / "search").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_space_that_ships_fits_its_model(file):
    """The model exists, has every option, and the default of most lies in the space, so trial 0 is the default."""
    from recbole.config import Config
    from recbole.utils import get_model

    name = file.stem
    assert name in recbole_mm.registered_models() or name in recbole_models()
    space = read_space(name)
    make_plan(Job(name, "mm-toy", {}, 1, 1), "f", space, 3, None)
    options = {"train_neg_sample_args": None} if get_model(name).type.name == "SEQUENTIAL" else {}
    config = Config(model=name, dataset="mm-toy", config_dict={"state": "ERROR", **options})
    for key, dimension in space.items():
        assert key in config, f"{name} has no option {key}"
        assert key == "weight_decay" or dimension.holds(config[key]), f"{name}: default {key}={config[key]}"


def test_every_registered_model_has_a_space():
    for name, model in recbole_mm.registered_models().items():
        trains = model.type != ModelType.TRADITIONAL
        assert not model.__module__.startswith("recbole_mm.") or not trains or "learning_rate" in read_space(name), name
        assert not model.__module__.startswith("recbole_mm.") or read_space(name), name


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
