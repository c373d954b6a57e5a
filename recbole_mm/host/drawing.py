"""Batches and negative items of RecBole's loaders, drawn in tensors and arrays instead of loops over Python numbers.

The random numbers are drawn by the same calls in the same order and lead to the same rows and items, so splits and
batches are those of RecBole to the last bit.
"""

from __future__ import annotations

from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from recbole.sampler import RepeatableSampler
from recbole.sampler.sampler import AbstractSampler

from recbole_mm.host.wrapping import wrap

__all__ = ["Rows", "collate_users", "install"]


class Rows:
    """The numbers of a loader's rows; a batch of them is handed on as it was asked for."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: int) -> int:
        if not 0 <= row < self.size:
            raise IndexError(row)
        return row

    def __getitems__(self, rows: list[int]) -> list[int]:
        """What torch's loader asks for once a batch where it is there, instead of row by row."""
        return rows


def install() -> None:
    """Make the changes; calling it again does nothing."""
    wrap(AbstractSampler, "sample_by_key_ids", _sample_by_key_ids)
    wrap(AbstractSampler, "_pop_sampling", _sample_by_popularity)
    wrap(Interaction, "__getitem__", _rows_of_interaction)
    wrap(AbstractDataLoader, "__init__", _init_loader)


def _init_loader(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
    """RecBole's loader goes through a list of its row numbers, number by number."""
    original(self, *args, **kwargs)
    vars(self)["dataset"] = rows = Rows(self.sample_size)  # torch's loader refuses the assignment
    if hasattr(self.sampler, "data_source"):
        self.sampler.data_source = rows


def collate_users(original: Any, self: Any, index: Any) -> Any:
    """Users of an evaluation with their past and their positives; RecBole looks them up and numbers them one by one.

    Args:
        original: RecBole's function, for sequences.
        self: Its loader of full rankings.
        index: Numbers of the users among those of the loader.
    """
    if self.is_sequential:
        return original(self, index)
    users = self.user_df[np.array(index)]
    ids = users[self.uid_field].numpy()
    return users, _flat(self.uid2history_item[ids]), *_flat(self.uid2positive_item[ids])


def _flat(lists: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The row of each entry, and the entries."""
    sizes = torch.tensor([len(entries) for entries in lists])
    return torch.repeat_interleave(torch.arange(len(lists)), sizes), torch.cat(list(lists))


_used: WeakKeyDictionary[Any, tuple[Any, np.ndarray]] = WeakKeyDictionary()
_alias: WeakKeyDictionary[Any, tuple[Any, tuple[np.ndarray, ...]]] = WeakKeyDictionary()


def _sample_by_key_ids(original: Any, self: Any, key_ids: Any, num: int) -> torch.Tensor:
    """RecBole's rejection: draw for all, look which draws are used, draw those again."""
    keys = np.asarray(key_ids)
    # Another's used ids are made for every call, or lie outside the table: RecBole's own loop knows what to say.
    if isinstance(self, RepeatableSampler) or not keys.size or keys.min() < 0 or keys.max() >= len(self.used_ids):
        sampled: torch.Tensor = original(self, key_ids, num)
        return sampled
    table = _used_pairs(self)
    keys = np.tile(keys.astype(np.int64) << 32, num)
    values = np.zeros(len(keys), dtype=np.int64)
    pending = np.arange(len(keys))
    while len(pending):
        values[pending] = self.sampling(len(pending))
        pending = pending[_contains(table, keys[pending] | values[pending])]
    return torch.from_numpy(values)


def _used_pairs(sampler: Any) -> np.ndarray:
    """Every used pair as one number, sorted. Made at the first draw: until then a protocol may add to the sets."""
    known = _used.get(sampler)
    if known is None or known[0] is not sampler.used_ids:
        sets = sampler.used_ids
        sizes = np.fromiter(map(len, sets), np.int64, len(sets))
        values = np.fromiter(chain.from_iterable(sets), np.int64, int(sizes.sum()))
        known = sets, np.sort(np.repeat(np.arange(len(sets)) << 32, sizes) | values)
        _used[sampler] = known
    return known[1]


def _contains(table: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    if not len(table):
        return np.zeros(len(wanted), dtype=bool)
    place = np.searchsorted(table, wanted)
    return np.asarray(table[np.minimum(place, len(table) - 1)] == wanted)


def _sample_by_popularity(original: Any, self: Any, sample_num: int) -> np.ndarray:
    known = _alias.get(self)
    if known is None or known[0] is not self.prob:
        names = list(self.prob)
        chances, others = list(self.prob.values()), [self.alias[name] for name in names]
        known = self.prob, (np.array(names), np.array(chances), np.array(others))
        _alias[self] = known
    keys, prob, alias = known[1]
    # RecBole draws from numpy's global state, which is what its option seed sets.
    index = np.random.randint(0, len(keys), sample_num)  # noqa: NPY002
    kept = prob[index] > np.random.random(sample_num)  # noqa: NPY002
    return np.where(kept, keys[index], alias[index])


def _rows_of_interaction(original: Any, self: Any, index: Any) -> Any:
    """RecBole turns index arrays into lists first, which takes longer than the look-up."""
    if isinstance(index, str) and index not in self.interaction:
        raise KeyError(_missing_column(index, self.interaction))
    if isinstance(index, np.ndarray) and index.ndim == 1 and index.dtype.kind in "bi":
        # A reversed view or the other byte order is nothing that torch can share.
        index = torch.from_numpy(np.ascontiguousarray(index, dtype=index.dtype.newbyteorder("=")))
    if isinstance(index, list) and index and type(index[0]) is int or isinstance(index, range):
        index = torch.tensor(index, dtype=torch.int64)  # once, and not for every column
    if isinstance(index, torch.Tensor) and index.dim() == 1 and index.dtype in (torch.int64, torch.int32, torch.bool):
        return Interaction({name: column[index.to(column.device)] for name, column in self.interaction.items()})
    return original(self, index)


def _missing_column(name: str, columns: Any) -> str:
    """What to do about a column that a model or a metric asks a batch for in vain."""
    negatives = "train_neg_sample_args: {distribution: uniform, sample_num: 1}"
    remedy = {
        "neg": f"The model compares with sampled negatives, and none are drawn; set {negatives}.",
        "label": f"Labels come of sampled negatives ({negatives}), of a threshold such as {{rating: 3}}, or of a "
        "column of the .inter file that LABEL_FIELD names and load_col loads.",
    }.get(name.partition("_")[0], "Columns of the files are loaded by load_col.")
    return f"The batches have no column {name!r}, which is read here; they have {', '.join(columns)}. {remedy}"
