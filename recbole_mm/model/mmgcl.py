"""MMGCL: LightGCN branches per modality, contrasted between two modality-wise augmentations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.model.sampled_graph import SamplesGraph
from recbole_mm.nn.graph.bipartite import norm_without, sym_norm
from recbole_mm.nn.graph.branches import Encoding, choose_edges, drop_edges, drop_nodes, encode_branches
from recbole_mm.nn.graph.sampling import Neighbourhood, SampledHop
from recbole_mm.nn.linear import Linear
from recbole_mm.nn.loss import bpr_loss, contrast_scale, first_occurrence, info_nce_loss

__all__ = ["MMGCL"]

TASKS = ("ED+MM+CN", "ED+MM", "ED", "MM", "none")


class MMGCL(SamplesGraph, MultimodalRecommender):
    r"""One LightGCN branch per modality and one for IDs, taught that no single modality decides.

    With :math:`X_{id} = E_I` and :math:`X_m = W_m f_i`, each branch is encoded as the mean over :math:`l = 0 \dots L`
    of :math:`S^l [E_U; X_b]`, and the branches are read out by one linear map a side:
    :math:`u = W_U [u_{id} \| u_{m_1} \| \dots] + b_U`, the same for items with :math:`W_I`; scores are inner products
    :math:`\langle u, i \rangle`. Two augmented views share the readout: **A** drops a share of the edges (``ED``) and
    **B** replaces the input of one modality, drawn with ``mask_probability``, by random vectors (``MM``). With the
    normalised readouts
    :math:`z` of the batch's distinct users and items and :math:`s = \langle \cdot, \cdot \rangle / \tau`:

    .. math::
        L_{user} &= -\ln \frac{\exp s(z^A_u, z^B_u)}{\sum_{u'} \exp s(z^A_u, z^B_{u'})}, \qquad
        L_{item} = -\ln \frac{\exp s(z^A_i, z^B_i)}{\sum_{i'} \exp s(z^A_i, z^B_{i'}) + \exp s(z^A_i, c)}, \\
        L &= L_{BPR} + \beta \lambda (L_{user} + L_{item}), \qquad
             \lambda = \min(1, \overline{\|u\|} \cdot \overline{\|i\|}),

    where the challenging negative :math:`c` (``CN``) is the positive item in view A with one modality taken from the
    negative item, and the mean lengths of the batch's readouts in :math:`\lambda` are constants. :math:`\beta` is
    ``contrastive_weight``, :math:`\tau` is ``contrastive_temperature``, and ``modality_weight`` scales the branches
    before the readout.

    Reference:
        Yi et al. "Multi-modal Graph Contrastive Learning for Micro-video Recommendation." SIGIR 2022.

    Options:
        embedding_size, n_layers, edge_dropout, mask_probability, ssl_task, ssl_pair, mask_mode, edge_drop_scope, cn_in,
        cn_modality, contrast_by_length.

    Note:
        The released code can neither evaluate nor reach its second view and challenging negatives; the contrastive
        objective here is our reading of the paper. Random vectors are normal with the standard deviation of the table
        that they replace, fresh in every step and without gradient. A task that ``ssl_task`` leaves out leaves its view
        unaugmented. ``ssl_pair: user_item`` contrasts users with their items within each view, which is what the
        released code is built like; ``mask_mode: node_dropout`` and ``edge_drop_scope`` are its variants as well.
        The paper has no :math:`\lambda` (``contrast_by_length: False``). The gradient of BPR with respect to a readout
        is as long as the other side's readout, that of a contrast of normalised readouts is one over the readout's own
        length. With tables drawn small the contrast is one to two orders stronger, and as Adam follows directions
        alone, nothing else is learned for as long as that lasts. :math:`\lambda` keeps the two in proportion until
        readouts have length 1. Views with a random modality also teach the readouts to do without content, hence a
        smaller :math:`\beta` than the released 0.4.
        With ``graph_batch: sampled`` every layer draws its neighbours, and views and branches share what is drawn; all
        sums are unbiased. Dropped edges and nodes, and the degrees after, are those of the whole graph. Only the random
        vectors differ: their standard deviation is that of the sampled items' rows instead of all.
        The authors rank by the latest parameters; with ``weight_average: 0.33`` an average over the epochs ranks where
        it validates better.
    """

    has_contrastive_term = True
    reads_own_states = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        dim = self.options.integer("embedding_size", minimum=1)
        self.n_layers = self.options.integer("n_layers", minimum=0)
        self.edge_dropout = self.options.number("edge_dropout", minimum=0, maximum=1)
        self.ssl_task = self.options.choice("ssl_task", TASKS)
        self.ssl_pair = self.options.choice("ssl_pair", ("cross_view", "user_item"))
        self.mask_mode = self.options.choice("mask_mode", ("random_embedding", "node_dropout"))
        self.edge_drop_scope = self.options.choice("edge_drop_scope", ("all", "one_modality"))
        self.contrast_by_length = self.options.boolean("contrast_by_length")
        self.cn_in = self.options.choice("cn_in", ("item", "user", "none"))
        modalities = list(self.features)
        self.mask_probability = self._mask_probabilities(modalities)
        fixed = self.options.optional_text("cn_modality")
        if fixed is not None and fixed not in modalities:
            raise ValueError(
                f"MMGCL option 'cn_modality': got {fixed!r}, expected one of {', '.join(modalities)} or ~."
            )
        self.cn_branch = None if fixed is None else 1 + modalities.index(fixed)

        self.graph = self.interaction_graph()
        self.set_up_sampling(config, dataset, self.n_layers)
        self.register_buffer("norm", self.graph.sym_norm(torch.float64), persistent=False)
        weight = torch.tensor([1.0, *(self.features.weight[m] for m in modalities)], dtype=torch.float64)
        self.register_buffer("branch_weight", weight.view(1, -1, 1), persistent=False)
        self.user_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_users, dim)))
        self.item_embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_items, dim)))
        self.project = nn.ModuleDict({m: Linear(width, dim) for m, width in self.features.dims.items()})
        self.read_users = Linear((1 + len(modalities)) * dim, dim)
        self.read_items = Linear((1 + len(modalities)) * dim, dim)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.startswith(("project", "read")):
                nn.init.xavier_uniform_(parameter)

    def _mask_probabilities(self, modalities: list[str]) -> list[float]:
        given = self.options.per_modality("mask_probability", self.modality_names, default=None, minimum=0)
        probability = [given[modality] for modality in modalities]
        unnamed = [modality for modality in modalities if given[modality] is None]
        if unnamed and any(value is not None for value in given.values()):
            raise ValueError(f"MMGCL option 'mask_probability': give a chance to {', '.join(unnamed)} as well (or 0).")
        if unnamed:
            return [1.0] * len(modalities)
        if sum(probability) == 0:
            raise ValueError(f"MMGCL option 'mask_probability': one of {', '.join(modalities)} must be above 0.")
        return probability

    def forward(self) -> tuple[Tensor, Tensor]:
        """Readouts of all users and items, ``(n_users, d)`` and ``(n_items, d)``."""
        part = self.neighbourhood()
        users, items = self._encode(part, torch.cat(self._inputs(part), dim=1), self.norm)
        return self._read(self.read_users, users.rows()), self._read(self.read_items, items.rows())

    def _inputs(self, part: Neighbourhood) -> list[Tensor]:
        content = (self.project_items(m, part) for m in self.features)
        return [part.of_items(self.item_embedding), *content]

    def _encode(self, part: Neighbourhood, inputs: Tensor, values: Tensor) -> tuple[Encoding, Encoding]:
        users = part.of_users(self.user_embedding)
        return encode_branches(part.hops, values.to(inputs.dtype), users, inputs)

    def _read(self, readout: nn.Module, branches: Tensor) -> Tensor:
        return readout((branches * self.branch_weight.to(branches.dtype)).flatten(start_dim=1))

    def calculate_loss(self, interaction: Any) -> Tensor | tuple[Tensor, ...]:
        """BPR and the weighted contrastive loss of a batch."""
        user, positive, negative = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        part = self.neighbourhood(user, torch.cat([positive, negative]))
        inputs = self._inputs(part)
        users, items = self._encode(part, torch.cat(inputs, dim=1), self.norm)
        main = users.rows(part.user), items.rows(part.item)
        anchors = self._read(self.read_users, main[0])
        chosen, rejected = self._read(self.read_items, main[1]).chunk(2)
        ranking = bpr_loss((anchors * chosen).sum(dim=1), (anchors * rejected).sum(dim=1))
        if self.contrastive_weight == 0 or self.ssl_task == "none":
            return ranking
        dropped = self._edge_dropout_view(part, inputs, main) if "ED" in self.ssl_task else main
        masked = self._mask_view(part, inputs, main) if "MM" in self.ssl_task else main
        weight: Any = self.contrastive_weight
        if self.contrast_by_length:
            weight = weight * contrast_scale(anchors, chosen)
        return ranking, weight * self._contrast(dropped, masked, user, positive)

    def _draw_branch(self) -> int:
        """A modality's branch, drawn on the host: a number on the device would have to be waited for."""
        return 1 + int(torch.multinomial(torch.tensor(self.mask_probability), 1))

    def _edge_dropout_view(self, part: Neighbourhood, inputs: list[Tensor], main: tuple) -> tuple:
        """View A: rows of users and items, ``(n, branches, d)``, encoded on a graph that lost edges."""
        values = self._norm_without_edges(part)
        if self.edge_drop_scope == "one_modality":
            branch = self._draw_branch()
            return self._replace(main, branch, self._encode(part, inputs[branch], values), part)
        users, items = self._encode(part, torch.cat(inputs, dim=1), values)
        return users.rows(part.user), items.rows(part.item)

    def _norm_without_edges(self, part: Neighbourhood) -> Tensor:
        """Weights of the graph that lost edges; of a sampled part, on the pairs that it reads."""
        if not part.sampled:
            return sym_norm(self.graph.to_user, drop_edges(self.graph, self.edge_dropout))
        dropped = choose_edges(self.graph, self.edge_dropout)
        read = [pairs for hop in part.hops if isinstance(hop, SampledHop) for pairs in hop.pairs()]
        return norm_without(self.graph, dropped, torch.cat([dropped[:0], *read]))

    def _mask_view(self, part: Neighbourhood, inputs: list[Tensor], main: tuple) -> tuple:
        """View B: the main pass with one modality's branch encoded from random vectors or on a graph without nodes."""
        branch = self._draw_branch()
        table, values = inputs[branch], self.norm
        if self.mask_mode == "random_embedding":
            spread = table.detach()
            if self.known_items is not None:
                spread = spread[self.known_items if part.items is None else self.known_items[part.items]]
            table = torch.randn_like(table) * spread.std()
        else:
            values = sym_norm(self.graph.to_user, drop_nodes(self.graph, self.edge_dropout))
        return self._replace(main, branch, self._encode(part, table, values), part)

    @staticmethod
    def _replace(main: tuple, branch: int, encoded: tuple, part: Neighbourhood) -> tuple:
        def put(rows: Tensor, new: Tensor) -> Tensor:
            return torch.cat([rows[:, :branch], new, rows[:, branch + 1 :]], dim=1)

        return put(main[0], encoded[0].rows(part.user)), put(main[1], encoded[1].rows(part.item))

    def _contrast(self, dropped: tuple, masked: tuple, user: Tensor, positive: Tensor) -> Tensor:
        positive_a, negative_a = dropped[1].chunk(2)
        (users_a, items_a), (users_b, items_b) = (
            (self._read(self.read_users, view[0]), self._read(self.read_items, view[1].chunk(2)[0]))
            for view in (dropped, masked)
        )
        challenge = None
        if "CN" in self.ssl_task and self.cn_in != "none":
            branch = self.cn_branch or self._draw_branch()
            swapped = torch.cat(
                [positive_a[:, :branch], negative_a[:, branch : branch + 1], positive_a[:, branch + 1 :]], dim=1
            )
            challenge = self._read(self.read_items, swapped)
        tau, distinct = self.contrastive_temperature, (first_occurrence(user), first_occurrence(positive))
        if self.ssl_pair == "user_item":
            both = distinct[0] & distinct[1]
            in_a = info_nce_loss(users_a, items_a, tau, challenge, valid=both)
            return in_a + info_nce_loss(users_b, items_b, tau, valid=both)
        at_user, at_item = (challenge if self.cn_in == side else None for side in ("user", "item"))
        of_users = info_nce_loss(users_a, users_b, tau, at_user, valid=distinct[0])
        return of_users + info_nce_loss(items_a, items_b, tau, at_item, valid=distinct[1])
