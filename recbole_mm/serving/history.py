"""A history that nobody in the data set has, in the form in which a sequential model reads one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from recbole.data.interaction import Interaction

__all__ = ["history_row"]


def history_row(dataset: Any, config: Any, items: Sequence[int]) -> Interaction:
    """A row with a history for a sequential model.

    Args:
        dataset: What the model read of its data.
        config: RecBole's Config of the model.
        items: Internal ids from the oldest to the latest; of more than fit, the latest count.

    Returns:
        One row. Columns of the history that are not known, such as times, are zero, and so is the user.
    """
    longest = int(dataset.max_item_list_len)
    kept = list(items)[-longest:]
    item_list = dataset.iid_field + config["LIST_SUFFIX"]
    sample = dataset.inter_feat
    columns = {name: torch.zeros_like(sample[name][:1]) for name in sample.columns}
    row = torch.zeros(1, longest, dtype=torch.int64)
    row[0, : len(kept)] = torch.tensor(kept)
    columns[item_list] = row
    columns[dataset.item_list_length_field] = torch.tensor([len(kept)])
    return Interaction(columns)
