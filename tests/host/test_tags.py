"""Tags: what is read from source files is what the classes say, and what they say of RecBole's models is true."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.general_recommender import BPR
from recbole.model.sequential_recommender import DIN
from recbole.trainer import Trainer
from recbole.utils import InputType, ModelType, get_model, init_seed

from recbole_mm.host.names import recbole_folder, recbole_models
from recbole_mm.host.registry import register, registered_models
from recbole_mm.host.tags import ModelEntry, Tags, list_models, tags_of
from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.trainer.stages import StagedTrainer
from tests.model.tiny import tiny_model

EXTERNAL = {"LightGBM", "XGBoost"}  # need a package of their own


@pytest.fixture(scope="module")
def entries() -> list[ModelEntry]:
    return list_models(registered_models(), recbole_folder())


def test_source_files_and_classes_agree(entries: list[ModelEntry]) -> None:
    assert {entry.name for entry in entries if entry.ours} == set(registered_models())
    assert {entry.name for entry in entries if not entry.ours} == recbole_models()
    for entry in entries:
        if entry.name not in EXTERNAL:
            live = tags_of(get_model(entry.name))
            stages = {"stages": entry.tags.stages} if entry.name == "S3Rec" else {}
            assert entry.tags == dataclasses.replace(live, **stages), entry.name
            assert tags_of(entry.name) == entry.tags


def test_families(entries: list[ModelEntry]) -> None:
    family = {entry.name: entry.family for entry in entries}
    assert [family[name] for name in ("MMGCN", "MML", "BPR", "Pop", "SASRec", "FM", "KGAT", "XGBoost")] == [
        "general",
        "sequential",
        "general",
        "general",
        "sequential",
        "context aware",
        "knowledge aware",
        "exlib",
    ]
    assert [entry.name for entry in entries][: len(registered_models())] == sorted(registered_models())


def test_the_list_needs_neither_torch_nor_recbole(fresh_python: Any) -> None:
    code = f"""
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("tags", {str(inspect.getfile(Tags))!r})
module = importlib.util.module_from_spec(spec)
sys.modules["tags"] = module
spec.loader.exec_module(module)
print(len(module.list_models(["MML"], Path({str(recbole_folder())!r}))), {{"torch", "recbole"}} & set(sys.modules))
"""
    assert fresh_python(code) == f"{1 + len(recbole_models())} set()"


def test_features_of_recboles_sequential_models_are_known(entries: list[ModelEntry]) -> None:
    """RecBole's sequential models say nothing of their features; their files do."""
    for entry in entries:
        if entry.family == "sequential" and not entry.ours:
            source = (recbole_folder() / "model" / "sequential_recommender" / f"{entry.name.lower()}.py").read_text()
            reads = bool(re.search(r"selected_features|get_preload_weight|ContextSeqEmbLayer|item_attribute", source))
            assert bool(entry.tags.uses) == reads, entry.name
        if entry.family == "general" and not entry.ours:
            source = (recbole_folder() / "model" / "general_recommender" / f"{entry.name.lower()}.py").read_text()
            assert not re.search(r"item_feat\b|get_preload_weight", source), entry.name


@pytest.mark.parametrize("name", ["FM", "DIN", "SASRecF", "SASRec", "BPR"])
def test_recboles_models_rank_new_items_by_their_columns_or_not(name: str) -> None:
    options = {
        "state": "ERROR",
        "use_gpu": False,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "brand"]},
        "cold_start": {"entity": "item"},
        "eval_args": {"mode": "full", "split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"},
        "selected_features": ["brand"],
        "train_neg_sample_args": None if name.startswith("SASRec") else {"distribution": "uniform", "sample_num": 1},
        "metrics": ["Recall"],
        "valid_metric": "Recall@10",
    }
    config = Config(model=name, dataset="mm-toy", config_dict=options)
    init_seed(1, True)
    train_data, _, test_data = data_preparation(config, create_dataset(config))
    dataset = train_data._dataset
    item = int(dataset.cold_start.items[0])

    def scores() -> torch.Tensor:
        init_seed(1, True)
        model = get_model(name)(config, dataset).eval()
        part = test_data._dataset
        rows = part[torch.arange(5)]
        rows.interaction["item_id"] = torch.full((5,), item)
        rows = part.join(rows)
        with torch.no_grad():
            return model.predict(rows)

    before = scores()
    for part in (dataset, test_data._dataset):
        column = part.item_feat["brand"].clone()
        column[item] = column[item] % 3 + 1
        part.item_feat.interaction["brand"] = column
    assert torch.equal(before, scores()) != tags_of(name).ranks_new_items


class TestOwnModels:
    def test_a_model_states_what_it_can(self, clean_registry: None) -> None:
        class Staged(StagedTrainer):
            stage_names = ("first", "second")

        @register(trainer=Staged, properties={})
        class Own(MultimodalRecommender):
            input_type = InputType.POINTWISE
            ranks_new_items = False
            uses = ("item", "review")
            min_modalities = 2
            accepts_patches = True
            has_contrastive_term = True

        expected = Tags(False, False, False, "pointwise", ("item", "review"), 2, True, ("first", "second"), True)
        assert tags_of("Own") == tags_of(Own) == expected
        assert expected.why_no_new_items("Own") == (
            "Own cannot rank new items: its features never reach the score of an item, only its ID does"
        )

    def test_a_model_that_states_nothing_is_known_by_its_bases(self, clean_registry: None) -> None:
        class Closer(DIN):
            pass

        class Nearer(BPR):
            pass

        class Untrained(BPR):
            type = ModelType.TRADITIONAL

        register(Closer, properties={})
        register(Nearer, properties={})
        register(Untrained, trainer=Trainer, properties={})
        assert tags_of("Closer") == tags_of("DIN")
        assert tags_of("Nearer") == tags_of("BPR")
        assert tags_of("Untrained").loss is None

    def test_fewer_modalities_than_a_model_needs(self, clean_registry: None) -> None:
        @register(properties={})
        class Pair(MultimodalRecommender):
            min_modalities = 2

        image, text = np.eye(2, dtype=np.float32), np.ones((2, 3), dtype=np.float32)
        with pytest.raises(ValueError, match="Pair needs 2 item modalities at least, got image for dataset"):
            tiny_model("Pair", [(0, 0), (0, 1)], {"image": image})
        assert len(tiny_model("Pair", [(0, 0), (0, 1)], {"image": image, "text": text}).features) == 2


def test_reasons() -> None:
    assert tags_of("BPR").why_no_new_items("BPR") == "BPR cannot rank new items: it has no features"
    assert tags_of("MMGCN").why_no_new_items("MMGCN") is None
    assert tags_of("BM3").why_no_new_items("BM3") == (
        "BM3 cannot rank new items: its features never reach the score of an item, only its ID does, unless "
        "cold_items: content or new_item_neighbours: 5 is set"
    )
    assert tags_of("SASRec").why_no_new_users("SASRec") is None
    assert "LightGCN does not know new users" in tags_of("LightGCN").why_no_new_users("LightGCN")


def test_an_unknown_name() -> None:
    with pytest.raises(ValueError, match="no model named 'MMGNC'"):
        tags_of("MMGNC")
