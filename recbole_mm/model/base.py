"""What every multimodal recommender shares: options, feature tables, training pairs and a loss between modalities."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import combinations
from logging import getLogger
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from recbole.model.abstract_recommender import GeneralRecommender, SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_mm.config import ModelOptions
from recbole_mm.config.graph_batch import refuse_sampling
from recbole_mm.config.shared import COLD_FEATURES, DENSE_BACKENDS, FEATURE_NORMS, MISSING_FEATURES, active_weights
from recbole_mm.data.features.names import check_usable_names
from recbole_mm.data.features.store import AnyTable, prepare
from recbole_mm.model.feature_bank import FeatureBank, relative_weights
from recbole_mm.model.interactions import training_interactions, warn_about_neighbours, with_pairs
from recbole_mm.model.vector_scores import VectorScores
from recbole_mm.nn.diagnosis import Part
from recbole_mm.nn.graph.bipartite import BipartiteGraph
from recbole_mm.nn.linear import set_default_backend
from recbole_mm.nn.loss import first_occurrence, info_nce_loss

__all__ = ["MultimodalModelMixin", "MultimodalRecommender", "MultimodalSequentialRecommender"]


class MultimodalModelMixin(VectorScores):
    """Set-up and losses shared by general and sequential multimodal recommenders.

    A model calls ``super().__init__(config, dataset)`` and finds

    * ``self.options``: strict reading of its options,
    * ``self.features``, ``self.user_features``: a :class:`FeatureBank` for items and one for users,
    * ``self.modality_names``: the names that an option per modality may use, those left out by weight 0 included,
    * ``self.interactions``: the distinct training pairs as a binary scipy CSR matrix,
    * ``self.known_items``: under ``cold_start``, a bool tensor of the items with a training interaction, else ``None``
      for all. Whatever training computes over all items (statistics, item graphs, clusters, candidates of a loss) must
      leave the others out; ``cold_features: transductive`` makes it ``None``,
    * ``self.known_rows``: the same by entity, ``item`` and ``user``, on the CPU; empty for all,

    and implements ``forward`` (representations of users and items) and ``calculate_loss``. Scores are inner products
    of the representations (:class:`VectorScores`) unless a model overrides ``predict`` and ``full_sort_predict``.

    Its class states what it can do, by the attributes below; `recbole_mm.host.tags` puts them together with what
    follows from its type and its trainer.
    """

    #: Whether the score of an item without training interactions depends on its features.
    ranks_new_items = True
    #: Whether a user without training rows is known by the interactions that an evaluation hands in.
    new_users = False
    #: The feature files that it reads: of ``item``, ``user`` and ``review`` (interactions).
    uses: tuple[str, ...] = ("item",)
    #: Fewest item modalities that it works with.
    min_modalities = 1
    #: Whether the model reads several vectors per item, ``(n, R, d)``; otherwise they are averaged over ``R``.
    accepts_patches = False
    #: Whether ``graph_batch: sampled`` trains it on sampled neighbours (`recbole_mm.model.sampled_graph`).
    samples_graph = False
    #: Whether its training goes by batches of its own, not by those of RecBole's loader (``train_batch_size``).
    makes_own_batches = False
    #: Whether ``contrastive_weight`` weighs a term of the model's own instead of :meth:`modality_contrast`.
    has_contrastive_term = False

    #: Whether the ranking reads the features; otherwise training alone does, and permuting their rows changes no list.
    ranks_by_features = True
    #: Options that count nearest neighbours, and what these are.
    neighbour_counts: ClassVar[Mapping[str, str]] = MappingProxyType({"knn_k": "item", "user_knn_k": "user"})
    #: Whether every step of training sends gradients to the parameters that read the features.
    learns_features_in_every_step = True

    options: ModelOptions
    features: FeatureBank
    user_features: FeatureBank
    modality_names: tuple[str, ...]
    known_items: Tensor | None
    known_rows: Mapping[str, Tensor]
    begun_at: float

    @property
    def ranked_modalities(self) -> tuple[str, ...]:
        """Modalities whose rows the ranking reads."""
        return tuple(self.features) if self.ranks_by_features else ()

    def _set_up_multimodal(self, config: Any, dataset: Any) -> None:
        self.begun_at, name = time.process_time(), type(self).__name__
        store = getattr(dataset, "features", None)
        if store is None:
            raise ValueError(
                f"{name} needs a dataset with multimodal features, got a plain {type(dataset).__name__}. Register the "
                "model with recbole_mm.register(...) so that RecBole builds a recbole_mm dataset for it."
            )
        if not store.item:
            raise ValueError(
                f"{name} needs at least one item feature file <dataset>.item.<modality>.npz for dataset "
                f"{dataset.dataset_name!r}, and found none. Put the files beside the atomic files or set feature_path."
            )
        if len(store.item) < self.min_modalities:
            raise ValueError(
                f"{name} needs {self.min_modalities} item modalities at least, got {', '.join(store.item)} for dataset "
                f"{dataset.dataset_name!r}. Add a feature file <dataset>.item.<modality>.npz, or name it in modalities."
            )
        check_usable_names((*store.item, *store.user, *store.inter))
        self.options, self.modality_names = ModelOptions(config, name), store.available
        self.interactions = training_interactions(dataset, self.n_users, self.n_items)  # type: ignore[attr-defined]
        self.dense_backend = self.options.choice("dense_backend", DENSE_BACKENDS, before="torch")
        set_default_backend(self.dense_backend)
        refuse_sampling(config["graph_batch"], name, self.samples_graph)
        norm = self.options.per_modality("feature_norm", store.available, "choice", FEATURE_NORMS, default="none")
        missing = self.options.choice("missing_feature", MISSING_FEATURES)
        weight = relative_weights(active_weights(config["modality_weight"], store.available), store.item)

        cold_features = self.options.choice("cold_features", COLD_FEATURES, before="transductive")
        inductive = cold_features == "inductive" and getattr(dataset, "cold_start", None) is not None
        by_user = self.interactions.T.tocsr()
        known = {"item": with_pairs(self.interactions), "user": with_pairs(by_user)} if inductive else {}
        self.known_rows = known
        self.register_buffer("known_items", known.get("item"), persistent=False)  # type: ignore[attr-defined]

        disk = self.options.optional_text("feature_disk", before=None)

        def bank(tables: Mapping[str, AnyTable], interactions: sp.csr_matrix) -> FeatureBank:
            prepared = {}
            for modality, table in sorted(tables.items()):
                if len(table.shape) == 3 and not self.accepts_patches:
                    getLogger().info(f"{name} reads one vector per {table.entity}: {modality} vectors are averaged.")
                    table = table.means()
                prepared[modality] = prepare(
                    table, norm[modality], missing, interactions, known.get(table.entity), disk
                )
            return FeatureBank(prepared, {modality: weight.get(modality, 1.0) for modality in prepared})

        self.features = bank(store.item, self.interactions)
        self.user_features = bank(store.user, by_user)
        self.contrastive_weight = self.options.number("contrastive_weight", minimum=0)
        self.contrastive_temperature = self.options.number("contrastive_temperature")
        if self.contrastive_weight > 0 and len(self.features) < 2 and not self.has_contrastive_term:
            getLogger().warning(
                f"contrastive_weight has no effect: it compares modalities, and {name} has only one here."
            )
        rows = {"item": self.n_items, "user": self.n_users}  # type: ignore[attr-defined]
        warn_about_neighbours(config, {key: rows[entity] for key, entity in self.neighbour_counts.items()})
        self._set_up_scores()

    @property
    def training_pairs(self) -> tuple[Tensor, Tensor]:
        """Users and items of the distinct training pairs, sorted by user and then item, on the CPU."""
        pairs = self.interactions.tocoo()
        return torch.from_numpy(pairs.row.astype(np.int64)), torch.from_numpy(pairs.col.astype(np.int64))

    def interaction_graph(self) -> BipartiteGraph:
        """The bipartite graph of the distinct training pairs."""
        return BipartiteGraph(*self.training_pairs, self.n_users, self.n_items)  # type: ignore[attr-defined]

    def keep_observed(self) -> None:
        """Register which modalities a node has as buffers.

        ``item_observed``, ``(n_items, n_modalities)``: whether an item has a vector. ``user_observed``, ``(n_users,
        n_modalities)``: whether one of a user's training items has.
        """
        items = self.features.stacked_observed()
        users = torch.from_numpy(self.interactions @ items.numpy().astype("float32")) > 0
        self.register_buffer("item_observed", items, persistent=False)  # type: ignore[attr-defined]
        self.register_buffer("user_observed", users, persistent=False)  # type: ignore[attr-defined]

    def diagnostics(self) -> Mapping[str, Part]:
        """What parts of the model do at present, by name, for the check that none of them does nothing.

        Called in evaluation mode without gradients. A part that options switch off is left out.
        """
        return {}

    def modality_contrast(self, rows: Mapping[str, Tensor], items: Tensor) -> Tensor:
        r"""Symmetric InfoNCE between the modality representations of the batch's distinct items.

        .. math:: L = \frac{1}{|P|} \sum_{(m, n) \in P} \tfrac12 \left[ \mathrm{CE}(S^{mn}, \mathrm{diag})
                  + \mathrm{CE}(S^{nm}, \mathrm{diag}) \right], \quad
                  S^{mn}_{ij} = \langle \bar h^m_i, \bar h^n_j \rangle / \tau

        over all pairs :math:`P` of modalities; an item takes part in a pair when it has both. This is the term that
        ``contrastive_weight`` adds to models whose paper has none.

        Args:
            rows: Modality to the representations of ``items``, each ``(batch, d)``.
            items: Item ids, ``(batch,)``; repeated ids count once.

        Returns:
            The weighted loss, a scalar; zero with fewer than two modalities.
        """
        total = next(iter(rows.values())).new_zeros(())
        pairs = list(combinations(rows, 2))
        distinct = first_occurrence(items)
        observed = self.features.observed
        for left, right in pairs:
            valid = distinct & observed[left][items] & observed[right][items]
            total = total + info_nce_loss(
                rows[left], rows[right], self.contrastive_temperature, symmetric=True, valid=valid
            )
        return self.contrastive_weight * total / max(len(pairs), 1)


class MultimodalRecommender(MultimodalModelMixin, GeneralRecommender):
    """Base of the general multimodal recommenders: a model gives representations of users and items, and a loss.

    Example:
        >>> import recbole_mm
        >>> from torch import nn
        >>> @recbole_mm.register
        ... class Projected(recbole_mm.MultimodalRecommender):
        ...     def __init__(self, config, dataset):
        ...         super().__init__(config, dataset)
        ...         self.user_embedding = nn.Embedding(self.n_users, 8)
        ...         self.project = nn.ModuleDict({m: nn.Linear(d, 8) for m, d in self.features.dims.items()})
        ...     def forward(self):
        ...         return self.user_embedding.weight, sum(self.project[m](x) for m, x in self.features.items())
        ...     def calculate_loss(self, interaction):
        ...         users, items = self.forward()
        ...         user = users[interaction[self.USER_ID]]
        ...         better = items[interaction[self.ITEM_ID]] - items[interaction[self.NEG_ITEM_ID]]
        ...         return nn.functional.softplus(-(user * better).sum(dim=1)).mean()
        >>> result = recbole_mm.run("Projected", "mm-toy", config_dict={"epochs": 1})
        >>> print(result["test_result"]["recall@10"] > 0)
        True
    """

    input_type = InputType.PAIRWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self._set_up_multimodal(config, dataset)


class MultimodalSequentialRecommender(MultimodalModelMixin, SequentialRecommender):
    """Base of the sequential multimodal recommenders: a model scores items after a history.

    Example:
        >>> import recbole_mm
        >>> from torch import nn
        >>> @recbole_mm.register
        ... class LikeTheLast(recbole_mm.MultimodalSequentialRecommender):
        ...     def __init__(self, config, dataset):
        ...         super().__init__(config, dataset)
        ...         self.project = nn.ModuleDict({m: nn.Linear(d, 8) for m, d in self.features.dims.items()})
        ...     def scores(self, interaction):
        ...         items = sum(self.project[m](x) for m, x in self.features.items())
        ...         last = interaction[self.ITEM_SEQ].gather(1, interaction[self.ITEM_SEQ_LEN][:, None] - 1)
        ...         return items[last[:, 0]] @ items.T
        ...     def calculate_loss(self, interaction):
        ...         return nn.functional.cross_entropy(self.scores(interaction), interaction[self.POS_ITEM_ID])
        ...     def predict(self, interaction):
        ...         return self.scores(interaction).gather(1, interaction[self.ITEM_ID][:, None])[:, 0]
        ...     full_sort_predict = scores
        >>> result = recbole_mm.run("LikeTheLast", "mm-toy", config_dict={"epochs": 1})
        >>> print(result["test_result"]["recall@10"] > 0)
        True
    """

    input_type = InputType.PAIRWISE
    new_users = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.n_users = dataset.num(self.USER_ID)  # RecBole's sequential base counts items only
        self._set_up_multimodal(config, dataset)
