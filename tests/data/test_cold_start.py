"""Which users and items are new, what their interactions become, and what their histories are, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_mm.config import read_cold_start
from recbole_mm.data.cold_start import (
    SUPPORT,
    TEST,
    UNUSED,
    VALID,
    choose_new,
    histories,
    item_roles,
    last_only,
    next_item_rows,
    user_roles,
)


def some_interactions(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, items and distinct ranks."""
    generator = np.random.default_rng(seed)
    return generator.integers(1, 9, n), generator.integers(1, 12, n), generator.permutation(n) * 3


class TestChoosing:
    IDS = np.arange(1, 11)
    TOKENS = np.array([f"t{k}" for k in range(10)])

    def test_a_random_share_depends_on_tokens_and_seed_only(self) -> None:
        protocol = read_cold_start({"entity": "item", "ratio": 0.4})
        chosen = choose_new(protocol, self.IDS, self.TOKENS, None, 3)
        assert len(set(chosen)) == 4
        order = np.random.default_rng(0).permutation(10)
        again = choose_new(protocol, np.arange(21, 31), self.TOKENS[order], None, 3)  # other ids, in another order
        tokens = dict(zip(np.arange(21, 31), self.TOKENS[order]))
        assert [tokens[k] for k in again] == [self.TOKENS[k - 1] for k in chosen]
        others = {tuple(sorted(choose_new(protocol, self.IDS, self.TOKENS, None, seed))) for seed in range(5)}
        assert len(others) > 1

    def test_by_time_takes_the_latest_in_the_order_of_time(self) -> None:
        protocol = read_cold_start({"entity": "item", "ratio": 0.3, "by": "time"})
        first = np.array([5, 9, 1, 7, 7, 2, 3, 8, 0, 4], dtype=float)
        assert choose_new(protocol, self.IDS, self.TOKENS, first, 0).tolist() == [5, 8, 2]  # t3 and t4 tie: by token

    @pytest.mark.parametrize(("entity", "ratio", "least"), [("item", 0.1, 2), ("user", 0.04, 1), ("user", 0.97, 1)])
    def test_too_few(self, entity: str, ratio: float, least: int) -> None:
        with pytest.raises(ValueError, match=rf"ratio {ratio} of 10 {entity}s makes .* at least {least}"):
            choose_new(read_cold_start({"entity": entity, "ratio": ratio}), self.IDS, self.TOKENS, None, 0)


class TestRoles:
    @pytest.mark.parametrize("support", [None, 1, 3])
    @pytest.mark.parametrize("fixed", [False, True])
    def test_users_against_a_loop(self, support: int | None, fixed: bool) -> None:
        user, _, rank = some_interactions(support or 0)
        file = np.random.default_rng(5).integers(0, 3, len(user)) if fixed else None
        expected = np.full(len(user), UNUSED)
        for who in set(user):
            mine = sorted(np.flatnonzero(user == who), key=lambda row: rank[row])
            if fixed:
                parts = [[row for k, row in enumerate(mine) if file[row] == part] for part in range(3)]
                known = {row for row in parts[0] if support is None or parts[0].index(row) < support}
                roles = {row: SUPPORT for row in known}
                roles.update({row: (VALID, TEST)[k] for k in (0, 1) for row in parts[k + 1]})
            else:
                end = len(mine) - 2 if support is None else support
                roles = dict.fromkeys(mine[: max(end, 0)], SUPPORT)
                if 0 <= end < len(mine) - 1:
                    roles.update({mine[end]: VALID, mine[end + 1]: TEST})
            counts = [list(roles.values()).count(kind) for kind in (SUPPORT, VALID, TEST)]
            if counts[0] >= (support or 1) and counts[1] and counts[2]:
                for row, role in roles.items():
                    expected[row] = role
        assert {SUPPORT, VALID, TEST, UNUSED} >= set(expected) > {UNUSED}
        assert np.array_equal(user_roles(user, rank, support, file), expected)

    def test_halves_of_the_new_items(self) -> None:
        roles = item_roles(np.array([1, 2, 3, 4, 5, 2]), np.array([4, 2, 5]), 7)
        assert roles.tolist() == [UNUSED, TEST, UNUSED, VALID, TEST, TEST]

    def test_last_only(self) -> None:
        user, _, rank = some_interactions(1)
        expected = [rank[row] == max(rank[user == user[row]]) for row in range(len(user))]
        assert last_only(user, rank).tolist() == expected
        assert last_only(user[:0], rank[:0]).tolist() == []


@pytest.mark.parametrize("length", [2, 50])
def test_next_item_rows_against_a_loop(length: int) -> None:
    user, item, rank = some_interactions(2)
    generator = np.random.default_rng(3)
    is_known = generator.random(len(user)) < 0.5
    rows = Interaction(
        {
            "user_id": torch.from_numpy(user),
            "item_id": torch.from_numpy(item),
            "price": torch.rand(len(user), 2),  # as RecBole keeps numerical features
        }
    )
    known, begin, end = histories(user, rank, np.flatnonzero(is_known), np.arange(len(user)))
    asked = generator.permutation(np.flatnonzero((end > begin) & ~is_known))
    assert len(asked) > 5
    made = next_item_rows(rows, "user_id", (known, begin[asked], end[asked]), asked, length, ("_list", "item_length"))
    for row, target in enumerate(asked):
        before = [k for k in np.argsort(rank) if is_known[k] and user[k] == user[target] and rank[k] < rank[target]]
        before = before[-length:]
        assert int(made["item_length"][row]) == len(before) > 0
        assert made["item_id_list"][row].tolist() == [*item[before], *[0] * (length - len(before))]
        assert torch.equal(made["price_list"][row, : len(before)], rows["price"][torch.tensor(before)])
        assert not made["price_list"][row, len(before) :].any()
        assert int(made["item_id"][row]) == item[target] and int(made["user_id"][row]) == user[target]
    assert "user_id_list" not in made
