"""Training of graph models on sampled neighbours: what the options mean, and what a step propagates over."""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recbole_mm.config import ModelOptions
from recbole_mm.config.graph_batch import OUTER_PROJECTIONS, TABLE_UPDATES, fanouts
from recbole_mm.model.epochs import epoch_steps
from recbole_mm.model.kept_projections import KeptProjections
from recbole_mm.nn.graph.bipartite import BipartiteGraph
from recbole_mm.nn.graph.sampling import Neighbourhood, sample_neighbourhood

__all__ = ["SamplesGraph", "StepSize", "cheaper_sampled"]


class SamplesGraph:
    """Beside a model base: ``graph_batch`` and ``fanout`` for models that propagate over the user-item graph.

    A model has ``self.graph`` and calls :meth:`set_up_sampling` at the end of its ``__init__``; its training step asks
    :meth:`neighbourhood` what to propagate over. In evaluation mode, and wherever no batch is given, that is the whole
    graph, so rankings do not depend on these options.
    """

    samples_graph = True
    #: Whether a layer reads the former states of the nodes that it computes (`sample_neighbourhood`).
    reads_own_states = True

    graph: BipartiteGraph
    options: ModelOptions
    features: Any
    project: nn.ModuleDict
    training: bool
    fanout: list[int] | None
    #: Projections of items that are not in the batch (``outer_projections: kept``); ``None`` where all are made anew.
    kept_projections: KeptProjections | None
    #: Whether a step's gradients of the tables hold the rows that it reads and no others (``table_updates: touched``).
    touched = False

    def set_up_sampling(self, config: Any, dataset: Any, n_hops: int, routes: bool = False) -> None:
        """Read the options.

        Args:
            config: RecBole's ``Config``.
            dataset: The data set, whose rows say how many steps an epoch has.
            n_hops: Hops that the model propagates over.
            routes: Whether it also wants the items of all users that take part.
        """
        self.n_hops, self.routes, self.fanout, self.kept_projections = n_hops, routes, None, None
        # A checkpoint from before the options has neither.
        mode = config["graph_batch"] or "full"
        if mode == "full":
            return
        fanout = fanouts(config["fanout"], n_hops, type(self).__name__)
        keeps = self.options.choice("outer_projections", OUTER_PROJECTIONS, before="fresh") == "kept"
        if mode == "auto":
            sampled, whole = self._sizes(fanout, int(config["train_batch_size"]), keeps)
            width = self.options.integer("embedding_size", minimum=1) * len(self.features)
            costs = [size.cost(width, sum(self.features.dims.values())) for size in (sampled, whole)]
            chosen = cheaper_sampled(*costs)
            getLogger().info(
                f"graph_batch: auto - with fanout {fanout} a step touches about {sampled.edges:,} of {whole.edges:,} "
                f"edges and {sampled.items:,} of {whole.items:,} items, {costs[0] / 1e6:,.0f} of {costs[1] / 1e6:,.0f} "
                f"million numbers: {'sampled' if chosen else 'full'}."
            )
            if not chosen:
                return
        self.fanout = fanout
        self.touched = self.options.choice("table_updates", TABLE_UPDATES, before="all") == "touched"
        if keeps:
            self.kept_projections = KeptProjections(epoch_steps(config, dataset))

    def neighbourhood(self, user: Tensor | None = None, item: Tensor | None = None) -> Neighbourhood:
        """What a step propagates over for the given rows of users and items, ``None`` for all of them."""
        if self.fanout is None or not self.training or user is None or item is None:
            return Neighbourhood((self.graph,) * self.n_hops, None, None, user, item)
        part = sample_neighbourhood(self.graph, user, item, self.fanout, self.routes, own_states=self.reads_own_states)
        if self.kept_projections is not None:
            self.kept_projections.begin_step()
        return part._replace(sparse=self.touched)

    def project_items(self, modality: str, part: Neighbourhood) -> Tensor:
        """Projected features of the items of a neighbourhood; of items outside the batch maybe as they were kept."""
        layer = self.project[modality]

        def project(rows: Tensor | None) -> Tensor:
            return self.features.projected(modality, layer, rows)  # type: ignore[no-any-return]

        if self.kept_projections is None or part.items is None or isinstance(layer, nn.Identity):
            return project(part.items)
        return self.kept_projections.rows(modality, project, part.items, part.n_batch_items)

    def last_users(self, user: Tensor, fanout: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        """Users that the last layer has to give for those of a batch: these, and whom a model adds to them."""
        return user

    def _sizes(self, fanout: Sequence[int], batch: int, keeps: bool) -> tuple[StepSize, StepSize]:
        """What a step on sampled neighbours touches, counted on a random batch of pairs, and one on the whole graph.

        A generator of its own draws the batch: what training draws later stays the same.
        """
        graph, device = self.graph, self.graph.to_user.col.device
        edges = (2 * self.n_hops + self.routes) * graph.n_edges
        whole = StepSize(edges, graph.n_users, graph.n_items, graph.n_items)
        if graph.n_edges == 0:
            return whole, whole
        generator = torch.Generator(device)
        generator.manual_seed(0)

        def draw(size: int) -> Tensor:
            return torch.randint(size, (batch,), generator=generator, device=device)

        pairs = draw(graph.n_edges)
        item = torch.cat((graph.to_user.col[pairs], draw(graph.n_items)))
        user = self.last_users(graph.to_user.row[pairs], fanout, generator)
        part = sample_neighbourhood(graph, user, item, fanout, self.routes, generator, self.reads_own_states)
        edges = sum(hop.to_user.n_edges + hop.to_item.n_edges for hop in part.hops)
        edges += 0 if part.routes is None else part.routes.pattern.n_edges
        users, items = len(part.users), len(part.items)  # type: ignore[arg-type]
        return StepSize(edges, users, items, part.n_batch_items if keeps else items), whole


class StepSize(NamedTuple):
    """What a training step touches."""

    edges: int
    users: int
    items: int
    projected: int

    def cost(self, width: int, features: int) -> int:
        """Numbers that are read: ``width`` an edge, user and item, and ``features`` an item that is projected.

        Example:
            >>> StepSize(edges=10, users=2, items=3, projected=3).cost(width=4, features=100)
            360
        """
        return (self.edges + self.users + self.items) * width + self.projected * features


def cheaper_sampled(sampled: int, whole: int) -> bool:
    """The rule of ``auto``: neighbours are sampled where a step then reads less than half as many numbers.

    Half, because a sampled edge costs about twice as much as one of a graph that stays: it is drawn, renumbered and
    turned round anew in every step.
    """
    return 2 * sampled < whole
