"""LATTICE: the numbers of the toy world, plain loops in float64, and which steps of an epoch move the item graph."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from recbole_mm.nn.graph.item_graph import merge_graphs
from tests.model.conftest import build, total_loss, train_steps
from tests.model.tiny import assert_same_function, tiny_model
from tests.model.toy_world import (
    TRIPLES,
    assert_golden,
    batch_of,
    both_row_sums,
    loop_bpr,
    loop_edges,
    loop_half_squares,
    loop_lightgcn,
    loop_shares,
    neighbours,
    padded,
    put,
    put_projections,
    random_world,
    scores,
    toy,
)


def golden_model(case, **options):
    model = toy("LATTICE", case, reg_weight=0.1, **options)
    put_projections(model)
    put(model.modality_logits, torch.linspace(0, 0.5, len(model.features)))
    return model


def dense_graph(model):
    projected = model._projected()
    pattern, values = merge_graphs(model._item_graph(projected, model._nearest(projected)))
    matrix = torch.zeros(pattern.n_rows, pattern.n_cols, dtype=values.dtype)
    matrix[pattern.row, pattern.col] = values
    return matrix


GRAPH_A = [
    [0.52832213, 0, 0.29383023, 0.17568472],
    [0, 0.52057288, 0, 0.47942712],
    [0.29383023, 0.14584145, 0.55008676, 0],
    [0, 0.47942712, 0, 0.52057288],
]
GRAPH_B = [
    [0.52646722, 0.05146096, 0.27410547, 0.14623808],
    [0.05735146, 0.52001364, 0, 0.42276577],
    [0.31058373, 0.13199767, 0.54804552, 0],
    [0.05513386, 0.42276577, 0, 0.52154911],
]

SCORES = {
    ("A", "self_loop"): [
        [1.56165465, 1.48520500, 1.57604033, 1.54750765],
        [1.80642645, 2.30965631, 0.95314124, 1.53662369],
        [0.51061480, 1.29871687, -0.68018740, 0.15769840],
    ],
    ("A", "sym"): [
        [1.49013563, 1.58637736, 1.10227883, 1.00519214],
        [2.01764649, 2.32943750, 1.11904469, 1.33654429],
        [0.57587920, 0.95851929, -0.28486134, 0.34185494],
    ],
    ("B", "self_loop"): [
        [1.58241210, 1.47446243, 1.57828805, 1.55275835],
        [1.87143048, 2.33037039, 0.95802450, 1.50744630],
        [0.57373711, 1.34074800, -0.67631471, 0.11097099],
    ],
    ("B", "sym"): [
        [1.52155838, 1.58607189, 1.10504861, 0.99974826],
        [2.07914869, 2.34488826, 1.12382937, 1.31241964],
        [0.62410511, 0.98859908, -0.28182198, 0.30786057],
    ],
}


@pytest.mark.parametrize(
    "case, norm, graph, losses",
    [
        ("A", "self_loop", GRAPH_A, [0.73121572, 0.44785267]),
        ("A", "sym", GRAPH_A, [0.57981368, 0.37262616]),
        ("B", "self_loop", GRAPH_B, [0.72976299, 0.45276277]),
        ("B", "sym", GRAPH_B, [0.57743454, 0.37612919]),
    ],
)
def test_golden_numbers(case, norm, graph, losses):
    model = golden_model(case, graph_norm=norm)
    assert_golden(dense_graph(model)[1:, 1:], graph)
    assert_golden(scores(model), SCORES[case, norm])
    for _ in range(2):  # the first step of an epoch and, with the kept graph, another
        assert_golden(torch.stack(model.train().calculate_loss(batch_of(TRIPLES))), losses)


def test_golden_gradients():
    model = golden_model("A").train()
    model.calculate_loss(batch_of(TRIPLES))[0].backward()
    assert_golden(model.modality_logits.grad[0], 0.00908716)
    assert_golden(model.project["image"].weight.grad.T[0, 0], 0.00073449)
    assert_golden(model.project["text"].weight.grad.T[1, 0], -0.00091230)


@pytest.mark.parametrize("n_modalities", [1, 2, 3, 4])
@pytest.mark.parametrize("skip", [0.0, 0.6, 1.0])
def test_scores_losses_and_gradients_equal_plain_loops(n_modalities, skip):
    pairs, features = random_world(n_modalities, n_modalities)
    options = {
        "embedding_size": 3,
        "knn_k": 3,
        "n_item_layers": 2,
        "modality_weight": {"audio": 2.0},
        "reg_weight": 0.3,
    }
    model = tiny_model("LATTICE", pairs, features, skip_weight=skip, **options).double()
    put(model.modality_logits, torch.linspace(-1, 1, n_modalities))
    shares = loop_shares(list(model.modality_logits.softmax(dim=0)), model)
    constant = mixed = 0.0
    for x, m in enumerate(model.features):
        observed, table = model.features.observed[m], model.project[m](model.features[m])
        constant = constant + shares[:, [x]] * both_row_sums(loop_edges(model.features[m], observed, 3, True))
        mixed = mixed + shares[:, [x]] * loop_edges(table, observed, 3, True)
    graph = skip * constant + ((1 - skip) * both_row_sums(mixed) if skip < 1 else 0.0)
    users, items = loop_lightgcn(neighbours(model), model.user_embedding, model.item_embedding, 2, "self_loop")
    content = graph @ graph @ model.item_embedding
    unit = torch.stack([row / row.norm() if row.abs().sum() > 0 else row for row in content])
    items = items + unit
    assert_same_function(torch.cat(model()), torch.cat([users, items]), model)
    triples = [(0, pairs[0][1], 8), (2, 3, 4), (5, 1, 2), (5, 2, 3), (0, 1, 5)]
    ids = padded(triples)
    expected = torch.stack([loop_bpr(users, items, ids), 0.3 * loop_half_squares(users, items, ids)])
    assert_same_function(torch.stack(model.train().calculate_loss(batch_of(triples))), expected, model)


# --- the life of the graph --------------------------------------------------------------------------------------------


def step(model, batch):
    """One step of gradient descent; whether the graph's own parameters got a gradient."""
    model.train().zero_grad()
    total_loss(model, batch).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    return [p.grad is not None for p in (*model.project.parameters(), model.modality_logits)]


