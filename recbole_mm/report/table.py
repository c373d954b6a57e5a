"""The table of a comparison as a DataFrame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from recbole_mm.report.statistics import average_users, holm, paired_test, summarize

__all__ = ["Row", "make_table", "short"]


@dataclass
class Row:
    """One line of the table: a model, or a variant of it, over its seeds.

    Attributes:
        model: Name of the model.
        variant: What differs from the model, such as ``image permuted``; empty for the model itself.
        records: Seed to the record of the finished run.
        users: Seed to the per-user metrics of that run, with the raw ids as ``user``.
        failures: Reasons of the runs that failed.
        params: Options that a search chose.
    """

    model: str
    variant: str = ""
    records: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    users: dict[int, Mapping[str, np.ndarray]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What the row is called."""
        return f"{self.model} ({self.variant})" if self.variant else self.model

    def metrics(self) -> list[str]:
        """Names of the metrics, in RecBole's order."""
        return list(next(iter(self.records.values()))["test"]) if self.records else []


def make_table(rows: Sequence[Row], baseline: str | None) -> pd.DataFrame:
    """Collect the rows into a table.

    Columns are, besides the obvious ones: for each metric its mean, ``_std``, and the 95 % interval ``_low`` to
    ``_high``; and from the paired tests against ``reference`` (the baseline; for a variant, its own model)
    ``_difference`` with its 95 % interval,
    ``_effect`` (Cohen's d of the paired differences), and the p-values ``_p_t`` and ``_p_wilcoxon`` with their Holm
    corrections ``_p_t_holm`` and ``_p_wilcoxon_holm`` over all tests of the table. Tests pair the users, whose metrics
    are averaged over the seeds that both rows have.

    Args:
        rows: The rows.
        baseline: Name of the model that the others are tested against; ``None`` for no tests between models.

    Returns:
        The table, a row per row, in their order.
    """
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics()))
    plain = {row.model: row for row in rows if not row.variant}
    lines: list[dict[str, Any]] = []
    tests: list[tuple[int, str]] = []
    for position, row in enumerate(rows):
        reference = plain.get(row.model if row.variant else baseline or "")
        reference = None if reference is row else reference
        line = {"model": row.model, "variant": row.variant, "runs": len(row.records), **_costs(row)}
        for metric in metrics:
            line.update(_metric(row, metric))
            found = _test(row, reference, metric) if reference is not None else {}
            line.update(found)
            tests += [(position, metric)] if found else []
        line["reference"] = reference.label if reference is not None and row.records and reference.records else ""
        line["params"] = ", ".join(f"{name}={short(value)}" for name, value in row.params.items())
        line["failure"] = "; ".join(dict.fromkeys(row.failures))
        lines.append(line)
    for kind in ("p_t", "p_wilcoxon"):
        corrected = holm([lines[position][f"{metric}_{kind}"] for position, metric in tests])
        for (position, metric), value in zip(tests, corrected):
            lines[position][f"{metric}_{kind}_holm"] = value
    columns = ["model", "variant", "runs"]
    for metric in metrics:
        columns += [f"{metric}{suffix}" for suffix in _SUFFIXES]
    columns += [*_COSTS, "reference", "params", "failure"]
    return pd.DataFrame(lines).reindex(columns=columns)


_SUFFIXES = (
    "", "_std", "_low", "_high", "_difference", "_difference_low", "_difference_high", "_effect", "_p_t", "_p_wilcoxon",
    "_p_t_holm", "_p_wilcoxon_holm",
)  # fmt: skip
_COSTS = (
    "interval", "epochs", "epoch_seconds", "train_seconds", "train_cpu_seconds", "test_seconds", "memory_mib",
    "device_memory_mib", "parameters",
)  # fmt: skip


def _metric(row: Row, metric: str) -> dict[str, Any]:
    values = [record["test"][metric] for record in row.records.values() if record["test"].get(metric) is not None]
    if not values:
        return {}
    users = next(iter(row.users.values()), {}).get(metric) if len(values) == 1 else None
    summary = summarize(values, users)
    return {
        metric: summary.mean,
        f"{metric}_std": summary.std,
        f"{metric}_low": summary.low,
        f"{metric}_high": summary.high,
    }


def _test(row: Row, reference: Row, metric: str) -> dict[str, Any]:
    seeds = [seed for seed in row.users if metric in row.users[seed] and metric in reference.users.get(seed, {})]
    if not seeds:
        return {}
    ours, theirs = (
        average_users([(side.users[seed]["user"], side.users[seed][metric]) for seed in seeds])
        for side in (row, reference)
    )
    _, left, right = np.intersect1d(ours[0], theirs[0], assume_unique=True, return_indices=True)
    result = paired_test(ours[1][left], theirs[1][right])
    return {
        f"{metric}_difference": result.difference,
        f"{metric}_difference_low": result.low,
        f"{metric}_difference_high": result.high,
        f"{metric}_effect": result.effect,
        f"{metric}_p_t": result.t_p,
        f"{metric}_p_wilcoxon": result.wilcoxon_p,
    }


def _costs(row: Row) -> dict[str, Any]:
    records = list(row.records.values())
    if not records:
        return {"interval": ""}

    def mean(*path: str) -> float:
        values = []
        for record in records:
            value: Any = record
            for key in path:
                value = (value or {}).get(key)
            values += [] if value is None else [float(value)]
        return math.fsum(values) / len(values) if values else math.nan

    return {
        "interval": "over runs" if len(records) > 1 else "over users" if any(row.users.values()) else "",
        "epochs": mean("epochs"),
        "epoch_seconds": mean("time", "epoch"),
        "train_seconds": mean("time", "train"),
        "train_cpu_seconds": mean("time", "train_cpu"),
        "test_seconds": mean("time", "test"),
        "memory_mib": mean("memory_mib", "process"),
        "device_memory_mib": mean("memory_mib", "device"),
        "parameters": mean("parameters"),
    }


def short(value: Any) -> str:
    """A value of an option, numbers with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
