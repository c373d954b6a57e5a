"""What goes wrong silently when a plugin runs inside RecBole, one test per trap."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.transform import construct_transform
from recbole.quick_start import load_data_and_model, run_recbole
from recbole.utils import ModelType, get_flops, get_model, get_trainer, init_seed

import recbole_mm
from recbole_mm.data.features import store as features
from recbole_mm.host.registry import register, registered_models
from recbole_mm.paths import dataset_atomic_dir
from tests.host.toy_model import HostToy

QUIET = {"state": "ERROR", "show_progress": False, "epochs": 1, "use_gpu": False}

# What a script needs to run RecBole without us where only its imports and numpy names are in the way.
BARE_RECBOLE = """
import sys, types, numpy
for name, value in {"float_": numpy.float64, "complex_": numpy.complex128, "unicode_": numpy.str_,
                    "float": numpy.float64}.items():
    vars(numpy).setdefault(name, value)
try:
    import recbole.quick_start
except Exception:
    for name in [name for name in sys.modules if name.split(".")[0] == "ray"]: del sys.modules[name]
    tune = types.ModuleType("ray.tune"); tune.report = lambda **metrics: None
    ray = types.ModuleType("ray"); ray.tune = tune
    sys.modules.update({"ray": ray, "ray.tune": tune})
