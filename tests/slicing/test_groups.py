"""Warm, cold and long tail, told from training pairs."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_mm.config.slices import SLICES
from recbole_mm.slicing.groups import members, tail_limit


@pytest.mark.parametrize(
    ("count", "share", "limit"),
    [
        ([0, 5, 1, 1, 2, 1], 0.2, 1),  # 3 of 10
        ([0, 5, 1, 1, 2, 1], 0.3, 1),  # exactly the share
        ([0, 5, 1, 1, 2, 1], 0.31, 2),
        ([0, 5, 1, 1, 2, 1], 0.99, 5),
        ([0, 4, 4, 4], 0.1, 4),  # equal ones are not separated
        ([0, 0, 0], 0.2, 0),
        ([], 0.2, 0),
    ],
)
def test_the_tail_holds_at_least_its_share_and_no_less_would(count, share, limit):
    assert tail_limit(np.array(count, dtype=np.int64), share) == limit


def test_a_share_reached_exactly_is_not_missed_by_rounding():
    count = np.repeat(np.arange(1, 11), [6, 0, 0, 0, 0, 0, 0, 0, 0, 0]).astype(np.int64)
    for tenths in range(1, 10):
        held = np.concatenate([np.ones(tenths, dtype=np.int64), np.full(1, 10 - tenths)])
        assert tail_limit(held, tenths / 10) == 1
    assert tail_limit(count, 0.5) == 1


def test_every_slice():
    users, items = np.array([1, 1, 1, 2, 3]), np.array([1, 2, 4, 1, 1])
    found = members(SLICES, users, items, n_users=5, n_items=6, share=0.2)
    listed = {name: table.nonzero()[0].tolist() for name, table in found.items()}
    assert listed == {
        "warm_users": [1, 2, 3], "cold_users": [4], "tail_users": [2, 3],
        "warm_items": [1, 2, 4], "cold_items": [3, 5], "tail_items": [2, 4],
    }  # fmt: skip


def test_the_ids_may_be_in_any_order():
    users, items = np.array([1, 1, 1, 2, 3]), np.array([1, 2, 4, 1, 1])
    order = np.array([3, 0, 4, 2, 1])
    one = members(SLICES, users, items, 5, 6, 0.3)
    other = members(SLICES, users[order], items[order], 5, 6, 0.3)
    assert all((one[name] == other[name]).all() for name in one)
