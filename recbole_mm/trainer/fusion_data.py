"""What the fusion layer of MML learns from: the adapted learners' states and scores of many instances."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_mm.nn.meta.ensemble import Adapted
from recbole_mm.nn.meta.tasks import TaskBatch, TaskTable

__all__ = ["FusionData"]


class FusionData:
    """States of a random share of users after adaptation, as at evaluation, to their support instances.

    Kept are the states of whole windows, on the CPU; the states that an instance has seen are a prefix of its
    window's, and its scores follow from its last state. With ``adapt_scope: all`` every user has an item table of
    their own, so the scores are kept as well.

    Args:
        model: The MML model; learners and generator are final.
        support: Instances to adapt to, and to train on.
        query: Instances to validate on.
        users: Users who have both.
        seed: Seed of the choice of users.
    """

    def __init__(self, model: Any, support: TaskTable, query: TaskTable, users: Tensor, seed: int) -> None:
        self.model = model
        number = max(int(model.settings.fusion_user_rate * len(users)), 1)
        self.users = users[torch.randperm(len(users), generator=torch.Generator().manual_seed(seed))[:number]]
        training = model.training
        model.eval()
        parts: dict[str, list[_Instances]] = {"support": [], "query": []}
        pool = torch.arange(1, model.n_items)
        if model.known_items is not None:
            pool = model.known_items.cpu().nonzero().squeeze(1)
        with torch.no_grad():
            for chunk in model.task_chunks(support, self.users):
                n_candidates = model.settings.n_candidates
                batch = model.move(support.batch(chunk, pool, fixed=True, n_candidates=n_candidates))
                adapted = model.learners.adapt(batch, model.learner_features)
                parts["support"].append(_Instances.collect(model, adapted, batch))
                parts["query"].append(
                    _Instances.collect(model, adapted, model.move(query.batch(chunk, pool, fixed=True)))
                )
        model.train(training)
        self._support, self._query = (_Instances.join(parts[name]) for name in ("support", "query"))

    @property
    def n_support(self) -> int:
        """Number of instances to train on."""
        return len(self._support.target)

    @property
    def n_query(self) -> int:
        """Number of instances to validate on."""
        return len(self._query.target)

    def support(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States ``(n, learners, values)``, scores ``(n, learners, n_items)`` and targets ``(n,)``, to train on."""
        return self._support.take(self.model, index)

    def query(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same of instances to validate on."""
        return self._query.take(self.model, index)

    def __str__(self) -> str:
        size = sum(part.n_bytes for part in (self._support, self._query)) / 2**20
        return (
            f"Fusion learns from {self.n_support} instances of {len(self.users)} users and is validated on "
            f"{self.n_query} ({size:.0f} MiB of states)."
        )


class _Instances:
    """Instances as places in stored windows.

    Args:
        states: Shape ``(windows, learners, length, dim)``.
        window: Window of each instance, ``(n,)``.
        position: Where its history ends, ``(n,)``.
        target: Its next item, ``(n,)``.
        scores: Scores ``(n, learners, n_items)``, if they do not follow from the states.
    """

    def __init__(self, states: Tensor, window: Tensor, position: Tensor, target: Tensor, scores: Tensor | None) -> None:
        self.states, self.window, self.position, self.target, self.scores = states, window, position, target, scores

    @classmethod
    def collect(cls, model: Any, adapted: Adapted, batch: TaskBatch) -> _Instances:
        """The instances of a batch of users with their adapted parameters."""
        features = model.learner_features
        states = model.learners.states(adapted, batch.window, features)
        user, row, position = batch.target.nonzero(as_tuple=True)
        scores = None
        if adapted and model.learners.scope == "all":
            flat = states.transpose(1, 2).flatten(2, 3)  # (users, learners, windows * length, dim)
            place = row * batch.window.shape[2] + position
            scores = model.learners.scores(adapted, flat, features)[user, :, place].cpu()
        index = user * batch.window.shape[1] + row
        filled, window = index.unique(return_inverse=True)
        target = batch.target[user, row, position]
        return cls(states.flatten(0, 1)[filled].cpu(), window.cpu(), position.cpu(), target.cpu(), scores)

    @classmethod
    def join(cls, parts: list[_Instances]) -> _Instances:
        """One collection from several."""
        length = max(part.states.shape[2] for part in parts)
        states = [F.pad(part.states, (0, 0, 0, length - part.states.shape[2])) for part in parts]
        before = torch.tensor([0, *(len(part.states) for part in parts[:-1])]).cumsum(0)
        window = [part.window + start for part, start in zip(parts, before)]
        scores = (
            None if parts[0].scores is None else torch.cat([part.scores for part in parts if part.scores is not None])
        )
        position, target = (torch.cat([getattr(part, name) for part in parts]) for name in ("position", "target"))
        return cls(torch.cat(states), torch.cat(window), position, target, scores)

    def take(self, model: Any, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States, scores and targets of some instances, on the model's device."""
        device, position, states = model.finished_stages.device, self.position[index], self.states[self.window[index]]
        unseen = torch.arange(states.shape[2]) > position[:, None]
        states, position, target = (
            part.to(device, non_blocking=True)
            for part in (states.masked_fill(unseen[:, None, :, None], 0), position, self.target[index])
        )
        if self.scores is None:
            last = states[torch.arange(len(index), device=device), :, position]
            scores = model.learners.scores({}, last, model.learner_features)
        else:
            scores = self.scores[index].to(device, non_blocking=True)
        return model.flat(states), scores, target

    @property
    def n_bytes(self) -> int:
        """Memory that the instances take."""
        tensors = (self.states, self.window, self.position, self.target, self.scores)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
