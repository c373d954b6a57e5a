"""ItemKNNCBF: the numbers of the toy world, plain loops, invariants, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from tests.model.conftest import build
from tests.model.tiny import tiny_model
from tests.model.toy_world import assert_golden, random_world, scores, toy

GOLDEN = {
    ("A", "candidate"): [
        [0.75355339, 0.75355339, 1.02437378, 1.59237564],
        [0.75355339, 0, 0.57716019, 0.92155524],
        [0, 0.75355339, 0.44721360, 0.67082039],
    ],
    ("A", "history"): [
        [0.75355339, 0.75355339, 0, 1.59237564],
        [1.20076699, 0.57716019, 0, 0.92155524],
        [0, 0.75355339, 0, 0.67082039],
    ],
    ("A", "all"): [
        [0.75355339, 0.75355339, 1.02437378, 1.59237564],
        [1.20076699, 0.57716019, 0.57716019, 1.14516204],
        [0, 0.75355339, 0.44721360, 0.67082039],
    ],
    ("B", "candidate"): [
        [0.79381614, 0.79381614, 0.99304581, 1.55211288],
        [0.79381614, 0, 0.50314786, 0.88129249],
        [0, 0.79381614, 0.48989795, 0.67082039],
    ],
    ("B", "history"): [
        [0.79381614, 0.79381614, 0, 1.55211288],
        [1.28371409, 0.50314786, 0, 0.88129249],
        [0, 0.79381614, 0, 0.67082039],
    ],
    ("B", "all"): [
        [0.79381614, 0.79381614, 0.99304581, 1.55211288],
        [1.28371409, 0.50314786, 0.50314786, 1.04459181],
        [0, 0.79381614, 0.48989795, 0.67082039],
    ],
}


@pytest.mark.parametrize("case, of", GOLDEN, ids="-".join)
def test_golden_numbers(case, of):
    options = {"knn_k": None} if of == "all" else {"neighbours_of": of}
    tolerance = 1e-6 if of == "all" else 6e-9  # the inner products are those of float32 vectors
    assert_golden(scores(toy("ItemKNNCBF", case, **options)), GOLDEN[case, of], tolerance)


@pytest.mark.parametrize("n_modalities", [1, 2, 4])
@pytest.mark.parametrize("k, of", [(2, "candidate"), (3, "history"), (None, "candidate")])
def test_scores_equal_plain_loops(n_modalities, k, of):
    pairs, features = random_world(n_modalities, n_modalities)
    model = tiny_model(
        "ItemKNNCBF", pairs, features, knn_k=k, neighbours_of=of, modality_weight={"audio": 3.0}
    ).double()
    vectors = []
    for item in range(9):
        parts = []
        for m in model.features:
            row = features[m][item].astype(float)
            there = not np.isnan(row).any()
            parts.append(
                np.sqrt(model.features.weight[m]) * (row / np.linalg.norm(row) if there else 0 * np.zeros(len(row)))
            )
        vectors.append(np.concatenate(parts))
    length = [np.linalg.norm(v) for v in vectors]
    exists = [n > 0 for n in length]
    cosine = {
        (i, j): vectors[i] @ vectors[j] / (length[i] * length[j])
        for i in range(9)
        for j in range(9)
        if exists[i] and exists[j]
    }
    nearest = {}
    for i in range(9):
        others = [j for j in range(9) if j != i and (i, j) in cosine]
        nearest[i] = sorted(others, key=lambda j: (-round(cosine[i, j], 9), j))[: k or 9]
    expected = np.zeros((6, 9))
    for user, j in set(pairs):
        for i in range(9):
            if j in nearest[i] if of == "candidate" else i in nearest[j]:
                expected[user, i] += cosine[i, j]
    assert_golden(scores(model), expected.tolist(), 1e-6)


def test_enough_neighbours_are_all_of_them():
    pairs, features = random_world(2, 2)
    whole = scores(tiny_model("ItemKNNCBF", pairs, features, knn_k=None))
    for of in ("candidate", "history"):
        model = tiny_model("ItemKNNCBF", pairs, features, knn_k=8, neighbours_of=of)
        torch.testing.assert_close(scores(model), whole, rtol=0, atol=2e-6)


def test_the_length_of_a_row_does_not_matter():
    pairs, features = random_world(3, 2)
    scaled = {m: f * np.linspace(0.1, 9, 9, dtype=np.float32)[:, None] for m, f in features.items()}
    results = [scores(tiny_model("ItemKNNCBF", pairs, f, knn_k=3)) for f in (features, scaled)]
    torch.testing.assert_close(*results)


def test_a_user_with_one_item_ranks_by_similarity_and_one_without_scores_zero():
    features = {"text": np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)}
    result = scores(tiny_model("ItemKNNCBF", [(0, 2), (2, 1)], features, knn_k=None))
    unit = features["text"] / np.linalg.norm(features["text"], axis=1, keepdims=True)
    expected = torch.from_numpy(unit @ unit[2])
    expected[2] = 0.0
    torch.testing.assert_close(result[0], expected)
    assert not result[1].any()


def test_repeated_users_of_a_batch_score_alike():
    model = toy("ItemKNNCBF", "B")
    user, item = torch.tensor([1, 2, 1, 3]), torch.tensor([4, 3, 4, 1])
    table = model.full_sort_predict(Interaction({"user_id": user})).view(4, -1)
    assert torch.equal(model.predict(Interaction({"user_id": user, "item_id": item})), table[torch.arange(4), item])


@pytest.mark.parametrize("k", [3, None])
def test_wanted_items_score_as_among_all(k):
    pairs, features = random_world(3, 2)
    model = tiny_model("ItemKNNCBF", pairs, features, knn_k=k).double()
    users, wanted = Interaction({"user_id": torch.tensor([1, 4, 2, 4])}), torch.tensor([7, 1, 3])
    whole = model.full_sort_predict(users).view(4, -1)
    history = model.history.rows(users["user_id"])[0]
    assert torch.isin(history.col, wanted).any(), "the item itself has to be left out somewhere"
    torch.testing.assert_close(model.score_items(users, wanted), whole[:, wanted])


def test_a_contrastive_term_is_refused():
    with pytest.raises(ValueError, match="ItemKNNCBF trains nothing.*expected 0, got 0.1"):
        build("ItemKNNCBF", contrastive_weight=0.1)


def test_it_ranks_planted_new_items_above_chance():
    built = build("ItemKNNCBF", cold_start={"entity": "item"})
    new, areas = built.train_data._dataset.cold_start.items, []
    for interaction, _, user, item in built.test_data:
        table = built.model.full_sort_predict(interaction).view(len(interaction), -1)
        for row, positive in zip(user.tolist(), item.tolist()):
            others = table[row, torch.as_tensor(new)[torch.as_tensor(new) != positive]]
            areas.append(
                ((table[row, positive] > others).float() + 0.5 * (table[row, positive] == others)).mean().item()
            )
    assert np.mean(areas) > 0.55


def test_reference_neighbours_differ():
    assert not torch.equal(scores(toy("ItemKNNCBF", "A")), scores(toy("ItemKNNCBF", "A", neighbours_of="history")))
