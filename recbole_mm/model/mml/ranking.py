"""How MML ranks: every learner adapts to the user, then the predictions are fused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_mm.model.mml.settings import MMLSettings
from recbole_mm.nn.meta.adaptation import AdaptedUsers
from recbole_mm.nn.meta.ensemble import Adapted, LearnerEnsemble, pick_users
from recbole_mm.nn.meta.score_fusion import ScoreFusion
from recbole_mm.nn.meta.tasks import TaskBatch, TaskTable

__all__ = ["AdaptiveRanking"]


class AdaptiveRanking:
    """Scores by learners that adapt to each user's support instances, users in chunks within a memory budget.

    A model that mixes this in has the attributes below.
    """

    settings: MMLSettings
    learners: LearnerEnsemble
    fusion: ScoreFusion
    support: TaskTable
    finished_stages: Tensor
    n_items: int
    max_seq_length: int
    training: bool
    USER_ID: str
    ITEM_ID: str
    ITEM_SEQ: str
    _cache: Any

    @property
    def learner_features(self) -> dict[str, Tensor]:
        """Feature table that each learner reads."""
        raise NotImplementedError

    def predict(self, interaction: Any) -> Tensor:
        """Scores of the given (history, user, item) triples, ``(batch,)``."""
        asked = torch.cat([interaction[self.USER_ID][:, None], interaction[self.ITEM_SEQ]], dim=1)
        distinct, place = asked.unique(dim=0, return_inverse=True)
        scores = self._rank(distinct[:, 0], distinct[:, 1:])
        return scores[place, interaction[self.ITEM_ID]]

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of every item after the given histories of the given users, flattened from ``(batch, n_items)``."""
        return self._rank(interaction[self.USER_ID], interaction[self.ITEM_SEQ]).view(-1)

    def adapted(self, users: Tensor) -> Adapted:
        """Parameters of the learners for some users (on the CPU), from their support instances.

        What was computed stays until the model's parameters change or an evaluation ends, as memory permits.
        """

        def adapt_users(ids: Tensor) -> Adapted:
            everything = torch.arange(1, self.n_items)
            batch = self.move(self.support.batch(ids, everything, fixed=True, n_candidates=self.settings.n_candidates))
            with torch.no_grad():
                return self.learners.adapt(batch, self.learner_features)

        if self.training or self.learners.steps == 0:
            return adapt_users(users)
        state = tuple((p.data_ptr(), p._version) for p in self.learners.parameters())
        if self._cache is None or self._cache[0] != state:
            self._cache = (state, AdaptedUsers(self.settings.task_memory_mb * 2**20))
        return self._cache[1].get(users, adapt_users)

    def window_bytes(self, length: int) -> int:
        """Memory of one pass over a window, with what its gradients need."""
        s = self.settings
        # Measured: what autograd keeps of a layer and of the input, per position.
        layer = 28 * s.embedding_size + 8 * s.inner_size + 10 * s.n_heads * length
        scores = 4 * min(s.n_candidates or 0, self.n_items)
        return 4 * length * (s.n_layers * layer + 12 * s.embedding_size + 2 * length + scores)

    def task_chunks(self, table: TaskTable, users: Tensor, passes: int = 1) -> Iterator[Tensor]:
        """Users in chunks whose inner loops fit into ``task_memory_mb``; ``passes`` graphs are held at once."""
        s, window = self.settings, self.window_bytes(table.length)
        largest = max(
            sum(value.numel() for value in learner.parameters_of(s.adapt_scope).values())
            for learner in self.learners.values()
        )
        return table.chunks(
            users,
            passes * window,
            window + self.learners.user_bytes() + 20 * passes * largest,
            s.task_memory_mb * 2**20,
        )

    @torch.no_grad()
    def _rank(self, users: Tensor, histories: Tensor) -> Tensor:
        last, features = (histories.ne(0).sum(dim=1) - 1).clamp_min(0), self.learner_features
        windows = self.windows(histories)[:, : int(last.max()) + 1]
        fused = torch.empty(len(users), self.n_items, device=users.device)
        ids = users.cpu()
        for chunk in self.task_chunks(self.support, ids.unique()):
            adapted = self.adapted(chunk)
            place, rows = (index.to(users.device) for index in (chunk.unsqueeze(1) == ids).nonzero(as_tuple=True))
            once = len(rows) == len(chunk)
            for row, who in zip(rows.split(len(chunk)), place.split(len(chunk))):
                own = adapted if once else pick_users(adapted, who)
                states = self.learners.states(own, windows[row].unsqueeze(1), features).squeeze(1)
                final = states[torch.arange(len(row), device=row.device), :, last[row]]
                scores = self.learners.scores(own, final, features)
                fused[row] = self.fusion(self.flat(states), scores).to(fused.dtype)
        return fused

    def flat(self, states: Tensor) -> Tensor:
        """States ``(..., l, dim)`` filled up with zeros to the full length and made one vector each."""
        return F.pad(states, (0, 0, 0, self.max_seq_length - states.shape[-2])).flatten(-2)

    def windows(self, histories: Tensor) -> Tensor:
        """Histories in the model's length."""
        short = self.max_seq_length - histories.shape[1]
        if short < 0:
            raise ValueError(
                f"MML got histories of {histories.shape[1]} items; MAX_ITEM_LIST_LENGTH is {self.max_seq_length}."
            )
        return F.pad(histories, (0, short))

    def move(self, batch: TaskBatch) -> TaskBatch:
        """The batch on the model's device."""
        device = self.finished_stages.device
        return TaskBatch(*(tensor.to(device, non_blocking=True) for tensor in batch))
