"""RecBole's way from a table of interactions to splits, samplers and loaders, without its slowest loops.

Each place gives what RecBole gives, in its order: splits, batches and rankings are the same to the last bit.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.dataloader import FullSortEvalDataLoader, general_dataloader
from recbole.data.dataset import Dataset
from recbole.data.dataset import dataset as recbole_dataset
from recbole.sampler import Sampler
from recbole.sampler import sampler as recbole_sampler

from recbole_mm.host.editing import edit
from recbole_mm.host.wrapping import wrap

__all__ = ["install"]


def install() -> None:
    """Make the changes; calling it again does nothing."""
    if "_recbole_mm_count" in vars(recbole_dataset):
        return
    vars(recbole_dataset)["_recbole_mm_count"] = _count
    fields = ("self.inter_feat[self.uid_field].values", "self.inter_feat[self.iid_field].values")
    edit(Dataset._filter_by_inter_num, {f"Counter({field})": f"_recbole_mm_count({field})" for field in fields})
    loop = {"for uid, iid in zip(": "for uid, iid in _recbole_mm_by_user("}
    for module, function, name in (
        (recbole_sampler, Sampler.get_used_ids, "cur[uid]"),
        (general_dataloader, FullSortEvalDataLoader.__init__, "positive_item"),
    ):
        vars(module)["_recbole_mm_by_user"] = _by_user
        edit(function, {**loop, f"{name}.add(iid)": f"{name}.update(iid)"})
    wrap(FullSortEvalDataLoader, "_set_user_property", _set_user_property)
    for owner, name in ((Dataset, "build"), (Sampler, "get_used_ids"), (FullSortEvalDataLoader, "__init__")):
        wrap(owner, name, _without_collecting)
    wrap(Dataset, "_grouped_index", _grouped_index)
    wrap(Dataset, "_calcu_split_ids", _split_ids)


def _without_collecting(original: Any, *args: Any, **kwargs: Any) -> Any:
    """A set and tensors for every user: Python's search for cycles would look at all of them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        return original(*args, **kwargs)
    finally:
        if enabled:
            gc.enable()


def _count(values: Any) -> Counter[Any]:
    """``collections.Counter`` of a column of tokens."""
    codes, tokens = pd.factorize(values)
    if (codes < 0).any():  # missing ones, each of which RecBole counts by itself
        return Counter(values)
    return Counter(dict(zip(tokens.tolist(), np.bincount(codes).tolist())))


def _by_user(users: np.ndarray, items: np.ndarray) -> Iterator[tuple[int, list[int]]]:
    """Each user with all items of theirs, in the order of the rows.

    Python's integers hash and compare faster than NumPy's; a set of them, filled in this order, has RecBole's order.
    """
    order, starts = _sorted_groups(users)
    ids, in_order = users[order[starts]].tolist(), items[order].tolist()
    for user, start, stop in zip(ids, starts.tolist(), [*starts[1:].tolist(), len(order)]):
        yield user, in_order[start:stop]


def _sorted_groups(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows sorted by key, equal ones in their order, and where each key begins."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(keys[order[1:]] != keys[order[:-1]]) + 1
    return order, np.concatenate([np.zeros(min(len(keys), 1), dtype=starts.dtype), starts])


def _set_user_property(original: Any, self: Any, uid: Any, used_item: set[int], positive_item: set[int]) -> None:
    """RecBole's loaders go through a check at every look at ``self``, and torch reads lists number by number."""
    if uid is None:
        return
    state = object.__getattribute__(self, "__dict__")
    for name, found in (("uid2positive_item", positive_item), ("uid2history_item", used_item - positive_item)):
        state[name][uid] = torch.from_numpy(np.fromiter(found, np.int64, len(found)))
    state["uid2items_num"][uid] = len(positive_item)


def _grouped_index(original: Any, self: Any, group_by_list: Any) -> Any:
    """Rows of each group, groups in the order of their first rows."""
    keys = np.asarray(group_by_list)
    if keys.ndim != 1 or keys.dtype.kind not in "iu" or not len(keys):
        return original(self, group_by_list)
    order, starts = _sorted_groups(keys)
    rows, stops = order.tolist(), [*starts[1:].tolist(), len(keys)]
    first = np.argsort(order[starts]).tolist()
    bounds = list(zip(starts.tolist(), stops))
    return [rows[slice(*bounds[group])] for group in first]


_known_ids: dict[tuple[Any, ...], list[Any]] = {}


def _split_ids(original: Any, self: Any, tot: int, ratios: list[float]) -> list[Any]:
    """Where a group of some size is cut, worked out once per size and not once per user."""
    key = tot, *ratios
    if key not in _known_ids:
        if len(_known_ids) > 10_000:
            _known_ids.clear()
        _known_ids[key] = original(self, tot, ratios)
    return list(_known_ids[key])
