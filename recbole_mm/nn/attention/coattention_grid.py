"""Co-attention of every user with every item, exact, without a matrix product per pair."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_mm.nn.attention.coattention import SIDES, CoAttention, PairScore, Tokens
from recbole_mm.nn.attention.softmax import masked_mean, masked_softmax
from recbole_mm.nn.graph.sparse import full_precision

__all__ = ["SideTables", "score_grid", "side_tables"]

# exp(-80) and exp(80) are normal float32 numbers, so that no product of two of them is 0 * inf.
_EXPONENT = 80.0


class SideTables(NamedTuple):
    r"""Everything about one side that the scores of its pairs need, computed once per user or item.

    A query is a mean token plus weighted tokens, and every map applied to it is linear; hence it is enough to map the
    mean and the tokens beforehand. What goes into a comparison is stored times -2, for
    :math:`\tanh x = 2 / (1 + e^{-2x}) - 1`.

    Attributes:
        keys: Per step, this side's tokens as what is attended over. Shape ``(n, n_tokens, hidden)``.
        base: Per step, this side's mean token as the query of the other side's attention. Shape ``(n, hidden)``.
        increments: Per step, this side's tokens as what the steps before have added to a query; empty for the first
            step. Shape ``(n, n_tokens, hidden)``.
        score_base: Its mean token in the score. Shape ``(n, width)``.
        score_increment: Its tokens in the score; unused where it is not attended over. Shape ``(n, n_tokens, width)``.
        mask: True where a token is present, ``(n, n_tokens)``; none if all are.
        bounded: Whether exponentials of keys and queries stay within float32.
    """

    keys: list[Tensor]
    base: list[Tensor]
    increments: list[Tensor]
    score_base: Tensor
    score_increment: Tensor
    mask: Tensor | None
    bounded: bool

    def take(self, index: Tensor) -> SideTables:
        """The tables of some of the users or items.

        Args:
            index: Their numbers, ``(n,)``.
        """
        return SideTables(
            [table[index] for table in self.keys],
            [table[index] for table in self.base],
            [table[index] for table in self.increments],
            self.score_base[index],
            self.score_increment[index],
            None if self.mask is None else self.mask[index],
            self.bounded,
        )

    def rows(self, start: int, stop: int, exponential: bool) -> SideTables:
        """Part of the tables as a block of pairs reads them: tokens in front, keys exponential if asked for."""
        # A copy even where the transpose is contiguous as it is: what follows in place must not reach the tables.
        keys = [table[start:stop].transpose(0, 1).clone(memory_format=torch.contiguous_format) for table in self.keys]
        return SideTables(
            [table.exp_() for table in keys] if exponential else keys,
            [table[start:stop] for table in self.base],
            [table[start:stop] for table in self.increments],
            self.score_base[start:stop],
            self.score_increment[start:stop],
            None if self.mask is None else self.mask[start:stop].T,
            self.bounded,
        )


@torch.no_grad()
def side_tables(attention: CoAttention, score: PairScore, side: str, tokens: Tokens) -> SideTables:
    """Tables of one side for :func:`score_grid`; valid until a parameter changes.

    Args:
        attention: The co-attention.
        score: The score of its queries.
        side: ``user`` or ``item``.
        tokens: Tokens of the users or items.
    """
    with torch.autocast(tokens.values.device.type, enabled=False):
        return _side_tables(attention, score, side, Tokens(full_precision(tokens.values), tokens.mask))


def _side_tables(attention: CoAttention, score: PairScore, side: str, tokens: Tokens) -> SideTables:
    values, mean = tokens.values, masked_mean(*tokens)
    other = _other(side)
    # The side whose attention reads the query that this side's context goes into.
    reader = _other(attention.feeds(side))
    keys, base, increments = [], [], []
    if side in attention.sides:
        keys = [-table for table in attention.keys(side, values).chunk(attention.n_steps, dim=-1)]
    if other in attention.sides:
        base = [F.linear(mean, -2 * step.query.weight) for step in attention.attentions(other)]
    if side in attention.sides and reader in attention.sides:
        later = attention.attentions(reader)[1:]
        increments = [values[:, :0], *(F.linear(values, -2 * step.query.weight) for step in later)]
    if score.kind == "mlp":
        halves = dict(zip(SIDES, score.halves()))
        score_base = F.linear(mean, halves[side], score.hidden.bias if side == "user" else None)
        score_increment = F.linear(values, halves[attention.feeds(side)])
    else:
        score_base, score_increment = mean, values
    # Weights sum to 1 per step, so a query strays from its base by at most one increment for each step before.
    sizes = [
        *(_size(table) for table in keys),
        *(2 * _size(table) for table in base),
        *(2 * step * _size(table) for step, table in enumerate(increments)),
    ]
    return SideTables(
        keys,
        base,
        increments,
        score_base,
        score_increment,
        None if bool(tokens.mask.all()) else tokens.mask,
        max(sizes, default=0.0) <= _EXPONENT,
    )


@torch.no_grad()
def score_grid(
    attention: CoAttention, score: PairScore, users: SideTables, items: SideTables, pair_chunk: int
) -> Tensor:
    r"""Scores of all pairs, equal to running :class:`CoAttention` and :class:`PairScore` on each of them.

    Per pair and step, with :math:`n` tokens of width :math:`h`, this takes :math:`O(nh)` operations instead of
    :math:`O(ndh)`, and no hyperbolic tangent: :math:`e^{-2(x + y)}` is a product of two numbers, of which one is of a
    user or an item and the other of a pair, not of its tokens. Where keys or queries are so large that exponentials
    would leave float32, the comparison is computed directly instead.

    Args:
        attention: The co-attention, in evaluation mode (dropout would act per pair).
        score: The score.
        users: Tables of the users.
        items: Tables of the items.
        pair_chunk: Pairs at once. Each takes about ``24 * max(hidden, width)`` bytes.

    Returns:
        Shape ``(n_users, n_items)``.

    Raises:
        ValueError: ``pair_chunk`` is not positive.
    """
    if pair_chunk < 1:
        raise ValueError(f"pair_chunk must be at least 1, got {pair_chunk}")
    with torch.autocast(users.score_base.device.type, enabled=False):
        return _score_grid(attention, score, users, items, pair_chunk)


def _score_grid(
    attention: CoAttention, score: PairScore, users: SideTables, items: SideTables, pair_chunk: int
) -> Tensor:
    n_users, n_items = len(users.score_base), len(items.score_base)
    exponential = users.bounded and items.bounded
    scores = users.score_base.new_empty(n_users, n_items)
    n_rows = max(1, min(n_users, math.isqrt(pair_chunk)))
    n_columns = max(1, pair_chunk // n_rows)
    blocks = [(start, users.rows(start, start + n_rows, exponential)) for start in range(0, n_users, n_rows)]
    workspace = _Workspace(scores)
    for column in range(0, n_items, n_columns):
        columns = items.rows(column, column + n_columns, exponential)
        for row, rows in blocks:
            block = _score_block(attention, score, {"user": rows, "item": columns}, exponential, workspace)
            scores[row : row + n_rows, column : column + n_columns] = block
    return scores


class _Workspace:
    """Memory that the blocks share, so that none of it is given back and asked for again."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._memory: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        size = math.prod(shape)
        if name not in self._memory or self._memory[name].numel() < size:
            self._memory[name] = self._like.new_empty(size)
        return self._memory[name][:size].view(shape)


