"""MGCN: the numbers of the toy world, plain loops in float64, and its invariants."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.model.conftest import build, total_loss
from tests.model.tiny import assert_same_function, tiny_model
from tests.model.toy_world import (
    ONE,
    SHEAR,
    SWAP,
    TRIPLES,
    assert_golden,
    batch_of,
    both_row_sums,
    hop,
    loop_bpr,
    loop_contrast,
    loop_edges,
    loop_half_squares,
    loop_lightgcn,
    neighbours,
    padded,
    put,
    put_linear,
    put_projections,
    random_world,
    scores,
    toy,
)

GATES = {"audio": SHEAR, "image": ONE, "text": SWAP}
PREFERENCES = {"audio": ONE, "image": SWAP, "text": SHEAR}


SCORES = {
    "A": [
        [1.24316231, 1.11306428, 0.93952568, 0.42662620],
        [1.68937745, 1.54421759, 1.00869376, 0.49609943],
        [0.76619751, 0.74379576, 0.08944198, 0.11014025],
    ],
    "A-sum": [
        [2.36036329, 2.03032635, 1.82499515, 1.13114301],
        [2.84397262, 2.52345852, 1.97414363, 1.32289270],
        [1.40224629, 1.35808328, 0.64159116, 0.59321000],
    ],
    "B": [
        [1.16059172, 1.05031128, 0.86416592, 0.37456993],
        [1.60327270, 1.46873486, 0.91383188, 0.42365820],
        [0.75419732, 0.71608552, 0.03406059, 0.06669587],
    ],
    "B-sum": [
        [2.45839844, 2.18834543, 1.82012403, 1.25548078],
        [2.89252234, 2.64245578, 1.91084226, 1.41977930],
        [1.50483558, 1.48723571, 0.61062733, 0.64321564],
    ],
}


def golden_model(case, **options):
    model = toy("MGCN", case, reg_weight=0.1, contrastive_weight=0.01, **options)
    put_projections(model)
    # Case A of the specification names the gates of the sorted modalities as B does: image 1, text swap.
    for modality in model.features:
        put_linear(model.gate[modality], GATES[modality], [0.0, 0.0])
        put_linear(model.preference_gate[modality], PREFERENCES[modality], [0.0, -0.5])
    put_linear(model.query[0], SHEAR, [0.0, 0.0])
    put(model.query[2].weight, [[1.0, -1.0]])
    return model


@pytest.mark.parametrize(
    "case, options, expected, losses",
    [
        ("A", {}, "A", [0.54955380, 0.18554802, 0.01776223]),
        (
            "A",
            {"distinct_ids": False},
            "A",
            [0.54955380, 0.18554802, 0.02666728],
        ),
        (
            "A",
            {"fusion": "sum"},
            "A-sum",
            [0.52201947, 0.33240305, 0.01771333],
        ),
        ("B", {}, "B", [0.55191344, 0.17571014, 0.01596771]),
        (
            "B",
            {"distinct_ids": False},
            "B",
            [0.55191344, 0.17571014, 0.02543566],
        ),
        (
            "B",
            {"fusion": "sum"},
            "B-sum",
            [0.51482368, 0.34662204, 0.01631883],
        ),
    ],
    ids=["A", "A-repeated", "A-sum", "B", "B-repeated", "B-sum"],
)
def test_golden_numbers(case, options, expected, losses):
    model = golden_model(case, **options)
    assert_golden(scores(model), SCORES[expected])
    assert_golden(torch.stack(model.train().calculate_loss(batch_of(TRIPLES))), losses)


def test_golden_side_information():
    model = golden_model("A")
    users, items = model._views()
    assert_golden(model._side(*users, model.user_observed)[1], [0.18396755, 0.09639780])
    assert_golden(model._side(*items, model.item_observed)[4], [0.12835284, 0.12364090])
    model = golden_model("B")
    _, items = model._views()
    assert_golden(model._side(*items, model.item_observed)[3], [0.19000138, -0.01450185])


def reference(model, k, layers_item, fusion):
    """Behaviour and side information of users and items, a node at a time."""
    near, names = neighbours(model), list(model.features)
    observed = [[bool(model.features.observed[m][i]) for m in names] for i in range(model.n_items)]
    has = [[any(observed[i][x] for i in items) for x in range(len(names))] for items in near[0]]
    behaviour = loop_lightgcn(near, model.user_embedding, model.item_embedding, model.n_layers)
    views = ([], [])
    for m in names:
        x = model.project[m](model.features[m])
        z = model.item_embedding * torch.sigmoid(model.gate[m](x)) * model.features.observed[m].double()[:, None]
        graph = both_row_sums(loop_edges(model.features[m], model.features.observed[m], k, True))
        for _ in range(layers_item):
            z = graph @ z
        views[0].append(hop(near, torch.zeros_like(model.user_embedding), z, "sym")[0])
        views[1].append(z)
    sides = []
    for c, z, present in zip(behaviour, views, (has, observed)):
        rows = []
        for node in range(len(c)):
            there = [x for x in range(len(names)) if present[node][x]]
            if not there:
                rows.append(torch.zeros_like(c[node]))
                continue
            weight = [model.features.weight[names[x]] for x in there]
            logits = [model.query(z[x][node]).squeeze() + np.log(w) for x, w in zip(there, weight)]
            a = torch.stack(logits).softmax(dim=0)
            s = sum(share * z[x][node] for share, x in zip(a, there))
            own = sum(
                w * torch.sigmoid(model.preference_gate[names[x]](c[node])) * (z[x][node] - s)
                for w, x in zip(weight, there)
            )
            rows.append((s + own) / (1 + sum(weight)) if fusion == "mean" else s + own / sum(weight))
        sides.append(torch.stack(rows))
    return behaviour, sides


@pytest.mark.parametrize("by_length", [True, False])
@pytest.mark.parametrize("n_modalities, fusion", [(1, "mean"), (2, "sum"), (3, "mean"), (4, "sum")])
def test_scores_losses_and_gradients_equal_plain_loops(n_modalities, fusion, by_length):
    pairs, features = random_world(n_modalities, n_modalities)
    options = {"embedding_size": 3, "knn_k": 3, "n_item_layers": 2, "modality_weight": {"audio": 2.0}, "fusion": fusion}
    weights = {"reg_weight": 0.3, "contrastive_weight": 0.7, "contrast_by_length": by_length}
    model = tiny_model("MGCN", pairs, features, **options, **weights).double()
    (c_users, c_items), (v_users, v_items) = reference(model, 3, 2, fusion)
    users, items = c_users + v_users, c_items + v_items
    assert_same_function(torch.cat(model()), torch.cat([users, items]), model)
    triples = [(0, pairs[0][1], 8), (2, 3, 4), (5, 1, 2), (5, 2, 3), (0, 1, 5)]
    ids = padded(triples)
    near = loop_contrast(v_items, c_items, [p for _, p, _ in ids], 0.2, True)
    near = near + loop_contrast(v_users, c_users, [u for u, _, _ in ids], 0.2, True)
    lengths = [
        sum(x.norm().item() for x in rows) / len(ids)
        for rows in ([users[u] for u, _, _ in ids], [items[p] for _, p, _ in ids])
    ]
    near = near * (min(1.0, lengths[0] * lengths[1]) if by_length else 1.0)
    expected = torch.stack([loop_bpr(users, items, ids), 0.3 * loop_half_squares(users, items, ids), 0.7 * near])
    assert_same_function(torch.stack(model.train().calculate_loss(batch_of(triples))), expected, model)


def test_a_batch_with_every_pair_doubled_has_the_same_contrast():
    model = golden_model("B").train()
    once, twice = (model.calculate_loss(batch_of(n * TRIPLES))[2] for n in (1, 2))
    torch.testing.assert_close(once, twice)
    model.distinct_ids = False
    assert model.calculate_loss(batch_of(2 * TRIPLES))[2] > 1.1 * once


@pytest.mark.parametrize("fusion, scale", [("mean", 0.5), ("sum", 1.0)])
def test_one_modality_has_no_part_of_its_own(fusion, scale):
    pairs, features = random_world(0, 1)
    model = tiny_model("MGCN", pairs, features, embedding_size=3, fusion=fusion).double()
    for behaviour, views, observed in zip(*zip(*model._views()), (model.user_observed, model.item_observed)):
        expected = scale * views * observed
        torch.testing.assert_close(model._side(behaviour, views, observed), expected)


def test_equal_modalities_have_no_parts_of_their_own():
    pairs, features = random_world(0, 1)
    twice = {"image": features["audio"], "text": features["audio"]}
    model = tiny_model("MGCN", pairs, twice, embedding_size=3, fusion="sum").double()
    for part in (model.project, model.gate):
        part["text"].load_state_dict(part["image"].state_dict())
    _, (behaviour, views) = model._views()
    side = model._side(behaviour, views, model.item_observed)
    torch.testing.assert_close(side, views[:, :3])


def test_users_without_items_have_no_side_information():
    pairs, features = random_world(1, 2)
    model = tiny_model("MGCN", pairs[:1] + pairs[2:], features, embedding_size=3)
    (behaviour, views), _ = model._views()
    side = model._side(behaviour, views, model.user_observed)
    assert not side[2].any() and not side[0].any() and side[3].any()


def test_number_of_parameters():
    model, d = golden_model("B"), 2
    expected = (4 + 5) * d + 3 * (2 * d + d) + 2 * 3 * (d * d + d) + d * d + d + d
    assert sum(p.numel() for p in model.parameters()) == expected


def test_no_weight_drops_the_contrast_and_every_option_changes_the_loss():
    def loss(**options):
        built = build("MGCN", contrastive_weight=0.1, reg_weight=0.1, **options)
        return total_loss(built.model.train(), built.batch(60)).item()

    plain = loss()
    for options in (
        {"n_layers": 1},
        {"n_item_layers": 2},
        {"knn_k": 3},
        {"fusion": "sum"},
        {"distinct_ids": False},
        {"contrastive_temperature": 0.5},
    ):
        assert loss(**options) != plain, options
    built = build("MGCN", contrastive_weight=0.0)
    assert len(built.model.train().calculate_loss(built.batch(20))) == 2
