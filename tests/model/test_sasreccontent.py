"""SASRecContent: its id fusion is RecBole's SASRec; fusions, missing modalities, unseen items, histories, the loss."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils import get_model
from torch.nn import functional as F

from recbole_mm.model.next_item import LENGTH_GROUPS
from recbole_mm.model.sasreccontent.items import FUSIONS
from tests.model.conftest import MODALITIES, build, stirred, total_loss
from tests.model.sasrec_names import sasrec_with, under_sasrecs_names
from tests.model.tiny import tiny_model

TINY = {
    "embedding_size": 8, "inner_size": 12, "MAX_ITEM_LIST_LENGTH": 10,
    "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "feature_dropout": 0.0, "id_dropout": 0.0,
}  # fmt: skip
BPR = {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}
NEW = {"cold_start": {"entity": "item", "ratio": 0.3}}


def tiny(**options):
    """A model in double precision with parameters large enough to matter."""
    return stirred(build("SASRecContent", **{**TINY, **options}))


def histories(model, rows):
    """Right-padded histories and their lengths."""
    width = max(len(row) for row in rows)
    return torch.tensor([row + [0] * (width - len(row)) for row in rows]), torch.tensor([len(row) for row in rows])


# --- RecBole's SASRec


def id_and_sasrec(**options):
    built = tiny(fusion="id", negative_items="all", **options)
    return built, sasrec_with(built, built.model.items.item_embedding.weight, built.model.encoder, **options)


@pytest.mark.parametrize("options", [{"loss_type": "CE"}, BPR], ids=["CE", "BPR"])
def test_id_is_recboles_sasrec_at_equal_weights(options):
    built, sasrec = id_and_sasrec(**options)
    model, batch = built.model, built.batch()
    torch.testing.assert_close(model.full_sort_predict(batch), sasrec.full_sort_predict(batch).view(-1))
    torch.testing.assert_close(model.predict(batch), sasrec.predict(batch))
    loss, expected = model.calculate_loss(batch), sasrec.calculate_loss(batch)
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=1e-9)
    loss.backward()
    expected.backward()
    table, encoder = model.items.item_embedding.weight, model.encoder
    gradients = under_sasrecs_names(table, encoder, lambda parameter: parameter.grad)
    for name, parameter in sasrec.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-6, atol=1e-9, msg=name)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"items", "encoder"}
    assert not model.ranks_by_features and tiny(fusion="add").model.ranks_by_features  # what health asks for


@pytest.mark.parametrize("fusion", ["content", "add", "concat", "gate"])
def test_every_fusion_is_recboles_sasrec_of_its_vectors(fusion):
    """Whatever makes an item's vector, encoder and scores are those of a SASRec that has it as embedding."""
    built = tiny(fusion=fusion)
    model, batch = built.model, built.batch(50)
    sasrec = sasrec_with(built, model.item_vectors()[1], model.encoder)
    expected = sasrec.full_sort_predict(batch).view(len(batch), -1)
    torch.testing.assert_close(model.full_sort_predict(batch).view(len(batch), -1), expected)


# --- by hand


