"""GRCN: the interaction graph is refined by content before ID embeddings travel over it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.model.sampled_graph import SamplesGraph
from recbole_mm.nn.diagnosis import Part
from recbole_mm.nn.graph.bipartite import columns, head, sddmm, segment_softmax, spmm
from recbole_mm.nn.graph.sampling import Hop, Neighbourhood
from recbole_mm.nn.graph.sparse import full_precision
from recbole_mm.nn.linear import Linear
from recbole_mm.nn.loss import bpr_loss, l2_penalty
from recbole_mm.nn.rows import unit_rows

__all__ = ["GRCN"]


class GRCN(SamplesGraph, MultimodalRecommender):
    r"""Users' prototypes are routed towards their items' content; edges that content does not support lose weight.

    Per modality :math:`m`, with :math:`f_i = \mathrm{norm}(\mathrm{LeakyReLU}(W x_i + b))` and :math:`p_u` starting at
    the normalised preference, ``n_routings`` times:

    .. math:: a_{ui} = \mathrm{softmax}_{i \in N(u)} \langle p_u, f_i \rangle, \qquad
              p_u \leftarrow \mathrm{norm}(p_u + \textstyle\sum_i a_{ui} f_i).

    Then, from the same inner products, :math:`\alpha_{u \leftarrow i}` (softmax over the user's items) and
    :math:`\alpha_{i \leftarrow u}` (over the item's users) give the content part and the weight of every message:

    .. math::
        c_u &= p_u + \textstyle\sum_i \alpha_{u \leftarrow i} f_i, \qquad
        c_i = f_i + \textstyle\sum_u \alpha_{i \leftarrow u} p_u, \\
        w_{t \leftarrow s} &= \sqrt{d_t / d_s}\, \max_m w_m K_{s,m}\, \alpha^m_{t \leftarrow s}, \qquad
        z = \textstyle\sum_{l=0}^{L} A_w^l\, E,

    with the confidence :math:`K` of the source node and degrees :math:`d`; ``hard`` pruning takes
    :math:`\mathrm{ReLU}(w)`. Scores are inner products of
    :math:`[z \,\|\, w_1 c^1 \,\|\, w_2 c^2 \dots]`; :math:`w_m` is ``modality_weight`` (1 in the paper).
    Loss: BPR + ``reg_weight`` * half the squared length of the batch's ID embeddings and of its users' preferences.

    Reference:
        Wei et al. "Graph-Refined Convolutional Network for Multimedia Recommendation with Implicit Feedback."
        ACM MM 2020.

    Options:
        embedding_size, content_size, n_layers, n_routings, weight_mode, confidence_start, message_norm, pruning,
        fusion, edge_dropout, normalize_tables, zero_id_for_cold, reg_weight.

    Note:
        In the released code the routing sends messages to items and then reads users, so it changes nothing; here it
        reaches the users. ``n_routings: 0`` is exactly what the released code computes. Hard pruning cuts a node whose
        confidences all start negative off for good (half of the nodes with one modality), so ``soft`` is the default,
        as in the authors' runs. ``pruning: none`` is ours: symmetric normalisation instead of learned weights. The
        regularisation of all users' first preference table, which a widespread port adds, is left out. The authors
        bring ID embeddings and preferences to length 1: a user with one item starts as a random unit vector that no
        penalty can hold back, and the model memorises. Here (``normalize_tables: False``) both keep their length: they
        start small, beside content of length 1, and grow as far as interactions pay for it against ``reg_weight``.
        With ``graph_batch: sampled`` every softmax runs over the sampled neighbours. Its weights are then larger by
        degree over number kept on average, and :math:`w` with them (max, mean and ReLU keep a positive factor), so sums
        need no other factor; as ratios of two sums they are biased by the order of 1 / ``fanout``, and exact where
        every neighbour is kept. Users route over items drawn for that alone, as many as in the first layer.
        Their confidences start as small numbers of either sign (``confidence_start: random``), so that for hundreds of
        steps nothing, or noise, travels over the graph, and ID vectors are learned as if there were none; on sparse
        data that is where GRCN memorised. ``one`` starts with the graph as it is. The root of the degrees
        (``message_norm: symmetric``) is ours as well: attention sums to 1 over the edges of a target; with the root,
        even attention and confidence 1 are exactly LightGCN's weights, which refinement then moves away from.
        The authors rank by the latest parameters; with ``weight_average: 0.33`` an average over the epochs ranks where
        it validates better.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        dim = self.options.integer("embedding_size", minimum=1)
        width = self.options.integer("content_size", minimum=1)
        self.n_layers = self.options.integer("n_layers", minimum=0)
        self.n_routings = self.options.integer("n_routings", minimum=0)
        self.weight_mode = self.options.choice("weight_mode", ("confidence", "max", "mean"))
        self.pruning = self.options.choice("pruning", ("soft", "hard", "none"))
        self.message_norm = self.options.choice("message_norm", ("symmetric", "attention"))
        confidence = self.options.choice("confidence_start", ("one", "random"))
        self.fusion = self.options.choice("fusion", ("concat", "id", "mean"))
        self.edge_dropout = self.options.number("edge_dropout", minimum=0, maximum=1)
        self.normalize_tables = self.options.boolean("normalize_tables")
        self.zero_id_for_cold = self.options.boolean("zero_id_for_cold")
        self.reg_weight = self.options.number("reg_weight", minimum=0)
        if self.fusion == "mean" and width != dim:
            raise ValueError(
                f"GRCN option 'fusion': mean needs equal widths, got embedding_size {dim} and content_size {width}; "
                "set them equal or choose concat."
            )
        if self.fusion == "id" and (self.pruning == "none" or self.n_layers == 0):
            other = "pruning: none" if self.pruning == "none" else "n_layers: 0"
            raise ValueError(f"GRCN with fusion: id and {other} would use no feature; change one of the two.")

        self.graph = self.interaction_graph()
        # Content attends once without layers, too.
        self.set_up_sampling(config, dataset, max(self.n_layers, 1), routes=True)
        # Of every pair, the root of the user's degree over the item's.
        ratio = self.graph.user_degree[self.graph.to_user.row] / self.graph.item_degree[self.graph.to_user.col]
        self.register_buffer("degree_ratio", ratio.double().sqrt(), persistent=False)
        n_nodes = self.n_users + self.n_items
        self.embedding = nn.Parameter(nn.init.xavier_normal_(torch.empty(n_nodes, dim)))
        if self.weight_mode == "confidence" and self.pruning != "none":
            table = torch.empty(n_nodes, len(self.features))
            start = nn.init.ones_ if confidence == "one" else nn.init.xavier_normal_
            self.confidence = nn.Parameter(start(table))
        self.project, self.preference = nn.ModuleDict(), nn.ParameterDict()
        for modality, feature_width in self.features.dims.items():
            self.project[modality] = Linear(feature_width, width)
            self.preference[modality] = nn.Parameter(nn.init.xavier_normal_(torch.empty(self.n_users, width)))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of all users and items, ``(n_users, d + M C)`` and ``(n_items, d + M C)`` with ``concat``."""
        part = self.neighbourhood()
        users, items = self._parts(part, self._tables(part))
        return self._fuse(users), self._fuse(items)

    def _tables(self, part: Neighbourhood) -> _Tables:
        preference = {m: part.of_users(self.preference[m]) for m in self.features}
        learns_confidence = self.weight_mode == "confidence" and self.pruning != "none"
        confidence = self._of_nodes(part, self.confidence) if learns_confidence else None
        return _Tables(*self._of_nodes(part, self.embedding), preference, confidence)

    def _of_nodes(self, part: Neighbourhood, table: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of users and of items of a table of both, looked up at once: each look-up has a gradient of all rows."""
        if part.users is None or part.items is None:
            return table.split([self.n_users, self.n_items])  # type: ignore[return-value]
        rows = F.embedding(torch.cat([part.users, part.items + self.n_users]), table, sparse=part.sparse)
        return rows.split([len(part.users), len(part.items)])  # type: ignore[return-value]

    def _parts(self, part: Neighbourhood, tables: _Tables) -> tuple[list[Tensor], list[Tensor]]:
        """ID part and content part of each modality, of the users and of the items that the last layer gives."""
        kept = None
        if self.training and self.edge_dropout > 0:
            kept = torch.rand(self.graph.n_edges, device=self.embedding.device) >= self.edge_dropout
        content = {m: self._content(m, table, part, kept) for m, table in tables.preference.items()}
        users, items = self._propagate_ids(part, tables, content, kept)
        return [users, *(c.users for c in content.values())], [items, *(c.items for c in content.values())]

    def _fuse(self, parts: list[Tensor]) -> Tensor:
        """Put the parts of some rows together; a training step does it for the rows of its batch only."""
        if self.fusion == "id":
            return parts[0]
        parts = [parts[0], *(self.features.weight[m] * part for m, part in zip(self.features, parts[1:]))]
        return torch.cat(parts, dim=1) if self.fusion == "concat" else torch.stack(parts).mean(dim=0)

    def item_content(self, modality: str, item: Tensor | None = None) -> Tensor:
        """``f``: normalised content of the given items (all if ``None``), ``(n, C)``."""
        return _normalised(self.features.projected(modality, self.project[modality], item))

    def _table(self, table: Tensor) -> Tensor:
        return unit_rows(table) if self.normalize_tables else full_precision(table)

    def _content(self, modality: str, preference: Tensor, part: Neighbourhood, kept: Tensor | None) -> _Content:
        """Content parts of users and items, and the attention of both directions of every hop."""
        items, users = _normalised(self.project_items(modality, part)), self._table(preference)
        routes, where = (self.graph.to_user, None) if part.routes is None else (part.routes.pattern, part.routes.edge)
        mask = kept if kept is None or where is None else kept[where]
        for _ in range(self.n_routings):
            routed = segment_softmax(_masked(sddmm(routes, users, items), mask), routes.ptr, routes.row)
            users = unit_rows(users + spmm(routes, routed, items))
        attention: dict[Hop, tuple[Tensor, Tensor]] = {}  # layers over the whole graph share it
        for hop in part.hops:
            if hop not in attention:
                attention[hop] = self._attention(hop, users, items, kept)
        last = part.hops[-1]
        at_users, at_items = attention[last]
        return _Content(
            head(users, last.n_users) + spmm(last.to_user, at_users, head(items, last.to_user.n_cols)),
            head(items, last.n_items) + spmm(last.to_item, at_items, head(users, last.to_item.n_cols)),
            attention,
        )

    @staticmethod
    def _attention(hop: Hop, users: Tensor, items: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """Softmax over the neighbours of users and of items, each in its own edge order."""
        masks = (None, None) if kept is None else hop.of_pairs(kept)
        logits = [_masked(scores, mask) for scores, mask in zip(hop.scores(users, items), masks)]
        return (
            segment_softmax(logits[0], hop.to_user.ptr, hop.to_user.row),
            segment_softmax(logits[1], hop.to_item.ptr, hop.to_item.row),
        )

    def _propagate_ids(
        self, part: Neighbourhood, tables: _Tables, content: dict[str, _Content], kept: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        users, items = self._table(tables.users), self._table(tables.items)
        n_users, n_items = part.hops[-1].n_users, part.hops[-1].n_items
        user_sum, item_sum = head(users, n_users), head(items, n_items)
        weights: dict[Hop, tuple[Tensor, Tensor]] = {}
        for hop in part.hops[: self.n_layers]:
            if hop not in weights:
                weights[hop] = self._edge_weights(hop, tables, content, kept)
            to_users, to_items = weights[hop]
            users, items = (
                spmm(hop.to_user, to_users, head(items, hop.to_user.n_cols)),
                spmm(hop.to_item, to_items, head(users, hop.to_item.n_cols)),
            )
            user_sum, item_sum = user_sum + head(users, n_users), item_sum + head(items, n_items)
        if self.zero_id_for_cold and not self.training:
            item_sum = item_sum * self.graph.item_degree.gt(0).unsqueeze(1)
        return user_sum, item_sum

    def _edge_weights(
        self, hop: Hop, tables: _Tables, content: dict[str, _Content], kept: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Weights of the messages to users and to items, each in its own edge order."""
        if self.pruning == "none":
            values = self.graph.norm_weights("user", "sym", self.embedding.dtype)[0]
            to_users, to_items = (w[0] for w in hop.weigh(values if kept is None else values * kept))
            return to_users, to_items
        both = [c.attention[hop] for c in content.values()]
        scale = [self.features.weight[modality] for modality in content]
        at_users = torch.stack([one[0] * s for one, s in zip(both, scale)], dim=1)
        at_items = torch.stack([one[1] * s for one, s in zip(both, scale)], dim=1)
        if tables.confidence is not None:
            # The confidence belongs to the node that sends: items towards users, users towards items.
            users, items = tables.confidence
            at_users = at_users * columns(hop.to_user, head(items, hop.to_user.n_cols))
            at_items = at_items * columns(hop.to_item, head(users, hop.to_item.n_cols))
        reduce = torch.mean if self.weight_mode == "mean" else torch.amax
        to_users, to_items = reduce(at_users, dim=1), reduce(at_items, dim=1)
        if self.message_norm == "symmetric":
            # Attention sums to 1 over a target's edges: where it is even, this makes it 1 / sqrt(d_u d_i).
            ratio = hop.of_pairs(self.degree_ratio)
            to_users, to_items = to_users * ratio[0].to(to_users.dtype), to_items / ratio[1].to(to_items.dtype)
        return (to_users.relu(), to_items.relu()) if self.pruning == "hard" else (to_users, to_items)

    def diagnostics(self) -> dict[str, Part]:
        """Attention over a node's edges, times their number: 1 everywhere where it prefers none."""
        to_user, to_item = self.graph.to_user, self.graph.to_item
        degrees = self.graph.user_degree[to_user.row], self.graph.item_degree[to_item.row]
        parts = {}
        for modality in self.features:
            content = self._content(modality, self.preference[modality], self.neighbourhood(), None)
            both = zip(content.attention[self.graph], degrees)
            values = torch.cat([(weights * degree)[degree > 1] for weights, degree in both])
            parts[f"the refinement of edges by {modality}"] = Part("weights", values)
        return parts

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """BPR, the regularisation and, if asked for, the modality contrast of a batch."""
        user, positive, negative = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        part = self.neighbourhood(user, torch.cat([positive, negative]))
        tables = self._tables(part)
        users, items = self._parts(part, tables)
        at, (near, far) = part.user, part.item.chunk(2)  # type: ignore[union-attr]
        anchors = self._fuse([F.embedding(at, rows) for rows in users])  # type: ignore[arg-type]
        chosen, rejected = (self._fuse([F.embedding(place, rows) for rows in items]) for place in (near, far))
        of_users = [tables.users, *tables.preference.values()]
        item_rows = F.embedding(part.item, tables.items)  # type: ignore[arg-type]
        penalty = l2_penalty(*(F.embedding(at, table) for table in of_users), item_rows)  # type: ignore[arg-type]
        losses: tuple[Tensor, ...] = (
            bpr_loss((anchors * chosen).sum(dim=1), (anchors * rejected).sum(dim=1)),
            self.reg_weight * penalty,
        )
        if self.contrastive_weight > 0:
            rows = {m: self.item_content(m, positive) for m in self.features}
            losses += (self.modality_contrast(rows, positive),)
        return losses


class _Tables(NamedTuple):
    """Rows of the trained tables that a step reads."""

    users: Tensor
    items: Tensor
    preference: dict[str, Tensor]
    confidence: tuple[Tensor, Tensor] | None


class _Content(NamedTuple):
    """Content parts of what the last layer gives, and the attention of both directions by hop."""

    users: Tensor
    items: Tensor
    attention: dict[Any, tuple[Tensor, Tensor]]


def _masked(logits: Tensor, kept: Tensor | None) -> Tensor:
    return logits if kept is None else logits.masked_fill(~kept, float("-inf"))


def _normalised(projected: Tensor) -> Tensor:
    return unit_rows(F.leaky_relu(projected))
