from __future__ import annotations

import errno
import math
import multiprocessing
import os
import signal
import socket
import time

import optuna
import pytest
from optuna.exceptions import StorageInternalError

from recbole_mm.files import WriteError
from recbole_mm.search import trials as module
from recbole_mm.search.storage import open_storage
from recbole_mm.search.trials import Trials


def make(folder, name="study", **options):
    options = {"bigger": True, "seed": 1, **options}
    return Trials(open_storage(f"sqlite:///{folder / 'study.db'}"), name, **options)


def quadratic(trial):
    """Best at x = 0.3, layers = 2."""
    x, layers = trial.suggest_float("x", 0, 1), trial.suggest_categorical("layers", [1, 2, 3])
    trial.set_user_attr("options", {"x": x, "layers": layers})
    return 1 - (x - 0.3) ** 2 - 0.1 * (layers != 2)


def points(trials):
    return [(t.user_attrs["index"], t.state.name, t.value, dict(t.params)) for t in trials.finished()]


def test_the_budget_is_used_once_and_the_best_is_found(tmp_path):
    trials = make(tmp_path)
    trials.run(quadratic, 15)
    assert [t.user_attrs["index"] for t in trials.finished()] == list(range(15))
    best = trials.best()
    assert best.value == max(t.value for t in trials.finished()) > 0.9
    trials.run(lambda trial: pytest.fail("ran again"), 15)


def test_a_larger_budget_goes_on(tmp_path):
    make(tmp_path).run(quadratic, 4)
    make(tmp_path).run(quadratic, 9)
    (tmp_path / "other").mkdir()
    whole = make(tmp_path / "other")
    whole.run(quadratic, 9)
    assert points(make(tmp_path)) == points(whole)


def test_the_smallest_value_wins_where_smaller_is_better(tmp_path):
    trials = make(tmp_path, bigger=False)
    trials.run(quadratic, 6)
    assert trials.best().value == min(t.value for t in trials.finished())


def test_of_equal_values_the_first_wins(tmp_path):
    trials = make(tmp_path)
    trials.run(lambda trial: trial.suggest_float("x", 0, 1) * 0, 4)
    assert trials.best().user_attrs["index"] == 0


def test_trial_0_has_the_defaults(tmp_path):
    trials = make(tmp_path, defaults={"x": 0.75})
    trials.run(quadratic, 3)
    found = [t.params["x"] for t in trials.finished()]
    assert found[0] == 0.75 and 0.75 not in found[1:]


def test_exploring_trials_look_into_every_part_of_a_range_and_differ_between_studies(tmp_path):
    def objective(trial):
        return trial.suggest_float("rate", 1e-4, 1e-2, log=True) + trial.suggest_int("layers", 1, 4)

    firsts = set()
    for name in ("data-BPR-1", "data-LightGCN-1", "other-BPR-1"):
        trials = make(tmp_path, name, defaults={"rate": 1e-3}, budget=4)
        trials.run(objective, 4)
        rates = [t.params["rate"] for t in trials.finished()]
        assert rates[0] == 1e-3 and min(rates[1:]) < 1e-3 < max(rates[1:])
        firsts.add(rates[1])
        wide = make(tmp_path, f"{name}-wide", budget=20)
        wide.run(objective, 9)
        assert {t.params["layers"] for t in wide.finished()[1:]} == {1, 2, 3, 4}
    assert len(firsts) == 3, "every model and data set explores other points"


@pytest.mark.parametrize("name", [f"study-{k}" for k in range(4)])
def test_trial_1_never_repeats_trial_0(tmp_path, name):
    trials = make(tmp_path, name, defaults={"layers": 2})
    trials.run(lambda trial: trial.suggest_categorical("layers", [1, 2]), 2)
    assert [t.params["layers"] for t in trials.finished()] == [2, 1]


def test_another_seed_samples_something_else(tmp_path):
    left, right = make(tmp_path, "a"), make(tmp_path, "b", seed=2)
    left.run(quadratic, 3)
    right.run(quadratic, 3)
    assert points(left) != points(right)


def test_a_failing_trial_counts_and_is_named(tmp_path):
    trials = make(tmp_path)

    def objective(trial):
        quadratic(trial)
        if trial.user_attrs["index"] == 1:
            raise RuntimeError("loss is nan")
        return math.nan if trial.user_attrs["index"] == 2 else 0.5

    trials.run(objective, 4)
    assert [t.state.name for t in trials.finished()] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    assert trials.finished()[1].user_attrs["error"] == "RuntimeError: loss is nan"
    assert "not a number" in trials.finished()[2].user_attrs["error"]
    trials.run(lambda trial: pytest.fail("ran again"), 4)


