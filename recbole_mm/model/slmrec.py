"""SLMRec: LightGCN branches per modality, with a self-supervised task that makes them agree."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.nn.graph.branches import Encoding, encode_branches
from recbole_mm.nn.graph.sparse import full_precision
from recbole_mm.nn.linear import Linear
from recbole_mm.nn.loss import first_occurrence, info_nce_loss
from recbole_mm.nn.rows import unit_rows

__all__ = ["SLMRec"]


class SLMRec(MultimodalRecommender):
    r"""One LightGCN branch for ids and one per modality from one user table, read out linearly, no sampled negatives.

    With :math:`X_{id} = E_I` and :math:`X_m = o_m (f^m W_m + c_m)`, branch :math:`b` is the mean over
    :math:`l = 0 \dots L` of :math:`S^l [E_U; X_b]`, and :math:`u = R_U [u_{id} \| w_{m_1} u_{m_1} \| \dots]`, items
    likewise with :math:`R_I`; scores are :math:`\langle u, i \rangle`. With :math:`C(a, b; \tau)` the mean over the
    batch of :math:`-\ln` of the softmax of :math:`\langle a_b, \cdot \rangle / \tau` at :math:`b_b`, on unit rows:

    .. math::
        L = C(u, i; \tau) + \alpha L_{SSL}, \qquad
        L_{FAC} = \textstyle\sum_t w_{m_t} C_{raw}(J_t, G_t\, i_{m_t}; \tau'), \quad J_t = H_t J_{t-1}, \; J_0 = i_{id}

    ``FAC`` contrasts the items' branches along a chain of joint spaces, by plain inner products. ``FD`` contrasts the
    read-outs of two views that lose state entries after every hop, users with users and items with items; ``FM`` those
    of two views without the item input of one branch each, two different branches (ids included) drawn in every step.
    :math:`\tau` is ``temperature``, :math:`\alpha` ``contrastive_weight`` and :math:`\tau'`
    ``contrastive_temperature``.

    Reference:
        Tao et al. "Self-Supervised Learning for Multimedia Recommendation." IEEE TMM 2022.

    Options:
        embedding_size, n_layers, temperature, score, ssl_task, fac_order, dropout, distinct_ids,
        popularity_correction.

    Note:
        Copies of an anchor's item are no negatives, and a repeated id takes part in the self-supervised tasks once;
        ``distinct_ids: False`` is the released code, where an id is a negative of itself. The authors' FM exchanges the
        hops of its two views; here each view is encoded from its own input. The last maps of the chain have half the
        width, as published. Training looks at cosines and the ranking at inner products, as published; ``score:
        cosine`` ranks by cosines. FAC compares inner products, as released; whether the paper means cosines is not
        clear. A widespread port has no audio, cannot run FD or FM, and its penalty has no effect: nothing is taken from
        it. The order of the chain is published for image, audio, text; ``~`` sorts the names.

        The negatives of the main loss are the items of other pairs, so an item is one as often as it has pairs
        :math:`n_i`, and the best cosines tell by how much a user likes it *more than others do*: what is popular is
        unlearned, which on dense data cost more than content gained. ``popularity_correction: p``, ours, subtracts
        :math:`p \ln n_i` from the logits of an item in that loss (Yi et al. "Sampling-Bias-Corrected Neural Modeling
        for Large Corpus Item Recommendations." RecSys 2019), which makes it a negative as often as :math:`n_i^{1-p}`
        says; the default is .5, and 0 is as published. The authors rank by the latest parameters; with
        ``weight_average: 0.33`` an average over the epochs ranks where it validates better.
    """

    has_contrastive_term = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        dim = self.options.integer("embedding_size", minimum=1)
        self.n_layers = self.options.integer("n_layers", minimum=0)
        self.temperature = self.options.number("temperature")
        self.score = self.options.choice("score", ("inner", "cosine"))
        self.ssl_task = self.options.choice("ssl_task", ("FAC", "FD", "FM", "FD+FM"))
        self.dropout = self.options.number("dropout", minimum=0, maximum=1)
        self.distinct_ids = self.options.boolean("distinct_ids")
        self.popularity_correction = self.options.number("popularity_correction", minimum=0, maximum=1, before=0.0)
        self.order = self._chain_order(self.options.optional_texts("fac_order"))

        self.graph = self.interaction_graph()
        modalities = list(self.features)
        weight = torch.tensor([1.0, *(self.features.weight[m] for m in modalities)], dtype=torch.float64)
        self.register_buffer("branch_weight", weight.view(1, -1, 1), persistent=False)
        self.user_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_users, dim)))
        self.item_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_items, dim)))
        self.project = nn.ModuleDict({m: Linear(width, dim) for m, width in self.features.dims.items()})
        self.read_users = Linear((1 + len(modalities)) * dim, dim)
        self.read_items = Linear((1 + len(modalities)) * dim, dim)
        self.joint, self.own = nn.ModuleDict(), nn.ModuleDict()
        if self.ssl_task == "FAC":
            for modality in self.order:
                last = modality == self.order[-1] and len(self.order) > 1
                for maps in (self.joint, self.own):
                    maps[modality] = nn.Linear(dim, max(dim // 2, 1) if last else dim)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.xavier_uniform_(parameter)

    def _chain_order(self, order: list[str] | None) -> list[str]:
        modalities = list(self.features)
        if order is None:
            return modalities
        if len(set(order)) < len(order) or not set(modalities) <= set(order) <= set(self.modality_names):
            raise ValueError(
                f"SLMRec option 'fac_order': expected each of {', '.join(modalities)} once, or ~, got {order!r}."
            )
        return [modality for modality in order if modality in modalities]

    def forward(self) -> tuple[Tensor, Tensor]:
        """Read-outs of all users and items, ``(n_users, d)`` and ``(n_items, d)``."""
        users, items = self._encode(self._inputs())
        read = self._read(self.read_users, users.rows()), self._read(self.read_items, items.rows())
        return read if self.score == "inner" else (unit_rows(read[0]), unit_rows(read[1]))

    def _inputs(self) -> Tensor:
        """Item inputs of the branches side by side; 0 where an item lacks the modality."""
        observed = self.features.observed
        states = [self.project[m](feature) * observed[m].unsqueeze(1) for m, feature in self.features.items()]
        return torch.cat([self.item_embedding, *states], dim=1)

    def _encode(self, inputs: Tensor) -> tuple[Encoding, Encoding]:
        values = self.graph.norm_weights("user", "sym", inputs.dtype)[0]
        return encode_branches([self.graph] * self.n_layers, values, self.user_embedding, inputs)

    def _read(self, readout: nn.Module, branches: Tensor) -> Tensor:
        return readout((branches * self.branch_weight.to(branches.dtype)).flatten(start_dim=1))

    def calculate_loss(self, interaction: Any) -> Tensor | tuple[Tensor, ...]:
        """The in-batch softmax and the weighted self-supervised task."""
        user, item = interaction[self.USER_ID], interaction[self.ITEM_ID]
        inputs = self._inputs()
        users, items = self._encode(inputs)
        u, i = users.rows(user), items.rows(item)
        main = self._ranking_loss(self._read(self.read_users, u), self._read(self.read_items, i), item)
        if self.contrastive_weight == 0:
            return main
        if self.ssl_task == "FAC":
            return main, self.contrastive_weight * self._chain(i, item)
        extra = main.new_zeros(())
        if "FD" in self.ssl_task:
            views = [self._dropped_view(inputs, user, item) for _ in range(2)]
            extra = extra + self._contrast(views, user, item)
        if "FM" in self.ssl_task:
            shared = F.embedding(user, users.shared), F.embedding(item, items.shared)
            # Drawn on the host: a number on the device would have to be waited for.
            drawn = torch.randperm(u.shape[1])[:2].tolist()
            views = [(_replace(u, branch, shared[0]), _replace(i, branch, shared[1])) for branch in drawn]
            extra = extra + self._contrast(views, user, item)
        return main, self.contrastive_weight * extra

    def _ranking_loss(self, users: Tensor, items: Tensor, ids: Tensor) -> Tensor:
        """The in-batch softmax of the cosines, less ``popularity_correction`` times the log of each item's pairs."""
        users, items = unit_rows(full_precision(users)), unit_rows(full_precision(items))
        if self.popularity_correction > 0:
            # One more coordinate on either side, whose product is the correction.
            pairs = self.graph.item_degree[ids].clamp(min=1).log().unsqueeze(1).to(items.dtype)
            users = torch.cat([users, torch.ones_like(pairs)], dim=1)
            items = torch.cat([items, -self.popularity_correction * self.temperature * pairs], dim=1)
        same = ids if self.distinct_ids else None
        return info_nce_loss(users, items, self.temperature, normalize=False, same=same)

    def _chain(self, branches: Tensor, item: Tensor) -> Tensor:
        """FAC: joint space against own space, modality by modality. ``branches`` has shape ``(batch, 1 + M, d)``."""
        joint, total = branches[:, 0], branches.new_zeros(())
        distinct = first_occurrence(item) if self.distinct_ids else torch.ones_like(item, dtype=torch.bool)
        place = {modality: 1 + index for index, modality in enumerate(self.features)}
        for modality in self.order:
            joint, own = self.joint[modality](joint), self.own[modality](branches[:, place[modality]])
            valid = distinct & self.features.observed[modality][item]
            loss = info_nce_loss(joint, own, self.contrastive_temperature, valid=valid, normalize=False)
            total = total + self.features.weight[modality] * loss
        return total

    def _dropped_view(self, inputs: Tensor, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """FD: rows of a view whose states are dropped out after every hop; so the branches' users differ from hop 1."""
        dim = self.user_embedding.shape[1]
        n_branches = inputs.shape[1] // dim
        users, items = self.user_embedding.repeat(1, n_branches), inputs
        user_sum, item_sum = users, items
        for _ in range(self.n_layers):
            users, items = (F.dropout(x, self.dropout, self.training) for x in self.graph.propagate(users, items))
            user_sum, item_sum = user_sum + users, item_sum + items
        rows = F.embedding(user, user_sum), F.embedding(item, item_sum)
        left, right = (table.view(len(table), n_branches, dim) / (self.n_layers + 1) for table in rows)
        return left, right

    def _contrast(self, views: list[tuple[Tensor, Tensor]], user: Tensor, item: Tensor) -> Tensor:
        """Contrast of the read-outs of two views, users with users and items with items."""
        total = views[0][0].new_zeros(())
        for side, (readout, ids) in enumerate(((self.read_users, user), (self.read_items, item))):
            left, right = (self._read(readout, view[side]) for view in views)
            valid = first_occurrence(ids) if self.distinct_ids else None
            total = total + info_nce_loss(left, right, self.contrastive_temperature, valid=valid)
        return total


def _replace(rows: Tensor, branch: int, new: Tensor) -> Tensor:
    return torch.cat([rows[:, :branch], new.unsqueeze(1), rows[:, branch + 1 :]], dim=1)