def test_two_items_and_one_head_by_hand():
    """Two items, of which the second has been read after the first: every number of the model written out."""
    features = {"text": np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)}
    options = {"embedding_size": 2, "inner_size": 2, "n_layers": 1, "n_heads": 1, "feature_norm": "none"}
    options["load_col"] = {"inter": ["user_id", "item_id", "timestamp"]}
    model = tiny_model("SASRecContent", [(0, 0), (0, 1)], features, **{**TINY, **options}).double().eval()
    encoder, (layer,) = model.encoder, model.encoder.layers
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.items.item_embedding.weight.copy_(torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 1.0]]))
        model.items.project["text"].weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
        encoder.norm_weight.fill_(1)
        layer.query_key_value_weight.copy_(torch.eye(2).repeat(3, 1))
        layer.output_weight.copy_(torch.eye(2))
        layer.attention_norm_weight.fill_(1)
        layer.attention_norm_bias.copy_(torch.tensor([0.5, 0.0]))
        layer.feed_forward_norm_weight.fill_(1)
        layer.feed_forward_norm_bias.copy_(torch.tensor([0.0, 0.25]))
    # Items are e + W f: (3, 0) and (0, 4). The input's normalisation makes (1, -1) and (-1, 1) of them.
    score_own, score_other = 2 / math.sqrt(2), -2 / math.sqrt(2)
    share = 1 / (1 + math.exp(score_own - score_other))  # of the first item
    found = share - (1 - share)  # first coordinate; the second is its negative
    assert -1 + found < 0  # so the normalised sum is (-1, 1), and with its offset (-0.5, 1)
    # The feed-forward block gives 0; the last normalisation makes (-1, 1) again.
    state = torch.tensor([[-1.0, 1.25]], dtype=torch.float64)
    seq, length = histories(model, [[1, 2]])
    torch.testing.assert_close(model(seq, length), state, rtol=0, atol=1e-9)
    batch = Interaction({"item_id_list": seq, "item_length": length, "item_id": torch.tensor([2])})
    expected = torch.tensor([0.0, -3.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(model.full_sort_predict(batch), expected, rtol=0, atol=1e-9)
    assert model.calculate_loss(batch).item() == pytest.approx(math.log(1 + math.exp(-8.0)), abs=1e-9)


def plain_vector(model, item):
    """Vector of one item, written out."""
    items, dim = model.items, 8
    if item == 0:
        return torch.zeros(dim, dtype=torch.float64)
    observed = {m: bool(model.features.observed[m][item]) for m in MODALITIES}
    parts = {m: items.project[m](model.features[m][item].double()) for m in MODALITIES}
    total = sum(model.features.weight[m] for m in MODALITIES if observed[m])
    mixed = sum(model.features.weight[m] / total * parts[m] for m in MODALITIES if observed[m]) if total else 0
    if model.fusion == "content":
        return mixed + torch.zeros(dim, dtype=torch.float64)
    own = items.item_embedding.weight
    embedded = own[item] if model.seen[item] else own[model.seen].mean(dim=0)
    if model.fusion in ("add", "dif"):
        return embedded + mixed
    weight, bias = items.combine.weight, items.combine.bias
    if model.fusion == "gate":
        if not total:
            return embedded
        gate = torch.sigmoid(weight @ torch.cat([embedded, mixed]) + bias)
        return gate * embedded + (1 - gate) * mixed
    blocks = [parts[m] * model.features.weight[m] if observed[m] else torch.zeros_like(embedded) for m in MODALITIES]
    lacking = sum(items.absent[m] for m in MODALITIES if not observed[m])
    return weight @ torch.cat([embedded, *blocks]) + bias + lacking


@pytest.mark.parametrize("fusion", FUSIONS[1:])
def test_vectors_are_the_plain_definition(fusion):
    built = tiny(fusion=fusion, modality_weight={"image": 3.0}, **NEW)
    model = built.model
    lacking = next(int((~o[1:]).nonzero()[0]) + 1 for o in model.features.observed.values() if not o[1:].all())
    unseen = int((~model.seen[1:]).nonzero()[0]) + 1
    vectors = model.item_vectors()[1]
    for item in (0, 1, lacking, unseen):
        torch.testing.assert_close(vectors[item], plain_vector(model, item), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_loss_is_the_cross_entropy_of_the_scores(fusion, score):
    built = tiny(fusion=fusion, score=score, **NEW)
    model, batch = built.model, built.batch(40)
    scores = model.full_sort_predict(batch).view(len(batch), -1)
    known = model.seen.clone()
    known[0] = fusion == "id"
    expected = F.cross_entropy(scores.masked_fill(~known, -torch.inf), batch["item_id"])
    torch.testing.assert_close(model.calculate_loss(batch), expected, rtol=1e-6, atol=1e-7)
    if score == "cosine":
        assert scores[:, 1:].abs().max() <= 1 / model.temperature + 1e-9


# --- missing modalities


@pytest.mark.parametrize("fusion", FUSIONS[1:])
def test_what_stands_in_place_of_a_missing_modality_changes_nothing(fusion):
    built = tiny(fusion=fusion)
    model, dataset = built.model, built.train_data.dataset
    before, batch = model.state_dict(), built.batch(20)

    def filled(table):
        feature = table.feature.clone()
        feature[~table.observed] = 7.0
        return replace(table, feature=feature)

    store = dataset.features
    assert any((~table.observed[1:]).any() for table in store.item.values())
    # Scaling would see the fillings.
    plain = tiny(fusion=fusion, feature_norm="none")
    other = get_model("SASRecContent")(
        plain.config, dataset.with_features(replace(store, item={m: filled(t) for m, t in store.item.items()}))
    )
    other.double().eval().load_state_dict(before)
    plain.model.load_state_dict(before)
    torch.testing.assert_close(other.full_sort_predict(batch), plain.model.full_sort_predict(batch))


# --- items that training never saw


@pytest.mark.parametrize("fusion", FUSIONS)
def test_an_item_without_training_interaction_has_no_logit_and_no_gradient(fusion):
    built = tiny(fusion=fusion, id_dropout=0.3, **NEW)
    model, batch = built.model.train(), built.batch(60)
    unseen = ~model.seen
    unseen[0] = False
    assert unseen.any()

    def loss():
        torch.manual_seed(0)
        return model.calculate_loss(batch)

    before = loss()
    before.backward()
    if fusion != "content":
        assert model.items.item_embedding.weight.grad[unseen].eq(0).all()
        with torch.no_grad():
            model.items.item_embedding.weight[unseen] += 5.0
    with torch.no_grad():
        for modality in MODALITIES:
            model.features[modality][unseen] += 5.0
    after = loss()
    with torch.no_grad():  # the tables are shared with other tests
        for modality in MODALITIES:
            model.features[modality][unseen] -= 5.0
    assert torch.equal(before, after)


def test_negative_items_all_ranks_them_as_well_where_training_may_know_them():
    options = {"fusion": "content", **NEW}
    losses = {
        key: tiny(**options, cold_features=key[0], negative_items=key[1]) for key in
        [("transductive", "seen"), ("transductive", "all"), ("inductive", "all")]
    }  # fmt: skip
    counts = {key: int(built.model.candidates.sum()) for key, built in losses.items()}
    n_seen = int(losses["transductive", "seen"].model.seen.sum())
    assert counts["transductive", "seen"] == counts["inductive", "all"] == n_seen
    assert counts["transductive", "all"] == losses["transductive", "all"].model.n_items - 1 > n_seen


def test_id_dropout_puts_the_mean_embedding_in_place_of_embeddings_in_training_only():
    built = tiny(id_dropout=1.0, **NEW)
    model = built.model
    embedding = model.items.item_embedding.weight
    total_loss(model.train(), built.batch(30)).backward()
    assert embedding.grad.eq(0).all()
    content = model.items._mixed(model.item_vectors()[0].content, None)
    torch.testing.assert_close(model.item_vectors()[1][1:], (embedding[model.seen].mean(0) + content)[1:])
    model.eval()
    seen = model.seen
    torch.testing.assert_close(model.item_vectors()[1][seen], (embedding + content)[seen])


def test_content_knows_no_ids():
    """Other numbers for the same items, whose scores are then the same."""
    built = tiny(fusion="content", feature_norm="none", modalities=["image"])
    model, store = built.model, built.train_data.dataset.features
    order = torch.cat([torch.zeros(1, dtype=torch.long), torch.randperm(model.n_items - 1) + 1])
    table = store.item["image"]
    moved = replace(table, feature=table.feature[order], observed=table.observed[order])
    other = get_model("SASRecContent")(
        built.config, built.train_data.dataset.with_features(replace(store, item={"image": moved}))
    )
    other.double().eval().load_state_dict(model.state_dict())
    seq, length = histories(model, [[3, 9, 4], [7]])
    place = order.argsort()
    before, after = model.score_states(model(seq, length)), other.score_states(other(place[seq], length))
    torch.testing.assert_close(before[:, order], after)


# --- histories


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_later_item_changes_no_earlier_state(fusion):
    model = tiny(fusion=fusion).model
    table = model.item_vectors()[0]
    seq = torch.tensor([[3, 5, 8, 9]])
    for place in range(4):
        for later in range(4):
            changed = seq.clone()
            changed[0, later] = 11
            states = [model.states(table, x, torch.tensor([place])) for x in (seq, changed)]
            assert torch.equal(*states) == (later > place)


@pytest.mark.parametrize("fusion", ["add", "dif"])
def test_padding_on_either_side_changes_nothing(fusion):
    model = tiny(fusion=fusion).model
    expected = model(*histories(model, [[3, 5, 8]]))
    for row in ([3, 5, 8], [0, 0, 3, 5, 8], [3, 5, 8, 0, 0, 0], [0, 3, 5, 8, 0]):
        torch.testing.assert_close(model.encode_history(torch.tensor([row])), expected)
    torch.testing.assert_close(model.encode_history(torch.tensor([[3, 5, 8, 4]]), torch.tensor([3])), expected)
    long = torch.arange(1, 16)[None]
    torch.testing.assert_close(model.encode_history(long), model(long[:, -10:], torch.tensor([10])))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_short_histories_are_finite(fusion):
    model = tiny(fusion=fusion).model
    for rows in (torch.tensor([[4]]), torch.tensor([[0, 0]]), torch.zeros(1, 0, dtype=torch.long)):
        assert model.score_states(model.encode_history(rows)).isfinite().all()


def test_histories_of_like_length_are_worked_off_together_with_equal_results(monkeypatch):
    built = tiny()
    model = built.model
    batch = built.batch()
    assert len(batch) >= 64 * LENGTH_GROUPS
    widths, states = [], model.states
    monkeypatch.setattr(
        model, "states", lambda table, seq, last: widths.append(seq.shape[1]) or states(table, seq, last)
    )
    grouped = model(batch["item_id_list"], batch["item_length"])
    assert len(widths) == LENGTH_GROUPS and widths[0] < widths[-1]
    table = model.item_vectors()[0]
    torch.testing.assert_close(grouped, states(table, batch["item_id_list"], batch["item_length"] - 1))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([3, 4]), r"a matrix of item ids \(batch, length\), got torch.int64 \(2,\)"),
        (torch.tensor([[0.5]]), "got torch.float32"),
        (torch.tensor([[100000]]), "internal item ids from 0"),
        (torch.tensor([[-1]]), "internal item ids from 0"),
    ],
)
def test_histories_that_are_none_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        tiny().model.encode_history(ids)