def test_hopeless_trials_are_pruned(tmp_path):
    trials = make(tmp_path, warmup=2)
    lengths = []

    def objective(trial):
        quality = trial.suggest_float("quality", 0, 1)
        for step in range(10):
            trial.report(quality * step, step)
            if trial.should_prune():
                lengths.append(step)
                raise optuna.TrialPruned
        return quality

    trials.run(objective, 14)
    pruned = [t for t in trials.finished() if t.state.name == "PRUNED"]
    assert pruned and min(lengths) >= 2
    assert trials.best().value == max(t.value for t in trials.finished() if t.state.name == "COMPLETE")


def _work(folder, seconds, log):
    """A worker process: notes which trial it runs, then takes its time."""

    def objective(trial):
        with open(log, "a") as stream:
            stream.write(f"{trial.user_attrs['index']} {os.getpid()}\n")
        time.sleep(seconds)
        return quadratic(trial)

    module.POLL_SECONDS = 0.05
    make(folder).run(objective, 12)


def start(*arguments):
    process = multiprocessing.get_context("fork").Process(target=_work, args=arguments)
    process.start()
    return process


def test_two_processes_share_a_study_and_run_no_trial_twice(tmp_path):
    log = tmp_path / "log"
    workers = [start(tmp_path, 0.05, log) for _ in range(2)]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    lines = [line.split() for line in log.read_text().splitlines()]
    assert sorted(int(index) for index, _ in lines) == list(range(12))
    assert len({pid for _, pid in lines}) == 2
    trials = make(tmp_path)
    assert len(trials.finished()) == 12 and all(t.state.name == "COMPLETE" for t in trials.finished())


def _die_at_first(folder, deadly, log):
    """A worker process that is killed in the middle of some trials, whenever one of them runs for the first time."""

    def objective(trial):
        index = trial.user_attrs["index"]
        with open(log, "a+") as stream:
            stream.seek(0)
            seen = [int(line) for line in stream]
            stream.write(f"{index}\n")
        value = quadratic(trial)
        if index in deadly and index not in seen:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    make(folder).run(objective, 12)


def test_a_killed_search_ends_as_an_undisturbed_one(tmp_path):
    log, deadly = tmp_path / "log", (0, 4, 5)
    for _ in deadly:
        worker = multiprocessing.get_context("fork").Process(target=_die_at_first, args=(tmp_path, deadly, log))
        worker.start()
        worker.join(60)
        assert worker.exitcode == -signal.SIGKILL
    _die_at_first(tmp_path, deadly, log)
    (tmp_path / "undisturbed").mkdir()
    undisturbed = make(tmp_path / "undisturbed")
    undisturbed.run(quadratic, 12)
    assert points(make(tmp_path)) == points(undisturbed)
    started = [int(line) for line in log.read_text().splitlines()]
    assert sorted(started) == sorted([*range(12), *deadly])  # the interrupted ones, and only these, twice


def test_a_trial_that_always_kills_its_process_does_not_stop_the_others(tmp_path):
    trials = make(tmp_path)
    note = {"host": socket.gethostname(), "pid": os.getpid(), "started": 0.0}
    for _ in range(module.ATTEMPTS):
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING, user_attrs={"index": 1, "worker": note}
        )
        trials.study.add_trial(trial)
    trials.run(quadratic, 3)
    assert [t.user_attrs["index"] for t in trials.finished()] == [0, 2]


def test_a_trial_on_another_machine_is_waited_for_until_its_beat_stops(tmp_path, monkeypatch):
    trials = make(tmp_path)
    elsewhere = {"index": 0, "worker": {"host": "elsewhere", "pid": 1, "started": 1.0}, "beat": 3}
    template = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs=elsewhere)
    trials.study.add_trial(template)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(module, "STALE_SECONDS", 0.5)
    begin = time.monotonic()
    trials.run(quadratic, 2)
    assert time.monotonic() - begin > 0.5
    assert [t.user_attrs["index"] for t in trials.finished()] == [0, 1]
    assert trials.study.trials[0].user_attrs["interrupted"]


def test_of_two_claims_of_one_trial_the_later_gives_way(tmp_path, monkeypatch):
    """Another process claims the same trial between this one's look and its claim."""
    trials = make(tmp_path)
    look = trials._next_index
    rival = {"index": 0, "worker": module.process_note()}

    def look_and_lose(budget):
        index, *rest = look(budget)
        if index == 0:
            trials.study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs=rival))
        return index, *rest

    monkeypatch.setattr(trials, "_next_index", look_and_lose)
    ran = []
    done = trials._claim(3)
    ran.append(done.user_attrs["index"])
    assert ran == [1]
    assert trials.study.trials[1].user_attrs["given_up"]


