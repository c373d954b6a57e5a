"""LGMRec: local graphs of ids and modalities, and a few learned hyperedges that reach all users and items."""

from __future__ import annotations

from itertools import combinations
from logging import getLogger
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.nn.diagnosis import Part
from recbole_mm.nn.graph.clustering import cluster_entropy
from recbole_mm.nn.graph.lightgcn import lightgcn
from recbole_mm.nn.graph.sparse import full_precision, spmm
from recbole_mm.nn.linear import Linear, linear
from recbole_mm.nn.loss import bpr_loss, frobenius_penalty, info_nce_loss
from recbole_mm.nn.rows import rows_at, unit_rows
from recbole_mm.nn.table_nce import table_nce_loss

__all__ = ["LGMRec"]

# Per modality: hyperedges (A, d), and the memberships of users and items (n, A), whose products are the vectors (n, d).
Hyper = dict[str, tuple[Tensor, tuple[Tensor, Tensor]]]
# Users and items.
Sides = tuple[Tensor, Tensor]


class LGMRec(MultimodalRecommender):
    r"""LightGCN on ids, modality features spread over the same graph, and hyperedges per modality.

    With :math:`(g_U, g_I)` the LightGCN of the id tables and, per modality, :math:`x_i = f_i W_m`, :math:`x_u` the
    mean of the user's :math:`x_i`, and :math:`x^m = S^K [x_u; x_i]` the last of :math:`K` hops:

    .. math::
        local &= g + \textstyle\sum_m w_m\, \mathrm{unit}(x^m), \qquad
        H_i = \mathrm{softmax}((f_i V_m + \gamma)/t), \quad
        H_u = \mathrm{softmax}((\textstyle\sum_{i \in N(u)} f_i V_m + \gamma)/t), \\
        I_l &= H_i (H_i^\top I_{l-1}), \quad U_l = H_u (H_i^\top I_{l-1}), \quad I_0 = g_I, \qquad
        z = local + \alpha\, \mathrm{unit}(\textstyle\sum_m w_m [U^m; I^m]), \quad \hat y_{ui} = \langle z_u, z_i
        \rangle

    Loss: BPR + ``contrastive_weight`` * HCL + ``reg_weight`` * (sum of the norms of the batch's three matrices of
    representations) / batch size. HCL is the mean over pairs of modalities :math:`m < n` of the contrast of the batch's
    :math:`U^m_u` with :math:`U^n` of all users plus that of its positive items' :math:`I^m_i` with :math:`I^n` of all
    items, **sums** over the batch. :math:`A` is ``n_hyperedges``, :math:`t` ``hyperedge_temperature``, :math:`\alpha`
    ``global_weight``.

    Reference:
        Guo et al. "LGMRec: Local and Global Graph Learning for Multimodal Recommendation." AAAI 2024.

    Options:
        embedding_size, n_layers, n_modality_layers, n_hyper_layers, n_hyperedges, hyperedge_dropout,
        hyperedge_temperature, global_weight, contrast_negatives, reg_weight.

    Note:
        The Gumbel noise :math:`\gamma` and the dropout of :math:`H` act in training only; the released code draws noise
        when it ranks as well, and two evaluations of one model differ. The paper's noise, as we understand it, is
        logistic; Gumbel's is the code's. HCL is a sum over the batch beside a mean, as released; a library that takes
        its mean needs another ``contrastive_weight``. With the authors' 1e-4 its gradient in the id tables is 8 to 60
        times that of BPR over the first 300 steps (lfm2k and a sample of microlens-neighbours), and under Adam it alone
        sets their direction; with 1e-6, the default and the least of the authors' grid but none, it is about half of
        BPR's at most. Rows of :math:`H` of what lacks the modality are 0, and it is neither anchor nor candidate; the
        local part, which has no bias, reads what stands in place of the feature (``missing_feature``, 0 by default).
        HCL compares vectors of the span of :math:`A` hyperedges, so its scores are computed at width :math:`A` where
        that is less than :math:`d`. ``contrast_negatives: batch``, ours, takes the batch's rows for candidates. HCL is
        for any number of modalities (the paper has two); with one there is none. A new item has no local modality part
        (:math:`K \ge 1` hops erase it): its features rank it through the hyperedges.
    """

    has_contrastive_term = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        dim = self.options.integer("embedding_size", minimum=1)
        self.n_layers = self.options.integer("n_layers", minimum=0)
        self.n_modality_layers = self.options.integer("n_modality_layers", minimum=0)
        self.n_hyper_layers = self.options.integer("n_hyper_layers", minimum=1)
        self.n_hyperedges = self.options.integer("n_hyperedges", minimum=1)
        self.dropout = self.options.number("hyperedge_dropout", minimum=0, maximum=1)
        self.hyperedge_temperature = self.options.number("hyperedge_temperature")
        if self.hyperedge_temperature <= 0:
            raise ValueError(
                f"LGMRec option 'hyperedge_temperature': expected more than 0, got {self.hyperedge_temperature}."
            )
        self.global_weight = self.options.number("global_weight", minimum=0)
        self.negatives = self.options.choice("contrast_negatives", ("all", "batch"))
        self.reg_weight = self.options.number("reg_weight", minimum=0)

        self.graph = self.interaction_graph()
        self.keep_observed()
        self.register_buffer("one", torch.ones(self.graph.n_edges), persistent=False)
        self.user_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_users, dim)))
        self.item_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_items, dim)))
        self.project, self.membership = nn.ModuleDict(), nn.ModuleDict()
        for maps, width in ((self.project, dim), (self.membership, self.n_hyperedges)):
            for modality, size in self.features.dims.items():
                maps[modality] = Linear(size, width, bias=False)
                nn.init.xavier_uniform_(maps[modality].weight)  # type: ignore[arg-type]

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of all users and items, ``(n_users, d)`` and ``(n_items, d)``."""
        encoded = self._encode()
        return self._combine(0, None, *encoded), self._combine(1, None, *encoded)

    def _encode(self) -> tuple[Sides, Sides, Hyper]:
        """ID vectors; vectors of the modalities side by side; hyperedges. All of them of all users and items."""
        dim = self.user_embedding.shape[1]
        ids = lightgcn([self.graph] * self.n_layers, self.user_embedding, self.item_embedding)
        states, logits = [], []
        for modality, feature in self.features.items():
            maps = [self.project[modality].weight, self.membership[modality].weight]
            # One pass over the features for both maps.
            both = full_precision(linear(feature, torch.cat(maps), backend=self.dense_backend))  # type: ignore[arg-type]
            states.append(both[:, :dim])
            logits.append(both[:, dim:] * self.features.observed[modality].unsqueeze(1))
        with torch.autocast(ids[1].device.type, enabled=False):  # narrow products, and lengths that half lacks
            hyper = self._hyperedges(ids[1], torch.cat(logits, dim=1))
        return ids, self._spread(torch.cat(states, dim=1)), hyper

    def _combine(self, side: int, rows: Tensor | None, ids: Sides, spread: Sides, hyper: Hyper) -> Tensor:
        """Representations of users (side 0) or items (1), of the given rows or of all."""
        table, local = rows_at(ids[side], rows), rows_at(spread[side], rows)
        whole = torch.zeros_like(table)
        for modality, part in zip(self.features, local.chunk(len(self.features), dim=1)):
            share, (edges, members) = self.features.weight[modality], hyper[modality]
            table = torch.add(table, unit_rows(part), alpha=share)
            with torch.autocast(whole.device.type, enabled=False):
                whole = torch.add(whole, rows_at(members[side], rows) @ edges, alpha=share)
        return torch.add(table, unit_rows(whole), alpha=self.global_weight)

    def _spread(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Modality vectors, side by side, after the last of the hops that start from the users' means."""
        users = self.graph.gather_users(items, "row")
        for _ in range(self.n_modality_layers):
            users, items = self.graph.propagate(users, items)
        return users, items

    def _hyperedges(self, items: Tensor, logits: Tensor) -> Hyper:
        """Per modality the hyperedges, and memberships of users and items."""
        one = self.one.to(logits.dtype)
        of_users = spmm(self.graph.to_user, one, logits, one)
        parts = of_users.chunk(len(self.features), dim=1), logits.chunk(len(self.features), dim=1)
        result: Hyper = {}
        for index, modality in enumerate(self.features):
            user_rows = self._member(parts[0][index], self.user_observed[:, index])
            item_rows = self._member(parts[1][index], self.item_observed[:, index])
            # Under cold_start the hyperedges are made of known items; new ones read them at evaluation.
            source = item_rows if self.known_items is None else item_rows * self.known_items.unsqueeze(1)
            edges = source.t() @ items
            for _ in range(1, self.n_hyper_layers):
                edges = source.t() @ (source @ edges)
            result[modality] = edges, (user_rows, item_rows)
        return result

    def _member(self, logits: Tensor, observed: Tensor) -> Tensor:
        """Memberships: a softmax with noise and dropout in training; 0 for what lacks the modality."""
        if self.training:
            logits = logits - torch.empty_like(logits).exponential_().log_()
        rows = (logits / self.hyperedge_temperature).softmax(dim=1) * observed.unsqueeze(1)
        return F.dropout(rows, self.dropout, self.training)

    def diagnostics(self) -> dict[str, Part]:
        """Memberships of items in the hyperedges, by modality; their entropy goes to the log.

        Where the entropy of a row is near 0 the softmax is one-hot and the maps behind it get hardly any gradient, as
        with long feature vectors (``feature_norm: l2`` shortens them).
        """
        hyper = self._encode()[2] if self.global_weight > 0 else {}
        for index, (modality, (_, members)) in enumerate(hyper.items()):
            sizes, rows = cluster_entropy(members[1], self.item_observed[:, index])
            getLogger().info(
                f"LGMRec hyperedges of {modality}: entropy of the sizes {sizes:.3f}, of a row {abs(rows):.3f} (of 1)"
            )
        return {f"hyperedges of {m}": Part("assignment", members[1]) for m, (_, members) in hyper.items()}

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """BPR, the penalty and the weighted contrast of the hyperedges' vectors of a batch."""
        user, positive, negative = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        encoded = self._encode()
        item, hyper = torch.cat([positive, negative]), encoded[2]
        rows = self._combine(0, user, *encoded), *self._combine(1, item, *encoded).chunk(2)
        ranking = bpr_loss((rows[0] * rows[1]).sum(dim=1), (rows[0] * rows[2]).sum(dim=1))
        losses: tuple[Tensor, ...] = (ranking, self.reg_weight * frobenius_penalty(*rows) / len(user))
        if self.contrastive_weight > 0 and len(self.features) > 1:
            with torch.autocast(user.device.type, enabled=False):
                losses += (self.contrastive_weight * self._contrast(hyper, user, positive),)
        return losses

    def _contrast(self, hyper: Hyper, user: Tensor, positive: Tensor) -> Tensor:
        """HCL: every pair of modalities, users with users and items with items; a sum over the batch."""
        pairs = list(combinations(range(len(self.features)), 2))
        known = self.item_observed if self.known_items is None else self.item_observed & self.known_items.unsqueeze(1)
        parts, total = list(hyper.values()), self.one.new_zeros(())
        for left, right in pairs:
            for side, (ids, observed) in enumerate(((user, self.user_observed), (positive, known))):
                both = observed[ids, left] & observed[ids, right]
                (edges, members), (other_edges, others) = parts[left], parts[right]
                anchor, table = F.embedding(ids, members[side]), others[side]
                tau = self.contrastive_temperature
                if self.negatives == "batch":
                    rows = anchor @ edges, F.embedding(ids, table) @ other_edges
                    total = total + both.sum() * info_nce_loss(*rows, tau, valid=both, same=ids)
                elif self.n_hyperedges < edges.shape[1]:
                    # <h Y, k Z> = <h (Y Z'), k>: the same cosines from vectors of width A.
                    anchor = anchor * _inverse_length(anchor @ edges) @ (edges @ other_edges.t())
                    table = table * _inverse_length(table @ other_edges)
                    total = total + table_nce_loss(
                        anchor, table, ids, tau, observed[:, right], both, normalize=False, largest=1.0
                    )
                else:
                    anchor, table = anchor @ edges, table @ other_edges
                    total = total + table_nce_loss(anchor, table, ids, tau, observed[:, right], both)
        return total / len(pairs)


def _inverse_length(table: Tensor) -> Tensor:
    """One over the length of every row, ``(n, 1)``; 0 for rows of zeros."""
    length = torch.linalg.vector_norm(table, dim=1, keepdim=True)
    there = length > 1e-12
    return there / torch.where(there, length, torch.ones_like(length))
