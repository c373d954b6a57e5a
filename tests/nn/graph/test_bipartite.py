"""Normalisations, the bipartite graph and nearest neighbours: hand-computed graphs and dense references in float64."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recbole_mm.nn.graph.bipartite import BipartiteGraph, SparsePattern, knn_graph, row_norm, sym_norm

USERS = torch.tensor([1, 1, 2, 4, 1, 2, 4, 1])  # users 0, 3, 5 and items 4, 6 are isolated; (1, 2) comes twice
ITEMS = torch.tensor([2, 0, 2, 3, 2, 5, 1, 3])
N_USERS, N_ITEMS = 6, 7


@pytest.fixture
def graph():
    return BipartiteGraph(USERS, ITEMS, N_USERS, N_ITEMS)


def tensor(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def adjacency():
    matrix = torch.zeros(N_USERS, N_ITEMS, dtype=torch.float64)
    matrix[USERS, ITEMS] = 1
    return matrix


def safe_inverse(degree):
    return torch.tensor([1 / d if d else 0.0 for d in degree.tolist()], dtype=torch.float64)


def assert_close(one, other, tolerance=1e-12):
    assert torch.allclose(one, other, rtol=0, atol=tolerance)


# --- normalisation ----------------------------------------------------------------------------------------------------


def test_norms_by_hand():
    pattern = SparsePattern.from_pairs(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 3, 3)
    assert_close(sym_norm(pattern), torch.tensor([2**-0.5, 0.5, 2**-0.5]), 1e-7)
    assert row_norm(pattern).tolist() == [0.5, 0.5, 1.0]
    values = torch.tensor([1.0, 3.0, 1.0])
    assert_close(sym_norm(pattern, values), torch.tensor([1 / 2, 3 / 4, 1 / 2]))
    assert row_norm(pattern, values).tolist() == [0.25, 0.75, 1.0]


def test_norms_of_weights_that_sum_to_zero_are_zero_with_finite_gradients():
    pattern = SparsePattern.from_pairs(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2, 2)
    for norm in (sym_norm, row_norm):
        values = torch.tensor([0.0, 0.0, 2.0], requires_grad=True)
        result = norm(pattern, values)
        result.sum().backward()
        assert result.tolist() == pytest.approx([0.0, 0.0, 1.0]) and torch.isfinite(values.grad).all()


def test_norms_give_learned_weights_gradients(graph):
    values = torch.rand(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert gradcheck(lambda v: sym_norm(graph.to_user, v), (values,))
    assert gradcheck(lambda v: row_norm(graph.to_user, v), (values,))


def test_dropping_edges_by_zero_values_equals_a_smaller_graph(graph):
    keep = torch.tensor([True, False, True, True, True, False, True])
    pattern = graph.to_user
    smaller = SparsePattern.from_pairs(pattern.row[keep], pattern.col[keep], N_USERS, N_ITEMS)
    assert_close(sym_norm(pattern, keep.double())[keep], sym_norm(smaller, dtype=torch.float64))
    assert torch.all(sym_norm(pattern, keep.double())[~keep] == 0)


# --- BipartiteGraph ---------------------------------------------------------------------------------------------------


def test_degrees_and_halves(graph):
    assert graph.n_edges == 7
    assert graph.user_degree.tolist() == [0, 3, 2, 0, 2, 0]
    assert graph.item_degree.tolist() == [1, 1, 2, 2, 0, 1, 0]
    assert graph.to_item is graph.to_user.transpose and graph.to_item.transpose is graph.to_user


def test_edge_weights_of_the_graph(graph):
    matrix, pattern = adjacency(), graph.to_user
    user, item = safe_inverse(matrix.sum(1)), safe_inverse(matrix.sum(0))
    expected = user[pattern.row].sqrt() * item[pattern.col].sqrt()
    assert graph.sym_norm().dtype == torch.float32
    assert_close(graph.sym_norm(torch.float64), expected)
    to_user, to_item = graph.row_norm(torch.float64)
    assert_close(to_user, user[pattern.row])
    assert_close(to_item, item[graph.to_item.row])


@pytest.mark.parametrize("norm", ["sym", "row"])
def test_propagate_equals_the_dense_product_with_gradients(graph, norm):
    matrix = adjacency()
    user, item = safe_inverse(matrix.sum(1)), safe_inverse(matrix.sum(0))
    if norm == "sym":
        to_user = user.sqrt()[:, None] * matrix * item.sqrt()
        to_item = to_user.T
    else:
        to_user, to_item = user[:, None] * matrix, item[:, None] * matrix.T
    users, items = tensor(N_USERS, 3), tensor(N_ITEMS, 4, seed=1)
    new_users, new_items = graph.propagate(users, items, norm)
    assert_close(new_users, to_user @ items)
    assert_close(new_items, to_item @ users)
    assert torch.all(new_users[[0, 3, 5]] == 0) and torch.all(new_items[[4, 6]] == 0)

    def objective(a, b):
        return a.square().sum() + (b**3).sum()

    ours = torch.autograd.grad(objective(new_users, new_items), (users, items))
    plain = torch.autograd.grad(objective(to_user @ items, to_item @ users), (users, items))
    assert_close(ours[0], plain[0])
    assert_close(ours[1], plain[1])


def test_propagating_side_by_side_equals_one_by_one(graph):
    users, items = tensor(N_USERS, 6), tensor(N_ITEMS, 6, seed=1)
    together = graph.propagate(users, items)
    for part in (slice(0, 2), slice(2, 6)):
        apart = graph.propagate(users[:, part], items[:, part])
        assert_close(together[0][:, part], apart[0])
        assert_close(together[1][:, part], apart[1])


def test_kept_weights_follow_the_type_of_the_model(graph):
    users, items = tensor(N_USERS, 3), tensor(N_ITEMS, 3, seed=1)
    expected = graph.propagate(users, items)
    single = copy.deepcopy(graph).float().propagate(users.float(), items.float())
    assert single[0].dtype == torch.float32
    graph.propagate(users.float(), items.float())
    assert_close(graph.propagate(users, items)[0], expected[0], 0.0)
    graph.propagate(users.float(), items.float())
    assert_close(graph.double().propagate(users, items)[0], expected[0], 0.0)
    assert_close(graph.propagate(users.bfloat16(), items.bfloat16())[0].double(), expected[0], 0.05)


def test_weights_that_inference_mode_kept_serve_training(graph):
    with torch.inference_mode():
        for norm in ("sym", "row"):
            graph.propagate(torch.ones(N_USERS, 2), torch.ones(N_ITEMS, 2), norm)
    assert not any(buffer.is_inference() for buffer in graph.buffers())
    users = torch.ones(N_USERS, 2, requires_grad=True)
    graph.gather_items(users, "row").sum().backward()
    assert users.grad.isfinite().all()


def test_graph_has_no_state_and_copies_cleanly(graph):
    users, items = tensor(N_USERS, 3), tensor(N_ITEMS, 3, seed=1)
    before = graph.propagate(users, items)
    other = copy.deepcopy(graph)
    assert graph.state_dict() == {} and list(graph.parameters()) == []
    assert other.to_user is not graph.to_user and other.to_item.transpose is other.to_user
    assert torch.equal(other.propagate(users, items)[0], before[0])


def test_unknown_norm_is_refused(graph):
    with pytest.raises(ValueError, match="norm must be 'sym' or 'row', got 'mean'"):
        graph.propagate(torch.ones(N_USERS, 1), torch.ones(N_ITEMS, 1), "mean")


def test_graph_without_edges():
    nothing = torch.zeros(0, dtype=torch.long)
    graph = BipartiteGraph(nothing, nothing, 2, 3)
    users, items = graph.propagate(torch.ones(2, 4), torch.ones(3, 4))
    assert users.shape == (2, 4) and items.shape == (3, 4) and not users.any() and not items.any()


# --- knn_graph --------------------------------------------------------------------------------------------------------


def plain_knn(features, k, include_self):
    """Sort every row: itself first if it counts, then by similarity, then the smaller id."""
    similarity = F.normalize(features.double(), dim=1) @ F.normalize(features.double(), dim=1).T
    exists = features.ne(0).any(dim=1).tolist()
    edges = []
    for row in range(len(features)):
        candidates = [c for c in range(len(features)) if exists[c] and exists[row] and (include_self or c != row)]
        ranked = sorted(candidates, key=lambda c: (c != row, -round(similarity[row, c].item(), 9), c))
        edges += sorted((row, c) for c in ranked[:k])
    return edges


@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_knn_equals_sorting_every_row(k, include_self, dtype):
    generator = torch.Generator().manual_seed(k)
    # Small integers make many exact ties; some rows are zero and some are alike.
    features = torch.randint(-1, 2, (40, 3), generator=generator).to(dtype)
    pattern, similarity = knn_graph(features, k, include_self, block_rows=7)
    assert list(zip(pattern.row.tolist(), pattern.col.tolist())) == plain_knn(features, k, include_self)
    expected = F.cosine_similarity(features[pattern.row], features[pattern.col])
    assert_close(similarity, expected, 1e-6)
    assert similarity.dtype == dtype


def test_knn_of_real_vectors_does_not_depend_on_the_block():
    features = tensor(60, 16).detach().float()
    whole = knn_graph(features, 5)
    for block in (1, 13, 60, 100):
        pattern, similarity = knn_graph(features, 5, block_rows=block)
        assert torch.equal(pattern.col, whole[0].col) and torch.equal(pattern.ptr, whole[0].ptr)
        assert_close(similarity, whole[1], 1e-6)
    assert list(zip(whole[0].row.tolist(), whole[0].col.tolist())) == plain_knn(features, 5, False)


@pytest.mark.parametrize("width", [3, 16, 300, 768, 2048, 4096])
def test_knn_ties_take_the_smaller_id_although_the_product_rounds_differently(width):
    row = torch.rand(1, width, generator=torch.Generator().manual_seed(0))
    pattern, _ = knn_graph(row.expand(70, width) * torch.linspace(0.1, 9, 70)[:, None], 2)
    assert pattern.col.tolist() == [1, 2, 0, 2] + [0, 1] * 68


@pytest.mark.parametrize("width", [16, 300, 2048])
def test_knn_ties_of_rows_at_any_angle_take_the_smaller_id(width):
    """Forty queries, each at its own angle to 70 rows that are the same but for their lengths."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(40, width, generator=generator)
    same = torch.randn(1, width, generator=generator) * torch.linspace(0.1, 9, 70)[:, None]
    candidates = torch.arange(110) >= 40
    pattern, _ = knn_graph(torch.cat([queries, same]), 3, candidates=candidates)
    assert pattern.col[: 3 * 40].tolist() == [40, 41, 42] * 40


