"""Self-attentive sequence encoder in which side information moves the attention and never the values."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.nn.attention.sequence import INITIAL_SCALE, EncoderLayer, normalised, state_at

__all__ = ["ATTENTION_FUSIONS", "DecoupledEncoder"]

ATTENTION_FUSIONS = ("sum", "concat", "gate")


class DecoupledEncoder(nn.Module):
    r"""SASRec's layers with attention logits of several sources: items, sides and positions, each with its own maps.

    With :math:`x = \mathrm{LN}(e)` of the items, constant side vectors :math:`c^s` (positions are one of them) and

    .. math::
        A^0 = Q K^\top / \sqrt{d_h}, \qquad
        A^s = w_s\, (W^s_Q \mathrm{LN}(c^s))(W^s_K \mathrm{LN}(c^s))^\top / \sqrt{d_h},

    a layer attends with :math:`\mathrm{softmax}(F(A^0, \dots, A^S) + b)` to the values of :math:`x` alone, where
    :math:`F` is the sum, a learned combination (``concat``) :math:`\sum_s v_s A^s`, or (``gate``)
    :math:`\sum_s \sigma(A U)_s A^s`. Pairs of which one has no side vector get nothing from that side.

    Args:
        dim: Width of items, sides and states.
        max_length: Positions that have an embedding.
        weights: Weight :math:`w_s` of each side, positions excepted.
        n_layers: Number of layers.
        n_heads: Attention heads; must divide ``dim``.
        inner_size: Width of the feed-forward block.
        hidden_dropout: Dropout of the input and of the blocks' outputs.
        attention_dropout: Dropout of the attention weights.
        attention_fusion: :math:`F`, one of :data:`ATTENTION_FUSIONS`.

    Raises:
        ValueError: If ``n_heads`` does not divide ``dim``.
    """

    weights: Tensor

    def __init__(
        self,
        dim: int,
        max_length: int,
        weights: list[float],
        n_layers: int = 2,
        n_heads: int = 2,
        inner_size: int = 256,
        hidden_dropout: float = 0.5,
        attention_dropout: float = 0.5,
        attention_fusion: str = "sum",
    ) -> None:
        super().__init__()
        if dim % n_heads:
            raise ValueError(f"n_heads must divide embedding_size, got {n_heads} heads for width {dim}.")
        self.hidden_dropout, n_sides = hidden_dropout, len(weights) + 1
        self.position = nn.Parameter(torch.empty(max_length, dim).normal_(std=INITIAL_SCALE))
        self.norm_weight = nn.Parameter(torch.ones(dim))
        self.norm_bias = nn.Parameter(torch.zeros(dim))
        self.side_norm_weight = nn.Parameter(torch.ones(n_sides, dim))
        self.side_norm_bias = nn.Parameter(torch.zeros(n_sides, dim))
        self.register_buffer("weights", torch.tensor([*weights, 1.0]), persistent=False)
        self.layers = nn.ModuleList(
            [
                _DecoupledLayer(dim, n_heads, inner_size, hidden_dropout, attention_dropout, n_sides, attention_fusion)
                for _ in range(n_layers)
            ]
        )

    def forward(self, embedded: Tensor, bias: Tensor, sides: list[Tensor], there: list[Tensor]) -> Tensor:
        """States of every position.

        Args:
            embedded: Item vectors. Shape ``(batch, length, dim)``.
            bias: Additive attention logits. Shape ``(batch, length, length)``.
            sides: Side vectors, of each side ``(batch, length, dim)``.
            there: Which positions have them, of each side bool ``(batch, length)``.

        Returns:
            Shape ``(batch, length, dim)``; what stands at padded positions has no meaning.
        """
        state, side, present = self._enter(embedded, sides, there)
        for layer in self.layers:
            state = layer(state, bias, side, present)
        return state

    def last(self, embedded: Tensor, bias: Tensor, place: Tensor, sides: list[Tensor], there: list[Tensor]) -> Tensor:
        """States of one position per sequence, those of :meth:`forward` without the rest of the last layer.

        Args:
            embedded: Item vectors. Shape ``(batch, length, dim)``.
            bias: Additive attention logits. Shape ``(batch, length, length)``.
            place: The positions. Shape ``(batch,)``.
            sides: Side vectors, of each side ``(batch, length, dim)``.
            there: Which positions have them, of each side bool ``(batch, length)``.

        Returns:
            Shape ``(batch, dim)``.
        """
        state, side, present = self._enter(embedded, sides, there)
        for layer in self.layers[:-1]:
            state = layer(state, bias, side, present)
        final: _DecoupledLayer = self.layers[-1]  # type: ignore[assignment]
        return final.last(state, state_at(bias, place), place, side, present)

    def _enter(self, embedded: Tensor, sides: list[Tensor], there: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        state = F.dropout(normalised(embedded, self.norm_weight, self.norm_bias), self.hidden_dropout, self.training)
        position = self.position[: embedded.shape[1]].expand_as(embedded)
        side = torch.stack([*sides, position], dim=1)
        side = normalised(side, side.new_ones(side.shape[-1:]), side.new_zeros(side.shape[-1:]))
        side = side * self.side_norm_weight[:, None, :] + self.side_norm_bias[:, None, :]
        everywhere = torch.ones(embedded.shape[:2], dtype=torch.bool, device=embedded.device)
        present = torch.stack([*there, everywhere], dim=1).to(side.dtype) * self.weights.sqrt()[:, None]
        return state, side, present


class _DecoupledLayer(EncoderLayer):
    """One layer; sides have maps of their own, of queries and keys only."""

    def __init__(
        self,
        dim: int,
        n_heads: int,
        inner_size: int,
        hidden_dropout: float,
        attention_dropout: float,
        n_sides: int,
        attention_fusion: str,
    ) -> None:
        super().__init__(dim, n_heads, inner_size, hidden_dropout, attention_dropout)
        self.side_query = nn.Parameter(torch.empty(n_sides, dim, dim).normal_(std=INITIAL_SCALE))
        self.side_key = nn.Parameter(torch.empty(n_sides, dim, dim).normal_(std=INITIAL_SCALE))
        self.attention_fusion = attention_fusion
        # Both start as the sum, up to a factor that the softmax learns.
        if attention_fusion == "concat":
            self.combine = nn.Parameter(torch.ones(n_sides + 1))
        elif attention_fusion == "gate":
            self.combine = nn.Parameter(torch.zeros(n_sides + 1, n_sides + 1))

    def forward(self, state: Tensor, bias: Tensor, side: Tensor, present: Tensor) -> Tensor:  # type: ignore[override]
        dim = state.shape[-1]
        heads = F.linear(state, self.query_key_value_weight, self.query_key_value_bias)
        query, key, value = self._heads(heads.view(*state.shape[:-1], 3 * dim), 3)
        logits = self._fuse(self._logits(query, key), self._side_logits(side, side, present, present))
        return self._blocks(state, self._weigh(logits + bias.unsqueeze(1), value))

    def last(self, state: Tensor, bias: Tensor, place: Tensor, side: Tensor, present: Tensor) -> Tensor:
        """State of one position per sequence, ``(batch, dim)``."""
        own, dim = state_at(state, place), state.shape[-1]
        weight, offset = self.query_key_value_weight, self.query_key_value_bias
        query = self._heads(F.linear(own, weight[:dim], offset[:dim]).unsqueeze(1), 1)[0]
        key, value = self._heads(F.linear(state, weight[dim:], offset[dim:]), 2)
        index = place[:, None, None, None].expand(-1, side.shape[1], 1, dim)
        asking = present.gather(2, index[..., 0])
        logits = self._fuse(self._logits(query, key), self._side_logits(side.gather(2, index), side, asking, present))
        return self._blocks(own, self._weigh(logits + bias[:, None, None, :], value).squeeze(1))

    def _side_logits(self, asking: Tensor, asked: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Logits of the sides, ``(batch, n_sides, n_heads, queries, keys)``; 0 where one of a pair has no vector."""
        query, key = asking @ self.side_query, asked @ self.side_key
        query, key = query * left.unsqueeze(-1), key * right.unsqueeze(-1)
        query, key = (x.unflatten(-1, (self.n_heads, -1)).transpose(2, 3) for x in (query, key))
        return query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])

    def _fuse(self, own: Tensor, sides: Tensor) -> Tensor:
        if self.attention_fusion == "sum":
            return own + sides.sum(dim=1)
        stacked = torch.cat([own.unsqueeze(1), sides], dim=1).movedim(1, -1)
        if self.attention_fusion == "concat":
            return stacked @ self.combine
        return (stacked * (stacked @ self.combine).sigmoid()).sum(dim=-1)
