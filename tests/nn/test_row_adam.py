"""Adam by rows: the rule in plain float64, untouched rows, dense parameters beside, torch's sparse form, resuming."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recbole_mm.nn.row_adam import RowAdam

STEPS = [[0, 3, 3], [3], [1, 0], [3, 1]]


def losses(table, linear, rows, sparse=True):
    return (linear(F.embedding(torch.tensor(rows), table, sparse=sparse)) ** 2).sum()


def start(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Parameter(torch.randn(5, 3, dtype=dtype)), nn.Linear(3, 2, dtype=dtype)


def plain(table, grads_of, lr, decay):
    """The rule, row by row in Python numbers."""
    theta, m, v = table.tolist(), [[0.0] * 3 for _ in range(5)], [[0.0] * 3 for _ in range(5)]
    for t, (rows, grads) in enumerate(grads_of, start=1):
        rate = lr * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        for r in set(rows):
            for c in range(3):
                g = grads[r][c] + decay * theta[r][c]
                m[r][c] = 0.9 * m[r][c] + 0.1 * g
                v[r][c] = 0.999 * v[r][c] + 0.001 * g * g
                theta[r][c] -= rate * m[r][c] / (math.sqrt(v[r][c]) + 1e-8)
    return torch.tensor(theta, dtype=torch.float64)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_touched_rows_follow_the_rule_and_others_stay(decay):
    table, linear = start()
    before, seen = table.detach().clone(), []
    optimizer = RowAdam([table], lr=0.1, weight_decay=decay)
    for rows in STEPS:
        optimizer.zero_grad()
        losses(table, linear, rows).backward()
        seen.append((rows, table.grad.to_dense().tolist()))
        optimizer.step()
        assert table.grad.is_sparse  # others may still want to look at it
    torch.testing.assert_close(table.detach(), plain(before, seen, 0.1, decay), rtol=1e-12, atol=1e-12)
    untouched = [2, 4]
    assert torch.equal(table[untouched], before[untouched])
    assert not optimizer.state[table]["exp_avg"][untouched].any()


def test_it_is_sparse_adam_beside_adam():
    (table, linear), (other, twin) = start(), start()
    one = RowAdam([table, *linear.parameters()], lr=0.05, fused=True)
    two = [torch.optim.SparseAdam([other], lr=0.05), torch.optim.Adam(twin.parameters(), lr=0.05)]
    for rows in STEPS:
        for optimizer in (one, *two):
            optimizer.zero_grad()
        losses(table, linear, rows).backward()
        losses(other, twin, rows).backward()
        for optimizer in (one, *two):
            optimizer.step()
    torch.testing.assert_close(table, other, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(linear.weight, twin.weight, rtol=1e-10, atol=1e-12)


def test_dense_gradients_alone_are_adam_to_the_last_bit():
    (table, linear), (other, twin) = start(torch.float32), start(torch.float32)
    one = RowAdam([table, *linear.parameters()], lr=0.05, weight_decay=0.01)
    two = torch.optim.Adam([other, *twin.parameters()], lr=0.05, weight_decay=0.01)
    for rows in STEPS:
        one.zero_grad(), two.zero_grad()
        losses(table, linear, rows, sparse=False).backward()
        losses(other, twin, rows, sparse=False).backward()
        one.step(), two.step()
    assert torch.equal(table, other) and torch.equal(linear.weight, twin.weight)


def test_a_saved_state_goes_on_as_if_nothing_had_happened():
    results = []
    for interrupted in (False, True):
        table, linear = start()
        optimizer = RowAdam([table, *linear.parameters()], lr=0.05)
        for number, rows in enumerate(STEPS):
            if interrupted and number == 2:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = RowAdam([table, *linear.parameters()], lr=0.05)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            losses(table, linear, rows).backward()
            optimizer.step()
        results.append(table.detach().clone())
    assert torch.equal(*results)


def test_a_closure_gives_the_loss():
    table, linear = start()
    optimizer = RowAdam([table], lr=0.05)

    def closure():
        optimizer.zero_grad()
        loss = losses(table, linear, [1])
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert optimizer.step(closure) < first