def test_knn_leaves_zero_rows_alone():
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    pattern, similarity = knn_graph(features, 2)
    assert pattern.row.tolist() == [1, 2] and pattern.col.tolist() == [2, 1]
    assert similarity.tolist() == [-1.0, -1.0]
    assert knn_graph(torch.zeros(3, 2), 2)[0].n_edges == 0


class Largest(TorchDispatchMode):
    """Most numbers that an operation has made."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        there = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        made = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        new = [t.numel() for t in made if t.untyped_storage().data_ptr() not in there]
        self.numbers = max([self.numbers, *new])
        return result


def test_knn_makes_no_second_table_and_no_more_than_there_are_rows():
    features = torch.randn(60, 500, generator=torch.Generator().manual_seed(0))
    with Largest() as largest:
        pattern, _ = knn_graph(features, 4, block_rows=10)
    assert pattern.n_edges == 240 and largest.numbers <= 10 * 500
    with Largest() as largest:
        assert knn_graph(features, 10**9, include_self=True, block_rows=10)[0].n_edges == 60 * 60
    assert largest.numbers <= 60 * 500


def test_knn_takes_half_precision_and_keeps_no_gradient():
    features = tensor(10, 4).detach().half().requires_grad_()
    pattern, similarity = knn_graph(features, 2)
    assert similarity.dtype == torch.float32 and not similarity.requires_grad
    assert torch.equal(pattern.col, knn_graph(features.float(), 2)[0].col)


@pytest.mark.parametrize("features, k", [(torch.ones(3, 2), 0), (torch.ones(3), 1), (torch.ones(0, 2), 1)])
def test_knn_refuses_what_it_cannot_do(features, k):
    with pytest.raises(ValueError, match=r"expected k >= 1 and features \(n, dim\)"):
        knn_graph(features, k)
