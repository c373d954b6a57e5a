"""The pre-training network of MCPTR: an encoder per modality, and their fusion."""

from __future__ import annotations

from typing import Any, NamedTuple

import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.data.cooccurrence import cooccurrence
from recbole_mm.model.feature_bank import FeatureBank
from recbole_mm.model.mcptr.reviews import ReviewTable
from recbole_mm.nn.attention.aggregation import InterModalAttention, IntraModalAttention
from recbole_mm.nn.graph.graph_encoder import GraphEncoder, WeightedGraph
from recbole_mm.nn.graph.sparse import full_precision
from recbole_mm.nn.linear import Linear
from recbole_mm.nn.rows import batch_rows

__all__ = ["Encoders", "ModalityTables", "Reviews", "homogeneous_graph"]

CHUNK = 2**24
"""Numbers that whole tables are computed with at once: 64 MiB of float32."""

CONTENT_START = 3.0  # Of an aligned start: factor of the orthogonal maps that read content,
TABLE_START = 0.1  # and of the ID embeddings, which say nothing yet.


class Reviews(NamedTuple):
    """Encoded reviews of a batch of users: vectors and logits, whose they are, and which of them count."""

    encoded: Tensor
    logits: Tensor
    slots: Tensor
    present: Tensor


class ModalityTables(nn.Module):
    """What the encoders read, all constant: features, reviews and homogeneous graphs.

    Args:
        interactions: Distinct training pairs, ``(n_users, n_items)``.
        top_k: Links per node of the graphs.
        features: Of the items.
        user_features: Of the users, may be empty.
        reviews: Modality to reviews of users, may be empty.
    """

    def __init__(
        self,
        interactions: sp.csr_matrix,
        top_k: int,
        features: FeatureBank,
        user_features: FeatureBank,
        reviews: dict[str, ReviewTable],
    ) -> None:
        super().__init__()
        self.n_users, self.n_items = interactions.shape
        self.user_graph = WeightedGraph(homogeneous_graph(interactions, top_k))
        self.item_graph = WeightedGraph(homogeneous_graph(interactions.T.tocsr(), top_k))
        self.features, self.user_features = features, user_features
        self.review_tables = nn.ModuleDict(reviews)

    @property
    def reviews(self) -> dict[str, ReviewTable]:
        """Modality to reviews."""
        return {modality: table for modality, table in self.review_tables.items() if isinstance(table, ReviewTable)}


