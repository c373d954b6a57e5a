"""What registering adds to RecBole's look-ups, what it refuses, and which options win."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import recbole.data.dataset
import recbole.trainer
from recbole.config import Config
from recbole.data.utils import get_dataloader
from recbole.model.general_recommender import BPR, NCL, MultiVAE
from recbole.model.sequential_recommender import DIN
from recbole.quick_start import objective_function, run_recbole
from recbole.trainer import NCLTrainer, Trainer
from recbole.utils import ModelType, get_model, get_trainer
from recbole.utils.argument_list import dataset_arguments

import recbole_mm
from recbole_mm.data.dataset import MultimodalDataset, MultimodalSequentialDataset
from recbole_mm.host import defaults, registry
from recbole_mm.host.registry import register, registered_models
from recbole_mm.model.base import MultimodalSequentialRecommender
from recbole_mm.paths import dataset_atomic_dir
from tests.host.toy_model import HostToy

QUIET = {"state": "ERROR", "show_progress": False, "epochs": 1, "use_gpu": False}


def config(model: Any, dataset: str = "mm-toy", **options: Any) -> Config:
    return Config(model, dataset, config_dict={"state": "ERROR", **options})


@pytest.fixture
def toy(clean_registry: None) -> type:
    return register(HostToy, properties={"toy_dim": 8})


class TestRegistering:
    def test_every_look_up_of_recbole_finds_the_model(self, toy: type) -> None:
        assert get_model("HostToy") is HostToy
        assert registered_models()["HostToy"] is HostToy
        assert recbole_mm.HostToy is HostToy
        assert recbole.data.dataset.HostToyDataset is MultimodalDataset
        assert get_trainer(ModelType.GENERAL, "HostToy") is Trainer
        assert config("HostToy").model_class is HostToy

    def test_as_a_decorator(self, clean_registry: None) -> None:
        class OwnTrainer(Trainer):
            pass

        class OwnDataset(MultimodalDataset):
            pass

        @register(trainer=OwnTrainer, dataset=OwnDataset, properties={"toy_dim": 3})
        class Decorated(HostToy):
            pass

        @register
        class Plain(MultimodalSequentialRecommender):
            pass

        assert get_trainer(ModelType.GENERAL, "Decorated") is OwnTrainer
        assert recbole.data.dataset.DecoratedDataset is OwnDataset
        assert config("Decorated")["toy_dim"] == 3
        assert get_model("Plain") is Plain
        assert recbole.data.dataset.PlainDataset is MultimodalSequentialDataset

    def test_a_plain_recbole_model_keeps_recboles_dataset(self, clean_registry: None) -> None:
        @register
        class MyBPR(BPR):
            pass

        assert not hasattr(recbole.data.dataset, "MyBPRDataset")
        result = run_recbole("MyBPR", "mm-toy", config_dict={**QUIET, "embedding_size": 4}, saved=False)
        assert set(result["test_result"]) == {"recall@10", "mrr@10", "ndcg@10", "hit@10", "precision@10"}

    def test_again_replaces_what_was_given_with_it(self, clean_registry: None) -> None:
        class OwnTrainer(Trainer):
            pass

        register(HostToy, properties={"toy_dim": 3}, trainer=OwnTrainer)
        register(HostToy, properties={"toy_dim": 4})
        assert config("HostToy")["toy_dim"] == 4
        assert get_trainer(ModelType.GENERAL, "HostToy") is Trainer

    def test_again_as_a_model_of_another_kind(self, clean_registry: None) -> None:
        for base in (HostToy, MultimodalSequentialRecommender, HostToy):
            again = type("Again", (base,), {"__module__": "notebook"})
            register(again)
            assert get_model("Again") is again

    def test_the_class_of_a_script_that_runs(self, fresh_python: Any) -> None:
        code = (
            "import recbole_mm\n"
            "from tests.host.toy_model import HostToy\n"
            "from recbole.utils import get_model\n"
            "@recbole_mm.register\nclass Mine(HostToy): pass\n"
            "print(get_model('Mine') is Mine, Mine.__module__)"
        )
        assert fresh_python(code) == "True __main__"

    def test_our_models_are_registered_on_import(self) -> None:
        assert "MMGCN" in registered_models()
        assert recbole_mm.MMGCN is get_model("MMGCN")
        assert {"MMGCN", "register", "registered_models", "run"} <= set(recbole_mm.__all__) <= set(dir(recbole_mm))
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            recbole_mm.nothing  # noqa: B018


class TestDeriving:
    """A subclass of a model is that model where it says nothing else; RecBole looks everything up by name."""

    def test_it_has_the_options_the_trainer_and_the_data_set_of_its_model(self, clean_registry: None) -> None:
        class OwnTrainer(Trainer):
            pass

        class OwnDataset(MultimodalDataset):
            pass

        register(HostToy, properties={"toy_dim": 8, "epochs": 7}, trainer=OwnTrainer, dataset=OwnDataset)
        register(type("Child", (HostToy,), {}), properties={"toy_dim": 4})
        register(type("Grandchild", (type("Between", (get_model("Child"),), {}),), {}))
        found = config("Grandchild")
        assert (found["toy_dim"], found["epochs"]) == (4, 7)
        assert defaults.properties_of("Grandchild") == {"toy_dim": 4, "epochs": 7}
        assert get_trainer(ModelType.GENERAL, "Grandchild") is OwnTrainer
        assert recbole.data.dataset.GrandchildDataset is OwnDataset

    @pytest.mark.parametrize("name", ["MCPTR", "MML", "UniSRec"])
    def test_one_of_ours_keeps_its_stages(self, name: str, clean_registry: None) -> None:
        theirs = registered_models()[name]
        register(type("Derived", (theirs,), {}), properties={"epochs": 3})
        assert get_trainer(theirs.type, "Derived") is get_trainer(theirs.type, name)
        assert recbole_mm.tags_of("Derived").stages == recbole_mm.tags_of(name).stages
        given, own = (config(model).internal_config_dict for model in ("Derived", name))
        assert given == {**own, "epochs": 3}

    def test_one_of_recboles(self, clean_registry: None) -> None:
        rows = {"train_neg_sample_args": None, "threshold": None}
        for base, trainer in ((NCL, NCLTrainer), (MultiVAE, Trainer), (BPR, Trainer)):
            name = f"My{base.__name__}"
            register(type(name, (base,), {}))
            assert get_trainer(ModelType.GENERAL, name) is trainer
            theirs, mine = (config(model, **rows) for model in (base.__name__, name))
            assert set(theirs.internal_config_dict) <= set(mine.internal_config_dict)
            assert mine["embedding_size"] == theirs["embedding_size"]
            assert get_dataloader(mine, "train") is get_dataloader(theirs, "train")
        register(type("MyDIN", (DIN,), {}))
        assert config("MyDIN", **rows)["eval_args"] == config("DIN", **rows)["eval_args"]

    def test_a_base_of_another_kind_gives_nothing(self, clean_registry: None) -> None:
        register(HostToy, properties={"toy_dim": 8}, dataset=MultimodalDataset)
        register(type("Other", (HostToy,), {"type": ModelType.SEQUENTIAL}))
        assert recbole.data.dataset.OtherDataset is MultimodalSequentialDataset
        assert defaults.properties_of("Other") == {}


class TestRefusing:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("BPR", "RecBole has a model of this name"),
            ("LightGcn", "RecBole has a model of this name"),
            ("XGBoost", "RecBole has a model of this name"),
            ("KG", r"RecBole has a class recbole\.trainer\.KGTrainer"),
            ("KnowledgeBased", r"RecBole has a class recbole\.data\.dataset\.KnowledgeBasedDataset"),
            ("MMGCN", r"belongs to recbole_mm\.model\.mmgcn\.MMGCN already"),
            ("mmgcn", r"belongs to recbole_mm\.model\.mmgcn\.MMGCN already"),
        ],
    )
    def test_a_name_that_is_taken(self, name: str, message: str, clean_registry: None) -> None:
        before = registered_models()
        with pytest.raises(ValueError, match=message):
            register(type(name, (HostToy,), {}))
        assert registered_models() == before
        assert get_model("BPR") is BPR

    def test_a_refused_model_leaves_nothing_behind(self, clean_registry: None) -> None:
        with pytest.raises(ValueError, match="SequentialDataset, which it would use"):
            register(type("Sequential", (HostToy,), {}), trainer=Trainer)
        assert not hasattr(recbole.trainer, "SequentialTrainer")

    @pytest.mark.parametrize("thing", [3, "MMGCN", dict, HostToy.forward])
    def test_what_is_no_recommender(self, thing: Any) -> None:
        with pytest.raises(TypeError, match="a subclass of a RecBole recommender"):
            register(thing)

    def test_a_properties_file_that_is_not_there(self, clean_registry: None) -> None:
        with pytest.raises(FileNotFoundError, match=r"register\(HostToy\): properties: there is no file"):
            register(HostToy, properties="nowhere.yaml")
        assert "HostToy" not in registered_models()

    def test_a_properties_file_that_is_no_mapping(self, clean_registry: None, tmp_path: Path) -> None:
        (tmp_path / "toy.yaml").write_text("- toy_dim\n")
        register(HostToy, properties=tmp_path / "toy.yaml")
        with pytest.raises(ValueError, match="expected a mapping of options, got list"):
            config("HostToy")


class TestRunning:
    def test_by_name_by_class_and_by_objective_function(self, toy: type, tmp_path: Path) -> None:
        by_name = run_recbole("HostToy", "mm-toy", config_dict=dict(QUIET))
        by_class = run_recbole(HostToy, "mm-toy", config_dict=dict(QUIET))
        (tmp_path / "job.yaml").write_text("model: HostToy\ndataset: mm-toy\n")
        tuned = objective_function(dict(QUIET), [str(tmp_path / "job.yaml")])
        assert by_name["test_result"] == by_class["test_result"] == tuned["test_result"]
        assert by_name["best_valid_result"]["recall@10"] > 0


class TestOptions:
    def test_defaults_then_file_then_dict_then_command_line(
        self, clean_registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "toy.yaml").write_text("toy_dim: 5\nlearning_rate: 0.5\nn_layers: 5\nreg_weight: 0.5\nepochs: 50\n")
        (tmp_path / "user.yaml").write_text("learning_rate: 0.7\nn_layers: 7\nreg_weight: 0.7\n")
        register(HostToy, properties=tmp_path / "toy.yaml")
        monkeypatch.setattr(sys, "argv", ["script.py", "--reg_weight=0.9"])
        found = Config(
            "HostToy", "mm-toy", config_file_list=["user.yaml"], config_dict={"n_layers": 8, "reg_weight": 0.8}
        )
        assert [found[key] for key in ("epochs", "toy_dim", "learning_rate", "n_layers", "reg_weight")] == [
            50,
            5,
            0.7,
            8,
            0.9,
        ]

    def test_shared_options_have_their_defaults_and_the_model_may_change_them(self, clean_registry: None) -> None:
        register(HostToy, properties={"toy_dim": 8, "feature_norm": "l2"})
        found = config("HostToy")
        assert (found["feature_norm"], found["missing_feature"], found["modalities"]) == ("l2", "zero", None)

    def test_eval_batch_size_is_a_number(self, toy: type) -> None:
        automatic = config("HostToy")["eval_batch_size"]
        assert isinstance(automatic, int)
        assert automatic > 100_000
        assert config("HostToy", eval_batch_size=1000)["eval_batch_size"] == 1000
        assert config("BPR")["eval_batch_size"] == 4096
        assert config("BPR", eval_batch_size="auto")["eval_batch_size"] == automatic
        with pytest.raises(ValueError, match="eval_batch_size"):
            config("HostToy", eval_batch_size="atuo")

    def test_the_kind_of_a_model_is_its_class_attribute(self, clean_registry: None) -> None:
        register(HostToy, properties={"toy_dim": 8, "MODEL_TYPE": "nonsense"})
        assert config("HostToy")["MODEL_TYPE"] == ModelType.GENERAL

    def test_dataset_options_count_for_baselines(self) -> None:
        assert config("BPR")["load_col"] == {"inter": ["user_id", "item_id", "rating", "timestamp"]}

    def test_what_a_kind_of_model_requires_wins_over_the_dataset(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "dataset").mkdir()
        (tmp_path / "dataset" / "mm-toy.yaml").write_text(
            "repeatable: False\ntopk: [3]\neval_args: {split: {RS: [8, 1, 1]}}\n"
        )
        monkeypatch.setattr(defaults, "properties_dir", lambda: tmp_path)
        found = config("SASRec", train_neg_sample_args=None)
        assert (found["repeatable"], found["topk"]) == (True, [3])
        assert found["eval_args"]["split"] == {"LS": "valid_and_test"}

    @pytest.mark.parametrize("model", ["BPR", "FM", "SASRec", "CKE", "ItemKNN", "DIN"])
    def test_a_baseline_has_the_options_it_has_without_us(self, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
        options = {"train_neg_sample_args": None} if model == "SASRec" else {}
        ours = config(model, "ml-100k", **options).final_config_dict
        for method in ("_load_internal_config_dict", "_set_default_parameters"):
            monkeypatch.setattr(Config, method, getattr(Config, method).__wrapped__)
        assert config(model, "ml-100k", **options).final_config_dict == ours

    def test_installing_again_changes_nothing(self) -> None:
        before = (Config._load_internal_config_dict, Config._set_default_parameters, list(dataset_arguments))
        registry.install()
        assert before == (Config._load_internal_config_dict, Config._set_default_parameters, dataset_arguments)
        assert len(set(dataset_arguments)) == len(dataset_arguments)


class TestDataPath:
    def test_the_packaged_data_set_is_the_last_resort(self, tmp_path: Path) -> None:
        assert config("BPR")["data_path"] == str(dataset_atomic_dir() / "mm-toy")
        (tmp_path / "mine" / "mm-toy").mkdir(parents=True)
        assert config("BPR", data_path=str(tmp_path / "mine"))["data_path"] == str(tmp_path / "mine" / "mm-toy")

    def test_recboles_ml_100k_stays_where_it_is(self) -> None:
        assert "dataset_example" in config("MMGCN", "ml-100k")["data_path"]

    def test_an_unknown_data_set_is_left_to_recbole(self) -> None:
        assert config("BPR", "nothing")["data_path"] == "dataset/nothing"
