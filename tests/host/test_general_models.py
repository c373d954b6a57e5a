"""Models of RecBole on small data, and a file that one of them would unpickle."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.model.general_recommender import dgcf, ldiffrec
from recbole.model.knowledge_aware_recommender import KGIN

import recbole_mm
from tests.data.support import random_pairs, write_inter
from tests.model.conftest import build
from tests.options import QUICK


class Planted:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_dgcf_draws_no_more_than_there_are() -> None:
    """RecBole asks for as many users as items, and has none for both where all rows are one batch."""
    drawn = dgcf.sample_cor_samples(3, 5, 5)
    assert [sorted(part) for part in drawn] == [[0, 1, 2], [0, 1, 2, 3, 4]]
    random.seed(1)
    few = dgcf.sample_cor_samples(30, 50, 4)
    random.seed(1)
    assert few == (random.sample(list(range(30)), 4), random.sample(list(range(50)), 4))


@pytest.mark.parametrize("options", [{}, {"train_neg_sample_args": None, "train_batch_size": 7}])
def test_pop_counts_every_interaction_and_no_negative(options: dict[str, Any]) -> None:
    """RecBole counts an item once a batch, and drawn negatives, too."""
    built = build("Pop", **options)
    for batch in built.train_data:
        built.model.calculate_loss(batch)
    items = built.train_data._dataset.inter_feat["item_id"]
    assert torch.equal(built.model.item_cnt.flatten(), torch.bincount(items, minlength=built.model.n_items))
    assert built.model.max_cnt == torch.bincount(items).max() > 1


def test_what_kgin_keeps_of_an_evaluation_goes_with_its_parameters() -> None:
    """RecBole would test the best epoch with the representations of the last validation."""
    model = KGIN.__new__(KGIN)
    torch.nn.Module.__init__(model)
    model.restore_user_e = model.restore_entity_e = torch.ones(2, 2)
    model.load_other_parameter(model.other_parameter())
    assert model.restore_user_e is None and model.restore_entity_e is None


def train(**options: Any) -> Any:
    made = {**QUICK, "epochs": 1, "data_path": ".", "n_cate": 2, "in_dims": [8], "dims_dnn": [8], **options}
    return recbole_mm.run("LDiffRec", "tiny", config_dict=made)


@pytest.mark.parametrize("content", ["pickle", "objects", "one column", "none"])
def test_item_embeddings_are_never_unpickled(content: str, tmp_path: Path) -> None:
    write_inter(tmp_path / "tiny", "tiny", random_pairs())
    file, words = tmp_path / "tiny" / "item_emb.npy", "cannot be read as a plain array"
    if content == "pickle":
        file.write_bytes(pickle.dumps(Planted()))
    elif content == "objects":
        np.save(file, np.array([Planted()], dtype=object))
    elif content == "one column":
        np.save(file, np.ones(3))
        words = r"expected numbers of shape \(items, width\), got float64 \(3,\)"
    else:
        words = "there is no file"
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        train()
    assert not (tmp_path / "ran").exists()


def test_plain_item_embeddings_are_read(tmp_path: Path) -> None:
    """By what the module has as ``np``: what sorts the items into categories is a package that is not required."""
    matrix = np.random.default_rng(0).normal(size=(7, 4))
    np.save(tmp_path / "item_emb.npy", matrix)
    assert np.array_equal(ldiffrec.np.load("item_emb.npy", allow_pickle=True), matrix)
    assert ldiffrec.np.array is np.array
