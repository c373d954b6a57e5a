"""Attention: a plain float64 reference with gradients, on either way."""

from __future__ import annotations

import pytest
import torch

from recbole_mm.nn import multi_head
from recbole_mm.nn.multi_head import attend


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


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("n_heads", [1, 2])
@pytest.mark.parametrize("limit", [0, 16], ids=["torch", "few"])
def test_attention_equals_plain_loops_with_gradients(monkeypatch, limit, n_heads, masked):
    monkeypatch.setattr(multi_head, "FEW_TOKENS", limit)
    inputs = [random(2, n, 4, seed=n).requires_grad_() for n in (2, 3)]
    mask = torch.tensor([[True, False, True], [True, True, False]]) if masked else None
    ours = attend(inputs[0], inputs[1], 2 * inputs[1], n_heads, mask)
    theirs = reference_attention(inputs[0], inputs[1], 2 * inputs[1], n_heads, mask)
    torch.testing.assert_close(ours, theirs)
    for own, other in zip(*(torch.autograd.grad(x.square().sum(), inputs) for x in (ours, theirs))):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("limit", [0, 16], ids=["torch", "few"])
def test_every_row_of_weights_sums_to_one_over_the_present_keys(monkeypatch, limit):
    monkeypatch.setattr(multi_head, "FEW_TOKENS", limit)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    value = torch.where(mask.unsqueeze(2), 1.0, 1e6).expand(2, 3, 4).double()
    weights = attend(random(2, 5, 4), random(2, 3, 4, seed=1), value, 2, mask)
    torch.testing.assert_close(weights, torch.ones(2, 5, 4).double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_few_tokens_compute_half_precision_in_float32(dtype):
    inputs = [random(5, n, 4, seed=n).to(dtype).requires_grad_() for n in (3, 2, 2)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    ours, theirs = attend(*inputs, n_heads=2), attend(*exact, n_heads=2)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs.to(dtype))
    ours.sum().backward()
    theirs.sum().backward()
    for own, other in zip(inputs, exact):
        torch.testing.assert_close(own.grad, other.grad.to(dtype), rtol=1e-2, atol=1e-3)
