"""What a model is trained and tested on: a hash of the split, and one mask of seen items for every kind of model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from recbole_mm.data.negatives import seen_items
from recbole_mm.data.pairs import distinct, target_pairs, training_pairs
from recbole_mm.host.loaders import dataset_of

__all__ = ["describe_split", "known_pairs", "mask_seen_items", "never_had", "unmeasured", "why_other_split"]


def describe_split(train_data: Any, valid_data: Any, test_data: Any) -> dict[str, Any]:
    """Sizes and hashes of a split; equal hashes mean the same pairs and the same candidates, whatever the model.

    The hash covers the distinct (user token, item token) pairs of each part, the support sets of a cold-start protocol
    among them, and nothing else: not internal ids, not the order of rows, not how a sequential model cuts histories
    into training examples.

    Args:
        train_data: RecBole's training loader.
        valid_data: Its validation loader.
        test_data: Its test loader.

    Returns:
        ``hash`` of all parts, ``parts`` (hash of each), ``candidates`` (hash of the items that are ranked), and the
        numbers of ``users``, ``items``, ``train``, ``valid`` and ``test`` pairs; where ``negative_items`` leaves items
        out, ``negatives`` (hash of those that training may draw).
    """
    dataset = dataset_of(train_data)
    users, items = (dataset.field2id_token[field] for field in (dataset.uid_field, dataset.iid_field))
    pairs = {
        "train": training_pairs(dataset),
        "valid": target_pairs(dataset_of(valid_data)),
        "test": target_pairs(dataset_of(test_data)),
    }
    cold, ranked = getattr(dataset, "cold_start", None), items[1:]
    if cold is not None:
        pairs["support"] = distinct(*cold.known["valid"])
        ranked = np.delete(items, [0, *cold.excluded])
    parts = {name: _hash_pairs(*part, users, items) for name, part in pairs.items()}
    drawn = getattr(dataset, "negative_items", None)
    whole = hashlib.sha256("\n".join(parts[name] for name in sorted(parts)).encode("ascii")).hexdigest()
    return {
        "hash": whole[:16],
        "parts": {name: value[:16] for name, value in parts.items()},
        "candidates": _hash_tokens(ranked)[:16],
        **({} if drawn is None else {"negatives": _hash_tokens(items[drawn])[:16]}),
        "users": dataset.user_num - 1,
        "items": dataset.item_num - 1,
        **{name: len(pairs[name][0]) for name in ("train", "valid", "test")},
    }


def unmeasured(split: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """What a run cannot measure, or choose its epoch by, in sentences.

    Args:
        split: What :func:`describe_split` says.
        options: Merged options: ``eval_step`` and ``epochs``.
    """
    found = []
    if not split["valid"] or not options["eval_step"]:
        why = "there is nothing to validate on (eval_args)" if not split["valid"] else "eval_step is 0"
        found.append(
            f"{why}: all {options['epochs']} epochs are trained, without early stopping, and the last one is kept."
        )
    if not split["test"]:
        found.append("there is nothing to test on (eval_args): no metric says how good the model is.")
    return found


def known_pairs(parts: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct users and items of several parts of a split.

    Args:
        parts: The training part, then others. What a cold-start protocol says is known besides counts too.

    Returns:
        Internal user and item ids of the distinct pairs, sorted by user.
    """
    pairs = [training_pairs(parts[0]), *(target_pairs(part) for part in parts[1:])]
    cold = getattr(parts[0], "cold_start", None)
    if cold is not None:
        pairs.append(cold.known["valid" if len(parts) == 1 else "test"])
    return distinct(np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs]))


def never_had(loaders: Sequence[Any]) -> int:
    """Number of items of the data set that are in no part of the split.

    Args:
        loaders: Of the training, validation and test part.
    """
    seen = seen_items(*(dataset_of(loader) for loader in loaders))
    return int(len(seen) - 1 - seen.sum())


def why_other_split(known: Mapping[str, Any], split: Mapping[str, Any]) -> str:
    """Why a finished run cannot be compared with those before it; empty if it can.

    Args:
        known: Their split, as :func:`describe_split` gives it.
        split: Its own.
    """
    if known["hash"] != split["hash"]:
        return f"it has another split ({split['hash']}) than the models before it ({known['hash']})"
    if known["candidates"] != split["candidates"]:
        return f"it ranks other candidates ({split['items']:,} items) than the models before it ({known['items']:,})"
    if known.get("negatives") != split.get("negatives"):
        return "it draws its negatives from other items (negative_items) than the models before it"
    return ""


def mask_seen_items(train_dataset: Any, valid_data: Any, test_data: Any = None, mask_validation: bool = True) -> None:
    """Mask items of a user's past when a sequential model is evaluated, as RecBole does for a general model.

    RecBole lets sequential models recommend again what a user already has, and general models not, so their figures
    cannot be compared. Afterwards both rank the same candidates: at validation all but the training items, at test all
    but the training and validation items, without ``mask_validation`` but the training items; the item to be found is
    never masked.

    What a loader masks already, such as items that a cold-start protocol does not rank, stays masked.

    Args:
        train_dataset: The training part.
        valid_data: RecBole's full-ranking validation loader of a sequential model.
        test_data: Its test loader, if there will be a test.
        mask_validation: The option of this name.
    """
    known = [train_dataset]
    for loader in (valid_data, test_data) if test_data is not None else (valid_data,):
        users, items = known_pairs(known)
        _mask(loader, np.split(items, np.cumsum(np.bincount(users, minlength=train_dataset.user_num))[:-1]))
        if mask_validation:
            known.append(dataset_of(loader))


def _mask(loader: Any, seen: list[np.ndarray]) -> None:
    collate = loader.collate_fn
    user_field, item_field = dataset_of(loader).uid_field, dataset_of(loader).iid_field

    def with_history(index: Any) -> Any:
        interaction, masked, positive_user, positive_item = collate(index)
        rows, columns = [], []
        pairs = zip(interaction[user_field].tolist(), interaction[item_field].tolist())
        for row, (user, target) in enumerate(pairs):
            items = seen[user][seen[user] != target]
            rows.append(np.full(len(items), row, dtype=np.int64))
            columns.append(items)
        history = torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(columns))
        if masked is not None:  # by a cold-start protocol: a bool for every score
            masked[history] = True
            return interaction, masked, positive_user, positive_item
        return interaction, history, positive_user, positive_item

    loader.collate_fn = with_history


def _hash_pairs(users: np.ndarray, items: np.ndarray, user_tokens: np.ndarray, item_tokens: np.ndarray) -> str:
    """Hash of pairs by token: ids are replaced by the ranks of their tokens among those that occur."""
    ranked = []
    state = hashlib.sha256()
    for ids, tokens in ((users, user_tokens), (items, item_tokens)):
        present = np.unique(ids)
        order = np.argsort(tokens[present].astype(str), kind="stable")
        rank = np.empty(len(present), dtype=np.int64)
        rank[order] = np.arange(len(present))
        ranked.append(rank[np.searchsorted(present, ids)])
        state.update(_hash_tokens(tokens[present]).encode("ascii"))
    pairs = np.stack(distinct(ranked[0], ranked[1]), axis=1)
    state.update(pairs.astype("<i8").tobytes())
    return state.hexdigest()


def _hash_tokens(tokens: np.ndarray) -> str:
    return hashlib.sha256("\0".join(sorted(str(token) for token in tokens)).encode("utf-8")).hexdigest()
