"""Distinct pairs are those of a sort of rows."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_mm.data.pairs import distinct


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("largest", [3, 2**31 - 1])
def test_distinct_pairs_are_sorted_by_user_and_then_item(largest: int, dtype: type) -> None:
    users, items = np.random.default_rng(0).integers(0, largest, (2, 400)).astype(dtype)
    users, items = np.concatenate([users, users[:50]]), np.concatenate([items, items[:50]])
    expected = np.array(sorted(set(zip(users.tolist(), items.tolist()))))
    found = np.stack(distinct(users, items), axis=1)
    assert found.dtype == np.int64 and np.array_equal(found, expected)


def test_no_pairs() -> None:
    assert [len(part) for part in distinct(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))] == [0, 0]
