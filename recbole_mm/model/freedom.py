"""FREEDOM: a frozen item graph of content, and user-item graphs without most edges of popular nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.model.epochs import EpochClock, PrunesEdges, epoch_steps
from recbole_mm.nn.graph.item_graph import ItemGraph
from recbole_mm.nn.graph.lightgcn import lightgcn
from recbole_mm.nn.linear import Linear
from recbole_mm.nn.loss import bpr_loss
from recbole_mm.nn.mixture import mixed_graph
from recbole_mm.nn.rows import batch_rows

__all__ = ["FREEDOM"]


class FREEDOM(PrunesEdges, MultimodalRecommender):
    r"""Item ids spread over a constant graph of similar content, beside LightGCN on a graph pruned in every epoch.

    :math:`S_m` joins each item with its ``knn_k`` nearest by cosine of modality :math:`m`, itself included, unweighted
    and normalised by row sums; :math:`S = \sum_m \mathrm{diag}(c_{\cdot m}) S_m` with shares :math:`c_{im}` over what
    the item has.

    .. math::
        h = S^K E_I, \qquad (g_u, g_i) = \mathrm{LightGCN}(E_U, E_I), \qquad
        \hat y_{ui} = \langle g_u, g_i + h_i \rangle, \\
        L = L_{BPR}(g_u, g_i + h_i) + \lambda \textstyle\sum_m w_m L_{BPR}(g_u, x^m_i), \quad x^m_i = W_m f^m_i + b_m

    In training LightGCN runs on :math:`\lfloor (1 - \rho) E \rfloor` edges (:math:`\rho` is ``edge_dropout``), drawn
    anew in every epoch without replacement and with weights :math:`(d_u d_i)^{-1/2}`; evaluation uses all edges.
    :math:`\lambda` is ``feature_weight``, :math:`w_m` ``modality_weight``. A triple counts in the term of a modality
    when both of its items have it.

    Reference:
        Zhou and Shen. "A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal Recommendation."
        ACM MM 2023.

    Options:
        embedding_size, n_layers, n_item_layers, knn_k, image_share, edge_dropout, feature_weight.

    Note:
        The paper mixes image and text with .1 and .9; with other modalities the image keeps ``image_share`` and the
        others divide the rest equally, which is ours. The released code trains copies of the feature tables, which
        changed nothing where it was measured; here they are frozen. In it one item without a feature makes all items
        its neighbours; here such items have no edge and their shares go to the modalities that they have. An item is
        its own neighbour, as released, so that its own id is part of :math:`h_i`; the 1e-7 that the code adds to
        degrees is left out. The seed and the number of the epoch decide which edges are kept: a run that goes on from a
        checkpoint draws the same.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        dim = self.options.integer("embedding_size", minimum=1)
        self.n_layers = self.options.integer("n_layers", minimum=0)
        self.n_item_layers = self.options.integer("n_item_layers", minimum=0)
        knn_k = self.options.integer("knn_k", minimum=1)
        image_share = self.options.optional_number("image_share", minimum=0, maximum=1)
        self.set_up_pruning(config, self.options.number("edge_dropout", minimum=0, maximum=1))
        self.feature_weight = self.options.number("feature_weight", minimum=0)
        self.learns_features_in_every_step = self.feature_weight > 0

        self.graph = self.interaction_graph()
        bank = self.features
        graph = mixed_graph(bank.items(), bank.observed, bank.weight, knn_k, image_share, self.known_items)
        self.item_graph = ItemGraph(*graph)
        self.clock = EpochClock(epoch_steps(config, dataset))
        self.user_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_users, dim)))
        self.item_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_items, dim)))
        self.project = nn.ModuleDict({m: Linear(width, dim) for m, width in self.features.dims.items()})

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of all users and items, ``(n_users, d)`` and ``(n_items, d)``."""
        users, items = lightgcn([self.present_graph()] * self.n_layers, self.user_embedding, self.item_embedding)
        return users, items + self.item_graph.spread(self.item_embedding, self.n_item_layers)

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """Ranking, ranking by projected features and, if asked for, the modality contrast of a batch."""
        self.prune(self.clock.tick()[0])
        user, positive, negative = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        users, items = self.forward()
        anchor = F.embedding(user, users)

        def ranking(chosen: Tensor, rejected: Tensor, valid: Tensor | None = None) -> Tensor:
            return bpr_loss((anchor * chosen).sum(dim=1), (anchor * rejected).sum(dim=1), valid)

        losses: tuple[Tensor, ...] = (ranking(F.embedding(positive, items), F.embedding(negative, items)),)
        if self.feature_weight == 0 and self.contrastive_weight == 0:
            return losses
        rows, place = batch_rows(torch.cat([positive, negative]), self.n_items)
        projected = {m: self.project[m](f if rows is None else f[rows]) for m, f in self.features.items()}
        chosen, rejected = place.chunk(2)  # type: ignore[union-attr]
        if self.feature_weight > 0:
            total = anchor.new_zeros(())
            for modality, table in projected.items():
                observed = self.features.observed[modality]
                both = observed[positive] & observed[negative]
                term = ranking(F.embedding(chosen, table), F.embedding(rejected, table), both)
                total = total + self.features.weight[modality] * term
            losses += (self.feature_weight * total,)
        if self.contrastive_weight > 0:
            views = {modality: F.embedding(chosen, table) for modality, table in projected.items()}
            losses += (self.modality_contrast(views, positive),)
        return losses
