"""Splits that nothing can be trained on: RecBole's answers to them do not say what to change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recbole.data.dataset import Dataset, SequentialDataset

from recbole_mm.host.editing import edit
from recbole_mm.host.wrapping import wrap

__all__ = ["install"]

_ORDER = (
    "eval_args: a sequential model needs interactions in the order of time, and eval_args takes the place of its whole "
    "default. Give all of it, such as {split: {LS: valid_and_test}, order: TO, mode: full}."
)


def install() -> None:
    """Change what RecBole's data sets say; calling it again does nothing."""
    edit(SequentialDataset.build, {"f\"The ordering args for sequential recommendation has to be 'TO'\"": repr(_ORDER)})
    wrap(Dataset, "build", _build)


def _build(build: Callable[[Any], list[Any]], dataset: Any) -> list[Any]:
    """Around ``build``: without a training row torch would say something of its sampler."""
    parts = build(dataset)
    rows = [len(part.inter_feat) for part in parts]
    if rows and rows[0] == 0:
        history = " A sequential model has no row of a user's first interaction, so that users need two or more."
        raise ValueError(
            f"There is nothing to train on: of the rows of {dataset.dataset_name} none are in the training part, "
            f"{sum(rows[1:]):,} in the others. Change the split in eval_args, or filter the data less."
            + (history if isinstance(dataset, SequentialDataset) else "")
        )
    return parts
