"""What an evaluation leaves for its slices, and the metrics of a slice computed from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Cases", "Selection", "select"]


@dataclass(frozen=True)
class Cases:
    """The ranked lists of an evaluation; a case is a row of RecBole's results, a user or a sequence.

    Attributes:
        user: User of each case. Shape ``(n_cases,)``.
        candidates: Number of items that were ranked. Shape ``(n_cases,)``.
        hit: Item at each position of the list where it is a positive, else 0. Shape ``(n_cases, k)``.
        row: Case of each distinct positive. Shape ``(n_positives,)``.
        item: The positive. Shape ``(n_positives,)``.
        reachable: Whether it was among the candidates. Shape ``(n_positives,)``.
    """

    user: np.ndarray
    candidates: np.ndarray
    hit: np.ndarray
    row: np.ndarray
    item: np.ndarray
    reachable: np.ndarray

    @staticmethod
    def join(batches: list[Cases]) -> Cases:
        """Put batches below each other."""
        starts = np.cumsum([0, *(len(batch.user) for batch in batches[:-1])])
        return Cases(
            user=np.concatenate([batch.user for batch in batches]),
            candidates=np.concatenate([batch.candidates for batch in batches]),
            hit=np.concatenate([batch.hit for batch in batches]),
            row=np.concatenate([batch.row + start for batch, start in zip(batches, starts)]),
            item=np.concatenate([batch.item for batch in batches]),
            reachable=np.concatenate([batch.reachable for batch in batches]),
        )


@dataclass(frozen=True)
class Selection:
    """The part of the cases that belongs to a slice, in the form of RecBole's ``rec.topk``.

    Attributes:
        hits: 1 where the list has a positive of the slice. Shape ``(n, k)``.
        positives: Positives of the slice, at least one. Shape ``(n,)``.
        reachable: Those among the candidates. Shape ``(n,)``.
        candidates: Number of items that were ranked. Shape ``(n,)``.
    """

    hits: np.ndarray
    positives: np.ndarray
    reachable: np.ndarray
    candidates: np.ndarray


def select(cases: Cases, name: str, members: Mapping[str, Any]) -> Selection:
    """The cases of a slice.

    A slice of users keeps their cases. A slice of items keeps every list as it is and counts only the positives that
    belong to it; cases without such a positive are left out.

    Args:
        cases: The cases of an evaluation.
        name: The slice.
        members: From :func:`~recbole_mm.slicing.groups.members`.
    """
    n_cases = len(cases.user)
    keep, counted, hits = np.ones(n_cases, dtype=bool), np.ones(len(cases.row), dtype=bool), cases.hit > 0
    if name.endswith("_users"):
        keep = members[name][cases.user]
    elif name.endswith("_items"):
        counted = members[name][cases.item]
        hits = members[name][cases.hit]  # 0, where there is no hit, is in no slice
    positives = np.bincount(cases.row[counted], minlength=n_cases)
    reachable = np.bincount(cases.row[counted & cases.reachable], minlength=n_cases)
    keep = keep & (positives > 0)
    return Selection(hits[keep].astype(np.int64), positives[keep], reachable[keep], cases.candidates[keep])
