"""GRCN: the interaction graph is refined by content before ID embeddings travel over it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.nn.diagnosis import Part
from recbole_mm.nn.graph.bipartite import columns, sddmm, segment_softmax, spmm
from recbole_mm.nn.graph.sparse import full_precision
from recbole_mm.nn.linear import Linear
from recbole_mm.nn.loss import bpr_loss, l2_penalty
from recbole_mm.nn.rows import unit_rows

__all__ = ["GRCN"]


class GRCN(MultimodalRecommender):
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
        w_{t \leftarrow s} &= \max_m w_m K_{s,m}\, \alpha^m_{t \leftarrow s}, \qquad
        z = \textstyle\sum_{l=0}^{L} A_w^l\, \mathrm{norm}(E),

    with the confidence :math:`K` of the source node; ``hard`` pruning takes :math:`\mathrm{ReLU}(w)`. Scores are inner
    products of :math:`[z \,\|\, w_1 c^1 \,\|\, w_2 c^2 \dots]`; :math:`w_m` is ``modality_weight`` (1 in the paper).
    Loss: BPR + ``reg_weight`` * half the squared length of the batch's ID embeddings and of its users' preferences.

    Reference:
        Wei et al. "Graph-Refined Convolutional Network for Multimedia Recommendation with Implicit Feedback."
        ACM MM 2020.

    Options:
        embedding_size, content_size, n_layers, n_routings, weight_mode, pruning, fusion, edge_dropout,
        normalize_tables, zero_id_for_cold, reg_weight.

    Note:
        In the released code the routing sends messages to items and then reads users, so it changes nothing; here it
        reaches the users. ``n_routings: 0`` is exactly what the released code computes. Hard pruning cuts a node whose
        confidences all start negative off for good (half of the nodes with one modality), so ``soft`` is the default,
        as in the authors' runs. ``pruning: none`` is ours: symmetric normalisation instead of learned weights. The
        regularisation of all users' first preference table, which a widespread port adds, is left out. The authors
        bring ID embeddings and preferences to length 1: a user with one item starts as a random unit vector that no
        penalty can hold back, and the model memorises. Here (``normalize_tables: False``) both keep their length: they
        start small, beside content of length 1, and grow as far as interactions pay for it against ``reg_weight``.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        dim = self.options.integer("embedding_size", minimum=1)
        width = self.options.integer("content_size", minimum=1)
        self.n_layers = self.options.integer("n_layers", minimum=0)
        self.n_routings = self.options.integer("n_routings", minimum=0)
        self.weight_mode = self.options.choice("weight_mode", ("confidence", "max", "mean"))
        self.pruning = self.options.choice("pruning", ("soft", "hard", "none"))
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
        n_nodes = self.n_users + self.n_items
        self.embedding = nn.Parameter(nn.init.xavier_normal_(torch.empty(n_nodes, dim)))
        if self.weight_mode == "confidence" and self.pruning != "none":
            self.confidence = nn.Parameter(nn.init.xavier_normal_(torch.empty(n_nodes, len(self.features))))
        self.project, self.preference = nn.ModuleDict(), nn.ParameterDict()
        for modality, feature_width in self.features.dims.items():
            self.project[modality] = Linear(feature_width, width)
            self.preference[modality] = nn.Parameter(nn.init.xavier_normal_(torch.empty(self.n_users, width)))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of all users and items, ``(n_users, d + M C)`` and ``(n_items, d + M C)`` with ``concat``."""
        users, items = self._parts()
        return self._fuse(users), self._fuse(items)

    def _parts(self) -> tuple[list[Tensor], list[Tensor]]:
        """ID part and content part of each modality, of all users and of all items."""
        kept = None
        if self.training and self.edge_dropout > 0:
            kept = torch.rand(self.graph.n_edges, device=self.embedding.device) >= self.edge_dropout
        content = {m: self._content(m, kept) for m in self.features}
        users, items = self._propagate_ids(content, kept)
        return [users, *(part[0] for part in content.values())], [items, *(part[1] for part in content.values())]

    def _fuse(self, parts: list[Tensor]) -> Tensor:
        """Put the parts of some rows together; a training step does it for the rows of its batch only."""
        if self.fusion == "id":
            return parts[0]
        parts = [parts[0], *(self.features.weight[m] * part for m, part in zip(self.features, parts[1:]))]
        return torch.cat(parts, dim=1) if self.fusion == "concat" else torch.stack(parts).mean(dim=0)

    def item_content(self, modality: str) -> Tensor:
        """``f``: normalised content of every item, ``(n_items, C)``."""
        return unit_rows(F.leaky_relu(self.project[modality](self.features[modality])))

    def _table(self, table: Tensor) -> Tensor:
        return unit_rows(table) if self.normalize_tables else full_precision(table)

    def _content(self, modality: str, kept: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Content parts of users and items, and the attention of both directions, each in its own edge order."""
        to_user, to_item = self.graph.to_user, self.graph.to_item
        items, users = self.item_content(modality), self._table(self.preference[modality])
        for _ in range(self.n_routings):
            routed = segment_softmax(self._logits(users, items, kept), to_user.ptr, to_user.row)
            users = unit_rows(users + spmm(to_user, routed, items))
        logits = self._logits(users, items, kept)
        at_users = segment_softmax(logits, to_user.ptr, to_user.row)
        reordered = logits.index_select(0, to_user.transpose_order)
        at_items = segment_softmax(reordered, to_item.ptr, to_item.row)
        return users + spmm(to_user, at_users, items), items + spmm(to_item, at_items, users), at_users, at_items

    def _logits(self, users: Tensor, items: Tensor, kept: Tensor | None) -> Tensor:
        logits = sddmm(self.graph.to_user, users, items)
        return logits if kept is None else logits.masked_fill(~kept, float("-inf"))

    def _propagate_ids(self, content: dict, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        users, items = self._table(self.embedding).split([self.n_users, self.n_items])
        to_users, to_items = self._edge_weights(content, kept)
        user_sum, item_sum = users, items
        for _ in range(self.n_layers):
            users, items = spmm(self.graph.to_user, to_users, items), spmm(self.graph.to_item, to_items, users)
            user_sum, item_sum = user_sum + users, item_sum + items
        if self.zero_id_for_cold and not self.training:
            item_sum = item_sum * self.graph.item_degree.gt(0).unsqueeze(1)
        return user_sum, item_sum

    def _edge_weights(self, content: dict, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weights of the messages to users and to items, each in its own edge order."""
        to_user, to_item = self.graph.to_user, self.graph.to_item
        if self.pruning == "none":
            weights = self.graph.sym_norm(self.embedding.dtype)
            weights = weights if kept is None else weights * kept
            return weights, weights.index_select(0, to_user.transpose_order)
        scale = [self.features.weight[modality] for modality in content]
        at_users = torch.stack([part[2] * s for part, s in zip(content.values(), scale)], dim=1)
        at_items = torch.stack([part[3] * s for part, s in zip(content.values(), scale)], dim=1)
        if self.weight_mode == "confidence":
            # The confidence belongs to the node that sends: items towards users, users towards items.
            users, items = self.confidence.split([self.n_users, self.n_items])
            at_users = at_users * columns(to_user, items)
            at_items = at_items * columns(to_item, users)
        reduce = torch.mean if self.weight_mode == "mean" else torch.amax
        to_users, to_items = reduce(at_users, dim=1), reduce(at_items, dim=1)
        return (to_users.relu(), to_items.relu()) if self.pruning == "hard" else (to_users, to_items)

    def diagnostics(self) -> dict[str, Part]:
        """Attention over a node's edges, times their number: 1 everywhere where it prefers none."""
        to_user, to_item = self.graph.to_user, self.graph.to_item
        degrees = self.graph.user_degree[to_user.row], self.graph.item_degree[to_item.row]
        parts = {}
        for modality in self.features:
            both = zip(self._content(modality, None)[2:], degrees)
            values = torch.cat([(weights * degree)[degree > 1] for weights, degree in both])
            parts[f"the refinement of edges by {modality}"] = Part("weights", values)
        return parts

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """BPR, the regularisation and, if asked for, the modality contrast of a batch."""
        user, positive, negative = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        users, items = self._parts()
        anchors = self._fuse([F.embedding(user, part) for part in users])
        chosen = self._fuse([F.embedding(positive, part) for part in items])
        rejected = self._fuse([F.embedding(negative, part) for part in items])
        tables = [self.embedding, *(self.preference[m] for m in self.features)]
        item_rows = F.embedding(torch.cat([positive, negative]) + self.n_users, self.embedding)
        penalty = l2_penalty(*(F.embedding(user, table) for table in tables), item_rows)
        losses: tuple[Tensor, ...] = (
            bpr_loss((anchors * chosen).sum(dim=1), (anchors * rejected).sum(dim=1)),
            self.reg_weight * penalty,
        )
        if self.contrastive_weight > 0:
            rows = {m: F.embedding(positive, self.item_content(m)) for m in self.features}
            losses += (self.modality_contrast(rows, positive),)
        return losses
