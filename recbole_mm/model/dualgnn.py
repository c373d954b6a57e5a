"""DualGNN: modality-wise user-item propagation, then a graph of users who like the same items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.data.cooccurrence import cooccurrence
from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.model.sampled_graph import SamplesGraph
from recbole_mm.nn.diagnosis import Part
from recbole_mm.nn.graph.bipartite import head
from recbole_mm.nn.graph.neighbours import sample_peers
from recbole_mm.nn.graph.sampling import Neighbourhood
from recbole_mm.nn.graph.sparse import full_precision
from recbole_mm.nn.graph.user_graph import add_peers, neighbour_table, sum_hops, sum_peers
from recbole_mm.nn.linear import Linear
from recbole_mm.nn.loss import bpr_loss, l2_penalty
from recbole_mm.nn.rows import unit_rows

__all__ = ["DualGNN"]

FUSIONS = ("weighted_sum", "max", "concat", "mean")


class DualGNN(SamplesGraph, MultimodalRecommender):
    r"""Every modality has user preferences of its own; users fuse them by their own weights and add their peers.

    Per modality :math:`m`, with :math:`S = D^{-1/2} A D^{-1/2}` and a two-layer perceptron :math:`x_i = W_2\,
    \mathrm{LeakyReLU}(W_1 f_i + b_1) + b_2`:

    .. math::
        X^0 &= \mathrm{norm}([p^m_u ; x_i]), \qquad X^l = S X^{l-1}, \qquad V_m = \textstyle\sum_{l=0}^{L} X^l, \\
        z_i &= \textstyle\sum_m w_m V_m[i], \qquad q_u = \textstyle\sum_m w_m \alpha_{u,m} V_m[u], \\
        z_u &= q_u + \textstyle\sum_{v \in N_k(u)} \beta_{uv} q_v, \qquad \hat y_{ui} = \langle z_u, z_i \rangle

    :math:`N_k(u)` are the ``knn_k`` users who share most training items with :math:`u` (ties: smaller id first) and
    :math:`\beta` the softmax over the numbers of shared items; :math:`w_m` is ``modality_weight`` (1 in the paper).
    Loss: BPR in base 2 + ``reg_weight`` * half the squared length of the batch users' preferences and of their
    :math:`\alpha`.

    Reference:
        Wang et al. "DualGNN: Dual Graph Neural Network for Multimedia Recommendation." IEEE TMM 2023.

    Options:
        embedding_size, n_layers, knn_k, user_fusion, user_aggregation, normalize_alpha, normalize_tables,
        reg_weight.

    Note:
        The authors' code pads short neighbour lists with random repetitions, which changes :math:`\beta` from epoch to
        epoch; here the softmax runs over the true neighbours. A widespread port fuses users from :math:`v+t` and
        :math:`t` because it adds in place; here the branches stay apart. The released decay of a table of item weights
        that no score depends on is left out. The graph of users comes from the training split only.
        The authors bring every preference to length 1, so that a user with one item starts as a random unit vector and
        no penalty can hold it back. Here (``normalize_tables: False``) preferences keep their length: they start small,
        beside content of length 1, and grow as far as a user's items pay for it against ``reg_weight``.
        With ``graph_batch: sampled`` a user of the batch also draws at most ``fanout`` (its first entry) of its peers,
        with probabilities by :math:`\beta`; these sums and those of every layer are unbiased.
        The authors rank by the latest parameters; with ``weight_average: 0.33`` an average over the epochs ranks where
        it validates better.
    """

    reads_own_states = False
    neighbour_counts = MappingProxyType({"knn_k": "user"})

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        dim = self.options.integer("embedding_size", minimum=1)
        self.n_layers = self.options.integer("n_layers", minimum=0)
        self.fusion = self.options.choice("user_fusion", FUSIONS)
        self.normalize_alpha = self.options.boolean("normalize_alpha")
        self.normalize_tables = self.options.boolean("normalize_tables")
        self.reg_weight = self.options.number("reg_weight", minimum=0)
        aggregation = self.options.choice("user_aggregation", ("softmax", "mean"))
        knn_k = self.options.integer("knn_k", minimum=1)

        self.graph = self.interaction_graph()
        neighbours, beta = neighbour_table(cooccurrence(self.interactions, knn_k), aggregation)
        self.register_buffer("neighbours", neighbours, persistent=False)
        self.register_buffer("beta", beta, persistent=False)
        self.set_up_sampling(config, dataset, self.n_layers)

        self.register_buffer("fusion_weight", self.features.stacked_weight().view(1, -1, 1), persistent=False)
        self.project, self.preference = nn.ModuleDict(), nn.ParameterDict()
        for modality, width in self.features.dims.items():
            self.project[modality] = nn.Sequential(Linear(width, 4 * dim), nn.LeakyReLU(), Linear(4 * dim, dim))
            self.preference[modality] = nn.Parameter(nn.init.xavier_normal_(torch.empty(self.n_users, dim)))
        if self.fusion != "mean":
            noise = nn.init.xavier_normal_(torch.empty(self.n_users, len(self.features)))
            self.alpha = nn.Parameter(noise if self.normalize_alpha else noise.softmax(dim=1))
        if self.fusion == "concat":
            self.merge = nn.Linear(len(self.features) * dim, dim)

    def forward(self, user: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Representations of users (only those given, if any) and of all items, ``(n, d)`` each."""
        part = self.neighbourhood()
        tables = self._tables(part)
        states, items = self._propagate(part, tables)
        return add_peers(self._fuse(states, tables.alpha), self.neighbours, self.beta, user), items

    def _tables(self, part: Neighbourhood) -> _Tables:
        alpha = None if self.fusion == "mean" else part.of_users(self.alpha)
        return _Tables({m: part.of_users(self.preference[m]) for m in self.features}, alpha)

    def _propagate(self, part: Neighbourhood, tables: _Tables) -> tuple[Tensor, Tensor]:
        """Users per modality, ``(n_users, M, d)``, and items summed over modalities, ``(n_items, d)``."""
        # Modalities lie side by side, so that one sparse product a side serves all of them.
        scale = unit_rows if self.normalize_tables else full_precision
        users = torch.cat([scale(table) for table in tables.preference.values()], dim=1)
        content = [self.project_items(m, part) for m in self.features]
        items = torch.cat([unit_rows(table) for table in content], dim=1)
        user_sum, item_sum = sum_hops(part.hops, users, items, self._add_modalities)
        return user_sum.view(len(user_sum), len(self.features), -1), item_sum

    def _batch(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor, Neighbourhood, _Tables]:
        """Representations of the batch's users and items, the neighbourhood behind them and its rows of the tables."""
        if self.fanout is None or not self.training:
            part = self.neighbourhood()
            tables = self._tables(part)
            states, items = self._propagate(part, tables)
            users = add_peers(self._fuse(states, tables.alpha), self.neighbours, self.beta, user)
            return users, F.embedding(item, items), part._replace(user=user, item=item), tables
        asked, place = torch.unique(user, return_inverse=True)
        peers, beta = self._draw_peers(asked, self.fanout)
        part = self.neighbourhood(torch.cat([asked, peers.flatten()]), item)
        tables = self._tables(part)
        states, items = self._propagate(part, tables)
        own, of_peers = part.user.split([len(asked), peers.numel()])  # type: ignore[union-attr]
        fused = self._fuse(states, tables.alpha)
        users = F.embedding(own, fused) + sum_peers(fused, of_peers.view_as(peers), beta)
        return F.embedding(place, users), F.embedding(part.item, items), part._replace(user=own[place]), tables  # type: ignore[arg-type]

    def _draw_peers(
        self, user: Tensor, fanout: Sequence[int], generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Some peers of users and their weights, ``(n, k)``; where fewer are drawn the user stands in with weight 0."""
        most = fanout[0] if fanout else self.neighbours.shape[1]  # without layers there is no limit, nor a need of one
        slots, beta = sample_peers(self.beta[user], most, generator)
        return torch.where(beta > 0, self.neighbours[user].gather(1, slots), user.unsqueeze(1)), beta

    def last_users(self, user: Tensor, fanout: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        """The users and their sampled peers."""
        return torch.cat([user, self._draw_peers(user.unique(), fanout, generator)[0].flatten()])

    def _add_modalities(self, stacked: Tensor) -> Tensor:
        parts = stacked.chunk(len(self.features), dim=1)
        return sum(self.features.weight[m] * part for m, part in zip(self.features, parts))  # type: ignore[return-value]

    def _fuse(self, states: Tensor, alpha: Tensor | None) -> Tensor:
        states = states * self.fusion_weight.to(states.dtype)
        if alpha is None:
            return states.mean(dim=1)
        alpha = head(alpha, len(states))
        alpha = alpha.softmax(dim=1) if self.normalize_alpha else alpha
        weighted = states * alpha.unsqueeze(-1)
        if self.fusion == "concat":
            return self.merge(weighted.flatten(start_dim=1))
        return weighted.amax(dim=1) if self.fusion == "max" else weighted.sum(dim=1)

    def diagnostics(self) -> dict[str, Part]:
        """The users' weights of the modalities."""
        if self.fusion == "mean" or len(self.features) < 2:
            return {}
        alpha = self.alpha[1:]
        values = alpha.softmax(dim=1) if self.normalize_alpha else alpha
        return {"the fusion of modalities by user": Part("weights", values)}

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """BPR, the penalty of preferences and fusion weights and, if asked for, the modality contrast of a batch."""
        user, positive = interaction[self.USER_ID], interaction[self.ITEM_ID]
        users, items, part, tables = self._batch(user, torch.cat([positive, interaction[self.NEG_ITEM_ID]]))
        chosen, rejected = items.chunk(2)
        ranking = bpr_loss((users * chosen).sum(dim=1), (users * rejected).sum(dim=1)) / math.log(2)
        of_users = list(tables.preference.values())
        if self.fusion == "weighted_sum":
            of_users.append(tables.alpha)  # type: ignore[arg-type]
        penalty = l2_penalty(*(F.embedding(part.user, table) for table in of_users))  # type: ignore[arg-type]
        losses: tuple[Tensor, ...] = (ranking, self.reg_weight * penalty)
        if self.contrastive_weight > 0:
            rows = {m: self.features.projected(m, self.project[m], positive) for m in self.features}
            losses += (self.modality_contrast(rows, positive),)
        return losses


class _Tables(NamedTuple):
    """Rows of the trained tables that a step reads."""

    preference: dict[str, Tensor]
    alpha: Tensor | None
