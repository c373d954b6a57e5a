"""DRAGON: modality branches and a user graph as DualGNN, and a frozen item graph, modalities side by side."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.data.cooccurrence import cooccurrence
from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.model.epochs import EpochClock, PrunesEdges, epoch_steps
from recbole_mm.nn.graph.item_graph import ItemGraph
from recbole_mm.nn.graph.sparse import full_precision
from recbole_mm.nn.graph.user_graph import add_peers, neighbour_table, sum_hops
from recbole_mm.nn.linear import Linear
from recbole_mm.nn.loss import bpr_loss
from recbole_mm.nn.mixture import mixed_graph
from recbole_mm.nn.rows import unit_rows

__all__ = ["DRAGON"]


class DRAGON(PrunesEdges, MultimodalRecommender):
    r"""Users learn from users with the same items, items from items with similar content.

    Per modality :math:`m` as in DualGNN, :math:`V_m = \sum_{l=0}^{L} S^l [\mathrm{unit}(p^m_U); \mathrm{unit}(x^m)]`
    with user preferences :math:`p^m` and a two-layer perceptron :math:`x^m` of the features. Then, side by side:

    .. math::
        q_u &= \|_m\, w_m \alpha_{um} V_m[u], \qquad z_i = \|_m\, w_m V_m[i], \\
        u &= q_u + \textstyle\sum_{v \in N_k(u)} \beta_{uv} q_v, \qquad i = z_i + (S_I^K z)_i, \qquad
        \hat y_{ui} = \langle u, i \rangle

    :math:`N_k(u)` are the ``user_knn_k`` users who share most training items with :math:`u`, :math:`\beta` the softmax
    of the numbers of shared items, and :math:`S_I` the constant mixture over modalities of the means over each item's
    ``knn_k`` nearest items (itself included). Loss: BPR in base 2 + ``reg_weight`` * (sum over modalities of the mean
    square of the batch users' preferences + mean square of :math:`\alpha`).

    Reference:
        Zhou et al. "Enhancing Dyadic Relations with Homogeneous Graphs for Multimodal Recommendation." ECAI 2023.

    Options:
        embedding_size, n_layers, n_item_layers, knn_k, image_share, user_knn_k, edge_dropout, reg_weight.

    Note:
        The released code pads short lists of peers with random repetitions; here the softmax runs over the true ones.
        It ignores its options for layers, neighbours and dropout (two hops, 40 peers, all edges: the defaults here);
        ``edge_dropout`` prunes the user-item graph in every epoch as FREEDOM does. Tables that no score depends on are
        left out. ``image_share`` is published for image and text; several others divide the rest equally, ``~`` is
        equal shares. An item without a modality has no neighbours by it, and in its branch is what the perceptron makes
        of what stands in place of the feature (``missing_feature``).
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        dim = self.options.integer("embedding_size", minimum=1)
        self.n_layers = self.options.integer("n_layers", minimum=0)
        self.n_item_layers = self.options.integer("n_item_layers", minimum=0)
        self.reg_weight = self.options.number("reg_weight", minimum=0)
        knn_k, user_knn_k = (self.options.integer(key, minimum=1) for key in ("knn_k", "user_knn_k"))
        image_share = self.options.optional_number("image_share", minimum=0, maximum=1)

        self.graph = self.interaction_graph()
        self.set_up_pruning(config, self.options.number("edge_dropout", minimum=0, maximum=1, before=0.0))
        self.clock = EpochClock(epoch_steps(config, dataset)) if self.edge_dropout > 0 else None
        neighbours, beta = neighbour_table(cooccurrence(self.interactions, user_knn_k))
        self.register_buffer("neighbours", neighbours, persistent=False)
        self.register_buffer("beta", beta, persistent=False)
        bank, known = self.features, self.known_items
        graph = mixed_graph(bank.items(), bank.observed, bank.weight, knn_k, image_share, known)
        self.item_graph = ItemGraph(*graph, known)
        self.register_buffer("weight", bank.stacked_weight().view(1, -1, 1), persistent=False)
        self.project, self.preference = nn.ModuleDict(), nn.ParameterDict()
        for modality, width in self.features.dims.items():
            self.project[modality] = nn.Sequential(Linear(width, 4 * dim), nn.LeakyReLU(), Linear(4 * dim, dim))
            self.preference[modality] = nn.Parameter(nn.init.xavier_normal_(torch.empty(self.n_users, dim)))
        self.alpha = nn.Parameter(nn.init.xavier_normal_(torch.empty(self.n_users, len(bank))).softmax(dim=1))

    def forward(self, user: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Representations of users (only those given, if any) and of all items, ``(n, M * d)`` each."""
        users = torch.cat([unit_rows(self.preference[m]) for m in self.features], dim=1)
        items = torch.cat([unit_rows(self.project[m](feature)) for m, feature in self.features.items()], dim=1)
        users, items = sum_hops([self.present_graph()] * self.n_layers, users, items)
        users, items = (self._weigh(users, self.alpha.unsqueeze(2)), self._weigh(items, None))
        items = items + self.item_graph.spread(items, self.n_item_layers)
        return add_peers(users, self.neighbours, self.beta, user), items

    def _weigh(self, states: Tensor, own: Tensor | None) -> Tensor:
        """Modalities, side by side, times their weights and the users' own."""
        parts = states.view(len(states), len(self.features), -1) * self.weight.to(states.dtype)
        return (parts if own is None else parts * own).flatten(start_dim=1)

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """BPR, the penalty of preferences and fusion weights and, if asked for, the modality contrast of a batch."""
        if self.clock is not None:
            self.prune(self.clock.tick()[0])
        user, positive = interaction[self.USER_ID], interaction[self.ITEM_ID]
        users, items = self.forward(user)
        chosen, rejected = F.embedding(positive, items), F.embedding(interaction[self.NEG_ITEM_ID], items)
        ranking = bpr_loss((users * chosen).sum(dim=1), (users * rejected).sum(dim=1)) / math.log(2)
        preferences = [F.embedding(user, self.preference[m]) for m in self.features]
        # Means, as published, of the batch and of all users; the padding row is nobody.
        squares = [full_precision(table).square().mean() for table in (*preferences, self.alpha[1:])]
        penalty = torch.stack(squares).sum()
        losses: tuple[Tensor, ...] = (ranking, self.reg_weight * penalty)
        if self.contrastive_weight > 0:
            rows = {m: self.project[m](feature[positive]) for m, feature in self.features.items()}
            losses += (self.modality_contrast(rows, positive),)
        return losses
