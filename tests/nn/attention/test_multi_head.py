"""Attention: a plain float64 reference with gradients, on either way."""

from __future__ import annotations

import pytest
import torch

from recbole_mm.nn.attention import multi_head
from recbole_mm.nn.attention.multi_head import attend, attend_across


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def reference_attention(query, key, value, n_heads, mask=None):
    """One row and one head at a time."""
    size = query.shape[2] // n_heads
    output = torch.zeros_like(query)
    for row in range(len(query)):
        for head in range(n_heads):
            part = slice(head * size, (head + 1) * size)
            for t in range(query.shape[1]):
                there = [s for s in range(key.shape[1]) if mask is None or mask[row, s]]
                weights = torch.stack([query[row, t, part] @ key[row, s, part] for s in there]) / size**0.5
                weights = weights.exp() / weights.exp().sum()
                mixed = sum(w * value[row, s, part] for w, s in zip(weights, there))
                output[row, t, part] = mixed
    return output


def packed(n_tokens, seed, dim=4):
    return random(2, n_tokens, 3 * dim, seed=seed).requires_grad_()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("n_heads", [1, 2])
@pytest.mark.parametrize("limit", [0, 16], ids=["torch", "few"])
def test_attention_equals_plain_loops_with_gradients(monkeypatch, limit, n_heads, masked):
    monkeypatch.setattr(multi_head, "FEW_TOKENS", limit)
    left, right = packed(2, seed=0), packed(3, seed=1)
    masks = [torch.tensor([[True, False], [True, True]]), torch.tensor([[True, False, True], [True, True, False]])]
    masks = masks if masked else [None, None]
    (left_query, left_key, left_value), (right_query, right_key, right_value) = left.chunk(3, -1), right.chunk(3, -1)
    ours = (*attend_across(left, right, n_heads, *masks), attend(right, n_heads, masks[1]))
    theirs = (
        reference_attention(left_query, right_key, right_value, n_heads, masks[1]),
        reference_attention(right_query, left_key, left_value, n_heads, masks[0]),
        reference_attention(right_query, right_key, right_value, n_heads, masks[1]),
    )
    torch.testing.assert_close(ours, theirs)
    for results in (slice(0, 2), slice(2, 3), slice(0, 3)):
        inputs = [left, right] if results.start == 0 else [right]
        gradients = (torch.autograd.grad(total(x[results]), inputs, retain_graph=True) for x in (ours, theirs))
        for own, other in zip(*gradients):
            torch.testing.assert_close(own, other)


def total(tensors):
    return sum((tensor * random(*tensor.shape, seed=9)).square().sum() for tensor in tensors)


@pytest.mark.parametrize("limit", [0, 16], ids=["torch", "few"])
def test_every_row_of_weights_sums_to_one_over_the_present_keys(monkeypatch, limit):
    monkeypatch.setattr(multi_head, "FEW_TOKENS", limit)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    value = torch.where(mask.unsqueeze(2), 1.0, 1e6).expand(2, 3, 4).double()
    right = torch.cat([random(2, 3, 8, seed=1), value], dim=2)
    found, _ = attend_across(packed(5, seed=0), right, 2, right_mask=mask)
    torch.testing.assert_close(found, torch.ones(2, 5, 4).double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_few_tokens_compute_half_precision_in_float32(dtype):
    inputs = [packed(n, seed=n).detach().to(dtype).requires_grad_() for n in (3, 2)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    ours, theirs = attend_across(*inputs, n_heads=2), attend_across(*exact, n_heads=2)
    for own, other in zip(ours, theirs):
        assert own.dtype == dtype
        torch.testing.assert_close(own, other.to(dtype))
    sum(x.sum() for x in ours).backward()
    sum(x.sum() for x in theirs).backward()
    for own, other in zip(inputs, exact):
        torch.testing.assert_close(own.grad, other.grad.to(dtype), rtol=1e-2, atol=1e-3)
