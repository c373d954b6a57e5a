from __future__ import annotations

from pathlib import Path

import pytest

from recbole_mm.folders import replacing_folder


def test_files_appear_together(tmp_path: Path) -> None:
    target, report = tmp_path / "out", list[str]()
    with replacing_folder(target, False, report) as folder:
        for name in "ab":
            (folder / name).write_text(name)
        assert not target.exists()
    assert sorted(path.name for path in target.iterdir()) == ["a", "b"] and report == []
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "a").write_text("old")
    with pytest.raises(KeyError), replacing_folder(target, True, []) as folder:
        (folder / "a").write_text("new")
        raise KeyError
    assert (target / "a").read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_folder_with_files_is_overwritten_only_on_request(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text("old")
    with (
        pytest.raises(FileExistsError, match="pass replace=True"),
        replacing_folder(tmp_path, False, [], "replace=True"),
    ):
        pass
    report: list[str] = []
    with replacing_folder(tmp_path, True, report) as folder:
        (folder / "a").write_text("new")
    assert (tmp_path / "a").read_text() == "new" and (tmp_path / "b").read_text() == "old"
    assert len(report) == 1 and report[0].endswith(": b")


def test_a_folder_may_hold_folders(tmp_path):
    with replacing_folder(tmp_path / "target", False, []) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("whole")
    assert (tmp_path / "target" / "inner" / "file").read_text() == "whole"
