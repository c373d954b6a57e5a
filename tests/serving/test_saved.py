"""Saved models: the folder scores as the model did, without the data set, and nothing in it is executed."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_mm
from recbole_mm.cli.main import main
from recbole_mm.data.fingerprint import file_hash
from recbole_mm.host.registry import registered_models
from recbole_mm.serving.encoding import join, separate
from recbole_mm.serving.export import load as load_checkpoint
from tests.model.conftest import build
from tests.model.test_contract import SMALLER
from tests.options import SEQUENTIAL

# Attention for every pair of user and item, and a learner that is adapted to every user.
LAYERS = ("n_image_layers", "n_text_layers", "n_cross_layers")
FEWER = {
    "CMBF": {"embedding_size": 4, "image_feature_dim": 2, **dict.fromkeys(LAYERS, 1)},
    "MML": {**SMALLER["MML"], "modalities": ["text"], "adapt_steps": 1},
}


def loaded(name: str, **options: Any) -> tuple[Any, ...]:
    """A model with its data, as a checkpoint is loaded, but not trained."""
    made = build(name, **{**FEWER.get(name, {}), **options})
    made.model.eval()
    return made.config, made.model, None, made.train_data, made.valid_data, made.test_data


def exported(source: Any, file: Path, seen: str, k: int = 5, **options: Any) -> pd.DataFrame:
    recbole_mm.export(source, file, k, seen=seen, progress=False, **options)
    frame = pd.read_csv(file, dtype={"user_id": str, "item_id": str})
    return frame[frame["ranked_by"] != "popularity"].reset_index(drop=True)


def check_lists(source: Any, recommender: recbole_mm.Recommender, folder: Path) -> None:
    """Lists equal those of an export."""
    asked = recommender.user_ids[:6]
    for exclude, seen in ((True, "history"), (False, "none")):
        expected = exported(source, folder / f"{seen}.csv", seen, users=asked)
        found = recommender.recommend(expected["user_id"].unique(), 5, exclude_seen=exclude)
        assert found["user_id"].tolist() == expected["user_id"].tolist()
        assert found["item_id"].tolist() == expected["item_id"].tolist()
        assert found["rank"].tolist() == expected["rank"].tolist()
        np.testing.assert_allclose(found["score"], expected["score"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", sorted(name for name, c in registered_models().items() if "recbole_mm" in c.__module__)
)
def test_every_model_of_the_package(name: str, tmp_path: Path) -> None:
    source = loaded(name)
    recommender = recbole_mm.load(recbole_mm.save(source, tmp_path / "model"))
    check_lists(source, recommender, tmp_path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("BPR", {}),
        ("LightGCN", {}),
        ("SASRec", SEQUENTIAL),
        ("NeuMF", {"mf_embedding_size": 8, "mlp_embedding_size": 8, "mlp_hidden_size": [8]}),
        ("ItemKNN", {"epochs": 1}),
        ("Pop", {"epochs": 1}),
    ],
)
def test_models_of_recbole(name: str, options: dict[str, Any], trained: Callable[..., str], tmp_path: Path) -> None:
    checkpoint = trained(name, **options)
    recommender = recbole_mm.load(recbole_mm.save(checkpoint, tmp_path / "model"))
    check_lists(checkpoint, recommender, tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("Random", "it scores otherwise"), ("LDiffRec", "may be a pickle")],
)
def test_a_model_that_cannot_be_kept_says_why(name: str, message: str, trained: Any, tmp_path: Path) -> None:
    checkpoint = trained(name, epochs=1)
    with pytest.raises(ValueError, match=message):
        recbole_mm.save(checkpoint, tmp_path / "model")
    assert not (tmp_path / "model").exists() and not list(tmp_path.glob(".model*"))


def test_new_users_and_items_of_a_cold_start(tmp_path: Path) -> None:
    for entity, name in (("item", "MGCN"), ("user", "MML")):
        source = loaded(name, cold_start={"entity": entity})
        recommender = recbole_mm.load(recbole_mm.save(source, tmp_path / entity))
        check_lists(source, recommender, tmp_path)


@pytest.fixture(scope="module")
def vbpr(tmp_path_factory: pytest.TempPathFactory, trained: Callable[..., str]) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    return recbole_mm.save(trained("VBPR"), folder / "vbpr", with_features=True)


@pytest.fixture(scope="module")
def sasrec(tmp_path_factory: pytest.TempPathFactory, trained: Callable[..., str]) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    return recbole_mm.save(trained("SASRec", **SEQUENTIAL), folder / "sasrec")


class TestFolder:
    def test_what_it_holds(self, vbpr: Path, trained: Callable[..., str]) -> None:
        names = {file.name for file in vbpr.iterdir()}
        assert names == {
            "README.md", "config.json", "data.safetensors", "features", "ids.parquet", "metrics.json",
            "model.safetensors",
        }  # fmt: skip
        assert not {file.suffix for file in vbpr.rglob("*")} & {".pth", ".pt", ".pkl", ".bin"}
        ids = pd.read_parquet(vbpr / "ids.parquet")
        assert set(ids["field"]) == {"user_id", "item_id"}
        metrics = json.loads((vbpr / "metrics.json").read_text())
        config, _, _, *loaders = load_checkpoint(trained("VBPR"))
        assert metrics["split"] == recbole_mm.experiment.split.describe_split(*loaders)["hash"]
        assert metrics["valid"][config["valid_metric"].lower()] > 0
        card = (vbpr / "README.md").read_text()
        assert metrics["split"] in card and "Licence" in card and "recbole_mm.load(" in card and "mm-toy" in card

    def test_the_result_of_a_run_brings_its_metrics(self, tmp_path: Path, trained: Callable[..., str]) -> None:
        result = {
            "checkpoint": trained("BPR"),
            "best_valid_result": {"recall@10": 0.5},
            "test_result": {"recall@10": 0.4},
        }
        folder = recbole_mm.save(result, tmp_path / "bpr")
        assert "| recall@10 | 0.5 | 0.4 |" in (folder / "README.md").read_text()
        with pytest.raises(FileExistsError, match="not empty"):
            recbole_mm.save(result, folder)
        with pytest.raises(ValueError, match="saved=False"):
            recbole_mm.save({**result, "checkpoint": None}, tmp_path / "none")
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            recbole_mm.save(result, tmp_path / "no" / "folder")

    def test_without_pyarrow_the_ids_are_json(
        self, tmp_path: Path, trained: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        folder = recbole_mm.save(trained("BPR"), tmp_path / "bpr")
        assert (folder / "ids.json").is_file() and not (folder / "ids.parquet").exists()
        assert recbole_mm.load(folder).recommend("u41", 2)["rank"].tolist() == [1, 2]

    def test_a_process_without_the_data_set(
        self, vbpr: Path, tmp_path: Path, fresh_python: Callable[..., str], trained: Callable[..., str]
    ) -> None:
        """In another place, where nothing but the folder is: no .inter file can be opened, no pickle read."""
        shutil.copytree(vbpr, tmp_path / "elsewhere")
        code = (
            "import sys, builtins, recbole_mm\n"
            "recommender = None\n"
            "def audit(event, arguments):\n"
            "    if event == 'open' and str(arguments[0]).endswith(('.inter', '.pth')): raise SystemExit('opened')\n"
            "    if event == 'pickle.find_class': raise SystemExit('unpickled')\n"
            "sys.addaudithook(audit)\n"
            "recommender = recbole_mm.load('elsewhere')\n"
            "print(','.join(recommender.recommend(['u41', 'u102'], 5)['item_id']))"
        )
        expected = exported(trained("VBPR"), tmp_path / "l.csv", "history", users=["u41", "u102"])
        assert fresh_python(code).splitlines()[-1].split(",") == expected["item_id"].tolist()

    def test_the_command_line_trains_keeps_and_converts(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], trained: Callable[..., str]
    ) -> None:
        run = ["--model=BPR", "--dataset=mm-toy", "--epochs=1", "--use_gpu=False"]
        assert main(["train", *run, "--save_model=kept"]) == 0
        assert "recbole_mm.load('kept')" in capsys.readouterr().out
        assert json.loads((tmp_path / "kept" / "metrics.json").read_text())["test"]["recall@10"] > 0
        assert main(["train", *run, "--save_model=kept"]) == 2  # before the training
        assert "not empty" in capsys.readouterr().err
        assert main(["train", *run, "--with_features"]) == 2
        assert main(["convert", "checkpoint", trained("BPR"), "converted"]) == 0
        assert recbole_mm.load("converted").name == "BPR"
        assert main(["convert", "checkpoint", trained("BPR"), "converted"]) == 1
        assert "not empty" in capsys.readouterr().err


class TestFeatures:
    def test_by_reference_they_are_found_where_they_were_or_where_one_says(
        self, tmp_path: Path, trained: Callable[..., str]
    ) -> None:
        place = tmp_path / "files"
        shutil.copytree(recbole_mm.paths.dataset_atomic_dir() / "mm-toy", place)
        source = loaded("VBPR", feature_path=str(place))
        folder = recbole_mm.save(source, tmp_path / "model")
        before = recbole_mm.load(folder).recommend("u41", 5)
        place.rename(tmp_path / "moved")
        with pytest.raises(FileNotFoundError, match="feature_path"):
            recbole_mm.load(folder)
        moved = recbole_mm.load(folder, feature_path=str(tmp_path / "moved"))
        pd.testing.assert_frame_equal(moved.recommend("u41", 5), before)
        np.savez(tmp_path / "moved" / "mm-toy.item.text.npz", id=np.array(["i1"]), feature=np.ones((1, 3)))
        with pytest.raises(ValueError, match="sha256 differs"):
            recbole_mm.load(folder, feature_path=str(tmp_path / "moved"))


class Planted:
    """A pickle that leaves a trace when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.trace, "w"))


