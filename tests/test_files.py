"""What a process leaves that is killed while it writes is removed by the next one, and by nobody else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_mm import files
from recbole_mm.files import owner, remove_abandoned, replacing, write_atomically
from recbole_mm.folders import replacing_folder
from recbole_mm.serving import tables


def writes_a_file(folder: Path) -> None:
    with replacing(folder / "lists.csv") as temporary:
        temporary.write_text("half")
        (folder / "ready").touch()
        time.sleep(60)


def writes_a_folder(folder: Path) -> None:
    with replacing_folder(folder / "shop", True, []) as temporary:
        (temporary / "shop.inter").write_text("half")
        (folder / "ready").touch()
        time.sleep(60)


def writes_an_archive(folder: Path) -> None:
    types = np.dtype("<U2"), np.dtype("<U2"), np.dtype("<U2")
    with tables.write_topk(folder / "lists.npz", (3, 2), types):
        (folder / "ready").touch()
        time.sleep(60)


@pytest.mark.parametrize("work", [writes_a_file, writes_a_folder, writes_an_archive])
def test_what_a_killed_process_left_goes_with_the_next_write(work: Any, tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=work, args=(tmp_path,))
    child.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    (tmp_path / "ready").unlink()
    there = sorted(tmp_path.glob(".*"))
    assert there
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.glob(".*")) == there, "of a process that lives"
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    assert sorted(tmp_path.glob(".*")) == there
    files._looked_into.clear()  # as a new process has looked into nothing
    write_atomically(tmp_path / "other.json", "{}")
    # A lock may be asked for by another process at this moment: whoever takes it next finds that nobody holds it.
    assert {path.name for path in tmp_path.iterdir()} <= {"other.json", ".shop.lock"}
    with replacing_folder(tmp_path / "shop", True, []) as temporary:
        (temporary / "shop.inter").write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"other.json", "shop"}


def test_what_others_left_stays(tmp_path: Path) -> None:
    """Files of another machine, which cannot be asked, and names that only look alike."""
    machine, _, number = owner().partition("-")
    kept = [
        f".a.{machine}-{number}-abc.tmp.csv",
        ".a.00000000-999999999-abc.tmp.csv",
        ".a.tmp",
        ".tmp-mine",
        ".b.7.tmp",
    ]
    for name in (*kept, f".a.{machine}-999999999-abc.tmp.csv"):
        (tmp_path / name).touch()
    write_atomically(tmp_path / "a.csv", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "a.csv"])


def test_a_folder_is_looked_into_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(Path, "glob", lambda self, pattern: looked.append(self) or iter(()))
    for name in ("a", "b", "a"):
        with replacing(tmp_path / name) as temporary:
            temporary.touch()
    assert len(looked) == 1
