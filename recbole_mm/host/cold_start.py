"""Makes RecBole split, sample and rank by the option ``cold_start``, and draw the negatives of ``negative_items``.

Without ``cold_start``, and with a training interaction of every item, nothing changes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from logging import getLogger
from typing import Any

import numpy as np
import recbole.data.utils
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction, cat_interactions

from recbole_mm.config.cold_start import ColdStart, read_cold_start
from recbole_mm.data.cold_start import (
    SUPPORT,
    TEST,
    UNUSED,
    VALID,
    ColdStartSplit,
    Pairs,
    choose_new,
    histories,
    item_roles,
    last_only,
    next_item_rows,
    ranked_items,
    user_roles,
)
from recbole_mm.data.negatives import negative_pool
from recbole_mm.host.drawing import collate_users
from recbole_mm.host.evaluation import mask_others
from recbole_mm.host.limited_sampler import limited_samplers
from recbole_mm.host.wrapping import wrap

__all__ = ["install"]

_PHASES = ("valid", "test")


def install() -> None:
    """Wrap RecBole's splitting, sampling and ranking batches; a second call does nothing."""

    def build_parts(build: Any, self: Any) -> list[Any]:
        protocol = read_cold_start(self.config["cold_start"])
        return build(self) if protocol is None else _Splitter(self, protocol).split(build)

    def create_samplers(create: Any, config: Any, dataset: Any, built_datasets: Any) -> Any:
        samplers = create(config, dataset, built_datasets)
        cold = getattr(built_datasets[0], "cold_start", None)
        negatives = built_datasets[0].negative_items = negative_pool(built_datasets[0], config["negative_items"])
        if cold is None and negatives is None:
            return samplers
        if negatives is not None and samplers[0] is not None:
            unseen = built_datasets[0].item_num - 1 - len(negatives)
            getLogger().info(
                f"negative_items: seen - {unseen:,} of {unseen + len(negatives):,} items have no training interaction "
                "and are not drawn as negatives (negative_items: all draws them, too)."
            )
        return limited_samplers(config, cold, built_datasets, samplers, negatives)

    def collate_fn(collate: Any, self: Any, index: Any) -> Any:
        batch = collate_users(collate, self, index)
        cold = getattr(self._dataset, "cold_start", None)
        ranked = None if cold is None else cold.ranked
        if ranked is None or getattr(self, "masks_history_only", False):
            return batch
        interaction, history, *positives = batch
        mask = mask_others(self._dataset.item_num, torch.from_numpy(ranked), len(interaction), history)
        return interaction, mask, *positives

    wrap(Dataset, "build", build_parts)
    wrap(recbole.data.utils, "create_samplers", create_samplers)
    wrap(FullSortEvalDataLoader, "collate_fn", collate_fn)


