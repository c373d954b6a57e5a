"""Scores of every item for any user, whatever the kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from recbole.data.interaction import Interaction, cat_interactions
from recbole.data.transform import construct_transform
from recbole.utils import ModelType
from torch import Tensor

from recbole_mm.experiment.split import known_pairs

__all__ = ["Scorer"]

_BYTES_PER_SCORE = 16
_PAIRS = 65_536


class Scorer:
    """Scores items for users who know certain parts of the data.

    A general model scores by the user's id. A sequential model scores what comes after the user's last known item.
    Items that a cold-start protocol does not rank are treated like known ones.

    Args:
        config: RecBole's Config of the model.
        model: The trained model.
        known: Loaders of the parts that count as known, in the order of time, the training part first. Known items
            get the score minus infinity.

    Attributes:
        batch_users: How many users to score at once.
    """

    def __init__(self, config: Any, model: Any, known: Sequence[Any]) -> None:
        self._config, self._model = config, model
        self._dataset = known[0]._dataset
        self._sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        self._transform = construct_transform(config)
        n_users, n_items = self._dataset.user_num, self._dataset.item_num
        users, items = known_pairs([loader._dataset for loader in known])
        self._seen = sp.csr_matrix((np.ones(len(users), dtype=bool), (users, items)), shape=(n_users, n_items))
        self._last = self._last_rows(known) if self._sequential else None
        cold = getattr(self._dataset, "cold_start", None)
        self._never = torch.tensor([0, *(() if cold is None else cold.excluded.tolist())])
        memory = float(config["eval_memory_mb"] or 512) * 2**20
        self.batch_users = max(int(memory // (_BYTES_PER_SCORE * n_items)), 1)

    def can_score(self, users: np.ndarray) -> np.ndarray:
        """Which of the users have what the model needs, as a bool array."""
        if self._last is None:
            return np.ones(len(users), dtype=bool)
        return self._row_of[users] >= 0

    def scores(self, users: np.ndarray) -> Tensor:
        """Scores of all items.

        Args:
            users: Internal user ids, ``(b,)``.

        Returns:
            Scores, ``(b, n_items)``; minus infinity for the padding and for what is not ranked.

        Raises:
            ValueError: The model gave NaN.
        """
        interaction = self._interaction(users)
        try:
            scores = self._model.full_sort_predict(interaction).view(len(users), -1)
        except NotImplementedError:  # RecBole's own signal that a model only scores pairs
            scores = self._pairwise(interaction, len(users))
        scores = scores.clone()
        if torch.isnan(scores).any():
            raise ValueError(f"{type(self._model).__name__} gives NaN for some users; was its training stable?")
        seen = self._seen[users].tocoo()
        device = scores.device
        scores[torch.from_numpy(seen.row).long().to(device), torch.from_numpy(seen.col).long().to(device)] = -torch.inf
        scores[:, self._never.to(device)] = -torch.inf
        return scores

    def _interaction(self, users: np.ndarray) -> Interaction:
        if self._last is None:
            interaction = Interaction({self._dataset.uid_field: torch.from_numpy(np.asarray(users, dtype=np.int64))})
        else:
            interaction = self._last[torch.from_numpy(self._row_of[users])]
        interaction = self._transform(self._dataset, self._dataset.join(interaction))
        return interaction.to(self._config["device"])

    def _pairwise(self, interaction: Interaction, n_users: int) -> Tensor:
        items = self._dataset.get_item_feature().to(self._config["device"])
        step = max(_PAIRS // len(items), 1)
        parts = []
        for start in range(0, n_users, step):
            part = interaction[start : start + step]
            pairs = part.repeat_interleave(len(items))
            pairs.update(items.repeat(len(part)))
            parts.append(self._model.predict(pairs).view(len(part), -1))
        return torch.cat(parts)

    def _last_rows(self, known: Sequence[Any]) -> Interaction:
        """For every user with a history, the sequence that ends with the last known item."""
        rows = cat_interactions([loader._dataset.inter_feat for loader in known if len(loader._dataset.inter_feat)])
        users = rows[self._dataset.uid_field].numpy()
        # Rows are in the order of time within a part, and the parts are; so the last row of a user is the latest.
        self._row_of = np.full(self._dataset.user_num, -1, dtype=np.int64)
        last = np.full(self._dataset.user_num, -1, dtype=np.int64)
        last[users] = np.arange(len(users))
        present = np.flatnonzero(last >= 0)
        self._row_of[present] = np.arange(len(present))
        return _extended(rows[torch.from_numpy(last[present])], self._dataset, self._config)


def _extended(rows: Interaction, dataset: Any, config: Any) -> Interaction:
    """Append the target of every row to its history; the oldest item makes room where the history is full."""
    suffix, length_field = config["LIST_SUFFIX"], dataset.item_list_length_field
    length = rows[length_field]
    columns = dict(rows.interaction)
    for name, history in rows.interaction.items():
        field = name[: -len(suffix)]
        if not name.endswith(suffix) or field not in rows.interaction:
            continue
        longest = history.shape[1]
        full = length >= longest
        extended = history.clone()
        extended[full] = history[full].roll(-1, dims=1)
        extended[torch.arange(len(history)), length.clamp(max=longest - 1)] = rows[field].to(history.dtype)
        columns[name] = extended
        columns[length_field] = (length + 1).clamp(max=longest)
    return Interaction(columns)
