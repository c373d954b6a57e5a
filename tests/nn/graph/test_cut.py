"""The cut last hop against the whole one."""

from __future__ import annotations

import pytest
import torch

from recbole_mm.nn.graph.bipartite import BipartiteGraph
from recbole_mm.nn.graph.cut import CutHop, cut_last
from recbole_mm.nn.graph.sampling import Neighbourhood, sample_neighbourhood


def _graph() -> BipartiteGraph:
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(6, (20,), generator=generator), torch.randint(8, (20,), generator=generator)
    return BipartiteGraph(*pairs, n_users=7, n_items=9)  # the last of both is isolated


@pytest.mark.parametrize("norm", ["sym", "row"])
def test_values_and_gradients_equal_the_rows_of_the_whole_hop(norm):
    graph, users, items = _graph(), torch.tensor([6, 1, 4]), torch.tensor([0, 8, 3, 5])
    tables = [torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (7, 9)]
    hop = CutHop(graph, users, items)
    at_items, own_users = hop.send_users(tables[0], norm)
    at_users, own_items = hop.send_items(tables[1], norm)
    found = [at_users, at_items, own_users, own_items]
    all_users, all_items = graph.propagate(*tables, norm=norm)
    expected = [all_users[users], all_items[items], tables[0][users], tables[1][items]]
    outer = [torch.randn_like(table) for table in expected]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(side, tables, outer) for side in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_what_receives_is_what_was_asked_for():
    graph, table = _graph(), torch.arange(9.0).unsqueeze(1)
    hop = CutHop(graph, torch.tensor([2]), torch.tensor([4, 1]))
    assert hop.receiving_items(table).flatten().tolist() == [4.0, 1.0]
    assert hop.receiving_users(table).flatten().tolist() == [2.0]
    assert (hop.n_users, hop.n_items) == (1, 2)


def test_the_last_hop_alone_is_cut_and_only_where_that_pays():
    graph, users, items = _graph(), torch.tensor([3, 1, 3]), torch.tensor([2, 2, 0])
    hops, user, item = cut_last(Neighbourhood((graph, graph), None, None, users, items))
    assert hops[0] is graph and isinstance(hops[1], CutHop) and (hops[1].n_users, hops[1].n_items) == (2, 2)
    assert user.tolist() == [1, 0, 1] and item.tolist() == [1, 1, 0]
    for part in (
        Neighbourhood((graph,), None, None, None, None),
        Neighbourhood((graph,), None, None, users, torch.zeros(9, dtype=torch.long)),
        sample_neighbourhood(graph, users, items, [2]),
    ):
        assert cut_last(part) == (part.hops, part.user, part.item)
