"""Rows and items of several data sets, mixed for a pre-training on features."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import getLogger
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.interaction import Interaction
from recbole.utils import init_seed

from recbole_mm.data.features.table import FeatureTable
from recbole_mm.model.feature_bank import FeatureBank

__all__ = ["MixedRows", "read_training_part", "stack_features"]

# What a caller says about one data set or one run, not about the others.
_OF_ONE_RUN = (
    "model", "dataset", "cold_start", "benchmark_filename", "pre_model_path", "config_files", "config_file_list",
    "save_dataset", "save_dataloaders", "dataset_save_path", "dataloaders_save_path",
)  # fmt: skip


class MixedRows:
    """Batches of training rows of several data sets, in a random order that torch's generator draws.

    Items of the second data set are numbered after those of the first, and so on; all share the padding 0.

    Args:
        parts: Training parts, sequential data sets of RecBole's.
        batch_size: Rows in a batch.
    """

    shuffle = True

    def __init__(self, parts: Sequence[Any], batch_size: int) -> None:
        first, columns, offset = parts[0], [], 0
        names = (first.iid_field + first.config["LIST_SUFFIX"], first.config["ITEM_LIST_LENGTH_FIELD"], first.iid_field)
        for part in parts:
            found = [
                part.inter_feat[part.iid_field + part.config["LIST_SUFFIX"]],
                part.inter_feat[part.config["ITEM_LIST_LENGTH_FIELD"]],
                part.inter_feat[part.iid_field],
            ]
            for index in (0, 2):
                found[index] = torch.where(found[index] > 0, found[index] + offset, found[index])
            columns.append(found)
            offset += part.item_num - 1
        self._columns = {name: torch.cat([found[i] for found in columns]) for i, name in enumerate(names)}
        self._rows, self.batch_size = len(self._columns[names[2]]), batch_size

    def __len__(self) -> int:
        return -(-self._rows // self.batch_size)

    def __iter__(self) -> Iterator[Interaction]:
        for rows in torch.randperm(self._rows).split(self.batch_size):
            yield Interaction({name: column[rows] for name, column in self._columns.items()})


def stack_features(banks: Sequence[FeatureBank]) -> FeatureBank:
    """One bank with the items of several, numbered as in :class:`MixedRows`."""

    def rows(tables: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([tables[0], *(table[1:].to(tables[0].device) for table in tables[1:])])

    stacked = {
        m: FeatureTable(m, "item", rows([bank[m] for bank in banks]), rows([bank.observed[m] for bank in banks]))
        for m in banks[0]
    }
    return FeatureBank(stacked, banks[0].weight)


def read_training_part(name: str, config: Any, model: Any) -> tuple[Any, FeatureBank]:
    """Training part of another data set, split as this run splits its own, and features prepared as the model's.

    Args:
        name: Name of the data set.
        config: Config of this run; what its caller has set holds for the other data set, too.
        model: The model of this run.

    Returns:
        RecBole's data set and the items' features.

    Raises:
        ValueError: It lacks a modality of the model, or has vectors of another width.
    """
    options = {key: value for key, value in config.external_config_dict.items() if key not in _OF_ONE_RUN}
    options.update(
        modalities=list(model.features), train_stage="inductive_ft", pretrain_datasets=None, seed=config["seed"],
        MAX_ITEM_LIST_LENGTH=config["MAX_ITEM_LIST_LENGTH"], augmented_modality=model.augmented or None,
    )  # fmt: skip
    with _as_if_nothing_was_drawn():
        try:
            other = Config(model=config["model"], dataset=name, config_dict=options)
            init_seed(other["seed"], other["reproducibility"])
            part = create_dataset(other).build()[0]
            features = type(model)(other, part).features
        except ValueError as error:
            raise ValueError(f"pretrain_datasets: {name}: {error}") from error
    for modality, width in model.features.dims.items():
        if features.dims[modality] != width:
            raise ValueError(
                f"pretrain_datasets: {modality} vectors of {name} have {features.dims[modality]} numbers, those of "
                f"{config['dataset']} {width}. Set project_to to a common width, or extract both with one encoder."
            )
    getLogger().info(f"pre-training reads {len(part.inter_feat):,} rows and {part.item_num - 1:,} items of {name}.")
    return part, features


@contextmanager
def _as_if_nothing_was_drawn() -> Iterator[None]:
    """Keeps the generators' states, the command line out of RecBole's Config, and its message off our log."""
    states, arguments = (random.getstate(), np.random.get_state(), torch.get_rng_state()), sys.argv
    sys.argv = arguments[:1]
    try:
        yield
    finally:
        sys.argv = arguments
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
