"""Task tables against lists of instances, one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_mm.nn.meta.tasks import Rows, TaskTable, candidates, other_items

LENGTH = 4


def rows_of(sequences, length=LENGTH):
    """The rows that RecBole's augmentation makes of users' sequences, in a mixed-up order of users."""
    user, history, size, target = [], [], [], []
    for uid in reversed(sorted(sequences)):
        items = sequences[uid]
        for end in range(1, len(items)):
            past = items[max(end - length, 0) : end]
            user.append(uid)
            history.append(past + [0] * (length - len(past)))
            size.append(len(past))
            target.append(items[end])
    columns = (user, history, size, target)
    tensors = [
        torch.tensor(c, dtype=torch.long).reshape(-1, *([length] if i == 1 else [])) for i, c in enumerate(columns)
    ]
    return Rows.sort(*tensors)


def expected_instances(items, limit=None, length=LENGTH):
    """(history, next item) of one sequence, the latest ones."""
    found = [(tuple(items[max(end - length, 0) : end]), items[end]) for end in range(1, len(items))]
    return sorted(found[len(found) - min(limit or len(found), len(found)) :])


def instances_of(table, user, n_items=50):
    """The instances that a table holds for a user."""
    batch = table.batch(torch.tensor([user]), torch.arange(1, n_items))
    found = []
    for window, target in zip(batch.window[0], batch.target[0]):
        for position in target.nonzero().flatten().tolist():
            found.append((tuple(window[: position + 1].tolist()), int(target[position])))
    return sorted(found)


SEQUENCES = st.dictionaries(
    st.integers(1, 5), st.lists(st.integers(1, 6), min_size=1, max_size=14), min_size=1, max_size=4
)


@given(SEQUENCES, st.one_of(st.none(), st.integers(1, 12)))
@settings(max_examples=60, deadline=None)
def test_prefixes_are_exactly_the_rows(sequences, limit):
    table = TaskTable(rows_of(sequences), 7, "prefixes", limit)
    for user in range(7):
        assert instances_of(table, user) == expected_instances(sequences.get(user, []), limit)


@given(SEQUENCES, st.one_of(st.none(), st.integers(1, 12)))
@settings(max_examples=60, deadline=None)
def test_windows_ask_for_the_same_items_after_shorter_histories(sequences, limit):
    table = TaskTable(rows_of(sequences), 7, "windows", limit)
    for user in range(7):
        items = sequences.get(user, [])
        found, rows = instances_of(table, user), expected_instances(items, limit)
        assert sorted(target for _, target in found) == sorted(target for _, target in rows)
        for history, target in found:  # what precedes the target, back to the start of its window
            assert any(
                tuple(items[end - len(history) : end]) == history and items[end] == target
                for end in range(1, len(items))
            )
        if len(items) <= LENGTH + 1:
            assert found == rows


def test_a_user_with_few_items_takes_one_window_and_a_long_one_few():
    sequences = {1: [1, 2, 3], 2: list(range(1, 15))}
    assert TaskTable(rows_of(sequences), 3, "prefixes").count.tolist() == [0, 1, 10]
    assert TaskTable(rows_of(sequences), 3, "windows").count.tolist() == [0, 1, 4]
    assert TaskTable(rows_of(sequences), 3, "windows", 4).count.tolist() == [0, 1, 1]


def test_rows_that_are_no_prefixes_of_each_other_keep_their_own_history():
    # Support instances handed in by a data set may be any rows, repeated ones included.
    user = torch.tensor([1, 1, 1, 1])
    history = torch.tensor([[5, 0, 0, 0], [6, 7, 0, 0], [6, 0, 0, 0], [6, 0, 0, 0]])
    rows = Rows.sort(user, history, torch.tensor([1, 2, 1, 1]), torch.tensor([9, 8, 7, 7]))
    for instances in ("prefixes", "windows"):
        table = TaskTable(rows, 2, instances)
        assert instances_of(table, 1) == [((5,), 9), ((6,), 7), ((6,), 7), ((6, 7), 8)]


def test_batch_is_padded_and_trimmed():
    table = TaskTable(rows_of({1: [1, 2, 3], 2: list(range(1, 12))}), 4, "windows")
    batch = table.batch(torch.tensor([3, 1]), torch.arange(1, 20))
    assert batch.window.tolist() == [[[0, 0]], [[1, 2]]]
    assert batch.target.tolist() == [[[0, 0]], [[2, 3]]]
    assert table.batch(torch.tensor([1, 2]), torch.arange(1, 20)).window.shape == (2, 3, 4)


def test_fixed_negatives_do_not_depend_on_the_batch_and_others_on_nothing_else():
    table = TaskTable(rows_of({1: [1, 2, 3], 2: list(range(1, 12))}), 4, "windows")
    pool = torch.arange(1, 20)
    alone, together = table.batch(torch.tensor([1]), pool, True), table.batch(torch.tensor([2, 1]), pool, True)
    assert torch.equal(alone.negative[0, 0], together.negative[1, 0, :2])
    torch.manual_seed(0)
    first = table.batch(torch.tensor([2]), pool).negative
    second = table.batch(torch.tensor([2]), pool).negative
    torch.manual_seed(0)
    assert torch.equal(first, table.batch(torch.tensor([2]), pool).negative) and not torch.equal(first, second)


def test_an_empty_table_gives_empty_windows():
    table = TaskTable(rows_of({1: [1]}), 3, "prefixes")
    assert table.users.tolist() == []
    assert table.batch(torch.tensor([1, 2]), torch.arange(1, 5)).window.shape == (2, 1, LENGTH)


def test_chunks_hold_every_user_once_and_respect_the_budget():
    table = TaskTable(rows_of({user: list(range(1, 3 + 3 * user)) for user in range(1, 6)}), 7, "windows")
    users = torch.tensor([5, 1, 6, 3, 2, 4])
    chunks = list(table.chunks(users, 10, 5, 50))
    assert sorted(torch.cat(chunks).tolist()) == [1, 2, 3, 4, 5, 6]
    for chunk in chunks:
        widest = max(int(table.count[chunk].max()), 1)
        assert len(chunk) == 1 or len(chunk) * (widest * 10 + 5) <= 50
    assert len(list(table.chunks(users, 10, 5, 1e9))) == 1


def test_candidates_are_distinct_items_of_the_pool():
    pool = torch.arange(10, 40, 2)
    drawn = candidates(pool, 6)
    assert len(drawn.unique()) == 6 and torch.isin(drawn, pool).all()
    assert torch.equal(candidates(pool, 6, fixed=True), candidates(pool, 6, fixed=True))
    assert torch.equal(candidates(pool, 15), pool)


def test_other_items_are_uniform_over_the_rest():
    pool, draws = torch.tensor([2, 3, 7, 8]), (torch.arange(12) + 0.5) / 12
    assert other_items(torch.full((12,), 3), pool, draws).tolist() == [2] * 4 + [7] * 4 + [8] * 4
    assert other_items(torch.full((12,), 8), pool, draws).tolist() == [2] * 4 + [3] * 4 + [7] * 4
    assert other_items(torch.full((12,), 5), pool, draws).tolist() == [2] * 3 + [3] * 3 + [7] * 3 + [8] * 3
    with pytest.raises(ValueError, match="at least two items, got 1"):
        other_items(torch.tensor([1]), torch.tensor([1]), torch.tensor([0.5]))


def test_unknown_kind_of_instances():
    with pytest.raises(ValueError, match="windows, prefixes, got 'all'"):
        TaskTable(rows_of({1: [1, 2]}), 3, "all")


def test_limit_per_user():
    sequences = {1: [1, 2, 3, 4], 2: list(range(1, 12))}
    for instances in ("prefixes", "windows"):
        table = TaskTable(rows_of(sequences), 3, instances, np.array([0, 1, 2]))
        assert [target for _, target in instances_of(table, 1)] == [4]
        assert sorted(target for _, target in instances_of(table, 2)) == [10, 11]
        assert TaskTable(rows_of(sequences), 3, instances, np.zeros(3, dtype=int)).users.tolist() == []
