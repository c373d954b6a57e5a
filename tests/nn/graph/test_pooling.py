"""History pooling against plain loops in float64."""

from __future__ import annotations

import torch

from recbole_mm.nn.graph.pooling import history_mean, history_mean_without, history_sum
from recbole_mm.nn.graph.sparse import SparsePattern

PAIRS = [(0, 1), (0, 2), (0, 3), (1, 2), (2, 3), (3, 1), (3, 3)]
OBSERVED = torch.tensor([False, True, True, False])
N_USERS = 5


def feature(seed=0):
    torch.manual_seed(seed)
    return torch.randn(4, 3, dtype=torch.float64)


def pattern():
    users, items = torch.tensor(PAIRS).T
    return SparsePattern.from_pairs(users, items, N_USERS, 4)


def plain_mean(feature, user, without=None):
    items = [i for u, i in PAIRS if u == user and OBSERVED[i] and i != without]
    if not items:
        return torch.zeros(3, dtype=torch.float64), False
    return sum(feature[i] for i in items) / len(items), True


def test_history_mean_equals_a_plain_loop():
    total, count = history_sum(pattern(), feature(), OBSERVED)
    assert count.tolist() == [2, 1, 0, 1, 0]
    mean, present = history_mean(total, count)
    for user in range(N_USERS):
        expected, any_item = plain_mean(feature(), user)
        torch.testing.assert_close(mean[user], expected)
        assert bool(present[user]) is any_item


def test_leaving_the_target_out_equals_a_plain_loop():
    total, count = history_sum(pattern(), feature(), OBSERVED)
    users, items = torch.tensor(PAIRS).T
    mean, present = history_mean_without(total[users], count[users], feature()[items], OBSERVED[items])
    for row, (user, item) in enumerate(PAIRS):
        expected, any_item = plain_mean(feature(), user, without=item)
        torch.testing.assert_close(mean[row], expected)
        assert bool(present[row]) is any_item


def test_the_target_never_shows_in_its_own_user_vector():
    users, items = torch.tensor(PAIRS).T
    results = []
    for shift in (0.0, 5.0):
        moved = feature()
        moved[1] += shift
        total, count = history_sum(pattern(), moved, OBSERVED)
        results.append(history_mean_without(total[users], count[users], moved[items], OBSERVED[items])[0])
    for row, (user, item) in enumerate(PAIRS):
        moves = item != 1 and (user, 1) in PAIRS
        assert torch.allclose(results[0][row], results[1][row], atol=1e-12) is not moves


def test_history_of_one_item_leaves_exactly_nothing_in_float32():
    values = (feature() * 1e4).float() / 3
    total, count = history_sum(pattern(), values, OBSERVED)
    # Sums that were projected apart from the items differ from them in the last digits.
    mean, present = history_mean_without(total[[1]] * (1 + 1e-6), count[[1]], values[[2]], OBSERVED[[2]])
    assert torch.equal(mean, torch.zeros(1, 3)) and not present.any()


def test_pooling_projected_vectors_is_projecting_pooled_vectors():
    weight = torch.randn(3, 2, dtype=torch.float64)
    raw, _ = history_sum(pattern(), feature(), OBSERVED)
    projected, _ = history_sum(pattern(), feature() @ weight, OBSERVED)
    torch.testing.assert_close(raw @ weight, projected)


def test_gradients_reach_the_item_vectors():
    values = feature().requires_grad_()

    def pooled(vectors):
        total, count = history_sum(pattern(), vectors, OBSERVED)
        users, items = torch.tensor(PAIRS).T
        return history_mean_without(total[users], count[users], vectors[items], OBSERVED[items])[0]

    assert torch.autograd.gradcheck(pooled, values)
