"""Experts that whiten features, and their mixture."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.nn.attention.sequence import INITIAL_SCALE

__all__ = ["ExpertAdaptor", "random_projection"]

LEAST_NOISE = 0.01


class ExpertAdaptor(nn.Module):
    r"""A mixture of parametric whitenings.

    .. math::
        P_k(f) = (\mathrm{dropout}(f) - b_k) A_k, \qquad v = \textstyle\sum_k g_k P_k(f), \qquad
        g = \mathrm{softmax}\big(f W_g + \epsilon \odot (\mathrm{softplus}(f W_n) + 0.01)\big)

    with :math:`\epsilon \sim N(0, I)` in training and 0 at evaluation. :math:`W_g` and :math:`W_n` start at 0, so that
    at first every expert has the same share.

    Args:
        width: Width of the features.
        dim: Width of the result.
        n_experts: Number of experts.
        dropout: Dropout of the features, one draw for all experts.
    """

    def __init__(self, width: int, dim: int, n_experts: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.whiten = nn.Parameter(torch.empty(n_experts, width, dim).normal_(std=INITIAL_SCALE))
        self.shift = nn.Parameter(torch.zeros(n_experts, width))
        self.gate = nn.Parameter(torch.zeros(width, n_experts))
        self.noise = nn.Parameter(torch.zeros(width, n_experts))

    def forward(self, feature: Tensor) -> Tensor:
        """Features ``(n, width)`` to vectors ``(n, dim)``."""
        experts, width, dim = self.whiten.shape
        logits = feature @ self.gate
        if self.training:
            scale = F.softplus(feature @ self.noise) + LEAST_NOISE
            logits = logits + torch.randn_like(logits) * scale
        share = logits.softmax(dim=1)
        dropped = F.dropout(feature, self.dropout, self.training)
        whitened = (dropped @ self.whiten.transpose(0, 1).reshape(width, -1)).view(-1, experts, dim)
        offset = (self.shift.unsqueeze(1) @ self.whiten).squeeze(1)
        return (share.unsqueeze(1) @ (whitened - offset)).squeeze(1)


def random_projection(feature: Tensor, width: int) -> Tensor:
    r"""Features in another width, :math:`f R` with :math:`R_{xy} \sim N(0, 1 / \text{width})`.

    Angles and lengths are kept on average (Johnson and Lindenstrauss), and features of one width are always projected
    alike: :math:`R` is drawn from both widths alone.

    Args:
        feature: Shape ``(n, d)``.
        width: Width of the result; features that have it already stay as they are.

    Returns:
        Shape ``(n, width)``.
    """
    wide = feature.shape[1]
    if wide == width:
        return feature
    generator = torch.Generator().manual_seed(wide * 1_000_003 + width)
    matrix = torch.randn(wide, width, generator=generator) / width**0.5
    return feature.float() @ matrix.to(feature.device)
