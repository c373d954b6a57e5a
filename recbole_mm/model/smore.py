"""SMORE: modality vectors filtered in the frequency domain, and a fused view made of the product of their spectra."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.model.content_views import ContentViews
from recbole_mm.nn.graph.item_graph import ItemGraph, content_graph, merge_graphs
from recbole_mm.nn.graph.lightgcn import lightgcn
from recbole_mm.nn.graph.sparse import full_precision
from recbole_mm.nn.linear import Linear

__all__ = ["SMORE"]

FUSED = "fused view"  # not a modality's name: these have no spaces


class SMORE(ContentViews, MultimodalRecommender):
    r"""Item ids gated by filtered content, spread over one item graph per modality and one for all.

    With :math:`x^m = f^m W_m + b_m`, :math:`F_m` its real Fourier transform along the columns (orthonormal) and learned
    complex filters :math:`C`:

    .. math::
        y^m &= \mathcal F^{-1}(F_m C_m), \qquad y^f = \mathcal F^{-1}(C_f \textstyle\prod_m F_m), \\
        z^v &= S_v^K (E_I \odot \sigma(A_v y^v)), \quad v \in \{m, f\}, \qquad z^v_U = \hat R z^v, \qquad
        c = \mathrm{LightGCN}(E_U, E_I), \\
        s &= \frac{\sum_m w_m \sigma(B_m c) \odot \mathrm{softmax}_d(q_m \tanh(Q_m z^f)) \odot z^m
            + \sigma(B_f c) \odot z^f}{1 + \sum_m w_m}, \qquad \hat y_{ui} = \langle c_u + s_u, c_i + s_i \rangle

    :math:`S_m` is the graph of the ``knn_k`` nearest items by cosine (itself included, normalised by row sums),
    :math:`S_f` has the union of their edges, each with its largest weight. Loss: BPR + ``reg_weight`` * half squares
    of the batch's representations + ``contrastive_weight`` * (InfoNCE of :math:`s` against :math:`c`, over the batch's
    positive items and over its users).

    Reference:
        Ong, Khong. "Spectrum-based Modality Representation Fusion Graph Convolutional Network for Multimodal
        Recommendation." WSDM 2025.

    Options:
        embedding_size, n_layers, n_item_layers, knn_k, dropout, distinct_ids, contrast_by_length, reg_weight.

    Note:
        The paper has two modalities; the product over any number is our extension, and from three on it shrinks with
        the width. Products and sums run over the modalities that an item, or any training item of a user, has. The
        released code counts repeated users and items of a batch as negatives of themselves (``distinct_ids: False``),
        divides the penalty by the configured batch size, keeps negative cosines between neighbours, of whose sums it
        takes roots (they are 0 here), and trains copies of the feature tables. Neither paper nor code has
        ``contrast_by_length``: on data where representations start short the published loss learned nothing but its
        contrast (ml-latest-small-mm: Recall@20 .024, popularity .111; with it, and the weight .03, .156).
    """

    has_contrastive_term = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        dim = self.options.integer("embedding_size", minimum=1)
        self.n_layers = self.options.integer("n_layers", minimum=0)
        self.n_item_layers = self.options.integer("n_item_layers", minimum=0)
        self.dropout = self.options.number("dropout", minimum=0, maximum=1)
        self._read_contrast()
        self.reg_weight = self.options.number("reg_weight", minimum=0)
        knn_k = self.options.per_modality("knn_k", self.features, "integer", minimum=1, unused=self.modality_names)

        self.graph = self.interaction_graph()
        names, observed = list(self.features), self.features.observed
        self.keep_observed()
        self.register_buffer("weight", self.features.stacked_weight(), persistent=False)
        graphs = {
            m: content_graph(f, observed[m], knn_k[m], candidates=self.known_items) for m, f in self.features.items()
        }
        fused = merge_graphs(list(graphs.values()), "amax")
        self.item_graphs = nn.ModuleDict(
            {v: ItemGraph(*g, self.known_items) for v, g in {**graphs, FUSED: fused}.items()}
        )

        views = [*names, FUSED]
        self.user_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_users, dim)))
        self.item_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_items, dim)))
        self.project = nn.ModuleDict({m: Linear(width, dim) for m, width in self.features.dims.items()})
        self.filter = nn.ParameterDict({v: nn.Parameter(torch.randn(dim // 2 + 1, 2)) for v in views})
        self.gate = nn.ModuleDict({v: nn.Linear(dim, dim) for v in views})
        self.preference_gate = nn.ModuleDict({v: nn.Linear(dim, dim) for v in views})
        self.query = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, dim, bias=False)) for m in names}
        )

    def _filtered(self) -> dict[str, Tensor]:
        """``y`` of every view, ``(n_items, d)``; transforms know no half precision."""
        projected = {m: full_precision(self.project[m](feature)) for m, feature in self.features.items()}
        with torch.autocast(self.item_embedding.device.type, enabled=False):
            spectra = {m: torch.fft.rfft(x, dim=1, norm="ortho") for m, x in projected.items()}
            product = None
            for modality, spectrum in spectra.items():
                # What an item lacks is left out of the product: a factor of 1.
                factor = torch.where(self.features.observed[modality].unsqueeze(1), spectrum, torch.ones_like(spectrum))
                product = factor if product is None else product * factor
            width = self.item_embedding.shape[1]
            return {
                v: torch.fft.irfft(spectrum * torch.view_as_complex(self.filter[v]), n=width, dim=1, norm="ortho")
                for v, spectrum in {**spectra, FUSED: product}.items()
            }

    def _views(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Behaviour view and all content views side by side of all users, and the same of all items."""
        states = []
        for view, filtered in self._filtered().items():
            observed = self.item_observed.any(dim=1) if view == FUSED else self.features.observed[view]
            gated = self.item_embedding * self.gate[view](filtered).sigmoid() * observed.unsqueeze(1)
            states.append(self.item_graphs[view].spread(gated, self.n_item_layers))  # type: ignore[operator]
        items = torch.cat(states, dim=1)
        behaviour = lightgcn([self.graph] * self.n_layers, self.user_embedding, self.item_embedding)
        return (behaviour[0], self.graph.gather_users(items)), (behaviour[1], items)

    def _side(self, behaviour: Tensor, views: Tensor, observed: Tensor) -> Tensor:
        """``s`` of the given rows, ``(n, d)``."""
        *own, fused = views.chunk(len(self.features) + 1, dim=1)
        total = self._preference(FUSED, behaviour) * fused
        present = self.weight.to(views.dtype) * observed
        for index, modality in enumerate(self.features):
            share = self.query[modality](fused).softmax(dim=1) * self._preference(modality, behaviour)
            total = total + present[:, index : index + 1] * share * own[index]
        return total / (1 + present.sum(dim=1, keepdim=True))

    def _preference(self, view: str, behaviour: Tensor) -> Tensor:
        return F.dropout(self.preference_gate[view](behaviour).sigmoid(), self.dropout, self.training)
