"""Code that is planted in a file, a value or a database never runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recbole.config import Config

from recbole_mm.cli.options import _in_python
from recbole_mm.config import read_options
from recbole_mm.data.features.files import FeatureFile
from recbole_mm.host.literals import literal
from recbole_mm.search.space import read_space

FLAG = "recbole_mm_payload"
EXPRESSIONS = [
    f"__import__('os').mkdir('{FLAG}')",
    f"os.mkdir('{FLAG}')",  # RecBole's configurator imports os
    f"[os.mkdir('{FLAG}')]",
    f"{{'a': os.mkdir('{FLAG}')}}",
    f"[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close'][0].__init__.__globals__['mkdir']('{FLAG}')",  # noqa: E501
    f"(lambda: open('{FLAG}', 'w'))()",
    f"exec(\"import os; os.mkdir('{FLAG}')\")",
]


class Planted:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, (FLAG,)


@pytest.fixture(autouse=True)
def _nothing_ran(tmp_path: Path) -> Any:
    yield
    assert not (tmp_path / FLAG).exists(), "the payload ran"


def test_the_payload_would_run(tmp_path: Path) -> None:
    """The tests below can fail."""
    pickle.loads(pickle.dumps(Planted()))
    assert (tmp_path / FLAG).exists()
    (tmp_path / FLAG).rmdir()


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_values_of_options_are_never_evaluated(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a dict, on the command line and in brackets, where names may stand without quotes; they stay texts."""
    made = Config("BPR", "mm-toy", config_dict={"state": "ERROR", "gpu_id": "", "my_text": text})
    assert made["my_text"] == text
    assert isinstance(_in_python("modalities", text), str)
    monkeypatch.setattr("sys.argv", ["run", f"--my_text={text}"])
    if "=" not in text:  # RecBole does not read the others
        assert Config("BPR", "mm-toy", config_dict={"state": "ERROR"})["my_text"] == text
    with pytest.raises(SyntaxError):
        literal(text)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_values_in_a_yaml_file_are_never_evaluated(text: str, tmp_path: Path) -> None:
    import yaml

    file = tmp_path / "options.yaml"
    file.write_text(yaml.safe_dump({"my_text": text, "state": "ERROR"}), encoding="utf-8")
    assert read_options(file)["my_text"] == text
    assert Config("BPR", "mm-toy", config_file_list=[str(file)])["my_text"] == text
    # As compare, tune and a resumed run pass them on: by a dict.
    assert Config("BPR", "mm-toy", config_dict=dict(read_options(file)))["my_text"] == text


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir", "!!python/name:os.mkdir", "!!python/module:os"],
)
def test_yaml_tags_make_no_objects(tag: str, tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(f"my_text: {tag} [{FLAG}]\n", encoding="utf-8")
    with pytest.raises(ValueError, match="options.yaml is not yaml"):
        read_options(file)


def test_a_search_space_is_data() -> None:
    space = read_space("BPR", {"embedding_size": EXPRESSIONS[:2]})
    assert "embedding_size" in str(space)


def test_the_file_of_recboles_search_is_data(tmp_path: Path) -> None:
    pytest.importorskip("hyperopt")
    from recbole.trainer import HyperTuning

    file = tmp_path / "space.txt"
    file.write_text(f"learning_rate choice [os.mkdir('{FLAG}')]\n", encoding="utf-8")
    with pytest.raises(SyntaxError):
        HyperTuning._build_space_from_file(str(file))
    file.write_text("learning_rate choice [0.1,0.2]\n", encoding="utf-8")
    assert list(HyperTuning._build_space_from_file(str(file))) == ["learning_rate"]


@pytest.mark.parametrize("kind", ["npz", "npy", "ids", "parquet"])
def test_feature_files_are_never_unpickled(kind: str, tmp_path: Path) -> None:
    planted = np.array([Planted(), Planted()], dtype=object)
    path = tmp_path / f"mm-toy.item.image.{'npy' if kind == 'ids' else kind}"
    if kind == "npz":
        np.savez(path, id=planted, feature=np.eye(2))
    elif kind == "npy":
        np.save(path, planted)
    elif kind == "ids":
        np.save(path, np.eye(2))
    else:
        path.write_bytes(pickle.dumps(Planted()))
    if kind in ("npy", "ids"):
        path.with_suffix(".ids").write_bytes(pickle.dumps(Planted()))
    file = FeatureFile("item", "image", path)
    with pytest.raises((ValueError, ImportError)):
        file.matrix()
        file.tokens()


@pytest.mark.parametrize("name", ["features.npz", "features.npy"])
def test_a_pickle_under_the_name_of_a_feature_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"mm-toy.item.{name}"
    path.write_bytes(pickle.dumps(Planted()))
    with pytest.raises(ValueError, match="cannot be read"):
        FeatureFile("item", "features", path).matrix()


@pytest.mark.parametrize(
    "command",
    [
        "export --export=a.csv --checkpoint=planted.pth",
        "export --export_embeddings=a.npz --checkpoint=planted.pth",
        "train --resume=planted.pth",
        "train --model=BPR --dataset=mm-toy --resume=planted.pth --epochs=1 --state=ERROR",
        "convert checkpoint planted.pth",
        "train --model=BPR --dataset=mm-toy --epochs=1 --state=ERROR --config_files=planted.yaml",
        "search --model=BPR --dataset=mm-toy --search_spaces=planted.yaml",
        "export --model=BPR --dataset=mm-toy --epochs=1 --export=a.csv --export_users=@planted.pkl --state=ERROR",
    ],
)
@pytest.mark.parametrize("form", ["torch", "legacy", "pickle", "inside"])
def test_files_of_a_command_line_are_never_unpickled(command: str, form: str, tmp_path: Path, monkeypatch: Any) -> None:
    import shlex

    import torch

    from recbole_mm.cli.main import main

    content: Any = {"config": {}, "epoch": 0, "state_dict": {"weight": torch.ones(1)}, "optimizer": Planted()}
    if form == "inside":  # as one of ours, with one thing more
        content = {"format": "recbole_mm 1", **content}
    if form == "pickle":
        (tmp_path / "planted.pth").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "planted.pth", _use_new_zipfile_serialization=form != "legacy")
    (tmp_path / "planted.pkl").write_bytes(pickle.dumps(Planted()))
    (tmp_path / "planted.yaml").write_text(f"epochs: !!python/object/apply:os.mkdir [{FLAG}]\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["recbole-mm"])
    assert main(shlex.split(command)) in (1, 2)


def test_data_of_a_run_are_never_unpickled(tmp_path: Path) -> None:
    """Per-user metrics and records of a comparison."""
    from recbole_mm.experiment.store import Store

    store = Store(tmp_path / "results")
    folder = store.start("BPR-1")
    np.savez(folder / "users.npz", user=np.array([Planted()], dtype=object))
    (folder / "run.json").write_bytes(pickle.dumps(Planted()))
    for read in (store.users, store.load):
        with pytest.raises(ValueError):
            read("BPR-1")
