"""RecBole's own recommenders, started from given tables: what MCPTR fine-tunes."""

from __future__ import annotations

from collections.abc import Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

import recbole
import scipy.sparse as sp
import torch
import yaml
from recbole.data.interaction import Interaction
from recbole.utils import InputType, get_model
from torch import Tensor

from recbole_mm.config.reading import OptionLoader

__all__ = [
    "FINETUNE_MODELS",
    "FinetuneConfig",
    "TrainingMatrix",
    "build_recommender",
    "forget_caches",
    "score_all_items",
    "start_from",
    "to_pointwise",
]

# The tables that are started from the pre-trained ones: users' and items'. The first pair must have their width.
_TABLES = {
    "BPR": [("user_embedding", "item_embedding")],
    "LightGCN": [("user_embedding", "item_embedding")],
    "NGCF": [("user_embedding", "item_embedding")],
    "NeuMF": [("user_mf_embedding", "item_mf_embedding"), ("user_mlp_embedding", "item_mlp_embedding")],
}
FINETUNE_MODELS = tuple(_TABLES)
PAIRS = 65_536  # Pairs that are scored at once: about 64 MiB with the widths of NeuMF.


class FinetuneConfig(Mapping[str, Any]):
    """The options of a run as RecBole's ``name`` reads them: what the run sets, else the defaults of ``name``.

    Widths that nobody sets are those of the pre-trained tables.

    Args:
        config: RecBole's Config of the run.
        name: One of `FINETUNE_MODELS`.
        dim: Width of the pre-trained tables.
    """

    def __init__(self, config: Any, name: str, dim: int) -> None:
        self._config = config
        file = Path(recbole.__file__).parent / "properties" / "model" / f"{name}.yaml"
        self._defaults: dict[str, Any] = yaml.load(file.read_text(encoding="utf-8"), Loader=OptionLoader) or {}
        self._defaults.update({key: dim for key in self._defaults if key.endswith("embedding_size")})

    def __getitem__(self, key: str) -> Any:
        return self._config[key] if key in self._config else self._defaults.get(key)

    def __contains__(self, key: object) -> bool:
        return key in self._config or key in self._defaults

    def __iter__(self) -> Any:
        return iter(self._defaults)

    def __len__(self) -> int:
        return len(self._defaults)


class TrainingMatrix:
    """All that RecBole's collaborative filtering models ask a data set for, without the data set.

    A model is copied whole now and then (``get_flops``), so it must not hold a data set.

    Args:
        sizes: Field to number of ids, for users and items.
        interactions: Distinct training pairs.
    """

    def __init__(self, sizes: Mapping[str, int], interactions: sp.csr_matrix) -> None:
        self._sizes, self._interactions = dict(sizes), interactions

    def num(self, field: str) -> int:
        """Number of ids, padding included."""
        return self._sizes[field]

    def inter_matrix(self, form: str = "coo") -> sp.spmatrix:
        """The training pairs in the format asked for."""
        return self._interactions.asformat(form)


def build_recommender(name: str, config: FinetuneConfig, data: TrainingMatrix) -> Any:
    """RecBole's model ``name``, freshly initialised."""
    return get_model(name)(config, data)


@torch.no_grad()
def start_from(name: str, recommender: Any, users: Tensor, items: Tensor) -> None:
    """Copy pre-trained tables into a recommender.

    Raises:
        ValueError: Its tables have another shape.
    """
    for index, names in enumerate(_TABLES[name]):
        for table_name, table in zip(names, (users, items)):
            weight = getattr(recommender, table_name).weight
            if weight.shape == table.shape:
                weight.copy_(table)
            elif index == 0:
                raise ValueError(
                    f"{name}.{table_name} has shape {tuple(weight.shape)}, the pre-trained table {tuple(table.shape)}: "
                    "fine-tuning needs equal widths; leave the width of the fine-tuned model at embedding_size."
                )
            else:
                getLogger().info(f"{name}.{table_name} has another width than the pre-trained table and starts anew.")


def forget_caches(recommender: Any) -> None:
    """Drop what RecBole's models keep from their last evaluation; loading parameters does not drop it."""
    for key in getattr(recommender, "other_parameter_name", ()):
        setattr(recommender, key, None)


def score_all_items(recommender: Any, interaction: Interaction) -> Tensor:
    """Scores of all items, flattened from ``(batch, n_items)``; pair by pair where the recommender knows no other way.

    RecBole's trainer would do that too, but with as many pairs at once as ``eval_batch_size`` allows scores.
    """
    try:
        scores: Tensor = recommender.full_sort_predict(interaction)
        return scores
    except NotImplementedError:
        users = interaction[recommender.USER_ID]
        items = torch.arange(recommender.n_items, device=users.device)
        rows = [
            recommender.predict(
                Interaction(
                    {
                        recommender.USER_ID: part.repeat_interleave(len(items)),
                        recommender.ITEM_ID: items.repeat(len(part)),
                    }
                )
            )
            for part in users.split(max(1, PAIRS // len(items)))
        ]
        return torch.cat(rows)


def to_pointwise(recommender: Any, interaction: Interaction) -> Interaction:
    """The batch as the recommender takes it: a pointwise one gets the positives, then the negatives, with labels.

    That is how RecBole's loader makes pointwise batches.
    """
    if recommender.input_type != InputType.POINTWISE:
        return interaction
    user, positive = interaction[recommender.USER_ID], interaction[recommender.ITEM_ID]
    negative = interaction[recommender.NEG_ITEM_ID]
    label = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)]).float()
    return Interaction(
        {
            recommender.USER_ID: torch.cat([user, user]),
            recommender.ITEM_ID: torch.cat([positive, negative]),
            recommender.LABEL: label,
        }
    )
