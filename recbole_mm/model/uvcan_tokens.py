"""The tokens of UVCAN: what its co-attention sees of an item and of a user."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mm.model.base import FeatureBank
from recbole_mm.model.tokens import SideFields
from recbole_mm.nn.attention import attention_pool
from recbole_mm.nn.coattention import AdditiveAttention, Tokens, take_rows
from recbole_mm.nn.graph import BipartiteGraph
from recbole_mm.nn.pooling import history_mean, history_mean_without, history_sum

__all__ = ["ItemTokens", "UserTokens"]


class ItemTokens(nn.Module):
    r"""ID, modalities and side fields of items.

    A modality of one vector per item gives the token :math:`w_m (W_m f_i + b_m)`, with :math:`w_m` its
    ``modality_weight``. One of :math:`R > 1` vectors (patches) is pooled once per query :math:`q`, the queries being
    the ID token and the token of every modality with one vector, each with parameters of its own:

    .. math:: p_r = w_m (W_m f_{i,r} + b_m), \quad s_r = a^\top \tanh(A p_r + B q), \quad
              v_i^q = \textstyle\sum_r \mathrm{softmax}_r(s_r)\, p_r

    Args:
        features: Item features.
        observed: Which items have each modality, bool ``(n_items,)``, for each of ``features``.
        n_items: Number of items.
        dim: Width of the tokens.
        hidden: Width of the comparisons of patches with queries.
        side: Side fields.

    Attributes:
        slots: Modality to the positions of its tokens.
    """

    present: Tensor

    def __init__(
        self, features: FeatureBank, observed: dict[str, Tensor], n_items: int, dim: int, hidden: int, side: SideFields
    ) -> None:
        super().__init__()
        self.features, self.side = features, side
        self.embedding = nn.Embedding(n_items, dim)
        self.project = nn.ModuleDict({m: nn.Linear(width, dim) for m, width in features.dims.items()})
        patched = [m for m, feature in features.items() if feature.dim() == 3 and feature.shape[1] > 1]
        self.plain = [m for m in features if m not in patched]
        self.patch_attention = nn.ModuleDict(
            {m: nn.ModuleList(AdditiveAttention(dim, hidden, False) for _ in ("id", *self.plain)) for m in patched}
        )
        present, self.slots = [torch.ones(n_items, dtype=torch.bool)], {}
        for modality in (*self.plain, *patched):
            start = len(present)
            present.append(observed[modality])
            if modality in patched:
                present += [observed[modality] & observed[query] for query in self.plain]
            self.slots[modality] = list(range(start, len(present)))
        self.register_buffer("present", torch.stack(present, dim=1), persistent=False)

    def forward(self, ids: Tensor | None = None) -> Tokens:
        """Tokens of the given items, ``(n,)``, or of all of them, in order."""
        tokens = [self.embedding.weight if ids is None else self.embedding(ids)]
        tokens += [self._project(modality, ids).reshape(len(tokens[0]), -1) for modality in self.plain]
        queries = tuple(tokens)
        for modality, attentions in self.patch_attention.items():
            patches = self._project(modality, ids)
            everywhere = torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device)
            for attention, query in zip(cast("list[AdditiveAttention]", attentions), queries):
                tokens.append(attention_pool(attention(attention.keys(patches), query, everywhere), patches))
        return _assemble(tokens, _rows(self.present, ids), *self.side(ids))

    def _project(self, modality: str, ids: Tensor | None) -> Tensor:
        return self.features.weight[modality] * self.project[modality](_rows(self.features[modality], ids))


class UserTokens(nn.Module):
    r"""ID, modalities and side fields of users.

    A modality comes from a user feature file, or else from the training history: :math:`w_m (W_m x_u + b_m)` with
    :math:`x_u` the mean of the items' vectors (of a mean over the patches, where there are several). Pooling and
    projecting are linear, so the scored item of a training pair is taken out after the projection.

    Args:
        features: Item features.
        observed: Which items have each modality, bool ``(n_items,)``, for each of ``features``.
        files: User features; modalities that are here are not pooled.
        file_observed: Which users have each modality, bool ``(n_users,)``, for each of ``files``.
        graph: Training pairs.
        dim: Width of the tokens.
        side: Side fields.

    Attributes:
        n_pooled: Number of tokens from the history; they come last.
    """

    present: Tensor
    count: Tensor
    counted: Tensor

    def __init__(
        self,
        features: FeatureBank,
        observed: dict[str, Tensor],
        files: FeatureBank,
        file_observed: dict[str, Tensor],
        graph: BipartiteGraph,
        dim: int,
        side: SideFields,
    ) -> None:
        super().__init__()
        self.features, self.files, self.side = features, files, side
        self.embedding = nn.Embedding(graph.n_users, dim)
        self.project_file = nn.ModuleDict({m: nn.Linear(width, dim) for m, width in files.dims.items()})
        present = [torch.ones(graph.n_users, dtype=torch.bool), *(file_observed[m] for m in files)]
        self.register_buffer("present", torch.stack(present, dim=1), persistent=False)

        pooled = {m: width for m, width in features.dims.items() if m not in files}
        self.n_pooled = len(pooled)
        self.project = nn.ModuleDict({m: nn.Linear(width, dim) for m, width in pooled.items()})
        count = torch.zeros(graph.n_users, len(pooled))
        counted = torch.zeros(graph.n_items, len(pooled), dtype=torch.bool)
        for index, modality in enumerate(pooled):
            vectors, counted[:, index] = _one_vector(features[modality]), observed[modality]
            total, count[:, index] = history_sum(graph.to_user, vectors, observed[modality])
            self.register_buffer(f"total_{index}", total, persistent=False)
        self.register_buffer("count", count, persistent=False)
        self.register_buffer("counted", counted, persistent=False)

    def forward(self, ids: Tensor | None = None) -> tuple[Tokens, Tensor]:
        """Tokens of the given users, ``(n,)``, or of all of them, in order, for items that are not in their history.

        Returns:
            The tokens, and the projected sums over the history with shape ``(n, n_pooled, dim)`` for :meth:`without`.
        """
        tokens = [self.embedding.weight if ids is None else self.embedding(ids)]
        for modality, project in self.project_file.items():
            vectors = _rows(_one_vector(self.files[modality]), ids)
            tokens.append(self.files.weight[modality] * project(vectors))
        n = len(tokens[0])
        totals = [
            F.linear(_rows(getattr(self, f"total_{index}"), ids), project.weight)
            for index, project in enumerate(self._linear().values())
        ]
        total = torch.stack(totals, dim=1) if totals else tokens[0].new_zeros(n, 0, tokens[0].shape[1])
        shared = _assemble(tokens, _rows(self.present, ids), *self.side(ids))
        pooled = self._finish(*history_mean(total, _rows(self.count, ids)))
        return Tokens(*(torch.cat(pair, dim=1) for pair in zip(shared, pooled))), total

    def without(self, total: Tensor, users: Tensor, items: Tensor) -> Tokens:
        """Tokens from the history of pairs that belong to it, the pair's own item left out.

        Args:
            total: Projected sums of ``users`` from :meth:`forward`, ``(batch, n_pooled, dim)``.
            users: Shape ``(batch,)``.
            items: Shape ``(batch,)``.

        Returns:
            Shape ``(batch, n_pooled, dim)``, in place of the last tokens of :meth:`forward`.
        """
        whole = len(self.counted) <= len(items)
        targets = []
        for modality, project in self._linear().items():
            feature = _one_vector(self.features[modality])
            projected = F.linear(feature if whole else feature[items], project.weight)
            targets.append(take_rows(projected, items) if whole else projected)
        target = torch.stack(targets, dim=1) if targets else total
        return self._finish(*history_mean_without(total, self.count[users], target, self.counted[items]))

    def _linear(self) -> dict[str, nn.Linear]:
        return cast("dict[str, nn.Linear]", dict(self.project.items()))

    def _finish(self, mean: Tensor, present: Tensor) -> Tokens:
        """Add the biases and apply the modality weights."""
        tokens = [
            self.features.weight[modality] * (mean[:, index] + project.bias)
            for index, (modality, project) in enumerate(self._linear().items())
        ]
        return Tokens(torch.stack(tokens, dim=1) if tokens else mean, present)


def _assemble(tokens: list[Tensor], present: Tensor, side: Tensor, side_present: Tensor) -> Tokens:
    return Tokens(torch.cat([torch.stack(tokens, dim=1), side], dim=1), torch.cat([present, side_present], dim=1))


def _rows(table: Tensor, ids: Tensor | None) -> Tensor:
    return table if ids is None else table[ids]


def _one_vector(feature: Tensor) -> Tensor:
    return feature.mean(dim=1) if feature.dim() == 3 else feature