@pytest.mark.parametrize("gradient", ["first_step", "every_step"])
def test_which_steps_of_an_epoch_move_the_graph(gradient):
    built = build("LATTICE", train_batch_size=256, edge_gradient=gradient)
    n = built.model.clock.steps_per_epoch
    assert n == len(built.train_data) > 2
    moved = [step(built.model, built.batch(64)) for _ in range(2 * n)]
    for index, flags in enumerate(moved):
        assert all(flags) if gradient == "every_step" or index % n == 0 else not any(flags)


def test_later_steps_use_the_values_of_the_first():
    built = build("LATTICE", train_batch_size=256)
    model, batch = built.model.train(), built.batch(64)
    model.calculate_loss(batch)
    before = model.calculate_loss(batch)[0].item()
    put(model.modality_logits, torch.tensor([9.0, 0.0, 0.0]))
    assert model.calculate_loss(batch)[0].item() == before
    model.clock._steps = 0
    assert model.calculate_loss(batch)[0].item() != before


def test_every_step_keeps_the_neighbours_of_the_epoch_and_moves_their_weights():
    built = build("LATTICE", train_batch_size=256, edge_gradient="every_step")
    model, batch = built.model.train(), built.batch(64)
    model.calculate_loss(batch)
    kept = [pattern.col.clone() for pattern in model.neighbours]
    before = model.calculate_loss(batch)[0].item()
    for parameter in model.project.parameters():
        put(parameter, torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    assert model.calculate_loss(batch)[0].item() != before
    assert all(torch.equal(a, b.col) for a, b in zip(kept, model.neighbours))
    model.clock._steps = 0
    model.calculate_loss(batch)
    assert not all(torch.equal(a, b.col) for a, b in zip(kept, model.neighbours) if len(a) == len(b.col))


def test_an_evaluation_takes_the_present_parameters_and_leaves_the_epoch_alone():
    built = build("LATTICE", train_batch_size=256)
    model, batch = built.model.train(), built.batch(64)
    model.calculate_loss(batch)
    kept = model.kept_graph
    before = model.eval().representations()[1]
    put(model.modality_logits, torch.tensor([9.0, 0.0, 0.0]))
    assert not torch.equal(model.representations()[1], before)
    assert model.kept_graph is kept


def edges(neighbours):
    return [list(zip(pattern.row.tolist(), pattern.col.tolist())) for pattern in neighbours]


@pytest.mark.parametrize("gradient", ["first_step", "every_step"])
def test_neighbours_may_be_kept_for_some_epochs(gradient, monkeypatch):
    built = build("LATTICE", train_batch_size=256, edge_gradient=gradient, refresh_epochs=2, learning_rate=0.05)
    model, found, searches = built.model, [], []
    nearest, graph = model._nearest, model._item_graph
    monkeypatch.setattr(model, "_nearest", lambda x: searches.append(model.clock._steps) or nearest(x))
    monkeypatch.setattr(model, "_item_graph", lambda x, near: found.append(edges(near)) or graph(x, near))
    n, states = model.clock.steps_per_epoch, []
    for _ in range(3):
        train_steps(built, n, 0.05)
        states.append(scores(model))
    assert searches == [1, 2 * n + 1], "in the first and the third epoch, and in no evaluation"
    first = found[0]
    assert found.count(first) == len(found) // 3 * 2 and found[-1] != first
    assert not torch.equal(states[0], states[1])

    other = build("LATTICE", train_batch_size=256, edge_gradient=gradient, refresh_epochs=2).model
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(scores(other), states[-1])
    assert total_loss(other.train(), built.batch(64)) == total_loss(model.train(), built.batch(64))
    untrained = build("LATTICE", refresh_epochs=2).model
    assert torch.equal(scores(untrained), scores(build("LATTICE").model))
    assert untrained.neighbour_ids.eq(-1).all(), "an evaluation leaves no trace"


@pytest.mark.parametrize("gradient", ["first_step", "every_step"])
def test_a_checkpoint_in_the_middle_of_an_epoch_goes_on_from_its_parameters(gradient):
    built = build("LATTICE", train_batch_size=256, edge_gradient=gradient)
    train_steps(built, built.model.clock.steps_per_epoch + 1)
    state, others = copy.deepcopy(built.model.state_dict()), []
    for _ in range(2):
        other = build("LATTICE", train_batch_size=256, edge_gradient=gradient)
        other.model.calculate_loss(built.batch(20))  # whatever it has learned is forgotten
        other.model.load_state_dict(state)
        others.append(step(other.model, built.batch(20)))
        assert other.model.clock._steps == built.model.clock._steps + 1
    assert others[0] == others[1] == 7 * [gradient == "every_step"]


def test_a_graph_of_raw_features_alone_moves_no_map():
    model = golden_model("A", skip_weight=1.0, edge_gradient="every_step").train()
    total_loss(model, batch_of(TRIPLES)).backward()
    assert all(p.grad is None for p in model.project.parameters()) and model.modality_logits.grad is not None
    model = golden_model("A", skip_weight=0.0, n_item_layers=1)
    assert dense_graph(model)[1:, 1:].isfinite().all()


def test_equal_modalities_learn_the_graph_of_one():
    pairs, features = random_world(0, 1)
    one = tiny_model("LATTICE", pairs, features, embedding_size=3, skip_weight=0.0).double()
    two = tiny_model(
        "LATTICE", pairs, {"image": features["audio"], "text": features["audio"]}, embedding_size=3, skip_weight=0.0
    ).double()
    for modality in two.features:
        two.project[modality].load_state_dict(one.project["audio"].state_dict())
    torch.testing.assert_close(dense_graph(one), dense_graph(two))


def test_content_is_added_at_unit_length():
    model = build("LATTICE").model.eval()
    users, items = model()
    plain = model._add_content(torch.zeros_like(model.item_embedding))
    has_some = model.observed.any(dim=1)
    torch.testing.assert_close((items - plain[1])[has_some].norm(dim=1), torch.ones(int(has_some.sum())))
    assert torch.equal(items[~has_some], plain[1][~has_some]) and torch.equal(users, plain[0])


def test_filled_rows_take_no_part():
    features = {"text": np.array([[1.0, 0.0], [np.nan, np.nan], [1.0, 0.1], [0.9, 0.2]], dtype=np.float32)}
    models = [
        tiny_model("LATTICE", [(0, 0), (0, 1), (0, 2)], features, knn_k=2, embedding_size=2, missing_feature=fill)
        for fill in ("zero", "mean")
    ]
    assert torch.equal(scores(models[0]), scores(models[1]))
    assert not dense_graph(models[1])[:, 2].any() and not dense_graph(models[1])[2].any()


def test_number_of_parameters():
    assert sum(p.numel() for p in golden_model("B").parameters()) == (4 + 5) * 2 + 3 * (2 * 2 + 2) + 3


def test_every_option_changes_the_loss():
    def loss(**options):
        built = build("LATTICE", reg_weight=0.1, **options)
        return total_loss(built.model.train(), built.batch(40)).item()

    plain = loss()
    for options in ({"n_layers": 0}, {"n_item_layers": 2}, {"knn_k": 3}, {"skip_weight": 0.5}, {"graph_norm": "sym"}):
        assert loss(**options) != plain, options
