"""Self-attentive sequence encoder whose attention logits take an additive term, written to be vectorised over tasks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MASKED", "EncoderLayer", "SequenceEncoder", "causal_bias", "normalised", "state_at", "transformed"]

MASKED = -1e5
"""Logit of a position that must not be looked at. Finite, so that a window without any item gives no NaN."""

INITIAL_SCALE = 0.02
NORM_EPSILON = 1e-12


def causal_bias(windows: Tensor) -> Tensor:
    """Additive attention logits that let a position look at itself and at the items before it.

    Args:
        windows: Item ids, 0 is padding. Shape ``(..., length)``.

    Returns:
        0 where position ``i`` may look at ``j`` (``j <= i`` and ``j`` is an item), else :data:`MASKED`. Shape
        ``(..., length, length)``.

    Example:
        >>> causal_bias(torch.tensor([4, 9, 0])).eq(0).int()
        tensor([[1, 0, 0],
                [1, 1, 0],
                [1, 1, 0]], dtype=torch.int32)
    """
    length = windows.shape[-1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=windows.device).tril()
    allowed = earlier & windows.ne(0).unsqueeze(-2)
    return torch.where(allowed, 0.0, MASKED)


class SequenceEncoder(nn.Module):
    r"""The layers of SASRec, from embedded items to states.

    With :math:`x_p = \mathrm{LN}(e_{i_p} + t_p)` and for each of ``n_layers`` post-norm layers

    .. math::
        A_h &= \mathrm{softmax}\!\left(Q_h K_h^\top / \sqrt{d_h} + b\right), \qquad
        x' = \mathrm{LN}(x + W_o [A_1 V_1; \dots; A_H V_H] + c_o), \\
        x'' &= \mathrm{LN}(x' + W_2\, \mathrm{gelu}(W_1 x' + c_1) + c_2),

    where :math:`b` is the given additive term, the same in every head and layer: the causal mask (:func:`causal_bias`)
    plus whatever else the attention should know. Dropout is applied to the input, the attention weights and the output
    of both blocks, as in SASRec.

    The parameters are plain tensors rather than ``nn.Linear`` modules: query, key and value are one product, and
    profilers that hook leaf modules cannot break the functional transforms this encoder runs under.

    Args:
        dim: Width of items and states.
        max_length: Positions that have an embedding.
        n_layers: Number of layers.
        n_heads: Attention heads; must divide ``dim``.
        inner_size: Width of the feed-forward block.
        hidden_dropout: Dropout of the input and of the blocks' outputs.
        attention_dropout: Dropout of the attention weights.

    Raises:
        ValueError: If ``n_heads`` does not divide ``dim``.
    """

    def __init__(
        self,
        dim: int,
        max_length: int,
        n_layers: int = 2,
        n_heads: int = 2,
        inner_size: int = 256,
        hidden_dropout: float = 0.5,
        attention_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if dim % n_heads:
            raise ValueError(f"n_heads must divide embedding_size, got {n_heads} heads for width {dim}.")
        self.hidden_dropout = hidden_dropout
        self.position = nn.Parameter(torch.empty(max_length, dim).normal_(std=INITIAL_SCALE))
        self.norm_weight = nn.Parameter(torch.ones(dim))
        self.norm_bias = nn.Parameter(torch.zeros(dim))
        self.layers = nn.ModuleList(
            [EncoderLayer(dim, n_heads, inner_size, hidden_dropout, attention_dropout) for _ in range(n_layers)]
        )

    def forward(self, embedded: Tensor, bias: Tensor) -> Tensor:
        """States of every position.

        Args:
            embedded: Item vectors. Shape ``(batch, length, dim)``.
            bias: Additive attention logits. Shape ``(batch, length, length)``.

        Returns:
            Shape ``(batch, length, dim)``; what stands at padded positions has no meaning.
        """
        state = self._enter(embedded)
        for layer in self.layers:
            state = layer(state, bias)
        return state

    def last(self, embedded: Tensor, bias: Tensor, place: Tensor) -> Tensor:
        """States of one position per sequence: those of :meth:`forward`, without the rest of the last layer.

        Args:
            embedded: Item vectors. Shape ``(batch, length, dim)``.
            bias: Additive attention logits. Shape ``(batch, length, length)``.
            place: The positions. Shape ``(batch,)``.

        Returns:
            Shape ``(batch, dim)``.
        """
        state = self._enter(embedded)
        for layer in self.layers[:-1]:
            state = layer(state, bias)
        final: EncoderLayer = self.layers[-1]  # type: ignore[assignment]
        return final.at(state, state_at(bias, place), place)

    def _enter(self, embedded: Tensor) -> Tensor:
        state = normalised(embedded + self.position[: embedded.shape[-2]], self.norm_weight, self.norm_bias)
        return F.dropout(state, self.hidden_dropout, self.training)


class EncoderLayer(nn.Module):
    """One post-norm transformer layer."""

    query_key_value_weight: Tensor
    query_key_value_bias: Tensor
    output_weight: Tensor
    output_bias: Tensor
    attention_norm_weight: Tensor
    attention_norm_bias: Tensor
    expand_weight: Tensor
    expand_bias: Tensor
    contract_weight: Tensor
    contract_bias: Tensor
    feed_forward_norm_weight: Tensor
    feed_forward_norm_bias: Tensor

    def __init__(
        self, dim: int, n_heads: int, inner_size: int, hidden_dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.hidden_dropout, self.attention_dropout = hidden_dropout, attention_dropout
        shapes = {
            "query_key_value": (3 * dim, dim),
            "output": (dim, dim),
            "expand": (inner_size, dim),
            "contract": (dim, inner_size),
        }
        for name, shape in shapes.items():
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.empty(shape).normal_(std=INITIAL_SCALE)))
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(shape[0])))
        for name in ("attention_norm", "feed_forward_norm"):
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.ones(dim)))
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(dim)))

    def forward(self, state: Tensor, bias: Tensor) -> Tensor:
        """States of every position from those below, ``(batch, length, dim)``."""
        return self._blocks(state, self._attend(state, bias))

    def at(self, state: Tensor, bias: Tensor, place: Tensor) -> Tensor:
        """The same for one position per sequence, ``(batch, dim)``, with its logits' term ``(batch, length)``."""
        own, dim = state_at(state, place), state.shape[-1]
        weight, offset = self.query_key_value_weight, self.query_key_value_bias
        query = self._heads(transformed(own, weight[:dim], offset[:dim]).unsqueeze(1), 1)[0]
        key, value = self._heads(transformed(state, weight[dim:], offset[dim:]), 2)
        logits = self._logits(query, key) + bias[:, None, None, :]
        return self._blocks(own, self._weigh(logits, value).squeeze(1))

    def _blocks(self, state: Tensor, attended: Tensor) -> Tensor:
        mixed = transformed(attended, self.output_weight, self.output_bias)
        mixed = F.dropout(mixed, self.hidden_dropout, self.training)
        state = normalised(state + mixed, self.attention_norm_weight, self.attention_norm_bias)
        inner = F.gelu(transformed(state, self.expand_weight, self.expand_bias))
        inner = transformed(inner, self.contract_weight, self.contract_bias)
        inner = F.dropout(inner, self.hidden_dropout, self.training)
        return normalised(state + inner, self.feed_forward_norm_weight, self.feed_forward_norm_bias)

    def _attend(self, state: Tensor, bias: Tensor) -> Tensor:
        heads = transformed(state, self.query_key_value_weight, self.query_key_value_bias)
        query, key, value = self._heads(heads, 3)
        return self._weigh(self._logits(query, key) + bias.unsqueeze(1), value)

    def _heads(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """``(batch, length, parts * dim)`` to ``parts`` tensors ``(batch, n_heads, length, dim / n_heads)``."""
        batch, length, width = projected.shape
        heads = projected.view(batch, length, parts, self.n_heads, width // (parts * self.n_heads))
        return heads.permute(2, 0, 3, 1, 4).unbind(0)

    def _logits(self, query: Tensor, key: Tensor) -> Tensor:
        return query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])

    def _weigh(self, logits: Tensor, value: Tensor) -> Tensor:
        weight = F.dropout(logits.softmax(dim=-1), self.attention_dropout, self.training)
        return (weight @ value).transpose(1, 2).flatten(2)


def state_at(tensor: Tensor, place: Tensor) -> Tensor:
    """Row ``place[b]`` of the second dimension for every ``b``, ``(batch, ...)``."""
    return tensor[torch.arange(len(place), device=tensor.device), place]


def transformed(state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear map on rows: two dimensions, so that vmap over the weights is one batched product."""
    return F.linear(state.flatten(0, -2), weight, bias).view(*state.shape[:-1], weight.shape[0])


def normalised(state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Layer normalisation with SASRec's epsilon."""
    # Gain and offset are applied outside: second derivatives of layer_norm with weights come out wrong under vmap and
    # grad (torch 2.13), those without are right.
    return F.layer_norm(state, weight.shape, eps=NORM_EPSILON) * weight + bias
