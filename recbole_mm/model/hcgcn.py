"""HCGCN: graph convolutions inside clusters of items and inside co-clusters of users and items."""

from __future__ import annotations

import math
from logging import getLogger
from typing import Any, cast

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.model.epochs import epoch_steps
from recbole_mm.nn.attention.softmax import masked_softmax
from recbole_mm.nn.diagnosis import Part
from recbole_mm.nn.graph import clustering
from recbole_mm.nn.graph.bipartite import edges_of_rows, spmm
from recbole_mm.nn.graph.item_graph import ItemGraph, content_neighbours, symmetric_graph
from recbole_mm.nn.linear import Linear
from recbole_mm.nn.loss import bpr_loss, l2_penalty
from recbole_mm.nn.rows import unit_rows

__all__ = ["HCGCN"]


class HCGCN(MultimodalRecommender):
    r"""Items talk within clusters of similar content, users and items within co-clusters that also talk to each other.

    The paper's parts are an item GCN over a clustered item graph, a hierarchical user-item GCN (local in co-clusters,
    global between them), a co-clustering ranking loss, an item clustering loss and a contrastive loss of modalities.
    **All equations below are our realisation of these parts**; the paper's own were not available to us.

    *Items.* :math:`h^m_i = W_m f_i + b_m`, fused with weights :math:`a = \mathrm{softmax}(\ell_m + \ln w_m)` over the
    modalities that the item has (:math:`w_m` is ``modality_weight``). The item graph :math:`S = \sum_m a_m S^m`, with
    :math:`a` over all modalities, joins each item with its ``knn_k`` nearest neighbours by cosine and with the items
    that it is a neighbour of, symmetrically normalised. With soft clusters :math:`q_{ic} \propto
    (1 + \|\hat h_i - \hat\mu_c\|^2 / s)^{-1}` of unit rows, :math:`s` the items' mean squared distance to their nearest
    centroid: :math:`H^0 = h`,
    :math:`H^1 = S h`, :math:`H^l = \sum_m a_m (S^m \circ q q^\top) H^{l-1}`, every :math:`S^m` keeping its row sums,
    and :math:`H` is the mean over :math:`l = 0 \dots L_I`.

    *Users and items.* :math:`P = \mathrm{softmax}((W_2\, \phi(W_1 (\hat A E + E) + b_1) + b_2) / \theta)` assigns every
    node to co-clusters. With :math:`E_c^1 = \hat A E`:

    .. math::
        E_c^l = \mathrm{diag}(P_{\cdot c})\, \hat A\, \mathrm{diag}(P_{\cdot c})\, E_c^{l-1}, \qquad
        E^l_n = \frac{m^l_n}{\sum_c m^l_{c,n}} \textstyle\sum_c E_{c,n}^l + \gamma\, G^l_n \quad (l \ge 2),

    where :math:`m` is the same propagation of ones, within clusters and without them, so that shares decide from where
    a node receives and not how much (:func:`~recbole_mm.nn.graph.clustering.keep_totals`), and :math:`G` carries
    messages between the clusters' centres over :math:`\mathrm{rownorm}(P^\top \hat A P)`.
    Users are the mean of :math:`E^l` over :math:`l = 0 \dots L`, items the same plus :math:`\beta\,
    \mathrm{norm}(H)`, where :math:`\beta` is ``content_weight``.

    .. math::
        L = L_{BPR} + \lambda_1 \big[-\ln \sigma(\kappa\, P_u \cdot (P_{i^+} - P_{i^-}))\big]
            + \lambda_b\, KL(\bar P \| 1/C) + \lambda_2\, KL(T \| q) + \lambda_3 L_{InfoNCE} + \text{reg},

    with the mean shares :math:`\bar P` of users and of items, the sharpened target :math:`T`, fixed between refreshes,
    and InfoNCE between the modalities of the batch's distinct items (:math:`\lambda_3` is ``contrastive_weight``).

    Reference:
        Mu et al. "Learning Hybrid Behavior Patterns for Multimedia Recommendation." ACM MM 2022.

    Options:
        embedding_size, n_layers, n_item_layers, n_clusters, n_item_clusters, knn_k, assignment, assignment_temperature,
        global_weight, content_weight, initialisation, margin_scale, co_cluster_weight, balance_weight,
        item_cluster_weight, refresh_steps, reg_weight.

    Note:
        Items are clustered by their fused content :math:`h`, because clusters must exist before the convolution that
        they confine; the centroids start from k-means on the untrained :math:`h`. Three things keep the clusters at
        work, without which training ends with one co-cluster that holds everything and item clusters that are all
        alike: nodes keep their totals (shares below 1 would let less through, so that the ranking loss merges all
        clusters), the balance term, and the scale :math:`s` (distances are far below 1 otherwise). Each refresh logs
        the entropies. Scale and target are refreshed every
        ``refresh_steps`` training steps (an epoch by default), counted by the model itself and saved with it.
        Co-clusters do not pay where it was measured (``benchmarks/portfolio.sh``, with ``--n_clusters=1
        --n_item_clusters=1`` beside the defaults): Recall@20 on planted content is .568 with and .565 without them
        (LightGCN .440; three seeds), on sparse listening data .191 and .198 (LightGCN .183; one seed), both before
        ``content_weight``.
        With :math:`\beta = 1`, as published, the propagated part becomes longer than content, since items hear from
        their users what content says, even where items' ids learn a tenth as fast; a trained :math:`\beta` grows to 9
        where content is noise. Torch's linear maps have biases two thirds as long as what they make of content, so
        that untrained items have half their direction in common; ``initialisation: orthogonal``, ours, has none. A
        contrast of .01 makes modalities say the same, and one stands in for the other. With :math:`\beta = 3`, that
        start and .0005, permuting text costs .071 of Recall@10 on planted content (.006 before), image .179 (.054);
        test Recall@20 is .205 on sparse listening data (.189), .080 on a sparse sample of microlens (.066), .744 where
        content is noise (.770; three seeds), .125 on 100 users of MovieLens (.180; one seed).
        What an item lacks is masked, so that filling it (``missing_feature``: ``mean``, ``knn``) changes nothing here.
    """

    has_contrastive_term = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        dim = self.options.integer("embedding_size", minimum=1)
        self.n_layers = self.options.integer("n_layers", minimum=1)
        self.n_item_layers = self.options.integer("n_item_layers", minimum=0)
        n_clusters = self.options.integer("n_clusters", minimum=1)
        n_item_clusters = self.options.integer("n_item_clusters", minimum=1)
        knn_k = self.options.integer("knn_k", minimum=1)
        self.hard = self.options.choice("assignment", ("soft", "hard")) == "hard"
        self.temperature = self.options.number("assignment_temperature", minimum=1e-6)
        self.global_weight = self.options.number("global_weight", minimum=0)
        self.content_weight = self.options.number("content_weight", minimum=0, before=1.0)
        start = self.options.choice("initialisation", ("orthogonal", "random"), before="random")
        self.margin_scale = self.options.number("margin_scale", minimum=0)
        self.co_cluster_weight = self.options.number("co_cluster_weight", minimum=0)
        self.item_cluster_weight = self.options.number("item_cluster_weight", minimum=0)
        self.balance_weight = self.options.number("balance_weight", minimum=0)
        self.reg_weight = self.options.number("reg_weight", minimum=0)
        self.refresh_steps = self.options.optional_integer("refresh_steps", minimum=1) or epoch_steps(config, dataset)

        self.graph = self.interaction_graph()
        real = [torch.arange(n) > 0 for n in (self.n_users, self.n_items)]  # everything but the padding
        self.register_buffer("real_user", real[0], persistent=False)
        self.register_buffer("real_item", real[1], persistent=False)
        self.register_buffer("observed", self.features.stacked_observed(), persistent=False)
        self.item_graphs, self.attached_graphs = nn.ModuleList(), nn.ModuleList()
        for modality, feature in self.features.items():
            observed_here, known = self.features.observed[modality], self.known_items
            graph = content_neighbours(feature, observed_here, knn_k, include_self=False, candidates=known)
            if known is not None:
                self.attached_graphs.append(ItemGraph(*symmetric_graph(*graph, known)))
                graph = edges_of_rows(*graph, known)
            self.item_graphs.append(ItemGraph(*symmetric_graph(*graph)))
        prior = torch.tensor([math.log(self.features.weight[m]) for m in self.features], dtype=torch.float64)
        self.register_buffer("prior", prior, persistent=False)

        nodes = nn.init.xavier_uniform_(torch.empty(self.n_users + self.n_items, dim))
        self.user_embedding = nn.Parameter(nodes[: self.n_users].clone())
        self.item_embedding = nn.Parameter(nodes[self.n_users :].clone())
        self.project = nn.ModuleDict({m: Linear(width, dim) for m, width in self.features.dims.items()})
        if start == "orthogonal":
            for layer in self.project.values():
                nn.init.orthogonal_(layer.weight)  # type: ignore[arg-type]
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.modality_logits = nn.Parameter(torch.zeros(len(self.features)))
        self.assign = nn.Sequential(nn.Linear(dim, dim), nn.LeakyReLU(), nn.Linear(dim, n_clusters))
        self.centroids = nn.Parameter(self._initial_centroids(n_item_clusters))
        self.register_buffer("target", torch.zeros(self.n_items, len(self.centroids)))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self._steps = 0  # the same number on the host, so that no step waits for the device
        self.register_load_state_dict_post_hook(HCGCN._read_steps)

    @torch.no_grad()
    def _initial_centroids(self, n_item_clusters: int) -> Tensor:
        content = self._fused_content(self._projected())[self._clustered_items()]
        n_item_clusters = min(n_item_clusters, len(content))
        seed = int(torch.randint(2**31 - 1, ()))
        points = unit_rows(content).double().numpy()
        centres = KMeans(n_item_clusters, n_init=1, random_state=seed).fit(points).cluster_centers_
        return torch.from_numpy(centres).to(content.dtype)

    def _spread(self, content: Tensor) -> Tensor:
        """Mean squared distance of items to their nearest centroid, all of length 1."""
        nearest = torch.cdist(unit_rows(content), unit_rows(self.centroids)).square().amin(dim=1)
        return nearest.mean().clamp(min=1e-6)

    def _read_steps(self, *_: Any) -> None:
        self._steps = int(self.steps)

    def _clustered_items(self) -> Tensor:
        """Items with content that training may know: those that take part in the clustering."""
        members = self.observed.any(dim=1)
        return members if self.known_items is None else members & self.known_items

    def _projected(self) -> dict[str, Tensor]:
        return {modality: self.project[modality](feature) for modality, feature in self.features.items()}

    def _modality_shares(self) -> Tensor:
        return (self.modality_logits + self.prior.to(self.modality_logits.dtype)).softmax(dim=0)

    def _fused_content(self, projected: dict[str, Tensor]) -> Tensor:
        logits = self.modality_logits + self.prior.to(self.modality_logits.dtype)
        share = masked_softmax(logits.expand(self.n_items, -1), self.observed)
        return (torch.stack(list(projected.values()), dim=1) * share.unsqueeze(2)).sum(dim=1)

    def _item_states(self, content: Tensor, clusters: Tensor) -> Tensor:
        """``H``: the mean over layers of the item GCN that stays inside the clusters, ``(n_items, d)``."""
        shares = self._modality_shares()
        states = total = content
        graphs = self.item_graphs if self.training or self.known_items is None else self.attached_graphs
        for layer in range(1, self.n_item_layers + 1):
            received = torch.zeros_like(states)
            for index, graph in enumerate(cast("list[ItemGraph]", graphs)):
                values = graph.values.to(states.dtype)
                if layer > 1:
                    values = clustering.clustered_item_weights(graph.pattern, values, clusters)
                received = received + shares[index] * spmm(graph.pattern, values, states)
            states = received
            total = total + states
        return total / (self.n_item_layers + 1)

    def _item_clusters(self, content: Tensor) -> Tensor:
        """``q``, ``(n_items, n_item_clusters)``."""
        return clustering.student_t_assignment(unit_rows(content), unit_rows(self.centroids), self.spread)

    def _co_clusters(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """``P`` of users and items, ``(n, n_clusters)``, from one hop of the embeddings; padding belongs nowhere."""
        shares = []
        for state, real in ((users, self.real_user), (items, self.real_item)):
            share = (self.assign(state) / self.temperature).softmax(dim=1)
            if self.hard:  # the forward pass takes the largest share, the gradient passes through all
                chosen = F.one_hot(share.argmax(dim=1), share.shape[1]).to(share.dtype)
                share = chosen + share - share.detach()
            shares.append(share * real.unsqueeze(1))
        return shares[0], shares[1]

    def _user_item_states(self) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Mean over layers of users and items, and their co-cluster shares."""
        users, items = self.user_embedding, self.item_embedding
        mass = self.graph.propagate(torch.ones_like(users[:, :1]), torch.ones_like(items[:, :1]))
        first = self.graph.propagate(users, items)
        share = self._co_clusters(users + first[0], items + first[1])
        user_sum, item_sum = users + first[0], items + first[1]
        # Beside the states of the first layer, what ones would become; before the shares of those who receive.
        messages = torch.cat([first[0], mass[0]], dim=1), torch.cat([first[1], mass[1]], dim=1)
        weight = share
        for _ in range(2, self.n_layers + 1):
            messages, mass = clustering.local_messages(self.graph, *messages, *weight), self.graph.propagate(*mass)
            weight = share[0].square(), share[1].square()
            kept = [clustering.keep_totals(*parts) for parts in zip(messages, share, mass)]
            user_sum, item_sum = user_sum + kept[0][0], item_sum + kept[1][0]
            if self.global_weight > 0:
                coarse = clustering.coarse_messages(self.graph, messages, share, (kept[0][1], kept[1][1]))
                user_sum = torch.add(user_sum, coarse[0], alpha=self.global_weight)
                item_sum = torch.add(item_sum, coarse[1], alpha=self.global_weight)
        return user_sum / (self.n_layers + 1), item_sum / (self.n_layers + 1), share

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of all users and items, ``(n_users, d)`` and ``(n_items, d)``."""
        users, items, _ = self._user_item_states()
        content = self._fused_content(self._projected())
        clusters = self._item_clusters(content)
        return users, items + self.content_weight * unit_rows(self._item_states(content, clusters))

    def diagnostics(self) -> dict[str, Part]:
        """Co-clusters of users and items, and clusters of items."""
        users, items = self._user_item_states()[2]
        clusters = self._item_clusters(self._fused_content(self._projected()))
        return {
            "the co-clustering of users": Part("assignment", users),
            "the co-clustering of items": Part("assignment", items),
            "the clustering of items": Part("assignment", clusters[self._clustered_items()]),
        }

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """Ranking, co-cluster ranking, item clustering, regularisation and modality contrast of a batch."""
        user, positive, negative = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        users, items, (user_share, item_share) = self._user_item_states()
        projected = self._projected()
        content = self._fused_content(projected)
        if self._steps % self.refresh_steps == 0:
            self._refresh(content, user_share, item_share)
        self._steps += 1
        self.steps += 1
        clusters = self._item_clusters(content)
        items = items + self.content_weight * unit_rows(self._item_states(content, clusters))

        def margin(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
            anchor = F.embedding(user, left)
            return (anchor * F.embedding(positive, right)).sum(1), (anchor * F.embedding(negative, right)).sum(1)

        embeddings = F.embedding(torch.cat([positive, negative]), self.item_embedding)
        losses: tuple[Tensor, ...] = (
            bpr_loss(*margin(users, items)),
            self.reg_weight * l2_penalty(F.embedding(user, self.user_embedding), embeddings),
        )
        if self.co_cluster_weight > 0:
            near, far = margin(user_share, item_share)
            losses += (self.co_cluster_weight * bpr_loss(self.margin_scale * near, self.margin_scale * far),)
        if self.balance_weight > 0:
            sides = ((user_share, self.real_user), (item_share, self.real_item))
            losses += (self.balance_weight * sum(clustering.balance_penalty(*side) for side in sides),)
        if self.item_cluster_weight > 0:
            members = self._clustered_items()
            losses += (self.item_cluster_weight * clustering.cluster_kl(self.target, clusters, members),)
        if self.contrastive_weight > 0:
            rows = {modality: F.embedding(positive, table) for modality, table in projected.items()}
            losses += (self.modality_contrast(rows, positive),)
        return losses

    @torch.no_grad()
    def _refresh(self, content: Tensor, user_share: Tensor, item_share: Tensor) -> None:
        """Take the scale and the target of the item clusters anew, before the step that uses them."""
        members = self._clustered_items()
        self.spread.copy_(self._spread(content[members]))
        clusters = self._item_clusters(content)
        self.target.copy_(clustering.sharpened_target(clusters, members))
        parts = {"users": (user_share, self.real_user), "items": (item_share, self.real_item)}
        parts["items by content"] = clusters, members
        for name, part in parts.items():
            sizes, rows = clustering.cluster_entropy(*part)
            getLogger().info(f"HCGCN clusters of {name}: entropy of the sizes {sizes:.3f}, of a row {rows:.3f} (of 1)")
