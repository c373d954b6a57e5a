"""Ranking and contrastive losses: closed forms, plain references in float64, degenerate sizes, mixed precision."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from recbole.model.loss import EmbLoss

from recbole_mm.nn import loss as loss_module
from recbole_mm.nn.loss import (
    bpr_loss,
    contrast_scale,
    first_occurrence,
    frobenius_penalty,
    info_nce_loss,
    l2_penalty,
)


def views(*shape, count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(count)]


def plain_info_nce(left, right, temperature, extra=None):
    """One anchor at a time, from the definition."""
    total = 0.0
    for b in range(len(left)):
        scores = [F.cosine_similarity(left[b], row, dim=0) / temperature for row in right]
        denominator = [*scores] + (
            [F.cosine_similarity(left[b], extra[b], dim=0) / temperature] if extra is not None else []
        )
        total = total - scores[b] + torch.stack(denominator).exp().sum().log()
    return total / len(left)


# --- bpr_loss, l2_penalty ---------------------------------------------------------------------------------------------


def test_bpr_closed_forms():
    positive, negative = torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])
    assert bpr_loss(positive, negative).item() == pytest.approx((math.log(2) + math.log1p(math.exp(-2))) / 2, rel=1e-6)


def test_bpr_equals_minus_log_sigmoid_with_gradient():
    positive, negative = views(20)
    plain = -torch.log(torch.sigmoid(positive - negative)).mean()
    assert torch.allclose(bpr_loss(positive, negative), plain, rtol=0, atol=1e-12)
    ours = torch.autograd.grad(bpr_loss(positive, negative), (positive, negative))
    theirs = torch.autograd.grad(plain, (positive, negative))
    for one, other in zip(ours, theirs):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


def test_bpr_is_finite_for_any_gap():
    negative = torch.tensor([1e4], requires_grad=True)
    value = bpr_loss(torch.tensor([-1e4]), negative)
    value.backward()
    assert value.item() == pytest.approx(2e4) and negative.grad.item() == pytest.approx(1.0)


def test_bpr_broadcasts_over_several_negatives():
    positive, negative = torch.zeros(3, 1), torch.zeros(3, 5)
    assert bpr_loss(positive, negative).item() == pytest.approx(math.log(2))


def test_l2_penalty_is_half_the_squared_length_over_the_batch_as_recboles():
    users, chosen, rejected = torch.randn(5, 4), torch.randn(5, 4), torch.randn(5, 4)
    expected = EmbLoss(norm=2)(users, chosen, rejected, require_pow=True)
    torch.testing.assert_close(l2_penalty(users, torch.cat([chosen, rejected])), expected.squeeze())
    assert l2_penalty(torch.tensor([[1.0, 3.0], [0.0, 2.0]])).item() == pytest.approx(3.5)
    with pytest.raises(ValueError, match="at least one tensor"):
        l2_penalty()


# --- info_nce_loss ----------------------------------------------------------------------------------------------------


def test_info_nce_of_identical_orthonormal_views():
    eye = torch.eye(5, dtype=torch.float64)
    assert info_nce_loss(eye[:4], eye[:4], 0.2).item() == pytest.approx(0.0200123, abs=5e-8)


def test_info_nce_with_an_orthogonal_extra_negative():
    eye = torch.eye(5, dtype=torch.float64)
    assert info_nce_loss(eye[:4], eye[:4], 0.2, eye[4].expand(4, 5)).item() == pytest.approx(0.0265950, abs=5e-8)


def test_info_nce_with_the_positive_as_extra_negative():
    eye = torch.eye(5, dtype=torch.float64)
    assert info_nce_loss(eye[:4], eye[:4], 0.2, eye[:4]).item() == pytest.approx(0.7032034, abs=5e-8)


def test_info_nce_symmetric_hand_case():
    text, image = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert info_nce_loss(text, image, 0.5, symmetric=True).item() == pytest.approx(0.298736, abs=1e-6)
    assert info_nce_loss(text, image, 0.5).item() == pytest.approx((0.371101 + 0.183901) / 2, abs=1e-6)
    assert info_nce_loss(image, text, 0.5).item() == pytest.approx((0.126928 + 0.513015) / 2, abs=1e-6)


@pytest.mark.parametrize("with_extra", [False, True])
def test_info_nce_equals_the_definition(with_extra):
    left, right, extra = views(7, 4, count=3)
    extra = extra if with_extra else None
    assert torch.allclose(
        info_nce_loss(left, right, 0.3, extra), plain_info_nce(left, right, 0.3, extra), rtol=0, atol=1e-12
    )
    both = (plain_info_nce(left, right, 0.3, extra) + plain_info_nce(right, left, 0.3, extra)) / 2
    assert torch.allclose(info_nce_loss(left, right, 0.3, extra, symmetric=True), both, rtol=0, atol=1e-12)


def test_info_nce_ignores_row_scale_and_row_order():
    left, right = views(9, 5)
    expected = info_nce_loss(left, right, 0.2)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(info_nce_loss(3 * left, 0.1 * right, 0.2), expected, rtol=0, atol=1e-12)
    assert torch.allclose(info_nce_loss(left[order], right[order], 0.2), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk_rows", [1, 4, 10, 11])
def test_info_nce_in_chunks_equals_the_whole(chunk_rows):
    left, right, extra = views(10, 6, count=3)
    valid = torch.arange(10) != 3
    whole = info_nce_loss(left, right, 0.2, extra, symmetric=True, valid=valid, chunk_rows=10)
    parts = info_nce_loss(left, right, 0.2, extra, symmetric=True, valid=valid, chunk_rows=chunk_rows)
    assert torch.allclose(parts, whole, rtol=0, atol=1e-13)
    gradients = torch.autograd.grad(whole, (left, right, extra))
    for one, other in zip(torch.autograd.grad(parts, (left, right, extra)), gradients):
        assert torch.allclose(one, other, rtol=0, atol=1e-13)


def test_info_nce_goes_into_chunks_by_itself(monkeypatch):
    sizes = []
    original = loss_module._log_partition

    def spy(anchor, *rest):
        sizes.append(len(anchor))
        return original(anchor, *rest)

    monkeypatch.setattr(loss_module, "_log_partition", spy)
    monkeypatch.setattr(loss_module, "CHUNK_SCORES", 40)
    left, right = views(10, 6)
    info_nce_loss(left, right, 0.2)
    assert sizes == [4, 4, 2]


def test_info_nce_valid_equals_leaving_rows_out():
    left, right, extra = views(8, 5, count=3)
    valid = torch.tensor([1, 0, 1, 1, 0, 1, 1, 0], dtype=torch.bool)
    masked = info_nce_loss(left, right, 0.2, extra, symmetric=True, valid=valid)
    left_out = info_nce_loss(left[valid], right[valid], 0.2, extra[valid], symmetric=True)
    assert torch.allclose(masked, left_out, rtol=0, atol=1e-13)
    for one, other in zip(torch.autograd.grad(masked, (left, right)), torch.autograd.grad(left_out, (left, right))):
        assert torch.allclose(one, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("extra", [False, True])
def test_info_nce_without_any_valid_row_is_zero_with_finite_gradients(extra):
    left, right, hard = views(3, 4, count=3)
    value = info_nce_loss(left, right, 0.2, hard if extra else None, True, valid=torch.zeros(3, dtype=torch.bool))
    value.backward()
    assert value.item() == 0.0 and torch.all(left.grad == 0) and torch.all(right.grad == 0)


@pytest.mark.parametrize("mask", ["some", "none"])
def test_masked_form_for_devices_equals_leaving_rows_out(mask):
    """A GPU masks scores where a CPU takes rows out; both are the same function, also with no row at all."""
    left, right, hard = (F.normalize(view, dim=1) for view in views(8, 5, count=3))
    valid = torch.tensor([1, 0, 1, 1, 0, 1, 1, 0], dtype=torch.bool) & (mask == "some")
    for chunk_rows in (3, 8):
        masked = loss_module._cross_entropy(left, right, hard, valid, 0.2, chunk_rows)
        left_out = info_nce_loss(left[valid], right[valid], 0.2, hard[valid])
        assert torch.allclose(masked, left_out, rtol=0, atol=1e-13)
        without = loss_module._cross_entropy(left, right, None, valid, 0.2, chunk_rows)
        assert torch.allclose(without, info_nce_loss(left[valid], right[valid], 0.2), rtol=0, atol=1e-13)
        for total in (masked, without):
            gradients = torch.autograd.grad(total, (left, right), retain_graph=True)
            assert all(torch.isfinite(gradient).all() for gradient in gradients)
            assert all(torch.all(gradient[~valid] == 0) for gradient in gradients)


def test_info_nce_of_a_single_row_and_of_none():
    left, right = views(1, 4)
    assert info_nce_loss(left, right, 0.2, symmetric=True).item() == pytest.approx(0.0, abs=1e-15)
    empty = torch.zeros(0, 4, requires_grad=True)
    value = info_nce_loss(empty, empty, 0.2)
    value.backward()
    assert value.item() == 0.0 and empty.grad.shape == (0, 4)


def test_info_nce_zero_rows_stay_finite():
    left, right = torch.zeros(3, 4, requires_grad=True), torch.zeros(3, 4)
    value = info_nce_loss(left, right, 0.2)
    value.backward()
    assert value.item() == pytest.approx(math.log(3)) and torch.isfinite(left.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_info_nce_of_narrow_types_is_computed_in_float32(dtype):
    left, right = (view.detach().to(dtype) for view in views(6, 8))
    value = info_nce_loss(left, right, 0.05)
    assert value.dtype == torch.float32
    assert torch.allclose(value, info_nce_loss(left.float(), right.float(), 0.05), rtol=1e-6, atol=0)


def test_losses_keep_float32_under_autocast():
    left, right = (view.detach().float() for view in views(6, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = left @ right.t()
        assert narrow.dtype == torch.bfloat16
        inside = info_nce_loss(left, right, 0.05), bpr_loss(narrow[0], narrow[1]), l2_penalty(narrow)
    assert all(value.dtype == torch.float32 for value in inside)
    assert torch.equal(inside[0], info_nce_loss(left, right, 0.05))


@pytest.mark.parametrize("temperature", [0.0, -0.2, float("nan"), float("inf")])
def test_info_nce_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be a positive number, got"):
        info_nce_loss(torch.eye(2), torch.eye(2), temperature)


def test_info_nce_refuses_shapes_that_do_not_match():
    with pytest.raises(ValueError, match=r"one shape \(batch, dim\), got \(2, 2\) and \(3, 3\)"):
        info_nce_loss(torch.eye(2), torch.eye(3), 0.2)
    with pytest.raises(ValueError, match=r"got \(2, 2\) and \(2, 2\) and \(3, 3\)"):
        info_nce_loss(torch.eye(2), torch.eye(2), 0.2, torch.eye(3))
    with pytest.raises(ValueError, match=r"bool vector of shape \(2,\)"):
        info_nce_loss(torch.eye(2), torch.eye(2), 0.2, valid=torch.ones(2))


def test_info_nce_without_normalisation_scores_by_inner_products():
    left, right = views(7, 4)
    scores = left @ right.T / 0.5
    expected = (scores.logsumexp(dim=1) - scores.diagonal()).mean()
    assert torch.allclose(info_nce_loss(left, right, 0.5, normalize=False), expected, rtol=0, atol=1e-12)
    assert not torch.allclose(info_nce_loss(2 * left, right, 0.5, normalize=False), expected)


def plain_same(left, right, temperature, same):
    """One anchor at a time; other columns with the anchor's id are no negatives."""
    total = 0.0
    for b in range(len(left)):
        kept = [c for c in range(len(left)) if c == b or same[c] != same[b]]
        scores = torch.stack([F.cosine_similarity(left[b], right[c], dim=0) for c in kept]) / temperature
        total = total + scores.logsumexp(dim=0) - scores[kept.index(b)]
    return total / len(left)


