"""LGMRec: golden numbers, a plain reference with noise and dropout, and rankings that repeat themselves."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from tests.model.conftest import build, total_loss
from tests.model.tiny import assert_same_function, tiny_model
from tests.model.toy import (
    ONE,
    SHEAR,
    SWAP,
    assert_golden,
    dense_graph,
    dense_hops,
    put_map,
    scores,
    toy_batch,
    toy_model,
)
from tests.model.toy_world import random_batch, random_world

MEMBERSHIP = {"audio": SHEAR, "image": 0.2 * ONE, "text": 0.1 * SWAP}
GOLDEN = {
    "A": (
        [
            [9.82276078, 9.74290691, 9.32416330, 1.74667764],
            [10.63097600, 11.15771601, 10.10259490, 1.71006121],
            [8.02610201, 8.07964760, 7.62087965, 1.39225939],
        ],
        [0.23480883, 0.43389856, 0.09939504],
    ),
    "B": (
        [
            [16.75159702, 16.45183762, 15.87634796, 2.31822735],
            [17.49924685, 17.85090248, 16.51777168, 2.27278151],
            [14.39526624, 14.22274271, 13.63453790, 1.97308280],
        ],
        [0.22026769, 0.55773814, 0.09040000],
    ),
}


def golden_model(case, **options):
    options = {"n_hyperedges": 2, "contrastive_weight": 0.01, "reg_weight": 0.1, "hyperedge_dropout": 0.0, **options}
    model = toy_model("LGMRec", case, **options)
    if model.n_hyperedges == 2:
        for modality in model.features:
            put_map(model.membership[modality], MEMBERSHIP[modality])
    return model


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_numbers(case):
    expected, losses = GOLDEN[case]
    model = golden_model(case)
    assert_golden(scores(model), expected)
    assert_golden(torch.stack(model.eval().calculate_loss(toy_batch())), losses)


def test_golden_gradients():
    model = golden_model("A").eval()
    losses = model.calculate_loss(toy_batch())
    (losses[0] + losses[2]).backward()
    assert_golden(model.membership["image"].weight.grad[0, 0], -0.00045742)
    assert_golden(model.project["text"].weight.grad[0, 1], 0.02223097)


def plain(model, noise, drop):
    """Representations and hyperedges' vectors, dense and one node at a time; noise and drop by modality and side."""
    matrix, n_users = dense_graph(model), model.n_users
    states = dense_hops(matrix, model.user_embedding, model.item_embedding, model.n_layers)
    ids = sum(states) / len(states)
    local, whole, hyper, has = ids, torch.zeros_like(ids), {}, {}
    liked = [[i for u, i in zip(*(x.tolist() for x in model.training_pairs)) if u == user] for user in range(n_users)]
    for modality, feature in model.features.items():
        x, logits = feature @ model.project[modality].weight.T, feature @ model.membership[modality].weight.T
        observed = model.features.observed[modality]
        means = [x[row].mean(dim=0) if row else x.new_zeros(x.shape[1]) for row in liked]
        weight = model.features.weight[modality]
        spread = dense_hops(matrix, torch.stack(means), x, model.n_modality_layers)[-1]
        local = local + weight * F.normalize(spread, dim=1)
        sums = [sum((logits[i] for i in row if observed[i]), logits.new_zeros(logits.shape[1])) for row in liked]
        there = [torch.tensor([any(observed[i] for i in row) for row in liked]), observed]
        rows = []
        for side, table in enumerate((torch.stack(sums), logits)):
            shares = ((table + noise[modality][side]) / model.hyperedge_temperature).softmax(dim=1)
            rows.append(shares * there[side].unsqueeze(1) * drop[modality][side])
        items = ids[n_users:]
        for _ in range(model.n_hyper_layers):
            edges = rows[1].T @ items
            items, users = rows[1] @ edges, rows[0] @ edges
        hyper[modality], has[modality] = (users, items), there
        whole = whole + weight * torch.cat([users, items])
    table = local + model.global_weight * F.normalize(whole, dim=1)
    return table.split([n_users, model.n_items]), hyper, has


