"""MMGCL against plain references of its encoder and its contrastive objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recbole_mm.model.mmgcl import MMGCL
from tests.model.conftest import build, train_steps
from tests.model.tiny import assert_same_function, tiny_model
from tests.nn.graph.test_branches import dense_lightgcn

FEATURES = {"image": np.arange(12, dtype=np.float32).reshape(4, 3) - 5, "text": np.eye(4, 2, dtype=np.float32) + 0.5}
PAIRS = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (3, 2)]


def reference_scores(model: MMGCL) -> torch.Tensor:
    """One dense LightGCN per branch, then the readout of the concatenation."""
    inputs = [model.item_embedding, *(model.project[m](feature) for m, feature in model.features.items())]
    scale = [1.0, *(model.features.weight[m] for m in model.features)]
    values = model.graph.sym_norm(torch.float64)
    branches = [dense_lightgcn(values, model.graph, model.user_embedding, table, model.n_layers) for table in inputs]
    users = model.read_users(torch.cat([s * branch[0] for s, branch in zip(scale, branches)], dim=1))
    items = model.read_items(torch.cat([s * branch[1] for s, branch in zip(scale, branches)], dim=1))
    return users @ items.T


@pytest.mark.parametrize("n_layers", [0, 1, 2, 3])
def test_scores_and_gradients_equal_the_plain_reference(n_layers):
    options = {"n_layers": n_layers, "embedding_size": 4, "modality_weight": {"image": 2.0}}
    model = tiny_model("MMGCL", PAIRS, FEATURES, **options).double()
    users, items = model()
    assert_same_function(users @ items.T, reference_scores(model), model)


def plain_contrast(anchors, others, tau, extra=None):
    """InfoNCE row by row."""
    anchors, others = F.normalize(anchors), F.normalize(others)
    total = 0
    for b in range(len(anchors)):
        logits = [anchors[b] @ other / tau for other in others]
        if extra is not None:
            logits.append(anchors[b] @ F.normalize(extra, dim=1)[b] / tau)
        total = total + torch.stack(logits).logsumexp(dim=0) - logits[b]
    return total / len(anchors)


def distinct_views(model, batch):
    """Main rows of the batch and its distinct users and items, for views without augmentation."""
    user, positive, negative = batch["user_id"], batch["item_id"], batch["neg_item_id"]
    part = model.neighbourhood()
    users, items = model._encode(part, torch.cat(model._inputs(part), dim=1), model.norm)
    return users.rows(user), items.rows(positive), items.rows(negative)


def firsts(ids):
    return [index for index, value in enumerate(ids.tolist()) if value not in ids[:index].tolist()]


def test_contrastive_loss_without_augmentation_equals_the_plain_sum():
    options = {"edge_dropout": 0.0, "cn_modality": "text", "ssl_task": "ED+MM+CN", "contrast_by_length": False}
    built = build("MMGCL", **options)
    model, batch = built.model.train(), built.batch(40)
    main = distinct_views(model, batch)
    model._mask_view = lambda part, inputs, rows: rows
    loss = model.calculate_loss(batch)[1] / model.contrastive_weight
    z_user = model._read(model.read_users, main[0])
    z_item = model._read(model.read_items, main[1])
    swapped = main[1].clone()
    swapped[:, 3] = main[2][:, 3]  # branches: id, audio, image, text
    challenge = model._read(model.read_items, swapped)
    u, i, tau = firsts(batch["user_id"]), firsts(batch["item_id"]), model.contrastive_temperature
    assert len(u) < 40 and len(i) < 40, "the batch must hold repeated users and items"
    expected = plain_contrast(z_user[u], z_user[u], tau) + plain_contrast(z_item[i], z_item[i], tau, challenge[i])
    torch.testing.assert_close(loss, expected)


def test_the_contrast_is_weighed_by_the_lengths_of_the_readouts_up_to_one():
    shares = []
    for size in (1.0, 100.0):
        losses = {}
        for by_length in (False, True):
            built = build("MMGCL", ssl_task="ED", edge_dropout=0.0, contrast_by_length=by_length)
            model, batch = built.model.train(), built.batch(40)
            with torch.no_grad():
                model.read_users.weight.mul_(size)
            losses[by_length] = model.calculate_loss(batch)[1].item()
            users, items = model()
        lengths = [rows[ids].norm(dim=1).mean() for rows, ids in ((users, batch["user_id"]), (items, batch["item_id"]))]
        shares.append(losses[True] / losses[False])
        assert shares[-1] == pytest.approx(min(1.0, (lengths[0] * lengths[1]).item()), rel=1e-5)
    assert shares[0] < 0.5 and shares[1] == 1.0


@pytest.mark.parametrize("name", ["MMGCL", "MGCN", "SMORE"])
@pytest.mark.parametrize("contrast_by_length", [True, False])
def test_bpr_and_not_the_contrast_sets_the_direction_at_the_start(name, contrast_by_length):
    weight = 0.1 if name == "MMGCL" else 0.01
    built = build(name, contrast_by_length=contrast_by_length, contrastive_weight=weight)
    model, batch = built.model.train(), built.batch()
    tables = [model.user_embedding, model.item_embedding]
    losses = model.calculate_loss(batch)
    ranking, contrast = (
        torch.cat([g.flatten() for g in torch.autograd.grad(term, tables, retain_graph=True)]).norm()
        for term in (losses[0], losses[-1])
    )
    assert (contrast < ranking) == contrast_by_length


def test_user_item_pairing_contrasts_within_each_view():
    built = build("MMGCL", edge_dropout=0.0, ssl_pair="user_item", ssl_task="ED", contrast_by_length=False)
    model, batch = built.model.train(), built.batch(40)
    main = distinct_views(model, batch)
    loss = model.calculate_loss(batch)[1] / model.contrastive_weight
    both = sorted(set(firsts(batch["user_id"])) & set(firsts(batch["item_id"])))
    users, items = model._read(model.read_users, main[0])[both], model._read(model.read_items, main[1])[both]
    torch.testing.assert_close(loss, 2 * plain_contrast(users, items, model.contrastive_temperature))


def test_masking_a_modality_hides_its_features_and_leaves_the_other_branches():
    built = build("MMGCL", mask_probability={"image": 1.0, "text": 0.0, "audio": 0.0})
    model, batch = built.model.train(), built.batch(30)
    part = model.neighbourhood(batch["user_id"], batch["item_id"])
    inputs = model._inputs(part)
    users, items = model._encode(part, torch.cat(inputs, dim=1), model.norm)
    main = users.rows(part.user), items.rows(part.item)
    masked = model._mask_view(part, inputs, main)
    branch = 1 + list(model.features).index("image")
    for before, after in zip(main, masked):
        same = [torch.equal(before[:, b], after[:, b]) for b in range(before.shape[1])]
        assert same == [b != branch for b in range(before.shape[1])]
    gradient = torch.autograd.grad(
        masked[0][:, branch].sum() + masked[1][:, branch].sum(), model.project["image"].weight
    )
    assert gradient[0].eq(0).all()
    noise = masked[1][:, branch].std() / main[1][:, branch].std()
    assert 0.3 < noise < 3, "random vectors have the scale of the table that they replace"


def test_modalities_are_masked_as_often_as_asked():
    model = build("MMGCL", mask_probability={"image": 0.5, "text": 0.3, "audio": 0.2}).model
    drawn = torch.tensor([model._draw_branch() for _ in range(3000)])
    shares = [(drawn == branch).float().mean().item() for branch in (1, 2, 3)]
    assert shares == pytest.approx([0.2, 0.5, 0.3], abs=0.04)


def test_challenging_negative_equals_the_positive_when_both_items_are_one():
    built = build("MMGCL", cn_modality="text", ssl_task="ED+MM+CN")
    model, batch = built.model.eval(), built.batch(20)
    captured = {}
    model._read = lambda readout, rows: captured.setdefault(len(captured), MMGCL._read(model, readout, rows))
    users, items = distinct = distinct_views(model, batch)[:2]
    view = (distinct[0], torch.cat([items, items]))
    model._contrast(view, view, batch["user_id"], batch["item_id"])
    assert users.shape[0] == 20
    torch.testing.assert_close(captured[4], captured[1])  # the challenge, and the positive in view A


@pytest.mark.parametrize(
    "options",
    [
        {"ssl_task": "ED+MM"},
        {"ssl_task": "ED"},
        {"ssl_task": "MM"},
        {"ssl_pair": "user_item"},
        {"mask_mode": "node_dropout", "edge_dropout": 0.3},
        {"edge_drop_scope": "one_modality"},
        {"cn_in": "user"},
        {"cn_in": "none"},
        {"cn_modality": "image"},
        {"edge_dropout": 0.5},
        {"contrastive_temperature": 0.5},
    ],
    ids=str,
)
def test_every_switch_changes_the_loss_and_trains(options):
    losses = []
    for chosen in ({}, options):
        built = build("MMGCL", mask_probability={"text": 1.0, "image": 0.0, "audio": 0.0}, **chosen)
        torch.manual_seed(0)
        losses.append(sum(built.model.train().calculate_loss(built.batch(100))).item())
    assert losses[0] != losses[1] and np.isfinite(train_steps(built, 2)).all()


def test_no_contrast_is_a_plain_multi_branch_lightgcn():
    for options in ({"contrastive_weight": 0.0}, {"ssl_task": "none"}):
        built = build("MMGCL", **options)
        batch = built.batch(30)
        users, items = built.model.train()()
        gap = (users[batch["user_id"]] * (items[batch["item_id"]] - items[batch["neg_item_id"]])).sum(dim=1)
        torch.testing.assert_close(built.model.calculate_loss(batch), -F.logsigmoid(gap).mean())


def test_augmentation_leaves_the_negative_sampler_alone():
    """The sampler draws from numpy, the augmentations from torch."""
    built = build("MMGCL")
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    sum(built.model.train().calculate_loss(_fixed(built))).backward()
    assert (np.random.get_state()[1] == before).all()


def _fixed(built):
    state = np.random.get_state()
    batch = built.batch(30)
    np.random.set_state(state)
    return batch


def test_wrong_names_and_empty_probabilities_are_refused():
    with pytest.raises(ValueError, match="cn_modality"):
        build("MMGCL", cn_modality="imge")
    with pytest.raises(ValueError, match="mask_probability"):
        build("MMGCL", mask_probability={"image": 0.0, "text": 0.0, "audio": 0.0})


def test_a_chance_for_some_modalities_only_is_refused():
    """A default of 1 would make the one that is not named the likeliest of all."""
    with pytest.raises(ValueError, match="give a chance to audio"):
        build("MMGCL", mask_probability={"image": 0.4, "text": 0.2})
    named = build("MMGCL", mask_probability={"image": 0.4, "text": 0.2, "audio": 0.4}, modality_weight={"audio": 0})
    assert named.model.mask_probability == [0.4, 0.2]
