"""A comparison that is asked to end takes its processes along, says how it goes on, and leaves no secret behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time

import psutil
import pytest

from recbole_mm.cli.main import main
from recbole_mm.experiment import children
from recbole_mm.experiment.children import ChildError, run_in_child
from recbole_mm.experiment.store import Store

WAITS = f"#!{sys.executable}\nimport os, time\nprint(os.getpid(), flush=True)\ntime.sleep(100)\n"

pytestmark = pytest.mark.usefixtures("ctrl_c_is_heard")


@pytest.fixture
def waiting(tmp_path, monkeypatch):
    """In the place of an interpreter that trains, one that only waits."""
    file = tmp_path / "python"
    file.write_text(WAITS)
    file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(file))
    monkeypatch.setattr("sys.argv", ["run_recbole_mm.py"])


def _compare(arguments, errors):
    with open(errors, "w") as stream:
        sys.stderr = stream
        status = main(arguments)
    os._exit(status)


def _pids(folder):
    found = [file.read_text().strip() for file in folder.glob("**/output")]
    return [int(text) for text in found if text.isdigit()]


@pytest.mark.parametrize(
    ("jobs", "number", "status"), [(1, signal.SIGTERM, 143), (2, signal.SIGTERM, 143), (2, 2, 130)]
)
def test_children_end_with_a_comparison(jobs, number, status, waiting, tmp_path):
    arguments = [
        "compare", "--models=BPR,Pop,ItemKNN", "--dataset=mm-toy", "--seeds=2", f"--jobs={jobs}", "--output=out",
    ]  # fmt: skip
    process = multiprocessing.get_context("fork").Process(target=_compare, args=(arguments, tmp_path / "err"))
    process.start()
    while len(_pids(tmp_path)) < jobs:
        assert process.is_alive(), (tmp_path / "err").read_text()
        time.sleep(0.02)
    children = _pids(tmp_path)
    os.kill(process.pid, number)
    process.join(30)
    assert process.exitcode == status
    assert not any(psutil.pid_exists(child) for child in children)
    message = (tmp_path / "err").read_text()
    assert "Go on with: python run_recbole_mm.py compare --models=BPR,Pop,ItemKNN --dataset=mm-toy --seeds=2" in message
    assert len(_pids(tmp_path)) == jobs, "more runs were started"
    assert not list(tmp_path.glob("out/runs/*/run.json")), "a run that was stopped is no failed one"
    assert not (tmp_path / "out" / ".lock").exists()


def test_a_search_that_is_stopped_hides_the_password(monkeypatch, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("recbole_mm.comparison.tune.tune", stopped)
    monkeypatch.setattr("sys.argv", ["run_recbole_mm.py"])
    assert main(["search", "--model=BPR", "--dataset=mm-toy", "--storage=postgresql://me:secret@host/db"]) == 130
    message = capsys.readouterr().err
    assert "Go on with: python run_recbole_mm.py search --model=BPR" in message
    assert "secret" not in message and "me:PASSWORD@host/db" in message


def test_no_file_has_the_task(waiting, tmp_path, monkeypatch):
    """A process gets its task through a pipe: nothing on the disk has the password, also not while it runs."""
    seen = []

    def look():
        seen.extend(file.read_text() for file in folder.rglob("*") if file.is_file())
        raise KeyboardInterrupt

    folder = tmp_path / "work"
    folder.mkdir()
    task = {"plan": {"storage": "postgresql://me:secret@host/db"}, "filler": "x" * 10}
    with pytest.raises(KeyboardInterrupt):
        run_in_child(test_no_file_has_the_task, task, folder, [], look, seconds=0.2)
    assert not any("secret" in text for text in seen)


def test_the_task_arrives(tmp_path, monkeypatch):
    """Also one that is longer than a pipe holds."""
    file = tmp_path / "python"
    file.write_text(f"#!{sys.executable}\nimport json, sys\ntask = json.load(sys.stdin)\n"
                    "json.dump({'result': len(task['task']['x'])}, open('answer.json', 'w'))\n")  # fmt: skip
    file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(file))
    assert run_in_child(test_the_task_arrives, {"x": "y" * 300_000}, tmp_path, []) == 300_000


@pytest.mark.parametrize("of_machine", [True, False])
def test_only_what_the_machine_did_goes_on(of_machine, tmp_path):
    """After a full disk the next attempt goes on; after an error of the model, which somebody mends, it begins anew."""
    store = Store(tmp_path)
    checkpoint = store.start("X") / "checkpoint"
    checkpoint.mkdir()
    error = ChildError("the reason", died=False, of_machine=of_machine)
    store.save("X", {"status": "failed", "goes_on": children.is_of_machine(error)})
    assert (Store(tmp_path).start("X") / "checkpoint").exists() == of_machine
    assert children.is_of_machine(OSError("full")) and not children.is_of_machine(ValueError("wrong"))
