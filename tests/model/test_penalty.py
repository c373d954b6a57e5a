"""The penalty of every model acts: over its search range it changes the gradient."""

from __future__ import annotations

import pytest
import torch

from recbole_mm.search.space import Range, read_space
from tests.model.conftest import build, total_loss


def gradient(model: str, weight: float) -> torch.Tensor:
    built = (
        build(model, dropout=0.0, reg_weight=weight) if model in ("UVCAN", "CMBF") else build(model, reg_weight=weight)
    )
    torch.manual_seed(0)
    network = built.model.train()
    total_loss(network, built.batch(64)).backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@pytest.mark.parametrize("model", ["CMBF", "DualGNN", "GRCN", "HCGCN", "MMGCN", "UVCAN"])
def test_reg_weight_changes_the_gradient_over_its_search_range(model):
    dimension = read_space(model)["reg_weight"]
    assert isinstance(dimension, Range)
    low, high = gradient(model, dimension.low), gradient(model, dimension.high)
    assert (high - low).norm() > 0.01 * low.norm()


@pytest.mark.parametrize("model", ["DualGNN", "GRCN", "MMGCN"])
def test_normalised_tables_are_out_of_the_reach_of_a_penalty(model):
    """A step along the penalty's gradient changes scores only where tables keep their length."""
    for normalize_tables in (True, False):
        network = build(model, normalize_tables=normalize_tables).model.eval()
        before = network.forward()[0].detach().clone()
        with torch.no_grad():
            for table in network.preference.values():
                table.mul_(0.5)
            if model == "GRCN":
                network.embedding.mul_(0.5)
        assert torch.allclose(network.forward()[0], before, atol=1e-5) == normalize_tables
