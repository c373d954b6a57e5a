from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import socket
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from recbole.utils import ModelType

from recbole_mm import locks
from recbole_mm.alive import is_alive, process_note
from recbole_mm.experiment.store import Store, digest, neutral_settings, to_json
from recbole_mm.files import write_atomically


def test_a_run_comes_back(tmp_path):
    store = Store(tmp_path / "results")
    store.start("BPR-1")
    store.save(
        "BPR-1", {"test": {"recall@10": np.float64(0.25)}}, {"user": np.array(["ü1", "2"]), "ndcg@10": np.ones(2)}
    )
    assert Store(tmp_path / "results").load("BPR-1") == {"test": {"recall@10": 0.25}}
    users = store.users("BPR-1")
    assert users["user"].tolist() == ["ü1", "2"] and users["ndcg@10"].tolist() == [1.0, 1.0]


FINISHED = {
    "status": "finished", "job": {"seed": 1}, "test": {"recall@10": 0.25}, "valid": None, "time": {"total": 1.0},
    "curve": [], "split": {"hash": "a", "candidates": "b"},
}  # fmt: skip


@pytest.mark.parametrize(
    "edit",
    [
        lambda record: record["test"].update({"recall@10": 0.75}),
        lambda record: record["test"].update(foo=0.1),
        lambda record: record.update(curve=[1, 2]),
        lambda record: record.update(health=3),
        lambda record: record.update(parameters="x"),
        lambda record: record["job"].update(seed=2),
        lambda record: record.update(status="odd"),
    ],
)
def test_an_edited_run_is_told_from_the_one_that_was_written(edit, tmp_path):
    store = Store(tmp_path)
    store.save("BPR-1", FINISHED, {"user": np.array(["1"]), "recall@10": np.ones(1)})
    assert store.load("BPR-1") == FINISHED
    file = store.run_folder("BPR-1") / "run.json"
    record = json.loads(file.read_text())
    edit(record)
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="run.json is not what this program wrote.*to do the run again"):
        store.load("BPR-1")
    assert store.start("BPR-2").is_dir()


def test_other_users_are_told_and_older_folders_are_read(tmp_path):
    store = Store(tmp_path)
    for name, value in (("BPR-1", 1.0), ("Pop-1", 0.5)):
        store.save(name, FINISHED, {"user": np.array(["1"]), "recall@10": np.array([value])})
    (store.run_folder("BPR-1") / "users.npz").write_bytes((store.run_folder("Pop-1") / "users.npz").read_bytes())
    with pytest.raises(ValueError, match=r"users\.npz is not what this program wrote .it was changed"):
        store.users("BPR-1")
    (store.run_folder("BPR-1") / "users.npz").unlink()
    with pytest.raises(ValueError, match=r"users\.npz is not what this program wrote .it is missing"):
        store.users("BPR-1")
    shutil.copy(store.run_folder("Pop-1") / "users.npz", store.run_folder("BPR-1"))
    (store.run_folder("BPR-1") / "sha256").unlink()
    assert store.users("BPR-1")["recall@10"].tolist() == [0.5]


def test_a_kill_while_a_run_is_written_again_leaves_it_readable(monkeypatch, tmp_path):
    store = Store(tmp_path)
    store.save("BPR-1", FINISHED)
    write = write_atomically

    def killed(file, content):
        if str(file).endswith("run.json"):
            raise KeyboardInterrupt
        write(file, content)

    monkeypatch.setattr("recbole_mm.experiment.store.write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        store.save("BPR-1", {**FINISHED, "time": {"total": 2.0}})
    monkeypatch.undo()
    assert store.load("BPR-1") == FINISHED


def test_a_run_without_its_record_counts_as_not_done(tmp_path):
    store = Store(tmp_path)
    folder = store.start("BPR-1")
    (folder / "users.npz").write_bytes(b"half")
    assert store.load("BPR-1") is None
    assert list(store.start("BPR-1").iterdir()) == []


def test_a_record_that_another_worker_removes_meanwhile_counts_as_not_done(monkeypatch, tmp_path):
    store, is_file = Store(tmp_path), Path.is_file
    store.save("one", {"status": "failed"})

    def look_and_lose(path):
        found = is_file(path)
        if path.name == "run.json":
            path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "is_file", look_and_lose)
    assert store.load("one") is None


def test_an_interrupted_run_keeps_what_it_goes_on_with(tmp_path):
    store = Store(tmp_path)
    (store.start("BPR-1") / "checkpoint").mkdir()
    assert [file.name for file in store.start("BPR-1").iterdir()] == ["checkpoint"]
    store.save("BPR-1", {"status": "failed"})
    assert list(store.start("BPR-1").iterdir()) == []


def test_a_foreign_record_is_an_error_that_names_the_file(tmp_path):
    store = Store(tmp_path)
    (store.start("X") / "run.json").write_text("[1]")
    with pytest.raises(ValueError, match="run.json.*delete .* to do the run again"):
        store.load("X")
    (store.run_folder("X") / "run.json").write_text("{")
    with pytest.raises(ValueError, match="run.json.*delete .* to do the run again"):
        store.load("X")