@pytest.mark.parametrize("chunk_rows", [1, 3, 8, None])
def test_info_nce_leaves_copies_of_the_anchor_out(chunk_rows):
    left, right = views(8, 5)
    same = torch.tensor([4, 2, 4, 7, 2, 4, 1, 9])
    value = info_nce_loss(left, right, 0.2, same=same, chunk_rows=chunk_rows)
    expected = plain_same(left, right, 0.2, same.tolist())
    assert torch.allclose(value, expected, rtol=0, atol=1e-12)
    for one, other in zip(torch.autograd.grad(value, (left, right)), torch.autograd.grad(expected, (left, right))):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


def test_info_nce_with_copies_and_valid_rows():
    left, right = views(8, 5)
    same, valid = torch.tensor([4, 2, 4, 7, 2, 4, 1, 9]), torch.tensor([1, 1, 1, 0, 1, 0, 1, 1], dtype=torch.bool)
    expected = plain_same(left[valid], right[valid], 0.2, same[valid].tolist())
    value = info_nce_loss(left, right, 0.2, same=same, valid=valid)
    assert torch.allclose(value, expected, rtol=0, atol=1e-12)
    unit = [F.normalize(view, dim=1) for view in (left, right)]
    assert torch.allclose(loss_module._cross_entropy(*unit, None, valid, 0.2, 3, same), expected, rtol=0, atol=1e-12)


