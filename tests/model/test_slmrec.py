"""SLMRec: golden numbers, a plain reference of encoder and tasks, and what its views differ in."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from torch.nn import functional as F

from recbole_mm.model.slmrec import SLMRec
from tests.model.conftest import build, total_loss
from tests.model.tiny import assert_same_function, tiny_dataset, tiny_model
from tests.model.toy import (
    FEATURES,
    ONE,
    PAIRS,
    SHEAR,
    SWAP,
    assert_golden,
    dense_graph,
    put_map,
    scores,
    toy_batch,
    toy_model,
)
from tests.model.toy_world import random_batch, random_world

GOLDEN = {
    "A": (
        [
            [2.76905510, 3.10553853, 2.14607333, 1.02276861],
            [3.83755808, 4.31694574, 3.09207083, 1.43619666],
            [1.41443007, 1.52057172, 0.50306703, 0.42799028],
        ],
        [1.29562903, 0.25127953],
        [1.47689825, 0.30716224],
        1.73332612,
    ),
    "B": (
        [
            [3.41412998, 2.97219640, 1.92045765, 0.96213581],
            [4.44228014, 3.85266850, 2.41425765, 1.20922299],
            [2.22746421, 1.85859263, 0.78632767, 0.39227129],
        ],
        [1.27575115, 0.44005877],
        [1.44584511, 0.52760321],
        1.89143013,
    ),
}


def golden_model(case, **options):
    options = {"n_layers": 2, "temperature": 0.2, "contrastive_temperature": 0.5, "contrastive_weight": 0.1, **options}
    options.setdefault("popularity_correction", 0.0)
    model = toy_model("SLMRec", case, **options)
    names = list(model.features)
    stacked = np.vstack([0.5**b * (SWAP if b % 2 else ONE) for b in range(1 + len(names))])
    put_map(model.read_users, stacked, (0.0, 0.1))
    put_map(model.read_items, stacked)
    if model.ssl_task == "FAC":
        for t, modality in enumerate(model.order):
            if t == len(names) - 1:
                put_map(model.joint[modality], [[1.0], [-1.0]], [0.0])
                put_map(model.own[modality], [[0.5], [1.0]], [0.0])
            else:
                put_map(model.joint[modality], SHEAR if t else ONE)
                put_map(model.own[modality], ONE if t else SWAP, (0.1, 0.0) if t else (0.0, 0.0))
    return model


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_numbers(case, monkeypatch):
    expected, losses, repeated, masked = GOLDEN[case]
    model = golden_model(case)
    assert_golden(scores(model), expected)
    assert_golden(torch.stack(model.train().calculate_loss(toy_batch(False))), losses)
    assert_golden(
        torch.stack(golden_model(case, distinct_ids=False).train().calculate_loss(toy_batch(False))), repeated
    )
    masking = golden_model(case, ssl_task="FM", contrastive_weight=1.0).train()
    text = 1 + list(masking.features).index("text")
    monkeypatch.setattr(torch, "randperm", lambda n: torch.tensor([0, text, 1]))
    assert_golden(masking.calculate_loss(toy_batch(False))[1], masked)


def plain_branches(model, gone=None, masks=None):
    """Dense LightGCN of every branch; ``gone`` has no item input, ``masks[branch][hop]`` multiply the states."""
    inputs = [model.item_embedding]
    for modality, feature in model.features.items():
        inputs.append(model.project[modality](feature) * model.features.observed[modality].unsqueeze(1))
    result, matrix = [], dense_graph(model)
    for branch, table in enumerate(inputs):
        state = torch.cat([model.user_embedding, table * (branch != gone)])
        total = state
        for hop in range(model.n_layers):
            state = matrix @ state
            if masks is not None:
                state = state * masks[branch][hop]
            total = total + state
        result.append((total / (model.n_layers + 1)).split([model.n_users, model.n_items]))
    return result


def plain_read(model, branches):
    scale = [1.0, *(model.features.weight[m] for m in model.features)]
    stacked = [torch.cat([s * b[side] for s, b in zip(scale, branches)], dim=1) for side in (0, 1)]
    return model.read_users(stacked[0]), model.read_items(stacked[1])


def plain_contrast(left, right, tau, rows, same=None, unit=True, less=None):
    """One anchor at a time."""
    if unit:
        left, right = F.normalize(left, dim=1), F.normalize(right, dim=1)
    total = 0
    for b in rows:
        kept = [c for c in rows if c == b or same is None or same[c] != same[b]]
        logits = torch.stack([left[b] @ right[c] / tau - (0 if less is None else less[c]) for c in kept])
        total = total + logits.logsumexp(dim=0) - logits[kept.index(b)]
    return total / len(rows)


def firsts(ids):
    return [index for index, value in enumerate(ids) if value not in ids[:index]]


def plain_chain_loss(model, batch, order=None):
    """Main loss and FAC."""
    users, items = batch["user_id"].tolist(), batch["item_id"].tolist()
    branches = plain_branches(model)
    u, i = plain_read(model, branches)
    known = model.training_pairs[1].tolist()
    less = [model.popularity_correction * math.log(max(known.count(item), 1)) for item in items]
    total = plain_contrast(u[users], i[items], model.temperature, range(len(users)), same=items, less=less)
    joint, names = branches[0][1][items], list(model.features)
    for modality in order or names:
        joint = model.joint[modality](joint)
        own = model.own[modality](branches[1 + names.index(modality)][1][items])
        rows = [b for b in firsts(items) if model.features.observed[modality][items[b]]]
        part = plain_contrast(joint, own, model.contrastive_temperature, rows, unit=False)
        total = total + model.contrastive_weight * model.features.weight[modality] * part
    return total


@pytest.mark.parametrize("order", [None, ["text", "audio", "image"]])
def test_loss_and_gradients_of_the_chain_equal_the_plain_reference(order):
    model = golden_model("B", fac_order=order).train()
    batch = toy_batch(False)
    assert_same_function(total_loss(model, batch), plain_chain_loss(model, batch, order), model)


@pytest.mark.parametrize("correction", [0.3, 1.0])
def test_popular_items_are_negatives_less_often(correction):
    model, batch = golden_model("B", popularity_correction=correction).train(), toy_batch(False)
    plain = plain_chain_loss(model, batch)
    assert_same_function(total_loss(model, batch), plain, model)
    assert (total_loss(golden_model("B").train(), batch) - plain).abs() > 0.01


def test_checkpoints_without_the_correction_train_as_they_did():
    config, dataset = tiny_dataset("SLMRec", PAIRS, FEATURES, None, embedding_size=4)
    assert SLMRec(config, dataset).popularity_correction == 0.5
    del config.final_config_dict["popularity_correction"]
    assert SLMRec(config, dataset).popularity_correction == 0


@pytest.mark.parametrize("n_modalities", [1, 2, 3, 4])
def test_loss_and_gradients_equal_the_plain_reference_in_random_worlds(n_modalities):
    pairs, features = random_world(n_modalities, n_modalities)
    options = {"embedding_size": 4, "modality_weight": {"audio": 2.0}, "contrastive_weight": 0.7}
    model = tiny_model("SLMRec", pairs, features, **options).double().train()
    batch = random_batch(pairs)
    assert_same_function(total_loss(model, batch), plain_chain_loss(model, batch), model)


def test_dropped_views_equal_the_plain_reference():
    model = golden_model("B", ssl_task="FD", contrastive_weight=1.0).train()
    batch, n_nodes = toy_batch(False), model.n_users + model.n_items
    generator = torch.Generator().manual_seed(3)
    keep = torch.rand(2, model.n_layers, n_nodes, 8, generator=generator, dtype=torch.float64).gt(0.3) / 0.7
    parts = iter([part for view in keep for hop in view for part in hop.split([model.n_users, model.n_items])])
    original, F.dropout = F.dropout, lambda states, rate, training: states * next(parts)
    try:
        loss = model.calculate_loss(batch)[1]
    finally:
        F.dropout = original
    users, items = batch["user_id"].tolist(), batch["item_id"].tolist()
    views = []
    for view in keep:
        masks = [[hop[:, 2 * b : 2 * b + 2] for hop in view] for b in range(4)]
        views.append(plain_read(model, plain_branches(model, masks=masks)))
    expected = plain_contrast(views[0][0][users], views[1][0][users], 0.5, firsts(users))
    expected = expected + plain_contrast(views[0][1][items], views[1][1][items], 0.5, firsts(items))
    assert_same_function(loss, expected, model)


def test_masked_views_hide_one_input_each_and_leave_the_other_branches(monkeypatch):
    model, seen = golden_model("B", ssl_task="FM").train(), []
    monkeypatch.setattr(model, "_contrast", lambda views, user, item: seen.append(views) or views[0][0].sum() * 0)
    batch = toy_batch(False)
    monkeypatch.setattr(torch, "randperm", lambda n: torch.tensor([2, 0, 1, 3]))
    model.calculate_loss(batch)
    for view, gone in zip(seen[0], (2, 0)):
        plain = plain_branches(model, gone=gone)
        for side, ids in enumerate((batch["user_id"], batch["item_id"])):
            expected = torch.stack([branch[side][ids] for branch in plain], dim=1)
            torch.testing.assert_close(view[side], expected, rtol=1e-12, atol=1e-12)


def test_the_chain_compares_inner_products():
    """A common factor on the branches scales the logits by its square: they are no cosines."""
    model, seen = golden_model("A").train(), []
    import recbole_mm.model.slmrec as module

    original = module.info_nce_loss
    try:
        module.info_nce_loss = lambda left, right, *_, **options: (
            seen.append((left, right, options)) or original(left, right, *_, **options)
        )
        branches = torch.randn(4, 3, 2, dtype=torch.float64)
        values = [model._chain(factor * branches, toy_batch()["item_id"]) for factor in (1, 3)]
    finally:
        module.info_nce_loss = original
    assert all(options["normalize"] is False for *_, options in seen)
    assert values[0] != values[1]
    torch.testing.assert_close(seen[2][0] @ seen[2][1].T, 9 * (seen[0][0] @ seen[0][1].T))


def test_a_doubled_batch_gives_the_same_chain_and_another_main_loss():
    model, batch = golden_model("B").train(), toy_batch(False)
    doubled = Interaction({key: value.repeat(2) for key, value in batch.interaction.items()})
    once, twice = model.calculate_loss(batch), model.calculate_loss(doubled)
    torch.testing.assert_close(once[1], twice[1])
    assert once[0] != twice[0]
    counted = golden_model("B", distinct_ids=False).train()
    assert counted.calculate_loss(batch)[1] != counted.calculate_loss(doubled)[1]


def test_parameters_are_those_of_the_paper():
    for names in (["text"], ["image", "text"], ["audio", "image", "text"]):
        model, d, m = build("SLMRec", embedding_size=8, modalities=names).model, 8, len(names)
        chain = 2 * (d * d + d) if m == 1 else 2 * (m - 1) * (d * d + d) + 2 * (d * d // 2 + d // 2)
        maps = sum(width * d + d for width in model.features.dims.values())
        expected = (model.n_users + model.n_items) * d + maps + 2 * ((1 + m) * d * d + d) + chain
        assert sum(p.numel() for p in model.parameters()) == expected


def test_without_dropout_the_views_are_one():
    built = build("SLMRec", ssl_task="FD", dropout=0.0)
    loss = built.model.train().calculate_loss(built.batch(50))[1] / built.model.contrastive_weight
    users = built.batch(50)["user_id"].unique().numel()
    assert 0 < loss < 2 * np.log(users)


@pytest.mark.parametrize("options", [{"ssl_task": "FD"}, {"ssl_task": "FM"}, {"ssl_task": "FD+FM"}], ids=str)
def test_every_task_trains_the_encoder(options):
    built = build("SLMRec", **options)
    total_loss(built.model.train(), built.batch(60)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.model.parameters())
    assert not hasattr(built.model.joint, "text")


def test_cosines_rank_by_direction_only():
    model = golden_model("A", score="cosine")
    with torch.no_grad():
        users, items = model.eval()()
    for table in (users, items):
        torch.testing.assert_close(table.norm(dim=1), torch.ones(len(table), dtype=torch.float64))
    plain = golden_model("A").eval()()
    torch.testing.assert_close(users, F.normalize(plain[0], dim=1))


def test_no_weight_is_the_main_loss_alone():
    built = build("SLMRec", contrastive_weight=0.0)
    assert isinstance(built.model.train().calculate_loss(built.batch(20)), torch.Tensor)


def test_the_chain_needs_every_modality_once():
    for order in (["image"], ["image", "text", "text", "audio"], ["image", "text", "audio", "smell"]):
        with pytest.raises(ValueError, match="fac_order.*expected each of audio, image, text once"):
            build("SLMRec", fac_order=order)
    left_out = build("SLMRec", fac_order=["text", "audio", "image"], modality_weight={"audio": 0}).model
    assert left_out.order == ["text", "image"]