class Encoders(nn.Module):
    """All parameters of pre-training; every method takes the constant tables to read.

    Args:
        tables: What will be read.
        dim: Width of everything that is encoded.
        n_layers: Convolutions of the graph encoders.
        kind: ``gcn`` or ``lightgcn``.
        aligned: Whether users and items start with the same maps of content; else all maps are drawn independently.
    """

    def __init__(self, tables: ModalityTables, dim: int, n_layers: int, kind: str, aligned: bool) -> None:
        super().__init__()
        self.dim, modalities = dim, tables.features.dims
        self.user_graph = GraphEncoder(tables.n_users, dim, n_layers, kind)
        self.item_graph = GraphEncoder(tables.n_items, dim, n_layers, kind)
        self.project = nn.ModuleDict({m: _linear(width, dim) for m, width in modalities.items()})
        self.user_project = nn.ModuleDict({m: _linear(width, dim) for m, width in tables.user_features.dims.items()})
        self.reviews = nn.ModuleDict(
            {m: IntraModalAttention(reviews.feature.shape[1], dim) for m, reviews in tables.reviews.items()}
        )
        self.user_fusion, self.item_fusion = InterModalAttention(dim), InterModalAttention(dim)
        # With one modality there is nothing to align.
        self.align = nn.ModuleDict({m: _linear(dim, dim) for m in modalities} if len(modalities) > 1 else {})
        if aligned:
            self._align()

    @torch.no_grad()
    def _align(self) -> None:
        """Let a user's reviews and an item's features pass the same maps, and let content be heard before the IDs."""
        projects: dict[str, Any] = dict(self.project.items())
        reviews: dict[str, Any] = {modality: attention.project for modality, attention in self.reviews.items()}
        for layer in (*projects.values(), *reviews.values()):
            nn.init.orthogonal_(layer.weight, gain=CONTENT_START)
            nn.init.zeros_(layer.bias)
        for modality in reviews.keys() & projects.keys():
            # Vectors of another width are of another kind, and there is nothing to share.
            if reviews[modality].weight.shape == projects[modality].weight.shape:
                reviews[modality].weight.copy_(projects[modality].weight)
        for fusion in (self.user_fusion, self.item_fusion):
            nn.init.eye_(fusion.value.weight)
        for graph in (self.user_graph, self.item_graph):
            graph.embedding.weight.mul_(TABLE_START)

    def parameter_groups(self, learning_rate: float, graph_rate: float) -> list[dict[str, Any]]:
        """What an optimiser is given: content and fusion, then the graph encoders with a rate of their own."""
        graphs = [*self.user_graph.parameters(), *self.item_graph.parameters()]
        ids = {id(parameter) for parameter in graphs}
        others = [parameter for parameter in self.parameters() if id(parameter) not in ids]
        return [{"params": others}, {"params": graphs, "lr": graph_rate * learning_rate}]

    def encode_items(self, tables: ModalityTables, rows: Tensor | None) -> dict[str, Tensor]:
        """Encoded features of some items, or of all, ``{m: (n_rows, d)}``."""
        return {
            modality: self.project[modality](feature if rows is None else feature.index_select(0, rows))
            for modality, feature in tables.features.items()
        }

    def items(self, tables: ModalityTables, node: Tensor, encoded: dict[str, Tensor], rows: Tensor | None) -> Tensor:
        """Fused items, ``(n_rows, d)``, from all graph nodes and the encoded features of ``rows`` (``None``: all)."""
        bank = tables.features
        tokens = {modality: bank.weight[modality] * x for modality, x in encoded.items()}
        present = bank.observed
        if rows is not None:
            node, present = F.embedding(rows, node), {m: mask[rows] for m, mask in present.items()}
        return _fuse(self.item_fusion, node, tokens, present)

    def batch_reviews(self, tables: ModalityTables, users: Tensor, without: Tensor) -> dict[str, Reviews]:
        """Reviews of a batch of users but those of the items ``without``; only what the batch needs is encoded."""
        found = {}
        for modality, table in tables.reviews.items():
            slots, present = table.of(users, without)
            rows, place = batch_rows(slots.reshape(-1), len(table.feature))
            feature = table.feature if rows is None else table.feature.index_select(0, rows)
            slots = slots if place is None else place.view_as(slots)
            encoded, logits = self.reviews[modality].encode(full_precision(feature))
            found[modality] = Reviews(encoded, logits, slots, present)
        return found

    def users(self, tables: ModalityTables, node: Tensor, users: Tensor, reviews: dict[str, Reviews]) -> Tensor:
        """Fused users of a batch, ``(batch, d)``, from all graph nodes and the batch's reviews."""
        bank, tokens, present = tables.user_features, {}, {}
        for modality, (encoded, logits, slots, there) in reviews.items():
            pooled = IntraModalAttention.pool(encoded, logits, slots, there)
            tokens[f"review {modality}"] = tables.features.weight.get(modality, 1.0) * pooled
            present[f"review {modality}"] = there.any(dim=1)
        for modality, feature in bank.items():
            tokens[modality] = bank.weight[modality] * self.user_project[modality](feature.index_select(0, users))
            present[modality] = bank.observed[modality][users]
        return _fuse(self.user_fusion, F.embedding(users, node), tokens, present)

    def forward(self, tables: ModalityTables) -> tuple[Tensor, Tensor]:
        """Fused users and items, all of them, in chunks; with all reviews, since nothing is scored here."""
        node, parts = self.user_graph(tables.user_graph), []
        encoded = {m: self.reviews[m].encode(full_precision(table.feature)) for m, table in tables.reviews.items()}
        numbers = 4 * self.dim * (1 + len(encoded) + len(tables.user_features))
        numbers += sum(table.slots.shape[1] for table in tables.reviews.values()) + sum(
            tables.user_features.dims.values()
        )
        for ids in _chunks(tables.n_users, numbers, node.device):
            reviews = {}
            for modality, (vectors, logits) in encoded.items():
                reviews[modality] = Reviews(vectors, logits, *tables.reviews[modality].of(ids))
            parts.append(self.users(tables, node, ids, reviews))
        users = torch.cat(parts)
        node, parts = self.item_graph(tables.item_graph), []
        numbers = 4 * self.dim * (1 + len(tables.features)) + sum(tables.features.dims.values())
        for ids in _chunks(tables.n_items, numbers, node.device):
            parts.append(self.items(tables, node, self.encode_items(tables, ids), ids))
        return users, torch.cat(parts)


def homogeneous_graph(interactions: sp.csr_matrix, top_k: int) -> sp.csr_matrix:
    """Rows linked with the ``top_k`` rows that they share most columns with, and with themselves, ``(n, n)``."""
    counts = cooccurrence(interactions, top_k).astype("float32")
    return counts.maximum(counts.T).tocsr() + sp.identity(counts.shape[0], dtype="float32", format="csr")


def _fuse(fusion: InterModalAttention, node: Tensor, tokens: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
    """Fuse the graph token, which every node has, with those of the other modalities."""
    always = torch.ones(len(node), dtype=torch.bool, device=node.device)
    mask = torch.stack([*(present[modality] for modality in tokens), always], dim=1)
    fused: Tensor = fusion(torch.stack([*tokens.values(), node], dim=1), mask)
    return fused


def _chunks(n_rows: int, numbers: int, device: torch.device) -> tuple[Tensor, ...]:
    """All row ids, in chunks that take ``numbers`` numbers a row."""
    return torch.arange(n_rows, device=device).split(max(1, CHUNK // numbers))


def _linear(width: int, dim: int) -> Linear:
    layer = Linear(width, dim)
    nn.init.xavier_uniform_(layer.weight)
    return layer
