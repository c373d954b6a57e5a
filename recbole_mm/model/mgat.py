"""MGAT: gated attention over the neighbours of every modality's graph."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.model.sampled_graph import SamplesGraph
from recbole_mm.nn.diagnosis import Part
from recbole_mm.nn.graph.bipartite import SparsePattern, head, sddmm, segment_softmax, spmm
from recbole_mm.nn.graph.sampling import Hop
from recbole_mm.nn.linear import Linear, linear
from recbole_mm.nn.loss import bpr_loss
from recbole_mm.nn.rows import batch_rows, rows_at, unit_rows

__all__ = ["MGAT"]

WIDEST = 256  # Features wider than this are projected to it, narrower ones keep their width (the authors' settings).


class MGAT(SamplesGraph, MultimodalRecommender):
    r"""Nodes attend to their neighbours in one graph per modality; a gate decides how much of each score passes.

    Per modality :math:`m`, with :math:`X = \mathrm{norm}([p^m_u ; \tanh(W f_i + b)])` and :math:`Y = X W^a`, for every
    message from :math:`s` to :math:`t` (:math:`\phi` = LeakyReLU(0.01)):

    .. math::
        s_{ts} &= \langle Y_t, \phi(Y_s) \rangle, \qquad g_{ts} = \sigma(s_{ts} / \sqrt{d}), \qquad
        \alpha_{ts} = \mathrm{softmax}_{s \in N(t)}(s_{ts}\, g_{ts}), \\
        H_t &= \mathrm{norm}(\textstyle\sum_s \alpha_{ts} Y_s + b^a), \qquad
        X'_t = \phi(\phi(H_t) W^g + b^g + \phi(X_t W^l + b^l) + e_t), \\
        Z &= \tfrac1M \textstyle\sum_m w_m X'_m, \qquad \hat y_{ui} = \langle Z_u, Z_i \rangle,

    with ID embeddings :math:`e` shared by the modalities and layers, and :math:`w_m` the ``modality_weight`` (1 in the
    paper). With two layers the second works on :math:`X'` and the output is :math:`[X' \| X'']`. The loss is BPR; the
    authors regularise by weight decay (``weight_decay``) on everything.

    Reference:
        Tao et al. "MGAT: Multimodal Graph Attention Network for Recommendation." Information Processing & Management,
        2020.

    Options:
        embedding_size, n_layers, gate, gate_degree, dropout, projection_dim.

    Note:
        The released code returns after the first layer, so that is the default. :math:`d` is the degree of the source
        in the released code (``gate_degree: source``) and of the centre in the paper (``target``). The released loss is
        a sum of base-2 logarithms with a decay of 0.1; Adam makes that the mean loss here with a decay of 3.4e-5.
        ``dropout`` (on the attention weights) is ours: the released code has it commented out.
        With ``graph_batch: sampled`` the softmax runs over the sampled neighbours (the gate's degrees are those of the
        whole graph). Its weights are then larger by degree over number kept on average, so sums need no other factor;
        as a ratio of two sums they are biased by the order of 1 / ``fanout``, and exact where every neighbour is kept.
        The authors rank by the latest parameters; with ``weight_average: 0.33`` an average over the epochs ranks where
        it validates better.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        dim = self.options.integer("embedding_size", minimum=1)
        n_layers = self.options.integer("n_layers", minimum=1, maximum=2)
        gate = self.options.choice("gate", ("inner", "none"))
        gate_degree = self.options.choice("gate_degree", ("source", "target"))
        dropout = self.options.number("dropout", minimum=0, maximum=1)
        widths = self.options.per_modality(
            "projection_dim",
            self.features.keys(),
            "optional_integer",
            default=None,
            minimum=1,
            unused=self.modality_names,
        )

        self.graph = self.interaction_graph()
        self.set_up_sampling(config, dataset, n_layers)
        to_user, to_item = self.graph.to_user, self.graph.to_item
        if gate_degree == "source":
            degrees = self.graph.item_degree[to_user.col], self.graph.user_degree[to_item.col]
        else:
            degrees = self.graph.user_degree[to_user.row], self.graph.item_degree[to_item.row]
        self.register_buffer("user_gate_degree", degrees[0] if gate == "inner" else None, persistent=False)
        self.register_buffer("item_gate_degree", degrees[1] if gate == "inner" else None, persistent=False)

        nodes = nn.init.xavier_normal_(torch.empty(self.n_users + self.n_items, dim))
        self.user_embedding = nn.Parameter(nodes[: self.n_users].clone())
        self.item_embedding = nn.Parameter(nodes[self.n_users :].clone())
        self.project, self.preference = nn.ModuleDict(), nn.ParameterDict()
        inputs = {}
        for modality, width in self.features.dims.items():
            inputs[modality] = widths[modality] or min(width, WIDEST)
            self.project[modality] = Linear(width, inputs[modality])
            table = nn.init.xavier_normal_(torch.empty(self.n_users, inputs[modality]))
            self.preference[modality] = nn.Parameter(table)
        self.layers = nn.ModuleList(
            nn.ModuleDict({m: _Layer(inputs[m] if index == 0 else dim, dim, dropout) for m in inputs})
            for index in range(n_layers)
        )

    def modality_states(self, user: Tensor | None = None, item: Tensor | None = None) -> tuple[dict, dict]:
        """Representations per modality, ``{m: (n, d * n_layers)}`` for users and items, of the given rows or of all."""
        part = self.neighbourhood(user, item)
        if part.sampled:
            (user_rows, user_place), (item_rows, item_place) = (None, part.user), (None, part.item)
        else:  # distinct, because the last layer cuts its edges by them
            user_rows, user_place = batch_rows(user, self.n_users, distinct=True)
            item_rows, item_place = batch_rows(item, self.n_items, distinct=True)
        embeddings = part.of_users(self.user_embedding), part.of_items(self.item_embedding)
        n_last = part.hops[-1].n_users, part.hops[-1].n_items
        users, items = {}, {}
        for m in self.features:
            projected = torch.tanh(self.project_items(m, part))
            states = unit_rows(part.of_users(self.preference[m])), unit_rows(projected)
            outputs: tuple[list[Tensor], list[Tensor]] = ([], [])
            for index, (layer, hop) in enumerate(zip(self.layers, part.hops)):
                # Only the last layer's targets can be cut to the batch: earlier states feed their neighbours.
                cut = (user_rows, item_rows) if index == len(self.layers) - 1 else (None, None)
                states = self._layer(layer[m], hop, states, embeddings, cut)
                for output, state, rows, done, n in zip(outputs, states, (user_rows, item_rows), cut, n_last):
                    # A sampled neighbourhood has the batch's nodes in front.
                    state = head(state, n) if part.sampled else state
                    output.append(state if rows is done else rows_at(state, rows))
            users[m] = rows_at(torch.cat(outputs[0], dim=1), user_place)
            items[m] = rows_at(torch.cat(outputs[1], dim=1), item_place)
        return users, items

    def _layer(
        self,
        layer: _Layer,
        hop: Hop,
        states: tuple[Tensor, Tensor],
        embeddings: tuple[Tensor, Tensor],
        rows: tuple[Tensor | None, Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        users, items = (linear(state, layer.attention.t(), backend=layer.own.backend) for state in states)
        own = [head(x, hop.n_users) for x in (users, states[0], embeddings[0])]
        other = [head(x, hop.n_items) for x in (items, states[1], embeddings[1])]
        degrees: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.user_gate_degree is not None:
            degrees = hop.at_edges(self.user_gate_degree, self.item_gate_degree)
        return (
            layer(hop.to_user, degrees[0], own[0], items, own[1], own[2], rows[0]),
            layer(hop.to_item, degrees[1], other[0], users, other[1], other[2], rows[1]),
        )

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of all users and items, ``(n_users, d * n_layers)`` and ``(n_items, d * n_layers)``."""
        users, items = self.modality_states()
        return self.features.weighted_mean(users), self.features.weighted_mean(items)

    def diagnostics(self) -> dict[str, Part]:
        """Attention of the first layer over a node's edges, times their number: 1 everywhere where it prefers none."""
        to_user, to_item = self.graph.to_user, self.graph.to_item
        degrees = self.graph.user_degree[to_user.row], self.graph.item_degree[to_item.row]
        parts = {}
        for m, feature in self.features.items():
            layer: _Layer = self.layers[0][m]  # type: ignore[index]
            states = unit_rows(self.preference[m]), unit_rows(torch.tanh(self.project[m](feature)))
            users, items = (linear(state, layer.attention.t(), backend=layer.own.backend) for state in states)
            weights = (
                layer.attend(to_user, self.user_gate_degree, users, items)[1],
                layer.attend(to_item, self.item_gate_degree, items, users)[1],
            )
            values = torch.cat([(w * degree)[degree > 1] for w, degree in zip(weights, degrees)])
            parts[f"attention over neighbours by {m}"] = Part("weights", values)
        return parts

    def calculate_loss(self, interaction: Any) -> Tensor | tuple[Tensor, ...]:
        """BPR and, if asked for, the modality contrast of a batch."""
        user, positive = interaction[self.USER_ID], interaction[self.ITEM_ID]
        user_states, item_states = self.modality_states(user, torch.cat([positive, interaction[self.NEG_ITEM_ID]]))
        users, items = self.features.weighted_mean(user_states), self.features.weighted_mean(item_states)
        chosen, rejected = items.chunk(2)
        ranking = bpr_loss((users * chosen).sum(dim=1), (users * rejected).sum(dim=1))
        if self.contrastive_weight == 0:
            return ranking
        return ranking, self.modality_contrast({m: x[: len(positive)] for m, x in item_states.items()}, positive)


class _Layer(nn.Module):
    """Gated attention of one modality, and its combination with the node's own state."""

    def __init__(self, width: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.Parameter(nn.init.xavier_normal_(torch.empty(width, width)))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-1 / math.sqrt(width), 1 / math.sqrt(width)))
        self.gate, self.own = Linear(width, dim), Linear(width, dim)
        nn.init.xavier_normal_(self.gate.weight)
        nn.init.xavier_normal_(self.own.weight)
        self.dropout = dropout

    def attend(
        self, pattern: SparsePattern, gate_degree: Tensor | None, targets: Tensor, sources: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attended neighbours, ``(n_rows, p)``, and the weights, ``(n_edges,)``."""
        scores = sddmm(pattern, targets, F.leaky_relu(sources))
        if gate_degree is not None:
            scores = scores * torch.sigmoid(scores * gate_degree.to(scores.dtype).rsqrt())
        weights = segment_softmax(scores, pattern.ptr, pattern.row)
        return spmm(pattern, F.dropout(weights, self.dropout, self.training), sources), weights

    def forward(
        self,
        pattern: SparsePattern,
        gate_degree: Tensor | None,
        targets: Tensor,
        sources: Tensor,
        states: Tensor,
        embedding: Tensor,
        rows: Tensor | None,
    ) -> Tensor:
        """New states of the targets in ``rows`` (all if ``None``), ``(n, d)``."""
        if rows is not None:
            pattern, edges = pattern.rows(rows)
            gate_degree = None if gate_degree is None else gate_degree[edges]
            targets, states, embedding = (F.embedding(rows, table) for table in (targets, states, embedding))
        received = unit_rows(self.attend(pattern, gate_degree, targets, sources)[0] + self.bias)
        return F.leaky_relu(self.gate(F.leaky_relu(received)) + F.leaky_relu(self.own(states)) + embedding)
