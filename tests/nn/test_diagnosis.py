"""Measures of a training: closed forms, and what they must not change."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_mm.nn.diagnosis import (
    Part,
    concentration,
    coverage_and_gini,
    effective_rank,
    gradient_shares,
    idle,
    overlap,
)


def test_shares_are_norms_of_gradients_of_shared_parameters_only() -> None:
    shared, own = torch.ones(2, requires_grad=True), torch.ones(1, requires_grad=True)
    losses = (shared[0] * 3 + 100 * own[0], shared[1] * 4, torch.tensor(1.0))
    before = torch.autograd.grad(sum(losses), [shared, own], retain_graph=True)
    assert gradient_shares(losses, [shared, own]) == pytest.approx([3 / 7, 4 / 7, 0])
    assert shared.grad is None and own.grad is None
    after = torch.autograd.grad(sum(losses), [shared, own])
    assert all(torch.equal(left, right) for left, right in zip(before, after))


def test_there_are_no_shares_where_nothing_is_shared() -> None:
    left, right = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    assert gradient_shares((left.sum(), right.sum()), [left, right]) is None
    assert gradient_shares((left.sum() * 0, left.sum() * 0), [left]) is None


def test_a_table_with_sparse_gradients_has_shares() -> None:
    table = torch.nn.Embedding(4, 2, sparse=True)
    rows = table(torch.tensor([1, 1]))
    assert gradient_shares((rows.sum(), 3 * rows.sum()), [table.weight]) == pytest.approx([0.25, 0.75])


def test_effective_rank() -> None:
    line = torch.outer(torch.arange(5.0), torch.tensor([1.0, 2.0, 3.0])) + 7
    square = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert effective_rank(line) == pytest.approx(1)
    assert effective_rank(square + 100) == pytest.approx(2)
    assert effective_rank(torch.full((4, 3), 2.5)) == 0 == effective_rank(torch.zeros(3, 2))
    stretched = square * torch.tensor([3.0, 1.0])
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert effective_rank(stretched) == pytest.approx(math.exp(entropy))


def test_measures_of_lists() -> None:
    same, different = torch.tensor([[1, 2], [2, 1], [1, 2]]), torch.tensor([[1, 2], [3, 4], [5, 6]])
    assert concentration(same) == 1 and concentration(different) == pytest.approx(2 / 6)
    assert coverage_and_gini(same, 7) == pytest.approx((2 / 6, 2 / 3))
    assert coverage_and_gini(different, 7) == pytest.approx((1, 0))
    assert overlap(same, torch.tensor([[2, 1], [2, 9], [8, 9]])) == pytest.approx(0.5)


def test_idle_parts() -> None:
    assignment = torch.tensor([[0.999, 0.001], [0.995, 0.005], [0.0, 0.0]])
    assert "holds 100% of everything" in (idle(Part("assignment", assignment)) or "")
    assert "every row belongs to its groups alike" in (idle(Part("assignment", torch.full((5, 3), 1 / 3))) or "")
    assert idle(Part("assignment", torch.eye(3))) is None
    assert idle(Part("assignment", torch.ones(4, 1))) is None, "one group is meant to hold everything"
    assert "its 4 values are all 0.5" in (idle(Part("weights", torch.full((2, 2), 0.5))) or "")
    assert idle(Part("weights", torch.tensor([0.5, 0.501]))) is None
    assert idle(Part("weights", torch.ones(1))) is None
