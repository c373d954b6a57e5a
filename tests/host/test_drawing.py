"""Batches and negatives are those of RecBole's own loops, to the last bit."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from recbole.sampler import Sampler
from recbole.sampler.sampler import AbstractSampler
from torch.utils._pytree import tree_leaves

from recbole_mm.host import cold_start
from recbole_mm.host.drawing import Rows
from tests.host.cold_data import config, loaders

PLACES = (
    (AbstractSampler, "sample_by_key_ids"),
    (AbstractSampler, "_pop_sampling"),
    (Interaction, "__getitem__"),
    (AbstractDataLoader, "__init__"),
)


def batches(model, epochs=2, **options):
    """Everything that two epochs, a validation and the draws after them give."""
    train, valid, _ = loaders(config(model, **options))
    found = [batch.interaction for _ in range(epochs) for batch in train]
    asked = [batch for _ in range(2) for batch in valid]
    found += [batch[0].interaction for batch in asked]
    answers = [[part.tolist() for part in tree_leaves(batch[1:]) if part is not None] for batch in asked]
    return [{name: column.tolist() for name, column in batch.items()} for batch in found], answers, np.random.random()


@pytest.mark.parametrize(("model", "options"), [
    ("BPR", {"train_batch_size": 100, "eval_batch_size": 3000}),
    ("BPR", {"train_neg_sample_args": {"distribution": "popularity", "sample_num": 3}, "train_batch_size": 512}),
    ("BPR", {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "pop20"}}),
    ("MMGCN", {"cold_start": {"entity": "item"}}),
    ("MML", {}),
    ("SASRec", {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni10"}}),
])  # fmt: skip
def test_batches_negatives_and_random_state_are_recboles(monkeypatch, model, options):
    ours = batches(model, **options)
    for owner, name in PLACES:
        monkeypatch.setattr(owner, name, getattr(owner, name).__wrapped__)
    monkeypatch.setattr(cold_start, "collate_users", lambda collate, loader, index: collate(loader, index))
    theirs = batches(model, **options)
    assert ours[0] and ours == theirs


def sampler(used, n_items, distribution="uniform"):
    made = object.__new__(Sampler)
    made.item_num, made.used_ids, made.distribution, made.user_num = n_items, np.array(used), distribution, len(used)
    return made


def test_a_user_with_all_items_but_one_gets_that_one():
    crowded = sampler([{1, 2, 3}, {1, 2, 4}, set()], 5)
    drawn = crowded.sample_by_user_ids(np.array([0, 1, 0, 1]), None, 2)
    assert drawn.dtype == torch.int64 and drawn.tolist() == [4, 3, 4, 3, 4, 3, 4, 3]


def test_users_outside_are_refused_as_before():
    with pytest.raises(ValueError, match=r"user_id \[3\] not exist"):
        sampler([{1}, {2}, {3}], 5).sample_by_user_ids(np.array([0, 3]), None, 1)


def test_other_used_ids_are_read_again():
    made = sampler([{1, 2, 3}, {1}], 5)
    assert made.sample_by_user_ids(np.array([0, 0, 1]), None, 1)[:2].tolist() == [4, 4]
    made.used_ids = np.array([{1, 2, 4}, {1}])
    assert made.sample_by_user_ids(np.array([0, 0, 1]), None, 1)[:2].tolist() == [3, 3]


def test_rows_are_a_sequence_and_a_batch():
    rows = Rows(3)
    assert list(rows) == [0, 1, 2] and len(rows) == 3 and rows.__getitems__([2, 0]) == [2, 0]


@pytest.mark.parametrize("index", [
    np.array([2, 0]), np.array([2, 0])[::-1], np.array([2, 0], dtype=">i4"), np.array([True, False, True]),
    torch.tensor([1, 1]), torch.tensor([], dtype=torch.int64), np.array(1), [0, 2], slice(1, 3), 1,
])  # fmt: skip
def test_rows_of_an_interaction(index):
    table = Interaction({"a": torch.arange(3), "b": torch.rand(3, 2)})
    ours, theirs = table[index], Interaction.__getitem__.__wrapped__(table, index)
    for name in ("a", "b"):
        assert torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype
        assert ours[name].data_ptr() != table[name].data_ptr() or theirs[name].data_ptr() == table[name].data_ptr()


def test_rejection_costs_no_loop_over_draws():
    made = sampler([set(range(1, 50))] * 2000, 5000)
    users = np.arange(2000).repeat(20)
    made.sample_by_user_ids(users, None, 1)

    def seconds(draw):
        start = time.process_time()
        draw(made, users, 1)
        return time.process_time() - start

    original = AbstractSampler.sample_by_key_ids.__wrapped__
    assert 2 * min(seconds(AbstractSampler.sample_by_key_ids) for _ in range(3)) < min(
        seconds(original) for _ in range(3)
    )
