"""MGCN: item ids gated by content, spread over item graphs, fused by what users and items did."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.model.content_views import ContentViews
from recbole_mm.nn.attention.softmax import masked_softmax
from recbole_mm.nn.graph.item_graph import ItemGraph, content_graph
from recbole_mm.nn.graph.lightgcn import lightgcn
from recbole_mm.nn.linear import Linear

__all__ = ["MGCN"]


class MGCN(ContentViews, MultimodalRecommender):
    r"""What modalities share and what each adds, weighed by behaviour, beside LightGCN and contrasted with it.

    Per modality :math:`m`, with :math:`x^m_i = W_m f^m_i + b_m`, the constant graph :math:`S_m` of the ``knn_k``
    nearest items by cosine (itself included, normalised by row sums) and :math:`\hat R` the user rows of
    :math:`D^{-1/2} A D^{-1/2}`:

    .. math::
        z^m_I = S_m^K (E_I \odot \sigma(A_m x^m)), \qquad z^m_U = \hat R z^m_I, \qquad
        c = \mathrm{LightGCN}(E_U, E_I), \\
        a_m = \mathrm{softmax}_m(\langle q, \tanh(Q z^m) \rangle + \ln w_m), \qquad
        s = \textstyle\sum_m a_m z^m, \qquad p^m = \sigma(B_m c) \odot (z^m - s), \\
        v = \frac{s + \sum_m w_m p^m}{1 + \sum_m w_m} \ (\text{mean}), \qquad
        v = s + \frac{\sum_m w_m p^m}{\sum_m w_m} \ (\text{sum}), \qquad
        \hat y_{ui} = \langle c_u + v_u, c_i + v_i \rangle

    Loss: BPR + ``reg_weight`` * half squares of the batch's representations + ``contrastive_weight`` * (InfoNCE of
    :math:`v` against :math:`c`, over the batch's positive items and over its users). :math:`w_m` is
    ``modality_weight``.

    Reference:
        Yu et al. "Multi-View Graph Convolutional Network for Multimedia Recommendation." ACM MM 2023.

    Options:
        embedding_size, n_layers, n_item_layers, knn_k, fusion, distinct_ids, contrast_by_length, reg_weight.

    Note:
        ``mean`` is what the released code computes, ``sum`` the paper's equation as its authors explain it. The code
        counts repeated users and items of a batch as negatives of themselves; here they count once, unless
        ``distinct_ids`` is off (``MGCN-reference.yaml``). It divides the penalty by the configured batch size, here by
        the batch's own, and trains copies of the feature tables, which are frozen here. Negative cosines between
        neighbours, which can make roots of negative sums there, are 0. Sums and softmax run over the modalities that an
        item, or any training item of a user, has; a node with none has :math:`v = 0`. Neither paper nor code has
        ``contrast_by_length``: while representations are short, the contrast alone would set the direction.
    """

    has_contrastive_term = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        dim = self.options.integer("embedding_size", minimum=1)
        self.n_layers = self.options.integer("n_layers", minimum=0)
        self.n_item_layers = self.options.integer("n_item_layers", minimum=0)
        knn_k = self.options.integer("knn_k", minimum=1)
        self.fusion = self.options.choice("fusion", ("mean", "sum"))
        self._read_contrast()
        self.reg_weight = self.options.number("reg_weight", minimum=0)

        self.graph = self.interaction_graph()
        self.keep_observed()
        observed, known = self.features.observed, self.known_items
        self.item_graphs = nn.ModuleDict(
            {m: ItemGraph(*content_graph(f, observed[m], knn_k, candidates=known)) for m, f in self.features.items()}
        )
        self.register_buffer("weight", self.features.stacked_weight(), persistent=False)

        self.user_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_users, dim)))
        self.item_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_items, dim)))
        self.project = nn.ModuleDict({m: Linear(width, dim) for m, width in self.features.dims.items()})
        self.gate = nn.ModuleDict({m: nn.Linear(dim, dim) for m in self.features})
        self.preference_gate = nn.ModuleDict({m: nn.Linear(dim, dim) for m in self.features})
        self.query = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False))

    def _views(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Behaviour view and the modalities' views side by side of all users, and the same of all items."""
        views = []
        for modality, feature in self.features.items():
            gated = self.item_embedding * self.gate[modality](self.project[modality](feature)).sigmoid()
            gated = gated * self.features.observed[modality].unsqueeze(1)
            views.append(self.item_graphs[modality].spread(gated, self.n_item_layers))  # type: ignore[operator]
        items = torch.cat(views, dim=1)
        behaviour = lightgcn([self.graph] * self.n_layers, self.user_embedding, self.item_embedding)
        return (behaviour[0], self.graph.gather_users(items)), (behaviour[1], items)

    def _side(self, behaviour: Tensor, views: Tensor, observed: Tensor) -> Tensor:
        """``v`` of the given rows, ``(n, d)``."""
        views = views.view(len(views), len(self.features), -1)
        weight = self.weight.to(views.dtype)
        attention = masked_softmax(self.query(views).squeeze(2) + weight.log(), observed)
        common = (attention.unsqueeze(2) * views).sum(dim=1)
        gates = torch.stack([self.preference_gate[m](behaviour) for m in self.features], dim=1).sigmoid()
        present = weight * observed
        own = (present.unsqueeze(2) * gates * (views - common.unsqueeze(1))).sum(dim=1)
        total = present.sum(dim=1, keepdim=True)
        if self.fusion == "mean":
            return (common + own) / (1 + total)
        return common + own / torch.where(total > 0, total, torch.ones_like(total))