class _Splitter:
    """Splits one data set.

    RecBole splits what is left after all rows of the new users or items are taken away, as if they had never been in
    the file; so nothing of them can reach the training part. Then rows of theirs become validation and test rows.
    """

    def __init__(self, dataset: Any, protocol: ColdStart) -> None:
        self.dataset, self.protocol, self.config = dataset, protocol, dataset.config
        fixed, sequential = dataset.benchmark_filename_list is not None, isinstance(dataset, SequentialDataset)
        if fixed and sequential and (protocol.entity == "item" or protocol.support is not None):
            raise ValueError(
                "cold_start: the histories of a sequential data set with benchmark_filename are fixed in its files, so "
                "new items cannot be taken out of them, nor support sets be cut. Leave benchmark_filename out, or use "
                "{entity: user} without support."
            )
        self.makes_rows = sequential and not fixed
        frame = dataset.inter_feat
        self.user, self.item = (frame[name].to_numpy() for name in (dataset.uid_field, dataset.iid_field))
        self.time = frame[dataset.time_field].to_numpy() if dataset.time_field in frame else None
        if protocol.by == "time" and self.time is None:
            raise ValueError(
                f"cold_start: by: time needs the time field {dataset.time_field!r} among the interactions' columns "
                f"({', '.join(frame.columns)}); add it to load_col, or choose by: ratio."
            )
        label, modes = self.config["LABEL_FIELD"], self.config["eval_args"]["mode"]
        if "labeled" in modes.values() and label not in frame:
            raise ValueError(
                "cold_start: eval_args mode: labeled, the default of models such as FM, needs the label field "
                f"{label!r} among the interactions' columns ({', '.join(frame.columns)}). Make it with threshold, such "
                "as threshold: {rating: 3}, or choose mode: full, train_neg_sample_args: {distribution: uniform, "
                "sample_num: 1} and ranking metrics."
            )
        self.seed = self.config["seed"] if protocol.seed is None else protocol.seed
        self.file = np.repeat(np.arange(3), dataset.file_size_list) if fixed else None
        arguments = self.config["eval_args"]
        self.leave_one_out = not fixed and "LS" in (arguments["split"] or {})
        self.by_time = not fixed and arguments["order"] == "TO"
        self.rank = self._rank()
        self.rows = dataset._dataframe_to_interaction(frame)

    def split(self, build: Callable[[Any], list[Any]]) -> list[Any]:
        """Training, validation and test part."""
        role, new, stays = (self._new_users if self.protocol.entity == "user" else self._new_items)()
        dataset, warm = self.dataset, copy.copy(self.dataset)
        # The interactions are converted already; as part of the whole, their sequences have the whole's width.
        warm.feat_name_list = [name for name in dataset.feat_name_list if name != "inter_feat"]
        warm.inter_feat = self._take(np.flatnonzero(stays))
        if self.file is not None:
            warm.file_size_list = np.bincount(self.file[stays], minlength=3).tolist()
        parts = build(warm)
        if len(parts[0].inter_feat) == 0:
            raise ValueError("cold_start leaves no training row; choose a smaller ratio or filter the data less.")
        role, history = self._answerable(role, stays, parts[0])
        cold = {
            phase: self._format(np.flatnonzero(role == kind), history, parts[0])
            for phase, kind in zip(_PHASES, (VALID, TEST))
        }
        support = np.flatnonzero(role == SUPPORT)
        split = ColdStartSplit(
            self.protocol,
            *((np.sort(new), new[:0]) if self.protocol.entity == "user" else (new[:0], np.sort(new))),
            support=self._take(support),
            candidates=ranked_items(self.protocol, new, dataset.item_num),
            known=self._known(support, cold["valid"], parts[1].inter_feat),
            left_out=int((~stays & (role == UNUSED)).sum()),
        )
        for phase, part in zip(_PHASES, parts[1:]):
            part.inter_feat = self._evaluated(phase, cold[phase], part.inter_feat)
        adapt = None
        if self.protocol.entity == "user" and isinstance(dataset, SequentialDataset):
            with_history = support if not self.makes_rows else support[history[2][support] > history[1][support]]
            # In the order of time, as the training rows: nothing else tells the age of rows with full histories.
            with_history = with_history[np.argsort(self.rank[with_history])]
            adapt = cat_interactions([parts[0].inter_feat, self._format(with_history, history, parts[0])])
        for part in (warm, *parts):
            part.feat_name_list, part.cold_start = dataset.feat_name_list, split
            if adapt is not None:
                part.support_interactions = adapt
        # What RecBole leaves in the data set after splitting; here it is without the rows of the new.
        vars(dataset).update(vars(warm))
        self._report(split, cold, support)
        return parts

    def _new_users(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Role of every interaction, the new users, and which interactions are those of the others."""
        role = user_roles(self.user, self.rank, self.protocol.support, self.file)
        new = self._choose(self.user, np.unique(self.user[role != UNUSED]), self.dataset.uid_field)
        stays = ~np.isin(self.user, new)
        return np.where(stays, UNUSED, role), new, stays

    def _new_items(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Role of every interaction, the new items, and which interactions are those of the others."""
        new = self._choose(self.item, np.unique(self.item), self.dataset.iid_field)
        stays = ~np.isin(self.item, new)
        role = item_roles(self.item, new, self.dataset.item_num)
        if self.leave_one_out and self._has_four():
            # RecBole splits users with fewer than four differently for sequential and for general models. A filter
            # that keeps them out, such as the comparisons', would be void if taking items away let them in again.
            short = np.bincount(self.user[stays], minlength=self.dataset.user_num)[self.user] < 4
            stays, role = stays & ~short, np.where(short, UNUSED, role)
        return role, new, stays

    def _choose(self, owner: np.ndarray, ids: np.ndarray, field: str) -> np.ndarray:
        first = None
        if self.time is not None:
            first = np.full(int(owner.max()) + 1, np.inf)
            np.minimum.at(first, owner, self.time)
            first = first[ids]
        tokens = np.asarray(self.dataset.field2id_token[field])[ids]
        return np.asarray(choose_new(self.protocol, ids, tokens, first, self.seed))

    def _rank(self) -> np.ndarray:
        """Order of the interactions: by time, at random or as in the files, like RecBole's own."""
        n = len(self.user)
        if self.by_time:
            if self.time is None:
                raise ValueError(
                    f"cold_start with eval_args order: TO needs the time field {self.dataset.time_field!r} among the "
                    f"interactions' columns; add it to load_col, or choose order: RO."
                )
            order = np.argsort(self.time, kind="stable")
        elif self.file is None:
            order = np.random.default_rng([self.seed, 1]).permutation(n)
        else:
            return np.arange(n)
        rank = np.empty(n, dtype=np.int64)
        rank[order] = np.arange(n)
        return rank

    def _has_four(self) -> bool:
        """Whether the filter of users keeps out those with three interactions."""
        interval = self.config["user_inter_num_interval"]
        if interval is None:
            return False
        return not self.dataset._within_intervals(3, self.dataset._parse_intervals_str(interval))

    def _answerable(self, role: np.ndarray, stays: np.ndarray, train: Any) -> tuple[np.ndarray, Any]:
        """Roles without the questions that nobody could answer, and the histories of all interactions."""
        everything = np.arange(len(self.user))
        if self.protocol.entity == "user":
            own = np.flatnonzero(role != UNUSED)
            return role, histories(self.user, self.rank, own, everything)
        history = histories(self.user, self.rank, np.flatnonzero(stays), everything)
        if self.by_time:
            asked = history[2] > history[1]
        else:
            asked = np.isin(self.user, train.inter_feat[self.dataset.uid_field].numpy())
        role = np.where(asked, role, UNUSED)
        if self.leave_one_out:
            for kind in (VALID, TEST):
                mine = np.flatnonzero(role == kind)
                role[mine[~last_only(self.user[mine], self.rank[mine])]] = UNUSED
        return role, history

    def _take(self, index: np.ndarray) -> Interaction:
        chosen = torch.from_numpy(index)
        return Interaction({name: column[chosen] for name, column in self.rows.interaction.items()})

    def _format(self, index: np.ndarray, history: Any, train: Any) -> Interaction:
        """Interactions as rows of the training part's format."""
        if self.makes_rows:
            names = self.config["LIST_SUFFIX"], self.config["ITEM_LIST_LENGTH_FIELD"]
            own = (history[0], history[1][index], history[2][index])
            rows = next_item_rows(self.rows, self.dataset.uid_field, own, index, self.dataset.max_item_list_len, names)
        else:
            rows = self._take(index)
        missing = [name for name in train.inter_feat.columns if name not in rows]
        if missing:
            raise ValueError(
                f"cold_start cannot make the rows of a {type(self.dataset).__name__}: it adds {', '.join(missing)} to "
                "them. Choose another model."
            )
        return Interaction({name: rows[name] for name in train.inter_feat.columns})

    def _known(self, support: np.ndarray, *valid: Interaction) -> dict[str, Pairs]:
        fields = self.dataset.uid_field, self.dataset.iid_field
        before = self.user[support].astype(np.int64), self.item[support].astype(np.int64)
        later = [np.concatenate([rows[name].numpy() for rows in valid]) for name in fields]
        return {
            "valid": before,
            "test": (np.concatenate([before[0], later[0]]), np.concatenate([before[1], later[1]])),
        }

    def _evaluated(self, phase: str, cold: Interaction, warm: Interaction) -> Interaction:
        """Rows that are evaluated."""
        which = self.protocol.evaluate
        if which == "warm":
            return warm
        if len(cold) == 0:
            raise ValueError(
                f"cold_start: no interaction with a new {self.protocol.entity} is left for the {phase} part; choose a "
                "larger ratio, or filter the data less."
            )
        if which == "cold":
            return cold
        rows = cat_interactions([cold, warm])
        if self.leave_one_out and self.protocol.entity == "item":
            # One question per user here too, as general and sequential models count several questions differently.
            time = rows[self.dataset.time_field].numpy() if self.by_time else np.arange(len(rows))
            rows = rows[torch.from_numpy(np.flatnonzero(last_only(rows[self.dataset.uid_field].numpy(), time)))]
        return rows

    def _report(self, split: ColdStartSplit, cold: dict[str, Interaction], support: np.ndarray) -> None:
        new = split.users if self.protocol.entity == "user" else split.items
        getLogger().info(
            f"cold_start: {len(new):,} new {self.protocol.entity}s, with {len(support):,} support, "
            f"{len(cold['valid']):,} validation and {len(cold['test']):,} test interactions; {split.left_out:,} "
            "interactions are in no part."
        )
