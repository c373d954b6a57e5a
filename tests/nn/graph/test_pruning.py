"""Edges drawn by weight: exact probabilities by enumeration, and the subgraph that they give."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from recbole_mm.nn.graph.bipartite import BipartiteGraph
from recbole_mm.nn.graph.pruning import draw_edges, prune_popular

GRAPH = BipartiteGraph(torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 2, 0]), n_users=3, n_items=4)


def keep_probabilities(weight, n):
    """Probability of every edge to be among the first ``n`` of drawing without replacement."""
    result = [0.0] * len(weight)
    for order in itertools.permutations(range(len(weight)), n):
        probability, left = 1.0, sum(weight)
        for edge in order:
            probability, left = probability * weight[edge] / left, left - weight[edge]
        for edge in order:
            result[edge] += probability
    return result


@pytest.mark.parametrize("n", [1, 3])
def test_edges_are_kept_as_often_as_drawing_one_by_one_would(n):
    weight = GRAPH.sym_norm(torch.float64)
    expected = keep_probabilities(weight.tolist(), n)
    if n == 1:
        assert expected == pytest.approx([0.17157288, 0.17157288, 0.17157288, 0.24264069, 0.24264069], abs=5e-9)
    generator, draws = torch.Generator().manual_seed(0), 20_000
    counts = sum(draw_edges(weight, n, generator).double() for _ in range(draws))
    for share, p in zip((counts / draws).tolist(), expected):
        assert abs(share - p) < 3 * math.sqrt(p * (1 - p) / draws)


def test_subgraph_equals_a_graph_of_the_kept_pairs():
    GRAPH.to_item  # noqa: B018  (its transpose is cut along)
    for pick in itertools.product([False, True], repeat=5):
        keep = torch.tensor(pick)
        ours = GRAPH.subgraph(keep)
        fresh = BipartiteGraph(GRAPH.to_user.row[keep], GRAPH.to_user.col[keep], 3, 4)
        for a, b in ((ours.to_user, fresh.to_user), (ours.to_item, fresh.to_item)):
            assert torch.equal(a.ptr, b.ptr) and torch.equal(a.col, b.col) and torch.equal(a.row, b.row)
            assert torch.equal(a.transpose_order, b.transpose_order)
        users, items = torch.rand(3, 2), torch.rand(4, 2)
        for a, b in zip(ours.propagate(users, items), fresh.propagate(users, items)):
            assert torch.equal(a, b)
        assert torch.equal(ours.user_degree, fresh.user_degree) and ours.to_item.transpose is ours.to_user


@pytest.mark.parametrize("share, kept", [(0.0, 5), (0.2, 4), (0.3, 3), (0.8, 1), (1.0, 0)])
def test_number_of_kept_edges_is_exact(share, kept):
    assert prune_popular(GRAPH, share).n_edges == kept
