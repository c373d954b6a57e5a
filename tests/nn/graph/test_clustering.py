"""Cluster assignments, the clustering loss and propagation inside clusters."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_mm.nn.graph import clustering
from recbole_mm.nn.graph.bipartite import BipartiteGraph, SparsePattern

HAND_STATES, HAND_CENTRES = torch.tensor([[0.0, 0], [1, 0], [3, 0]]), torch.tensor([[0.0, 0], [3, 0]])
Q = [[0.909091, 0.090909], [0.714286, 0.285714], [0.090909, 0.909091]]
T = [[0.986842, 0.013158], [0.824176, 0.175824], [0.007444, 0.992556]]


def test_assignment_target_and_divergence_by_hand():
    q = clustering.student_t_assignment(HAND_STATES, HAND_CENTRES)
    target = clustering.sharpened_target(q)
    torch.testing.assert_close(q, torch.tensor(Q), rtol=0, atol=1e-6)
    torch.testing.assert_close(target, torch.tensor(T), rtol=0, atol=1e-6)
    assert clustering.cluster_kl(target, q).item() == pytest.approx(0.0522284, abs=1e-7)


def test_rows_that_do_not_count_change_nothing():
    states = torch.cat([HAND_STATES, torch.tensor([[9.0, 9.0]])])
    members = torch.tensor([True, True, True, False])
    q = clustering.student_t_assignment(states, HAND_CENTRES)
    target = clustering.sharpened_target(q, members)
    torch.testing.assert_close(target[:3], torch.tensor(T), rtol=0, atol=1e-6)
    assert clustering.cluster_kl(target, q, members).item() == pytest.approx(0.0522284, abs=1e-7)


def item_graph():
    pattern = SparsePattern.from_pairs(torch.tensor([0, 0, 1, 2, 3]), torch.tensor([1, 2, 0, 3, 2]), 5, 5)
    return pattern, torch.tensor([0.5, 0.25, 1.0, 0.75, 0.5], dtype=torch.float64)


def test_clustered_weights_equal_the_sum_over_clusters_with_rows_rescaled():
    pattern, values = item_graph()
    q = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    dense = torch.zeros(5, 5, dtype=torch.float64)
    dense[pattern.row, pattern.col] = values
    inside = sum(torch.diag(q[:, c]) @ dense @ torch.diag(q[:, c]) for c in range(3))
    scale = dense.sum(dim=1) / inside.sum(dim=1).clamp(min=1e-300)
    expected = (scale[:, None] * inside)[pattern.row, pattern.col]
    weights = clustering.clustered_item_weights(pattern, values, q)
    torch.testing.assert_close(weights, expected)
    left, right = (torch.autograd.grad((x * values.exp()).sum(), q)[0] for x in (weights, expected))
    torch.testing.assert_close(left, right)


def test_one_item_cluster_is_the_plain_graph():
    pattern, values = item_graph()
    q = torch.ones(5, 1, dtype=torch.float64)
    torch.testing.assert_close(clustering.clustered_item_weights(pattern, values, q), values)


def bipartite():
    graph = BipartiteGraph(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 2]), 4, 3)
    matrix = torch.zeros(7, 7, dtype=torch.float64)
    matrix[graph.to_user.row, 4 + graph.to_user.col] = graph.sym_norm(torch.float64)
    return graph, matrix + matrix.T


@pytest.mark.parametrize("alike", [True, False])
def test_local_messages_equal_one_product_per_cluster(alike):
    graph, matrix = bipartite()
    states, share = torch.randn(7, 2, 3, dtype=torch.float64), torch.rand(7, 2, dtype=torch.float64)
    states = states[:, 0] if alike else states
    users, items = clustering.local_messages(graph, states[:4], states[4:], share[:4], share[4:])
    of_cluster = [states, states] if alike else states.unbind(dim=1)
    expected = torch.stack([matrix @ torch.diag(share[:, c]) @ of_cluster[c] for c in range(2)], dim=1)
    torch.testing.assert_close(torch.cat([users, items]), expected)


def test_coarse_messages_equal_the_dense_formula():
    graph, matrix = bipartite()
    states, share = torch.randn(7, 2, 3, dtype=torch.float64), torch.rand(7, 2, dtype=torch.float64)
    share[6] = 0
    factor = torch.rand(7, dtype=torch.float64)
    inside = share.unsqueeze(2) * factor.view(7, 1, 1) * states[:, :, :-1]
    centres = torch.stack([share[:, c] @ inside[:, c] / share[:, c].sum() for c in range(2)])
    coarse = share.T @ matrix @ share
    received = (coarse / coarse.sum(dim=1, keepdim=True)) @ centres
    parts = [(table[:4], table[4:]) for table in (states, share, factor)]
    messages = clustering.coarse_messages(graph, *parts)
    torch.testing.assert_close(torch.cat(messages), share @ received)
    assert torch.cat(messages)[6].eq(0).all()


def test_rescaled_nodes_receive_what_they_would_receive_without_clusters():
    graph, matrix = bipartite()
    share = torch.rand(7, 2, dtype=torch.float64)
    ones = matrix @ torch.ones(7, 1, dtype=torch.float64)
    messages = torch.cat(clustering.local_messages(graph, ones[:4], ones[4:], share[:4], share[4:]))
    total = (matrix @ matrix).sum(dim=1)
    both = torch.cat([messages, messages], dim=2)  # the mass itself in place of a state
    kept, factor = clustering.keep_totals(both, share, total)
    torch.testing.assert_close(kept.flatten(), total)
    torch.testing.assert_close(factor * (share * messages[:, :, 0]).sum(dim=1), total)
    assert clustering.keep_totals(torch.zeros(7, 2, 3, dtype=torch.float64), share, total)[0].eq(0).all()


def test_a_node_that_hears_nothing_inside_its_clusters_teaches_no_share():
    share = torch.tensor([[1.0, 0.0], [1.0, 1e-25], [0.5, 0.5]], requires_grad=True)
    messages = torch.tensor([[0.0, 2.0], [0.0, 2.0], [1.0, 3.0]]).unsqueeze(2).repeat(1, 1, 3)
    kept, factor = clustering.keep_totals(messages, share, torch.tensor([5.0, 5.0, 1.0]))
    torch.testing.assert_close(kept, torch.tensor([[0.0], [0.0], [1.0]]).expand(3, 2))
    torch.testing.assert_close(factor, torch.tensor([0.0, 0.0, 0.5]))
    (gradient,) = torch.autograd.grad(kept.square().sum() + factor.sum(), share)
    assert gradient[:2].eq(0).all() and gradient[2].ne(0).all() and gradient.isfinite().all()


def test_sums_over_clusters_and_nodes_have_the_gradients_of_plain_ones():
    share, states = torch.rand(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    messages = torch.randn(5, 3, 2, dtype=torch.float64)
    cases = [
        (clustering._Outer, states, "nc,nd->ncd"),
        (clustering._Contract, messages, "nc,ncd->nd"),
        (clustering._Centres, messages, "nc,ncd->cd"),
    ]
    for function, table, formula in cases:
        inputs = share.clone().requires_grad_(), table.clone().requires_grad_()
        torch.testing.assert_close(function.apply(*inputs), torch.einsum(formula, *inputs))
        assert torch.autograd.gradcheck(function.apply, inputs)
        assert torch.autograd.gradgradcheck(function.apply, inputs)


def test_balance_and_entropy_of_clusters():
    whole = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    members = torch.tensor([True, True, False])
    assert clustering.balance_penalty(whole, members).item() == pytest.approx(math.log(2))
    assert clustering.cluster_entropy(whole, members) == (0.0, 0.0)
    assert clustering.cluster_entropy(whole, ~members | torch.tensor([True, False, False])) == (1.0, 0.0)
    assert clustering.cluster_entropy(torch.full((4, 2), 0.5), torch.ones(4, dtype=torch.bool)) == (1.0, 1.0)
    uneven = torch.tensor([[0.75, 0.25]], requires_grad=True)
    penalty = clustering.balance_penalty(uneven, torch.tensor([True]))
    assert penalty.item() == pytest.approx(math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25))


def test_assignment_at_a_scale():
    near = clustering.student_t_assignment(HAND_STATES * 0.01, HAND_CENTRES * 0.01, scale=1e-4)
    torch.testing.assert_close(near, torch.tensor(Q), rtol=0, atol=1e-5)