# --- work


def test_items_are_computed_once_a_step_and_once_an_evaluation(monkeypatch):
    built = build("SASRecContent", **TINY)
    model, calls = built.model, []
    forward = model.items.forward
    monkeypatch.setattr(model.items, "forward", lambda *a: calls.append(1) or forward(*a))
    model.train().calculate_loss(built.batch(30))
    assert len(calls) == 1
    model.eval()
    with torch.no_grad():
        batch = next(iter(built.test_data))[0]
        first = model.full_sort_predict(batch)
        model.full_sort_predict(batch)
        model.predict(batch)
        assert len(calls) == 2
        model.encoder.position.mul_(1.5)
        assert not torch.equal(model.full_sort_predict(batch), first)
    assert len(calls) == 3


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("options", [{}, BPR], ids=["CE", "BPR"])
def test_every_parameter_learns(fusion, options):
    built = build("SASRecContent", **{**TINY, "fusion": fusion, "projector": "mlp", **options})
    total_loss(built.model.train(), built.batch()).backward()
    for name, parameter in built.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_features_may_be_trained():
    built = build("SASRecContent", **TINY, train_features=True)
    total_loss(built.model.train(), built.batch()).backward()
    for modality in MODALITIES:
        assert built.model.items.feature[modality].grad.abs().sum() > 0
        assert f"items.feature.{modality}" in built.model.state_dict()
    assert not any("feature" in name for name in build("SASRecContent", **TINY).model.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "BPR"}, "needs negatives.*train_neg_sample_args"),
        ({"fusion": "id", "contrastive_weight": 0.1}, "fusion id reads no features"),
        ({"fusion": "sum"}, "'fusion': expected one of id, content, add, concat, gate, dif"),
        ({"n_heads": 3}, "n_heads must divide embedding_size"),
        ({"negative_items": "none"}, "negative_items: expected one of seen, all"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build("SASRecContent", **{**TINY, **options})
