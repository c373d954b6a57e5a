"""RecBole's samplers of negatives, limited to the items of a cold-start protocol and of ``negative_items``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from recbole.sampler import RepeatableSampler, Sampler

from recbole_mm.data.cold_start import ColdStartSplit

__all__ = ["LimitedRepeatableSampler", "LimitedSampler", "limited_samplers"]


class _Limited:
    """Draws from ``pool`` only; popularity is that of the training part."""

    pool: np.ndarray
    training_items: list[int]

    def _uni_sampling(self, sample_num: int) -> np.ndarray:
        # RecBole's samplers draw from numpy's global state, which is what its option seed sets.
        return np.asarray(self.pool[np.random.randint(0, len(self.pool), sample_num)])  # noqa: NPY002

    def _get_candidates_list(self) -> list[int]:
        return self.training_items


class LimitedSampler(_Limited, Sampler):
    """RecBole's ``Sampler``, which never draws an item that the user has interacted with, from fewer items."""


class LimitedRepeatableSampler(_Limited, RepeatableSampler):
    """RecBole's ``RepeatableSampler``, which never draws the row's own item, from fewer items."""


def limited_samplers(
    config: Any,
    cold: ColdStartSplit | None,
    parts: Sequence[Any],
    samplers: Sequence[Any],
    negatives: np.ndarray | None = None,
) -> tuple:
    """Limit the samplers of training, validation and test.

    In training nothing but ``negatives`` is drawn and no new item, at evaluation nothing but candidates; support
    interactions count as the user's past. A full ranking reads the past from the samplers too.

    Args:
        config: RecBole's Config.
        cold: The protocol's split; ``None`` without one, which leaves validation and test as they are.
        parts: The training, validation and test part.
        samplers: What RecBole made for them, ``None`` where nothing is sampled.
        negatives: Internal ids of the items to draw in training; ``None`` for every one.

    Returns:
        The samplers in the same order.

    Raises:
        ValueError: Popularity-sampled candidates with new items, which have no popularity, or a user without an item
            to draw.
    """
    items = np.arange(1, parts[0].item_num)
    counted = parts[0].inter_feat[parts[0].iid_field].tolist()
    limited: list[Any] = []
    for phase, part, sampler in zip(("train", "valid", "test"), parts, samplers):
        arguments = config[f"{phase}_neg_sample_args"]
        if sampler is None or cold is None and phase != "train":
            limited.append(sampler)
            continue
        if cold is None:
            pool = items if negatives is None else negatives
        elif phase == "train":
            pool = np.setdiff1d(items if negatives is None else negatives, cold.items)
        else:
            pool = items if cold.candidates is None else np.flatnonzero(cold.candidates)
        popular = arguments["distribution"] == "popularity"
        if popular and cold is not None and phase != "train" and np.isin(cold.items, pool).any():
            raise ValueError(
                f"eval_args mode {config['eval_args']['mode']}: new items have no popularity to draw them by. Use "
                "full or uniN with cold_start, or candidates: warm."
            )
        kind: Any = LimitedRepeatableSampler if isinstance(sampler, RepeatableSampler) else LimitedSampler
        new = object.__new__(kind)
        vars(new).update(vars(sampler))
        new.pool, new.training_items = pool, counted
        if popular:
            new._build_alias_table()
        if kind is LimitedSampler:
            past = "valid" if phase == "test" and config["mask_validation"] is False else phase
            users, known = (items[:0], items[:0]) if cold is None else cold.known.get(past, (items[:0], items[:0]))
            for user, item in zip(users.tolist(), known.tolist()):
                new.used_ids[user].add(item)
            if arguments.get("sample_num", "none") != "none":
                _check_enough(new, part, phase)
        limited.append(new)
    return tuple(limited)


def _check_enough(sampler: LimitedSampler, part: Any, phase: str) -> None:
    """RecBole's sampler would search for ever where a user has had every item."""
    pool = set(sampler.pool.tolist())
    for user in np.unique(part.inter_feat[part.uid_field].numpy()).tolist():
        if pool <= sampler.used_ids[user]:
            raise ValueError(
                f"cold_start: user {str(part.id2token(part.uid_field, user))!r} has interacted with every one of the "
                f"{len(pool)} items from which the negatives of the {phase} part are drawn. Use mode: full, a larger "
                "ratio of new items, or user_inter_num_interval to leave such users out."
            )
