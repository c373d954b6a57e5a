"""Which items an exported list leaves out: none, those of the past, all that a user had, or as it was evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.utils import ModelType

from recbole_mm.experiment.split import known_pairs
from recbole_mm.host.loaders import dataset_of

__all__ = ["SEEN", "left_out", "training_counts"]

#: Values of ``seen``; ``None`` is what the test of the model leaves out.
SEEN = ("none", "history", "all")


def left_out(config: Any, loaders: Sequence[Any], seen: str | None) -> tuple[list[Any], sp.csr_matrix]:
    """What is known about users, and which of their items are in no list.

    Args:
        config: RecBole's Config of the model.
        loaders: Of the training, validation and test part.
        seen: ``all`` leaves out whatever a user has interacted with, and a sequence goes on after the last of it;
            ``history`` and ``none`` know the training and validation part, and leave out all of it or nothing;
            ``None`` leaves out what RecBole's test does, user by user.

    Returns:
        The loaders whose interactions are known, and a bool matrix ``(n_users, n_items)`` of what is left out.
    """
    dataset = dataset_of(loaders[0])
    known = list(loaders) if seen == "all" else list(loaders[:2])
    if seen is not None:
        pairs = known_pairs([dataset_of(loader) for loader in known]) if seen != "none" else _nothing()
        return known, _matrix(*pairs, dataset)
    test = loaders[2]
    masked = _by_rule(config, loaders)
    if not isinstance(test, FullSortEvalDataLoader):
        getLogger().warning(
            f"eval_args mode {config['eval_args']['mode']}: the test ranks sampled candidates, and the lists rank the "
            "whole catalogue; no metric of the test can be computed from them."
        )
        return known, _matrix(*masked, dataset)
    asked, users, items = _by_loader(test)
    other = ~np.isin(masked[0], asked)
    joined = np.concatenate([masked[0][other], users]), np.concatenate([masked[1][other], items])
    return known, _matrix(*joined, dataset)


def training_counts(dataset: Any) -> np.ndarray:
    """How many distinct items of each user a model was trained on or may adapt to, by internal user id."""
    return np.bincount(known_pairs([dataset])[0], minlength=dataset.user_num)


def _by_rule(config: Any, loaders: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """What the test would leave out for users that it does not ask about."""
    if config["repeatable"] or config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        return _nothing()
    n_parts = 1 if config["mask_validation"] is False else 2
    return known_pairs([dataset_of(loader) for loader in loaders[:n_parts]])


def _by_loader(loader: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users of a loader, and the pairs of user and item that its batches mask (of a user's first row)."""
    asked: list[np.ndarray] = []
    users: list[np.ndarray] = []
    items: list[np.ndarray] = []
    done: set[int] = set()
    several = 0
    for start in range(0, loader.sample_size, max(loader.step, 1)):
        rows = np.arange(start, min(start + max(loader.step, 1), loader.sample_size))
        interaction, masked, *_ = loader.collate_fn(rows)
        owner = interaction[loader.uid_field].numpy()
        first = np.zeros(len(owner), dtype=np.bool_)
        first[np.unique(owner, return_index=True)[1]] = True
        first &= ~np.isin(owner, list(done))
        done.update(owner.tolist())
        several += int(len(first) - first.sum())
        asked.append(owner[first])
        if masked is not None:
            # A cold-start protocol masks by a bool for every score, RecBole by pairs.
            pairs = masked.nonzero(as_tuple=True) if isinstance(masked, torch.Tensor) else masked
            row, column = pairs[0].numpy(), pairs[1].numpy()
            users.append(owner[row[first[row]]])
            items.append(column[first[row]])
    if several:
        getLogger().warning(
            f"The test asks {several:,} further questions about users of whom it has asked one, each after a longer "
            "history; a list answers the first one of its user."
        )
    empty = np.empty(0, dtype=np.int64)
    return (np.concatenate([empty, *asked]), np.concatenate([empty, *users]), np.concatenate([empty, *items]))


def _nothing() -> tuple[np.ndarray, np.ndarray]:
    return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)


def _matrix(users: np.ndarray, items: np.ndarray, dataset: Any) -> sp.csr_matrix:
    shape = dataset.user_num, dataset.item_num
    return sp.csr_matrix((np.ones(len(users), dtype=bool), (users, items)), shape=shape)
