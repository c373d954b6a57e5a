"""Several workers on one folder make the table of one process, and do each run once."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recbole_mm.comparison import runs as runs_module
from recbole_mm.comparison import workers as workers_module
from recbole_mm.comparison.compare import compare
from recbole_mm.experiment import children
from recbole_mm.report.summary import Report
from tests.options import QUICK

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="starts its workers with fork, which imports nothing")

OPTIONS = {**QUICK, "epochs": 1, "train_batch_size": 1024, "embedding_size": 8}
MODELS = ["Pop", "BPR"]


@pytest.fixture(scope="module", autouse=True)
def _no_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Report, "draw", lambda self: None)
        yield


def table(folder: Path, **more: Any) -> pd.DataFrame:
    how = {"seeds": 2, "output": folder, "verbose": False, **more}
    found = compare(MODELS, "mm-toy", config_dict=OPTIONS, **how)
    return found.drop(columns=[column for column in found if column.endswith(("_seconds", "_mib"))])


def work(folder: Path, log: Path, stuck: bool) -> None:
    """A worker, whose runs need no process of their own; the stuck one is killed within its first run."""

    def run_here(
        function: Any, task: Mapping[str, Any], place: Path, models: list[str], look: Any = None, **more: Any
    ) -> Any:
        with log.open("a") as lines:
            lines.write(f"{'stuck' if stuck else 'worker'} {task['name']}\n")
        if stuck:
            time.sleep(120)
        return function(task)

    runs_module.run_in_child = run_here  # type: ignore[assignment]
    workers_module.POLL_SECONDS = 0.1
    table(folder, worker=True)


@pytest.fixture(scope="module")
def shared(_no_pictures: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of three workers, of which one was killed within a run, and what each of them did."""
    folder = tmp_path_factory.mktemp("shared")
    context, log = multiprocessing.get_context("fork"), folder / "log.txt"
    before = Path.cwd()
    os.chdir(folder)
    try:
        stuck = context.Process(target=work, args=(folder / "out", log, True))
        stuck.start()
        end = time.monotonic() + 120
        while not log.exists() and time.monotonic() < end:
            time.sleep(0.05)
        others = [context.Process(target=work, args=(folder / "out", log, False)) for _ in range(2)]
        for worker in others:
            worker.start()
        while len(log.read_text().splitlines()) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(stuck.pid or 0, signal.SIGKILL)
        for worker in others:
            worker.join(240)
        assert [worker.exitcode for worker in others] == [0, 0]
    finally:
        os.chdir(before)
    return folder / "out", log.read_text().splitlines()


def test_each_run_is_done_once_and_that_of_a_killed_worker_again(shared: tuple[Path, list[str]]) -> None:
    folder, lines = shared
    begun = [line.split() for line in lines]
    done = [name for who, name in begun if who == "worker"]
    assert len(done) == len(set(done)) == 4
    assert [name for who, name in begun if who == "stuck"][0] in done
    assert {file.parent.name for file in folder.glob("runs/*/run.json")} == set(done)
    assert not list((folder / "claims").iterdir()), "nothing is claimed any more"


def test_the_table_is_that_of_one_process(shared: tuple[Path, list[str]], tmp_path: Path) -> None:
    assert table(tmp_path / "one", in_process=True).equals(table(shared[0], in_process=True)), "read by another one"
    one, several = (pd.read_csv(folder / "table.csv") for folder in (tmp_path / "one", shared[0]))
    costs = [column for column in one if column.endswith(("_seconds", "_mib"))]
    assert one.drop(columns=costs).equals(several.drop(columns=costs))


def test_a_worker_needs_processes_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="worker: .*process of its own"):
        table(tmp_path, worker=True, in_process=True)


@pytest.mark.parametrize(("of_machine", "times"), [(False, 1), (True, workers_module.ATTEMPTS)])
def test_a_failed_run_is_not_tried_by_every_worker(
    of_machine: bool, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one that the machine let fail is tried again, and not for ever."""
    tried = []

    def fails(function: Any, task: Mapping[str, Any], *rest: Any, **more: Any) -> Any:
        tried.append(task["name"])
        raise children.ChildError("it failed", died=False, of_machine=of_machine)

    monkeypatch.setattr(runs_module, "run_in_child", fails)
    monkeypatch.setattr(workers_module, "POLL_SECONDS", 0)
    found = table(tmp_path, worker=True, seeds=1)
    assert len(tried) == 2 * times and set(found["failure"]) == {"it failed"}
    assert table(tmp_path, worker=True, seeds=1).equals(found) and len(tried) == 2 * times
    (record, _) = [json.loads(file.read_text()) for file in tmp_path.glob("runs/*/run.json")]
    assert record["attempts"] == times
