"""Shares of modalities, with what an item lacks given to the others."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from recbole_mm.nn.mixture import modality_shares


def test_shares_of_what_an_item_lacks_go_to_the_others_with_gradients():
    base = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).requires_grad_()
    observed = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()
    expected = [[0.2, 0.3, 0.5], [0.0, 0.375, 0.625], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    for row, other in zip(modality_shares(base, observed).tolist(), expected):
        assert row == pytest.approx(other)
    each = base.detach().expand(4, 3)
    assert torch.equal(modality_shares(each, observed), modality_shares(base, observed))
    assert gradcheck(lambda b: modality_shares(b, observed), (base,))
