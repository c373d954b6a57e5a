"""Watches a RecBole trainer from outside: validation curve, metrics of every test user, time and memory."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_mm.host.session import notes, spent

__all__ = ["Curve", "peak_memory", "per_user_metrics"]


class Curve:
    """The validation results of a training, collected while ``trainer.fit`` runs.

    Args:
        trainer: A RecBole trainer that has not been started.
        on_validation: Called after every validation with the number of epochs trained and the result; it may stop the
            training by raising.

    Attributes:
        points: One mapping per validation: ``epoch`` (counted from 1), ``seconds`` since the start, ``loss``,
        ``valid``. Of a training that goes on, those before it was broken off, too.
        evaluation_seconds: Time spent in validations.
    """

    def __init__(self, trainer: Any, on_validation: Callable[[int, dict[str, float]], None] | None = None) -> None:
        self._trainer = trainer
        self._on_validation = on_validation
        self._evaluate = trainer.evaluate

    @property
    def points(self) -> list[dict[str, Any]]:  # noqa: D102 - see the class
        found: list[dict[str, Any]] = notes(self._trainer).setdefault("curve", [])
        return found

    @property
    def evaluation_seconds(self) -> float:  # noqa: D102 - see the class
        return float(notes(self._trainer).get("evaluation_seconds", 0.0))

    def __enter__(self) -> Curve:
        # Every trainer, also one with a fit() of its own, validates through its public evaluate().
        self._trainer.evaluate = self._observed
        return self

    def __exit__(self, *_: object) -> None:
        del self._trainer.evaluate

    def _observed(self, *args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        result = self._evaluate(*args, **kwargs)
        kept = notes(self._trainer)
        kept["evaluation_seconds"] = self.evaluation_seconds + time.perf_counter() - begin
        if result is None:  # RecBole's answer to an empty validation part
            return result
        losses = getattr(self._trainer, "train_loss_dict", {})
        epoch = max(losses, default=len(self.points)) + 1
        self.points.append(
            {
                "epoch": epoch,
                "seconds": spent(self._trainer)[0],
                "loss": _number(losses.get(epoch - 1)),
                "valid": {name: float(value) for name, value in result.items()},
            }
        )
        if self._on_validation is not None:
            self._on_validation(epoch, self.points[-1]["valid"])
        return result


@contextmanager
def per_user_metrics(trainer: Any, dataset: Any) -> Iterator[dict[str, np.ndarray]]:
    """Collect the metrics of every user while the trainer evaluates.

    RecBole's metrics compute a row per user and hand it to their ``topk_result``, which averages it; here the row is
    read on its way, so the values are RecBole's own and their mean is what it reports. Metrics of the whole list set
    (item coverage, Gini index) and of pairs (AUC, RMSE) have no value per user and are left out.

    Args:
        trainer: A RecBole trainer.
        dataset: The data set, for the raw ids.

    Yields:
        A mapping that is filled by the evaluation: ``user`` (raw ids, sorted) and each metric such as ``recall@10``.
        Users with several test rows (a sequential model under a ratio split) get the mean over their rows.
    """
    collected: dict[str, np.ndarray] = {}
    values: dict[str, np.ndarray] = {}
    users: list[torch.Tensor] = []
    collect = trainer.eval_collector.eval_batch_collect

    def collect_users(scores: torch.Tensor, interaction: Any, *positives: Any) -> Any:
        rows = interaction[dataset.uid_field]
        if len(rows) != len(scores):  # sampled candidates: a row of the scores for each run of equal users
            rows = torch.unique_consecutive(rows)
        users.append(rows.cpu())
        return collect(scores, interaction, *positives)

    watched = [metric for metric in trainer.evaluator.metric_class.values() if hasattr(metric, "topk_result")]
    trainer.eval_collector.eval_batch_collect = collect_users
    for metric in watched:
        metric.topk_result = _watch(metric.topk_result, values)
    try:
        yield collected
    finally:
        del trainer.eval_collector.eval_batch_collect
        for metric in watched:
            del metric.topk_result
    if values:
        rows = torch.cat(users).numpy()
        tokens = np.asarray(dataset.field2id_token[dataset.uid_field])[rows].astype(str)
        distinct, position = np.unique(tokens, return_inverse=True)
        counts = np.bincount(position, minlength=len(distinct))
        collected["user"] = distinct
        for name, value in values.items():
            collected[name] = np.bincount(position, weights=value, minlength=len(distinct)) / counts


def _watch(topk_result: Callable[..., dict[str, float]], values: dict[str, np.ndarray]) -> Callable[..., Any]:
    def watched(metric: str, value: np.ndarray) -> dict[str, float]:
        result = topk_result(metric, value)
        for name in result:
            values[name] = value[:, int(name.rpartition("@")[2]) - 1].astype(np.float64)
        return result

    return watched


def peak_memory(device: torch.device) -> dict[str, float | None]:
    """Highest memory use of this process so far, in MiB.

    Args:
        device: Device of the model.

    Returns:
        ``process`` (resident memory) and ``device`` (allocated by torch on a CUDA device, else ``None``).
    """
    on_device = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return {"process": _peak_resident(), "device": on_device}


def _peak_resident() -> float | None:
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: after fork and exec Linux counts the memory of the parent as the child's own peak.
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    if os.name == "posix":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)
    return None


def _number(loss: Any) -> float | None:
    return None if loss is None else float(sum(loss) if isinstance(loss, tuple) else loss)
