"""FREEDOM: the numbers of the toy world, plain loops in float64, and which edges an epoch keeps."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch

from tests.model.conftest import build, total_loss, train_steps
from tests.model.tiny import assert_same_function, tiny_model
from tests.model.toy_world import (
    TRIPLES,
    assert_golden,
    batch_of,
    both_row_sums,
    loop_bpr,
    loop_edges,
    loop_lightgcn,
    loop_shares,
    neighbours,
    padded,
    put_projections,
    random_world,
    scores,
    toy,
)

GOLDEN = {
    "A": {
        "items": [[1.96429774, 0.95236893], [0.98570226, 1.29881554], [2.45, 0.08925565], [0.83333333, 0.5]],
        "graph": [[0.5, 0, 0.45, 0.05], [0, 0.5, 0, 0.5], [0.45, 0.05, 0.5, 0], [0, 0.5, 0, 0.5]],
        "scores": [
            [1.66645934, 1.34344336, 1.39974477, 0.76627185],
            [2.13502004, 1.97242665, 1.45707752, 1.01109708],
            [0.41299523, 0.81118877, -0.29312861, 0.24581229],
        ],
        "losses": [0.57171333, 0.13541670],
    },
    "B": {
        "items": [[1.73929774, 1.17736893], [0.98570226, 1.41131554], [2.43548387, 0.08925565], [0.94583333, 0.5]],
        "graph": [
            [0.5, 0.1125, 0.3375, 0.05],
            [0.1125, 0.5, 0, 0.3875],
            [0.43548387, 0.06451613, 0.5, 0],
            [0.1125, 0.3875, 0, 0.5],
        ],
        "scores": [
            [1.68199234, 1.41295161, 1.39177809, 0.82801359],
            [2.25717101, 2.09591014, 1.44902487, 1.07350509],
            [0.61147872, 0.89395528, -0.29100277, 0.22933705],
        ],
        "losses": [0.57532968, 0.26695450],
    },
}


@pytest.mark.parametrize("case", ["A", "B"])
def test_golden_numbers(case):
    model = toy("FREEDOM", case, feature_weight=0.1, edge_dropout=0.0)
    put_projections(model)
    dense = torch.zeros(5, 5, dtype=torch.float64)
    dense[model.item_graph.pattern.row, model.item_graph.pattern.col] = model.item_graph.values
    assert_golden(dense[1:, 1:], GOLDEN[case]["graph"])
    assert_golden(model.eval()()[1][1:], GOLDEN[case]["items"])
    assert_golden(scores(model), GOLDEN[case]["scores"])
    assert_golden(torch.stack(model.train().calculate_loss(batch_of(TRIPLES))), GOLDEN[case]["losses"])


def test_golden_numbers_of_a_pruned_graph():
    model = toy("FREEDOM", "A", edge_dropout=0.4)
    put_projections(model)
    keep = [(1, 1), (2, 2), (3, 1)]
    edges = zip(model.graph.to_user.row.tolist(), model.graph.to_user.col.tolist())
    model.pruned, model._pruned_in = model.graph.subgraph(torch.tensor([edge in keep for edge in edges])), 0
    users, _ = model.train()()
    assert_golden(users[1:], [[0.56903559, 0.40236893], [0, 1.66666667], [-0.09763107, 0.73570226]])
    assert_golden(model.calculate_loss(batch_of(TRIPLES))[0], 0.70526548)
    assert model.eval()()[0][2, 0] != 0, "the full graph in evaluation"


@pytest.mark.parametrize("n_modalities", [1, 2, 3, 4])
def test_scores_losses_and_gradients_equal_plain_loops(n_modalities):
    pairs, features = random_world(n_modalities, n_modalities)
    options = {"embedding_size": 3, "knn_k": 3, "feature_weight": 0.5, "image_share": 0.3, "contrastive_weight": 0.2}
    weight = {"modality_weight": {"audio": 2.0}}
    model = tiny_model("FREEDOM", pairs, features, edge_dropout=0.5, n_item_layers=2, **options, **weight).double()
    triples = [(0, pairs[0][1], 8), (2, 3, 4), (5, 1, 2), (5, 2, 3), (0, 0, 5)]
    losses = model.train().calculate_loss(batch_of(triples))
    kept = list(zip(model.pruned.to_user.row.tolist(), model.pruned.to_user.col.tolist()))
    assert len(kept) == math.floor(0.5 * model.graph.n_edges)

    names = list(model.features)
    base = [1.0] * len(names)
    if "image" in names and len(names) > 1:
        base = [0.3 if m == "image" else 0.7 / (len(names) - 1) for m in names]
    shares = loop_shares(base, model)
    graph = sum(
        shares[:, [x]] * both_row_sums(loop_edges(model.features[m], model.features.observed[m], 3, False))
        for x, m in enumerate(names)
    )
    users, items = loop_lightgcn(neighbours(model, kept), model.user_embedding, model.item_embedding, 2)
    items = items + graph @ graph @ model.item_embedding
    assert_same_function(torch.cat(model()), torch.cat([users, items]), model)
    ids, term = padded(triples), 0.0
    for m in names:
        observed, table = model.features.observed[m], model.project[m](model.features[m])
        rows = [(u, p, n) for u, p, n in ids if observed[p] and observed[n]]
        term = term + model.features.weight[m] * loop_bpr(users, table, rows)
    expected = torch.stack([loop_bpr(users, items, ids), 0.5 * term])
    assert_same_function(torch.stack(losses[:2]), expected, model)
    assert (losses[2] > 0) == (n_modalities > 1)


def test_rows_of_the_item_graph_are_means():
    model = build("FREEDOM", missing_feature="drop").model
    has_some = torch.stack(list(model.features.observed.values())).any(dim=0)
    total = torch.zeros(model.n_items, dtype=torch.float64).index_add_(
        0, model.item_graph.pattern.row, model.item_graph.values
    )
    torch.testing.assert_close(total, has_some.double())


def test_without_its_parts_it_is_lightgcn_with_a_residual():
    model = toy("FREEDOM", "A", edge_dropout=0.0, n_item_layers=0, feature_weight=0.0)
    users, items = loop_lightgcn(neighbours(model), model.user_embedding, model.item_embedding, 2)
    torch.testing.assert_close(model.train()()[0], users)
    torch.testing.assert_close(model()[1], items + model.item_embedding)
    assert len(model.calculate_loss(batch_of(TRIPLES))) == 1


def test_number_of_parameters():
    model = toy("FREEDOM", "B")
    assert sum(p.numel() for p in model.parameters()) == (4 + 5) * 2 + 3 * (2 * 2 + 2)


def test_an_item_without_feature_is_nobodys_neighbour():
    """In the released code one row of zeros becomes a neighbour of every item."""
    features = {"text": np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.1], [0.9, 0.2]], dtype=np.float32)}
    options = {"knn_k": 2, "embedding_size": 2, "feature_norm": "none"}
    graph = tiny_model("FREEDOM", [(0, 0), (0, 1), (0, 2)], features, **options).item_graph
    assert graph.values.isfinite().all() and not graph.pattern.col.eq(2).any()
    assert graph.pattern.row.tolist() == [1, 1, 3, 3, 4, 4]


# --- pruning ----------------------------------------------------------------------------------------------------------


def kept_edges(model):
    return list(zip(model.pruned.to_user.row.tolist(), model.pruned.to_user.col.tolist()))


def test_edges_are_drawn_once_an_epoch_and_left_alone_by_evaluation():
    built = build("FREEDOM", train_batch_size=256, edge_dropout=0.8)
    model, seen = built.model.train(), []
    assert model.clock.steps_per_epoch == len(built.train_data) > 1
    for _ in range(2):
        for interaction in built.train_data:
            total_loss(model.train(), interaction)
            seen.append(kept_edges(model))
            state = torch.get_rng_state()
            model.eval().representations()
            assert torch.equal(torch.get_rng_state(), state), "evaluation consumes no random numbers"
    n = model.clock.steps_per_epoch
    assert len(seen[0]) == math.floor(round(0.2 * model.graph.n_edges, 6))
    assert all(edges == seen[0] for edges in seen[:n]) and all(edges == seen[n] for edges in seen[n:])
    assert seen[0] != seen[n] and set(seen[0]) <= set(zip(*(t.tolist() for t in model.training_pairs)))


def test_a_checkpoint_in_the_middle_of_an_epoch_goes_on_with_the_same_edges():
    built = build("FREEDOM", train_batch_size=256)
    train_steps(built, built.model.clock.steps_per_epoch + 1)
    state, other = copy.deepcopy(built.model.state_dict()), build("FREEDOM", train_batch_size=256)
    torch.manual_seed(1)
    other.model.load_state_dict(state)
    losses = [total_loss(model.train(), built.batch(20)).item() for model in (built.model, other.model)]
    assert losses[0] == losses[1] and kept_edges(built.model) == kept_edges(other.model)


def test_another_seed_draws_other_edges():
    edges = []
    for seed in (1, 2, 1):
        built = build("FREEDOM", seed=seed)
        total_loss(built.model.train(), built.batch(20))
        edges.append(kept_edges(built.model))
    assert edges[0] != edges[1] and edges[0] == edges[2]


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_extreme_rates(rate):
    model = toy("FREEDOM", "A", edge_dropout=rate)
    assert total_loss(model.train(), batch_of(TRIPLES)).isfinite()
    assert (model.pruned is None) if rate == 0 else model.pruned.n_edges == 0


def test_every_option_changes_the_loss():
    def loss(**options):
        built = build("FREEDOM", **options)
        return total_loss(built.model.train(), built.batch(40)).item()

    plain = loss()
    for options in (
        {"n_layers": 1},
        {"n_item_layers": 2},
        {"knn_k": 3},
        {"image_share": None},
        {"edge_dropout": 0.0},
        {"feature_weight": 0.1},
    ):
        assert loss(**options) != plain, options
    assert len(list(itertools.chain(build("FREEDOM", feature_weight=0.0).model.train().parameters()))) == 8
