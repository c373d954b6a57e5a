"""Models with a graph of items never hold a matrix of items x items: not when built, in a step, nor when they rank."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils import ModelType, get_model, init_seed

from recbole_mm.nn.graph import knn
from tests.model.conftest import total_loss
from tests.model.largest import LargestTensor
from tests.model.tiny import tiny_dataset

N_USERS, N_ITEMS = 12, 300
CASES = [
    ("FREEDOM", {}), ("MGCN", {}), ("LATTICE", {}), ("LATTICE", {"edge_gradient": "every_step"}), ("DRAGON", {}),
    ("SMORE", {}), ("HCGCN", {}), ("ItemKNNCBF", {}), ("ItemKNNCBF", {"neighbours_of": "history"}),
    ("ItemKNNCBF", {"knn_k": None}),
]  # fmt: skip


@pytest.fixture(scope="module")
def world():
    generator = np.random.default_rng(0)
    pairs = [(user, int(item)) for user in range(N_USERS) for item in generator.choice(N_ITEMS, 20, replace=False)]
    return pairs, {"image": generator.normal(size=(N_ITEMS, 6)), "text": generator.normal(size=(N_ITEMS, 4))}


@pytest.mark.parametrize("name, options", CASES, ids=str)
def test_no_matrix_of_items_by_items(name, options, world, monkeypatch):
    monkeypatch.setattr(knn, "BLOCK", 2**12)  # similarities at once, which are more than all of them otherwise
    # Few neighbours and narrow vectors, so that no edge list comes near the square of the number of items.
    narrow = {"knn_k": 4} if name == "ItemKNNCBF" else {"knn_k": 4, "embedding_size": 4}
    config, dataset = tiny_dataset(name, *world, **{**narrow, **options})
    init_seed(config["seed"], True)
    with LargestTensor() as largest:
        model = get_model(name)(config, dataset)
        user = torch.arange(1, 9)
        batch = Interaction({"user_id": user, "item_id": user, "neg_item_id": user + 8})
        if model.type != ModelType.TRADITIONAL:
            total_loss(model.train(), batch).backward()
        with torch.no_grad():
            model.eval().full_sort_predict(batch[:4])
    assert largest.stored < N_ITEMS**2 // 4, f"a tensor of {largest.stored:,} numbers"


def test_the_measure_sees_such_a_matrix():
    with LargestTensor() as largest:
        torch.zeros(N_ITEMS, 3) @ torch.zeros(3, N_ITEMS)
    assert largest.stored >= N_ITEMS**2
