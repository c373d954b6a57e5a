"""LATTICE: item graphs learned from projected features, mixed with those of the raw features, without any dense one."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.model.epochs import EpochClock, epoch_steps
from recbole_mm.nn.graph.bipartite import SparsePattern, sddmm, segment_sum, spmm
from recbole_mm.nn.graph.item_graph import ItemGraph, content_graph, content_neighbours, merge_graphs
from recbole_mm.nn.graph.lightgcn import GRAPH_NORMS, lightgcn
from recbole_mm.nn.linear import Linear
from recbole_mm.nn.loss import bpr_loss, l2_penalty
from recbole_mm.nn.mixture import modality_shares
from recbole_mm.nn.rows import unit_rows

__all__ = ["LATTICE"]

WeightedEdges = tuple[SparsePattern, Tensor]


class LATTICE(MultimodalRecommender):
    r"""Item ids spread over a graph of similar content that is partly learned, added to LightGCN at unit length.

    With :math:`x^m_i = W_m f^m_i + b_m`, learned shares :math:`a = \mathrm{softmax}(r)` (per item over what it has,
    times ``modality_weight``), the constant graphs :math:`S_m` of the ``knn_k`` nearest items by cosine of
    :math:`f^m`, normalised by row sums, and the nearest items by :math:`x^m`:

    .. math::
        T_{ij} &= \textstyle\sum_m a_{im} \max(\cos(x^m_i, x^m_j), 0), \qquad
        \tilde T_{ij} = T_{ij} / \sqrt{r_i r_j}, \quad r_i = \textstyle\sum_j T_{ij}, \\
        A &= \lambda \textstyle\sum_m \mathrm{diag}(a_{\cdot m}) S_m + (1 - \lambda) \tilde T, \qquad h = A^K E_I, \\
        \hat y_{ui} &= \langle g_u, g_i + h_i / \|h_i\| \rangle, \qquad (g_u, g_i) = \mathrm{LightGCN}(E_U, E_I)

    Loss: BPR + ``reg_weight`` * half squares of the batch's representations; :math:`\lambda` is ``skip_weight``.

    Reference:
        Zhang et al. "Mining Latent Structures for Multimedia Recommendation." ACM MM 2021.

    Options:
        embedding_size, n_layers, n_item_layers, knn_k, skip_weight, edge_gradient, refresh_epochs, graph_norm,
        reg_weight.

    Note:
        Neighbours by :math:`x^m` are found anew at the start of every epoch and of every evaluation. With
        ``refresh_epochs``, ours, above 1 both keep the last ones for that many epochs, and checkpoints hold them. As in
        the released code only the first batch of an epoch sends gradients through the graph (``edge_gradient:
        first_step``); the others use that batch's values, so :math:`W_m` moves once an epoch. ``every_step``, which is
        ours, keeps the neighbours of the epoch and differentiates their weights in every step. A run that goes on from
        a checkpoint in the middle of an epoch finds neighbours anew, from the parameters of the checkpoint. The code
        mixes and then normalises, as here; the paper seems to normalise first. It keeps matrices of items x items; here
        only the edges exist, with the same values and gradients, and negative cosines, whose roots are not numbers, are
        0. ``graph_norm: self_loop`` is LightGCN as released, ``sym`` as published; ``n_layers: 0`` is the variant on
        matrix factorisation; the one on NGCF is left out. With old versions of torch the code went on moving
        :math:`W_m` by Adam's momentum between the first batches; here, as with newer ones, it stands still. Features
        are frozen, while the code trains copies of them.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        dim = self.options.integer("embedding_size", minimum=1)
        self.n_layers = self.options.integer("n_layers", minimum=0)
        self.n_item_layers = self.options.integer("n_item_layers", minimum=1)
        self.knn_k = self.options.integer("knn_k", minimum=1)
        self.skip_weight = self.options.number("skip_weight", minimum=0, maximum=1)
        self.every_step = self.options.choice("edge_gradient", ("first_step", "every_step")) == "every_step"
        self.learns_features_in_every_step = self.every_step and self.skip_weight < 1
        self.refresh_epochs = self.options.integer("refresh_epochs", minimum=1, before=1)
        self.graph_norm = self.options.choice("graph_norm", GRAPH_NORMS)
        self.reg_weight = self.options.number("reg_weight", minimum=0)

        self.graph = self.interaction_graph()
        observed_here, known = self.features.observed, self.known_items
        self.item_graphs = nn.ModuleDict(
            {
                m: ItemGraph(*content_graph(f, observed_here[m], self.knn_k, candidates=known))
                for m, f in self.features.items()
            }
        )
        self.register_buffer("observed", self.features.stacked_observed(), persistent=False)
        self.register_buffer("weight", self.features.stacked_weight(), persistent=False)
        self.neighbours: nn.ModuleList | None = None  # of the epoch, by projected features
        self.kept_graph: ItemGraph | None = None  # of the epoch's first step, without gradients
        self.clock = EpochClock(epoch_steps(config, dataset))
        if self.refresh_epochs > 1:  # neighbours that outlive an epoch are part of a checkpoint; -1 is none
            shape = len(self.features), self.n_items, min(self.knn_k, self.n_items)
            self.register_buffer("neighbour_ids", torch.full(shape, -1, dtype=torch.int32))
        self.register_load_state_dict_post_hook(LATTICE._forget_graph)

        self.user_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_users, dim)))
        self.item_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_items, dim)))
        self.project = nn.ModuleDict({m: Linear(width, dim) for m, width in self.features.dims.items()})
        self.modality_logits = nn.Parameter(torch.full((len(self.features),), 0.5))

    def _forget_graph(self, *_: Any) -> None:
        self.neighbours = self.kept_graph = None

    def _projected(self) -> list[Tensor]:
        return [self.project[modality](feature) for modality, feature in self.features.items()]

    def _nearest(self, projected: list[Tensor]) -> nn.ModuleList:
        """Nearest items by projected features; none where the learned graph has no weight."""
        if self.skip_weight == 1:
            return nn.ModuleList()
        pairs, known = zip(projected, self.observed.unbind(dim=1)), self.known_items
        return nn.ModuleList(content_neighbours(x.detach(), o, self.knn_k, candidates=known)[0] for x, o in pairs)

    def _neighbours(self, projected: list[Tensor], renew: bool) -> nn.ModuleList:
        """Nearest items found now, or with ``refresh_epochs`` those at hand unless they are to be renewed."""
        if self.refresh_epochs == 1 or self.skip_weight == 1:
            return self._nearest(projected)
        if not renew and bool(self.neighbour_ids.ge(0).any()):
            rows = [table.ge(0).nonzero()[:, 0] for table in self.neighbour_ids]
            tables = zip(rows, self.neighbour_ids)
            size = self.n_items, self.n_items
            return nn.ModuleList(SparsePattern.from_pairs(row, ids[ids >= 0].long(), *size) for row, ids in tables)
        found = self._nearest(projected)
        if self.training:
            self.neighbour_ids.fill_(-1)
            for ids, module in zip(self.neighbour_ids, found):
                pattern = cast(SparsePattern, module)
                place = torch.arange(pattern.n_edges, device=ids.device) - pattern.ptr[pattern.row]
                ids[pattern.row, place] = pattern.col.to(ids.dtype)
        return found

    def _item_graph(self, projected: list[Tensor], neighbours: nn.ModuleList) -> list[WeightedEdges]:
        """``A`` as a sum of graphs: the constant ones, then the learned ones."""
        dtype = self.modality_logits.dtype
        shares = modality_shares(self.modality_logits.softmax(dim=0) * self.weight.to(dtype), self.observed)
        parts = []
        if self.skip_weight > 0:
            for share, graph in zip(shares.unbind(dim=1), self.item_graphs.values()):
                graph = cast(ItemGraph, graph)
                values = share.index_select(0, graph.pattern.row) * graph.values.to(dtype)
                parts.append((graph.pattern, self.skip_weight * values))
        learned = []
        for share, table, module in zip(shares.unbind(dim=1), projected, neighbours):
            pattern, unit = cast(SparsePattern, module), unit_rows(table)
            learned.append((pattern, share.index_select(0, pattern.row) * sddmm(pattern, unit, unit).clamp(min=0)))
        if learned:
            total = sum(segment_sum(values, pattern.ptr) for pattern, values in learned)
            total = cast(Tensor, total)
            root = torch.where(total > 0, total, torch.ones_like(total)).rsqrt()
            for pattern, values in learned:
                norm = root.index_select(0, pattern.row) * root.index_select(0, pattern.col)
                parts.append((pattern, (1 - self.skip_weight) * values * norm))
        return parts

    def _spread(self, parts: list[WeightedEdges]) -> Tensor:
        """``h``, shape ``(n_items, d)``."""
        states: Tensor = self.item_embedding
        for _ in range(self.n_item_layers):
            states = cast(Tensor, sum(spmm(pattern, values, states) for pattern, values in parts))
        return states

    def _add_content(self, content: Tensor) -> tuple[Tensor, Tensor]:
        users, items = lightgcn([self.graph] * self.n_layers, self.user_embedding, self.item_embedding, self.graph_norm)
        return users, items + unit_rows(content)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of all users and items, with the graph of the present parameters."""
        projected = self._projected()
        return self._add_content(self._spread(self._item_graph(projected, self._neighbours(projected, False))))

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """Ranking, penalty and, if asked for, the modality contrast of a batch."""
        user, positive, negative = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        users, items = self._add_content(self._training_content(*self.clock.tick()))
        anchor, near, far = F.embedding(user, users), F.embedding(positive, items), F.embedding(negative, items)
        losses: tuple[Tensor, ...] = (
            bpr_loss((anchor * near).sum(dim=1), (anchor * far).sum(dim=1)),
            self.reg_weight * l2_penalty(anchor, near, far),
        )
        if self.contrastive_weight > 0:
            rows = {m: self.project[m](feature[positive]) for m, feature in self.features.items()}
            losses += (self.modality_contrast(rows, positive),)
        return losses

    def _training_content(self, epoch: int, first: bool) -> Tensor:
        """``h`` of a training step, the first of an epoch or another."""
        if not (first or self.every_step) and self.kept_graph is not None:
            return self.kept_graph.spread(self.item_embedding, self.n_item_layers)
        with torch.set_grad_enabled(torch.is_grad_enabled() and (first or self.every_step)):
            projected = self._projected()
            if first or self.neighbours is None:
                self.neighbours = self._neighbours(projected, first and epoch % self.refresh_epochs == 0)
            parts = self._item_graph(projected, self.neighbours)
        if not self.every_step:
            self.kept_graph = ItemGraph(*merge_graphs([(pattern, values.detach()) for pattern, values in parts]))
            self.neighbours = None
        return self._spread(parts)
