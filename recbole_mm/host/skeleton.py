"""What a model reads of its data set when it is made, without the files: taken apart, and put together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from importlib import import_module
from logging import getLogger
from typing import Any

import numpy as np
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType, ModelType

from recbole_mm.config.cold_start import read_cold_start
from recbole_mm.data.cold_start import ColdStartSplit
from recbole_mm.data.dataset import MultimodalMixin
from recbole_mm.data.features.files import FeatureFile

__all__ = ["restore", "skeleton_of", "why_not_saved"]

_TABLES = ("inter_feat", "user_feat", "item_feat")
_PLAIN = (str, int, float, bool, type(None))
# RecBole names these fields by what it has read; they are made again from the parts below.
_MADE = {"config", "logger", "dataset_path", *_TABLES}


def why_not_saved(config: Any) -> str | None:
    """Why a model cannot be kept without its data set; ``None`` if it can.

    Args:
        config: RecBole's Config of the model.
    """
    kind, name = config["MODEL_TYPE"], config["model"]
    if kind == ModelType.KNOWLEDGE:
        return f"{name} ranks by a knowledge graph, whose files it needs every time it is made"
    if kind == ModelType.DECISIONTREE:
        return f"{name} is a file of another library's trees, not a model of tensors"
    if name == "LDiffRec":
        return "LDiffRec reads a file of embeddings, which may be a pickle, every time it is made"
    return None


def skeleton_of(dataset: Any) -> dict[str, Any]:
    """The parts of a data set that a model may read, without raw ids and features.

    Args:
        dataset: The training part, a data set of RecBole's after the split.

    Returns:
        Names and numbers, field types, tables as columns of tensors, and what a cold-start protocol has set aside.
    """
    own = vars(dataset)
    simple = {key: value for key, value in own.items() if key not in _MADE and _is_simple(value)}
    tables = {name: dict(own[name].interaction) for name in _TABLES if own.get(name) is not None}
    cold = own.get("cold_start")
    support = own.get("support_interactions")
    return {
        "attributes": {key: list(value) if isinstance(value, tuple) else value for key, value in simple.items()},
        "types": {str(field): kind.value for field, kind in dataset.field2type.items()},
        "sources": {str(f): s.value if isinstance(s, Enum) else str(s) for f, s in dataset.field2source.items()},
        "lengths": {str(field): int(length) for field, length in dataset.field2seqlen.items()},
        "buckets": {str(field): int(number) for field, number in dataset.field2bucketnum.items()},
        "tables": {name: _columns(table) for name, table in tables.items()},
        "preloaded": {str(field): weight for field, weight in dataset._preloaded_weight.items()},
        "negative_items": own.get("negative_items"),
        "cold_start": None if cold is None else _cold_parts(cold),
        "support_interactions": None if support is None else _columns(support.interaction),
    }


def restore(
    config: Any,
    parts: Mapping[str, Any],
    vocabularies: Mapping[str, np.ndarray],
    files: Mapping[str, Mapping[str, FeatureFile]],
    modalities: Sequence[str] | None,
) -> Any:
    """A data set made of :func:`skeleton_of`, which no file was read for.

    Args:
        config: RecBole's Config of the model.
        parts: The parts.
        vocabularies: Field to its raw tokens by internal id.
        files: Entity to modality to its feature file.
        modalities: Names of the modalities that the data set may use; ``None`` for a data set without features.

    Returns:
        An object of the class that RecBole would make for the model.
    """
    dataset: Any = object.__new__(_class_of(config))
    dataset.config, dataset.logger, dataset.dataset_path = config, getLogger(), str(config["data_path"])
    for key, value in parts["attributes"].items():
        setattr(dataset, key, value)
    dataset.field2type = {field: FeatureType(kind) for field, kind in parts["types"].items()}
    dataset.field2source = {field: _source(name) for field, name in parts["sources"].items()}
    dataset.field2seqlen, dataset.field2bucketnum = dict(parts["lengths"]), dict(parts["buckets"])
    dataset.field2id_token = dict(vocabularies)
    dataset.field2token_id = {
        field: {token: index for index, token in enumerate(tokens.tolist())} for field, tokens in vocabularies.items()
    }
    dataset.alias, dataset._preloaded_weight = {}, dict(parts["preloaded"])
    for name in _TABLES:
        columns = parts["tables"].get(name)
        setattr(dataset, name, None if columns is None else Interaction(dict(columns)))
    dataset.negative_items = parts["negative_items"]
    if parts["cold_start"] is not None:
        dataset.cold_start = _cold_split(parts["cold_start"])
    if parts["support_interactions"] is not None:
        dataset.support_interactions = Interaction(dict(parts["support_interactions"]))
    if isinstance(dataset, MultimodalMixin) and modalities is not None:
        dataset.use_feature_files(files, modalities)
    return dataset


def _class_of(config: Any) -> Any:
    """As RecBole's ``create_dataset`` chooses."""
    own = getattr(import_module("recbole.data.dataset"), f"{config['model']}Dataset", None)
    return own or (SequentialDataset if config["MODEL_TYPE"] == ModelType.SEQUENTIAL else Dataset)


def _is_simple(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(entry, _PLAIN) for entry in value)
    return isinstance(value, _PLAIN)


def _source(name: str) -> Any:
    return FeatureSource(name) if name in {source.value for source in FeatureSource} else name


def _columns(table: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {str(name): column for name, column in table.items()}


def _cold_parts(cold: ColdStartSplit) -> dict[str, Any]:
    return {
        "options": {key: value for key, value in vars(cold.options).items() if value is not None},
        "users": cold.users,
        "items": cold.items,
        "support": _columns(cold.support.interaction),
        "candidates": cold.candidates,
        "known": {phase: list(pairs) for phase, pairs in cold.known.items()},
        "left_out": int(cold.left_out),
    }


def _cold_split(parts: Mapping[str, Any]) -> ColdStartSplit:
    given = dict(parts["options"])
    given.pop("candidates" if given["entity"] == "user" else "support", None)
    options = read_cold_start(given)
    if options is None:
        raise ValueError("cold_start: the folder names a protocol and has none.")
    return ColdStartSplit(
        options,
        parts["users"],
        parts["items"],
        support=Interaction(dict(parts["support"])),
        candidates=parts["candidates"],
        known={phase: (pairs[0], pairs[1]) for phase, pairs in parts["known"].items()},
        left_out=parts["left_out"],
    )