def plain_loss(model, noise, drop, batch):
    (users, items), hyper, has = plain(model, noise, drop)
    user, positive, negative = (batch[key].tolist() for key in ("user_id", "item_id", "neg_item_id"))
    gaps = [users[u] @ (items[n] - items[p]) for u, p, n in zip(user, positive, negative)]
    ranking = F.softplus(torch.stack(gaps)).mean()
    penalty = (users[user].norm() + items[positive].norm() + items[negative].norm()) / len(user)
    contrast, pairs = 0, list(itertools.combinations(model.features, 2))
    for left, right in pairs:
        for side, ids in enumerate((user, positive)):
            both = [b for b in ids if has[left][side][b] and has[right][side][b]]
            for b in both:
                logits = {
                    j: F.cosine_similarity(hyper[left][side][b], hyper[right][side][j], dim=0, eps=1e-12)
                    / model.contrastive_temperature
                    for j in range(len(hyper[right][side]))
                    if has[right][side][j]
                }
                if model.negatives == "batch":
                    logits = {j: logits[j] for j in both}
                    repeated = [logits[j] for j in both if j != b] + [logits[b]]
                    contrast = contrast + torch.stack(repeated).logsumexp(dim=0) - logits[b]
                else:
                    contrast = contrast + torch.stack(list(logits.values())).logsumexp(dim=0) - logits[b]
    total = ranking + model.reg_weight * penalty
    return total + model.contrastive_weight * contrast / max(len(pairs), 1)


def draws(model, rate):
    generator = torch.Generator().manual_seed(5)
    shapes = [(model.n_users, model.n_hyperedges), (model.n_items, model.n_hyperedges)]
    uniform = {m: [torch.rand(s, generator=generator, dtype=torch.float64) for s in shapes] for m in model.features}
    noise = {m: [-(-x.log()).log() for x in tables] for m, tables in uniform.items()}
    keep = {m: [(torch.rand(s, generator=generator) > rate) / (1 - rate) for s in shapes] for m in model.features}
    return noise, {m: [k.double() for k in tables] for m, tables in keep.items()}


@pytest.mark.parametrize(
    "options",
    [{}, {"n_hyperedges": 1, "n_hyper_layers": 2}, {"contrast_negatives": "batch"}, {"n_hyperedges": 3, "n_layers": 1}],
    ids=str,
)
def test_loss_and_gradients_with_noise_and_dropout_equal_the_plain_reference(options, monkeypatch):
    model = golden_model("B", hyperedge_dropout=0.4, **options).train()
    noise, drop = draws(model, 0.4)
    given = iter([(noise[m][side], drop[m][side]) for m in model.features for side in (0, 1)])

    def member(logits, observed):
        gumbel, keep = next(given)
        rows = ((logits + gumbel) / model.hyperedge_temperature).softmax(dim=1) * observed.unsqueeze(1)
        return rows * keep

    monkeypatch.setattr(model, "_member", member)
    assert_same_function(total_loss(model, toy_batch()), plain_loss(model, noise, drop, toy_batch()), model)


@pytest.mark.parametrize("n_modalities", [1, 2, 3, 4])
def test_loss_and_gradients_equal_the_plain_reference_in_random_worlds(n_modalities):
    pairs, features = random_world(n_modalities, n_modalities)
    options = {"embedding_size": 5, "n_hyperedges": 3, "n_hyper_layers": 2, "modality_weight": {"audio": 2.0}}
    weights = {"reg_weight": 0.3, "contrastive_weight": 0.05, "feature_norm": "none"}
    model = tiny_model("LGMRec", pairs, features, **options, **weights).double().eval()
    batch, nothing = random_batch(pairs), {m: (0.0, 0.0) for m in model.features}
    expected = plain_loss(model, nothing, {m: (1.0, 1.0) for m in model.features}, batch)
    assert_same_function(total_loss(model, batch), expected, model)


def test_two_rankings_are_equal_and_two_steps_are_not():
    built = build("LGMRec", hyperedge_dropout=0.0)
    state = torch.get_rng_state()
    assert torch.equal(scores(built.model), scores(built.model.train().eval()))
    assert torch.equal(state, torch.get_rng_state()), "a ranking draws random numbers"
    batch = built.batch(30)
    assert total_loss(built.model.train(), batch) != total_loss(built.model, batch)