class TestNothingIsExecuted:
    @pytest.fixture
    def folder(self, vbpr: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(vbpr, tmp_path / "copy"))

    def change(self, folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
        content = json.loads((folder / "config.json").read_text())
        edit(content)
        (folder / "config.json").write_text(json.dumps(content))

    def test_planted_pickles_are_not_touched(self, folder: Path, tmp_path: Path) -> None:
        planted = pickle.dumps(Planted(tmp_path / "trace"))
        for name in ("model.pth", "pytorch_model.bin", "data.pkl", "config.pkl", "__init__.py", "setup.py"):
            (folder / name).write_bytes(planted)
        assert recbole_mm.load(folder).name == "VBPR"
        assert not (tmp_path / "trace").exists()

    @pytest.mark.parametrize("name", ["model.safetensors", "data.safetensors", "ids.parquet"])
    @pytest.mark.parametrize("hashed", [False, True])
    def test_a_file_that_was_replaced(self, folder: Path, tmp_path: Path, name: str, hashed: bool) -> None:
        stream = io.BytesIO()
        torch.save(Planted(tmp_path / "trace"), stream)
        for content in (pickle.dumps(Planted(tmp_path / "trace")), stream.getvalue(), b""):
            (folder / name).write_bytes(content)
            if hashed:  # whoever replaces the file can replace its hash
                self.change(folder, lambda made: made["files"].update({name: file_hash(folder / name)}))
            with pytest.raises(ValueError, match="safetensors|arquet|sha256"):
                recbole_mm.load(folder)
        assert not (tmp_path / "trace").exists()

    def test_metrics_that_were_edited(self, folder: Path) -> None:
        (folder / "metrics.json").write_text("{")
        with pytest.raises(ValueError, match="metrics.json"):
            recbole_mm.load(folder)

    def test_options_that_name_a_pickle(self, trained: Callable[..., str], tmp_path: Path) -> None:
        checkpoint = trained("NeuMF", mf_embedding_size=8, mlp_embedding_size=8, mlp_hidden_size=[8])
        folder = recbole_mm.save(checkpoint, tmp_path / "neumf")
        stream = io.BytesIO()
        torch.save(Planted(tmp_path / "trace"), stream)
        (tmp_path / "evil.pth").write_bytes(stream.getvalue())
        evil = {"use_pretrain": True, "mf_pretrain_path": str(tmp_path / "evil.pth")}
        self.change(folder, lambda made: made["config"].update(evil))
        with pytest.raises(ValueError, match="nothing but its folder"):
            recbole_mm.load(folder)
        assert not (tmp_path / "trace").exists()

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (lambda made: made.update(model="os.path"), "no model named 'os.path'"),
            (lambda made: made.update(model="BPR"), "was changed"),
            (lambda made: made.update(format="other"), "expected the format"),
            (lambda made: made["features"][0].update(file="../../passwd"), "no feature file"),
            (lambda made: made["config"].update(embedding_size=3), "does not fit VBPR"),
            (lambda made: made["files"].update({"../x": "0"}), "is missing"),
            (lambda made: made["config"].pop("model"), "was damaged or changed"),
            (lambda made: made["parts"].update(attributes=3), "was damaged or changed"),
        ],
    )
    def test_a_config_that_was_changed(self, folder: Path, edit: Any, message: str) -> None:
        self.change(folder, edit)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            recbole_mm.load(folder)

    @pytest.mark.parametrize("part", ["files", "model", "config", "parts", "served", "state_dict", "features"])
    def test_a_part_that_is_gone_or_another(self, folder: Path, part: str) -> None:
        for edit in (lambda made: made.update({part: 7}), lambda made: made.pop(part)):
            self.change(folder, edit)
            with pytest.raises(ValueError, match="damaged|no name|is a text|does not fit|was changed"):
                recbole_mm.load(folder)

    def test_a_folder_that_is_none(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no folder that recbole_mm\.save wrote"):
            recbole_mm.load(tmp_path)
        (folder / "model.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match="not whole"):
            recbole_mm.load(folder)
        (folder / "config.json").write_text("{")
        with pytest.raises(ValueError, match="is not what"):
            recbole_mm.load(folder)


def test_loading_leaves_the_random_state_alone(vbpr: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    recbole_mm.load(vbpr)
    assert torch.equal(torch.rand(3), expected)


def test_values_come_back_as_they_were() -> None:
    value = {
        "a": [1, 2.5, None, True, "x"],
        "b": (np.arange(3), {1: torch.ones(2, dtype=torch.float16)}),
        "wide": torch.arange(5000),
        "huge": torch.full((2000,), 2**40),
        "set": {3, 4},
        "$tensor": "no tensor",
    }
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(separate(value, "v", tensors))
    back = join(json.loads(text), tensors)
    assert back["a"] == value["a"] and back["set"] == {3, 4} and back["$tensor"] == "no tensor"
    assert isinstance(back["b"], tuple) and back["b"][0].tolist() == [0, 1, 2]
    assert back["b"][1][1].dtype == torch.float16
    assert torch.equal(back["wide"], value["wide"]) and torch.equal(back["huge"], value["huge"])
    assert {tensor.dtype for tensor in tensors.values()} >= {torch.int32, torch.int64}


def test_who_may_read_new_files_may_read_all_of_the_folder(vbpr: Path) -> None:
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in vbpr.iterdir() if file.is_file()}
    assert len(set(modes.values())) == 1, modes
