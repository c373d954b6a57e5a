"""Sampled neighbourhoods: exact where every neighbour is kept, unbiased where not, the same from the same seed."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from recbole_mm.nn.graph import neighbours
from recbole_mm.nn.graph.bipartite import BipartiteGraph
from recbole_mm.nn.graph.branches import encode_branches
from recbole_mm.nn.graph.lightgcn import lightgcn
from recbole_mm.nn.graph.neighbours import sample_peers, sample_rows
from recbole_mm.nn.graph.sampling import sample_neighbourhood
from recbole_mm.nn.graph.sparse import SparsePattern
from recbole_mm.nn.graph.user_graph import sum_hops

N_USERS, N_ITEMS = 12, 9


def random_graph(seed=0, share=0.4):
    """Twelve users and nine items; the first of each has no pair."""
    there = torch.rand(N_USERS, N_ITEMS, generator=torch.Generator().manual_seed(seed)) < share
    there[0], there[:, 0] = False, False
    return BipartiteGraph(*there.nonzero().T, N_USERS, N_ITEMS)


def tables(width=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, width, dtype=torch.float64, generator=generator) for n in (N_USERS, N_ITEMS))


def assert_mean_is(draws, expected):
    """Every entry of the mean of many draws within five standard errors of what is expected."""
    draws = torch.stack(draws)
    error = draws.std(dim=0) / len(draws) ** 0.5
    assert ((draws.mean(dim=0) - expected).abs() <= 5 * error + 1e-12).all()
    assert draws.std(dim=0).max() > 0, "nothing was drawn"


def test_rows_keep_distinct_columns_of_their_own():
    pattern = random_graph().to_user
    index = torch.tensor([5, 0, 3, 5])
    drawn = sample_rows(pattern, index, fanout=2)
    assert drawn.pattern.ptr.diff().equal(drawn.kept) and drawn.kept.equal(drawn.degree.clamp(max=2))
    assert drawn.degree.equal(pattern.degree()[index])
    assert pattern.row[drawn.edge].equal(index[drawn.pattern.row]) and pattern.col[drawn.edge].equal(drawn.pattern.col)
    for row in range(len(index)):
        columns = drawn.pattern.col[drawn.pattern.row == row].tolist()
        assert columns == sorted(set(columns))


@pytest.mark.parametrize("long", [neighbours.LONG, 1])
def test_every_neighbour_is_kept_equally_often(monkeypatch, long):
    monkeypatch.setattr(neighbours, "LONG", long)
    pattern = random_graph().to_user
    index, counts, n_draws = torch.arange(N_USERS), torch.zeros(pattern.n_edges), 1000
    generator = torch.Generator().manual_seed(3)
    for _ in range(n_draws):
        counts[sample_rows(pattern, index, 2, generator).edge] += 1
    expected = (2 / pattern.degree().clamp(min=2).float())[pattern.row]
    error = (expected * (1 - expected) / n_draws).sqrt()
    assert ((counts / n_draws - expected).abs() <= 5 * error).all()


def test_every_subset_of_a_long_row_is_drawn_equally_often():
    fanout, n_edges, n_rows = 3, 5, 20_000
    lone = SparsePattern.from_pairs(torch.zeros(n_edges, dtype=torch.long), torch.arange(n_edges), 1, n_edges)
    edge = neighbours._independently(
        lone, torch.zeros(n_rows, dtype=torch.long), fanout, torch.Generator().manual_seed(1)
    )
    subsets, counts = edge.unique(dim=0, return_counts=True)
    assert subsets.tolist() == [list(some) for some in combinations(range(n_edges), fanout)]
    expected = n_rows / len(subsets)
    assert ((counts - expected).abs() <= 5 * expected**0.5).all()


def test_a_row_of_any_length_keeps_distinct_edges_of_its_own():
    degree = torch.tensor([1, 5, 40, 64, 65, 66, 1000])
    row = torch.arange(len(degree)).repeat_interleave(degree)
    pattern = SparsePattern.from_pairs(row, torch.cat([torch.arange(n) for n in degree.tolist()]), len(degree), 1000)
    for fanout in (1, 2, 9, 30):
        drawn = sample_rows(pattern, torch.arange(len(degree)).flip(0), fanout)
        assert drawn.kept.equal(degree.flip(0).clamp(max=fanout))
        assert pattern.row[drawn.edge].equal(len(degree) - 1 - drawn.pattern.row)
        assert len(drawn.edge.unique()) == len(drawn.edge)


def test_the_first_in_order_are_the_same_one_by_one_and_sorted(monkeypatch):
    pattern, draws = random_graph().to_item, []
    index = (pattern.degree() > 2).nonzero().squeeze(1)
    for few in (0, neighbours.FEW):
        monkeypatch.setattr(neighbours, "FEW", few)
        draws.append(sample_rows(pattern, index, 2, torch.Generator().manual_seed(5)).edge)
    assert draws[0].equal(draws[1])


@pytest.mark.parametrize("n_layers, norm", [(1, "row"), (3, "sym")])
def test_aggregation_is_unbiased(norm, n_layers):
    graph, (users, items) = random_graph(), tables()
    for _ in range(n_layers):
        users, items = graph.propagate(users, items, norm)
    user, item = torch.tensor([3, 5, 3]), torch.tensor([2, 7])
    torch.manual_seed(0)
    drawn = [], []
    for _ in range(400):
        part = sample_neighbourhood(graph, user, item, [2] * n_layers)
        states = tuple(of(table) for of, table in zip((part.of_users, part.of_items), tables()))
        for hop in part.hops:
            states = hop.gather_users(states[1], norm), hop.gather_items(states[0], norm)
        drawn[0].append(states[0][part.user])
        drawn[1].append(states[1][part.item])
    assert_mean_is(drawn[0], users[user])
    assert_mean_is(drawn[1], items[item])


def test_weights_of_pairs_are_unbiased():
    """As of a graph with dropped edges, whose weights are not the same in both directions' order."""
    graph, (users, items) = random_graph(), tables()
    values = torch.rand(graph.n_edges, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    dense = torch.zeros(N_USERS, N_ITEMS, dtype=torch.float64)
    dense[graph.to_user.row, graph.to_user.col] = values
    drawn = [], []
    torch.manual_seed(1)
    for _ in range(400):
        part = sample_neighbourhood(graph, torch.tensor([3, 4]), torch.tensor([1, 2]), [2])
        (hop,) = part.hops
        to_users, to_items = hop.weigh(values)
        sums = torch.zeros(hop.n_users, 3, dtype=torch.float64), torch.zeros(hop.n_items, 3, dtype=torch.float64)
        at_users = to_users[0].unsqueeze(1) * part.of_items(items)[hop.to_user.col]
        at_items = to_items[0].unsqueeze(1) * part.of_users(users)[hop.to_item.col]
        drawn[0].append(sums[0].index_add(0, hop.to_user.row, at_users)[part.user])
        drawn[1].append(sums[1].index_add(0, hop.to_item.row, at_items)[part.item])
    assert_mean_is(drawn[0], (dense @ items)[[3, 4]])
    assert_mean_is(drawn[1], (dense.T @ users)[[1, 2]])


@pytest.mark.parametrize("norm", ["sym", "self_loop"])
def test_a_fanout_above_every_degree_is_the_whole_graph(norm):
    graph, (users, items) = random_graph(), tables()
    expected = lightgcn([graph] * 2, users, items, norm)
    user, item = torch.tensor([3, 0, 5, 3]), torch.tensor([0, 2])
    state = torch.get_rng_state()
    part = sample_neighbourhood(graph, user, item, [N_USERS, N_USERS])
    assert torch.equal(state, torch.get_rng_state()), "nothing has to be drawn"
    actual = lightgcn(part.hops, part.of_users(users), part.of_items(items), norm)
    torch.testing.assert_close(actual[0][part.user], expected[0][user])
    torch.testing.assert_close(actual[1][part.item], expected[1][item])


def test_nodes_that_receive_come_first_and_only_needed_ones_are_there():
    graph = random_graph(share=0.15)
    user, item = torch.tensor([4]), torch.tensor([6])
    part = sample_neighbourhood(graph, user, item, [3, 3])
    first, last = part.hops
    assert (last.n_users, last.n_items) == (1, 1)
    assert (first.n_users, first.n_items) == (last.to_item.n_cols, last.to_user.n_cols)
    assert (len(part.users), len(part.items)) == (first.to_item.n_cols, first.to_user.n_cols)
    assert len(part.users) < N_USERS and len(part.users.unique()) == len(part.users)
    assert part.users[part.user].equal(user) and part.items[part.item].equal(item)


@pytest.mark.parametrize("n_layers", [0, 1, 2, 3])
def test_states_that_nobody_reads_are_left_out_and_change_nothing(n_layers):
    """The same draws; sums of layers, and branches, of the batch are the same to the last bit of their order."""
    graph, (users, items) = random_graph(share=0.3), tables(4)
    user, item = torch.tensor([4, 7, 4]), torch.tensor([6, 2])
    found = []
    for own_states in (True, False):
        torch.manual_seed(2)
        part = sample_neighbourhood(graph, user, item, [2, 1, 1][:n_layers], own_states=own_states)
        inputs = part.of_users(users), part.of_items(items)
        sums = sum_hops(part.hops, *inputs)
        encoded = encode_branches(part.hops, graph.sym_norm(torch.float64), *inputs)
        rows = [sums[0][part.user], sums[1][part.item], encoded[0].rows(part.user), encoded[1].rows(part.item)]
        found.append((part, rows))
        assert part.users[part.user].equal(user) and part.items[part.item].equal(item)
    (whole, expected), (part, actual) = found
    for left, right in zip(actual, expected):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
    assert set(part.items.tolist()) <= set(whole.items.tolist()) and set(part.users.tolist()) <= set(
        whole.users.tolist()
    )
    if n_layers > 1:
        assert len(part.items) < len(whole.items) and len(part.users) < len(whole.users)


def test_routes_are_items_of_every_user_that_takes_part():
    graph = random_graph()
    part = sample_neighbourhood(graph, torch.tensor([4]), torch.tensor([6]), [2], routes=True)
    pattern, edge = part.routes.pattern, part.routes.edge
    assert pattern.n_rows == len(part.users) and pattern.n_cols == len(part.items)
    assert graph.to_user.row[edge].equal(part.users[pattern.row])
    assert graph.to_user.col[edge].equal(part.items[pattern.col])
    assert part.routes.kept.equal(graph.to_user.degree()[part.users].clamp(max=2))


def test_the_seed_decides_the_part():
    def edges(seed):
        torch.manual_seed(seed)
        part = sample_neighbourhood(random_graph(), torch.tensor([3, 4]), torch.tensor([1]), [2, 2])
        return torch.cat([torch.stack((hop.to_user.row, hop.to_user.col)) for hop in part.hops], dim=1)

    assert edges(1).equal(edges(1)) and not edges(1).equal(edges(2))


def test_heavy_peers_are_kept_and_their_sums_unbiased():
    beta = torch.tensor([[0.7, 0.1, 0.1, 0.06, 0.04], [0.5, 0.5, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.float64)
    states = torch.tensor([1.0, -2.0, 5.0, 0.5, 9.0], dtype=torch.float64)
    torch.manual_seed(0)
    drawn = []
    for _ in range(1000):
        slots, weights = sample_peers(beta, 3)
        assert slots.shape == weights.shape == (3, 3)
        assert (weights[0] == 0.7).sum() == 1 and weights[1].tolist() == [0.5, 0.5, 0.0] and weights[2].sum() == 0
        drawn.append((weights[0] * states[slots[0]]).sum())
    assert_mean_is(drawn, beta[0] @ states)


def test_all_peers_are_kept_where_they_are_few():
    beta = torch.tensor([[0.9, 0.1, 0.0]], dtype=torch.float64)
    slots, weights = sample_peers(beta, 2)
    assert weights.tolist() == [[0.9, 0.1]] and slots.tolist() == [[0, 1]]


def test_a_graph_without_pairs_gives_nothing():
    graph = BipartiteGraph(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 3, 2)
    part = sample_neighbourhood(graph, torch.tensor([1]), torch.tensor([1]), [4])
    assert np.array_equal(part.hops[0].gather_users(torch.ones(1, 2)).numpy(), np.zeros((1, 2)))
