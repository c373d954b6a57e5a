"""Fusion of the scores of several models, weighted anew for every instance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["FUSION_METHODS", "ScoreFusion"]

FUSION_METHODS = ("attention", "weight")


class ScoreFusion(nn.Module):
    r"""Weighs models by their hidden states and adds up their normalised scores.

    .. math::
        w = \mathrm{softmax}_m\big(\mathrm{MLP}(\mathrm{LN}(h_m)) + \ln \pi_m\big), \qquad
        s = \sum_m w_m\, \mathrm{LN}(s_m)

    The first LN is over a model's states, the second over all items; the MLP has one hidden layer and no activation
    after the last one, and is shared by the models as both LN are. Its last layer starts at zero: before training the
    fusion is the weighted mean of the standardised scores, which is also all that ``method="weight"`` computes.

    Args:
        states: Number of values in a model's hidden states.
        n_items: Number of items.
        prior: :math:`\pi_m` of each model, positive.
        hidden: Width of the MLP's hidden layer.
        method: ``attention`` or ``weight``.
        affine: Gains and offsets of the second LN, one per item.
    """

    def __init__(
        self,
        states: int,
        n_items: int,
        prior: Sequence[float],
        hidden: int = 128,
        method: str = "attention",
        affine: bool = True,
    ) -> None:
        super().__init__()
        self.register_buffer("log_prior", torch.tensor(prior).log(), persistent=False)
        self.learned = method == "attention"
        self.score_norm = nn.LayerNorm(n_items, elementwise_affine=affine and self.learned)
        if self.learned:
            self.state_norm = nn.LayerNorm(states)
            last = nn.Linear(hidden, 1)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.mlp = nn.Sequential(nn.Linear(states, hidden), nn.ReLU(), last)

    def weights(self, states: Tensor) -> Tensor:
        """Weights of the models, ``(batch, models)``, from their states ``(batch, models, states)``."""
        logits = self.mlp(self.state_norm(states)).squeeze(-1) if self.learned else states.new_zeros(states.shape[:2])
        return (logits + self.log_prior).softmax(dim=-1)

    def combine(self, weights: Tensor, scores: Tensor) -> Tensor:
        """Weighted sum of the normalised scores ``(batch, models, n_items)``: ``(batch, n_items)``."""
        return (weights.unsqueeze(-1) * self.score_norm(scores)).sum(dim=1)

    def forward(self, states: Tensor, scores: Tensor) -> Tensor:
        """Fused scores, ``(batch, n_items)``."""
        return self.combine(self.weights(states), scores)
