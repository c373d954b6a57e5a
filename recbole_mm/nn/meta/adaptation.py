"""Parameters adapted to users, kept within a memory budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable

import torch
from torch import Tensor

__all__ = ["AdaptedUsers"]

Adapted = Mapping[str, Mapping[str, Tensor]]


class AdaptedUsers:
    """Remembers the adapted parameters of users, the latest of them as far as the budget goes.

    Args:
        budget: Bytes that may be kept.
    """

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self._kept: dict[int, tuple[Adapted, int]] = {}  # user -> the group they were adapted in, and place in it
        self._bytes = 0.0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, users: Tensor, adapt: Callable[[Tensor], Adapted]) -> Adapted:
        """Parameters of users, computing those that are not there.

        Args:
            users: Distinct user ids ``(T,)`` on the CPU.
            adapt: Function from user ids to learner -> name -> stacked parameters.

        Returns:
            Learner -> name -> ``(T, ...)``.
        """
        ids = users.tolist()
        absent = [user for user in ids if user not in self._kept]
        if len(absent) == len(ids):
            group = adapt(users)
            self._keep(ids, group)
            return group
        known = {user: self._kept[user] for user in ids if user in self._kept}
        if absent:
            group = adapt(torch.tensor(absent))
            self._keep(absent, group)
            known.update({user: (group, place) for place, user in enumerate(absent)})
        first = known[ids[0]][0]
        return {
            learner: {name: torch.stack([known[u][0][learner][name][known[u][1]] for u in ids]) for name in names}
            for learner, names in first.items()
        }

    def _keep(self, users: list[int], group: Adapted) -> None:
        size = sum(t[0].numel() * t.element_size() for names in group.values() for t in names.values())
        for place, user in enumerate(users):
            if self._bytes + size > self.budget:
                # A group is freed as a whole, once its last user has gone; users leave in the order they came.
                oldest = next(iter(self._kept), None)
                if oldest is None:
                    return
                del self._kept[oldest]
                self._bytes -= size
            self._kept[user] = (group, place)
            self._bytes += size
