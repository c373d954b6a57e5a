"""Training of graph models on sampled neighbours: what the options mean, and what a step propagates over."""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger
from typing import Any

import torch
from torch import Tensor

from recbole_mm.config.graph_batch import fanouts
from recbole_mm.nn.graph.bipartite import BipartiteGraph
from recbole_mm.nn.graph.sampling import Neighbourhood, sample_neighbourhood

__all__ = ["SamplesGraph", "cheaper_sampled", "sampled_work"]


class SamplesGraph:
    """Beside a model base: ``graph_batch`` and ``fanout`` for models that propagate over the user-item graph.

    A model has ``self.graph`` and calls :meth:`set_up_sampling` at the end of its ``__init__``; its training step asks
    :meth:`neighbourhood` what to propagate over. In evaluation mode, and wherever no batch is given, that is the whole
    graph, so rankings do not depend on these options.
    """

    samples_graph = True

    graph: BipartiteGraph
    training: bool
    fanout: list[int] | None

    def set_up_sampling(self, config: Any, n_hops: int, routes: bool = False) -> None:
        """Read the options.

        Args:
            config: RecBole's ``Config``.
            n_hops: Hops that the model propagates over.
            routes: Whether it also wants the items of all users that take part.
        """
        self.n_hops, self.routes, self.fanout = n_hops, routes, None
        # A checkpoint from before the options has neither.
        mode = config["graph_batch"] or "full"
        if mode == "full":
            return
        fanout = fanouts(config["fanout"], n_hops, type(self).__name__)
        if mode == "auto":
            sampled, whole = self._work(fanout, int(config["train_batch_size"]))
            chosen = cheaper_sampled(sampled, whole)
            getLogger().info(
                f"graph_batch: auto - a step touches about {sampled:,} of {whole:,} edges and rows with sampled "
                f"neighbours (fanout {fanout}): {'sampled' if chosen else 'full'}."
            )
            if not chosen:
                return
        self.fanout = fanout

    def neighbourhood(self, user: Tensor | None = None, item: Tensor | None = None) -> Neighbourhood:
        """What a step propagates over for the given rows of users and items, ``None`` for all of them."""
        if self.fanout is None or not self.training or user is None or item is None:
            return Neighbourhood((self.graph,) * self.n_hops, None, None, user, item)
        return sample_neighbourhood(self.graph, user, item, self.fanout, self.routes)

    def _work(self, fanout: Sequence[int], batch: int) -> tuple[int, int]:
        """Edges and rows of a step on sampled neighbours, and on the whole graph."""
        return sampled_work(self.graph, fanout, batch, self.routes), whole_work(self.graph, self.n_hops)


def sampled_work(graph: BipartiteGraph, fanout: Sequence[int], batch: int, routes: bool = False) -> int:
    """Edges and rows that one step on sampled neighbours touches, counted on a random batch of pairs.

    A generator of its own draws the batch: what training draws later stays the same.
    """
    if graph.n_edges == 0:
        return 0
    generator = torch.Generator(graph.to_user.col.device)
    generator.manual_seed(0)
    device = graph.to_user.col.device

    def draw(size: int) -> Tensor:
        return torch.randint(size, (batch,), generator=generator, device=device)

    pairs = draw(graph.n_edges)
    item = torch.cat((graph.to_user.col[pairs], draw(graph.n_items)))
    part = sample_neighbourhood(graph, graph.to_user.row[pairs], item, fanout, routes, generator)
    edges = sum(hop.to_user.n_edges + hop.to_item.n_edges for hop in part.hops)
    return edges + len(part.users) + len(part.items)  # type: ignore[arg-type]


def whole_work(graph: BipartiteGraph, n_hops: int) -> int:
    """Edges and rows that one step on the whole graph touches."""
    return 2 * n_hops * graph.n_edges + graph.n_users + graph.n_items


def cheaper_sampled(sampled: int, whole: int) -> bool:
    """The rule of ``auto``: neighbours are sampled where a step then touches less than half as many edges and rows.

    Half, because a sampled edge costs about twice as much as one of a graph that stays: it is drawn, renumbered and
    turned round anew in every step.
    """
    return 2 * sampled < whole
