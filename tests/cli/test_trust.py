"""``--trust``: a checkpoint that RecBole pickled is read once the caller has said that it may be."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.config import Config

from recbole_mm.cli.main import main
from recbole_mm.plain import from_plain
from tests.options import QUICK


@pytest.fixture
def pickled(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A checkpoint as RecBole writes it."""
    monkeypatch.setattr("sys.argv", ["recbole-mm"])
    content = torch.load(trained("BPR"), weights_only=True)
    names = ("epoch", "cur_step", "best_valid_score", "state_dict", "other_parameter", "optimizer")
    old = {name: from_plain(content[name]) for name in names}
    torch.save({**old, "config": Config("BPR", "mm-toy", config_dict=QUICK)}, tmp_path / "old.pth", pickle_protocol=4)
    return "old.pth"


@pytest.mark.parametrize("command", ["export --export=lists.csv --checkpoint", "train --epochs=3 --resume"])
def test_a_foreign_pickle_asks_for_trust(command: str, pickled: str, capsys: Any) -> None:
    assert main(shlex.split(f"{command}={pickled}")) == 2
    error = capsys.readouterr().err
    assert "runs code when it is read" in error and "--trust" in error and "convert checkpoint" in error
    assert main(shlex.split(f"{command}={pickled} --trust")) == 0


def test_a_resumed_pickle_has_its_own_options(pickled: str, capsys: Any) -> None:
    """Those of the Config in it, not the defaults."""
    assert main(shlex.split(f"train --epochs=3 --resume={pickled} --trust")) == 0
    assert "recall@5" in capsys.readouterr().out
