"""The contrast with a whole table: a plain reference in float64, chunks, masks, memory, mixed precision."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_mm.nn.table_nce import table_nce_loss
from tests.nn.test_loss import views


def plain(anchor, table, ids, temperature, valid, counted):
    """One anchor and one candidate at a time."""
    total = anchor.sum() * 0.0
    for b, own in enumerate(ids.tolist()):
        if counted[b] and valid[own]:
            scores = {
                j: F.cosine_similarity(anchor[b], table[j], dim=0) / temperature for j in range(len(table)) if valid[j]
            }
            total = total + torch.stack(list(scores.values())).logsumexp(dim=0) - scores[own]
    return total


@pytest.mark.parametrize("chunk_rows", [1, 2, 5, None])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_equal_the_plain_reference(chunk_rows, masked):
    (anchor,), (table,) = views(5, 3, count=1), views(7, 3, count=1, seed=1)
    ids = torch.tensor([6, 2, 2, 0, 4])
    valid = torch.tensor([1, 1, 1, 0, 0, 1, 1], dtype=torch.bool) if masked else torch.ones(7, dtype=torch.bool)
    counted = torch.tensor([1, 1, 1, 0, 1], dtype=torch.bool) if masked else torch.ones(5, dtype=torch.bool)
    masks = {"valid": valid, "counted": counted} if masked else {}
    value = table_nce_loss(anchor, table, ids, 0.2, chunk_rows=chunk_rows, **masks)
    expected = plain(anchor, table, ids, 0.2, valid, counted)
    assert torch.allclose(value, expected, rtol=0, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(3 * value, (anchor, table)), torch.autograd.grad(3 * expected, (anchor, table))
    ):
        assert torch.allclose(one, other, rtol=0, atol=1e-11)


def test_gradient_of_one_side_only_and_finite_differences():
    (anchor,), (table,) = views(4, 3, count=1), views(6, 3, count=1, seed=1)
    ids = torch.tensor([5, 0, 3, 3])
    assert torch.autograd.gradcheck(lambda a, t: table_nce_loss(a, t, ids, 0.5, chunk_rows=3), (anchor, table))
    table_nce_loss(anchor, table.detach(), ids, 0.5).backward()
    assert anchor.grad is not None and table.grad is None


def test_a_table_that_is_the_batch_gives_the_in_batch_loss_times_its_size():
    eye = torch.eye(4, dtype=torch.float64)
    assert table_nce_loss(eye, eye, torch.arange(4), 0.2).item() == pytest.approx(4 * 0.02001225, abs=5e-8)


def test_inner_products_instead_of_cosines():
    (anchor,), (table,) = views(4, 3, count=1), views(6, 3, count=1, seed=1)
    ids = torch.tensor([5, 0, 3, 3])
    scores = anchor @ table.T / 0.5
    expected = (scores.logsumexp(dim=1) - scores[torch.arange(4), ids]).sum()
    assert torch.allclose(table_nce_loss(anchor, table, ids, 0.5, normalize=False), expected, rtol=0, atol=1e-12)


def test_nothing_counted_is_zero_with_finite_gradients():
    (anchor,), (table,) = views(3, 4, count=1), views(5, 4, count=1)
    for masks in ({"valid": torch.zeros(5, dtype=torch.bool)}, {"counted": torch.zeros(3, dtype=torch.bool)}):
        value = table_nce_loss(anchor, table, torch.tensor([0, 1, 2]), 0.2, **masks)
        gradients = torch.autograd.grad(value, (anchor, table))
        assert value.item() == 0.0 and all(gradient.eq(0).all() for gradient in gradients)


def test_a_low_temperature_stays_finite():
    (anchor,), (table,) = views(3, 4, count=1), views(5, 4, count=1)
    value = table_nce_loss(anchor.float(), table.float(), torch.tensor([0, 1, 2]), 1e-3)
    assert value.isfinite() and all(g.isfinite().all() for g in torch.autograd.grad(value, (anchor, table)))


def test_only_a_chunk_of_scores_is_held():
    largest = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            largest.append(
                max(
                    (
                        t.numel()
                        for t in (result if isinstance(result, tuple) else (result,))
                        if isinstance(t, torch.Tensor)
                    ),
                    default=0,
                )
            )
            return result

    (anchor,), (table,) = views(64, 2, count=1), views(50, 2, count=1)
    with Sizes():
        table_nce_loss(anchor, table, torch.arange(64) % 50, 0.2, chunk_rows=4).backward()
    assert max(largest) == 4 * 50


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_types_are_computed_in_float32(dtype):
    anchor, table = (view.detach().to(dtype) for view in views(6, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = table_nce_loss(anchor, table, torch.arange(6), 0.1)
    assert value.dtype == torch.float32
    assert torch.allclose(value, table_nce_loss(anchor.float(), table.float(), torch.arange(6), 0.1), rtol=1e-6, atol=0)


def test_wrong_shapes_masks_and_temperatures_are_refused():
    with pytest.raises(ValueError, match=r"for 3 ids.*got \(2, 2\) and \(4, 2\)"):
        table_nce_loss(torch.eye(2), torch.zeros(4, 2), torch.arange(3), 0.2)
    with pytest.raises(ValueError, match=r"counted must be a bool vector of shape \(2,\)"):
        table_nce_loss(torch.eye(2), torch.eye(2), torch.arange(2), 0.2, counted=torch.ones(2))
    with pytest.raises(ValueError, match="temperature must be a positive number"):
        table_nce_loss(torch.eye(2), torch.eye(2), torch.arange(2), 0.0)


@pytest.mark.parametrize("largest", [1.0, 100.0])
def test_a_known_bound_changes_nothing(largest):
    """Low enough it stands in for the highest scores; above, these are looked for."""
    (anchor,), (table,) = views(6, 3, count=1), views(9, 3, count=1, seed=1)
    anchor, table = F.normalize(anchor), F.normalize(table)
    ids, valid = torch.tensor([8, 1, 1, 0, 4, 3]), torch.arange(9) != 3
    options = {"valid": valid, "normalize": False, "chunk_rows": 4}
    found, expected = (table_nce_loss(anchor, table, ids, 0.1, largest=bound, **options) for bound in (largest, None))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    gradients = (torch.autograd.grad(value, (anchor, table), retain_graph=True) for value in (found, expected))
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-13)
    assert found.item() == pytest.approx(plain(anchor, table, ids, 0.1, valid, valid[ids]).item(), rel=1e-12)
