"""RecBole data sets that know the features of their items, users and interactions."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from logging import getLogger
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import Dataset, SequentialDataset

from recbole_mm.config.shared import FEATURE_DTYPES, MISSING_FEATURES, active_weights, check_modalities, modality_names
from recbole_mm.data.features.files import ENTITIES, FeatureFile, discover, search_folders
from recbole_mm.data.features.store import AnyTable, FeatureStore, align, align_interactions, scale_warning
from recbole_mm.paths import dataset_atomic_dir

__all__ = ["MultimodalDataset", "MultimodalMixin", "MultimodalSequentialDataset"]


class MultimodalMixin:
    """Adds features to a RecBole data set: ``features``, a :class:`~recbole_mm.data.features.table.FeatureStore`.

    Feature files are ``<dataset>.<item|user|inter>.<modality>.npz`` (or ``.npy`` with ``.ids``, or ``.parquet``), in
    ``feature_path``, or else in the folder of the atomic files, or else in the packaged data sets. They are looked up
    when the data set is made and read when first asked for. The training, validation and test parts share what was
    read; a pickled data set carries none of it and reads the files again.

    Batches are those of RecBole to the last bit, and nothing is drawn from a global random state.
    """

    config: Any
    dataset_name: str
    dataset_path: str
    uid_field: str
    iid_field: str
    field2token_id: dict[str, dict[str, int]]
    inter_feat: Any
    user_feat: Any
    item_feat: Any
    _preloaded_weight: dict[str, np.ndarray]
    _given_files: dict[str, dict[str, FeatureFile]] | None = None

    @property
    def features(self) -> FeatureStore:
        """Features aligned to internal ids, without modalities of weight 0 and those not in ``modalities``."""
        if self._shared_features.store is None:
            self._shared_features.store = self._read_features()
        return self._shared_features.store

    def with_features(self, store: FeatureStore) -> MultimodalMixin:
        """The same data set with other features, such as permuted ones; shares everything else with this one.

        Args:
            store: The features, aligned to this data set's internal ids.

        Returns:
            A shallow copy.
        """
        clone = copy.copy(self)
        clone._shared_features = _SharedFeatures()
        clone._shared_features.store = store
        return clone

    def use_feature_files(self, files: Mapping[str, Mapping[str, FeatureFile]], modalities: Sequence[str]) -> None:
        """Read these feature files, wherever they lie, in place of those that are found by name.

        Args:
            files: Entity to modality to its file, of the modalities in use.
            modalities: Names of all modalities that options may name, sorted.
        """
        self._given_files = {entity: dict(files.get(entity, {})) for entity in ENTITIES}
        self._available_modalities = tuple(modalities)
        self._shared_features = _SharedFeatures()

    def get_preload_weight(self, field: str) -> np.ndarray:
        """Features of a modality as an array with a row per internal id, as RecBole hands out preloaded weights.

        Fields of RecBole's own option ``preload_weight`` come first, then items' modalities, then users'.

        Raises:
            ValueError: Neither a preloaded field nor a modality.
        """
        if field in self._preloaded_weight:
            return super().get_preload_weight(field)  # type: ignore[misc]
        tables = {**self.features.user, **self.features.item}
        if field not in tables:
            raise ValueError(
                f"{field!r} is neither in preload_weight nor a modality in use; "
                f"the modalities are {', '.join(sorted(tables))}."
            )
        feature = tables[field].feature
        return (feature.float() if feature.dtype == torch.bfloat16 else feature).numpy()

    def _data_filtering(self) -> None:
        if self._option("missing_feature", MISSING_FEATURES) == "drop":
            # RecBole's own first step, and harmless to repeat: it must see the original line numbers.
            self._filter_nan_user_or_item()  # type: ignore[attr-defined]
            self._drop_without_features()
        super()._data_filtering()  # type: ignore[misc]

    def _preload_weight_matrix(self) -> None:
        super()._preload_weight_matrix()  # type: ignore[misc]
        self._shared_features = _SharedFeatures()
        files = self._feature_files()
        if self._option("missing_feature", MISSING_FEATURES) == "drop" and self.config["benchmark_filename"]:
            self._check_nothing_to_drop(files)

    def _option(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.config[key]
        if value not in allowed:
            raise ValueError(
                f"{key}: expected one of {', '.join(allowed)}, got {value!r}. "
                "Registered models have a default (recbole_mm.register); for any other, set it in the Config."
            )
        return str(value)

    def _feature_files(self) -> dict[str, dict[str, FeatureFile]]:
        """The files of the active modalities, by entity."""
        if self._given_files is not None:
            return self._given_files
        name = self.dataset_name
        found = discover(
            name, search_folders(name, self.dataset_path, dataset_atomic_dir(), self.config["feature_path"])
        )
        there = sorted({modality for files in found.values() for modality in files})
        names = modality_names(self.config["modalities"])
        if names is None:
            names = there
        check_modalities(names, there)
        self._available_modalities = tuple(sorted(names))
        active = active_weights(self.config["modality_weight"], sorted(names))
        return {entity: {m: file for m, file in files.items() if m in active} for entity, files in found.items()}

    def _read_features(self) -> FeatureStore:
        files = self._feature_files()
        dtype = getattr(torch, self._option("feature_dtype", FEATURE_DTYPES))
        users, items = self.field2token_id[self.uid_field], self.field2token_id[self.iid_field]
        store = FeatureStore(
            item={modality: align(file, items, dtype) for modality, file in files["item"].items()},
            user={modality: align(file, users, dtype) for modality, file in files["user"].items()},
            inter={
                modality: align_interactions(file, users, items, dtype) for modality, file in files["inter"].items()
            },
            available=self._available_modalities,
        )
        for table in (*store.item.values(), *store.user.values()):
            self._warn_about_scale(table)
        return store

    def _warn_about_scale(self, table: AnyTable) -> None:
        norm = self.config["feature_norm"]
        norm = norm.get(table.modality, "none") if isinstance(norm, Mapping) else norm
        if norm in (None, "none"):
            message = scale_warning(table)
            if message is not None:
                getLogger().warning(message)

    def _drop_without_features(self) -> None:
        """``missing_feature: drop`` - remove the entities that lack an active modality, before RecBole's k-core."""
        for entity, field in (("user", self.uid_field), ("item", self.iid_field)):
            for modality, file in self._feature_files()[entity].items():
                tokens = file.tokens()[0]
                for feat_name in ("inter_feat", f"{entity}_feat"):
                    feat: pd.DataFrame | None = getattr(self, feat_name)
                    if feat is None:
                        continue
                    kept = feat[field].isin(tokens)
                    getLogger().info(
                        f"missing_feature: drop - {int((~kept).sum()):,} of {len(kept):,} rows of {feat_name} are "
                        f"dropped, of {feat.loc[~kept, field].nunique():,} {entity}s without {modality} features"
                    )
                    setattr(self, feat_name, feat[kept].copy())  # RecBole's filters change it in place
                    if not kept.any() and feat_name == "inter_feat":
                        raise ValueError(
                            f"missing_feature: drop leaves no interaction: no {entity} of the data set has a row in "
                            f"{file.path}. The data set has {feat[field].head(3).tolist()}, ..., the file "
                            f"{tokens[:3].tolist()}, ...; write the raw tokens of the atomic files."
                        )

    def _check_nothing_to_drop(self, files: dict[str, dict[str, FeatureFile]]) -> None:
        for entity, field in (("user", self.uid_field), ("item", self.iid_field)):
            for file in files[entity].values():
                lacking = set(self.field2token_id[field]) - set(file.tokens()[0].tolist()) - {"[PAD]"}
                if lacking:
                    raise ValueError(
                        f"missing_feature: drop would change the split that benchmark_filename fixes: {len(lacking):,} "
                        f"{entity}s have no row in {file.path} (such as {str(min(lacking))!r}). Choose zero, mean or "
                        "knn, or remove them from the files."
                    )


class MultimodalDataset(MultimodalMixin, Dataset):
    """RecBole's ``Dataset`` with features."""


class MultimodalSequentialDataset(MultimodalMixin, SequentialDataset):
    """RecBole's ``SequentialDataset`` with features."""


class _SharedFeatures:
    """Holds what was read, once for all copies of a data set; pickles as an empty one."""

    def __init__(self) -> None:
        self.store: FeatureStore | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (_SharedFeatures, ())
