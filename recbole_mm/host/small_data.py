"""Batches of a small data set: the usual 2,048 pairs are one to three steps of an epoch there."""

from __future__ import annotations

import math
from functools import partial
from logging import getLogger
from typing import Any

import recbole.data.utils as recbole_data

from recbole_mm.host.defaults import is_named
from recbole_mm.host.editing import edit
from recbole_mm.host.wrapping import wrap

__all__ = ["FEWEST_STEPS", "install"]

FEWEST_STEPS = 4
"""Steps of an epoch below which its batches are made smaller."""
STEPS = 10
"""Steps that it has then, or more: batches are the next smaller power of two, as everyone's are."""


def install() -> None:
    """Let ``shrink_batches`` decide; calling it again does nothing."""
    wrap(recbole_data, "get_dataloader", _get_dataloader)
    vars(recbole_data)["shrink_batches"] = shrink_batches
    update = "train_data.update_config(config)"
    edit(recbole_data.load_split_dataloaders, {update: f"shrink_batches(config, train_data)\n    {update}"})


def shrink_batches(config: Any, loader: Any) -> bool:
    """Set ``train_batch_size`` to what suits the rows of a training loader.

    Stopping counts epochs, and learning rates are chosen for epochs of many steps: a data set that is a batch or two
    stops before it has learnt anything. An option that somebody named is never touched, nor is the batch of a training
    that reads other data sets first, which may be large ones.

    Args:
        config: RecBole's ``Config``.
        loader: A loader of training rows, of any batch size.

    Returns:
        Whether it was changed, so that the loader has to be made anew.
    """
    if config["shrink_batches"] is not True or config["pretrain_datasets"] or is_named(config, "train_batch_size"):
        return False
    pairs = getattr(loader, "general_dataloader", loader)  # a knowledge graph's loader has another one of facts
    usual, rows, times = config["train_batch_size"], pairs.sample_size, getattr(pairs, "times", 1)
    if math.ceil(rows / max(usual // times, 1)) >= FEWEST_STEPS:
        return False
    size = 2 ** int(math.log2(max(rows / STEPS, 1))) * times
    # The options that a checkpoint keeps, and goes on with, are those before and after RecBole merges them.
    config.internal_config_dict["train_batch_size"] = config["train_batch_size"] = size
    getLogger().info(
        f"train_batch_size: {size} instead of {usual}, because an epoch of {rows:,} rows would have fewer than "
        f"{FEWEST_STEPS} steps. Name a train_batch_size, or set shrink_batches to False, to have another."
    )
    return True


def _get_dataloader(original: Any, config: Any, phase: str) -> Any:
    made = original(config, phase)
    return partial(_suited, made) if phase == "train" else made


def _suited(make: Any, config: Any, *args: Any, **kwargs: Any) -> Any:
    loader = make(config, *args, **kwargs)
    return make(config, *args, **kwargs) if shrink_batches(config, loader) else loader
