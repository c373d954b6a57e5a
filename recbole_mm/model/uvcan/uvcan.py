"""UVCAN: stacked co-attention between the multimodal tokens of a user and of an item."""

from __future__ import annotations

from logging import getLogger
from typing import Any, cast

import torch
import torch.nn.functional as F
from recbole.model.init import xavier_normal_initialization
from torch import Tensor

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.model.tokens import SideFields, present_rows
from recbole_mm.model.user_tokens import UserTokens, user_files
from recbole_mm.model.uvcan.tokens import ItemTokens
from recbole_mm.nn.attention.coattention import CoAttention, PairScore, Tokens, take_rows
from recbole_mm.nn.attention.coattention_grid import SideTables, score_grid, side_tables
from recbole_mm.nn.diagnosis import Part
from recbole_mm.nn.loss import bpr_loss

__all__ = ["UVCAN"]

CPU_PAIRS = 4096  # Pairs at once whose comparisons fit a CPU's cache,
GPU_PAIRS = 65536  # and enough of them to keep a GPU busy.


class UVCAN(MultimodalRecommender):
    r"""The user's tokens decide what matters about an item, the item's tokens what matters about the user, in steps.

    Users and items each have tokens for their ID, their modalities and their side fields. A modality's token is a
    linear map of its vector, on the user's side of a user feature file's or of the mean over the history. With
    :math:`q^0` the means of the tokens and, for :math:`k = 1 \dots K`,

    .. math::
        \alpha^k_n &= \mathrm{softmax}_n\left(w_k^\top \tanh(W^{iv}_k T_{i,n} + W^{iq}_k q_u^{k-1} + b_k)\right), \qquad
        \beta^k_m = \mathrm{softmax}_m\left(z_k^\top \tanh(W^{uv}_k T_{u,m} + W^{uq}_k q_i^{k-1} + c_k)\right), \\
        q_u^k &= q_u^{k-1} + \textstyle\sum_n \alpha^k_n T_{i,n}, \qquad
        q_i^k = q_i^{k-1} + \textstyle\sum_m \beta^k_m T_{u,m}, \\
        \hat y_{ui} &= w_o^\top \mathrm{ReLU}(W_o [q_u^K ; q_i^K] + b_o) + b'.

    Loss: BPR + ``reg_weight`` * half the squared length of all tokens of a pair, averaged over the batch.

    Reference:
        Liu, Chen, Liu, Hu. "User-Video Co-Attention Network for Personalized Micro-video Recommendation." WWW 2019.

    Options:
        embedding_size, attn_size, n_steps, memory_update, co_attention, score, mlp_hidden, dropout,
        user_feature_source, side_fields, loss, reg_weight, eval_pair_chunk.

    Note:
        Of the paper only the abstract and what surveys say of it could be read: multimodal tokens on both sides, item
        weights from the user's data and user weights from the item's, three stacked steps. The rest is our realisation,
        not the paper's: the token sets, the mean as first query, additive attention as in stacked attention networks
        (Yang et al. 2016; ``memory_update: dan`` as in dual attention networks, Nam et al. 2017), score, loss,
        optimisation. A history is pooled over the training pairs. In training the positive item is left out of it,
        or its features would sit in the user's own token; the negative meets the same history, or the model would learn
        which of two histories lacks an item. A
        modality with several vectors per item (patches) is pooled by attention, once under the ID and once under each
        modality that has one vector. What is not there takes no part in any softmax or mean: a modality that an item
        lacks (unless ``missing_feature`` fills it), an empty field, a history in which nothing is left.
        ``full_sort_predict`` is exact: every map of a query is linear, so tokens are mapped, not pairs.
    """

    accepts_patches = True
    uses = ("item", "user")

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        options = self.options
        dim, hidden = options.integer("embedding_size", minimum=1), options.integer("attn_size", minimum=1)
        self.loss = options.choice("loss", ("bpr", "bce"))
        self.reg_weight = options.number("reg_weight", minimum=0)
        self.pair_chunk = options.optional_integer("eval_pair_chunk", minimum=1)
        source = options.choice("user_feature_source", ("history", "file"))
        files = user_files(self, source)
        observed, users_observed = present_rows(self, self.features), present_rows(self, files)
        only = None if options.boolean("side_fields") else ()
        user_fields, item_fields = (
            SideFields(dataset, entity, dim, only, self.known_rows.get(entity)) for entity in ("user", "item")
        )
        if only is None and not user_fields.fields + item_fields.fields:
            getLogger().info("UVCAN has no side fields: none is loaded; name columns of .user and .item in load_col.")
        self.item_tokens = ItemTokens(self.features, observed, self.n_items, dim, hidden, item_fields)
        self.user_tokens = UserTokens(
            self.features, observed, files, users_observed, self.interaction_graph(), dim, user_fields
        )
        self.co_attention = CoAttention(
            dim,
            hidden,
            options.integer("n_steps", minimum=0),
            options.choice("memory_update", ("san", "dan")),
            options.choice("co_attention", ("both", "user_only", "item_only", "none")),
            options.number("dropout", minimum=0, maximum=1),
        )
        self.score = PairScore(options.choice("score", ("mlp", "dot")), dim, options.integer("mlp_hidden", minimum=1))
        self.apply(xavier_normal_initialization)

    def forward(self) -> tuple[Any, Any]:
        """Tokens of all users, and of all items with room for what a full ranking needs; kept during an evaluation."""
        return self.user_tokens()[0], _Catalogue(self.item_tokens())

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """Ranking loss, regularisation and, if asked for, the modality contrast of a batch."""
        user, positive, negative = (interaction[f] for f in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        users = self._training_users(user, positive)
        items, others = self._training_items(positive, negative)
        chosen, rejected = self._score(users, items), self._score(users, others)
        if self.loss == "bpr":
            ranking = bpr_loss(chosen, rejected)
        else:
            ranking = (F.softplus(-chosen).mean() + F.softplus(rejected).mean()) / 2
        lengths = [_squared_length(tokens) for tokens, _ in (users, items, others)]
        losses: tuple[Tensor, ...] = (ranking, self.reg_weight * torch.stack(lengths).sum() / (2 * len(user)))
        if self.contrastive_weight > 0:
            rows = {m: items[0].values[:, slots].mean(dim=1) for m, slots in self.item_tokens.slots.items()}
            losses += (self.modality_contrast(rows, positive),)
        return losses

    def _score(self, users: tuple[Tokens, Tensor], items: tuple[Tokens, Tensor]) -> Tensor:
        """Scores of a batch of pairs, given tokens and keys."""
        attended = self.co_attention(users[0], items[0], users[1], items[1])
        return self.score(attended.user, attended.item)

    def _training_items(self, *batches: Tensor) -> list[tuple[Tokens, Tensor]]:
        """Tokens and keys of batches of items, computed for all items where these are fewer."""
        everything = self.n_items <= sum(map(len, batches))
        tokens = self.item_tokens(None if everything else torch.cat(batches))
        keys = self.co_attention.keys("item", tokens.values)
        if everything:
            return [(tokens.rows(ids), take_rows(keys, ids)) for ids in batches]
        sizes = [len(ids) for ids in batches]
        return [(Tokens(*parts[:2]), parts[2]) for parts in zip(*(table.split(sizes) for table in (*tokens, keys)))]

    def _training_users(self, user: Tensor, positive: Tensor) -> tuple[Tokens, Tensor]:
        """Tokens and keys of a batch's users, the positive item left out of the history for both items of a pair."""
        everything = self.n_users <= len(user)
        tokens, total = self.user_tokens(None if everything else user)
        shared = tokens.values.shape[1] - self.user_tokens.n_pooled
        keys = self.co_attention.keys("user", tokens.values[:, :shared])
        if everything:
            tokens, total, keys = tokens.rows(user), take_rows(total, user), take_rows(keys, user)
        left = self.user_tokens.without(total, user, positive)
        parts = (*tokens, keys), (*left, self.co_attention.keys("user", left.values))
        values, mask, keys = (torch.cat([whole[:, :shared], part], dim=1) for whole, part in zip(*parts))
        return Tokens(values, mask), keys

    def diagnostics(self) -> dict[str, Part]:
        """Attention on the tokens of some users and items, times their number: 1 everywhere where it prefers none."""
        users, catalogue = self._evaluation()
        ids = torch.arange(1, min(self.n_users, self.n_items, 65), device=self.device)
        tokens = users.rows(ids), catalogue.tokens.rows(ids)
        attended = self.co_attention(*tokens)
        parts = {}
        for side, (_, mask), steps in zip(("user", "item"), tokens, (attended.user_weights, attended.item_weights)):
            several = mask & (mask.sum(dim=1, keepdim=True) > 1)
            for weights in steps[-1:]:
                values = (weights * mask.sum(dim=1, keepdim=True))[several]
                parts[f"attention on {side} tokens"] = Part("weights", values)
        return parts

    def predict(self, interaction: Any) -> Tensor:
        """Scores of the given pairs, shape ``(batch,)``."""
        users, catalogue = self._evaluation()
        scores = []
        for user, item in zip(*(interaction[field].split(self._chunk()) for field in (self.USER_ID, self.ITEM_ID))):
            attended = self.co_attention(users.rows(user), catalogue.tokens.rows(item))
            scores.append(self.score(attended.user, attended.item))
        return torch.cat(scores)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of every item for the given users, flattened from ``(batch, n_items)``."""
        return self.score_items(interaction).view(-1)

    def score_items(self, interaction: Any, items: Tensor | None = None) -> Tensor:
        """Scores of some items, or of all, for the given users, ``(batch, n)``."""
        users, catalogue = self._evaluation()
        if catalogue.tables is None:
            catalogue.tables = side_tables(self.co_attention, self.score, "item", catalogue.tokens)
        tables = catalogue.tables if items is None else catalogue.tables.take(items)
        rows = side_tables(self.co_attention, self.score, "user", users.rows(interaction[self.USER_ID]))
        return score_grid(self.co_attention, self.score, rows, tables, self._chunk())

    def _evaluation(self) -> tuple[Tokens, _Catalogue]:
        users, catalogue = self.representations()
        return cast(Tokens, users), cast(_Catalogue, catalogue)

    def _chunk(self) -> int:
        return self.pair_chunk or (CPU_PAIRS if self.device.type == "cpu" else GPU_PAIRS)


class _Catalogue:
    """Tokens of all items, and what a full ranking computes from them once."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.tables: SideTables | None = None


def _squared_length(tokens: Tokens) -> Tensor:
    return (tokens.values.square().sum(dim=-1) * tokens.mask).sum()
