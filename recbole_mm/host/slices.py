"""Sliced metrics through RecBole's collector and evaluator, where the option ``slices`` asks for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.evaluator.collector import Collector, DataStruct
from recbole.evaluator.evaluator import Evaluator
from recbole.evaluator.register import metrics_dict
from recbole.utils import EvaluatorType
from torch import Tensor

from recbole_mm.config.slices import slice_names, tail_share
from recbole_mm.data.pairs import training_pairs
from recbole_mm.host.deferred import Deferred
from recbole_mm.host.loaders import dataset_of
from recbole_mm.host.sharing import joined
from recbole_mm.host.wrapping import wrap
from recbole_mm.slicing.cases import Cases, select
from recbole_mm.slicing.floor import RANDOM_METRICS, random_scores
from recbole_mm.slicing.groups import members
from recbole_mm.slicing.result import SlicedResult

__all__ = ["SliceRecorder", "install"]


class SliceRecorder:
    """Keeps what the slices of an evaluation need, beside a RecBole collector.

    Args:
        config: RecBole's Config; it asks for at least one slice.

    Raises:
        ValueError: An evaluation that cannot be sliced.
    """

    def __init__(self, config: Any) -> None:
        self.names = slice_names(config["slices"])
        self._share = tail_share(config["slice_tail"])
        self._decimals = config["metric_decimal_place"]
        self._topk = list(config["topk"] or ())
        self._user_field = config["USER_ID_FIELD"]
        names = [metric.lower() for metric in config["metrics"]]
        # Instances of their own: somebody may watch those of the evaluator for the values of single users.
        self._metrics = {name: metrics_dict[name](config) for name in names if name in RANDOM_METRICS}
        self._members: dict[str, np.ndarray] | None = None
        self._batches: list[Cases] = []
        if config["eval_type"] == EvaluatorType.VALUE or not self._metrics:
            raise ValueError(
                f"slices: only {', '.join(RANDOM_METRICS)} can be reported for slices, and metrics has "
                f"{', '.join(names)}. Add one of them, or leave slices out."
            )
        if config["single_spec"] is False:
            # RecBole's own processes average their results with equal weights, which is wrong for parts of the users.
            raise ValueError("slices: RecBole's own processes (recbole.quick_start.run) cannot be sliced; ours can.")

    def learn(self, dataset: Any) -> None:
        """Tell from the training part who is warm, cold and in the long tail."""
        users, items = training_pairs(dataset)
        self._members = members(self.names, users, items, dataset.user_num, dataset.item_num, self._share)

    def check(self) -> None:
        """Refuse an evaluation before the training part is known.

        Raises:
            ValueError: :meth:`learn` was not called.
        """
        if self._members is None:
            raise ValueError(
                "slices: who is warm or cold is told from the training part, which this trainer has not seen. Call "
                "trainer.eval_collector.data_collect(train_data) before trainer.evaluate, as trainer.fit does."
            )

    def record(
        self, scores: Tensor | Deferred, interaction: Any, ranked: Tensor, hits: Tensor, row: Tensor, item: Tensor
    ) -> None:
        """Keep a batch.

        Args:
            scores: Minus infinity where an item is no candidate. Shape ``(n_cases, n_items)``; or scores that were
                computed while they were ranked.
            interaction: The batch.
            ranked: Best items of each case. Shape ``(n_cases, k)``.
            hits: Whether they are positives. Shape ``(n_cases, k)``.
            row: Case of each distinct positive. Shape ``(n_positives,)``.
            item: The positive. Shape ``(n_positives,)``.
        """
        users = interaction[self._user_field]
        if len(users) != len(scores):  # sampled candidates: a row of the scores for each run of equal users
            users = torch.unique_consecutive(users)
        if isinstance(scores, Deferred):
            count, reachable = scores.candidates(), scores.is_candidate(row, item)
        else:
            candidate = scores != -torch.inf
            count, reachable = candidate.sum(dim=1), candidate[row, item]
        batch = (users, count, torch.where(hits.bool(), ranked, 0), row, item, reachable)
        self._batches.append(Cases(*(tensor.cpu().numpy() for tensor in batch)))

    def take(self) -> Cases | None:
        """What was kept since the last call; ``None`` if nothing."""
        batches, self._batches = self._batches, []
        return Cases.join(batches) if batches else None

    def score(self, cases: Cases) -> dict[str, Any]:
        """Metrics of every slice.

        Returns:
            For each slice ``cases[<slice>]`` and ``positives[<slice>]`` and, where it has a case, RecBole's metrics
            such as ``recall@10[<slice>]`` and their expectation for a random ranking, ``recall@10[<slice>,random]``.
        """
        result: dict[str, Any] = {}
        for name in self.names:
            part = select(cases, name, self._members or {})
            result[f"cases[{name}]"] = len(part.positives)
            result[f"positives[{name}]"] = int(part.positives.sum())
            if not len(part.positives):
                continue
            data = DataStruct()
            data.set("rec.topk", torch.from_numpy(np.column_stack([part.hits, part.positives])))
            for metric in self._metrics.values():
                result.update({f"{key}[{name}]": value for key, value in metric.calculate_metric(data).items()})
            length = max(self._topk)
            floor = random_scores(self._metrics, length, part.candidates, part.reachable, part.positives)
            for metric_name, values in floor.items():
                for k in self._topk:
                    result[f"{metric_name}@{k}[{name},random]"] = round(float(values[k - 1]), self._decimals)
        return result


def install() -> None:
    """Give RecBole's collector and evaluator their part of the slices; a second call does nothing."""

    def prepare(original: Any, self: Any, config: Any) -> None:
        original(self, config)
        wanted = "slices" in config and slice_names(config["slices"])
        self.slice_recorder = SliceRecorder(config) if wanted else None

    def learn(original: Any, self: Any, train_data: Any) -> None:
        original(self, train_data)
        if self.slice_recorder is not None:
            self.slice_recorder.learn(dataset_of(train_data))

    def hand_over(original: Any, self: Any) -> Any:
        struct = original(self)
        cases = self.slice_recorder.take() if self.slice_recorder is not None else None
        struct, kept = joined(self, struct, cases)
        if kept:
            struct.set("slices", (self.slice_recorder, Cases.join(kept)))
        return struct

    def evaluate(original: Any, self: Any, dataobject: Any) -> Any:
        result = original(self, dataobject)
        if "slices" not in dataobject:
            return result
        recorder, cases = dataobject.get("slices")
        return SlicedResult({**result, **recorder.score(cases)})

    wrap(Collector, "__init__", prepare)
    wrap(Collector, "data_collect", learn)
    wrap(Collector, "get_data_struct", hand_over)
    wrap(Evaluator, "evaluate", evaluate)
