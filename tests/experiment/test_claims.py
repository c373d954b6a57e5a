"""One worker at a time has a run, whatever happens to the others."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from recbole_mm.experiment import claims as module
from recbole_mm.experiment.claims import Claims, LostError
from recbole_mm.experiment.store import InUseError, Store
from recbole_mm.files import WriteError


def test_a_run_is_claimed_once_and_given_back(tmp_path: Path) -> None:
    mine, other = Claims(tmp_path), Claims(tmp_path)
    claim = mine.take("BPR-1-abc")
    assert claim is not None and other.take("BPR-1-abc") is None and mine.take("BPR-1-abc") is None
    assert other.take("BPR-1-ab") is not None, "another run whose name it begins with"
    with claim:
        claim.check()
    assert other.take("BPR-1-abc") is not None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_leaves_no_claim_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every worker would wait until it is stale, and a comparison would be refused because of "process None"."""

    def full(descriptor: int, *args: Any, **more: Any) -> Any:
        os.close(descriptor)
        return open("/dev/full", "w")  # noqa: SIM115 - the caller closes it

    with monkeypatch.context() as patch, pytest.raises(WriteError, match="BPR-1.1 could not be written .*Make room"):
        patch.setattr(module.os, "fdopen", full)
        Claims(tmp_path).take("BPR-1")
    assert list(tmp_path.iterdir()) == [] and Claims(tmp_path).take("BPR-1") is not None


def many(folder: Path, barrier: Any, won: Any) -> None:
    barrier.wait()
    mine = [number for number in range(40) if Claims(folder).take(f"run-{number}") is not None]
    won.put(mine)
    barrier.wait()  # the claims of a process that has ended are nobody's


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_of_many_that_come_at_once_one_gets_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, won = context.Barrier(4), context.SimpleQueue()
    workers = [context.Process(target=many, args=(tmp_path, barrier, won)) for _ in range(4)]
    for worker in workers:
        worker.start()
    assert sorted(sum((won.get() for _ in workers), [])) == list(range(40))
    for worker in workers:
        worker.join(60)


def elsewhere(claims: Claims, name: str) -> Path:
    """A claim of a process on another machine."""
    claim = claims.take(name)
    assert claim is not None
    note = {**json.loads(claim._note), "host": "elsewhere", "pid": 1}
    claim._file.write_text(json.dumps(note) + "\n")
    return claim._file


def test_another_machine_is_dead_once_its_claim_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    file = elsewhere(Claims(tmp_path), "run")
    looking = Claims(tmp_path)
    assert looking.take("run") is None
    now[0] += module.STALE_SECONDS - 1
    assert looking.take("run") is None
    with file.open("ab") as beat:
        beat.write(b".")
    now[0] += module.STALE_SECONDS - 1
    assert looking.take("run") is None, "it lives"
    now[0] += module.STALE_SECONDS + 1
    late = Claims(tmp_path)
    assert late.take("run") is None, "who comes now has not seen it silent"
    taken = looking.take("run")
    assert taken is not None and taken._file.name == "run.2" and not file.exists()
    assert late.take("run") is None


def test_an_empty_claim_is_of_somebody_who_is_writing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    tmp_path.joinpath("run.1").touch()
    looking = Claims(tmp_path)
    assert looking.take("run") is None
    now[0] += module.STALE_SECONDS
    assert looking.take("run") is not None


def test_who_was_silent_too_long_finds_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    claim = Claims(tmp_path).take("run")
    assert claim is not None
    with claim:
        end = time.monotonic() + 10
        while claim._file.stat().st_size <= len(claim._note) and time.monotonic() < end:
            time.sleep(0.01)
        assert claim._file.read_text().startswith(claim._note + ".")
        claim._file.rename(tmp_path / "gone")
        (tmp_path / "run.1").write_text("of another\n")
        assert claim._lost.wait(10)
        with pytest.raises(LostError):
            claim.check()
    assert (tmp_path / "run.1").read_text() == "of another\n", "what is not its own stays"


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_killed_worker_of_this_machine_gives_its_run_back_at_once(tmp_path: Path) -> None:
    def work() -> None:
        claim = Claims(tmp_path).take("run")
        assert claim is not None
        with claim:
            time.sleep(60)

    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    end = time.monotonic() + 30
    while not list(tmp_path.glob("run.*")) and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.05)  # for the note in it
    assert Claims(tmp_path).take("run") is None
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join(30)
    assert Claims(tmp_path).take("run") is not None


def test_workers_share_a_folder_with_workers_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    claim = store.claims.take("run")
    assert claim is not None
    who = f"workers.*process {os.getpid()} on {socket.gethostname()}.*--worker"
    with pytest.raises(InUseError, match=who), store.lock():
        pass
    with claim, store.shared():
        pass
    with store.lock(), pytest.raises(InUseError, match="shares it with no worker"), store.shared():
        pass