def test_memberships_sum_to_one_or_are_nothing_and_the_noise_is_gumbel():
    model = build("LGMRec", hyperedge_dropout=0.0).model.eval()
    logits, observed = torch.zeros(4000, 4), torch.arange(4000) % 2 == 0
    rows = model._member(logits, observed)
    torch.testing.assert_close(rows.sum(dim=1), observed.float())
    model.train().hyperedge_temperature = 1.0
    wins = model._member(torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(4000, 4), torch.ones(4000, dtype=torch.bool))
    share = torch.bincount(wins.argmax(dim=1), minlength=4) / 4000
    torch.testing.assert_close(share, torch.tensor([1.0, 0, 0, 0]).softmax(dim=0), rtol=0, atol=0.03)


def test_dropout_acts_on_memberships_in_training():
    model = build("LGMRec", hyperedge_dropout=0.5).model.train()
    rows = model._member(torch.zeros(500, 4), torch.ones(500, dtype=torch.bool))
    assert 0.4 < rows.eq(0).float().mean() < 0.6


def test_one_hyperedge_brings_every_observed_item_the_same():
    model = golden_model("B", n_hyperedges=1).eval()
    edges, members = model._encode()[2]["audio"]
    vectors = members[1] @ edges
    assert torch.equal(vectors[1], vectors[2]) and vectors[3].eq(0).all() and vectors[0].eq(0).all()


def test_without_content_it_is_lightgcn():
    model = golden_model("B", global_weight=0.0).eval()
    with torch.no_grad():
        for project in model.project.values():
            project.weight.zero_()
    states = dense_hops(dense_graph(model), model.user_embedding, model.item_embedding, 2)
    torch.testing.assert_close(torch.cat(model()), sum(states) / 3, rtol=1e-12, atol=1e-12)


def test_the_padding_row_is_nobody():
    one, other = golden_model("B").eval(), golden_model("B").eval()
    with torch.no_grad():
        other.user_embedding[0] += 5
        other.item_embedding[0] -= 7
    torch.testing.assert_close(total_loss(one, toy_batch()), total_loss(other, toy_batch()), rtol=0, atol=1e-14)


def test_parameters_are_those_of_the_paper():
    model = build("LGMRec", embedding_size=8, n_hyperedges=3).model
    expected = (model.n_users + model.n_items) * 8 + sum(width * (8 + 3) for width in model.features.dims.values())
    assert sum(p.numel() for p in model.parameters()) == expected


def test_one_modality_has_no_contrast():
    built = build("LGMRec", modalities=["text"])
    assert len(built.model.train().calculate_loss(built.batch(10))) == 2


def test_narrow_and_wide_scores_are_one(monkeypatch):
    """With fewer hyperedges than the width the contrast is computed from memberships."""
    import recbole_mm.model.lgmrec as module

    widths, original = [], module.table_nce_loss
    monkeypatch.setattr(
        module, "table_nce_loss", lambda a, *rest, **k: widths.append(a.shape[1]) or original(a, *rest, **k)
    )
    for edges, width in ((4, 4), (16, 8)):
        built = build("LGMRec", embedding_size=8, n_hyperedges=edges)
        total_loss(built.model.train(), built.batch(20)).backward()
        assert set(widths) == {width}
        assert all(p.grad.isfinite().all() for p in built.model.parameters())
        widths.clear()


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="hyperedge_temperature.*more than 0"):
        build("LGMRec", hyperedge_temperature=0.0)


def test_the_entropy_of_the_memberships_is_logged(caplog):
    model = build("LGMRec").model.eval()
    with torch.no_grad():
        model.membership["image"].weight.mul_(1e6)  # long vectors: memberships are one-hot
        model.membership["text"].weight.zero_()  # every item belongs to all hyperedges alike
    with caplog.at_level("INFO"), torch.no_grad():
        model.diagnostics()
    lines = {line.split(":")[0].rsplit(" ", 1)[1]: line for line in caplog.messages if "entropy" in line}
    assert lines["image"].endswith("of a row 0.000 (of 1)") and lines["text"].endswith("of a row 1.000 (of 1)")
