"""SMORE: golden numbers, the filter's closed form, and a plain reference with sums instead of transforms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from torch.nn import functional as F

from recbole_mm.model.smore import FUSED
from tests.model.conftest import build, total_loss
from tests.model.tiny import assert_same_function, tiny_model
from tests.model.toy import (
    ONE,
    SHEAR,
    SWAP,
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

SCORES = {
    "A": [
        [1.59509076, 1.28166550, 1.24251863, 0.51171947],
        [2.17277291, 1.83514942, 1.45566259, 0.64142795],
        [0.94117233, 0.88821779, 0.38313984, 0.21974948],
    ],
    "B": [
        [1.76790973, 1.51978144, 1.31433623, 0.64375655],
        [2.33216614, 2.05352308, 1.51690830, 0.78865644],
        [1.05105312, 0.99541146, 0.37199314, 0.26841665],
    ],
}
LOSSES = {"A": [0.53892112, 0.22754048, 0.01920025], "B": [0.51901122, 0.24850999, 0.01744253]}


def golden_model(case, **options):
    options = {"knn_k": 2, "n_layers": 2, "reg_weight": 0.1, "contrastive_weight": 0.01, **options}
    model = toy_model("SMORE", case, **options)
    for view in (*model.features, FUSED):
        put(model.filter[view], [[1.0, 0.5], [0.5, -1.0]])
        put_map(model.gate[view], ONE)
        put_map(model.preference_gate[view], SWAP)
        if view != FUSED:
            put_map(model.query[view][0], SHEAR)
            put_map(model.query[view][2], ONE)
    return model


@pytest.mark.parametrize("case", SCORES)
def test_golden_numbers(case):
    model = golden_model(case)
    assert_golden(scores(model), SCORES[case])
    assert_golden(torch.stack(model.train().calculate_loss(toy_batch())), LOSSES[case])


def transform(x):
    """The orthonormal real Fourier transform of a vector, by its definition: real and imaginary parts."""
    d, t = len(x), torch.arange(len(x), dtype=torch.float64)
    angles = [2 * math.pi * f * t / d for f in range(d // 2 + 1)]
    return [((x * a.cos()).sum() / d**0.5, -(x * a.sin()).sum() / d**0.5) for a in angles]


def inverse(spectrum, d):
    """Its inverse; the imaginary parts of the first and, d even, the last frequency have no effect."""
    t = torch.arange(d, dtype=torch.float64)
    total = torch.zeros(d, dtype=torch.float64)
    for f, (real, imaginary) in enumerate(spectrum):
        angle = 2 * math.pi * f * t / d
        if f == 0 or 2 * f == d:
            total = total + real * angle.cos()
        else:
            total = total + 2 * (real * angle.cos() - imaginary * angle.sin())
    return total / d**0.5


def times(left, right):
    return [(a * c - b * e, a * e + b * c) for (a, b), (c, e) in zip(left, right)]


def test_filter_closed_form():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    c = [(torch.tensor(a), torch.tensor(b)) for a, b in ((1.0, 0.5), (0.5, -1.0), (0.0, 2.0))]
    assert inverse(times(transform(x), c), 4).tolist() == pytest.approx([3, 1, 2, 4])
    assert inverse(times(transform(x), transform(x)), 4).tolist() == pytest.approx([13, 14, 13, 10])


def plain(model, k):
    """Behaviour and side views of all nodes, dense and one node at a time."""
    n_users, n, names, d = model.n_users, model.n_items, list(model.features), model.item_embedding.shape[1]
    matrix, observed = dense_graph(model), model.features.observed
    states = dense_hops(matrix, model.user_embedding, model.item_embedding, model.n_layers)
    behaviour = sum(states) / len(states)
    spectra, graphs, views = {}, {}, {}
    for m, feature in model.features.items():
        spectra[m] = [transform(row) for row in model.project[m](feature)]
        sims, there = F.normalize(feature, dim=1) @ F.normalize(feature, dim=1).T, observed[m]
        graph = torch.zeros(n, n, dtype=torch.float64)
        for i in range(n):
            others = [j for j in range(n) if there[j]] if there[i] else []
            for j in sorted(others, key=lambda j, i=i, s=sims: (j != i, -round(s[i, j].item(), 10), j))[: k[m]]:
                graph[i, j] = max(sims[i, j], 0.0)
        root = torch.tensor([r**-0.5 if r > 0 else 0.0 for r in graph.sum(dim=1).tolist()], dtype=torch.float64)
        graphs[m] = root[:, None] * graph * root
    one = [(torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))] * (d // 2 + 1)
    product = [one] * n
    for m in names:
        product = [times(p, s) if observed[m][i] else p for i, (p, s) in enumerate(zip(product, spectra[m]))]
    spectra[FUSED], graphs[FUSED] = product, torch.stack(list(graphs.values())).amax(dim=0)
    for view, rows in spectra.items():
        weights = [(w[0], w[1]) for w in model.filter[view]]
        filtered = torch.stack([inverse(times(row, weights), d) for row in rows])
        z = model.item_embedding * model.gate[view](filtered).sigmoid()
        if view != FUSED:
            z = z * observed[view].unsqueeze(1)
        for _ in range(model.n_item_layers):
            z = graphs[view] @ z
        views[view] = torch.cat([(matrix[:n_users, n_users:] @ z), z])
    liked = [[i for u, i in zip(*(x.tolist() for x in model.training_pairs)) if u == user] for user in range(n_users)]
    side = []
    for row in range(n_users + n):
        items = liked[row] if row < n_users else [row - n_users]
        total, fused = 1.0, views[FUSED][row]
        result = model.preference_gate[FUSED](behaviour[row]).sigmoid() * fused
        for m in names:
            weight = model.features.weight[m] * any(observed[m][i] for i in items)
            share = model.query[m](fused).softmax(dim=0) * model.preference_gate[m](behaviour[row]).sigmoid()
            result, total = result + weight * share * views[m][row], total + weight
        side.append(result / total)
    return behaviour, torch.stack(side)


@pytest.mark.parametrize(
    "options",
    [
        {"knn_k": {"audio": 2, "image": 3, "text": 1}},
        {"embedding_size": 5, "n_item_layers": 2, "n_layers": 1},
        {"embedding_size": 4, "distinct_ids": False},
        {"embedding_size": 4, "contrast_by_length": False},
    ],
    ids=str,
)
def test_loss_and_gradients_equal_the_plain_reference(options):
    if "embedding_size" in options:
        from tests.model.toy import FEATURES, PAIRS

        weight = {"audio": 0.5, "image": 1.0, "text": 1.5}
        model = tiny_model("SMORE", PAIRS, FEATURES, knn_k=2, modality_weight=weight, **options).double().train()
    else:
        model = golden_model("B", **options).train()
    batch = toy_batch()
    expected = plain_loss(model, batch, options.get("knn_k", dict.fromkeys(model.features, 2)))
    assert_same_function(total_loss(model, batch), expected, model)


@pytest.mark.parametrize("n_modalities", [1, 2, 3, 4])
def test_loss_and_gradients_equal_the_plain_reference_in_random_worlds(n_modalities):
    pairs, features = random_world(n_modalities, n_modalities)
    options = {"embedding_size": 4, "knn_k": 3, "modality_weight": {"audio": 2.0}, "contrastive_weight": 0.7}
    model = tiny_model("SMORE", pairs, features, reg_weight=0.3, **options).double().train()
    batch = random_batch(pairs)
    expected = plain_loss(model, batch, dict.fromkeys(model.features, 3))
    assert_same_function(total_loss(model, batch), expected, model)


def plain_loss(model, batch, k):
    n_users, size = model.n_users, len(batch)
    behaviour, side = plain(model, k)
    table = behaviour + side
    user, positive, negative = (batch[key].tolist() for key in ("user_id", "item_id", "neg_item_id"))
    triples = [(table[u], table[n_users + p], table[n_users + n]) for u, p, n in zip(user, positive, negative)]
    total = sum(F.softplus(u @ n - u @ p) for u, p, n in triples) / size
    total = total + model.reg_weight * sum(x @ x for triple in triples for x in triple) / (2 * size)
    lengths = [sum(triple[side].norm().item() for triple in triples) / size for side in (0, 1)]
    weight = model.contrastive_weight * (min(1.0, lengths[0] * lengths[1]) if model.contrast_by_length else 1.0)
    for ids in (user, [n_users + i for i in positive]):
        rows = [b for b in range(size) if ids[b] not in ids[:b] or not model.distinct_ids]
        left, right = (F.normalize(x, dim=1)[[ids[b] for b in rows]] for x in (side, behaviour))
        logits = left @ right.T / model.contrastive_temperature
        contrast = (logits.logsumexp(dim=1) - logits.diagonal()).mean()
        total = total + weight * contrast
    return total


def test_a_doubled_batch_gives_the_same_contrast():
    batch = toy_batch()
    doubled = Interaction({key: value.repeat(2) for key, value in batch.interaction.items()})
    for distinct in (True, False):
        model = golden_model("B", distinct_ids=distinct).train()
        once, twice = (model.calculate_loss(x)[2].item() for x in (batch, doubled))
        assert (abs(once - twice) < 1e-12) == distinct


@pytest.mark.parametrize("dim", [8, 7])
def test_parameters_are_those_of_the_paper(dim):
    model = build("SMORE", embedding_size=dim).model
    square, widths = dim * dim + dim, model.features.dims.values()
    maps = sum(width * dim + dim for width in widths)
    expected = (model.n_users + model.n_items) * dim + maps + len(widths) * (3 * square + dim * dim)
    expected += (len(widths) + 1) * 2 * (dim // 2 + 1) + 2 * square
    assert sum(p.numel() for p in model.parameters()) == expected


def test_dropout_of_the_gates_acts_in_training_only():
    built = build("SMORE", dropout=0.5)
    batch = built.batch(30)
    assert total_loss(built.model.train(), batch) != total_loss(built.model, batch)
    assert total_loss(built.model.eval(), batch) == total_loss(built.model, batch)


def test_neighbours_may_differ_by_modality_even_of_weight_zero():
    options = {"knn_k": {"audio": 2, "image": 3, "text": 4}, "modality_weight": {"audio": 0}}
    model = build("SMORE", **options).model
    assert set(model.item_graphs) == {"image", "text", FUSED}
    degrees = [int(model.item_graphs[m].pattern.degree().max()) for m in ("image", "text")]
    assert degrees == [3, 4] and np.isfinite(scores(model)).all()