def _score_block(
    attention: CoAttention, score: PairScore, tables: dict[str, SideTables], exponential: bool, workspace: _Workspace
) -> Tensor:
    """Scores of a block of pairs, ``(n_users, n_items)``."""
    total = _summed_weights(attention, tables, exponential, workspace)
    base = {side: tables[side].score_base.unsqueeze(1) for side in SIDES}
    parts: dict[str, Tensor] = {}
    if score.kind == "mlp":
        for side in SIDES:
            parts[side] = base[side]
            if side in total:
                parts[side] = _pool(base[side], total[side], tables[side].score_increment, workspace, f"score {side}")
        # Users in front.
        hidden = parts["user"] + parts["item"].transpose(0, 1)
        return hidden.relu_() @ score.output.weight.squeeze(0) + score.output.bias
    queries = {"user": base["user"], "item": base["item"].transpose(0, 1)}
    for side in total:
        receiver = attention.feeds(side)
        start = base[receiver] if receiver == side else base[receiver].transpose(0, 1)
        query = _pool(start, total[side], tables[side].score_increment, workspace, f"score {side}")
        queries[receiver] = query if side == "user" else query.transpose(0, 1)
    return (queries["user"] * queries["item"]).sum(dim=-1)


def _summed_weights(
    attention: CoAttention, tables: dict[str, SideTables], exponential: bool, workspace: _Workspace
) -> dict[str, Tensor]:
    """Weights on the tokens of a side summed over the steps, ``(n_tokens, n_others, n_own)``, for each side.

    The attention over a side works on memory laid out (others, own), for items (users, items) and for users (items,
    users), so that its keys and its queries run along the same memory.
    """
    total: dict[str, Tensor] = {}
    for step in range(attention.n_steps if attention.sides else 0):
        summed = dict(total)
        for side in attention.sides:
            own, other = tables[side], tables[_other(side)]
            keys, query = own.keys[step], other.base[step].unsqueeze(1)
            source = side if attention.update == "san" else _other(side)
            if source in total:
                # What a side's own tokens add comes out the wrong way round, and is turned when it is copied anyhow.
                turned = source == side
                query = _pool(
                    query.transpose(0, 1) if turned else query,
                    total[source],
                    tables[source].increments[step],
                    workspace,
                    "query",
                )
                query = query.transpose(0, 1) if turned else query
            seen = workspace.take("seen", *query.shape)
            query = torch.exp(query, out=seen) if exponential else seen.copy_(query)
            logits = _compare(keys, query, 2 * attention.attentions(side)[step].score.weight[0], exponential, workspace)
            weights = masked_softmax(logits, None if own.mask is None else own.mask.unsqueeze(1), dim=0)
            summed[side] = total[side] + weights if side in total else weights
        total = summed
    return total


