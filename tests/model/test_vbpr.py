"""VBPR: the numbers of the toy world, plain loops in float64, and its invariants."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.model.conftest import build, total_loss
from tests.model.tiny import assert_same_function, tiny_model
from tests.model.toy_world import (
    MAPS,
    TRIPLES,
    assert_golden,
    batch_of,
    loop_bpr,
    padded,
    put,
    random_world,
    scores,
    toy,
)

REFERENCE = {"item_bias": False, "content_bias": False, "penalty": "norm"}


def golden_model(case, **options):
    model = toy("VBPR", case, content_size=2, reg_weight=0.1, **options)
    put(model.user_content, [[3.0, 3.0], [0.5, -1.0], [1.0, 0.25], [0.0, 1.0]])
    for modality in model.features:
        put(model.project[modality], MAPS[modality])
        if modality in model.content_bias:
            put(model.content_bias[modality], [0.2, -0.1])
    if model.item_bias is not None:
        put(model.item_bias, [9.0, 0.1, -0.2, 0.3, 0.0])
    return model


A = [[1.8, -1.8, 1.6, 0.5], [5.55, 4.95, -0.65, 3.0], [1.3, 4.2, -1.9, 1.5]]
B = [[2.55, -2.05, 1.8, 0.15], [9.05, 6.45, -0.2, 4.4], [2.55, 5.45, -1.95, 2.65]]
PORT_A = [[1.5, -2.0, 1.5, 0.0], [5.25, 4.75, -0.75, 2.5], [1.0, 4.0, -2.0, 1.0]]
PORT_B = [[2.0, -2.5, 1.75, -0.5], [8.5, 6.0, -0.25, 3.75], [2.0, 5.0, -2.0, 2.0]]


@pytest.mark.parametrize(
    "case, options, expected, losses",
    [
        ("A", {}, A, [1.92670785, 0.41131250]),
        ("A", REFERENCE, PORT_A, [1.77054839, 0.41906704]),
        ("B", {}, B, [2.49340017, 0.41131250]),
        ("B", REFERENCE, PORT_B, [2.32497677, 0.58325715]),
    ],
    ids=["A", "A-port", "B", "B-port"],
)
def test_golden_numbers(case, options, expected, losses):
    model = golden_model(case, **options)
    assert_golden(scores(model), expected)
    assert_golden(torch.stack(model.train().calculate_loss(batch_of(TRIPLES))), losses)


@pytest.mark.parametrize("options", [{}, REFERENCE, {"content_bias": False}, {"item_bias": False}], ids=str)
@pytest.mark.parametrize("n_modalities", [1, 3])
def test_losses_and_gradients_equal_plain_loops(n_modalities, options):
    pairs, features = random_world(n_modalities, n_modalities)
    sizes = {"embedding_size": 3, "content_size": 2, "reg_weight": 0.3, "modality_weight": {"audio": 3.0}}
    model = tiny_model("VBPR", pairs, features, **sizes, **options).double()
    for parameter in (*model.content_bias.values(), *filter(lambda p: p is not None, [model.item_bias])):
        put(parameter, torch.linspace(-1, 1, len(parameter)))
    users, items = [], []
    for user in range(model.n_users):
        users.append(torch.cat([model.user_embedding[user], model.user_content[user], torch.ones(1).double()]))
    for item in range(model.n_items):
        content = bias = 0.0
        for modality in model.features:
            f, w = model.features[modality][item], model.features.weight[modality]
            content = content + w * sum(f[k] * model.project[modality][k] for k in range(len(f)))
            if model.content_bias:
                bias = bias + w * (f @ model.content_bias[modality])
        bias = bias + (model.item_bias[item] if model.item_bias is not None else 0.0 * content[0])
        items.append(torch.cat([model.item_embedding[item], content, bias.view(1)]))
    users, items = torch.stack(users), torch.stack(items)
    assert_same_function(torch.cat(model()), torch.cat([users, items]), model)

    triples = [(0, pairs[0][1], 8), (2, 3, 4), (5, 1, 2), (5, 2, 3), (0, 0, 5)]
    ids = padded(triples)
    if model.penalty == "norm":
        picked = [torch.stack([t[x][:-1] for x in c]) for t, c in zip((users, items, items), zip(*ids))]
        penalty = sum(p.square().sum().sqrt() for p in picked) / len(ids)
    else:
        squares = [users[u][:-1].square().sum() for u, _, _ in ids]
        squares += [items[i][:3].square().sum() for _, *both in ids for i in both]
        if model.item_bias is not None:
            squares += [model.item_bias[i] ** 2 for _, *both in ids for i in both]
        penalty = sum(squares) / (2 * len(ids))
    expected = torch.stack([loop_bpr(users, items, ids), 0.3 * penalty])
    assert_same_function(torch.stack(model.train().calculate_loss(batch_of(triples))), expected, model)


def test_numbers_of_parameters():
    def count(model):
        return sum(p.numel() for p in model.parameters())

    u, i = 4, 5
    assert count(golden_model("A")) == u * (2 + 2) + i * 2 + i + 4 * (2 + 1)
    assert count(golden_model("A", **REFERENCE)) == u * (2 + 2) + i * 2 + 4 * 2


def test_a_constant_in_all_item_biases_changes_no_ranking_loss():
    model = golden_model("B")
    before = model.calculate_loss(batch_of(TRIPLES))[0]
    put(model.item_bias, model.item_bias.detach() + 5.0)
    torch.testing.assert_close(model.calculate_loss(batch_of(TRIPLES))[0], before)


def test_doubled_features_with_halved_maps_change_nothing():
    random = np.random.default_rng(0)
    feature, pairs = random.normal(size=(5, 3)).astype(np.float32), [(0, 0), (0, 1), (1, 2)]
    models = [
        tiny_model("VBPR", pairs, {"text": scale * feature}, feature_norm="none", embedding_size=2) for scale in (1, 2)
    ]
    models[1].load_state_dict(models[0].state_dict())
    for parameter in (models[1].project["text"], models[1].content_bias["text"]):
        put(parameter, parameter.detach() / 2)
    torch.testing.assert_close(scores(models[0]), scores(models[1]))


def test_without_content_and_biases_it_is_matrix_factorisation():
    model = toy("VBPR", "A", content_size=0, item_bias=False, content_bias=False, reg_weight=0.1)
    users, items = model.user_embedding, model.item_embedding
    torch.testing.assert_close(scores(model), (users[1:] @ items[1:].T).detach())
    expected = loop_bpr(users, items, padded(TRIPLES))
    torch.testing.assert_close(model.train().calculate_loss(batch_of(TRIPLES))[0], expected)
    assert {len(p.flatten()) for p in model.project.values()} == {0} and sum(
        p.numel() for p in model.parameters()
    ) == 18


@pytest.mark.parametrize("zero", [False, True])
def test_new_items_may_be_ranked_by_content_alone(zero):
    model = golden_model("A", zero_id_for_cold=zero)
    before = scores(model)
    put(model.item_embedding[4], [100.0, 100.0])
    put(model.item_bias[4], 50.0)
    after = scores(model)
    assert torch.equal(before[:, :3], after[:, :3])
    assert torch.equal(before[:, 3], after[:, 3]) == zero


def test_a_loss_may_be_asked_for_in_evaluation_mode():
    model = golden_model("A", zero_id_for_cold=True)
    losses = [model.train(mode).calculate_loss(batch_of(TRIPLES[:1]))[0] for mode in (True, False)]
    torch.testing.assert_close(losses[0], losses[1])


def test_the_features_are_scaled_unless_said_otherwise():
    lengths = build("VBPR").model.features["image"][1:].norm(dim=1)
    assert lengths.max() <= 1 + 1e-6


def test_every_option_changes_the_loss():
    def loss(**options):
        built = build("VBPR", reg_weight=0.1, **options)
        torch.manual_seed(0)
        for parameter in (
            *built.model.content_bias.values(),
            *filter(lambda p: p is not None, [built.model.item_bias]),
        ):
            torch.nn.init.normal_(parameter)
        return total_loss(built.model.train(), built.batch(40)).item()

    plain = loss()
    for options in ({"content_size": 8}, {"item_bias": False}, {"content_bias": False}, {"penalty": "norm"}):
        assert loss(**options) != plain, options
