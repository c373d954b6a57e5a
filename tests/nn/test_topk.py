"""The largest numbers of every row are those of torch, ties included."""

from __future__ import annotations

import pytest
import torch

from recbole_mm.nn import topk
from recbole_mm.nn.topk import top_columns


def scores(n_rows=9, n_columns=1000, seed=0):
    return torch.randn(n_rows, n_columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n_columns", [6, 704, 1000, 1024])
@pytest.mark.parametrize("k", [1, 5])
def test_equals_torch(k, n_columns):
    table = scores(n_columns=n_columns)
    assert torch.equal(top_columns(table, k), table.topk(k).indices)
    assert torch.equal(top_columns(table.flip(1)[:, 1:], k), table.flip(1)[:, 1:].topk(k).indices)


def test_ties_are_those_of_torch():
    table = scores(40).mul(3).round()
    table[3] = -torch.inf
    table[4, 7:] = -torch.inf
    assert torch.equal(top_columns(table, 6), table.topk(6).indices)


def test_a_tie_at_the_end_of_the_list_counts():
    table = torch.zeros(1, 2000)
    table[0, 1000:1003] = torch.tensor([3.0, 2.0, 2.0])
    table[0, 1800] = 2.0
    assert torch.equal(top_columns(table, 2), table.topk(2).indices)


def test_rows_without_ties_are_not_ranked_twice(monkeypatch):
    table, sizes = scores(50, 5000), []
    whole = torch.topk

    def counted(values, *args, **kwargs):
        sizes.append(values.numel())
        return whole(values, *args, **kwargs)

    monkeypatch.setattr(topk.torch, "topk", counted)
    top_columns(table, 20)
    assert sum(sizes) < table.numel() / 4
