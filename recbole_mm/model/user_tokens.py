"""The tokens of a user, for models whose users and items are sets of tokens (UVCAN, CMBF)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.model.feature_bank import FeatureBank
from recbole_mm.model.tokens import SideFields, assemble, one_vector, select_rows
from recbole_mm.nn.attention.coattention import Tokens, take_rows
from recbole_mm.nn.graph.bipartite import BipartiteGraph
from recbole_mm.nn.graph.pooling import history_mean, history_mean_without, history_sum
from recbole_mm.nn.linear import Linear, linear

__all__ = ["UserTokens", "user_files"]


def user_files(model: MultimodalRecommender, source: str) -> FeatureBank:
    """The user feature files that ``user_feature_source`` asks for: all for ``file``, none for another source.

    Raises:
        ValueError: ``file`` is asked for and there is no user feature file.
    """
    if source != "file":
        return FeatureBank({}, {})
    if not model.user_features:
        raise ValueError(
            f"{type(model).__name__} option 'user_feature_source': file needs a user feature file "
            f"<dataset>.user.<modality>.npz, and there is none for the modalities in use; add one or choose history."
        )
    return model.user_features


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
        self.project_file = nn.ModuleDict({m: Linear(width, dim) for m, width in files.dims.items()})
        present = [torch.ones(graph.n_users, dtype=torch.bool), *(file_observed[m] for m in files)]
        self.register_buffer("present", torch.stack(present, dim=1), persistent=False)

        pooled = {m: width for m, width in features.dims.items() if m not in files}
        self.n_pooled = len(pooled)
        self.project = nn.ModuleDict({m: Linear(width, dim) for m, width in pooled.items()})
        count = torch.zeros(graph.n_users, len(pooled))
        counted = torch.zeros(graph.n_items, len(pooled), dtype=torch.bool)
        for index, modality in enumerate(pooled):
            vectors, counted[:, index] = one_vector(features, modality), observed[modality]
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
            vectors = select_rows(one_vector(self.files, modality), ids)
            tokens.append(self.files.weight[modality] * project(vectors))
        n = len(tokens[0])
        totals = [
            linear(select_rows(getattr(self, f"total_{index}"), ids), project.weight, backend=project.backend)
            for index, project in enumerate(self._linear().values())
        ]
        total = torch.stack(totals, dim=1) if totals else tokens[0].new_zeros(n, 0, tokens[0].shape[1])
        shared = assemble(tokens, select_rows(self.present, ids), *self.side(ids))
        pooled = self._finish(*history_mean(total, select_rows(self.count, ids)))
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
            feature = one_vector(self.features, modality)
            projected = linear(feature if whole else feature[items], project.weight, backend=project.backend)
            targets.append(take_rows(projected, items) if whole else projected)
        target = torch.stack(targets, dim=1) if targets else total
        return self._finish(*history_mean_without(total, self.count[users], target, self.counted[items]))

    def _linear(self) -> dict[str, Linear]:
        return cast("dict[str, Linear]", dict(self.project.items()))

    def _finish(self, mean: Tensor, present: Tensor) -> Tokens:
        """Add the biases and apply the modality weights."""
        tokens = [
            self.features.weight[modality] * (mean[:, index] + project.bias)
            for index, (modality, project) in enumerate(self._linear().items())
        ]
        return Tokens(torch.stack(tokens, dim=1) if tokens else mean, present)