"""


@pytest.fixture
def toy(clean_registry: None) -> type:
    return register(HostToy, properties={"toy_dim": 8})


def prepare(model: str, dataset: str = "mm-toy", **options: Any) -> tuple[Config, Any, Any, Any, Any]:
    """Config, data set and the three loaders, as RecBole makes them."""
    config = Config(model, dataset, config_dict={**QUIET, **options})
    init_seed(config["seed"], config["reproducibility"])
    data = create_dataset(config)
    return (config, data, *data_preparation(config, data))


def build(config: Config, train_data: Any) -> Any:
    init_seed(config["seed"], config["reproducibility"])
    return get_model(config["model"])(config, train_data._dataset)


def digest(*loaders: Any) -> list[str]:
    """A hash of the (user, item) pairs of each part, in order."""
    return [
        hashlib.md5(
            b"".join(loader._dataset.inter_feat[field].numpy().tobytes() for field in ("user_id", "item_id"))
        ).hexdigest()
        for loader in loaders
    ]


class TestSavedData:
    @pytest.mark.parametrize(
        ("option", "first", "second"),
        [
            ("modalities", ["text"], ["image"]),
            ("modality_weight", {"text": 0}, {"image": 0}),
            ("feature_dtype", "float32", "float16"),
        ],
    )
    def test_a_saved_data_set_with_other_features_is_not_reused(
        self, toy: type, option: str, first: Any, second: Any
    ) -> None:
        prepare("HostToy", save_dataset=True, **{option: first})
        _, reused, *_ = prepare("HostToy", **{option: second})
        _, expected, *_ = prepare("HostToy", checkpoint_dir="elsewhere", **{option: second})
        assert reused.features.item.keys() == expected.features.item.keys()
        for name, table in expected.features.item.items():
            assert reused.features.item[name].feature.dtype == table.feature.dtype

    def test_dropped_items_stay_dropped_only_if_asked(self, toy: type) -> None:
        _, kept, *_ = prepare("HostToy", save_dataset=True)
        _, dropped, *_ = prepare("HostToy", missing_feature="drop")
        assert dropped.item_num < kept.item_num

    def test_a_saved_data_set_is_reused_and_holds_no_features(
        self, toy: type, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = create_dataset(Config("HostToy", "mm-toy", config_dict={**QUIET, "state": "INFO"}))
        first.features  # noqa: B018 - read, so that they could get into the file
        first.save()
        file = Path("saved") / "mm-toy-MultimodalDataset.pth"
        with caplog.at_level("INFO"):
            config, again, train_data, *_ = prepare("HostToy", state="INFO")
        assert "Load filtered dataset from" in caplog.text
        for name, table in first.features.item.items():
            torch.testing.assert_close(again.features.item[name].feature, table.feature, rtol=0, atol=0)
        tables = sum(table.feature.nbytes for table in first.features.item.values())
        with file.open("rb") as stream:
            content = pickle.load(stream)
        features = content.__dict__.pop("_shared_features", None)
        assert len(pickle.dumps(features)) < tables / 10
        assert build(config, train_data).features.keys() == tuple(sorted(first.features.item))

    def test_saved_loaders_give_the_same_run(self, toy: type, caplog: pytest.LogCaptureFixture) -> None:
        options = {**QUIET, "save_dataset": True, "save_dataloaders": True, "state": "INFO"}
        # The run that saves takes the generators out of its own loaders (RecBole's doing), so it is not compared.
        run_recbole("HostToy", "mm-toy", config_dict=dict(options))
        with caplog.at_level("INFO"):
            first, second = (run_recbole("HostToy", "mm-toy", config_dict=dict(options)) for _ in range(2))
        assert caplog.text.count("Load split dataloaders from") == 2
        assert first["test_result"] == second["test_result"]
        caplog.clear()
        with caplog.at_level("INFO"):
            run_recbole("HostToy", "mm-toy", config_dict={**options, "modalities": ["text"]})
        assert "Load split dataloaders from" not in caplog.text


class TestSplit:
    @pytest.mark.parametrize("name", sorted(registered_models()))
    def test_every_model_sees_the_split_of_a_baseline(self, name: str) -> None:
        baseline = "SASRec" if registered_models()[name].type == ModelType.SEQUENTIAL else "BPR"
        options: dict[str, Any] = {"train_neg_sample_args": None} if baseline == "SASRec" else {}
        _, _, *ours = prepare(name)
        _, _, *theirs = prepare(baseline, **options)
        assert digest(*ours) == digest(*theirs)

    def test_reading_features_draws_nothing(self, toy: type) -> None:
        config = Config("HostToy", "mm-toy", config_dict=dict(QUIET))
        init_seed(1, True)
        before = (torch.get_rng_state(), np.random.get_state()[1].copy())
        create_dataset(config).features  # noqa: B018
        assert torch.equal(before[0], torch.get_rng_state())
        assert (before[1] == np.random.get_state()[1]).all()


class TestLeakage:
    @pytest.mark.parametrize("missing", ["knn", "mean"])
    def test_missing_features_are_filled_from_the_training_part_only(self, toy: type, missing: str) -> None:
        config, data, train_data, *_ = prepare("HostToy", missing_feature=missing)
        model = build(config, train_data)
        table = data.features.item["image"]
        filled = []
        for part in (train_data._dataset, data):
            pairs = (part.inter_feat["user_id"].numpy(), part.inter_feat["item_id"].numpy())
            matrix = sp.csr_matrix((np.ones(len(part)), pairs), shape=(data.user_num, data.item_num))
            filled.append(features.prepare(table, config["feature_norm"], missing, matrix).feature)
        torch.testing.assert_close(model.features["image"], filled[0])
        lacking = ~table.observed[1:]
        assert model.features["image"][1:][lacking].any()
        assert torch.equal(filled[0], filled[1]) == (missing == "mean")  # with knn, the other parts would show


class TestEvaluationCache:
    def test_the_best_checkpoint_is_what_is_tested(self) -> None:
        config, _, train_data, valid_data, test_data = prepare("MMGCN", epochs=2)
        model = build(config, train_data)
        trainer = get_trainer(config["MODEL_TYPE"], "MMGCN")(config, model)
        trainer.fit(train_data, valid_data, verbose=False, saved=True)
        with torch.no_grad():  # make the last epoch very different from the best, then evaluate it: the cache is full
            model.load_state_dict({name: torch.randn_like(value) for name, value in model.state_dict().items()})
        last = trainer.evaluate(test_data, load_best_model=False)
        best = trainer.evaluate(test_data, load_best_model=True)
        fresh = get_trainer(config["MODEL_TYPE"], "MMGCN")(config, build(config, train_data))
        expected = fresh.evaluate(test_data, load_best_model=True, model_file=trainer.saved_model_file)
        assert best == expected
        assert best != last

    def test_one_row_predicted_on_a_copy_before_training_leaves_no_trace(self, toy: type) -> None:
        for name in registered_models():
            options = {"train_neg_sample_args": None} if registered_models()[name].type == ModelType.SEQUENTIAL else {}
            config, data, train_data, *_ = prepare(name, **options)
            model = build(config, train_data)
            before = copy.deepcopy(model.state_dict())
            get_flops(model, data, config["device"], getLogger(), construct_transform(config))  # runs predict on a copy
            assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), name
            assert model._cache is None, name


class TestCheckpoint:
    def test_it_holds_no_features(self, toy: type, tmp_path: Path) -> None:
        folder = tmp_path / "data" / "mm-toy"
        folder.mkdir(parents=True)
        for suffix in ("inter", "item", "user"):
            (folder / f"mm-toy.{suffix}").write_bytes(
                (dataset_atomic_dir() / "mm-toy" / f"mm-toy.{suffix}").read_bytes()
            )
        with np.load(dataset_atomic_dir() / "mm-toy" / "mm-toy.item.text.npz") as small:
            tokens = small["id"]
        wide = np.random.default_rng(0).standard_normal((len(tokens), 4096)).astype(np.float32)
        np.savez(folder / "mm-toy.item.wide.npz", id=tokens, feature=wide)
        options = {"data_path": str(tmp_path / "data"), "modalities": ["wide"], "toy_dim": 1}
        config, _, train_data, valid_data, _ = prepare("HostToy", **options)
        model = build(config, train_data)
        assert model.features["wide"].shape == (81, 4096)
        trainer = get_trainer(config["MODEL_TYPE"], "HostToy")(config, model)
        trainer.fit(train_data, valid_data, verbose=False, saved=True)
        parameters = sum(value.numel() * 4 for value in model.parameters())
        size = Path(trainer.saved_model_file).stat().st_size
        assert size < 3 * parameters + 100_000 < model.features["wide"].nbytes

    def test_another_process_that_imports_us_loads_it(self, fresh_python: Any) -> None:
        result = run_recbole("MMGCN", "mm-toy", config_dict=dict(QUIET))
        (file,) = Path("saved").glob("MMGCN-*.pth")
        code = (
            "import recbole_mm\nfrom recbole.quick_start import load_data_and_model\n"
            "from recbole.utils import get_trainer\n"
            f"config, model, dataset, train, valid, test = load_data_and_model({str(file)!r})\n"
            "trainer = get_trainer(config['MODEL_TYPE'], config['model'])(config, model)\n"
            "found = trainer.evaluate(test, load_best_model=False)\n"
            "print(type(model).__module__, {key: float(value) for key, value in found.items()})"
        )
        printed = fresh_python(code).splitlines()[-1]
        expected = {key: float(value) for key, value in result["test_result"].items()}
        assert printed == f"recbole_mm.model.mmgcn {expected}"

    def test_a_process_that_imported_us_loads_it(self) -> None:
        result = run_recbole("MMGCN", "mm-toy", config_dict=dict(QUIET))
        (file,) = Path("saved").glob("MMGCN-*.pth")
        config, model, _, _, _, test_data = load_data_and_model(str(file))
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        assert trainer.evaluate(test_data, load_best_model=False) == result["test_result"]


class TestProcesses:
    def test_the_chosen_device_stays_chosen(self, toy: type, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
        recbole_mm.run("HostToy", "mm-toy", config_dict=dict(QUIET), saved=False)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


class TestBaselines:
    @pytest.mark.slow
    def test_importing_us_changes_no_metric(self, fresh_python: Any) -> None:
        options = {**QUIET, "data_path": str(dataset_atomic_dir()), "load_col": {"inter": ["user_id", "item_id"]}}
        options["negative_items"] = "all"  # RecBole's negatives; by default items that training lacks are none
        run = (
            "from recbole.quick_start import run_recbole\n"
            f"found = run_recbole('BPR', 'mm-toy', config_dict={options!r}, saved=False)\n"
            "print(sorted((part, key, float(value)) for part in ('best_valid_result', 'test_result')"
            " for key, value in found[part].items()))"
        )
        without = fresh_python(BARE_RECBOLE + run + "\nassert 'recbole_mm' not in sys.modules")
        assert fresh_python("import recbole_mm\n" + run).splitlines()[-1] == without.splitlines()[-1]
