"""Tasks for meta-learning from next-item rows: windows of items with a target at each position that counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["INSTANCES", "Rows", "TaskBatch", "TaskTable", "candidates", "other_items"]

INSTANCES = ("windows", "prefixes")
DRAW_SEED = 0  # of the negatives of evaluation: fixed, so that the same parameters always score the same


class TaskBatch(NamedTuple):
    """Padded windows of some users, each ``(T, W, length)``; a target of 0 is no instance.

    ``negative`` has an item for every instance, or is a list ``(K,)`` of candidates that all of them share.
    """

    window: Tensor
    target: Tensor
    negative: Tensor

    def of(self, index: Tensor) -> TaskBatch:
        """The tasks of some of the users; candidates that all share stay."""
        shared = self.negative.dim() == 1
        return TaskBatch(self.window[index], self.target[index], self.negative if shared else self.negative[index])

    def parts(self, size: int) -> Iterator[TaskBatch]:
        """The windows that ask for something, ``size`` together, each as a task of its own; all where they fit.

        Args:
            size: Most windows of a part.
        """
        if self.target.shape[0] * self.target.shape[1] <= size:
            yield self
            return
        shared = self.negative.dim() == 1
        windows = TaskBatch(*(part if part.dim() == 1 else part.flatten(0, 1).unsqueeze(1) for part in self))
        asking = windows.target.ne(0).flatten(1).any(dim=1).nonzero().squeeze(1)
        for index in asking.split(size):
            negative = self.negative if shared else windows.negative[index]
            yield TaskBatch(windows.window[index], windows.target[index], negative)


@dataclass(frozen=True)
class Rows:
    """Next-item rows as RecBole's sequential data set has them, sorted by user and, within a user, by time.

    Attributes:
        user: Shape ``(n,)``.
        history: Items before the target, right padded with 0. Shape ``(n, length)``.
        size: Number of items in the history. Shape ``(n,)``.
        target: The next item. Shape ``(n,)``.
    """

    user: np.ndarray
    history: np.ndarray
    size: np.ndarray
    target: np.ndarray

    @classmethod
    def sort(cls, user: Tensor, history: Tensor, size: Tensor, target: Tensor) -> Rows:
        """Bring rows into order; rows of a user stay in the order given, except that shorter histories come first."""
        columns = [np.asarray(column.cpu()) for column in (user, history, size, target)]
        order = np.lexsort((np.arange(len(columns[0])), columns[2], columns[0]))
        return cls(*(column[order] for column in columns))

    def select(self, keep: np.ndarray) -> Rows:
        """The rows where ``keep`` is true."""
        return Rows(self.user[keep], self.history[keep], self.size[keep], self.target[keep])

    @property
    def age(self) -> np.ndarray:
        """How many later rows the row's user has. Shape ``(n,)``."""
        end = np.searchsorted(self.user, self.user, side="right")
        return end - 1 - np.arange(len(self.user))