def test_repeated_rows_closed_forms():
    """Four orthonormal pairs, the third equal to the first: counted as a negative, and not."""
    eye = torch.eye(4, dtype=torch.float64)[[0, 1, 0, 3]]
    assert info_nce_loss(eye, eye, 0.2).item() == pytest.approx(0.35993739, abs=5e-9)
    assert info_nce_loss(eye, eye, 0.2, same=torch.tensor([0, 1, 0, 3])).item() == pytest.approx(0.01669908, abs=5e-9)


def test_info_nce_refuses_ids_of_another_length():
    with pytest.raises(ValueError, match="vector of 2 ids"):
        info_nce_loss(torch.eye(2), torch.eye(2), 0.2, same=torch.tensor([1]))


# --- first_occurrence -------------------------------------------------------------------------------------------------


def test_first_occurrence_equals_a_loop():
    ids = torch.randint(0, 20, (200,), generator=torch.Generator().manual_seed(0))
    seen: set[int] = set()
    expected = [not (i in seen or seen.add(i)) for i in ids.tolist()]
    assert first_occurrence(ids).tolist() == expected
    assert first_occurrence(ids[:0]).tolist() == []


def test_l2_penalty_is_a_plain_sum():
    rows = [view.detach() for view in views(5, 3, count=3)]
    expected = sum(float(x) ** 2 for table in rows for row in table for x in row) / (2 * 5)
    assert l2_penalty(*rows).item() == pytest.approx(expected, rel=1e-12)
    assert l2_penalty(torch.tensor([[1.0, 3.0]]), torch.tensor([2.0])).item() == 7.0  # a row's bias
    assert l2_penalty(torch.zeros(0, 3)).item() == 0.0
    assert l2_penalty(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.float32


def test_frobenius_penalty_has_gradients_of_length_one_and_none_at_zero():
    tables = [view.detach().requires_grad_() for view in views(5, 3, count=2)]
    zero = torch.zeros(4, 2, requires_grad=True)
    penalty = frobenius_penalty(*tables, zero)
    penalty.backward()
    assert penalty.item() == pytest.approx(sum(math.sqrt(float((t.detach() ** 2).sum())) for t in tables))
    assert all(table.grad.norm().item() == pytest.approx(1.0) for table in tables) and not zero.grad.any()
    with pytest.raises(ValueError, match="at least one tensor"):
        frobenius_penalty()


def test_a_contrast_is_scaled_by_the_mean_lengths_up_to_one_and_as_a_constant():
    left, right = views(6, 4)
    lengths = [sum(row.norm().item() for row in rows) / 6 for rows in (left, right)]
    for factor in (0.1, 10.0):
        scale = contrast_scale(factor * left, right)
        assert scale.item() == pytest.approx(min(1.0, factor * lengths[0] * lengths[1])) and not scale.requires_grad
