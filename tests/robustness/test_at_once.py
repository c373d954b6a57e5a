"""Two processes that write the same thing: one does, the other is told who; nothing is mixed up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_mm
from recbole_mm.alive import process_note
from recbole_mm.cli.main import main
from recbole_mm.data.convert.tables import import_tables
from recbole_mm.extract.extract import extract
from recbole_mm.files import owner
from recbole_mm.folders import replacing_folder
from recbole_mm.locks import InUseError
from recbole_mm.trainer.checkpoint import write_checkpoint
from tests.options import QUICK

CLICKS = pd.DataFrame({"user": ["u1", "u2"], "item": ["a", "b"]})


@pytest.fixture(scope="module")
def other() -> Iterator[dict[str, Any]]:
    """The note of a process that lives as long as the tests."""
    code = "import json, sys; from recbole_mm.alive import process_note; print(json.dumps(process_note()), flush=True)"
    child = subprocess.Popen(
        [sys.executable, "-c", f"{code}; sys.stdin.read()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    yield json.loads(child.stdout.readline())
    child.communicate("")


class TestFolders:
    """Imports, conversions and saved models."""

    def test_the_second_import_is_told(self, other: dict[str, Any]) -> None:
        lock = Path("dataset/.shop.lock")
        lock.parent.mkdir()
        lock.write_text(json.dumps(other))
        with pytest.raises(InUseError, match=rf"shop is in use by process {other['pid']} .* choose another name"):
            import_tables("shop", CLICKS)
        assert [path.name for path in lock.parent.iterdir()] == [".shop.lock"]
        lock.write_text(json.dumps({**other, "started": 1.0}))  # another process had this number
        import_tables("shop", CLICKS)
        assert [path.name for path in lock.parent.iterdir()] == ["shop"]

    def test_what_came_meanwhile_is_not_overwritten(self, tmp_path: Path, monkeypatch: Any) -> None:
        def also(*_: Any) -> ExitStack:
            (tmp_path / "shop").mkdir()
            (tmp_path / "shop" / "theirs").touch()
            return ExitStack()

        monkeypatch.setattr("recbole_mm.folders.hold", also)
        with pytest.raises(FileExistsError, match="is not empty"), replacing_folder(tmp_path / "shop", False, []):
            pytest.fail("it began to write")

    def test_a_new_folder_appears_in_one_step(self, tmp_path: Path, monkeypatch: Any) -> None:
        moved: list[tuple[Path, Path]] = []
        replace = os.replace
        monkeypatch.setattr(os, "replace", lambda a, b: (moved.append((Path(a), Path(b))), replace(a, b)))
        with replacing_folder(tmp_path / "shop", False, []) as folder:
            for name in "ab":
                (folder / name).touch()
            assert f".{owner()}-" in folder.name
        assert moved == [(folder, tmp_path / "shop")]
        assert (tmp_path / "shop").stat().st_mode == tmp_path.stat().st_mode | 0o055  # of the caller's umask

    def test_the_message_of_the_program(self, other: dict[str, Any], monkeypatch: Any, capsys: Any) -> None:
        Path("dataset").mkdir()
        Path("dataset/.shop.lock").write_text(json.dumps(other))
        CLICKS.to_csv("c.csv", index=False)
        monkeypatch.setattr("sys.argv", ["recbole-mm"])
        assert main(["import", "shop", "--interactions=c.csv"]) == 2
        assert "is in use by process" in capsys.readouterr().err


def test_the_second_extraction_is_told(other: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(".")
    Path("constant.py").write_text(
        "import numpy as np\n\n\nclass One:\n    name, dim, fingerprint = 'one', 1, '0'\n\n"
        "    def encode(self, inputs):\n        return np.ones((len(inputs), 1), np.float32)\n"
    )
    items = pd.DataFrame({"item": ["a", "b"], "title": ["x y z", "some words"]})
    import_tables("shop", CLICKS, items=items, types={"title": "text"})
    lock = Path("dataset/shop/.shop.item.text.lock")
    lock.write_text(json.dumps(other))
    with pytest.raises(InUseError, match="is in use by process .* choose another modality"):
        extract("shop", text="title", encoder="constant:One", progress=False)
    lock.unlink()
    assert extract("shop", text="title", encoder="constant:One", progress=False)[0].file.is_file()
    assert not lock.exists()


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the ``.last`` of a run that was broken off."""
    from recbole.trainer import Trainer

    folder = tmp_path_factory.mktemp("run")
    begun, train = [0], Trainer._train_epoch

    def until_the_third(*arguments: Any, **more: Any) -> Any:
        begun[0] += 1
        if begun[0] == 3:
            raise KeyboardInterrupt
        return train(*arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(Trainer, "_train_epoch", until_the_third)
        with pytest.raises(recbole_mm.Interrupted):
            recbole_mm.run("BPR", "mm-toy", config_dict={**QUICK, "epochs": 4, "checkpoint_dir": str(folder)})
    return next(folder.glob("*.pth"))


@pytest.mark.parametrize("who", ["trains", "resumes"])
def test_two_do_not_go_on_from_one_checkpoint(
    who: str, broken_off: Path, other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole.trainer import Trainer

    monkeypatch.setattr(Trainer, "_train_epoch", lambda *_, **__: pytest.fail("training began"))
    last, lock = broken_off.with_suffix(".last"), broken_off.with_name(f".{broken_off.stem}.lock")
    before = last.read_bytes()
    if who == "trains":
        write_checkpoint({**torch.load(last, weights_only=True), "process": other}, last)
    else:
        lock.write_text(json.dumps(other))
    words = "still trains" if who == "trains" else "is in use by process .* resume the copy"
    with pytest.raises(InUseError, match=words):
        recbole_mm.run("BPR", "mm-toy", config_dict={**QUICK, "epochs": 4}, resume=broken_off)
    last.write_bytes(before)
    lock.unlink(missing_ok=True)


def test_a_lock_that_nobody_holds_is_none(broken_off: Path, other: dict[str, Any]) -> None:
    lock = broken_off.with_name(f".{broken_off.stem}.lock")
    lock.write_text(json.dumps({**process_note(), "started": 1.0}))
    done = recbole_mm.run("BPR", "mm-toy", config_dict={**QUICK, "epochs": 4}, resume=broken_off)
    assert done["checkpoint"] == str(broken_off) and not lock.exists()
    assert np.isfinite(done["best_valid_score"]) and torch.load(broken_off, weights_only=True)