FINISHED = {
    "status": "finished", "job": {}, "test": {"recall@10": 0.5}, "split": {"hash": "a", "candidates": "b"}, "valid": {},
    "time": {"total": 1.0}, "curve": [],
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"test": {}}, {"test": {"recall@10": "0.9"}}, {"split": {}}, {"job": None}, {"curve": None}, {"time": {}}],
    ids=str,
)
def test_an_edited_record_is_an_error_that_names_the_file(change, tmp_path):
    store = Store(tmp_path)
    store.save("X", FINISHED)
    assert store.load("X") == FINISHED
    store.save("X", {**FINISHED, **change})
    with pytest.raises(ValueError, match=r"runs/X/run\.json is not what .*delete .*runs/X to do the run again"):
        store.load("X")


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"text", lambda data: data[: len(data) // 2],
                                    lambda data: data[:60] + bytes(9) + data[69:]], ids=range(4))  # fmt: skip
def test_damaged_metrics_of_users_are_named(damage, tmp_path):
    store = Store(tmp_path)
    store.save("X", FINISHED, {"user": np.array(["a", "b"]), "recall@10": np.ones(2)})
    file = store.run_folder("X") / "users.npz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"users\.npz is not what .*delete .*to do the run again"):
        store.users("X")


def test_json_has_no_nan_and_no_enum():
    value = {"a": math.nan, "b": (np.int64(3), np.array([1.0, math.inf])), "c": ModelType.GENERAL, 4: {2, 1}}
    assert to_json(value) == {"a": None, "b": [3, [1.0, None]], "c": "GENERAL", "4": [1, 2]}
    assert to_json(object).startswith("<class")


def test_digest_ignores_order_and_sees_every_value():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_where_a_run_is_done_is_not_what_it_computes():
    assert neutral_settings({"gpu_id": "1", "data_path": "/x", "epochs": 3}) == {"epochs": 3}


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a" / "run.json"
    write_atomically(file, "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(file, "new")
    assert file.read_text() == "old"


def _write_forever(folder):
    store = Store(folder)
    for i in range(10**6):
        store.save("run", {"i": i, "x": list(range(20000))}, {"user": np.full(5000, i)})


def test_killing_a_writer_at_any_time_leaves_a_valid_store(tmp_path):
    store, seen = Store(tmp_path), set()
    for attempt in range(6):
        writer = multiprocessing.get_context("fork").Process(target=_write_forever, args=(tmp_path,))
        writer.start()
        while store.load("run") is None:
            time.sleep(0.001)
        time.sleep(0.02 + 0.017 * attempt)
        writer.kill()
        writer.join()
        record = store.load("run")
        if record is not None:
            assert len(record["x"]) == 20000 and len(store.users("run")["user"]) == 5000
            seen.add(record["i"])
    assert seen


def test_two_programs_cannot_write_into_one_folder(tmp_path):
    store = Store(tmp_path)
    with store.lock(), pytest.raises(RuntimeError, match=f"process {os.getpid()}"), Store(tmp_path).lock():
        pass
    assert not (tmp_path / ".lock").exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    (tmp_path / ".lock").write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": 1.0}))
    with Store(tmp_path).lock():
        pass
    (tmp_path / ".lock").write_text("")
    os.utime(tmp_path / ".lock", (1, 1))
    with Store(tmp_path).lock():
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_just_being_written_is_respected(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_EMPTY_SECONDS", 0.5)
    (tmp_path / ".lock").write_text("")
    begin = time.monotonic()
    with Store(tmp_path).lock():
        assert time.monotonic() - begin > 0.3


def test_a_dead_lock_that_another_program_replaces_meanwhile_is_respected(tmp_path, monkeypatch):
    """Two programs find the same dead lock; the faster one has taken the folder when the slower one removes it."""
    file, look = tmp_path / ".lock", locks.holder
    file.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": 1.0}))

    def look_and_lose(path):
        found = look(path)
        if found.get("started") == 1.0:
            file.write_text(json.dumps(process_note()))
        return found

    monkeypatch.setattr(locks, "holder", look_and_lose)
    with pytest.raises(RuntimeError, match="in use"), Store(tmp_path).lock():
        pass
    assert json.loads(file.read_text()) == process_note()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere psutil is asked")
def test_a_process_lives_on_when_the_clock_is_set(monkeypatch):
    note = process_note()
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: time.time() + 1000)
    assert is_alive(note) and not is_alive({**note, "started": note["started"] + 1})


def test_the_lock_of_another_machine_is_respected(tmp_path):
    (tmp_path / ".lock").write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 1.0}))
    with pytest.raises(RuntimeError, match="elsewhere.*delete"), Store(tmp_path).lock():
        pass
