"""Files of saved data sets and loaders: what RecBole writes is read, what would run code is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataset import Dataset
from recbole.utils import ModelType

from recbole_mm.host.saved_data import load

QUIET = {"state": "ERROR", "show_progress": False, "use_gpu": False}


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def planted(mark: Path) -> dict[str, bytes]:
    """Files that would write ``mark``."""
    mark.unlink(missing_ok=True)
    touch = f"touch {mark}"
    old = b"(S'" + touch.encode() + b"'\nios\nsystem\n."
    return {
        "a call": pickle.dumps([Calls(os.system, touch)]),
        "a call in a table": pickle.dumps({"seed": 1, "config": Calls(exec, f"open({str(mark)!r}, 'w')")}),
        "a method of what a call gives": pickle.dumps(Calls(getattr, Calls(os.getcwd), "join")),
        "an instruction of old pickles": old,
        "a method of a class": pickle.dumps(Calls(getattr, Dataset, "__init__")),
        "a Config that is made by its __init__": pickle.dumps(Calls(Config, "BPR", "mm-toy")),
        "a nested pickle": pickle.dumps(Calls(torch.storage._load_from_bytes, pickle.dumps(Calls(os.system, touch)))),
        "a function that imports": pickle.dumps(Calls(__import__, "antigravity")),
        "a change of a class": b"crecbole.data.dataset\nDataset\n}S'build'\nI1\nsb.",
    }


@pytest.mark.parametrize("kind", planted(Path("nowhere")))
def test_nothing_of_a_file_is_run(kind: str, tmp_path: Path) -> None:
    mark, file, build = tmp_path / "ran", tmp_path / "mm-toy-Dataset.pth", Dataset.build
    file.write_bytes(planted(mark)[kind])
    with file.open("rb") as stream, pytest.raises(ValueError, match="Delete the file"):
        load(stream)
    assert not mark.exists() and Dataset.build is build


def test_a_file_that_lies_where_recbole_looks(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "mm-toy-Dataset.pth").write_bytes(planted(mark)["a call"])
    config = Config("BPR", "mm-toy", config_dict={**QUIET, "checkpoint_dir": str(tmp_path)})
    with pytest.raises(ValueError, match=r"mm-toy-Dataset\.pth .* asks for \S*system"):
        create_dataset(config)
    assert not mark.exists()


def test_a_data_set_comes_back_whole(tmp_path: Path) -> None:
    config = Config("BPR", "mm-toy", config_dict={**QUIET, "checkpoint_dir": str(tmp_path), "save_dataset": True})
    first = create_dataset(config)
    file = tmp_path / "mm-toy-Dataset.pth"
    with file.open("rb") as stream:
        again = load(stream)
    assert first.inter_feat.equals(again.inter_feat) and first.item_num == again.item_num
    assert again.config.final_config_dict["dataset"] == "mm-toy"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        create_dataset(config)


def test_members_of_enumerations_are_read_however_a_python_pickles_them(tmp_path: Path) -> None:
    """Python 3.11.0 to 3.11.3 look them up by name, others call the class."""
    for number, member in enumerate((Calls(getattr, ModelType, "GENERAL"), Calls(ModelType, ModelType.GENERAL.value))):
        (tmp_path / str(number)).write_bytes(pickle.dumps(member))
        with (tmp_path / str(number)).open("rb") as file:
            assert load(file) is ModelType.GENERAL
    (tmp_path / "other").write_bytes(pickle.dumps(Calls(getattr, ModelType, "mro")))
    with (tmp_path / "other").open("rb") as file, pytest.raises(ValueError, match="which a file may not"):
        load(file)
