"""The memory of adapted users."""

from __future__ import annotations

import torch

from recbole_mm.nn.meta.adaptation import AdaptedUsers
from recbole_mm.nn.meta.ensemble import pick_users


def recorder():
    """A function that adapts users, and the list of what it was asked."""
    asked = []

    def adapt(users):
        asked.append(users.tolist())
        return {"id": {"w": torch.stack([users.float(), -users.float()], dim=1)}}

    return adapt, asked


def get(memory, users, adapt):
    values = memory.get(torch.tensor(users), adapt)["id"]["w"]
    assert values.tolist() == [[user, -user] for user in users]


def test_known_users_are_not_adapted_again():
    memory, (adapt, asked) = AdaptedUsers(1e9), recorder()
    get(memory, [3, 1], adapt)
    get(memory, [1, 3], adapt)
    get(memory, [1, 5, 3, 2], adapt)
    get(memory, [5], adapt)
    assert asked == [[3, 1], [5, 2]] and len(memory) == 4


def test_the_oldest_users_leave_when_the_budget_is_spent():
    memory, (adapt, asked) = AdaptedUsers(3 * 8), recorder()  # a user takes two floats
    get(memory, [1, 2], adapt)
    get(memory, [3, 4], adapt)
    assert len(memory) == 3
    get(memory, [2, 3, 4], adapt)
    assert asked == [[1, 2], [3, 4]]
    get(memory, [1], adapt)
    assert asked[-1] == [1]


def test_a_budget_too_small_for_anybody_keeps_nobody():
    memory, (adapt, asked) = AdaptedUsers(7), recorder()
    get(memory, [1, 2], adapt)
    get(memory, [1, 2], adapt)
    assert asked == [[1, 2], [1, 2]] and len(memory) == 0


def test_pick_users_repeats_parameters():
    adapted = {"id": {"w": torch.tensor([[1.0], [2.0]])}}
    assert pick_users(adapted, torch.tensor([1, 0, 1]))["id"]["w"].tolist() == [[2.0], [1.0], [2.0]]
    assert pick_users({}, torch.tensor([0])) == {}
