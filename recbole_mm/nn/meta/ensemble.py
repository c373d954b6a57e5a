"""The learners of one model side by side: adapted to the same users, asked for the same histories."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recbole_mm.nn.meta.learner import Learner
from recbole_mm.nn.meta.tasks import TaskBatch

__all__ = ["Adapted", "LearnerEnsemble", "pick_users"]

Adapted = Mapping[str, Mapping[str, Tensor]]
"""Learner -> parameter -> values of every user, ``(T, ...)``. Empty if the learners are not adapted."""


class LearnerEnsemble(nn.ModuleDict):
    """Learners by name, each with the settings of its adaptation at evaluation.

    Args:
        learners: The learners.
        steps: Gradient steps of the adaptation; 0 leaves the learners as they are.
        learning_rate: Step size per learner.
        scope: Which parameters adapt, ``local`` or ``all``.
    """

    def __init__(
        self, learners: Mapping[str, Learner], steps: int, learning_rate: Mapping[str, float], scope: str
    ) -> None:
        super().__init__(learners)
        self.steps, self.learning_rate, self.scope = steps, dict(learning_rate), scope

    def adapt(self, batch: TaskBatch, features: Mapping[str, Tensor]) -> Adapted:
        """Adapt every learner to the instances of some users.

        Args:
            batch: The users' instances.
            features: Learner to its feature table.
        """
        if self.steps == 0:
            return {}
        return {
            name: learner.adapt(batch, features[name], self.steps, self.learning_rate[name], self.scope)
            for name, learner in self.items()
        }

    def states(self, adapted: Adapted, windows: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """States of windows ``(T, W, length)``, user by user: ``(T, W, learners, length, dim)``."""
        states = []
        for name, learner in self.items():
            if adapted:
                state = learner.adapted_states(adapted[name], windows, features[name])
            else:
                state = learner.states(windows.flatten(0, 1), features[name]).unflatten(0, windows.shape[:2])
            states.append(state)
        return torch.stack(states, dim=2)

    def scores(self, adapted: Adapted, last: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """Scores of all items from states ``(T, learners, ..., dim)``, per user: ``(T, learners, ..., n_items)``."""
        scores = []
        for index, (name, learner) in enumerate(self.items()):
            state = last[:, index]
            if adapted:
                scores.append(learner.adapted_scores(adapted[name], state, features[name]))
            else:
                scores.append(learner.scores(state, features[name]))
        return torch.stack(scores, dim=1)

    def user_bytes(self) -> int:
        """Memory of one user's adapted parameters."""
        if self.steps == 0:
            return 0
        values = (value for learner in self.values() for value in learner.parameters_of(self.scope).values())
        return sum(value.numel() * value.element_size() for value in values)


def pick_users(adapted: Adapted, place: Tensor) -> Adapted:
    """The adapted parameters of users ``place``, with repetitions if a user occurs repeatedly."""
    return {
        learner: {name: values[place] for name, values in parameters.items()} for learner, parameters in adapted.items()
    }
