from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

import recbole_mm
from recbole_mm.comparison.compare import compare
from recbole_mm.comparison.tasks import run_task
from recbole_mm.experiment.children import ChildError, model_modules, run_in_child
from tests.options import QUICK

ROOT = Path(__file__).resolve().parents[2]

MODULE = '''
import os, signal
from recbole.model.general_recommender import BPR
import recbole_mm


@recbole_mm.register(properties={"embedding_size": 8})
class Suicidal(BPR):
    """Is killed in the second epoch, as by a machine without memory left."""

    def calculate_loss(self, interaction):
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().calculate_loss(interaction)
'''


@pytest.fixture
def own_module(tmp_path, monkeypatch, clean_registry):
    (tmp_path / "own_models.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    __import__("own_models")


@pytest.mark.slow
def test_a_model_whose_process_dies_is_reported_and_the_others_finish(own_module, tmp_path):
    table = compare(
        ["Suicidal", "Pop"], "mm-toy", config_dict={**QUICK, "train_batch_size": 500}, seeds=1, output=tmp_path / "out",
        verbose=False,
    )  # fmt: skip
    assert table["runs"].tolist() == [0, 1]
    assert "ended by SIGKILL (often: out of memory)" in table["failure"][0]
    record = json.loads(next(tmp_path.glob("out/runs/Suicidal-*/run.json")).read_text())
    assert record["status"] == "failed" and record["job"]["model"] == "Suicidal"


def test_modules_of_foreign_models_are_imported_in_the_process(own_module):
    assert model_modules(["BPR", "MMGCN", "Suicidal"]) == ["own_models"]


FULL = '''
import resource


def fill(task):
    """From now on this process can write nothing to a file, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    if task["fail"]:
        raise ValueError("too many cooks")
    return 1
'''


@pytest.mark.parametrize("fail", [False, True])
def test_a_full_disk_is_no_death(fail, tmp_path, monkeypatch):
    """A process that cannot write its answer says why, so that nobody tries it again and again."""
    (tmp_path / "filling.py").write_text(FULL)
    monkeypatch.syspath_prepend(str(tmp_path))
    said = "ValueError: too many cooks" if fail else "answer.json could not be written .File too large.*Make room"
    with pytest.raises(ChildError, match=said) as caught:
        run_in_child(importlib.import_module("filling").fill, {"fail": fail}, tmp_path, [])
    assert not caught.value.died and caught.value.of_machine is not fail


def test_an_error_comes_back_with_its_message_and_leaves_a_traceback(tmp_path):
    task = {"job": {}, "store": str(tmp_path), "name": "x", "own_process": True, "keep_checkpoints": False}
    with pytest.raises(ChildError, match="TypeError: .*missing.*'model'") as caught:
        run_in_child(run_task, task, tmp_path, [])
    assert not caught.value.died and "Traceback" in (tmp_path / "output").read_text()


def test_a_process_that_cannot_start_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ChildError, match="ended with status 1") as caught:
        run_in_child(run_task, {}, tmp_path, [])
    assert caught.value.died


def test_an_interrupt_ends_the_process(tmp_path, monkeypatch):
    started = []
    popen = subprocess.Popen

    class Interrupted(popen):
        def wait(self, timeout=None):
            if self not in started:
                started.append(self)
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_in_child(run_task, {}, tmp_path, [])
    assert started[0].poll() is not None


def test_a_process_ends_with_its_parent(tmp_path):
    """The parent is killed without a chance to say so; its child must not go on alone."""
    grandchild = (
        "import os, sys, time\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from recbole_mm.experiment.children import die_with_parent\n"
        "die_with_parent(int(sys.argv[1]), seconds=0.05)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], str(os.getpid())])",
            grandchild,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    child = int(parent.stdout.readline())
    assert psutil.pid_exists(child)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_search_whose_process_keeps_dying_gives_up(tmp_path, monkeypatch):
    from recbole_mm.search import search

    calls = []

    def die(*arguments, **_):
        calls.append(arguments)
        raise ChildError("its process was ended by SIGKILL", died=True)

    monkeypatch.setattr(search, "run_in_child", die)
    with pytest.raises(ChildError, match="SIGKILL"):
        recbole_mm.tune("BPR", "mm-toy", config_dict=QUICK, trials=1, output=tmp_path)
    assert len(calls) == 2 * search.ATTEMPTS + 1  # two trials in a row may each have used up theirs
