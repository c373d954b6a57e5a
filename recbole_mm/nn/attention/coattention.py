"""Stacked co-attention between the tokens of a user and the tokens of an item, pair by pair."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mm.nn.attention.softmax import attention_pool, masked_mean, masked_softmax

__all__ = ["AdditiveAttention", "CoAttended", "CoAttention", "PairScore", "Tokens", "take_rows"]

SIDES = ("user", "item")


def take_rows(table: Tensor, index: Tensor) -> Tensor:
    """``table[index]`` for a table ``(n, ...)``, with a backward pass that repeats itself on several threads."""
    return F.embedding(index, table.flatten(1)).view(len(index), *table.shape[1:])


class Tokens(NamedTuple):
    """Tokens of a batch of users or items.

    Attributes:
        values: Shape ``(batch, n_tokens, dim)``.
        mask: True where a token is present. Bool, shape ``(batch, n_tokens)``.
    """

    values: Tensor
    mask: Tensor

    def rows(self, index: Tensor) -> Tokens:
        """The tokens of some rows."""
        return Tokens(take_rows(self.values, index), self.mask[index])


class CoAttended(NamedTuple):
    """What :class:`CoAttention` returns.

    Attributes:
        user: Final query of the user, shape ``(batch, dim)``.
        item: Final query of the item, shape ``(batch, dim)``.
        user_weights: Weights on the user's tokens, ``(batch, n_user_tokens)``, an entry per step over them.
        item_weights: Weights on the item's tokens, ``(batch, n_item_tokens)``, an entry per step over them.
    """

    user: Tensor
    item: Tensor
    user_weights: list[Tensor]
    item_weights: list[Tensor]


class AdditiveAttention(nn.Module):
    r"""Weights of tokens under a query.

    .. math:: \alpha_n = \mathrm{softmax}_n\left( w^\top \tanh(K t_n + Q q + b) \right)

    Args:
        dim: Width of tokens and query.
        hidden: Width of the comparison.
        bias: Whether there is a :math:`b`.
    """

    def __init__(self, dim: int, hidden: int, bias: bool = True) -> None:
        super().__init__()
        self.key = nn.Linear(dim, hidden, bias=bias)
        self.query = nn.Linear(dim, hidden, bias=False)
        self.score = nn.Linear(hidden, 1, bias=False)

    def keys(self, tokens: Tensor) -> Tensor:
        r"""The half of the comparison that depends on the tokens only.

        It is :math:`2 (K t_n + b)`: with :math:`\tanh x = 2 \sigma(2x) - 1`, where the softmax does not see the
        constant, a comparison takes a sigmoid, which is several times as fast on CPUs.

        Args:
            tokens: Shape ``(..., n_tokens, dim)``.

        Returns:
            Shape ``(..., n_tokens, hidden)``.
        """
        return F.linear(tokens, 2 * self.key.weight, None if self.key.bias is None else 2 * self.key.bias)

    def forward(self, keys: Tensor, query: Tensor, mask: Tensor) -> Tensor:
        """Attention weights.

        Args:
            keys: From :meth:`keys`, shape ``(batch, n_tokens, hidden)``.
            query: Shape ``(batch, dim)``.
            mask: Shape ``(batch, n_tokens)``.

        Returns:
            Shape ``(batch, n_tokens)``.
        """
        compared = torch.sigmoid(keys + F.linear(query, 2 * self.query.weight).unsqueeze(-2))
        logits = compared @ (2 * self.score.weight[0])
        # Tokens are few: the softmax runs over the strided dimension, along which it is vectorised.
        return masked_softmax(logits.T.contiguous(), mask.T, dim=0).T


class CoAttention(nn.Module):
    r"""The user decides what matters about the item, the item what matters about the user, in several steps.

    .. math::
        q_u^0 &= \tfrac1{|T_u|} \textstyle\sum_m T_{u,m}, \qquad q_i^0 = \tfrac1{|T_i|} \sum_n T_{i,n}, \\
        \alpha^k_n &= \mathrm{softmax}_n\left(w_k^\top \tanh(W^{iv}_k T_{i,n} + W^{iq}_k q_u^{k-1} + b_k)\right), \qquad
        c_i^k = \textstyle\sum_n \alpha^k_n T_{i,n}, \\
        \beta^k_m &= \mathrm{softmax}_m\left(z_k^\top \tanh(W^{uv}_k T_{u,m} + W^{uq}_k q_i^{k-1} + c_k)\right), \qquad
        c_u^k = \textstyle\sum_m \beta^k_m T_{u,m}, \\
        \text{san:}\quad q_u^k &= q_u^{k-1} + c_i^k, \quad q_i^k = q_i^{k-1} + c_u^k; \qquad
        \text{dan:}\quad q_u^k = q_u^{k-1} + c_u^k, \quad q_i^k = q_i^{k-1} + c_i^k.

    Every step has parameters of its own, and both directions read step :math:`k-1`. A direction that is switched off
    takes no steps: it has no parameters and adds nothing, so that without any direction, as without steps, mean pooling
    is left.

    Args:
        dim: Width of the tokens.
        hidden: Width of the comparisons.
        n_steps: :math:`K`.
        update: ``san``: a query takes up what was found on the other side; ``dan``: on its own.
        attend: Whose tokens are attended over: ``both``, ``user_only``, ``item_only`` or ``none``.
        dropout: Dropout on the :math:`c`, in training.
    """

    def __init__(
        self, dim: int, hidden: int, n_steps: int, update: str = "san", attend: str = "both", dropout: float = 0.0
    ) -> None:
        super().__init__()
        sides = {"both": SIDES, "user_only": ("user",), "item_only": ("item",), "none": ()}
        if update not in ("san", "dan") or attend not in sides:
            raise ValueError(
                f"update must be san or dan and attend one of {', '.join(sides)}; got {update!r} and {attend!r}"
            )
        self.update, self.n_steps = update, n_steps
        self.sides = sides[attend] if n_steps else ()
        self.steps = nn.ModuleDict(
            {side: nn.ModuleList(AdditiveAttention(dim, hidden) for _ in range(n_steps)) for side in self.sides}
        )
        self.dropout = dropout

    def attentions(self, side: str) -> list[AdditiveAttention]:
        """The attention over a side's tokens in each step; none if it is not attended over."""
        return list(self.steps[side]) if side in self.sides else []  # type: ignore[call-overload]

    def feeds(self, side: str) -> str:
        """Whose query takes up the context found on ``side``."""
        return _other(side) if self.update == "san" else side

    def keys(self, side: str, tokens: Tensor) -> Tensor:
        """:meth:`AdditiveAttention.keys` of all steps over one side, in one product.

        Args:
            side: ``user`` or ``item``.
            tokens: Shape ``(n, n_tokens, dim)``.

        Returns:
            Shape ``(n, n_tokens, n_steps * hidden)``; no columns if this side is not attended over.
        """
        if side not in self.sides:
            return tokens.new_zeros((*tokens.shape[:-1], 0))
        steps = self.attentions(side)
        weight, bias = (torch.cat(parts) for parts in zip(*((step.key.weight, step.key.bias) for step in steps)))
        return F.linear(tokens, 2 * weight, 2 * bias)

    def forward(
        self, users: Tokens, items: Tokens, user_keys: Tensor | None = None, item_keys: Tensor | None = None
    ) -> CoAttended:
        """Run all steps for a batch of pairs.

        Args:
            users: The user of each pair.
            items: The item of each pair.
            user_keys: ``self.keys("user", users.values)`` where it is at hand.
            item_keys: ``self.keys("item", items.values)`` where it is at hand.
        """
        tokens = {"user": users, "item": items}
        given = {"user": user_keys, "item": item_keys}
        keys = {}
        for side in self.sides:
            known = given[side]
            keys[side] = (self.keys(side, tokens[side].values) if known is None else known).chunk(self.n_steps, dim=-1)
        attentions = {side: self.attentions(side) for side in self.sides}
        query = {side: masked_mean(*tokens[side]) for side in SIDES}
        weights: dict[str, list[Tensor]] = {side: [] for side in SIDES}
        for step in range(self.n_steps if self.sides else 0):
            updated = dict(query)
            for side in self.sides:
                attention = attentions[side][step](keys[side][step], query[_other(side)], tokens[side].mask)
                context = self._drop(attention_pool(attention, tokens[side].values))
                updated[self.feeds(side)] = query[self.feeds(side)] + context
                weights[side].append(attention)
            query = updated
        return CoAttended(query["user"], query["item"], weights["user"], weights["item"])

    def _drop(self, context: Tensor) -> Tensor:
        """Dropout; torch's own draws its mask several times as slowly on CPUs without Intel's generator."""
        if not self.training or self.dropout == 0:
            return context
        kept = (torch.rand_like(context) >= self.dropout).to(context.dtype)
        return context * kept.div_(max(1 - self.dropout, torch.finfo(kept.dtype).tiny))


