"""Sparse products over fixed patterns: hand-computed graphs, dense references in float64, gradients, odd shapes."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck, gradgradcheck

from recbole_mm.nn.graph import sparse
from recbole_mm.nn.graph.bipartite import SparsePattern, attend, columns, sddmm, segment_softmax, segment_sum, spmm

N_ROWS, N_COLS = 6, 7
ROW = torch.tensor([1, 1, 2, 4, 1, 2, 4, 1])  # rows 0, 3, 5 and columns 4, 6 are isolated; (1, 2) comes twice
COL = torch.tensor([2, 0, 2, 3, 2, 5, 1, 3])


@pytest.fixture
def pattern():
    return SparsePattern.from_pairs(ROW, COL, N_ROWS, N_COLS)


def tensor(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def dense_of(pattern, values):
    matrix = torch.zeros(pattern.n_rows, pattern.n_cols, dtype=values.dtype)
    return matrix.index_put((pattern.row, pattern.col), values)


def assert_close(one, other, tolerance=1e-12):
    assert torch.allclose(one, other, rtol=0, atol=tolerance)


# --- SparsePattern ----------------------------------------------------------------------------------------------------


def test_pairs_are_sorted_and_counted_once(pattern):
    assert pattern.n_edges == 7
    assert pattern.ptr.tolist() == [0, 0, 3, 5, 5, 7, 7]
    assert pattern.row.tolist() == [1, 1, 1, 2, 2, 4, 4]
    assert pattern.col.tolist() == [0, 2, 3, 2, 5, 1, 3]
    assert pattern.degree().tolist() == [0, 3, 2, 0, 2, 0]


def test_transpose_has_the_same_edges(pattern):
    twin = pattern.transpose
    assert (twin.n_rows, twin.n_cols, twin.n_edges) == (N_COLS, N_ROWS, 7)
    assert twin.transpose is pattern and pattern.transpose is twin
    values = torch.arange(7.0)
    assert_close(dense_of(twin, values[pattern.transpose_order]), dense_of(pattern, values).T)
    assert torch.equal(values[pattern.transpose_order][twin.transpose_order], values)
    assert torch.equal(twin.ptr.diff(), torch.bincount(pattern.col, minlength=N_COLS))


def test_transpose_order_is_there_before_the_transpose_was_asked_for():
    pattern = SparsePattern.from_pairs(ROW, COL, N_ROWS, N_COLS)
    assert pattern.transpose_order.tolist() == [0, 5, 1, 3, 2, 6, 4]


def test_transpose_that_inference_mode_asked_for_serves_training(pattern):
    with torch.inference_mode():
        _ = pattern.transpose
    values = tensor(7)
    values.index_select(0, pattern.transpose_order).sum().backward()
    assert torch.all(values.grad == 1)


def test_from_scipy_sums_repeated_entries_and_keeps_the_type():
    matrix = sp.coo_matrix(([1.0, 2.0, 4.0], ([1, 1, 0], [2, 2, 0])), shape=(2, 3))
    pattern, values = SparsePattern.from_scipy(matrix)
    assert pattern.row.tolist() == [0, 1] and pattern.col.tolist() == [0, 2]
    assert values.tolist() == [4.0, 3.0] and values.dtype == torch.float64
    assert SparsePattern.from_scipy(matrix.astype(np.int32))[1].dtype == torch.float32
    assert matrix.nnz == 3  # the caller's matrix is left alone
    unsorted = sp.csr_matrix((np.array([1.0, 2.0, 4.0]), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3))
    pattern, values = SparsePattern.from_scipy(unsorted)
    assert pattern.col.tolist() == [0, 2] and values.tolist() == [2.0, 5.0] and unsorted.nnz == 3


def test_from_scipy_equals_from_pairs():
    matrix = sp.random(9, 5, density=0.4, random_state=0, format="csr")
    pattern, values = SparsePattern.from_scipy(matrix)
    coo = matrix.tocoo()
    other = SparsePattern.from_pairs(torch.as_tensor(coo.row), torch.as_tensor(coo.col), 9, 5)
    for name in ("ptr", "row", "col"):
        assert torch.equal(getattr(pattern, name), getattr(other, name))
    assert_close(dense_of(pattern, values), torch.from_numpy(matrix.toarray()))


def test_indices_outside_the_matrix_are_refused():
    with pytest.raises(ValueError, match=r"col indices must lie in \[0, 3\), got \[0, 3\]; give the true n_cols"):
        SparsePattern.from_pairs(torch.tensor([0, 1]), torch.tensor([0, 3]), 2, 3)
    with pytest.raises(ValueError, match=r"row indices must lie in \[0, 2\), got \[-1, 1\]"):
        SparsePattern.from_pairs(torch.tensor([-1, 1]), torch.tensor([0, 2]), 2, 3)
    with pytest.raises(ValueError, match="equal length"):
        SparsePattern.from_pairs(torch.tensor([0]), torch.tensor([0, 1]), 2, 3)


def test_rows_cut_out_what_a_batch_needs(pattern):
    values, dense = tensor(7), tensor(N_COLS, 3, seed=1)
    index = torch.tensor([2, 1, 0, 1])
    cut, position = pattern.rows(index)
    assert (cut.n_rows, cut.n_cols) == (4, N_COLS)
    assert cut.row.tolist() == [0, 0, 1, 1, 1, 3, 3, 3]
    assert_close(spmm(cut, values[position], dense), spmm(pattern, values, dense)[index])
    gradient = torch.ones(4, 3, dtype=torch.float64)
    ours = torch.autograd.grad(spmm(cut, values[position], dense), (values, dense), gradient)
    plain = torch.autograd.grad((dense_of(pattern, values) @ dense)[index], (values, dense), gradient)
    assert_close(ours[0], plain[0])
    assert_close(ours[1], plain[1])
    assert pattern.rows(index[:0])[0].n_edges == 0


def test_pattern_is_a_module_without_state(pattern):
    holder = torch.nn.Module()
    holder.to_user, holder.to_item = pattern, pattern.transpose
    assert holder.state_dict() == {} and list(holder.parameters()) == []
    holder.double().to("cpu").half()  # an endless recursion here would mean that the halves register each other
    assert pattern.col.dtype == torch.long
    assert "6 x 7, 7 edges" in repr(pattern)


def test_moving_one_half_moves_the_other(pattern):
    twin = pattern.transpose
    pattern.to("meta")
    assert twin.col.is_meta and twin.transpose_order.is_meta and pattern.transpose_order.is_meta


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_keep_their_own_transpose(pattern, copier):
    twin = pattern.transpose
    other = copier(pattern)
    assert other is not pattern and other.transpose is not twin
    assert other.transpose.transpose is other
    values, dense = torch.ones(7), torch.randn(N_COLS, 2)
    assert torch.equal(spmm(other, values, dense), spmm(pattern, values, dense))


# --- spmm and sddmm ---------------------------------------------------------------------------------------------------


def test_spmm_by_hand():
    pattern = SparsePattern.from_pairs(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 3, 2)
    result = spmm(pattern, torch.tensor([2.0, 3.0, 5.0]), torch.tensor([[1.0, 10.0], [2.0, 20.0]]))
    assert result.tolist() == [[8.0, 80.0], [10.0, 100.0], [0.0, 0.0]]


def test_spmm_equals_the_dense_product_with_gradients(pattern):
    values, dense = tensor(7), tensor(N_COLS, 4, seed=1)
    gradient = tensor(N_ROWS, 4, seed=2).detach()
    assert_close(spmm(pattern, values, dense), dense_of(pattern, values) @ dense)
    ours = torch.autograd.grad(spmm(pattern, values, dense), (values, dense), gradient)
    plain = torch.autograd.grad(dense_of(pattern, values) @ dense, (values, dense), gradient)
    assert_close(ours[0], plain[0])
    assert_close(ours[1], plain[1])


def test_sddmm_equals_the_dense_product_with_gradients(pattern):
    left, right = tensor(N_ROWS, 4), tensor(N_COLS, 4, seed=1)
    gradient = tensor(7, seed=2).detach()

    def plain():
        return (left @ right.T)[pattern.row, pattern.col]

    assert_close(sddmm(pattern, left, right), plain())
    ours = torch.autograd.grad(sddmm(pattern, left, right), (left, right), gradient)
    theirs = torch.autograd.grad(plain(), (left, right), gradient)
    assert_close(ours[0], theirs[0])
    assert_close(ours[1], theirs[1])


def test_gradcheck_of_every_operator(pattern):
    values, left, right = tensor(7), tensor(N_ROWS, 3, seed=1), tensor(N_COLS, 3, seed=2)
    for check in (gradcheck, gradgradcheck):
        assert check(lambda v, d: spmm(pattern, v, d), (values, right))
        assert check(lambda a, b: sddmm(pattern, a, b), (left, right))
        assert check(lambda v: segment_softmax(v, pattern.ptr), (values,))
        assert check(lambda v: segment_softmax(v, pattern.ptr), (tensor(7, 2),))
        assert check(lambda a, b: attend(pattern, sddmm(pattern, a, b), b)[0], (left, right))


def test_constant_values_take_no_gradient_and_may_bring_their_transpose(pattern):
    values, dense = tensor(7).detach(), tensor(N_COLS, 4)
    with_order = spmm(pattern, values, dense, values[pattern.transpose_order])
    assert torch.equal(with_order, spmm(pattern, values, dense))
    (ours,) = torch.autograd.grad(with_order.square().sum(), dense)
    (plain,) = torch.autograd.grad((dense_of(pattern, values) @ dense).square().sum(), dense)
    assert_close(ours, plain)


def test_transposed_values_are_really_what_the_backward_pass_reads(pattern):
    values, dense = tensor(7).detach(), tensor(N_COLS, 4)
    spmm(pattern, values, dense, torch.zeros_like(values)).sum().backward()
    assert torch.all(dense.grad == 0)


def test_strided_inputs_and_gradients(pattern):
    """Column slices, transposes and the stride-0 gradient of ``sum``, as models produce them."""
    values, wide = tensor(7), tensor(N_COLS, 8, seed=1)
    tall = tensor(4, N_COLS, seed=2)
    assert_close(spmm(pattern, values, wide[:, 2:5]), dense_of(pattern, values) @ wide[:, 2:5])
    assert_close(spmm(pattern, values, tall.T), dense_of(pattern, values) @ tall.T)
    left = tensor(4, N_ROWS, seed=3)
    assert_close(sddmm(pattern, left.T, tall.T), (left.T @ tall)[pattern.row, pattern.col])
    (ours,) = torch.autograd.grad(spmm(pattern, values, wide[:, 2:5]).sum(), wide)
    (plain,) = torch.autograd.grad((dense_of(pattern, values) @ wide[:, 2:5]).sum(), wide)
    assert_close(ours, plain)


def test_float32_is_close_to_float64(pattern):
    values, dense = tensor(7).detach(), tensor(N_COLS, 64).detach()
    narrow = spmm(pattern, values.float(), dense.float())
    assert narrow.dtype == torch.float32
    assert_close(narrow.double(), spmm(pattern, values, dense), 1e-5)
    assert spmm(pattern, values.float(), dense).dtype == torch.float64


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("width", [7, 8, 33])
def test_float32_row_sums_equal_float64_with_gradients(pattern, monkeypatch, width, strided):
    calls = []
    summed = sparse.weighted_row_sums
    monkeypatch.setattr(sparse, "weighted_row_sums", lambda *args: calls.append(1) or summed(*args))
    values, table = tensor(7), tensor(*((width, N_COLS) if strided else (N_COLS, width)), seed=1)
    results = []
    for dtype in (torch.float64, torch.float32):
        leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in (values, table)]
        product = spmm(pattern, leaves[0], leaves[1].t() if strided else leaves[1])
        results.append([product, *torch.autograd.grad(product.square().sum(), leaves)])
    for exact, ours in zip(*results):
        assert ours.dtype == torch.float32
        assert_close(ours.double(), exact, 1e-4)
    assert not results[1][0][[0, 3, 5]].any(), "rows without edges"
    assert len(calls) == (0 if width < 8 else 2), "forward and gradient of the table, in float32 only"


def test_no_edges_at_all():
    nothing = torch.zeros(0, dtype=torch.long)
    pattern = SparsePattern.from_pairs(nothing, nothing, 3, 2)
    values, dense, left = tensor(0), tensor(2, 4), tensor(3, 4)
    result = spmm(pattern, values, dense).sum() + sddmm(pattern, left, dense).sum()
    result = result + attend(pattern, values, dense)[0].sum() + segment_softmax(values, pattern.ptr).sum()
    result.backward()
    assert result.item() == 0.0
    assert torch.all(dense.grad == 0) and torch.all(left.grad == 0) and values.grad.shape == (0,)
    assert pattern.transpose.n_edges == 0


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_are_computed_in_float32(pattern, narrow):
    values, dense = tensor(7).detach().float(), tensor(N_COLS, 4).detach().float().requires_grad_()
    left = tensor(N_ROWS, 4, seed=3).detach().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = spmm(pattern, values, dense)
        scores = sddmm(pattern, left, dense)
        weights = segment_softmax(scores.to(narrow), pattern.ptr)
        inside.sum().backward()  # backward inside the region must be guarded as well
    assert torch.equal(inside, spmm(pattern, values, dense)) and inside.dtype == torch.float32
    assert torch.equal(scores, sddmm(pattern, left, dense)) and weights.dtype == torch.float32
    half = dense.detach().to(narrow).requires_grad_()
    result = spmm(pattern, values.to(narrow), half)
    result.sum().backward()
    assert result.dtype == torch.float32 and half.grad.dtype == narrow
    assert torch.equal(result, spmm(pattern, values.to(narrow).float(), half.detach().float()))


def test_shapes_that_do_not_match_are_refused(pattern):
    with pytest.raises(ValueError, match=r"6 x 7, 7 edges needs values \(7,\) and dense \(7, dim\), got \(6,\)"):
        spmm(pattern, torch.ones(6), torch.ones(7, 2))
    with pytest.raises(ValueError, match=r"got \(7,\) and \(6, 2\)"):
        spmm(pattern, torch.ones(7), torch.ones(6, 2))
    with pytest.raises(ValueError, match=r"left \(6, dim\) and right \(7, dim\), got \(6, 2\) and \(7, 3\)"):
        sddmm(pattern, torch.ones(6, 2), torch.ones(7, 3))
    with pytest.raises(ValueError, match=r"got \(7, 2\) and \(6, 2\)"):
        sddmm(pattern, torch.ones(7, 2), torch.ones(6, 2))


# --- segments ---------------------------------------------------------------------------------------------------------

PTR = torch.tensor([0, 2, 2, 5, 6, 6])


def plain_softmax(logits, ptr):
    parts = [logits[ptr[s] : ptr[s + 1]].softmax(dim=0) for s in range(len(ptr) - 1)]
    return torch.cat(parts)


def test_segment_softmax_by_hand():
    weights = segment_softmax(torch.tensor([1.0, 0.0, math.log(2), math.log(3), 0.0]), torch.tensor([0, 2, 2, 5]))
    expected = torch.tensor([0.731059, 0.268941, 2 / 6, 3 / 6, 1 / 6])
    assert_close(weights, expected, 1e-6)


@pytest.mark.parametrize("shape", [(6,), (6, 3)])
def test_segment_softmax_equals_the_softmax_of_each_segment(shape):
    logits, gradient = tensor(*shape), tensor(*shape, seed=1).detach()
    ours, plain = segment_softmax(logits, PTR), plain_softmax(logits, PTR)
    assert_close(ours, plain)
    assert_close(torch.autograd.grad(ours, logits, gradient)[0], torch.autograd.grad(plain, logits, gradient)[0])
    row = torch.tensor([0, 0, 2, 2, 2, 3])
    assert torch.equal(segment_softmax(logits, PTR, row), ours)
    assert_close(segment_sum(ours, PTR), torch.tensor([1.0, 0, 1, 1, 0]).double().view(-1, *[1] * (len(shape) - 1)))


@pytest.mark.parametrize("shift", [1e4, -1e4, 3e38])
def test_segment_softmax_of_extreme_logits(shift):
    logits = torch.tensor([shift, shift, 0.0, -shift, shift, shift], requires_grad=True)
    weights = segment_softmax(logits, PTR)
    weights.square().sum().backward()
    assert weights[:2].tolist() == [0.5, 0.5] and weights[5] == 1.0
    assert torch.isfinite(weights).all() and torch.isfinite(logits.grad).all()


def test_segment_softmax_of_masked_logits():
    lowest = float("-inf")
    logits = torch.tensor([lowest, lowest, 1.0, lowest, 1.0, 0.0], requires_grad=True)
    weights = segment_softmax(logits, PTR)
    weights.square().sum().backward()
    assert weights.tolist() == [0.0, 0.0, 0.5, 0.0, 0.5, 1.0]
    assert torch.isfinite(logits.grad).all()


def test_segment_softmax_leaves_its_input_alone():
    logits = torch.arange(6.0)
    segment_softmax(logits, PTR)
    assert torch.equal(logits, torch.arange(6.0))


def test_segment_sum_of_columns():
    values = torch.arange(12.0).view(6, 2)
    assert segment_sum(values, PTR).tolist() == [[2, 4], [0, 0], [18, 21], [10, 11], [0, 0]]


def test_columns_gather_the_rows_of_a_table_and_sum_their_gradients(pattern):
    table, gradient = tensor(N_COLS, 3), tensor(pattern.n_edges, 3, seed=1).detach()
    assert torch.equal(columns(pattern, table), table[pattern.col])
    got = torch.autograd.grad(columns(pattern, table), table, gradient)[0]
    assert_close(got, torch.autograd.grad(table[pattern.col], table, gradient)[0])


# --- attention --------------------------------------------------------------------------------------------------------


def test_attend_routes_a_user_by_hand():
    """One user p = (1, 0) and items (1, 0), (0, 1): the routing steps have known weights."""
    pattern = SparsePattern.from_pairs(torch.tensor([0, 0]), torch.tensor([0, 1]), 1, 2)
    user, items = torch.tensor([[1.0, 0.0]]), torch.eye(2)
    expected = [(0.731059, 0.268941), (0.697332, 0.302668), (0.669076, 0.330924)]
    states = [(0.988145, 0.153521), (0.965269, 0.261258), (0.940186, 0.340663)]
    for weights, state in zip(expected, states):
        message, alpha = attend(pattern, sddmm(pattern, user, items), items)
        user = torch.nn.functional.normalize(user + message)
        assert_close(alpha, torch.tensor(weights), 1e-6)
        assert_close(user, torch.tensor([state]), 1e-6)
    message, alpha = attend(pattern, sddmm(pattern, user, items), items)
    assert_close(alpha, torch.tensor([0.645547, 0.354453]), 1e-6)
    assert_close(user + message, torch.tensor([[1.585733, 0.695116]]), 1e-6)


def test_attend_equals_dense_attention_with_gradients(pattern):
    query, key, value = tensor(N_ROWS, 3), tensor(N_COLS, 3, seed=1), tensor(N_COLS, 5, seed=2)
    mask = dense_of(pattern, torch.ones(7)) > 0
    gradient, some = tensor(N_ROWS, 5, seed=3).detach(), mask.any(dim=1)
    # Rows without an edge stay out of the reference: their softmax is NaN, which RecBole's anomaly detection refuses.
    dense = (query[some] @ key.T).masked_fill(~mask[some], float("-inf")).softmax(dim=1) @ value
    ours, weights = attend(pattern, sddmm(pattern, query, key), value)
    assert_close(ours[some], dense)
    assert_close(ours[~some], torch.zeros_like(ours[~some]))
    assert_close(segment_sum(weights, pattern.ptr), some.double())
    plain = torch.autograd.grad(dense, (query, key, value), gradient[some])
    for one, other in zip(torch.autograd.grad(ours, (query, key, value), gradient), plain):
        assert_close(one, other)


# --- CUDA -------------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu_without_waiting_for_the_device(pattern):
    left, right, values = tensor(N_ROWS, 4), tensor(N_COLS, 4, seed=1), tensor(7, seed=2)

    def step(pattern, left, right, values):
        output, weights = attend(pattern, sddmm(pattern, left, right) * values, right)
        return output, *torch.autograd.grad(output.square().sum() + weights.square().sum(), (left, right, values))

    expected = step(pattern, left, right, values)
    moved = copy.deepcopy(pattern).cuda()
    arguments = [argument.detach().cuda().requires_grad_() for argument in (left, right, values)]
    _ = moved.transpose
    step(moved, *arguments)
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = step(moved, *arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(result, expected):
        assert_close(one.cpu(), other, 1e-10)


def test_the_result_of_sddmm_is_no_view_of_a_sparse_tensor() -> None:
    """torch.compile asks such a view for the strides of what it is a view of, and fails."""
    left, right = torch.rand(2, 3, requires_grad=True), torch.rand(2, 3)
    pattern = SparsePattern.from_pairs(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), n_rows=2, n_cols=2)
    found = sddmm(pattern, left, right)
    assert found._base is None
    torch.testing.assert_close(found, (left[[0, 0, 1]] * right[[0, 1, 1]]).sum(dim=1))
