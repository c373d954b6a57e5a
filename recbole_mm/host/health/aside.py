"""Looks at a model between two steps of its training as if nobody had looked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.register import metrics_dict

from recbole_mm.data.pairs import training_pairs
from recbole_mm.host.evaluation import rank, top_hits
from recbole_mm.host.loaders import dataset_of
from recbole_mm.plain import from_plain
from recbole_mm.trainer.state import random_state, set_random_state

__all__ = ["aside", "popularity_score", "ranks_all"]

_SCORES = 2**21


@contextmanager
def aside(trainer: Any, loaders: Iterable[Any]) -> Iterator[Any]:
    """The model in evaluation mode, without gradients; afterwards mode, caches and random generators are as before.

    Args:
        trainer: A RecBole trainer.
        loaders: Its loaders, which may hold generators.
    """
    model, loaders = trainer.model, list(loaders)
    state, other, training = from_plain(random_state(trainer, loaders)), model.other_parameter(), model.training
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        model.load_other_parameter(other)
        model.train(training)
        set_random_state(state, trainer, loaders)


def ranks_all(loader: Any) -> bool:
    """Whether a loader evaluates by ranking the whole catalogue."""
    return isinstance(loader, FullSortEvalDataLoader)


def popularity_score(trainer: Any, train_data: Any, valid_data: Any) -> float | None:
    """What the validation metric would be for the numbers of training interactions as scores.

    Args:
        trainer: A RecBole trainer.
        train_data: Its training data.
        valid_data: Its validation data.

    Returns:
        RecBole's value for the same users, candidates and masks; ``None`` where the validation is no full ranking, its
        metric not one of lists, or nothing that is ranked has a training interaction (new items alone).
    """
    name, at, k = str(trainer.valid_metric).lower().partition("@")
    metric = metrics_dict.get(name)
    if not (at and k.isdigit() and metric is not None and metric.metric_need == ["rec.topk"] and ranks_all(valid_data)):
        return None
    dataset = dataset_of(train_data)
    counts = np.bincount(training_pairs(dataset)[1], minlength=dataset.item_num)
    scores = torch.from_numpy(counts).float()
    struct, any_known = DataStruct(), False
    with aside(trainer, (train_data, valid_data)):
        step = max(_SCORES // dataset.item_num, 1)  # RecBole's own, by default one user, would take many times as long
        for start in range(0, valid_data.sample_size, step):
            index = np.arange(start, min(start + step, valid_data.sample_size))
            interaction, masked, positive_u, positive_i = valid_data.collate_fn(index)
            rows = scores.repeat(len(interaction), 1)
            rows[:, 0] = -torch.inf
            if masked is not None:
                rows[masked] = -torch.inf
            any_known = any_known or bool((rows > 0).any())
            longest = min(max(trainer.config["topk"]), rows.shape[1])
            struct.update_tensor("rec.topk", top_hits(rank(rows, longest, positive_u, positive_i)))
    if not any_known:
        return None
    return float(metric(trainer.config).calculate_metric(struct)[f"{name}@{k}"])
