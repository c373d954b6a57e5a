"""VBPR: matrix factorisation whose items also have factors and a bias read from content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.model.interactions import with_pairs
from recbole_mm.nn.loss import bpr_loss, frobenius_penalty, l2_penalty
from recbole_mm.nn.projection import linear_rows
from recbole_mm.nn.rows import batch_rows, rows_at

__all__ = ["VBPR"]


class VBPR(MultimodalRecommender):
    r"""A user weighs latent factors of an item and factors that are linear in its content.

    .. math::
        c_i = \textstyle\sum_m w_m E_m^\top f^m_i, \qquad b_i = \beta_i + \sum_m w_m \langle \beta'_m, f^m_i \rangle,
        \qquad \hat y_{ui} = \langle \gamma_u, \gamma_i \rangle + \langle \theta_u, c_i \rangle + b_i

    Loss: BPR + ``reg_weight`` * half the mean squared length of :math:`\gamma_u, \theta_u, \gamma_i, \beta_i` of the
    batch; :math:`E` and :math:`\beta'` are not penalised. :math:`w_m` is ``modality_weight`` (1 in the paper).

    Reference:
        He and McAuley. "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback." AAAI 2016.

    Options:
        embedding_size, content_size, item_bias, content_bias, penalty, zero_id_for_cold, reg_weight.

    Note:
        The paper reads one image vector. A map per modality, summed, is one map of the concatenated vectors, which is
        what a widespread port does for image and text; that port has no biases and penalises lengths that are not
        squared, with the content factors among them: ``VBPR-reference.yaml``. The bias vector of its map moves all
        items of a user alike and is left out, as are the paper's offsets of users and of everything. Without it an item
        that lacks a modality, whose feature is 0, gets nothing from it; another ``missing_feature`` is read as given.
        One library adds content biases of shape ``(batch, 1)`` to scores of shape ``(batch,)``, so that every pair pays
        for those of all others; that is a slip, and not done here. Features are scaled to unit length by default: raw
        vectors of a network, with lengths of tens, drown the latent factors.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        dim = self.options.integer("embedding_size", minimum=1)
        width = self.options.integer("content_size", minimum=0)
        item_bias, content_bias = self.options.boolean("item_bias"), self.options.boolean("content_bias")
        self.penalty = self.options.choice("penalty", ("squared", "norm"))
        self.zero_id_for_cold = self.options.boolean("zero_id_for_cold")
        self.reg_weight = self.options.number("reg_weight", minimum=0)

        def table(n_rows: int, n_columns: int) -> nn.Parameter:
            empty = torch.empty(n_rows, n_columns)
            return nn.Parameter(nn.init.xavier_uniform_(empty) if n_columns else empty)

        self.user_embedding, self.item_embedding = table(self.n_users, dim), table(self.n_items, dim)
        self.user_content = table(self.n_users, width)
        dims = self.features.dims
        self.project = nn.ParameterDict({m: table(d, width) for m, d in dims.items()})
        self.item_bias = nn.Parameter(torch.zeros(self.n_items)) if item_bias else None
        biases = {m: nn.Parameter(torch.zeros(d)) for m, d in dims.items()} if content_bias else {}
        self.content_bias = nn.ParameterDict(biases)
        self.register_buffer("in_training", with_pairs(self.interactions), persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Users ``[gamma | theta | 1]`` and items ``[gamma | c | b]``, one row each."""
        users = torch.cat([self.user_embedding, self.user_content, self.user_content.new_ones(self.n_users, 1)], dim=1)
        latent, content, bias = self._items(None)
        if self.zero_id_for_cold and not self.training:
            latent = latent * self.in_training.unsqueeze(1)
        return users, torch.cat([latent, content, bias.unsqueeze(1)], dim=1)

    def _items(self, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Latent factors, content factors and biases of some items, or of all."""
        latent = rows_at(self.item_embedding, rows)
        bias = latent.new_zeros(len(latent))
        if self.item_bias is not None:
            bias = self.item_bias if rows is None else self.item_bias.index_select(0, rows)
        if self.item_bias is not None and self.zero_id_for_cold and not self.training:
            bias = bias * (self.in_training if rows is None else self.in_training[rows])
        content = latent.new_zeros(())
        for modality, (part, biases) in self._content(rows).items():
            weight = self.features.weight[modality]
            content = torch.add(content, part, alpha=weight)
            bias = bias if biases is None else torch.add(bias, biases, alpha=weight)
        return latent, content, bias

    def _content(self, rows: Tensor | None) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Content factors and, if there are any, content biases of some items, or of all, from each modality alone."""
        result: dict[str, tuple[Tensor, Tensor | None]] = {}
        for modality, feature in self.features.items():
            maps = self.project[modality]
            if modality not in self.content_bias:
                result[modality] = linear_rows(feature, rows, maps.t(), backend=self.dense_backend), None
                continue
            # A bias is one more factor: features are wide, and read once for both.
            both = torch.cat([maps, self.content_bias[modality].unsqueeze(1)], dim=1)
            found = linear_rows(feature, rows, both.t(), backend=self.dense_backend)
            result[modality] = found[:, :-1], found[:, -1]
        return result

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """Ranking, penalty and, if asked for, the modality contrast of a batch."""
        user, positive, negative = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        rows, place = batch_rows(torch.cat([positive, negative]), self.n_items)
        latent, content, bias = self._items(rows)
        users = F.embedding(user, self.user_embedding), F.embedding(user, self.user_content)
        pair = [(F.embedding(at, latent), F.embedding(at, content), bias[at]) for at in place.chunk(2)]  # type: ignore[union-attr]
        near, far = ((users[0] * a).sum(dim=1) + (users[1] * b).sum(dim=1) + c for a, b, c in pair)
        losses: tuple[Tensor, ...] = (bpr_loss(near, far), self.reg_weight * self._penalty(users, pair, interaction))
        if self.contrastive_weight > 0:
            losses += (self.modality_contrast({m: part for m, (part, _) in self._content(positive).items()}, positive),)
        return losses

    def _penalty(self, users: tuple[Tensor, Tensor], pair: Sequence[tuple[Tensor, ...]], interaction: Any) -> Tensor:
        if self.penalty == "norm":
            tables = [torch.cat(users, dim=1), *(torch.cat([latent, content], dim=1) for latent, content, _ in pair)]
            return frobenius_penalty(*tables) / len(tables[0])
        rows = [*users, *(latent for latent, _, _ in pair)]
        if self.item_bias is not None:
            rows += [self.item_bias[interaction[key]] for key in (self.ITEM_ID, self.NEG_ITEM_ID)]
        return l2_penalty(*rows)
