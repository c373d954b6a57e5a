"""MMGCN: one graph convolution network per modality."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.model.sampled_graph import SamplesGraph
from recbole_mm.nn.graph.cut import AnyHop, cut_last
from recbole_mm.nn.graph.sampling import Neighbourhood
from recbole_mm.nn.graph.sparse import full_precision
from recbole_mm.nn.linear import Linear, linear
from recbole_mm.nn.loss import bpr_loss, l2_penalty
from recbole_mm.nn.rows import rows_at, unit_rows

__all__ = ["MMGCN"]

WIDE = 512  # Features wider than this are projected by default,
PROJECTED = 256  # to this width (the authors': 2048 or 4096 to 256; 384, 128 and 100 kept as they are).
CONTENT_START = 3.0  # Of an aligned start: factor of the orthogonal map that reads content,
TABLE_START = 0.1  # and of what says nothing yet: trained tables and the biases of projections.
PUBLISHED_SLOPE = 0.01
TOGETHER = 2**21  # Numbers up to which modalities pass the graph side by side; to copy larger tables costs more.


class MMGCN(SamplesGraph, MultimodalRecommender):
    r"""Messages between users and items in one graph per modality; modalities share ID embeddings and are averaged.

    Per modality :math:`m`, with :math:`P = D^{-1} A` the mean over neighbours (isolated nodes: 0),
    :math:`X^0 = \mathrm{norm}([p^m_u ; W^0 f_i + b^0])` and :math:`\phi` a LeakyReLU:

    .. math::
        h &= \phi(P X^{l-1} W^c_l), \qquad \hat x = \phi(X^{l-1} W^x_l + b^x_l) + e, \\
        X^l &= \phi([h \,\|\, \hat x]\, W^g_l + b^g_l) \quad (\text{concat}) \qquad\text{or}\qquad
        X^l = \phi(h W^g_l + b^g_l + \hat x), \\
        Z &= \tfrac1M \textstyle\sum_m w_m X^L_m, \qquad \hat y_{ui} = \langle Z_u, Z_i \rangle,

    where :math:`e` are the ID embeddings that all modalities and layers share, and :math:`w_m` is ``modality_weight``
    (1 in the paper). Loss: BPR + ``reg_weight`` * (half the squared length of the batch's ID embeddings + that of its
    users' preferences, averaged over modalities).

    Reference:
        Wei et al. "MMGCN: Multi-modal Graph Convolution Network for Personalized Recommendation of Micro-video."
        ACM MM 2019.

    Options:
        embedding_size, n_layers, concat, negative_slope, initialisation, projection_dim, trainable_embeddings,
        normalize_tables, reg_weight.

    Note:
        The authors' code never optimises the ID embeddings and user preferences (they are not parameters), always
        concatenates and always runs three layers. Here the tables are trained, and ``n_layers`` and ``concat`` are
        honoured; ``trainable_embeddings: False, n_layers: 3`` gives the released function. The released regularisation
        covers the first modality's preferences of all users; here it is the batch's users, all modalities alike. The
        authors draw the map of messages and that of a node's own state independently, so that the score of a user, who
        is known by messages, and an item, which is known by itself, starts as a random bilinear form of contents, and a
        few thousand pairs never turn it into likeness: content was drowned. With ``initialisation: aligned``, ours,
        :math:`W^c` starts as the identity and the gate's rows for messages as :math:`W^x` times those for the own
        state, so that both sides read content by the same map; training moves them apart as far as data pay for it.
        :math:`W^x` then starts orthogonal, which keeps most of a likeness, without biases, with three times the length,
        and trained tables a tenth as long as the authors', so that content is not drowned by what ids memorise within a
        few epochs. The slope of the authors' LeakyReLU is torch's default, .01: nearly all vectors then lie in one
        cone, and likeness is lost in what all items share (on a sparse sample, items have a mean cosine of .74 and
        untrained content ranks at Recall@20 .010; with the slope .2 at .031, with .5 at .047). ``negative_slope`` is
        .2, because .5 costs on sparse listening data what it gains on sparse data where content predicts more.
        The authors rank by the latest parameters. With ``weight_average: 0.5`` the mean over the epochs ranks where it
        validates better: validation swings less, and the mean learns few pairs by heart later than the steps do.
        Computation is rearranged exactly: ``P (X W) = (P X) W`` where there are fewer rows, and the last layer on the
        rows that the batch needs. With ``graph_batch: sampled`` :math:`P`
        is the mean over sampled neighbours: unbiased for :math:`P X`, what follows a nonlinearity is not. A fanout that
        covers every neighbour gives the step of the whole graph.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        dim = self.options.integer("embedding_size", minimum=1)
        n_layers = self.options.integer("n_layers", minimum=1)
        concat = self.options.boolean("concat")
        trainable = self.options.boolean("trainable_embeddings")
        aligned = self.options.choice("initialisation", ("aligned", "random")) == "aligned"
        self.negative_slope = self.options.number("negative_slope", minimum=0, maximum=1, before=PUBLISHED_SLOPE)
        self.normalize_tables = self.options.boolean("normalize_tables")
        self.reg_weight = self.options.number("reg_weight", minimum=0)
        widths = self.options.per_modality(
            "projection_dim",
            self.features.keys(),
            "optional_integer",
            default=None,
            minimum=0,
            unused=self.modality_names,
        )

        self.graph = self.interaction_graph()
        self.set_up_sampling(config, dataset, n_layers)

        nodes = nn.init.xavier_normal_(torch.empty(self.n_users + self.n_items, dim))
        self.user_embedding = nn.Parameter(nodes[: self.n_users].clone(), requires_grad=trainable)
        self.item_embedding = nn.Parameter(nodes[self.n_users :].clone(), requires_grad=trainable)
        self.project, self.preference, self.layers = nn.ModuleDict(), nn.ParameterDict(), nn.ModuleList()
        inputs = {}
        for modality, width in self.features.dims.items():
            target = _projected_width(widths[modality], width)
            self.project[modality] = Linear(width, target) if target else nn.Identity()
            inputs[modality] = target or width
            table = nn.init.xavier_normal_(torch.empty(self.n_users, inputs[modality]))
            self.preference[modality] = nn.Parameter(table, requires_grad=trainable)
        for layer in range(n_layers):
            widths = inputs if layer == 0 else dict.fromkeys(inputs, dim)
            shared = (dim, concat, self.negative_slope, layer == 0, aligned)
            self.layers.append(nn.ModuleDict({m: _Layer(width, *shared) for m, width in widths.items()}))
        if aligned:
            self._start_small()

    @torch.no_grad()
    def _start_small(self) -> None:
        """Let what is not content yet start short: tables that are trained, and biases that all items would share."""
        for table in (self.user_embedding, self.item_embedding, *self.preference.values()):
            if table.requires_grad:
                table.mul_(TABLE_START)
        for layer in self.project.values():
            if isinstance(layer, Linear):  # not 0: of a missing vector only the bias is left to normalise
                layer.bias.mul_(TABLE_START)

    def modality_states(self, user: Tensor | None = None, item: Tensor | None = None) -> tuple[dict, dict]:
        """Last layer's states, ``{m: (n_users, d)}`` and ``{m: (n_items, d)}``, of the given rows or of all."""
        found = self._states(self.neighbourhood(user, item))
        return found.users, found.items

    def _states(self, part: Neighbourhood) -> _States:
        hops, user, item = cut_last(part)
        preference = {m: part.of_users(self.preference[m]) for m in self.features}
        embeddings = part.of_users(self.user_embedding), part.of_items(self.item_embedding)
        scale = unit_rows if self.normalize_tables else full_precision
        users = {m: scale(table) for m, table in preference.items()}
        items = {m: unit_rows(self.project_items(m, part)) for m in self.features}
        for layer, hop in zip(self.layers, hops):
            rows = (user, item) if layer is self.layers[-1] else (None, None)
            to_users, to_items, own_users, own_items = self._messages(layer, hop, users, items)
            own_embeddings = hop.receiving_users(embeddings[0]), hop.receiving_items(embeddings[1])
            users = {m: layer[m](to_users[m], own_users[m], own_embeddings[0], rows[0]) for m in users}
            items = {m: layer[m](to_items[m], own_items[m], own_embeddings[1], rows[1]) for m in items}
        # The first layer's own states of users are rows of the preferences, unless scaled: the penalty reads them.
        if len(hops) > 1 or self.normalize_tables:
            own_users = {m: hop.receiving_users(table) for m, table in preference.items()}
        penalised = [rows_at(own_embeddings[0], user), rows_at(own_embeddings[1], item)]
        return _States(users, items, penalised, [rows_at(own, user) for own in own_users.values()])

    def _messages(self, layer: Any, hop: AnyHop, users: dict, items: dict) -> tuple[dict, dict, dict, dict]:
        """``P X W`` to users and to items, ``W`` applied where rows are fewer, and the receivers' own states."""

        def messages(states: dict, send: Any, receiving: Any, n_receivers: int) -> tuple[dict, dict]:
            early = len(next(iter(states.values()))) <= n_receivers
            sent = {m: layer[m].transform(x) if early else x for m, x in states.items()}
            if sum(x.numel() for x in sent.values()) <= TOGETHER:
                stacked = send(torch.cat(list(sent.values()), dim=1), "row")[0]
                received = dict(zip(sent, stacked.split([x.shape[1] for x in sent.values()], dim=1)))
                own = {m: receiving(x) for m, x in states.items()}
            else:
                both = {m: send(x, "row") for m, x in sent.items()}
                received = {m: found for m, (found, _) in both.items()}
                own = {m: receiving(states[m]) if early else rows for m, (_, rows) in both.items()}
            return received if early else {m: layer[m].transform(x) for m, x in received.items()}, own

        to_users, own_items = messages(items, hop.send_items, hop.receiving_items, hop.n_users)
        to_items, own_users = messages(users, hop.send_users, hop.receiving_users, hop.n_items)
        return to_users, to_items, own_users, own_items

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of all users and items, ``(n_users, d)`` and ``(n_items, d)``."""
        users, items = self.modality_states()
        return self.features.weighted_mean(users), self.features.weighted_mean(items)

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """BPR, the regularisation and, if asked for, the modality contrast of a batch."""
        user, positive = interaction[self.USER_ID], interaction[self.ITEM_ID]
        item = torch.cat([positive, interaction[self.NEG_ITEM_ID]])
        found = self._states(self.neighbourhood(user, item))
        users, items = self.features.weighted_mean(found.users), self.features.weighted_mean(found.items)
        chosen, rejected = items.chunk(2)
        embeddings = l2_penalty(*found.embeddings)
        preferences = torch.stack([l2_penalty(rows) for rows in found.preferences]).mean()
        losses: tuple[Tensor, ...] = (
            bpr_loss((users * chosen).sum(dim=1), (users * rejected).sum(dim=1)),
            self.reg_weight * (embeddings + preferences),
        )
        if self.contrastive_weight > 0:
            losses += (self.modality_contrast({m: x[: len(positive)] for m, x in found.items.items()}, positive),)
        return losses


class _States(NamedTuple):
    """Last layer's states of the rows asked for, and the rows of the trained tables behind them."""

    users: dict[str, Tensor]
    items: dict[str, Tensor]
    embeddings: list[Tensor]
    preferences: list[Tensor]


class _Layer(nn.Module):
    """One layer of one modality: combine the messages with the node's own state."""

    def __init__(self, width: int, dim: int, concat: bool, slope: float, first: bool, aligned: bool) -> None:
        super().__init__()
        self.convolve = nn.Parameter(nn.init.xavier_normal_(torch.empty(width, width)))
        self.own = Linear(width, dim)
        self.gate = Linear(width + dim if concat else width, dim)
        self.concat, self.slope = concat, slope
        nn.init.xavier_normal_(self.own.weight)
        if first:  # The later gates keep torch's own initialisation, as in the authors' code.
            nn.init.xavier_normal_(self.gate.weight)
        if aligned:
            if first:
                nn.init.orthogonal_(self.own.weight, gain=CONTENT_START)
            self._align(width)

    @torch.no_grad()
    def _align(self, width: int) -> None:
        """Let messages pass the map that the node's own state passes, the nonlinearity between its halves aside."""
        nn.init.eye_(self.convolve)
        nn.init.zeros_(self.own.bias)
        nn.init.zeros_(self.gate.bias)
        if self.concat:
            self.gate.weight[:, :width] = self.gate.weight[:, width:] @ self.own.weight
        else:
            self.gate.weight.copy_(self.own.weight)

    def transform(self, states: Tensor) -> Tensor:
        return linear(states, self.convolve.t(), backend=self.own.backend)

    def forward(self, messages: Tensor, states: Tensor, embedding: Tensor, rows: Tensor | None) -> Tensor:
        if rows is not None and len(rows) < len(states):
            messages, states, embedding = (F.embedding(rows, table) for table in (messages, states, embedding))
            rows = None
        received = F.leaky_relu(messages, self.slope)
        own = F.leaky_relu(self.own(states), self.slope) + embedding
        if self.concat:
            width = messages.shape[1]
            combined = linear(received, self.gate.weight[:, :width], self.gate.bias, self.gate.backend)
            output = F.leaky_relu(combined + own @ self.gate.weight[:, width:].T, self.slope)
        else:
            output = F.leaky_relu(self.gate(received) + own, self.slope)
        return rows_at(output, rows)


def _projected_width(option: int | None, width: int) -> int:
    """Width after projection: the option (0 = none), or the default rule when it is not set."""
    if option is not None:
        return option
    return PROJECTED if width > WIDE else 0
