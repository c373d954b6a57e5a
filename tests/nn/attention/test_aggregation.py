"""Attention within and between modalities, and graph encoders, against hand-computed numbers and plain loops."""

from __future__ import annotations

import math

import pytest
import scipy.sparse as sp
import torch

from recbole_mm.nn.attention.aggregation import InterModalAttention, IntraModalAttention
from recbole_mm.nn.graph.graph_encoder import GraphEncoder, WeightedGraph

TOKENS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def identity_attention(dim=2):
    attention = InterModalAttention(dim)
    for layer in (attention.query, attention.key, attention.value):
        torch.nn.init.eye_(layer.weight)
    return attention


def test_golden_numbers_of_the_fusion():
    attention = identity_attention()
    expected = [[0.401112, 0.197776, 0.401112], [0.197776, 0.401112, 0.401112], [0.248255, 0.248255, 0.503490]]
    torch.testing.assert_close(attention.weights(TOKENS), torch.tensor(expected), rtol=0, atol=1e-6)
    torch.testing.assert_close(attention(TOKENS), torch.tensor([0.717619, 0.717619]), rtol=0, atol=1e-6)


def test_permuting_modalities_changes_nothing():
    attention, tokens = InterModalAttention(5), torch.randn(4, 3, 5)
    for order in ([2, 0, 1], [1, 0, 2]):
        torch.testing.assert_close(attention(tokens[:, order]), attention(tokens))


def test_masking_a_modality_is_leaving_it_out():
    attention, tokens = InterModalAttention(5), torch.randn(4, 3, 5)
    present = torch.tensor([True, False, True]).expand(4, 3)
    torch.testing.assert_close(attention(tokens, present), attention(tokens[:, [0, 2]]))
    weights = attention.weights(tokens, present)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(4, 3))
    assert (weights[..., 1] == 0).all()


def test_fusion_without_any_modality_is_zero_with_finite_gradients():
    attention, tokens = InterModalAttention(5), torch.randn(2, 3, 5, requires_grad=True)
    fused = attention(tokens, torch.tensor([[False] * 3, [True] * 3]))
    fused.sum().backward()
    assert (fused[0] == 0).all() and (fused[1] != 0).any()
    assert tokens.grad.isfinite().all() and (tokens.grad[0] == 0).all()


def test_fusion_agrees_with_a_loop_over_modalities():
    attention, tokens = InterModalAttention(4).double(), torch.randn(3, 4, dtype=torch.float64)
    query, key, value = (getattr(attention, name).weight.T for name in ("query", "key", "value"))
    rows = []
    for asking in tokens:
        scores = torch.stack([(asking @ query) @ (other @ key) / math.sqrt(4) for other in tokens])
        weights = scores.exp() / scores.exp().sum()
        rows.append(sum(weight * (other @ value) for weight, other in zip(weights, tokens)))
    torch.testing.assert_close(attention(tokens), sum(rows) / 3)


def pooled(attention, feature, slots, present):
    return attention.pool(*attention.encode(feature), slots, present)


def test_one_review_is_its_encoding():
    attention, feature = IntraModalAttention(3, 4), torch.randn(2, 3)
    slots, present = torch.tensor([[1, 0], [0, 0]]), torch.tensor([[True, False], [False, False]])
    result = pooled(attention, feature, slots, present)
    torch.testing.assert_close(result[0], attention.project(feature[1]))
    assert (result[1] == 0).all()


def test_reviews_are_weighted_by_the_softmax_of_their_logits():
    attention, feature = IntraModalAttention(3, 4).double(), torch.randn(5, 3, dtype=torch.float64)
    slots, present = torch.tensor([[4, 2, 0]]), torch.tensor([[True, True, True]])
    encoded = [attention.project(feature[k]) for k in (4, 2, 0)]
    logits = [attention.query.weight[0] @ torch.tanh(attention.hidden(r)) for r in encoded]
    total = sum(logit.exp() for logit in logits)
    expected = sum(logit.exp() / total * r for logit, r in zip(logits, encoded))
    torch.testing.assert_close(pooled(attention, feature, slots, present)[0], expected)


def test_absent_reviews_are_as_if_they_were_not_there():
    attention, feature = IntraModalAttention(3, 4), torch.randn(5, 3)
    masked = pooled(attention, feature, torch.tensor([[4, 2, 0]]), torch.tensor([[True, False, True]]))
    torch.testing.assert_close(
        masked, pooled(attention, feature, torch.tensor([[4, 0]]), torch.ones(1, 2, dtype=torch.bool))
    )
    feature.requires_grad_()
    pooled(attention, feature, torch.tensor([[4, 2, 0]]), torch.tensor([[True, False, False]])).sum().backward()
    assert (feature.grad[[0, 2]] == 0).all() and (feature.grad[4] != 0).any()


GRAPH = sp.csr_matrix([[1.0, 0.0, 0.0], [0.0, 1.0, 3.0], [0.0, 3.0, 1.0]])


def test_weights_are_normalised_by_both_degrees():
    expected = torch.tensor([[1.0, 0, 0], [0, 0.25, 0.75], [0, 0.75, 0.25]])
    torch.testing.assert_close(WeightedGraph(GRAPH).propagate(torch.eye(3)), expected)


@pytest.mark.parametrize("kind", ["gcn", "lightgcn"])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_graph_encoder_agrees_with_dense_products(kind, layers):
    graph, encoder = WeightedGraph(GRAPH).double(), GraphEncoder(3, 4, layers, kind).double()
    with torch.no_grad():
        encoder.embedding.weight[1:] = torch.randn(2, 4, dtype=torch.float64)
    matrix = torch.tensor([[1.0, 0, 0], [0, 0.25, 0.75], [0, 0.75, 0.25]], dtype=torch.float64)
    state = encoder.embedding.weight
    states = [state]
    for layer in range(layers):
        state = matrix @ (state @ encoder.weights[layer] if kind == "gcn" else state)
        if kind == "gcn" and layer < layers - 1:
            state = state.relu()
        states.append(state)
    expected = state if kind == "gcn" else torch.stack(states).mean(dim=0)
    result = encoder(graph)
    torch.testing.assert_close(result, expected)
    assert (result[0] == 0).all(), "the padding"
    cotangent = torch.randn_like(result)
    (ours,) = torch.autograd.grad(result, encoder.embedding.weight, cotangent)
    (theirs,) = torch.autograd.grad(expected, encoder.embedding.weight, cotangent)
    torch.testing.assert_close(ours[1:], theirs[1:])


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'gcn' or 'lightgcn', got 'gat'"):
        GraphEncoder(3, 4, 1, "gat")
