"""What the program says of errors of the machine."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from recbole_mm.cli.faults import message_of


@pytest.mark.parametrize("place", ["./log", "./log/BPR", "{here}/log/BPR/BPR-mm-toy.log", "log_tensorboard/BPR-1"])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_where_recbole_logs_the_folder_to_start_in_is_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, code: int
) -> None:
    """No option names another folder for the logs."""
    monkeypatch.chdir(tmp_path)
    message = message_of(OSError(code, os.strerror(code), place.format(here=tmp_path)))
    assert message is not None and "name another folder" not in message
    assert message.endswith("start the command in a folder that can be written to (RecBole always logs to ./log).")


def test_elsewhere_another_folder_is_advised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("saved", "../log", "logs/a"):
        assert message_of(PermissionError(errno.EACCES, "Permission denied", place)) == (
            f"{place}: Permission denied. There is no permission: change it, or name another folder."
        )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a folder in use stays")
def test_the_folder_of_the_command_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        Path.cwd()
    assert message_of(caught.value) == "The folder in which the command was started is gone: start it in another one."
