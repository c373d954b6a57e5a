from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from recbole_mm.data.features.files import discover
from recbole_mm.data.features.pretrained import write_pretrained

TOKENS = {"user_id": ["[PAD]", "zoë"], "item_id": ["[PAD]", "007", "1.0"]}
DATASET = SimpleNamespace(uid_field="user_id", iid_field="item_id", field2id_token=TOKENS, dataset_name="shop")
MODEL = SimpleNamespace(pretrained=lambda: (torch.ones(2, 3), torch.arange(9.0).view(3, 3).half()))


def test_files_are_feature_files_that_others_may_read(tmp_path: Path) -> None:
    files = write_pretrained(MODEL, DATASET, tmp_path, "mine")
    (tmp_path / "other").touch()
    found = discover("shop", [tmp_path])
    assert (found["user"]["mine"].path, found["item"]["mine"].path) == files
    assert found["item"]["mine"].tokens()[0].tolist() == ["007", "1.0"]
    assert found["item"]["mine"].matrix().array.tolist() == [[3, 4, 5], [6, 7, 8]]
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "other").stat().st_mode}


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_pretrained(MODEL, DATASET, tmp_path, "mine")
    before = [file.read_bytes() for file in files]

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("numpy.savez", full)
    with pytest.raises(OSError, match="no space left"):
        write_pretrained(MODEL, DATASET, tmp_path, "mine")
    assert [file.read_bytes() for file in files] == before
    assert sorted(tmp_path.iterdir()) == sorted(files)
