"""Scores of every item for any user, whatever the kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from recbole.data.interaction import Interaction, cat_interactions
from recbole.data.transform import construct_transform
from recbole.utils import ModelType
from scipy.sparse import csr_matrix
from torch import Tensor

from recbole_mm.host.loaders import dataset_of
from recbole_mm.trainer.finite import check_finite_scores

__all__ = ["LastRows", "Scorer", "last_rows"]

_BYTES_PER_SCORE = 16
_PAIRS = 65_536


class Scorer:
    """Scores items for users who know certain parts of the data.

    A general model scores by the user's id. A sequential model scores what comes after the user's last known item.
    Items that a cold-start protocol does not rank are treated like those left out.

    Args:
        config: RecBole's Config of the model.
        model: The trained model.
        dataset: The training part.
        left_out: Bool matrix ``(n_users, n_items)`` of the pairs that get the score minus infinity.
        last: Of a sequential model, what :func:`last_rows` found.
        candidates: Items that may be recommended, a bool array over internal ids; ``None`` for all.

    Attributes:
        batch_users: How many users to score at once.
        never: Internal ids of the items that nobody is recommended, the padding first.
    """

    def __init__(
        self,
        config: Any,
        model: Any,
        dataset: Any,
        left_out: csr_matrix,
        last: LastRows | None = None,
        candidates: np.ndarray | None = None,
    ) -> None:
        self._config, self._model = config, model
        self._dataset = dataset
        self._transform = construct_transform(config)
        n_items = self._dataset.item_num
        self._left_out = left_out
        self._last = last
        cold = getattr(self._dataset, "cold_start", None)
        never = {0, *(() if cold is None else cold.excluded.tolist())}
        never |= set() if candidates is None else set(np.flatnonzero(~candidates).tolist())
        self.never = torch.tensor(sorted(never))
        memory = float(config["eval_memory_mb"] or 512) * 2**20
        self.batch_users = max(int(memory // (_BYTES_PER_SCORE * n_items)), 1)

    def can_score(self, users: np.ndarray) -> np.ndarray:
        """Which of the users have what the model needs, as a bool array."""
        if self._last is None:
            return np.ones(len(users), dtype=bool)
        return self._last.row_of[users] >= 0

    def scores(self, users: np.ndarray) -> Tensor:
        """Scores of all items.

        Args:
            users: Internal user ids, ``(b,)``.

        Returns:
            Scores, ``(b, n_items)``; minus infinity for the padding and for what is not ranked.

        Raises:
            ValueError: The model gave NaN or infinity.
        """
        return self.mask(self.raw_scores(users).clone(), users)

    def mask(self, scores: Tensor, users: np.ndarray) -> Tensor:
        """Give minus infinity to what the users are not recommended.

        Args:
            scores: Scores of all items, ``(b, n_items)``; changed in place.
            users: Internal user ids, ``(b,)``.

        Returns:
            The same scores.
        """
        seen = self._left_out[users].tocoo()
        device = scores.device
        scores[torch.from_numpy(seen.row).long().to(device), torch.from_numpy(seen.col).long().to(device)] = -torch.inf
        scores[:, self.never.to(device)] = -torch.inf
        return scores

    def raw_scores(self, users: np.ndarray) -> Tensor:
        """Scores of all items as the model gives them, ``(b, n_items)``; that of the padding means nothing.

        Raises:
            ValueError: The model gave NaN or infinity.
        """
        if self._last is None:
            return self.row_scores(
                Interaction({self._dataset.uid_field: torch.from_numpy(np.asarray(users, dtype=np.int64))})
            )
        return self.row_scores(self._last.rows[torch.from_numpy(self._last.row_of[users])])

    def row_scores(self, rows: Interaction) -> Tensor:
        """Scores of all items for rows with what the model needs: users, or histories.

        Raises:
            ValueError: The model gave NaN or infinity.
        """
        interaction = self._transform(self._dataset, self._dataset.join(rows)).to(self._config["device"])
        try:
            scores = self._model.full_sort_predict(interaction).view(len(rows), -1)
        except NotImplementedError:  # RecBole's own signal that a model only scores pairs
            scores = self._pairwise(interaction, len(rows))
        # RecBole masks the padding whatever it scored: models may leave NaN or minus infinity there.
        check_finite_scores(self._model, scores[:, 1:], "in the export")
        return scores

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


class LastRows(NamedTuple):
    """The histories after which a sequential model is asked.

    Attributes:
        rows: A row for each user who has one.
        row_of: Number of each user's row by internal id, -1 for none.
    """

    rows: Interaction
    row_of: np.ndarray


def last_rows(config: Any, known: Sequence[Any], asked: Any = None) -> LastRows | None:
    """For every user with a history, the sequence that ends with the last known item, or that is asked about.

    Args:
        config: RecBole's Config of the model.
        known: Loaders of the parts that count as known, in the order of time, the training part first.
        asked: Part whose rows are to be answered: a user who has some is scored after the history of the first of them.

    Returns:
        The histories; ``None`` for a model that is not sequential.
    """
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        return None
    dataset = dataset_of(known[0])
    parts = [dataset_of(loader).inter_feat for loader in known]
    rows = cat_interactions([part for part in parts if len(part)])
    user_field, n_users = dataset.uid_field, dataset.user_num
    users = rows[user_field].numpy()
    # Rows are in the order of time within a part, and the parts are; so the last row of a user is the latest.
    last = np.full(n_users, -1, dtype=np.int64)
    last[users] = np.arange(len(users))
    ready: list[Interaction] = []
    owner = np.empty(0, dtype=np.int64)
    if asked is not None and len(asked.inter_feat):
        owner, first = np.unique(asked.inter_feat[user_field].numpy(), return_index=True)
        last[owner] = -1
        ready = [Interaction({name: asked.inter_feat[name][torch.from_numpy(first)] for name in rows.columns})]
    present = np.flatnonzero(last >= 0)
    found = [_extended(rows[torch.from_numpy(last[present])], dataset, config)] if len(present) else []
    row_of = np.full(n_users, -1, dtype=np.int64)
    row_of[np.concatenate([present, owner])] = np.arange(len(present) + len(owner))
    return LastRows(cat_interactions([*found, *ready]), row_of)


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