def test_a_running_trial_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)
    trials = make(tmp_path)
    trials.run(lambda trial: time.sleep(0.5) or quadratic(trial), 1)
    assert trials.study.trials[0].user_attrs["beat"] >= 2


def test_an_interrupted_trial_is_run_again_by_the_same_process(tmp_path):
    """As in a notebook: the process that was interrupted is the one that goes on."""
    trials = make(tmp_path)

    def interrupted(trial):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trials.run(interrupted, 2)
    trials.run(quadratic, 2)
    assert [t.user_attrs["index"] for t in trials.finished()] == [0, 1]


def test_without_optuna_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ImportError, match=r"recbole-mm\[search\]"):
        module.import_optuna()


def test_a_database_that_cannot_be_opened_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(Exception, match="unable to open|nowhere"):
        open_storage(f"sqlite:///{tmp_path}/nowhere/study.db")


def test_a_smaller_budget_knows_nothing_of_trials_beyond_it(tmp_path):
    """Of a study that has more trials already, a search gets as many as every other model has."""
    trials = make(tmp_path)
    trials.run(lambda trial: float(trial.user_attrs["index"]), 6)
    assert trials.best(3).user_attrs["index"] == 2 and len(trials.finished(3)) == 3
    assert trials.best().user_attrs["index"] == 5 and len(trials.finished()) == 6


@pytest.mark.parametrize("then", ["value", "report", "pruned"])
def test_a_worker_that_was_thought_dead_leaves_its_trial_to_others(tmp_path, then):
    """A machine sleeps in the middle of a trial; another one takes the trial over before it wakes up."""
    trials, other = make(tmp_path), make(tmp_path)
    ran = []

    def objective(trial):
        ran.append(trial.number)
        if trial.number == 0:
            other._abandon(trial)
            if then == "report":
                trial.report(0.5, 1)
            if then == "pruned":
                raise optuna.TrialPruned
        return quadratic(trial) if trial.number else 0.5

    trials.run(objective, 2)
    assert ran == [0, 1, 2] and [t.user_attrs["index"] for t in trials.finished()] == [0, 1]


def test_a_beat_that_is_missed_is_not_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)
    trials = make(tmp_path)
    beats = []

    def objective(trial):
        def unreachable(name, value):
            beats.append(value)
            raise OSError("no route to the database")

        monkeypatch.setattr(trial, "set_user_attr", unreachable)
        time.sleep(0.5)
        monkeypatch.undo()
        return 0.5

    trials.run(objective, 1)
    assert len(beats) >= 2


def test_an_interrupted_trial_keeps_its_options(tmp_path):
    """Also where others have ended meanwhile, from which the sampler would have learnt something else."""
    trials, seen = make(tmp_path), []

    def interrupted(trial):
        seen.append(quadratic(trial))
        raise KeyboardInterrupt

    trials.run(quadratic, 11)
    with pytest.raises(KeyboardInterrupt):
        trials.run(interrupted, 12)
    made = optuna.trial.create_trial(
        params={"x": 0.3, "layers": 2},
        distributions=trials.study.trials[0].distributions,
        value=5.0,
        user_attrs={"index": 50, "worker": {}},
    )
    trials.study.add_trial(made)
    trials.run(quadratic, 12)
    assert trials.finished(12)[-1].value == seen[0]


def test_a_trial_that_gets_on_is_not_given_up(tmp_path):
    """Killed at every epoch, as on machines that are lent for an hour, a trial comes to its end."""
    trials = make(tmp_path)

    def interrupted(trial):
        quadratic(trial)
        done.append(1)
        trial.set_user_attr("epochs", len(done))
        raise KeyboardInterrupt

    done = []
    for _ in range(module.ATTEMPTS + 2):
        with pytest.raises(KeyboardInterrupt):
            trials.run(interrupted, 1)
    trials.run(quadratic, 1)
    assert [t.user_attrs["index"] for t in trials.finished()] == [0]


@pytest.mark.parametrize(
    "error",
    [
        WriteError("x could not be written"),
        OSError(errno.ENOSPC, "No space left on device"),  # such as RecBole's log
        StorageInternalError("the database could not be written"),
    ],
)
def test_a_full_disk_ends_a_search_and_spares_the_trial(error, tmp_path):
    trials = make(tmp_path)

    def full(trial):
        raise error

    with pytest.raises(type(error)):
        trials.run(full, 2)
    assert trials.finished() == []
    trials.run(quadratic, 2)
    assert [t.state.name for t in trials.finished()] == ["COMPLETE"] * 2
