"""Multi-head attention on projected tokens, with a way of its own for few tokens in large batches on CPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_mm.nn.attention import masked_softmax
from recbole_mm.nn.sparse import full_precision

__all__ = ["attend", "attention_numbers"]

# Up to this many tokens on either side, torch's attention spends its time on calls, one a row and head. Measured on one
# CPU thread for all layers of 8 and 5 tokens of width 16: 26 microseconds a pair, against 12.
FEW_TOKENS = 16


def attend(query: Tensor, key: Tensor, value: Tensor, n_heads: int, mask: Tensor | None = None) -> Tensor:
    r"""Multi-head attention on tokens that are already projected; the heads are concatenated.

    .. math:: o^h_t = \textstyle\sum_s \mathrm{softmax}_s\left( \langle q^h_t, k^h_s \rangle / \sqrt{d_h} \right) v^h_s

    Can be differentiated once.

    Args:
        query: Shape ``(batch, n_queries, dim)``.
        key: Shape ``(batch, n_keys, dim)``.
        value: Shape ``(batch, n_keys, dim)``.
        n_heads: Number of heads, a divisor of ``dim``; :math:`d_h` = ``dim / n_heads``.
        mask: True where a key is present, bool ``(batch, n_keys)``; at least one a row. All are present if not given.

    Returns:
        Shape ``(batch, n_queries, dim)``.

    Example:
        >>> tokens = torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])
        >>> attend(torch.tensor([[[1.0, 0.0]]]), tokens, tokens, n_heads=1)
        tensor([[[0.6698, 1.0000]]])
    """
    if _are_few(query.shape[1], key.shape[1], query.device.type == "cpu"):
        return _FewTokens.apply(query, key, value, n_heads, mask)
    q, k, v = (x.unflatten(-1, (n_heads, -1)).transpose(1, 2) for x in (query, key, value))
    output = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None, :])
    return output.transpose(1, 2).flatten(2)


def attention_numbers(n_queries: int, n_keys: int, dim: int, n_heads: int, on_cpu: bool) -> int:
    """Numbers that :func:`attend` keeps at once for each row of a batch, without its inputs and its result.

    Few tokens on a CPU take copies of all three, and weights with what masks them or with the sum that they weigh.
    """
    if _are_few(n_queries, n_keys, on_cpu):
        weights = n_queries * n_keys * n_heads
        return (n_queries + 2 * n_keys) * dim + max(3 * weights, weights + n_queries * dim)
    return n_queries * dim + n_keys


def _are_few(n_queries: int, n_keys: int, on_cpu: bool) -> bool:
    return on_cpu and n_queries * n_keys <= FEW_TOKENS**2


class _FewTokens(torch.autograd.Function):
    """The same with the batch as the contiguous dimension: a CPU's vectors run over pairs, not over few tokens.

    Products are summed in place, one channel or token after the other, so that no table of every query, key and channel
    is written, in either direction. Shapes inside: ``(n_tokens, n_heads, dim / n_heads, batch)`` of tokens,
    ``(n_queries, n_keys, n_heads, batch)`` of weights.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, n_heads: int, mask: Tensor | None) -> Tensor:
        q, k, v = (_batch_last(tokens, n_heads) for tokens in (query, key, value))
        logits = _inner(q, k).mul_(q.shape[2] ** -0.5)
        weights = masked_softmax(logits, None if mask is None else mask.t()[:, None, :], dim=1)
        del logits
        ctx.save_for_backward(q, k, v, weights)
        ctx.dtypes = query.dtype, key.dtype, value.dtype
        return _batch_first(_weighted(weights, v), value.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        output = _batch_last(gradient, q.shape[1])
        by_weight = _inner(output, v).mul_(weights)
        by_logit = by_weight.addcmul_(weights, by_weight.sum(dim=1, keepdim=True), value=-1).mul_(q.shape[2] ** -0.5)
        by_key = (_weighted(x.transpose(0, 1), y) for x, y in ((by_logit, q), (weights, output)))
        gradients = (_weighted(by_logit, k), *by_key)
        return *(_batch_first(x, dtype) for x, dtype in zip(gradients, ctx.dtypes)), None, None


def _batch_last(tokens: Tensor, n_heads: int) -> Tensor:
    """``(batch, n_tokens, dim)`` to ``(n_tokens, n_heads, dim / n_heads, batch)``, half precision widened."""
    batch, n_tokens, dim = tokens.shape
    flat = full_precision(tokens).reshape(batch, -1)
    return flat.t().contiguous().view(n_tokens, n_heads, dim // n_heads, batch)


def _batch_first(tokens: Tensor, dtype: torch.dtype) -> Tensor:
    n_tokens, n_heads, width, batch = tokens.shape
    return tokens.view(-1, batch).t().reshape(batch, n_tokens, n_heads * width).to(dtype)


def _inner(queries: Tensor, keys: Tensor) -> Tensor:
    """Inner products of every query with every key, per head."""
    total = queries[:, None, :, 0] * keys[:, :, 0]
    for channel in range(1, queries.shape[2]):
        total.addcmul_(queries[:, None, :, channel], keys[:, :, channel])
    return total


def _weighted(weights: Tensor, tokens: Tensor) -> Tensor:
    """Sum over keys of the weights times the keys' tokens: one result per query."""
    total = weights[:, 0].unsqueeze(2) * tokens[0]
    for key in range(1, len(tokens)):
        total.addcmul_(weights[:, key].unsqueeze(2), tokens[key])
    return total
