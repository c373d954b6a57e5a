"""Softmax attention over tokens of which some may be absent."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_mm.nn.graph.sparse import full_precision

__all__ = ["attention_pool", "masked_mean", "masked_softmax"]


def masked_softmax(logits: Tensor, mask: Tensor | None = None, dim: int = -1) -> Tensor:
    r"""Softmax over the present entries only.

    .. math:: \alpha_n = \frac{m_n \exp(s_n)}{\sum_{n'} m_{n'} \exp(s_{n'})}

    An absent entry gets weight 0 and receives no gradient, exactly as if it were not there. Where every entry is absent
    all weights are 0, never NaN.

    Args:
        logits: Scores, any shape. Half precision is widened to float32.
        mask: True where an entry is present; must broadcast to ``logits``. All are present if not given.
        dim: Dimension of the entries.

    Returns:
        Weights with the shape of ``logits``.

    Example:
        >>> mask = torch.tensor([[True, True, False], [False, False, False]])
        >>> masked_softmax(torch.tensor([[0.0, 0.0, 9.0], [1.0, 2.0, 3.0]]), mask)
        tensor([[0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 0.0000]])
    """
    logits = full_precision(logits)
    if mask is None:
        return logits.softmax(dim=dim)
    # The smallest finite number, not -inf: a row without any entry still has a softmax, which the second fill clears.
    absent = ~mask
    return logits.masked_fill(absent, torch.finfo(logits.dtype).min).softmax(dim=dim).masked_fill(absent, 0.0)


def masked_mean(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Mean of the present tokens, zero where there is none.

    .. math:: \bar x = \frac{\sum_n m_n x_n}{\max(\sum_n m_n, 1)}

    Args:
        tokens: Shape ``(..., n_tokens, dim)``.
        mask: True where a token is present, ``(..., n_tokens)``; all are present if not given.

    Returns:
        Shape ``(..., dim)``.

    Example:
        >>> masked_mean(torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([True, True, False]))
        tensor([2.])
    """
    if mask is None:
        return tokens.mean(dim=-2)
    present = mask.to(tokens.dtype)
    return attention_pool(present / present.sum(dim=-1, keepdim=True).clamp(min=1), tokens)


def attention_pool(weights: Tensor, tokens: Tensor) -> Tensor:
    r"""Weighted sum of tokens, :math:`\sum_n \alpha_n x_n`.

    Args:
        weights: Shape ``(..., n_tokens)``.
        tokens: Shape ``(..., n_tokens, dim)``.

    Returns:
        Shape ``(..., dim)``.
    """
    # A batch of products of one row each is two to three times slower than this, on CPUs.
    return (weights.unsqueeze(-1) * tokens).sum(dim=-2)
