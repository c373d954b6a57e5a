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


def pickled(path: Path) -> Path:
    """A checkpoint as RecBole pickles it, with code in it."""
    import torch

    torch.save({"config": Planted(), "state_dict": {}, "epoch": 0, "optimizer": {}}, path, pickle_protocol=4)
    return path


SEQUENCES: dict[str, Any] = {
    "train_neg_sample_args": None,
    "item_attribute": "brand",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "brand"]},
}
#: Models of RecBole that go on from a file, with the options that name it.
GO_ON: list[tuple[str, dict[str, Any]]] = [
    ("ConvNCF", {"pre_model_path": "old.pth", "train_method": "after_pretrain"}),
    ("NAIS", {"pretrain_path": "old.pth"}),
    ("NeuMF", {"use_pretrain": True, "mf_pretrain_path": "old.pth", "mlp_pretrain_path": "old.pth"}),
    ("RaCT", {"train_stage": "critic_pretrain", "pre_model_path": "old.pth"}),
    (
        "S3Rec",
        {
            "train_stage": "finetune",
            "pre_model_path": "old.pth",
            "train_neg_sample_args": None,
            "item_attribute": "brand",
            "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "brand"]},
        },
    ),
    ("KD_DAGFM", {"phase": "distillation", "warm_up": "old.pth", "teacher": "CrossNet"}),
]


@pytest.mark.parametrize(("model", "options"), GO_ON, ids=[model for model, _ in GO_ON])
def test_files_that_models_of_recbole_go_on_from_are_never_unpickled(
    model: str, options: dict[str, Any], tmp_path: Path
) -> None:
    import recbole_mm

    pickled(tmp_path / "old.pth")
    more: dict[str, Any] = {"state": "ERROR", "epochs": 1, "show_progress": False, "use_gpu": False, **options}
    with pytest.raises(ValueError, match="convert checkpoint old.pth --trust"):
        recbole_mm.run(model, "mm-toy", config_dict=more)


@pytest.mark.parametrize("text", [*EXPRESSIONS, "KD_DAGFM", "os"])
def test_the_teacher_of_a_model_is_a_name(text: str) -> None:
    """RecBole evaluates this option as Python, wherever it comes from: a yaml file, a checkpoint, a saved model."""
    from recbole.model.context_aware_recommender import kd_dagfm

    with pytest.raises(ValueError, match="teacher: expected one of .*CrossNet"):
        kd_dagfm.eval(text)
    assert kd_dagfm.eval("CrossNet") is kd_dagfm.CrossNet


def test_there_is_no_other_door_in_recbole() -> None:
    """Every place of its source that evaluates or unpickles is one that the tests here or beside them are about."""
    import ast

    import recbole

    doors: dict[str, list[str]] = {}
    root = Path(recbole.__file__).parent
    for file in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("eval", "exec", "compile", "pickle.load", "pickle.loads", "np.load", "yaml.load"):
                doors.setdefault(called, []).append(file.relative_to(root).as_posix())
    assert doors == {
        "eval": ["config/configurator.py", "model/context_aware_recommender/kd_dagfm.py", "trainer/hyper_tuning.py"],
        "pickle.load": ["data/utils.py", "data/utils.py"],
        "np.load": ["model/general_recommender/ldiffrec.py"],
        "yaml.load": ["config/configurator.py"] * 2 + ["data/dataset/dataset.py"],  # the last reads RecBole's own file
    }


def test_recboles_own_functions_read_its_pickles_and_say_so(tmp_path: Path, caplog: Any) -> None:
    """The one way left, for checkpoints that RecBole wrote: not by a command or a function of this package."""
    from recbole.quick_start import load_data_and_model

    with pytest.raises((TypeError, AttributeError)):  # what the payload gives is no Config
        load_data_and_model(str(pickled(tmp_path / "old.pth")))
    assert "old.pth is read as a pickle, which runs the code" in caplog.text
    assert (tmp_path / FLAG).exists()
    (tmp_path / FLAG).rmdir()


def planted_study(file: Path) -> str:
    """The database of a search that goes on, with code in every column that holds a text, as its owner could put it."""
    import json
    import sqlite3

    from recbole_mm.search.storage import open_storage
    from recbole_mm.search.trials import Trials

    url = f"sqlite:///{file}"
    Trials(open_storage(url), "study", True, 1, budget=6).run(objective, 3)
    text, pickle_of = EXPRESSIONS[0], pickle.dumps(Planted()).hex()
    choices = {"name": "CategoricalDistribution", "attributes": {"choices": [text, pickle_of]}}
    with sqlite3.connect(file) as connection:
        study, trial = (connection.execute(f"SELECT {key} FROM {table}").fetchone()[0]
                        for key, table in (("study_id", "studies"), ("trial_id", "trials")))  # fmt: skip
        for table, owner, number in (("study_system_attributes", "study_id", study),
                                     ("study_user_attributes", "study_id", study),
                                     ("trial_system_attributes", "trial_id", trial),
                                     ("trial_user_attributes", "trial_id", trial)):  # fmt: skip
            for key in ("cma:optimizer", "cma:optimizer:0", "fixed_params", "options", "beat", "note"):
                connection.execute(f"DELETE FROM {table} WHERE {owner} = ? AND key = ?", (number, key))
                value = json.dumps(pickle_of if "cma" in key else {"x": text, "y": EXPRESSIONS[1]})
                connection.execute(f"INSERT INTO {table} ({owner}, key, value_json) VALUES (?, ?, ?)",
                                   (number, key, value))  # fmt: skip
        connection.execute("UPDATE trial_params SET distribution_json = ?, param_value = 0 WHERE param_name = 'kind'",
                           (json.dumps(choices),))  # fmt: skip
    return url


def objective(trial: Any) -> float:
    trial.suggest_categorical("kind", ["a", "b"])
    return float(trial.suggest_float("x", 0, 1))


def test_the_database_of_a_search_is_data(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from recbole_mm.search.storage import check_storage, open_storage
    from recbole_mm.search.trials import Trials, settled_trials

    url = planted_study(tmp_path / "mine.db")
    check_storage(url, "study")
    search = Trials(open_storage(url), "study", True, 1, budget=6)
    assert EXPRESSIONS[0] in [trial.params["kind"] for trial in search.finished()]
    search.run(objective, 6)
    done = settled_trials(open_storage(url), "study")
    assert len(done) == 6 and search.best() is not None
    assert done[0].user_attrs["options"] == {"x": EXPRESSIONS[0], "y": EXPRESSIONS[1]}, "texts they were and are"


def test_what_optuna_unpickles_is_not_used() -> None:
    """The state of CMA-ES and snapshots of journals are pickles; a search has its own sampler and SQL alone."""
    import optuna

    root, found = Path(optuna.__file__).parent, []
    for file in sorted(root.rglob("*.py")):
        if "pickle.load" in file.read_text(encoding="utf-8") and "testing" not in file.parts:
            found.append(file.relative_to(root).as_posix())
    assert found == ["samplers/_cmaes.py", "storages/journal/_storage.py"]
    import recbole_mm.search

    for file in Path(recbole_mm.search.__file__).parent.glob("*.py"):
        assert not any(word in file.read_text(encoding="utf-8") for word in ("CmaEs", "Journal", "load_study")), file
