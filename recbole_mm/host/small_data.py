"""Batches of a small data set: the usual 2,048 pairs are one to three steps of an epoch there."""

from __future__ import annotations

import math
from logging import getLogger
from typing import Any

import recbole.data.utils as recbole_data

from recbole_mm.host.defaults import is_named
from recbole_mm.host.editing import edit

__all__ = ["FEWEST_STEPS", "install"]

FEWEST_STEPS = 4
"""Steps of an epoch below which its batches are made smaller."""
STEPS = 10
"""Steps that it has then, or more: batches are the next smaller power of two, as everyone's are."""
LEAST = 8
"""Rows of a batch at least: what compares the rows of a batch with each other has nothing to compare in one of one."""


def install() -> None:
    """Let ``shrink_batches`` decide; calling it again does nothing."""
    vars(recbole_data)["_recbole_mm_train_loader"] = _train_loader
    vars(recbole_data)["_recbole_mm_update"] = _update
    make = 'get_dataloader(config, "train")('
    edit(recbole_data.data_preparation, {make: f"_recbole_mm_train_loader({make[:-1]}, "}, count=2)
    edit(
        recbole_data.load_split_dataloaders,
        {"train_data.update_config(config)": "_recbole_mm_update(train_data, config)"},
    )


def suit_batch(config: Any, loader: Any) -> bool:
    """Set ``train_batch_size`` to what suits the rows of a training loader.

    Stopping counts epochs, and learning rates are chosen for epochs of many steps: a data set that is a batch or two
    stops before it has learnt anything. An option that somebody named is never touched, nor is the batch of a model
    that makes its own, or of a training that reads other data sets first, which may be large ones.

    Args:
        config: RecBole's ``Config``.
        loader: A loader of training rows, of any batch size.

    Returns:
        Whether it was changed, so that the loader has to be made anew.
    """
    elsewhere = config["pretrain_datasets"] or getattr(config.model_class, "makes_own_batches", False)
    if config["shrink_batches"] is not True or elsewhere or is_named(config, "train_batch_size"):
        return False
    pairs = getattr(loader, "general_dataloader", loader)  # a knowledge graph's loader has another one of facts
    usual, rows, times = config["train_batch_size"], pairs.sample_size, getattr(pairs, "times", 1)
    if math.ceil(rows / max(usual // times, 1)) >= FEWEST_STEPS:
        return False
    size = max(2 ** int(math.log2(max(rows / STEPS, 1))), LEAST) * times
    # Checkpoints keep RecBole's defaults beside its final options, and a training that goes on starts from those.
    config.internal_config_dict["train_batch_size"] = config["train_batch_size"] = size
    getLogger().info(
        f"train_batch_size: {size} instead of {usual}, because an epoch of {rows:,} rows would have fewer than "
        f"{FEWEST_STEPS} steps. Name a train_batch_size, or set shrink_batches to False, to have another."
    )
    return True


def _train_loader(make: Any, config: Any, *args: Any, **kwargs: Any) -> Any:
    loader = make(config, *args, **kwargs)
    return make(config, *args, **kwargs) if suit_batch(config, loader) else loader


def _update(loader: Any, config: Any) -> None:
    """Give a saved loader the options of this run; RecBole leaves its batches as they were saved."""
    suit_batch(config, loader)
    loader.update_config(config)
    for part in (loader, *(getattr(loader, name, None) for name in ("general_dataloader", "kg_dataloader"))):
        if getattr(part, "batch_sampler", None) is not None:
            part.batch_sampler.batch_size = part.step
