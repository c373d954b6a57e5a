"""Scores of an evaluation, computed and ranked a few rows at a time, for the items that are ranked and no others.

*Columns* are places among the ranked items. Without a choice of items they are the ids themselves, the padding's 0 with
them; with one (new items under a cold start), column ``c`` is the item ``columns[c]``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_mm.host.products import Product, Table
from recbole_mm.nn.rows import places_in
from recbole_mm.nn.topk import BLOCK, top_without_ties
from recbole_mm.trainer.finite import check_finite_scores

__all__ = ["Deferred"]

_CACHED_SCORES = 2**19
"""Scores that stay in a CPU's cache between product and ranking."""

_ENOUGH_ROWS = 64
"""Rows from which a product is efficient."""


class Deferred:
    """The scores of a batch, in place of a matrix of users x items that would be written and read several times.

    Args:
        model: The model, for messages.
        scores: How they are computed.
        n_items: Number of items, the padding included.
        columns: Ids of the ranked items, ascending, without the padding; ``None`` for all.
        history: Row and item of the pairs that are masked besides; or nothing.
    """

    def __init__(
        self,
        model: Any,
        scores: Product | Table,
        n_items: int,
        columns: Tensor | None,
        history: tuple[Tensor, Tensor] | None,
    ) -> None:
        self._model, self._scores, self.n_items, self._columns = model, scores, n_items, columns
        self.device = scores.like.device
        self.n_rows = scores.n_rows
        row, item = (torch.empty(0, dtype=torch.int64),) * 2 if history is None else history
        row, item = row.to(self.device), item.to(self.device)
        if columns is not None:
            column_of = places_in(columns, n_items)
            kept = column_of[item] >= 0
            row, item = row[kept], column_of[item[kept]]
        if len(row) and not bool((row[1:] >= row[:-1]).all()):
            order = row.argsort(stable=True)
            row, item = row[order], item[order]
        self._masked_row, self._masked_column = row, item

    def __len__(self) -> int:
        return self.n_rows

    def lists(self, k: int) -> Tensor:
        """Ids of the best items of each row, ``(n_rows, k)``, as ``torch.topk`` ranks whole rows of masked scores.

        Raises:
            ValueError: A score is NaN or infinite.
        """
        width = self.n_items if self._columns is None else len(self._columns)
        step = max(self.n_rows, 1)
        if self.device.type == "cpu":
            step = min(step, max(_ENOUGH_ROWS, _CACHED_SCORES // max(width, 1)))
        padded = -(-width // BLOCK) * BLOCK
        buffer = torch.full((step, padded), -torch.inf, dtype=self._scores.like.dtype, device=self.device)
        starts = range(0, self.n_rows, step)
        bounds = torch.searchsorted(self._masked_row, torch.tensor([*starts, self.n_rows], device=self.device)).tolist()
        found = [torch.empty(0, k, dtype=torch.int64, device=self.device)]
        for start, first, last in zip(starts, bounds, bounds[1:]):
            stop = min(start + step, self.n_rows)
            padded_rows = buffer[: stop - start]  # beyond the width minus infinity: they fill the last block
            rows = padded_rows[:, :width]
            self._fill(rows, start, stop, slice(first, last))
            found.append(self._best(padded_rows, rows, k))
        return torch.cat(found)

    def _fill(self, out: Tensor, start: int, stop: int, masked: slice) -> None:
        """Write the masked scores of some rows; ``masked`` are their pairs."""
        self._scores.rows(start, stop, out)
        # RecBole masks the padding whatever it scored: models may leave NaN or minus infinity there.
        check_finite_scores(self._model, out if self._columns is not None else out[:, 1:], "in the evaluation")
        if self._columns is None:
            out[:, 0] = -torch.inf
        out[self._masked_row[masked] - start, self._masked_column[masked]] = -torch.inf

    def _best(self, padded_rows: Tensor, rows: Tensor, k: int) -> Tensor:
        """The lists of some rows. Where scores tie, the order is that of ``torch.topk`` over all items."""
        if self._columns is None and self.device.type != "cpu":
            return torch.topk(rows, k, dim=1).indices
        if rows.shape[1] <= k:
            return torch.topk(self._whole(rows), k, dim=1).indices
        column, tied = top_without_ties(padded_rows, k)
        lists = column if self._columns is None else self._columns[column]
        if len(tied):
            lists[tied] = torch.topk(self._whole(rows[tied]), k, dim=1).indices
        return lists

    def _whole(self, rows: Tensor) -> Tensor:
        """Rows of all items, minus infinity where they are not ranked: ties are broken as they are in these."""
        if self._columns is None:
            return rows
        whole = rows.new_full((len(rows), self.n_items), -torch.inf)
        whole[:, self._columns] = rows
        return whole

    def candidates(self) -> Tensor:
        """How many items are ranked in each row, ``(n_rows,)``."""
        width = self.n_items - 1 if self._columns is None else len(self._columns)
        masked = torch.unique(self._masked_row * self.n_items + self._masked_column)
        return width - torch.bincount(torch.div(masked, self.n_items, rounding_mode="floor"), minlength=self.n_rows)

    def is_candidate(self, row: Tensor, item: Tensor) -> Tensor:
        """Whether the items are ranked in the rows, bool, shape of both."""
        ranked = torch.ones(self.n_items, dtype=torch.bool, device=self.device)
        ids = self._masked_column
        if self._columns is None:
            ranked[0] = False
        else:
            ranked[:] = False
            ranked[self._columns] = True
            ids = self._columns[self._masked_column]
        return ranked[item] & ~torch.isin(row * self.n_items + item, self._masked_row * self.n_items + ids)
