"""Training on sampled neighbours, of every model that can: exact with all neighbours, repeatable, the same ranking."""

from __future__ import annotations

import logging

import pytest
import torch
from recbole.quick_start import run_recbole

from recbole_mm.host.registry import registered_models
from recbole_mm.model.sampled_graph import cheaper_sampled
from tests.model.conftest import build, stirred, total_loss

SAMPLING = sorted(name for name, cls in registered_models().items() if cls.samples_graph)
EVERYONE = 10_000  # more neighbours than any node has

CASES = [(name, {}) for name in SAMPLING]
CASES += [("GRCN", {"weight_mode": "mean", "pruning": "hard", "edge_dropout": 0.3}), ("GRCN", {"pruning": "none"})]
CASES += [("GRCN", {"n_layers": 0, "contrastive_weight": 0.1}), ("MMGCN", {"concat": False, "n_layers": 1})]
CASES += [("MGAT", {"n_layers": 2, "gate_degree": "target"}), ("MGAT", {"gate": "none", "contrastive_weight": 0.1})]
CASES += [
    ("DualGNN", {"n_layers": 0}),
    ("DualGNN", {"user_fusion": "concat"}),
    ("DualGNN", {"user_fusion": "mean", "normalize_tables": True}),
]
CASES += [("MMGCL", {"mask_mode": "node_dropout", "edge_drop_scope": "one_modality"}), ("MMGCL", {"n_layers": 0})]


def loss_and_gradients(name, options):
    """Loss of a batch in float64 with fixed random numbers, and the gradient of every parameter."""
    built = stirred(build(name, **options))
    batch = built.batch(200)
    torch.manual_seed(5)
    loss = total_loss(built.model.train(), batch)
    loss.backward()
    return loss, {key: p.grad for key, p in built.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name, options", CASES, ids=str)
def test_all_neighbours_give_the_step_of_the_whole_graph(name, options, monkeypatch):
    # Random vectors instead of a modality differ in number, order and spread.
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    expected, gradients = loss_and_gradients(name, {**options, "graph_batch": "full"})
    actual, sampled = loss_and_gradients(name, {**options, "graph_batch": "sampled", "fanout": EVERYONE})
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    for key, gradient in gradients.items():
        torch.testing.assert_close(
            sampled[key], gradient, rtol=1e-8, atol=1e-10, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("name", SAMPLING)
def test_few_neighbours_change_the_step_and_not_the_ranking(name):
    whole, part = (build(name, graph_batch=mode, fanout=2) for mode in ("full", "sampled"))
    losses = []
    for built in (whole, part):
        torch.manual_seed(1)
        losses.append(total_loss(built.model.train(), built.batch(64)).item())
    assert losses[0] != losses[1]
    scores = [built.model.eval().full_sort_predict(built.batch(64)) for built in (whole, part)]
    assert torch.equal(*scores)
    torch.manual_seed(1)
    in_evaluation = [total_loss(built.model.eval(), built.batch(64)).item() for built in (whole, part)]
    if name != "MMGCL":  # whose loss draws numbers
        assert in_evaluation[0] == in_evaluation[1]


@pytest.mark.parametrize("name", SAMPLING)
def test_it_trains_ranks_and_repeats_itself(name):
    options = {"epochs": 1, "state": "ERROR", "show_progress": False, "use_gpu": False}
    options |= {"graph_batch": "sampled", "fanout": 3, "train_batch_size": 256}
    first, second = (run_recbole(model=name, dataset="mm-toy", config_dict=dict(options)) for _ in range(2))
    assert first == second and first["test_result"]["recall@10"] > 0


def test_only_the_features_that_are_needed_are_projected():
    built = build("MMGCN", graph_batch="sampled", fanout=1)
    seen = []
    built.model.project["image"].register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    total_loss(built.model.train(), built.batch(8))
    assert 0 < seen[0] < built.model.n_items // 2


def test_a_model_that_cannot_says_so():
    with pytest.raises(ValueError, match="HCGCN cannot train on sampled neighbours.*graph_batch: full"):
        build("HCGCN", graph_batch="sampled")
    with pytest.raises(ValueError, match="LightGCN cannot train on sampled neighbours"):
        run_recbole(model="LightGCN", dataset="mm-toy", config_dict={"graph_batch": "sampled", "use_gpu": False})
    assert build("HCGCN", graph_batch="auto").model.training


@pytest.mark.parametrize(
    "options, message",
    [
        ({"graph_batch": "some"}, "graph_batch: expected one of full, sampled, auto"),
        ({"fanout": 0}, "fanout: expected an integer of at least 1"),
        ({"fanout": []}, "fanout: expected an integer of at least 1"),
        ({"fanout": [3, True]}, "fanout: expected an integer of at least 1"),
        ({"graph_batch": "sampled", "fanout": [3]}, "fanout: GRCN propagates over 2 hops.*1 entries"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build("GRCN", **options)


def test_auto_takes_what_touches_less(caplog):
    """On mm-toy a batch of 512 needs nearly everything; one of two pairs does not."""
    with caplog.at_level(logging.INFO):
        assert build("GRCN", graph_batch="auto", fanout=10).model.fanout is None
        assert build("GRCN", graph_batch="auto", fanout=[2, 1], train_batch_size=2).model.fanout == [2, 1]
    assert "full" in caplog.text and "sampled" in caplog.text


@pytest.mark.parametrize("name", SAMPLING)
def test_the_rule_of_auto_counts_what_a_step_touches(name):
    model = build(name).model
    state = torch.get_rng_state()
    sampled, whole = model._sizes([1] * model.n_hops, 4, keeps=False)
    kept, _ = model._sizes([1] * model.n_hops, 4, keeps=True)
    assert torch.equal(state, torch.get_rng_state()), "training draws what it would have drawn"
    hops = 2 * model.n_hops + (name == "GRCN")  # whose users route besides
    assert whole == (hops * model.graph.n_edges, model.n_users, model.n_items, model.n_items)
    assert kept == sampled._replace(projected=kept.projected) and kept.projected <= 8 < sampled.projected
    assert all(0 < part < all_of_it for part, all_of_it in zip(sampled, whole))
    peers = name == "DualGNN"  # 4 users, 8 items, and a peer each
    assert sampled.users > 4 and sampled.items > 8 and (not peers or sampled.users > 8)
    assert cheaper_sampled(49, 100) and not cheaper_sampled(50, 100)