class TaskTable:
    """Instances of every user, stored as few windows as possible.

    An instance asks for the item that follows a history. A causal encoder answers all prefixes of a window in one
    pass, so instances whose histories are prefixes of one another share a window, each at the position of its
    history's end.

    ``instances="prefixes"`` has exactly the given rows. Histories reach back up to the maximum length, so a user with
    more items than that needs one window for every further row. ``instances="windows"`` cuts a user's rows into
    windows, latest first, and asks at every position; there, a history begins where its window begins. For users with
    at most ``length`` rows the two are the same.

    Args:
        rows: The rows of the training instances.
        n_users: Number of user ids.
        instances: ``windows`` or ``prefixes``.
        limit: Latest instances of a user to keep, one number or one per user id; ``None`` keeps all.
    """

    def __init__(self, rows: Rows, n_users: int, instances: str, limit: int | np.ndarray | None = None) -> None:
        if instances not in INSTANCES:
            raise ValueError(f"instances: expected one of {', '.join(INSTANCES)}, got {instances!r}.")
        cap = np.broadcast_to(len(rows.user) + 1 if limit is None else limit, (n_users,))[rows.user]
        length = rows.history.shape[1]
        cut = _regular(rows, n_users) if instances == "windows" else np.zeros(len(rows.user), dtype=bool)
        parts = [_as_windows(rows.select(cut), cap[cut]), _as_prefixes(rows.select(~cut & (rows.age < cap)))]
        user, window, target = (np.concatenate(column) for column in zip(*parts))
        order = np.argsort(user, kind="stable")
        self.window = torch.from_numpy(window[order].astype(np.int32))
        self.target = torch.from_numpy(target[order].astype(np.int32))
        self.count = np.bincount(user, minlength=n_users)
        self.start = np.concatenate([[0], np.cumsum(self.count)])[:-1]
        self.length = length
        self.draw = torch.rand(self.window.shape, generator=torch.Generator().manual_seed(DRAW_SEED))

    @property
    def users(self) -> Tensor:
        """Users who have an instance, ascending."""
        return torch.from_numpy(np.flatnonzero(self.count))

    def batch(self, users: Tensor, pool: Tensor, fixed: bool = False, n_candidates: int | None = None) -> TaskBatch:
        """Windows and instances of some users, with one sampled negative each or candidates for all, on the CPU.

        Args:
            users: User ids, ``(T,)``; a user without instances gets an empty window.
            pool: Items to sample negatives from, sorted.
            fixed: Use the table's own draws, the same every time and for any composition of the batch.
            n_candidates: Draw this many distinct items of the pool for all instances together (all of it, where there
                are no more) instead of one negative for each.

        Returns:
            Tensors of shape ``(T, W, l)``: ``W`` is the most windows that one of the users has, ``l`` the longest of
            them.
        """
        ids = users.cpu().numpy()
        count = self.count[ids]
        width = max(int(count.max(initial=0)), 1)
        place = np.arange(width)
        there = torch.from_numpy(place < count[:, None])
        shared = None if n_candidates is None else candidates(pool, n_candidates, fixed)
        if len(self.window) == 0:
            empty = torch.zeros(len(ids), width, self.length, dtype=torch.long)
            return TaskBatch(empty, empty, empty if shared is None else shared)
        index = torch.from_numpy(np.where(there.numpy(), self.start[ids][:, None] + place, 0))
        window, target = (
            torch.where(there.unsqueeze(-1), table[index], 0).long() for table in (self.window, self.target)
        )
        longest = max(int(window.ne(0).sum(dim=-1).max()), 1)
        window, target = window[..., :longest].contiguous(), target[..., :longest].contiguous()
        if shared is not None:
            return TaskBatch(window, target, shared)
        draw = self.draw[index][..., :longest] if fixed else torch.rand(target.shape)
        return TaskBatch(window, target, other_items(target, pool, draw))

    def chunks(self, users: Tensor, window_bytes: float, task_bytes: float, budget: float) -> Iterator[Tensor]:
        """Split users so that a chunk stays within a memory budget, users with equally many windows together.

        Args:
            users: User ids on the CPU.
            window_bytes: Memory that one window takes.
            task_bytes: Memory that one user takes besides.
            budget: Bytes for a chunk; a single user may exceed it.

        Returns:
            Users of each chunk, each user in exactly one.
        """
        ids = users[torch.from_numpy(np.argsort(-self.count[users.numpy()], kind="stable"))]
        begin = 0
        while begin < len(ids):
            widest = max(int(self.count[int(ids[begin])]), 1)
            size = max(int(budget // (widest * window_bytes + task_bytes)), 1)
            yield ids[begin : begin + size]
            begin += size

    def __deepcopy__(self, memo: dict) -> TaskTable:
        return self  # nothing ever writes to it


def candidates(pool: Tensor, number: int, fixed: bool = False) -> Tensor:
    """Distinct items of a pool, drawn uniformly; all of them, in order, where ``number`` is as large.

    Args:
        pool: Distinct item ids, ``(n,)``.
        number: How many.
        fixed: The same ones every time.

    Returns:
        Item ids, ``(min(number, n),)``.

    Example:
        >>> candidates(torch.tensor([1, 2, 5]), 10)
        tensor([1, 2, 5])
    """
    if number >= len(pool):
        return pool
    generator = torch.Generator().manual_seed(DRAW_SEED) if fixed else None
    return pool[torch.randperm(len(pool), generator=generator)[:number]]


def other_items(target: Tensor, pool: Tensor, draw: Tensor) -> Tensor:
    """Uniform choice among the items of ``pool`` that are not the target.

    Args:
        target: Item ids, any shape.
        pool: Distinct item ids, ascending.
        draw: Uniform numbers in ``[0, 1)``, shaped as ``target``.

    Returns:
        Item ids, shaped as ``target``.

    Example:
        >>> other_items(torch.tensor([2, 2, 9]), torch.tensor([1, 2, 5]), torch.tensor([0.0, 0.6, 0.4]))
        tensor([1, 5, 2])
    """
    if len(pool) < 2:
        raise ValueError(f"negative sampling needs at least two items, got {len(pool)}.")
    rank = torch.searchsorted(pool, target).clamp_max(len(pool) - 1)
    member = pool[rank] == target
    choices = len(pool) - member.long()
    pick = torch.minimum((draw * choices).long(), choices - 1)
    return pool[pick + (member & (pick >= rank)).long()]


def _regular(rows: Rows, n_users: int) -> np.ndarray:
    """Rows of the users whose histories grow by one from row to row, as a data set makes them."""
    number = np.bincount(rows.user, minlength=n_users)[rows.user]
    wrong = rows.size != np.minimum(number - rows.age, rows.history.shape[1])
    return ~np.isin(rows.user, rows.user[wrong])


def _as_windows(rows: Rows, cap: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The window of every ``length``-th row counted from the last, asked at each of its positions."""
    length = rows.history.shape[1]
    head = (rows.age % length == 0) & (rows.age < cap)
    age, cap, chosen = rows.age[head][:, None], cap[head][:, None], rows.select(head)
    position, last = np.arange(length), chosen.size[:, None] - 1
    following = np.pad(chosen.history[:, 1:], ((0, 0), (0, 1)))
    target = np.where(position == last, chosen.target[:, None], following)
    counts = (position <= last) & (age + last - position < cap)
    return chosen.user, chosen.history, np.where(counts, target, 0)


def _as_prefixes(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One window for the rows whose histories are prefixes of the user's first longest one, one for each other row."""
    n, length = rows.history.shape
    row, position = np.arange(n), np.arange(length)
    first = np.searchsorted(rows.user, rows.user)  # the user's first row; rows are sorted by history size
    longest = rows.size[np.searchsorted(rows.user, rows.user, side="right") - 1] if n else rows.size
    is_head = rows.size == longest
    is_head &= np.r_[True, (rows.user[1:] != rows.user[:-1]) | ~is_head[:-1]][:n]
    host = np.zeros(n, dtype=np.int64)
    host[first[is_head]] = row[is_head]
    host = host[first]
    within = ((rows.history == rows.history[host]) | (position >= rows.size[:, None])).all(axis=1)
    successor = rows.history[host, np.minimum(rows.size, length - 1)]
    repeated = np.r_[False, (rows.user[1:] == rows.user[:-1]) & (rows.size[1:] == rows.size[:-1])][:n]
    shares = is_head | (within & (rows.size < rows.size[host]) & (successor == rows.target) & ~repeated)
    own = np.flatnonzero(is_head | ~shares)
    place = np.zeros(n, dtype=np.int64)
    place[own] = np.arange(len(own))
    target = np.zeros((len(own), length), dtype=rows.target.dtype)
    target[place[np.where(shares, host, row)], rows.size - 1] = rows.target
    return rows.user[own], rows.history[own], target