def _compare(keys: Tensor, query: Tensor, weight: Tensor, exponential: bool, workspace: _Workspace) -> Tensor:
    """Logits of all keys under all queries, one token after the other so that the comparisons stay in the cache.

    Args:
        keys: Shape ``(n_tokens, n_own, hidden)``.
        query: Shape ``(n_others, n_own, hidden)``, or ``(n_others, 1, hidden)`` if it does not depend on the own side.
        weight: Shape ``(hidden,)``.
        exponential: Whether keys and queries are exponentials.
        workspace: Where the comparisons are kept.

    Returns:
        Shape ``(n_tokens, n_others, n_own)``.
    """
    one = weight.new_ones(())
    shape = (query.shape[0], *keys.shape[1:])
    compared = workspace.take("compared", *shape)
    logits = compared.new_empty(keys.shape[0], *shape[:2])
    for key, logit in zip(keys, logits):
        if exponential:
            torch.addcmul(one, key, query, out=compared).reciprocal_()
        else:
            torch.add(key, query, out=compared).neg_().sigmoid_()
        torch.mv(compared.view(-1, shape[2]), weight, out=logit.view(-1))
    return logits


def _pool(base: Tensor, weights: Tensor, tokens: Tensor, workspace: _Workspace, name: str) -> Tensor:
    """A base plus a side's weighted tokens, one small matrix product per row of that side.

    Args:
        base: Must broadcast to the result.
        weights: Shape ``(n_tokens, n_others, n_own)``.
        tokens: Shape ``(n_own, n_tokens, width)``.
        workspace: Where the result is kept.
        name: Under which name.

    Returns:
        Shape ``(n_own, n_others, width)``.
    """
    shape = (tokens.shape[0], weights.shape[1], tokens.shape[2])
    out = workspace.take(name, *shape)
    return torch.baddbmm(base.expand(shape), weights.permute(2, 1, 0).contiguous(), tokens, out=out)


def _size(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def _other(side: str) -> str:
    return SIDES[1 - SIDES.index(side)]
