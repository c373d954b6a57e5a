"""Self-attention over what belongs to one entity: within a modality (reviews) and between modalities."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.nn.attention.softmax import attention_pool, masked_mean, masked_softmax
from recbole_mm.nn.graph.sparse import full_precision

__all__ = ["InterModalAttention", "IntraModalAttention"]


class IntraModalAttention(nn.Module):
    r"""Several vectors of one modality, such as the reviews of a user, as one.

    .. math:: r_k = W_r x_k + b_r, \quad s_k = h^\top \tanh(W_a r_k + b_a), \quad
              p = \sum_k \mathrm{softmax}_k(s_k) \, r_k

    The logit of a vector does not depend on the others, so each is encoded once, whoever's it is.

    Args:
        width: Width of the vectors :math:`x`.
        dim: Width of the result.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, dim)
        self.hidden = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, 1, bias=False)
        for layer in (self.project, self.hidden, self.query):
            nn.init.xavier_uniform_(layer.weight)

    def encode(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Encoded vectors and their logits, ``(..., dim)`` and ``(...)``.

        Args:
            feature: Shape ``(..., width)``.
        """
        encoded = self.project(feature)
        return encoded, self.query(torch.tanh(self.hidden(encoded))).squeeze(-1)

    @staticmethod
    def pool(encoded: Tensor, logits: Tensor, slots: Tensor, present: Tensor) -> Tensor:
        """Weighted sums of everybody's vectors, zero where there is none; nothing of size batch x slots x dim is made.

        Args:
            encoded: Shape ``(n, dim)``.
            logits: Shape ``(n,)``.
            slots: Rows of ``encoded`` to sum. Shape ``(batch, n_slots)``.
            present: Which of them count. Bool, shape ``(batch, n_slots)``.

        Returns:
            Shape ``(batch, dim)``.

        Example:
            >>> encoded, slots = torch.tensor([[2.0], [4.0], [9.0]]), torch.tensor([[0, 1, 2]])
            >>> IntraModalAttention.pool(encoded, torch.zeros(3), slots, torch.tensor([[True, True, False]]))
            tensor([[3.]])
        """
        weights = masked_softmax(F.embedding(slots, logits.unsqueeze(1)).squeeze(-1), present)
        encoded = full_precision(encoded)
        return F.embedding_bag(slots, encoded, per_sample_weights=weights.to(encoded.dtype), mode="sum")


class InterModalAttention(nn.Module):
    r"""Self-attention over the modalities of an entity, none of them privileged.

    .. math:: A = \mathrm{softmax}\big(X W_Q (X W_K)^\top / \sqrt d\big), \quad e = \tfrac1M \sum_m (A X W_V)_m

    Absent modalities are neither attended to nor averaged, so that masking one is leaving it out; without any,
    :math:`e` is zero. There is neither a position nor a type embedding: permuting the modalities changes nothing.

    The mean over rows is taken before :math:`W_V`, :math:`e = (\bar A X) W_V`, which is the same and saves most of it.

    Args:
        dim: Width of the tokens.

    Example:
        >>> attention = InterModalAttention(2)
        >>> for layer in (attention.query, attention.key, attention.value):
        ...     _ = torch.nn.init.eye_(layer.weight)
        >>> attention(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])).detach()
        tensor([0.7176, 0.7176])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight)

    def weights(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """The attention :math:`A`, ``(..., n, n)``: a row per asking token.

        Args:
            tokens: Shape ``(..., n, dim)``.
            present: Bool, shape ``(..., n)``; all are present if not given.
        """
        logits = self.query(tokens) @ self.key(tokens).transpose(-1, -2) / tokens.shape[-1] ** 0.5
        return masked_softmax(logits, None if present is None else present.unsqueeze(-2))

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """One vector per entity, ``(..., dim)``; arguments as for :meth:`weights`."""
        share = masked_mean(self.weights(tokens, present), present)
        output: Tensor = self.value(attention_pool(share, tokens))
        return output
