"""Masked softmax attention against plain loops in float64."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_mm.nn.attention.softmax import attention_pool, masked_mean, masked_softmax


def plain_softmax(logits, mask):
    weights = [math.exp(s) if m else 0.0 for s, m in zip(logits, mask)]
    return [w / sum(weights) if sum(weights) else 0.0 for w in weights]


def test_masked_softmax_equals_a_plain_loop():
    torch.manual_seed(0)
    logits = torch.randn(40, 5, dtype=torch.float64) * 3
    mask = torch.rand(40, 5) < 0.6
    mask[0] = False
    expected = torch.tensor([plain_softmax(s, m) for s, m in zip(logits.tolist(), mask.tolist())], dtype=torch.float64)
    torch.testing.assert_close(masked_softmax(logits, mask), expected)


def test_masked_entries_are_as_if_they_were_not_there():
    logits = torch.tensor([[1.0, 70.0, -2.0]], dtype=torch.float64)
    mask = torch.tensor([[True, False, True]])
    assert torch.equal(masked_softmax(logits, mask)[:, [0, 2]], masked_softmax(logits[:, [0, 2]]))


def test_all_masked_gives_zeros_and_a_zero_gradient():
    logits = torch.randn(2, 3, requires_grad=True)
    mask = torch.tensor([[False] * 3, [True] * 3])
    weights = masked_softmax(logits, mask)
    (weights * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert torch.equal(weights[0], torch.zeros(3))
    assert torch.equal(logits.grad[0], torch.zeros(3))
    assert logits.grad[1].abs().sum() > 0


def test_mask_broadcasts_and_dim_is_respected():
    logits = torch.randn(2, 4, 3)
    mask = torch.tensor([True, False, True, True]).view(1, 4, 1)
    weights = masked_softmax(logits, mask, dim=1)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 3))
    assert torch.equal(weights[:, 1], torch.zeros(2, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    logits = torch.tensor([[500.0, 499.0, -60000.0]], dtype=dtype)
    weights = masked_softmax(logits, torch.tensor([[True, True, False]]))
    assert weights.dtype == torch.float32
    assert weights.sum().item() == pytest.approx(1.0)


def test_gradient_of_masked_softmax():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True] * 4, [True, False, True, False], [False] * 4])
    assert torch.autograd.gradcheck(lambda x: masked_softmax(x, mask), logits)


def test_masked_mean_equals_the_mean_of_the_present_tokens():
    tokens = torch.randn(3, 4, 2, dtype=torch.float64)
    mask = torch.tensor([[True] * 4, [True, False, True, False], [False] * 4])
    mean = masked_mean(tokens, mask)
    torch.testing.assert_close(mean[0], tokens[0].mean(dim=0))
    torch.testing.assert_close(mean[1], tokens[1, [0, 2]].mean(dim=0))
    assert torch.equal(mean[2], torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(masked_mean(tokens), tokens.mean(dim=1))


def test_attention_pool_is_the_weighted_sum():
    weights, tokens = torch.rand(2, 3, 4), torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(attention_pool(weights, tokens), torch.einsum("abn,abnd->abd", weights, tokens))
