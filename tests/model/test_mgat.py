"""MGAT against a plain reference and its hand cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recbole_mm.model.mgat import MGAT, _Layer
from recbole_mm.nn.graph.bipartite import BipartiteGraph
from tests.model.conftest import build
from tests.model.tiny import assert_same_function, tiny_model

FEATURES = {"image": np.arange(12, dtype=np.float32).reshape(4, 3) - 5, "text": np.eye(4, 2, dtype=np.float32) + 0.5}
PAIRS = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (3, 2)]


def reference_scores(model: MGAT, gate: str, gate_degree: str) -> torch.Tensor:
    """MGAT node by node over one dense adjacency matrix."""
    n_users, n_nodes = model.n_users, model.n_users + model.n_items
    adjacency = torch.zeros(n_nodes, n_nodes, dtype=torch.float64)
    for user, item in zip(*model.training_pairs):
        adjacency[user, n_users + item] = adjacency[n_users + item, user] = 1.0
    degree = adjacency.sum(dim=1)
    embedding = torch.cat([model.user_embedding, model.item_embedding])
    fused = 0
    for modality, feature in model.features.items():
        state = F.normalize(torch.cat([model.preference[modality], torch.tanh(model.project[modality](feature))]))
        outputs = []
        for layers in model.layers:
            layer = layers[modality]
            transformed = state @ layer.attention
            attended = []
            for target in range(n_nodes):
                total = layer.bias
                sources = adjacency[target].nonzero().flatten().tolist()
                if sources:
                    logits = []
                    for source in sources:
                        score = transformed[target] @ F.leaky_relu(transformed[source])
                        if gate == "inner":
                            root = degree[source if gate_degree == "source" else target].sqrt()
                            score = score * torch.sigmoid(score / root)
                        logits.append(score)
                    for weight, source in zip(torch.stack(logits).softmax(dim=0), sources):
                        total = total + weight * transformed[source]
                attended.append(F.normalize(total, dim=0))
            own = F.leaky_relu(layer.own(state)) + embedding
            state = F.leaky_relu(layer.gate(F.leaky_relu(torch.stack(attended))) + own)
            outputs.append(state)
        fused = fused + model.features.weight[modality] * torch.cat(outputs, dim=1) / len(model.features)
    return fused[:n_users] @ fused[n_users:].T


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("gate, gate_degree", [("inner", "source"), ("inner", "target"), ("none", "source")])
def test_scores_and_gradients_equal_the_plain_reference(n_layers, gate, gate_degree):
    options = {"n_layers": n_layers, "gate": gate, "gate_degree": gate_degree, "embedding_size": 4}
    model = tiny_model("MGAT", PAIRS, FEATURES, projection_dim={"image": 5}, **options).double()
    users, items = model()
    assert_same_function(users @ items.T, reference_scores(model, gate, gate_degree), model)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_batch_rows_equal_the_full_forward_with_gradients(n_layers):
    model = tiny_model("MGAT", PAIRS, FEATURES, n_layers=n_layers, embedding_size=4).double()
    user, item = torch.tensor([3, 1, 3]), torch.tensor([2, 2])
    users, items = model.modality_states(user, item)
    all_users, all_items = model()
    cut, full = (
        (model.features.weighted_mean(users), model.features.weighted_mean(items)),
        (all_users[user], all_items[item]),
    )
    for left, right in zip(cut, full):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
    parameters = list(model.parameters())
    left = torch.autograd.grad(sum(x.square().sum() for x in cut), parameters)
    right = torch.autograd.grad(sum(x.square().sum() for x in full), parameters)
    for a, b in zip(left, right):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "gate_degree, weights, message",
    [("source", [0.676128, 0.323872], 0.352256), ("target", [0.662565, 0.337435], None)],
)
def test_gate_by_hand(gate_degree, weights, message):
    """One user (1, 0), two items (1, 0) and (-1, 0) of degree 1."""
    graph = BipartiteGraph(torch.tensor([0, 0]), torch.tensor([0, 1]), 1, 2)
    layer = _Layer(2, 2, 0.0).double()
    degree = {"source": graph.item_degree[graph.to_user.col], "target": graph.user_degree[graph.to_user.row]}
    users, items = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double()
    received, alpha = layer.attend(graph.to_user, degree[gate_degree], users, items)
    assert alpha.tolist() == pytest.approx(weights, abs=1e-6)
    assert received[0, 0].item() == pytest.approx(message if message else weights[0] - weights[1], abs=2e-6)


def test_attention_sums_to_one_and_equal_neighbours_share_equally():
    model = build("MGAT", gate_degree="target").model
    layer, graph = model.layers[0]["text"], model.graph
    users, items = torch.randn(model.n_users, 24), torch.ones(model.n_items, 24)
    _, alpha = layer.attend(graph.to_user, model.user_gate_degree, users, items)
    degree = graph.user_degree[graph.to_user.row]
    torch.testing.assert_close(alpha, 1 / degree)
    sums = torch.zeros(model.n_users).index_add(0, graph.to_user.row, alpha)
    torch.testing.assert_close(sums, graph.user_degree.gt(0).float())


def test_isolated_node_receives_the_bias():
    model = tiny_model("MGAT", PAIRS, {"text": FEATURES["text"]}, embedding_size=4).double()
    layer = model.layers[0]["text"]
    received, _ = layer.attend(
        model.graph.to_item, None, torch.ones(5, 2).double(), torch.ones(model.n_users, 2).double()
    )
    assert received[4].eq(0).all() and model()[1].isfinite().all()


def test_two_layers_put_outputs_side_by_side():
    one, two = build("MGAT", n_layers=1).model, build("MGAT", n_layers=2).model
    assert one()[0].shape[1] == 64 and two()[0].shape[1] == 128


def test_width_rule_and_projection_option():
    wide = {"image": np.random.default_rng(0).normal(size=(4, 300)).astype(np.float32)}
    assert tiny_model("MGAT", PAIRS, wide).preference["image"].shape[1] == 256
    assert tiny_model("MGAT", PAIRS, FEATURES).preference["image"].shape[1] == 3
    assert tiny_model("MGAT", PAIRS, FEATURES, projection_dim=7).preference["image"].shape[1] == 7


def test_dropout_acts_in_training_only():
    model = build("MGAT", dropout=0.5).model
    assert not torch.equal(model.train()()[0], model()[0])
    assert torch.equal(model.eval()()[0], model()[0])


def test_loss_is_the_ranking_loss():
    built = build("MGAT")
    model, batch = built.model.train(), built.batch(8)
    users, items = model()
    gap = (users[batch["user_id"]] * (items[batch["item_id"]] - items[batch["neg_item_id"]])).sum(dim=1)
    torch.testing.assert_close(model.calculate_loss(batch), -F.logsigmoid(gap).mean())


def test_three_layers_are_refused():
    with pytest.raises(ValueError, match="n_layers"):
        build("MGAT", n_layers=3)
