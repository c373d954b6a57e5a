"""GRCN against a plain reference and its hand cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recbole_mm.model.grcn import GRCN
from tests.model.conftest import build
from tests.model.tiny import assert_same_function, tiny_model

FEATURES = {"image": np.arange(12, dtype=np.float32).reshape(4, 3) - 5, "text": np.eye(4, 2, dtype=np.float32) + 0.5}
PAIRS = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (3, 3), (3, 2)]


def _table(model, table):
    """Rows of a trained table as the model reads them."""
    return F.normalize(table) if model.normalize_tables else table


def _content(model, modality, kept=None):
    """Content parts and attention on the whole graph."""
    return model._content(modality, model.preference[modality], model.neighbourhood(), kept)


def reference_scores(model: GRCN) -> torch.Tensor:
    """GRCN node by node over Python adjacency lists."""
    n_users = model.n_users
    liked = [[] for _ in range(n_users)]
    fans = [[] for _ in range(model.n_items)]
    for user, item in zip(*(ids.tolist() for ids in model.training_pairs)):
        liked[user].append(item)
        fans[item].append(user)
    names, scale = list(model.features), model.features.weight
    content, towards_user, towards_item = [], {}, {}
    for m in names:
        f = F.normalize(F.leaky_relu(model.project[m](model.features[m])))
        p = list(_table(model, model.preference[m]).unbind(0))
        for _ in range(model.n_routings):
            for user in range(n_users):
                moved = p[user]
                if liked[user]:
                    a = torch.stack([p[user] @ f[i] for i in liked[user]]).softmax(dim=0)
                    moved = moved + sum(w * f[i] for w, i in zip(a, liked[user]))
                p[user] = F.normalize(moved, dim=0)
        users, items = [], []
        for user in range(n_users):
            total = p[user]
            if liked[user]:
                for w, i in zip(torch.stack([p[user] @ f[i] for i in liked[user]]).softmax(dim=0), liked[user]):
                    towards_user[m, user, i] = w
                    total = total + w * f[i]
            users.append(total)
        for item in range(model.n_items):
            total = f[item]
            if fans[item]:
                for w, u in zip(torch.stack([p[u] @ f[item] for u in fans[item]]).softmax(dim=0), fans[item]):
                    towards_item[m, item, u] = w
                    total = total + w * p[u]
            items.append(total)
        content.append((scale[m] * torch.stack(users), scale[m] * torch.stack(items)))

    def weight(attention, target, source, source_node):
        if model.pruning == "none":
            user, item = (target, source) if attention is towards_user else (source, target)
            return torch.tensor((len(liked[user]) * len(fans[item])) ** -0.5, dtype=torch.float64)
        values = [scale[m] * attention[m, target, source] for m in names]
        if model.weight_mode == "confidence":
            values = [model.confidence[source_node, k] * value for k, value in enumerate(values)]
        value = torch.stack(values).mean() if model.weight_mode == "mean" else torch.stack(values).max()
        if model.message_norm == "symmetric":
            users, items = (target, source) if attention is towards_user else (source, target)
            degrees = len(liked[users]), len(fans[items])
            value = value * (degrees[0] / degrees[1]) ** (0.5 if attention is towards_user else -0.5)
        return value.relu() if model.pruning == "hard" else value

    embedding = _table(model, model.embedding)
    users, items = list(embedding[:n_users]), list(embedding[n_users:])
    total_users, total_items = list(users), list(items)
    for _ in range(model.n_layers):
        zero = torch.zeros_like(embedding[0])
        new_users = [
            sum((weight(towards_user, u, i, n_users + i) * items[i] for i in liked[u]), zero) for u in range(n_users)
        ]
        new_items = [
            sum((weight(towards_item, i, u, u) * users[u] for u in fans[i]), zero) for i in range(model.n_items)
        ]
        users, items = new_users, new_items
        total_users = [a + b for a, b in zip(total_users, users)]
        total_items = [a + b for a, b in zip(total_items, items)]
    left, right = [torch.stack(total_users)], [torch.stack(total_items)]
    left, right = left + [c[0] for c in content], right + [c[1] for c in content]
    if model.fusion == "concat":
        return torch.cat(left, dim=1) @ torch.cat(right, dim=1).T
    if model.fusion == "mean":
        return torch.stack(left).mean(dim=0) @ torch.stack(right).mean(dim=0).T
    return left[0] @ right[0].T


@pytest.mark.parametrize("pruning", ["soft", "hard", "none"])
@pytest.mark.parametrize("weight_mode, n_routings", [("confidence", 2), ("max", 0), ("mean", 1)])
@pytest.mark.parametrize("fusion", ["concat", "mean"])
def test_scores_and_gradients_equal_the_plain_reference(pruning, weight_mode, n_routings, fusion):
    options = {"pruning": pruning, "weight_mode": weight_mode, "n_routings": n_routings, "fusion": fusion}
    options |= {"confidence_start": "random", "message_norm": "attention" if fusion == "mean" else "symmetric"}
    options |= {"modality_weight": {"image": 2.0}, "embedding_size": 4, "content_size": 4}
    options["normalize_tables"] = weight_mode == "max"
    model = tiny_model("GRCN", PAIRS, FEATURES, **options).double()
    users, items = model()
    assert_same_function(users @ items.T, reference_scores(model), model)


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_any_number_of_layers_equals_the_plain_reference(n_layers):
    model = tiny_model("GRCN", PAIRS, FEATURES, n_layers=n_layers, embedding_size=4, content_size=3).double()
    users, items = model()
    assert_same_function(users @ items.T, reference_scores(model), model)


def test_id_fusion_scores_with_the_refined_graph_alone():
    model = tiny_model("GRCN", PAIRS, FEATURES, fusion="id", embedding_size=4, content_size=3).double()
    users, items = model()
    assert users.shape[1] == 4
    torch.testing.assert_close(users @ items.T, reference_scores(model), rtol=1e-12, atol=1e-12)


def hand_model(n_routings: int) -> GRCN:
    """One user with p = (1, 0) and two items with f = (1, 0) and (0, 1)."""
    features = {"text": np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)}
    options = {"content_size": 2, "embedding_size": 2, "n_routings": n_routings}
    options |= {"normalize_tables": True, "feature_norm": "none"}
    model = tiny_model("GRCN", [(0, 0), (0, 1)], features, **options).double()
    with torch.no_grad():
        model.project["text"].weight.copy_(torch.eye(2))
        model.project["text"].bias.zero_()
        model.preference["text"].copy_(torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
    return model


@pytest.mark.parametrize(
    "routings, prototype",
    [(1, (0.988145, 0.153521)), (2, (0.965269, 0.261258)), (3, (0.940186, 0.340663))],
)
def test_routing_by_hand(routings, prototype):
    content = _content(hand_model(routings), "text")
    logits = torch.tensor(prototype)
    expected = logits.softmax(dim=0)
    at_users, at_items = next(iter(content.attention.values()))
    torch.testing.assert_close(at_users.float(), expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(content.users[1].float(), logits + expected, rtol=0, atol=2e-6)
    assert at_items.tolist() == [1.0, 1.0]


def test_final_attention_and_content_by_hand():
    content = _content(hand_model(3), "text")
    assert next(iter(content.attention.values()))[0].tolist() == pytest.approx([0.645547, 0.354453], abs=1e-6)
    assert content.users[1].tolist() == pytest.approx([1.585733, 0.695116], abs=1e-6)


def test_routing_moves_users():
    first, second = (_content(hand_model(n), "text").users for n in (0, 3))
    assert not torch.allclose(first, second)


def test_attention_sums_to_one_on_both_sides():
    model = build("GRCN").model
    content = _content(model, "image")
    at_users, at_items = content.attention[model.graph]
    for weights, pattern in ((at_users, model.graph.to_user), (at_items, model.graph.to_item)):
        sums = torch.zeros(pattern.n_rows).index_add(0, pattern.row, weights.detach())
        torch.testing.assert_close(sums, pattern.degree().gt(0).float())


def test_parameter_count():
    model = build("GRCN").model
    n_nodes, n_modalities = model.n_users + model.n_items, 3
    dense = sum(width * 64 + 64 for width in model.features.dims.values())
    expected = n_nodes * n_modalities + n_nodes * 64 + n_modalities * model.n_users * 64 + dense
    assert sum(p.numel() for p in model.parameters()) == expected


def test_parameter_count_of_the_reference_setting():
    def count(n_users, n_items):
        n_nodes = n_users + n_items
        return n_nodes * 2 + n_nodes * 64 + 2 * n_users * 64 + (4096 * 64 + 64) + (384 * 64 + 64)

    assert count(4861, 1762) == 1_346_174
    features = {"image": np.ones((3, 4096), dtype=np.float32), "text": np.ones((3, 384), dtype=np.float32)}
    model = tiny_model("GRCN", [(0, 0), (0, 1), (1, 2)], features)
    assert sum(p.numel() for p in model.parameters()) == count(model.n_users, model.n_items)


def test_confidence_one_weighs_by_attention_and_zero_stops_messages():
    model = tiny_model("GRCN", PAIRS, {"text": FEATURES["text"]}, embedding_size=4, message_norm="attention").double()
    with torch.no_grad():
        model.confidence.fill_(1.0)
    content = {"text": _content(model, "text")}
    part = model.neighbourhood()
    to_users, to_items = model._edge_weights(model.graph, model._tables(part), content, None)
    attention = content["text"].attention[model.graph]
    assert torch.equal(to_users, attention[0]) and torch.equal(to_items, attention[1])
    with torch.no_grad():
        model.confidence.zero_()
    users, items = model._propagate_ids(part, model._tables(part), {"text": _content(model, "text")}, None)
    assert torch.equal(torch.cat([users, items]), model.embedding)


def test_soft_pruning_reaches_the_confidence_of_every_node_with_an_edge():
    model = tiny_model("GRCN", PAIRS, {"text": FEATURES["text"]}, embedding_size=4).double()
    users, items = model()
    (users @ items.T).square().sum().backward()
    degree = torch.cat([model.graph.user_degree, model.graph.item_degree])
    assert torch.equal(model.confidence.grad.abs().sum(dim=1) > 0, degree > 0)


def test_edge_dropout_drops_in_training_only():
    built = build("GRCN", edge_dropout=0.5)
    model = built.model.eval()
    assert torch.equal(model()[0], model()[0])
    model.train()
    assert not torch.equal(model()[0], model()[0])
    kept = torch.zeros(model.graph.n_edges, dtype=torch.bool)
    content = _content(model, "text", kept)
    assert content.attention[model.graph][0].eq(0).all()
    torch.testing.assert_close(content.users, F.normalize(model.preference["text"]))  # what the routing leaves


def test_cold_items_lose_their_untrained_id_vector_on_request():
    plain = tiny_model("GRCN", PAIRS[:-2], FEATURES).eval()
    zeroed = tiny_model("GRCN", PAIRS[:-2], FEATURES, zero_id_for_cold=True).eval()
    assert plain()[1][4, :64].abs().sum() > 0
    assert zeroed()[1][4, :64].eq(0).all()
    assert torch.equal(plain()[1][3], zeroed()[1][3])


def test_options_that_use_no_feature_or_mix_widths_are_refused():
    with pytest.raises(ValueError, match="no feature"):
        build("GRCN", fusion="id", pruning="none")
    with pytest.raises(ValueError, match="no feature"):
        build("GRCN", fusion="id", n_layers=0)
    with pytest.raises(ValueError, match="equal widths"):
        build("GRCN", fusion="mean", content_size=8)


def test_before_training_even_attention_is_lightgcn():
    """Confidence 1 and symmetric messages: with equal features, what travels has LightGCN's weights."""
    features = {"text": np.ones((4, 2), dtype=np.float32)}
    model = tiny_model("GRCN", PAIRS, features, embedding_size=4, content_size=3, n_layers=2).double().eval()
    with torch.no_grad():
        model.preference["text"].zero_()  # every item is alike to every user
    users, items = (part[:, :4] for part in model())
    first = model.embedding.split([model.n_users, model.n_items])
    second = model.graph.propagate(*first)
    third = model.graph.propagate(*second)
    for actual, side in ((users, 0), (items, 1)):
        torch.testing.assert_close(actual, first[side] + second[side] + third[side], rtol=1e-12, atol=1e-12)


def test_random_confidences_let_next_to_nothing_travel():
    one, random = (build("GRCN", confidence_start=start).model for start in ("one", "random"))
    assert one.confidence.eq(1).all()
    assert random.confidence.abs().mean() < 0.2 and random.confidence.lt(0).any()
