"""DRAGON: golden numbers and a plain reference with loops over users, items and peers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.model.conftest import build, total_loss
from tests.model.tiny import assert_same_function, tiny_model
from tests.model.toy import (
    MAPS,
    SHEAR,
    USERS,
    assert_golden,
    dense_graph,
    dense_hops,
    put,
    put_map,
    scores,
    toy_batch,
    toy_model,
)
from tests.model.toy_world import random_batch, random_world

ALPHA = np.array([[0.6, 0.4, 0.2], [0.3, 0.7, 0.5], [0.5, 0.5, 0.5]])
SCORES = {
    "A": [
        [24.85540973, 23.33756956, 23.39297282, 14.24690973],
        [27.84380134, 26.18193795, 26.25780934, 15.98168045],
        [21.86701813, 20.49320116, 20.52813629, 12.51213901],
    ],
    "B": [
        [31.70124892, 31.06741590, 29.03559117, 18.34466281],
        [38.38424752, 37.82144812, 35.95207629, 22.22352435],
        [25.01825033, 24.31338369, 22.11910606, 14.46580127],
    ],
}
LOSSES = {"A": [0.73727306, 0.92666667], "B": [0.38984269, 2.29877778]}


def golden_model(case, **options):
    """Perceptrons of width 2: the spare hidden units are 0."""
    model = toy_model("DRAGON", case, **{"knn_k": 2, "reg_weight": 0.1, **options})
    for x, modality in enumerate(model.features):
        put(model.preference[modality], (x + 1) * USERS + 0.5)
        first, _, second = model.project[modality]
        weight, bias = MAPS[modality]
        put_map(first, np.hstack([weight, np.zeros((2, 6))]), [*bias, *[0.0] * 6])
        put_map(second, np.vstack([SHEAR, np.zeros((6, 2))]), (0.0, -0.25))
    put(model.alpha, ALPHA[:, : len(model.features)])
    return model


@pytest.mark.parametrize("case", SCORES)
def test_golden_numbers(case):
    model = golden_model(case)
    assert_golden(scores(model), SCORES[case])
    assert_golden(torch.stack(model.train().calculate_loss(toy_batch())), LOSSES[case])


def plain_item_graph(model, k, image_share):
    """Mean over the k nearest items per modality, mixed; only what is observed has or is a neighbour."""
    n, names = model.n_items, list(model.features)
    image_share = image_share if "image" in names and len(names) > 1 else None
    base = {m: 1.0 if image_share is None else image_share if m == "image" else 1 - image_share for m in names}
    if image_share is not None:
        base = {m: b if m == "image" else b / (len(names) - 1) for m, b in base.items()}
    graphs, observed = {}, model.features.observed
    for modality, feature in model.features.items():
        lists = {}
        for i in range(n):
            others = [j for j in range(n) if observed[modality][j]] if observed[modality][i] else []
            cosines = {j: F.cosine_similarity(feature[i], feature[j], dim=0).item() for j in others}
            lists[i] = sorted(others, key=lambda j, i=i, c=cosines: (j != i, -round(c[j], 10), j))[:k]
        matrix = torch.zeros(n, n, dtype=torch.float64)
        for i, row in lists.items():
            for j in row:
                matrix[i, j] = (len(row) * len(lists[j])) ** -0.5
        graphs[modality] = matrix
    result = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        share = {m: base[m] * model.features.weight[m] * bool(observed[m][i]) for m in names}
        for m in names:
            if sum(share.values()):
                result[i] += share[m] / sum(share.values()) * graphs[m][i]
    return result


def plain(model, k, image_share, n_peers):
    matrix, users, items = dense_graph(model), [], []
    for x, modality in enumerate(model.features):
        hidden = F.leaky_relu(model.project[modality][0](model.features[modality]), 0.01)
        state = [model.preference[modality], model.project[modality][2](hidden)]
        hops = sum(dense_hops(matrix, *(F.normalize(s, dim=1) for s in state), model.n_layers))
        weight = model.features.weight[modality]
        users.append(weight * model.alpha[:, x : x + 1] * hops[: model.n_users])
        items.append(weight * hops[model.n_users :])
    q, z = torch.cat(users, dim=1), torch.cat(items, dim=1)
    pairs = list(zip(*(ids.tolist() for ids in model.training_pairs)))
    liked = [{i for u, i in pairs if u == user} for user in range(model.n_users)]
    rows = []
    for u in range(model.n_users):
        shared = {v: len(liked[u] & liked[v]) for v in range(model.n_users) if v != u and liked[u] & liked[v]}
        peers = sorted(shared, key=lambda v, s=shared: (-s[v], v))[:n_peers]
        beta = torch.tensor([float(shared[v]) for v in peers], dtype=torch.float64).softmax(dim=0)
        rows.append(q[u] + sum((b * q[v] for b, v in zip(beta, peers)), torch.zeros_like(q[u])))
    graph, spread = plain_item_graph(model, k, image_share), z
    for _ in range(model.n_item_layers):
        spread = graph @ spread
    return torch.stack(rows), z + spread


@pytest.mark.parametrize(
    "options",
    [{"knn_k": 3, "image_share": 0.3, "n_item_layers": 2}, {"knn_k": 1, "image_share": None, "user_knn_k": 1}],
    ids=str,
)
def test_loss_and_gradients_equal_the_plain_reference(options):
    model, batch = golden_model("B", **options).train(), toy_batch()
    tables = plain(model, options["knn_k"], options["image_share"], options.get("user_knn_k", 40))
    assert_same_function(total_loss(model, batch), plain_loss(model, *tables, batch), model)


def plain_loss(model, users, items, batch):
    user, positive, negative = (batch[key].tolist() for key in ("user_id", "item_id", "neg_item_id"))
    gaps = torch.stack([users[u] @ (items[n] - items[p]) for u, p, n in zip(user, positive, negative)])
    penalty = sum(model.preference[m][user].square().mean() for m in model.features)
    penalty = penalty + model.alpha[1:].square().mean()
    return F.softplus(gaps).mean() / math.log(2) + model.reg_weight * penalty


@pytest.mark.parametrize("n_modalities", [1, 2, 3, 4])
def test_loss_and_gradients_equal_the_plain_reference_in_random_worlds(n_modalities):
    pairs, features = random_world(n_modalities, n_modalities)
    options = {"embedding_size": 3, "knn_k": 3, "image_share": 0.3, "reg_weight": 0.3, "user_knn_k": 2}
    model = tiny_model("DRAGON", pairs, features, modality_weight={"audio": 2.0}, **options).double().train()
    batch = random_batch(pairs)
    assert_same_function(total_loss(model, batch), plain_loss(model, *plain(model, 3, 0.3, 2), batch), model)


def test_parameters_are_those_of_the_paper():
    model = build("DRAGON", embedding_size=8).model
    maps = sum(4 * width * 8 + 4 * 8 + 4 * 64 + 8 for width in model.features.dims.values())
    users = len(model.features) * model.n_users * (8 + 1)
    assert sum(p.numel() for p in model.parameters()) == users + maps


def test_fusion_weights_start_as_a_softmax():
    alpha = build("DRAGON").model.alpha
    torch.testing.assert_close(alpha.sum(dim=1), torch.ones(len(alpha)))


def test_the_batch_of_users_equals_the_rows_of_all():
    model = build("DRAGON").model.eval()
    user = torch.tensor([3, 1, 3])
    torch.testing.assert_close(model(user)[0], model()[0][user])


def test_contrast_is_optional():
    built = build("DRAGON", contrastive_weight=0.5)
    assert len(built.model.train().calculate_loss(built.batch(20))) == 3
    assert len(build("DRAGON").model.calculate_loss(built.batch(20))) == 2


def test_an_epoch_does_without_some_edges_and_an_evaluation_has_all():
    built = build("DRAGON", edge_dropout=0.75, train_batch_size=256)
    model, seen = built.model.train(), []
    assert model.clock.steps_per_epoch == len(built.train_data) > 1
    for _ in range(2):
        for interaction in built.train_data:
            total_loss(model, interaction)
            seen.append(model.pruned.to_user.col.tolist())
    n = model.clock.steps_per_epoch
    assert len(seen[0]) == math.floor(0.25 * model.graph.n_edges)
    assert all(edges == seen[0] for edges in seen[:n]) and all(edges == seen[n] for edges in seen[n:])
    assert seen[0] != seen[n]
    whole = build("DRAGON").model
    whole.load_state_dict({k: v for k, v in model.state_dict().items() if k != "clock.steps"})
    assert not torch.equal(model()[1], whole.train()()[1])
    torch.testing.assert_close(model.eval()()[1], whole.eval()()[1])
