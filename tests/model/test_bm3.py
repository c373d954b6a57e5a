"""BM3: golden numbers, a plain reference, what must not get a gradient, and new items."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from recbole_mm.model.bm3 import BM3
from tests.model.conftest import build, total_loss
from tests.model.tiny import assert_same_function, tiny_dataset, tiny_model
from tests.model.toy import SHEAR, assert_golden, dense_graph, dense_hops, put_map, scores, toy_batch, toy_model
from tests.model.toy_world import random_batch, random_world


def golden_model(case, **options):
    options = {"score": "predicted"} | options
    model = toy_model("BM3", case, n_layers=1, dropout=0.0, reg_weight=0.1, contrastive_weight=2.0, **options)
    put_map(model.predictor, SHEAR, (0.5, 0.0))
    return model


@pytest.mark.parametrize("case, alignment", [("A", 1.18986066), ("B", 1.83345163)])
def test_golden_numbers(case, alignment):
    model = golden_model(case)
    assert_golden(torch.stack(model.train().calculate_loss(toy_batch(False))), [0.35114546, 0.15777667, alignment])
    expected = [
        [6.43305826, 3.75, 7.13388348, 4.375],
        [7.50076208, 4.51332521, 7.76408730, 4.81954365],
        [2.96859217, 1.85615530, 2.79809704, 1.76776695],
    ]
    assert_golden(scores(model), expected)


def test_golden_numbers_with_masked_targets():
    model, batch = golden_model("A"), toy_batch(False)
    masks = [[[2.0, 0.0], [2.0, 2.0], [0.0, 2.0]], [[0.0, 2.0], [2.0, 2.0], [2.0, 0.0], [2.0, 2.0]]]
    rows = iter(
        torch.tensor(mask, dtype=torch.float64)[batch[key] - 1] for mask, key in zip(masks, ("user_id", "item_id"))
    )
    model._target = lambda states: states.detach() * next(rows, 1.0)
    losses = model.train().calculate_loss(batch)
    assert_golden(torch.stack([losses[0], losses[2]]), [0.58279847, 1.33225834])


def cosine(left, right):
    return (left @ right) / (left.norm().clamp(min=1e-8) * right.norm().clamp(min=1e-8))


def plain_loss(model, batch):
    """One pair at a time, the graph dense."""
    states = dense_hops(dense_graph(model), model.user_embedding, model.item_embedding, model.n_layers)
    users, items = (sum(states) / len(states)).split([model.n_users, model.n_items])
    items = items + model.item_embedding
    pairs = list(zip(batch["user_id"].tolist(), batch["item_id"].tolist()))
    total = 0
    for u, i in pairs:
        total = total + 2 - cosine(model.predictor(users[u]), items[i].detach())
        total = total - cosine(model.predictor(items[i]), users[u].detach())
    total = total / len(pairs)
    for modality, feature in model.features.items():
        liked = [i for _, i in pairs if model.features.observed[modality][i]]
        part = 0
        for i in liked:
            x = model.project[modality](feature[i])
            part = part + 2 - cosine(model.predictor(x), items[i].detach()) - cosine(model.predictor(x), x.detach())
        total = total + model.contrastive_weight * model.features.weight[modality] * part / len(liked)
    return total + model.reg_weight * (users[1:].norm() + items[1:].norm()) / (model.n_items - 1)


@pytest.mark.parametrize("case", ["A", "B"])
def test_aligned_scores_pair_each_side_with_the_prediction_of_the_other(case):
    model = golden_model(case, score="aligned")
    users, items = (side[1:].detach() for side in model._encode())
    expected = [[u @ model.predictor(i) + model.predictor(u) @ i for i in items] for u in users]
    torch.testing.assert_close(scores(model), torch.tensor(expected, dtype=torch.float64))


def test_a_checkpoint_of_before_keeps_its_score():
    config, dataset = tiny_dataset("BM3", *random_world(2, 2), None)
    assert BM3(config, dataset).score == "aligned"
    del config.final_config_dict["score"]
    assert BM3(config, dataset).score == "predicted"


@pytest.mark.parametrize("n_layers", [0, 2])
def test_loss_and_gradients_equal_the_plain_reference(n_layers):
    model = toy_model("BM3", "B", n_layers=n_layers, embedding_size=2, dropout=0.0).train()
    assert_same_function(total_loss(model, toy_batch(False)), plain_loss(model, toy_batch(False)), model)


@pytest.mark.parametrize("n_modalities", [1, 2, 3, 4])
def test_loss_and_gradients_equal_the_plain_reference_in_random_worlds(n_modalities):
    pairs, features = random_world(n_modalities, n_modalities)
    options = {"embedding_size": 3, "n_layers": 2, "dropout": 0.0, "modality_weight": {"audio": 2.0}}
    model = tiny_model("BM3", pairs, features, **options).double().train()
    batch = random_batch(pairs)
    assert_same_function(total_loss(model, batch), plain_loss(model, batch), model)


def test_parameters_are_those_of_the_paper():
    model = build("BM3", embedding_size=8).model
    widths = model.features.dims.values()
    assert (
        sum(p.numel() for p in model.parameters())
        == (model.n_users + model.n_items) * 8 + sum(width * 8 + 8 for width in widths) + 8 * 8 + 8
    )


def test_targets_get_no_gradient_and_are_dropped_out_in_training_only():
    model = build("BM3").model.train()
    states = torch.ones(50, 64, requires_grad=True)
    target = model._target(states)
    assert not target.requires_grad and 0.3 < target.eq(0).float().mean() < 0.7
    assert torch.equal(model.eval()._target(states), states)


def test_the_predictor_is_there_and_trained():
    """Prediction and the stop of gradients are all that keeps the vectors from collapsing."""
    built = build("BM3")
    total_loss(built.model.train(), built.batch(50)).backward()
    assert built.model.predictor.weight.grad.abs().sum() > 0


def test_penalty_is_that_of_all_users_and_items():
    built = build("BM3", dropout=0.0)
    whole, few = (built.model.train().calculate_loss(built.batch(size))[1] for size in (100, 3))
    assert torch.equal(whole, few) and whole > 0


def test_batches_have_no_negatives():
    assert "neg_item_id" not in build("BM3").batch(5).interaction


def test_features_reach_the_loss_and_not_the_ranking():
    plain, without = build("BM3"), build("BM3", contrastive_weight=0.0)
    assert torch.equal(scores(plain.model), scores(without.model))
    without.model.train()
    loss = without.model.calculate_loss(without.batch(20))
    assert len(loss) == 2
    sum(loss).backward()
    assert all(p.grad is None for p in without.model.project.parameters())


def test_new_items_are_ranked_at_random_and_it_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        golden_model("B")
    assert "1 items without training interactions" in caplog.text and "cold_items: content" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        content = golden_model("B", cold_items="content")
    assert "without training" not in caplog.text
    assert content.ranks_new_items_with == "cold_items: content or new_item_neighbours: 5"


@pytest.mark.parametrize("score", ["predicted", "aligned"])
def test_new_items_are_ranked_by_their_predicted_content(score):
    content = golden_model("B", score=score, cold_items="content")
    left, right = scores(golden_model("B", score=score)), scores(content)
    assert torch.equal(left[:, :3], right[:, :3])
    x = sum(w * content.project[m](content.features[m][4]) for m, w in content.features.weight.items()) / 3
    users = content._encode()[0][1:]
    users = content.predictor(users) + (users if score == "aligned" else 0)
    torch.testing.assert_close(right[:, 3], (users @ content.predictor(x)).detach())


def test_a_new_item_without_any_modality_keeps_its_id():
    model = golden_model("A", cold_items="content")
    before = scores(golden_model("A"))
    for observed in model.features.observed.values():
        observed.zero_()
    assert torch.equal(scores(model), before)
    assert np.isfinite(total_loss(model.train(), toy_batch(False)).item())