class PairScore(nn.Module):
    r"""Score of a pair of queries.

    .. math:: \text{mlp:}\quad w_o^\top \mathrm{ReLU}(W_o [q_u ; q_i] + b_o) + b' \qquad\qquad
              \text{dot:}\quad \langle q_u, q_i \rangle

    Args:
        kind: ``mlp`` or ``dot``.
        dim: Width of the queries.
        hidden: Width of the hidden layer of ``mlp``.
    """

    def __init__(self, kind: str, dim: int, hidden: int) -> None:
        super().__init__()
        if kind not in ("mlp", "dot"):
            raise ValueError(f"kind must be mlp or dot, got {kind!r}")
        self.kind = kind
        if kind == "mlp":
            self.hidden = nn.Linear(2 * dim, hidden)
            self.output = nn.Linear(hidden, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Scores, shape ``(batch,)``, of queries of shape ``(batch, dim)``."""
        if self.kind == "dot":
            return (user * item).sum(dim=-1)
        of_user, of_item = self.halves()
        return self.output(F.relu(F.linear(user, of_user, self.hidden.bias) + F.linear(item, of_item))).squeeze(-1)

    def halves(self) -> list[Tensor]:
        """The parts of :math:`W_o` that map the user's and the item's query, ``(hidden, dim)`` each; for ``mlp``."""
        return list(self.hidden.weight.chunk(2, dim=1))


def _other(side: str) -> str:
    return "item" if side == "user" else "user"
