"""Projections of some rows against the plain way: gather, then project."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_mm.data.features.table import FeatureTable
from recbole_mm.model.feature_bank import FeatureBank
from recbole_mm.nn import projection
from recbole_mm.nn.linear import Linear
from recbole_mm.nn.projection import project_rows
from tests.model.largest import LargestTensor

IDS = torch.tensor([4, 0, 4, 2, 3, 1, 1])


@pytest.mark.parametrize("ids", [IDS, None])
@pytest.mark.parametrize("block", [1, 6, 1000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_values_and_gradients_are_those_of_the_gathered_rows(ids, block, dtype, monkeypatch):
    monkeypatch.setattr(projection, "BLOCK", block)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    torch.manual_seed(0)
    layer, table = nn.Sequential(Linear(3, 2), nn.LeakyReLU(), Linear(2, 2)).to(wide), torch.randn(5, 3).to(dtype)
    rows = table if ids is None else table[ids]
    weight = torch.randn(len(rows), 2, dtype=wide)
    parameters = list(layer.parameters())
    actual, expected = project_rows(layer, table, ids), layer(rows.to(wide))
    torch.testing.assert_close(actual, expected)
    for left, right in zip(*(torch.autograd.grad((x * weight).sum(), parameters) for x in (actual, expected))):
        torch.testing.assert_close(left, right)


def test_no_copy_of_the_rows_is_kept():
    layer, table = Linear(64, 2), torch.randn(5, 64)
    result = project_rows(layer, table, IDS)
    saved = result.grad_fn.saved_tensors
    assert all(tensor.numel() != 7 * 64 for tensor in saved)
    assert any(tensor.data_ptr() == table.data_ptr() for tensor in saved)


def test_all_rows_of_half_precision_are_never_wide_at_once(monkeypatch):
    monkeypatch.setattr(projection, "BLOCK", 2 * 64)
    bank = FeatureBank(
        {"image": FeatureTable("image", "item", torch.randn(9, 64).half(), torch.ones(9).bool())}, {"image": 1}
    )
    layer = Linear(64, 3)
    with LargestTensor() as largest:
        bank.projected("image", layer, None).sum().backward()
    assert largest.elements < 9 * 64
    torch.testing.assert_close(bank.projected("image", layer, None), layer(bank["image"]))


@pytest.mark.parametrize("layer", [nn.Identity(), nn.Linear(3, 2)])
def test_other_layers_take_the_plain_way(layer):
    table = torch.randn(5, 3)
    assert torch.equal(project_rows(layer, table, IDS), layer(table[IDS]))


def test_no_rows_give_no_rows():
    layer = Linear(3, 2)
    result = project_rows(layer, torch.randn(5, 3), IDS[:0])
    result.sum().backward()
    assert result.shape == (0, 2) and layer.weight.grad.eq(0).all()
