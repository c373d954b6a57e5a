"""The paired tests of a comparison in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from recbole_mm.report.render import is_different, metric_title, smaller_is_better
from recbole_mm.report.table import Row

__all__ = ["Verdict", "short_number", "signed_number", "verdicts"]


@dataclass(frozen=True)
class Verdict:
    """One paired test.

    Attributes:
        model: The model.
        variant: What differs from the model itself, such as ``image permuted``; empty for the model.
        reference: What it is compared with.
        metric: Name of the metric.
        difference: Mean over the users, model minus reference.
        low: Lower end of the 95 % interval.
        high: Upper end.
        different: Whether both tests find a difference after correction.
        better: Whether the model has the better mean.
        seeds: How many seeds both have.
    """

    model: str
    variant: str
    reference: str
    metric: str
    difference: float
    low: float
    high: float
    different: bool
    better: bool
    seeds: int

    @property
    def interval(self) -> str:
        """The signed difference with its interval, such as ``-.021 [-.030, -.012]``."""
        values = (self.difference, self.low, self.high)
        low, high = (signed_number(end, values) for end in values[1:])
        spread = "" if math.isnan(self.low) else f" [{low}, {high}]"
        return f"{signed_number(self.difference, values)}{spread}"

    def __str__(self) -> str:
        name = f"{self.model} ({self.variant})" if self.variant else self.model
        metric, seeds = metric_title(self.metric), f"{self.seeds} seed{'s' * (self.seeds != 1)}"
        if not self.different:
            return f"{name} and {self.reference} cannot be told apart on {metric}: {self.interval}, {seeds}"
        values = (self.difference, self.low, self.high)
        ends = (self.low, self.high) if self.difference > 0 else (-self.high, -self.low)
        spread = f" [{short_number(ends[0], values)}, {short_number(ends[1], values)}]"
        verb, size = "beats" if self.better else "loses to", short_number(abs(self.difference), values)
        return f"{name} {verb} {self.reference} on {metric} by {size}{spread}, {seeds}"


def verdicts(table: pd.DataFrame, rows: Sequence[Row]) -> list[Verdict]:
    """All paired tests of a table.

    Args:
        table: From :func:`~recbole_mm.report.table.make_table`.
        rows: The rows that it was made of.

    Returns:
        In the order of the table, the metrics of a row together.
    """
    named = {row.label: row for row in rows}
    found = []
    for row, (_, line) in zip(rows, table.iterrows()):
        reference = named.get(line["reference"])
        if reference is None:
            continue
        for metric in row.metrics():
            if pd.isna(line.get(f"{metric}_difference")):
                continue
            found.append(_verdict(row, reference, line, metric))
    return found


def short_number(value: float, together: Sequence[float] = ()) -> str:
    """A metric as papers write it: three digits and no zero before the point; four where all numbers are tiny.

    Args:
        value: The number.
        together: The numbers that stand beside it, which get as many digits.

    Example:
        >>> short_number(0.0112), short_number(-0.0039, [-0.0039, 0.002]), short_number(1.25)
        ('.011', '-.0039', '1.250')
    """
    finite = [abs(number) for number in together or (value,) if math.isfinite(number)]
    text = f"{value:.{3 if not finite or max(finite) >= 0.01 else 4}f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def signed_number(value: float, together: Sequence[float] = ()) -> str:
    """:func:`short_number` with its sign."""
    return ("" if value < 0 else "+") + short_number(value, together)


def _verdict(row: Row, reference: Row, line: Any, metric: str) -> Verdict:
    difference = float(line[f"{metric}_difference"])
    seeds = [seed for seed in row.users if metric in row.users[seed] and metric in reference.users.get(seed, {})]
    return Verdict(
        row.model, row.variant, reference.label, metric, difference,
        float(line[f"{metric}_difference_low"]), float(line[f"{metric}_difference_high"]),
        is_different(line, metric), (difference < 0) == smaller_is_better(metric), len(seeds),
    )  # fmt: skip
