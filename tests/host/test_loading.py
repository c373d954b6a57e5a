"""The quick ways from a table to splits and loaders against RecBole's own text, run as it stands in its files."""

from __future__ import annotations

import gc
import inspect
import sys
from collections import Counter
from logging import getLogger
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.sampler import Sampler

from recbole_mm.host import loading
from recbole_mm.host.compat import installed_repairs
from tests.host.cold_data import config, loaders


def pristine(cls: type) -> Any:
    """A class of RecBole made again of its source text."""
    namespace = dict(vars(sys.modules[cls.__module__]))
    exec(inspect.getsource(cls), namespace)
    return namespace[cls.__name__]


@given(st.lists(st.integers(-3, 9)), st.sampled_from([np.int64, np.int32, np.uint8]))
def test_groups_are_those_of_the_loop(keys: list[int], kind: type) -> None:
    column = np.array(keys).astype(kind)
    expected = list(Dataset._grouped_index.__wrapped__(None, column))
    found = list(Dataset._grouped_index(None, column))
    assert found == expected and all(type(row) is int for rows in found for row in rows)


def test_groups_by_another_type_are_recboles() -> None:
    keys = np.array([0.5, np.nan, 0.5, np.nan])
    assert list(Dataset._grouped_index(None, keys)) == [[0, 2], [1], [3]]


@given(st.integers(0, 60), st.lists(st.floats(0.01, 1), min_size=1, max_size=4))
def test_cuts_are_those_of_the_loop(size: int, ratios: list[float]) -> None:
    expected = Dataset._calcu_split_ids.__wrapped__(None, size, ratios)
    for _ in range(2):
        found = Dataset._calcu_split_ids(None, tot=size, ratios=ratios)
        assert found == expected
        found.append("another's change")


@pytest.mark.parametrize(
    "index", [[3, 0, 3], [], [1], range(1, 4), range(0), range(4, 0, -2), [True, False, True, False, True]]
)
def test_rows_by_list_and_range(index: Any) -> None:
    table = Interaction({"a": torch.arange(5), "b": torch.rand(5, 2)})
    found, expected = table[index], Interaction.__getitem__.__wrapped__(table, index)
    for name in ("a", "b"):
        assert torch.equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype


@given(st.lists(st.sampled_from(["a", "b", "ü", "1"])), st.booleans())
def test_counts_of_tokens(tokens: list[str], as_object: bool) -> None:
    values = pd.Series(tokens, dtype=object if as_object else str).values
    assert loading._count(values) == Counter(tokens)
    assert all(type(count) is int for count in loading._count(values).values())


def test_counts_of_missing_tokens_are_recboles() -> None:
    values = pd.Series(["a", None, "a"], dtype=str).values
    assert loading._count(values)["a"] == 2 and sum(loading._count(values).values()) == 3


@pytest.mark.parametrize("intervals", [("[3,inf)", "[4,inf)"), ("[2,6]", None), (None, "(2,5);[7,9)")])
def test_the_filter_keeps_the_same_rows(intervals: tuple[str | None, str | None]) -> None:
    generator = np.random.default_rng(0)
    pairs = {"u": generator.integers(0, 40, 150), "i": generator.integers(0, 30, 150)}
    results = []
    for cls in (Dataset, pristine(Dataset)):
        made = object.__new__(cls)
        made.__dict__.update(
            logger=getLogger(), uid_field="u", iid_field="i",
            config={"user_inter_num_interval": intervals[0], "item_inter_num_interval": intervals[1]},
            inter_feat=pd.DataFrame({name: column.astype(str) for name, column in pairs.items()}),
            user_feat=pd.DataFrame({"u": [str(k) for k in range(45)]}), item_feat=None,
        )  # fmt: skip
        made._filter_by_inter_num()
        results.append((made.inter_feat, made.user_feat))
    for ours, theirs in zip(*results):
        pd.testing.assert_frame_equal(ours, theirs)
    assert 0 < len(results[0][0]) < 150


def test_samplers_and_loaders_hold_the_same_in_the_same_order() -> None:
    train, valid, test = loaders(config("BPR"))
    parts = [loader._dataset for loader in (train, valid, test)]
    samplers = [cls(["train", "valid", "test"], parts) for cls in (Sampler, pristine(Sampler))]
    for phase in ("train", "valid", "test"):
        ours, theirs = (made.used_ids[phase] for made in samplers)
        assert [list(used) for used in ours] == [list(used) for used in theirs] and any(map(len, ours))
    made = [
        cls(valid.config, parts[1], sampler.set_phase("valid"))
        for cls, sampler in zip((FullSortEvalDataLoader, pristine(FullSortEvalDataLoader)), samplers)
    ]
    assert torch.equal(made[0].uid_list, made[1].uid_list) and len(made[0].uid_list)
    assert np.array_equal(made[0].uid2items_num, made[1].uid2items_num)
    for name in ("uid2positive_item", "uid2history_item"):
        for ours, theirs in zip(*(vars(loader)[name] for loader in made)):
            assert (ours is None) == (theirs is None)
            assert ours is None or (torch.equal(ours, theirs) and ours.dtype == theirs.dtype)


def test_a_function_that_was_edited_twice_has_both_changes() -> None:
    """The reader, and the repair for pandas 3 where it is needed: each edit starts from the one before."""
    names = inspect.unwrap(Dataset._load_feat).__code__
    assert "_recbole_mm_read" in names.co_names and "read_csv" not in names.co_names
    if installed_repairs()["chained_fillna"]:
        assert ("value", "inplace") not in names.co_consts


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_collected_again_afterwards(enabled: bool) -> None:
    def fail() -> None:
        assert not gc.isenabled()
        raise ValueError("as a split may")

    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(ValueError, match="as a split may"):
            loading._without_collecting(fail)
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
