"""The rows that a step computes."""

import pytest
import torch

from recbole_mm.nn.rows import batch_rows, unit_rows


def test_every_id_finds_its_row():
    ids = torch.tensor([5, 3, 5, 9])
    rows, place = batch_rows(ids, n_rows=20)
    assert torch.equal(rows[place], ids) and rows.tolist() == [3, 5, 9]


def test_all_rows_when_nothing_is_saved():
    assert batch_rows(None, 3) == (None, None)
    rows, place = batch_rows(torch.tensor([1, 1, 2]), 3)
    assert rows is None and place.tolist() == [1, 1, 2]


def test_off_the_cpu_repeated_rows_stay_and_nothing_waits_for_the_device():
    ids = torch.zeros(3, dtype=torch.long, device="meta")
    rows, place = batch_rows(ids, n_rows=20)
    assert rows is ids and place.shape == (3,) and place.is_meta
    rows, place = batch_rows(ids, n_rows=20, distinct=True)
    assert rows is None and place is ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unit_rows_are_torchs_normalised_rows(dtype):
    table = torch.randn(7, 5, dtype=dtype)
    table[2] = 0
    table[3] *= 1e-14  # below epsilon, where the divisor is a constant
    ours, theirs = table.clone().requires_grad_(), table.clone().requires_grad_()
    gradient = torch.randn(7, 5, dtype=dtype)
    got, expected = unit_rows(ours), torch.nn.functional.normalize(theirs)
    got.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(got, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_unit_rows_of_half_precision_are_computed_in_float32(dtype):
    table = torch.tensor([[0.0, 0.0], [3.0, 4.0], [60000.0, 60000.0]]).to(dtype).requires_grad_()
    rows = unit_rows(table)
    rows.sum().backward()
    assert rows.dtype == torch.float32 and table.grad.dtype == dtype
    torch.testing.assert_close(rows, torch.tensor([[0.0, 0.0], [0.6, 0.8], [0.5**0.5, 0.5**0.5]]))


def test_unit_rows_have_the_gradient_of_finite_differences():
    assert torch.autograd.gradcheck(unit_rows, torch.randn(4, 3, dtype=torch.float64, requires_grad=True))
