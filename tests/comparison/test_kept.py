"""What a comparison has is not lost to the next one: its table, and its folder while it runs."""

from __future__ import annotations

import json

import pytest

from recbole_mm.alive import process_note
from recbole_mm.cli.main import main
from recbole_mm.comparison import compare as runner
from recbole_mm.comparison import runs
from recbole_mm.experiment.store import Store

FAST = ["--seeds=1", "--epochs=1", "--use_gpu=False", "--state=ERROR", "--show_progress=False", "--output=out"]


@pytest.fixture
def here(monkeypatch):
    """A command line whose runs are done in this process."""
    compare = runner.compare
    monkeypatch.setattr(runner, "compare", lambda *a, **k: compare(*a, **{**k, "in_process": True}))
    monkeypatch.setattr("sys.argv", ["run_recbole_mm.py"])
    return main


def test_a_failure_changes_the_status_and_no_table_with_results(here, tmp_path, monkeypatch, capsys):
    command = ["compare", "--models=Pop,BPR", "--dataset=mm-toy", *FAST]
    task = runs.run_task

    def without(*names):
        def run(order):
            if order["job"]["model"] in names:
                raise ValueError("it is broken today")
            task(order)

        monkeypatch.setattr(runs, "run_task", run)

    without("Pop")
    assert here(command) == 1, "one model failed, the other one is done"
    table = (tmp_path / "out" / "table.csv").read_text()
    assert "it is broken today" in table and "BPR" in table
    files = {file: file.read_bytes() for file in (tmp_path / "out").iterdir() if file.is_file()}
    without("Pop", "BPR")
    capsys.readouterr()
    assert here([*command, "--learning_rate=0.5"]) == 1
    assert {file: file.read_bytes() for file in files} == files
    assert "table.csv and the files beside it stay as they were" in capsys.readouterr().out
    without()
    assert here(command) == 0
    assert "it is broken today" not in (tmp_path / "out" / "table.csv").read_text()


def test_the_table_has_all_runs_that_are_there_before_it_is_written_again(here, tmp_path, monkeypatch):
    """A run that is added, and killed, must not leave a table of fewer runs than before."""
    command = ["compare", "--models=Pop,BPR", "--dataset=mm-toy", *FAST]
    assert here(command) == 0
    sizes = []
    write = runner.Report.write

    def noted(report):
        found = write(report)
        sizes.append(int(found["runs"].sum()))
        return found

    monkeypatch.setattr(runner.Report, "write", noted)
    assert here([argument.replace("--seeds=1", "--seeds=2") for argument in command]) == 0
    assert min(sizes) == 2 and sizes[-1] == 4


@pytest.mark.parametrize("record", ["", '{"status": "finished"}', "[]"])
def test_a_damaged_record_stops_before_anything_runs(record, here, tmp_path, monkeypatch, capsys):
    store = Store(tmp_path / "out")
    monkeypatch.setattr(runs, "run_task", None)
    monkeypatch.setattr(runs.Runs, "_digest", lambda self, job: "x")
    (store.start("Pop-2020-x") / "run.json").write_text(record)
    (tmp_path / "out" / "table.csv").write_text("model,runs\nPop,3\n")
    assert here(["compare", "--models=BPR,Pop", "--dataset=mm-toy", *FAST]) == 2
    error = capsys.readouterr().err
    assert "run.json is not what this program wrote" in error and "to do the run again" in error
    assert (tmp_path / "out" / "table.csv").read_text() == "model,runs\nPop,3\n"


def test_two_commands_on_one_folder(here, tmp_path, capsys):
    """The second one says who is there; a lock that nobody holds any more is taken over without a word."""
    command = ["compare", "--models=Pop", "--dataset=mm-toy", *FAST]
    with Store(tmp_path / "out").lock():
        assert here(command) == 2
    error = capsys.readouterr().err
    assert "is in use by process" in error and "Wait for it, choose another output folder" in error
    assert "Traceback" not in error
    gone = {**process_note(), "started": 1.0}
    (tmp_path / "out" / ".lock").write_text(json.dumps(gone))
    assert here(command) == 0
    (tmp_path / "out" / ".lock").write_text(json.dumps({**gone, "host": "elsewhere"}))
    assert here(command) == 2
    assert "on elsewhere" in (error := capsys.readouterr().err) and "delete" in error
