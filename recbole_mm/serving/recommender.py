"""A model that was saved, ready to be asked: its data set is not needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from recbole.data.interaction import Interaction
from recbole.utils import ModelType
from torch import Tensor
from torch.nn import functional as F

from recbole_mm.config.names import suggest
from recbole_mm.serving.asked import asked_items, check_flag, check_id, check_ids, check_length, is_one_id, listed_ids
from recbole_mm.serving.history import history_row
from recbole_mm.serving.opening import open_folder
from recbole_mm.serving.scoring import LastRows, Scorer
from recbole_mm.serving.vectors import score_vectors

__all__ = ["Recommender", "load"]

Ids = Iterable[Any]


def load(folder: str | os.PathLike[str], feature_path: str | None = None, device: str = "cpu") -> Recommender:
    """Load a model that :func:`recbole_mm.save` kept; nothing in the folder is executed.

    Args:
        folder: The folder.
        feature_path: Folder of the feature files, where they are neither in the folder nor where they were.
        device: Where to compute, such as ``cuda``.

    Returns:
        The recommender.

    Raises:
        FileNotFoundError: No such folder, or a file of it or of the features is missing.
        ValueError: A file was changed, or the model is not known here.

    Example:
        >>> import recbole_mm
        >>> result = recbole_mm.run("VBPR", "mm-toy", config_dict={"epochs": 1})
        >>> recommender = recbole_mm.load(recbole_mm.save(result, "vbpr"))
        >>> recommender.recommend(["u41", "u102"], k=3).columns.tolist()
        ['user_id', 'rank', 'item_id', 'score']
    """
    return Recommender(*open_folder(folder, feature_path, device))


class Recommender:
    """Asks a trained model for lists, scores and vectors, with the raw ids of its data set.

    :func:`recbole_mm.load` makes one.

    Args:
        config: RecBole's Config of the model.
        model: The model, in evaluation mode.
        dataset: What it read of its data.
        served: Who had what, and the histories of a sequential model.

    Attributes:
        name: Name of the model.
        user_ids: Raw ids of the users it knows, in the order of ``user_embeddings``.
        item_ids: Raw ids of the items, in the order of ``item_embeddings``.

    Example:
        >>> import recbole_mm
        >>> result = recbole_mm.run("BPR", "mm-toy", config_dict={"epochs": 1})
        >>> recommender = recbole_mm.load(recbole_mm.save(result, "bpr"))
        >>> len(recommender.recommend(["u41"], k=5, candidates=["i2", "i20", "i31"])) <= 3
        True
        >>> recommender.recommend(k=2, history=["i2", "i20"])["rank"].tolist()
        [1, 2]
        >>> recommender.similar_items("i2", k=4).columns.tolist()
        ['item_id', 'similarity']
    """

    def __init__(self, config: Any, model: Any, dataset: Any, served: Mapping[str, Any]) -> None:
        self.name = str(config["model"])
        self._config, self._model, self._dataset = config, model, dataset
        self._tokens = {
            "user": np.asarray(dataset.field2id_token[dataset.uid_field]),
            "item": np.asarray(dataset.field2id_token[dataset.iid_field]),
        }
        self.user_ids, self.item_ids = (self._tokens[entity][1:].tolist() for entity in ("user", "item"))
        shape = dataset.user_num, dataset.item_num
        pairs = np.asarray(served["users"]), np.asarray(served["items"])
        self.had = sp.csr_matrix((np.ones(len(pairs[0]), dtype=bool), pairs), shape=shape)
        last = None
        if served["rows"] is not None:
            last = LastRows(Interaction(dict(served["rows"])), np.asarray(served["row_of"]))
        self.scorer = Scorer(config, model, dataset, self.had, last)
        self._vectors: dict[str, Tensor] | None = None

    def recommend(
        self,
        users: Ids | str | int | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Ids | None = None,
        history: Ids | None = None,
    ) -> pd.DataFrame:
        """The best items of each user.

        Args:
            users: Raw ids, or a single one. Not needed with ``history``.
            k: Length of the lists; they are shorter where fewer items are left.
            exclude_seen: Whether items that the user had (in training and validation) are left out.
            candidates: Raw ids of the items to choose from; all when not given. Those that the model does not know are
                counted and named in the log.
            history: Raw ids of what one user had, from the oldest to the latest, in place of what the model knows: for
                a user whom it does not know. A sequential model reads it as it reads any history; a model that scores
                by inner products takes the mean of the items' vectors as the user's.

        Returns:
            A row per recommendation: ``user_id``, ``rank`` (from 1), ``item_id``, ``score``.

        Raises:
            ValueError: An unknown user or item of a history, candidates of which none is known, a history that the
                model cannot read, or an argument of another kind.
        """
        k, exclude_seen = check_length("k", k), check_flag("exclude_seen", exclude_seen)
        never = self._never(candidates)
        if history is not None:
            return self._of_history(users, k, exclude_seen, never, history)
        if users is None:
            raise ValueError("recommend: whose? Give users=[raw ids], or history=[raw ids of items].")
        names = _names(users)
        ids = np.array([self._id("user", user, self._help()) for user in names], dtype=np.int64)
        parts = []
        for start in range(0, len(ids), self.scorer.batch_users):
            batch = ids[start : start + self.scorer.batch_users]
            scores = self._scores(batch)
            if exclude_seen:
                scores = self.scorer.mask(scores, batch)
            parts.append(self._lists(names[start : start + len(batch)], scores, never, k))
        return pd.concat(parts, ignore_index=True) if parts else self._lists([], torch.zeros(0, 1), never, k)

    def scores(self, user: Any, items: Ids) -> np.ndarray:
        """Scores of some items for a user, ``(n,)``, in the order of ``items``.

        Args:
            user: Raw id.
            items: Raw ids.

        Raises:
            ValueError: An unknown user or item.
        """
        asked = listed_ids("items", items)
        row = self._scores(np.array([self._id("user", user, self._help())]))[0]
        own = torch.tensor([self._id("item", item) for item in asked], dtype=torch.int64)
        return row[own].cpu().numpy()

    def similar_items(self, item: Any, k: int = 10) -> pd.DataFrame:
        """The items whose vectors point in the most similar direction.

        Args:
            item: Raw id.
            k: How many.

        Returns:
            ``item_id`` and ``similarity`` (cosine), the best first, without the item itself.

        Raises:
            ValueError: An unknown item, no positive ``k``, or a model without vectors that rank as it does.
        """
        own, k = self._id("item", item), check_length("k", k)
        table = F.normalize(self._tables()["item"][: len(self._tokens["item"])].float(), dim=1)
        near = table @ table[own]
        near[[0, own]] = -torch.inf
        values, ids = near.topk(min(k, len(near) - 2))
        return pd.DataFrame({"item_id": self._tokens["item"][ids.cpu().numpy()], "similarity": values.cpu().numpy()})

    @property
    def item_embeddings(self) -> np.ndarray:
        """Vectors of the items, ``(n_items, d)``, in the order of ``item_ids``."""
        return self._tables()["item"][1 : len(self.item_ids) + 1].float().cpu().numpy()

    @property
    def user_embeddings(self) -> np.ndarray:
        """Vectors of the users, ``(n_users, d)``, in the order of ``user_ids``; products with the items' are scores."""
        tables = self._tables()
        if "user" not in tables:
            raise ValueError(f"{self.name} has no vectors of users: it makes them from a history every time.")
        return tables["user"][1 : len(self.user_ids) + 1].float().cpu().numpy()

    def _tables(self) -> dict[str, Tensor]:
        if self._vectors is None:
            with torch.no_grad():
                found = score_vectors(self._model, self._dataset, self.scorer)
            self._vectors = {entity: table.detach() for entity, table in found.items()}
        return self._vectors

    def _scores(self, users: np.ndarray) -> Tensor:
        can = self.scorer.can_score(users)
        if not can.all():
            user = self._tokens["user"][users[~can][0]]
            raise ValueError(
                f"user {user!r} has no history that {self.name} could go on from; give history=[item ids]."
            )
        with torch.no_grad():
            return self.scorer.raw_scores(users).float().clone()

    def _of_history(self, users: Any, k: int, exclude_seen: bool, never: Tensor, history: Ids) -> pd.DataFrame:
        names = [] if users is None else _names(users)
        if len(names) > 1:
            raise ValueError(f"history: belongs to one user, got {len(names)}; call recommend once for each.")
        items = [self._id("item", item) for item in listed_ids("history", history)]
        if not items:
            raise ValueError("history: expected one item at least, got none.")
        with torch.no_grad():
            if self._config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
                scores = self.scorer.row_scores(history_row(self._dataset, self._config, items)).float().clone()
            else:
                scores = self._folded(items)
        if exclude_seen:
            scores[:, items] = -torch.inf
        return self._lists(names or [""], scores, never, k)

    def _folded(self, items: Sequence[int]) -> Tensor:
        try:
            table = self._tables()["item"]
        except ValueError as error:
            raise ValueError(f"history: {self.name} cannot take in a user by a history: {error}") from error
        table = table[: len(self._tokens["item"])].float()
        return table[list(items)].mean(dim=0, keepdim=True) @ table.T

    def _never(self, candidates: Ids | None) -> Tensor:
        """Internal ids that are in no list."""
        asked = asked_items(check_ids("candidates", candidates), self._dataset)
        if asked is None:
            return self.scorer.never
        asked[self.scorer.never.numpy()] = False
        return torch.from_numpy(np.flatnonzero(~asked))

    def _lists(self, names: list[str], scores: Tensor, never: Tensor, k: int) -> pd.DataFrame:
        scores[:, never.to(scores.device)] = -torch.inf
        values, items = torch.topk(scores, min(k, scores.shape[1]), dim=1)
        row, place = (part.cpu().numpy() for part in torch.isfinite(values).nonzero(as_tuple=True))
        ids, found = items.cpu().numpy()[row, place], values.cpu().numpy()[row, place]
        columns = {"user_id": np.array(names, dtype=object)[row], "rank": place + 1}
        return pd.DataFrame({**columns, "item_id": self._tokens["item"][ids], "score": found})

    def _id(self, entity: str, token: Any, help_: str = "") -> int:
        field = self._dataset.uid_field if entity == "user" else self._dataset.iid_field
        name = check_id(entity, token)
        found = int(self._dataset.field2token_id[field].get(name, 0))
        if found == 0:
            near = suggest(name, self._tokens[entity][1:].tolist()) if len(self._tokens[entity]) < 100_000 else ""
            raise ValueError(f"{entity} {name!r} is not among those that {self.name} was trained on.{near}{help_}")
        return found

    def _help(self) -> str:
        """What to do about a user whom the training did not know."""
        if self._config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
            return " For anybody else give history=[raw ids of items]: the model reads it as any history."
        try:
            self._tables()
        except ValueError:
            return " The model has learnt its users one by one; train it again with the new ones."
        return " For anybody else give history=[raw ids of items]: the mean of their vectors stands for the user."


def _names(users: Any) -> list[str]:
    return [check_id("users", users)] if is_one_id(users) else listed_ids("users", users)
