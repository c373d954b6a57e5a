"""Item graphs: the numbers of a toy world, dense loops in float64, missing rows, and the module that keeps a graph."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from recbole_mm.nn.graph import item_graph
from recbole_mm.nn.graph.bipartite import SparsePattern, knn_graph, sym_norm
from recbole_mm.nn.graph.item_graph import (
    ItemGraph,
    base_shares,
    content_graph,
    content_neighbours,
    edge_cosines,
    merge_graphs,
    mix_graphs,
    row_sum_norm,
    undirected,
)
from recbole_mm.nn.mixture import modality_shares

IMAGE = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [2.0, 1.0]])
TEXT = torch.tensor([[1.0, 2.0], [2.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
ALL = torch.ones(4, dtype=torch.bool)


def dense(pattern, values):
    matrix = torch.zeros(pattern.n_rows, pattern.n_cols, dtype=values.dtype)
    return matrix.index_put((pattern.row, pattern.col), values, accumulate=True)


def plain_graph(feature, observed, k, weighted):
    """The definition, a pair of items at a time."""
    n = len(feature)
    graph = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        if observed[i]:
            others = [j for j in range(n) if observed[j] and j != i]
            cosine = {j: F.cosine_similarity(feature[i].double(), feature[j].double(), dim=0).item() for j in others}
            for j in sorted(others, key=lambda j: (-round(cosine[j], 9), j))[: k - 1]:
                graph[i, j] = max(cosine[j], 0.0) if weighted else 1.0
            graph[i, i] = 1.0
    rows = [sum(row) for row in graph.tolist()]
    for i in range(n):
        for j in range(n):
            if graph[i, j] > 0:
                graph[i, j] /= math.sqrt(rows[i] * rows[j])
    return graph


def test_weighted_graph_of_the_toy_images():
    expected = torch.tensor(
        [
            [0.52786405, 0.0, 0.0, 0.46551685],
            [0.0, 0.51316702, 0.0, 0.48683298],
            [0.0, 0.38768949, 0.58578644, 0.0],
            [0.0, 0.48683298, 0.0, 0.51316702],
        ],
        dtype=torch.float64,
    )
    pattern, values = content_graph(IMAGE, ALL, 2)
    torch.testing.assert_close(dense(pattern, values), expected, rtol=0, atol=5e-9)
    cosines = knn_graph(IMAGE.double(), 2, include_self=True)[1]
    assert dense(pattern, sym_norm(pattern, cosines))[0, 3].item() == pytest.approx(0.38539774, abs=5e-9)


def test_unweighted_graph_is_a_mean():
    pattern, values = content_graph(IMAGE, ALL, 2, weighted=False)
    assert values.tolist() == pytest.approx([0.5] * 8) and pattern.col.tolist() == [0, 3, 1, 3, 1, 2, 1, 3]


def test_unweighted_mixture_of_the_toy_world():
    graphs = [content_graph(feature, ALL, 2, weighted=False) for feature in (IMAGE, TEXT)]
    shares = modality_shares(
        base_shares(["image", "text"], {"image": 1.0, "text": 1.0}, 0.1), ALL[:, None].expand(4, 2)
    )
    expected = [[0.5, 0, 0.45, 0.05], [0, 0.5, 0, 0.5], [0.45, 0.05, 0.5, 0], [0, 0.5, 0, 0.5]]
    torch.testing.assert_close(dense(*mix_graphs(graphs, shares)), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_content_graph_equals_plain_loops(weighted, seed):
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(9, 1 + seed, generator=generator)  # in one dimension there are negative cosines in the lists
    observed = torch.rand(9, generator=generator) > 0.3
    pattern, values = content_graph(feature, observed, 4, weighted)
    torch.testing.assert_close(dense(pattern, values), plain_graph(feature, observed, 4, weighted), rtol=0, atol=1e-12)
    assert values.min() >= 0


def test_cosines_do_not_depend_on_the_block_of_edges(monkeypatch):
    feature = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    observed = torch.ones(30, dtype=torch.bool)
    whole = content_graph(feature, observed, 4)[1]
    monkeypatch.setattr(item_graph, "EDGE_BLOCK", 70)
    assert torch.equal(content_graph(feature, observed, 4)[1], whole)


def test_cosines_of_rows_of_zeros_are_zero():
    pattern = SparsePattern.from_pairs(torch.tensor([0, 0, 1, 2]), torch.tensor([1, 2, 0, 2]), 3, 3)
    assert edge_cosines(pattern, torch.tensor([[0.0], [0.0], [2.0]])).tolist() == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("filled", [0.0, 1.0])
def test_rows_that_were_not_observed_take_no_part_whatever_fills_them(filled):
    feature, observed = torch.cat([torch.full((1, 2), filled), IMAGE]), torch.tensor([False, True, True, True, True])
    pattern, values = content_graph(feature, observed, 2)
    whole = dense(*content_graph(IMAGE, ALL, 2))
    assert torch.equal(dense(pattern, values)[1:, 1:], whole)
    assert not dense(pattern, values)[0].any() and not dense(pattern, values)[:, 0].any()
    assert torch.equal(feature[0], torch.full((2,), filled))


def test_an_observed_row_of_zeros_enters_no_list():
    feature = IMAGE.clone()
    feature[3] = 0.0
    pattern, values = content_graph(feature, ALL, 2)
    assert not pattern.row.eq(3).any() and not pattern.col.eq(3).any() and values.isfinite().all()


def test_items_that_look_alike_keep_themselves():
    pattern, values = content_graph(torch.ones(5, 3), torch.ones(5, dtype=torch.bool), 2)
    assert pattern.col.tolist() == [0, 1, 0, 1, 0, 2, 0, 3, 0, 4] and values.tolist() == pytest.approx([0.5] * 10)
    assert content_neighbours(torch.ones(3, 2), torch.ones(3, dtype=torch.bool), 1, False)[0].col.tolist() == [1, 0, 0]


# --- normalisation ----------------------------------------------------------------------------------------------------


def test_row_sums_of_both_ends_with_gradients():
    pattern = SparsePattern.from_pairs(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 2, 1]), 4, 4)
    values = torch.tensor([0.5, 1.5, 3.0, 0.25], dtype=torch.float64).requires_grad_()
    expected = [0.5 / 2, 1.5 / math.sqrt(2 * 3), 3 / math.sqrt(3 * 0.25), 0.25 / math.sqrt(0.25 * 3)]
    assert row_sum_norm(pattern, values).tolist() == pytest.approx(expected)
    assert gradcheck(lambda v: row_sum_norm(pattern, v), (values,))


def test_rows_that_sum_to_zero_give_zero_with_finite_gradients():
    pattern = SparsePattern.from_pairs(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1]), 2, 2)
    values = torch.tensor([0.0, 1.0, 1.0], requires_grad=True)
    result = row_sum_norm(pattern, values)
    result.sum().backward()
    assert result.tolist() == pytest.approx([0.0, 0.0, 0.5]) and values.grad.isfinite().all()


# --- mixing -----------------------------------------------------------------------------------------------------------


def test_base_shares():
    weight = {"audio": 0.5, "image": 1.0, "text": 1.5}
    assert base_shares(list(weight), weight).tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    expected = [0.45 * 0.5, 0.1 * 1.0, 0.45 * 1.5]
    assert base_shares(list(weight), weight, 0.1).tolist() == pytest.approx([x / sum(expected) for x in expected])
    assert base_shares(["image"], {"image": 1.0}, 0.1).tolist() == [1.0]
    assert base_shares(["audio", "text"], {"audio": 1.0, "text": 3.0}, 0.1).tolist() == [0.25, 0.75]


@pytest.mark.parametrize("reduce", ["sum", "amax"])
def test_merged_graphs_equal_dense_matrices(reduce):
    generator = torch.Generator().manual_seed(1)
    graphs = [content_graph(torch.randn(8, 3, generator=generator), torch.ones(8, dtype=torch.bool), 3) for _ in "abc"]
    stacked = torch.stack([dense(*graph) for graph in graphs])
    expected = stacked.sum(dim=0) if reduce == "sum" else stacked.amax(dim=0)
    pattern, values = merge_graphs(graphs, reduce)
    torch.testing.assert_close(dense(pattern, values), expected)
    assert values.ne(0).all() and pattern.n_edges == int(expected.ne(0).sum())
    shares = torch.rand(8, 3, generator=generator, dtype=torch.float64)
    mixture = sum(shares[:, [x]] * stacked[x] for x in range(3))
    torch.testing.assert_close(dense(*mix_graphs(graphs, shares)), mixture)


def test_a_modality_without_share_leaves_no_edges():
    graphs = [content_graph(feature, ALL, 2) for feature in (IMAGE, TEXT)]
    shares = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(4, 2)
    assert torch.equal(dense(*mix_graphs(graphs, shares)), dense(*graphs[0]))
    assert mix_graphs(graphs, shares)[0].n_edges == graphs[0][0].n_edges


# --- ItemGraph --------------------------------------------------------------------------------------------------------


def test_spreading_equals_dense_products_with_gradients():
    pattern, values = content_graph(TEXT, ALL, 3)
    graph, matrix = ItemGraph(pattern, values), dense(pattern, values)
    states = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    torch.testing.assert_close(graph.spread(states, 2), matrix @ matrix @ states)
    assert graph.spread(states, 0) is states
    assert gradcheck(lambda x: graph.spread(x, 2), (states,))


def test_a_kept_graph_follows_the_type_of_the_model_and_has_no_state():
    graph = ItemGraph(*content_graph(IMAGE, ALL, 2))
    states = torch.randn(4, 3, dtype=torch.float64)
    exact = graph.spread(states, 1)
    assert graph.spread(states.float(), 1).dtype == torch.float32
    assert torch.equal(graph.spread(states, 1), exact)
    assert graph.state_dict() == {} and torch.equal(copy.deepcopy(graph).spread(states, 1), exact)
    assert graph.float().spread(states.float(), 1).dtype == torch.float32


def test_weights_that_inference_mode_kept_serve_training():
    graph = ItemGraph(*content_graph(IMAGE, ALL, 2))
    with torch.inference_mode():
        graph.spread(torch.ones(4, 2), 1)
    states = torch.ones(4, 2, requires_grad=True)
    graph.spread(states, 1).sum().backward()
    assert states.grad.isfinite().all()


def test_new_items_are_attached_to_known_ones_and_unseen_by_training():
    """Rows of known items are those of the graph without the others, whose features may be anything."""
    feature = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    known = torch.arange(12) < 8
    spread = {}
    for case, scale in (("before", 1.0), ("after", -30.0)):
        there = torch.where(known.unsqueeze(1), feature, scale * feature + 1)
        graph = ItemGraph(*content_graph(there, torch.ones(12, dtype=torch.bool), 3, candidates=known), known)
        states = torch.eye(12)
        spread[case] = graph.train().spread(states, 2), graph.eval().spread(states, 2)
    alone = ItemGraph(*content_graph(feature[:8], torch.ones(8, dtype=torch.bool), 3)).spread(torch.eye(8), 2)
    torch.testing.assert_close(spread["before"][0][:8, :8], alone)
    assert torch.equal(spread["before"][0], spread["after"][0]), "training notices nothing"
    assert not spread["before"][0][8:].any()
    attached, other = spread["before"][1], spread["after"][1]
    assert torch.equal(attached[:8], other[:8]) and torch.equal(attached[:8], spread["before"][0][:8])
    assert attached[8:, :8].any(dim=1).all() and not torch.equal(attached[8:], other[8:])
    assert not attached[:8, 8:].any(), "nobody reads a new item but itself"


def test_undirected_graphs():
    feature = torch.tensor([[1.0, 0.0], [1.0, 0.2], [1.0, 0.5], [0.0, 1.0], [0.3, 1.0]])
    pattern, values = content_neighbours(feature, torch.ones(5, dtype=torch.bool), 1, include_self=False)
    one_way = dense(pattern, values)
    assert not torch.equal(one_way, one_way.T)
    torch.testing.assert_close(dense(*undirected(pattern, values)), torch.maximum(one_way, one_way.T))
    known = torch.tensor([True, True, False, True, True])  # the third is attached and changes nothing for the others
    pattern, values = content_neighbours(feature, torch.ones(5, dtype=torch.bool), 1, False, candidates=known)
    attached, one_way = dense(*undirected(pattern, values, known)), dense(pattern, values)
    inside = torch.where(known[:, None], one_way, 0)
    torch.testing.assert_close(attached[known], torch.maximum(inside, inside.T)[known])
    torch.testing.assert_close(attached[2], one_way[2])
