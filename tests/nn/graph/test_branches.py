"""Branches of LightGCN with shared users against one dense LightGCN per branch."""

from __future__ import annotations

import pytest
import torch

from recbole_mm.nn.graph import branches
from recbole_mm.nn.graph.bipartite import BipartiteGraph, norm_without, sym_norm
from recbole_mm.nn.graph.branches import choose_edges, drop_edges, drop_nodes, encode_branches
from recbole_mm.nn.graph.lightgcn import lightgcn

USERS, ITEMS = torch.tensor([0, 0, 1, 1, 2, 3]), torch.tensor([0, 1, 1, 2, 2, 0])


def dense_lightgcn(values, graph, users, items, n_layers):
    """Mean over layers of one dense symmetric propagation."""
    n_users = graph.n_users
    n_nodes = n_users + graph.n_items
    matrix = torch.zeros(n_nodes, n_nodes, dtype=torch.float64)
    for value, user, item in zip(values, graph.to_user.row, graph.to_user.col):
        matrix[user, n_users + item] = matrix[n_users + item, user] = value
    state = total = torch.cat([users, items])
    for _ in range(n_layers):
        state = matrix @ state
        total = total + state
    total = total / (n_layers + 1)
    return total[:n_users], total[n_users:]


@pytest.mark.parametrize("n_layers", [0, 1, 2, 3, 4])
def test_every_branch_is_a_lightgcn(n_layers):
    graph = BipartiteGraph(USERS, ITEMS, n_users=5, n_items=4)
    values = graph.sym_norm(torch.float64)
    users = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    items = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    encoded = encode_branches([graph] * n_layers, values, users, items)
    fast = [side.rows() for side in encoded]
    slow = [dense_lightgcn(values, graph, users, branch, n_layers) for branch in items.chunk(2, dim=1)]
    for side in (0, 1):
        expected = torch.stack([branch[side] for branch in slow], dim=1)
        torch.testing.assert_close(fast[side], expected, rtol=1e-12, atol=1e-12)
        ids = torch.tensor([2, 0, 2])
        torch.testing.assert_close(encoded[side].rows(ids), expected[ids], rtol=1e-12, atol=1e-12)
    gradients = [
        torch.autograd.grad(sum(side.square().sum() for side in sides), [users, items], allow_unused=True)
        for sides in (fast, [torch.stack([branch[s] for branch in slow], dim=1) for s in (0, 1)])
    ]
    for left, right in zip(*gradients):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("share, kept", [(0.0, 6), (0.05, 5), (0.5, 3), (1.0, 0)])
def test_exactly_the_stated_share_of_edges_is_kept(share, kept):
    graph = BipartiteGraph(USERS, ITEMS, n_users=5, n_items=4)
    mask = drop_edges(graph, share)
    assert mask.sum() == kept and set(mask.tolist()) <= {0.0, 1.0}


def test_shares_that_floats_cannot_express_are_exact():
    graph = BipartiteGraph(torch.arange(10), torch.arange(10), n_users=10, n_items=100)
    assert drop_edges(graph, 0.9).sum() == 1 and drop_edges(graph, 0.8).sum() == 2
    ones = BipartiteGraph(torch.zeros(100, dtype=torch.long), torch.arange(100), n_users=1, n_items=100)
    assert drop_nodes(ones, 0.29).sum() == 71


def test_few_edges_of_many_are_drawn_one_by_one_and_equally_often(monkeypatch):
    monkeypatch.setattr(branches, "MANY", 1)
    monkeypatch.setattr(torch, "randperm", None)  # which would be the other way
    graph = BipartiteGraph(torch.arange(40) % 8, torch.arange(40) // 8, n_users=8, n_items=5)
    torch.manual_seed(0)
    counts, n_draws, share = torch.zeros(40), 2000, 0.1
    for _ in range(n_draws):
        dropped = choose_edges(graph, share)
        assert len(dropped) == len(dropped.unique()) == 4
        counts[dropped] += 1
    error = (share * (1 - share) / n_draws) ** 0.5
    assert ((counts / n_draws - share).abs() <= 5 * error).all()
    assert len(choose_edges(graph, 0.0)) == 0 and drop_edges(graph, 0.1).sum() == 36


def test_weights_of_some_pairs_are_those_of_the_mask():
    torch.manual_seed(1)
    graph = BipartiteGraph(torch.randint(9, (60,)), torch.randint(7, (60,)), n_users=10, n_items=8)
    dropped, pairs = torch.randperm(graph.n_edges)[:12], torch.randint(graph.n_edges, (20,))
    expected = sym_norm(graph.to_user, torch.ones(graph.n_edges).index_fill_(0, dropped, 0.0))
    actual = norm_without(graph, dropped, pairs)
    assert (expected[pairs] == 0).any() and (expected[pairs] > 0).any()
    assert actual[pairs].equal(expected[pairs])


def test_kept_edges_are_normalised_by_the_kept_degrees():
    graph = BipartiteGraph(USERS, ITEMS, n_users=5, n_items=4)
    values = sym_norm(graph.to_user, torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0]))
    assert values.tolist() == pytest.approx([1.0, 0.0, 2**-0.5, 2**-0.5, 0.0, 0.0])


def test_fresh_edges_every_time():
    graph = BipartiteGraph(torch.arange(200) % 20, torch.arange(200) // 10, 20, 20)
    assert not torch.equal(drop_edges(graph, 0.5), drop_edges(graph, 0.5))


def test_removed_nodes_lose_all_their_edges():
    torch.manual_seed(0)
    graph = BipartiteGraph(USERS, ITEMS, n_users=5, n_items=4)
    mask = drop_nodes(graph, 0.4)
    of_users = [mask[graph.to_user.row == user] for user in range(5)]
    assert sum(len(edges) > 0 and edges.sum() == 0 for edges in of_users) >= 1
    assert drop_nodes(graph, 0.0).sum() == 6


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_lightgcn_of_one_branch_equals_the_dense_one(n_layers):
    graph = BipartiteGraph(torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 2, 0]), n_users=4, n_items=5)
    users, items = torch.randn(4, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    expected = dense_lightgcn(graph.sym_norm(torch.float64), graph, users, items, n_layers)
    for one, other in zip(lightgcn([graph] * n_layers, users, items), expected):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)
