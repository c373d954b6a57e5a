"""The rows that a step computes."""

import torch

from recbole_mm.nn.rows import batch_rows


def test_every_id_finds_its_row():
    ids = torch.tensor([5, 3, 5, 9])
    rows, place = batch_rows(ids, n_rows=20)
    assert torch.equal(rows[place], ids) and rows.tolist() == [3, 5, 9]


def test_all_rows_when_nothing_is_saved():
    assert batch_rows(None, 3) == (None, None)
    rows, place = batch_rows(torch.tensor([1, 1, 2]), 3)
    assert rows is None and place.tolist() == [1, 1, 2]
