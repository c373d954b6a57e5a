"""A measured table as Markdown: titles, digits, the best in bold, intervals, and what it was measured with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

__all__ = ["measured", "pivot", "rows"]

_COUNTS = {"runs", "parameters", "pairs"}
#: Digits of what has no interval.
_DIGITS = {
    "epochs": 0, "epoch_seconds": 2, "train_seconds": 0, "train_cpu_seconds": 0, "test_seconds": 1, "step_seconds": 3,
    "reference_step_seconds": 3, "times_faster": 1, "times_sasrec": 2, "graph_seconds": 3, "dense_seconds": 3,
    "ranking_seconds": 2, "ranking_default_seconds": 2, "ranking_times_faster": 1, "microseconds_a_pair": 1,
    "pair_by_pair_seconds": 1, "tasks_a_second": 1, "valid": 4, "valid_of_popularity": 4, "percent": 2,
    "new_recall": 2, "times_random": 1, "new_share": 2, "among_new": 2, "recall": 2, "load": 1,
    "limit": 3, "floor_seconds": 3, "times_floor": 1, "outside_share": 2, "ranking_floor_seconds": 2,
    "ranking_times_floor": 2, "gigaflop_a_second": 0, "gigabytes_a_second": 0,
    "permuted_image": 4, "permuted_text": 4, "defaults": 4, "best": 4,
}  # fmt: skip
_TITLES = {
    "epoch_seconds": "s/epoch", "train_seconds": "training s", "memory_mib": "MiB", "params": "chosen",
    "step_seconds": "s/step", "clock_seconds": "s/epoch by the clock", "peak_mib": "MiB",
    "reference_step_seconds": "plain: s/step", "reference_peak_mib": "plain: MiB", "times_faster": "times faster",
    "cpu_seconds": "CPU s", "times_sasrec": "of RecBole's SASRec", "graphs_mib": "graphs MiB", "graph_seconds": "graph",
    "dense_seconds": "dense", "ranking_seconds": "ranking s", "ranking_default_seconds": "RecBole's way: s",
    "ranking_times_faster": "times faster", "microseconds_a_pair": "us a pair",
    "pair_by_pair_seconds": "pair by pair: s", "tasks_a_second": "tasks/s", "valid": "validation",
    "valid_of_popularity": "of popularity", "percent": "% of the time", "seconds": "s", "times_random": "x random",
    "new_share": "share of the lists", "new_recall": "wanted new products", "among_new": "in lists of new products",
    "recall": "Recall@20", "constant_graphs_mib": "constant graphs MiB", "constant_graphs_seconds": "constant graphs s",
    "floor_seconds": "floor s", "times_floor": "times the floor", "outside_share": "share outside the model",
    "ranking_floor_seconds": "bare ranking s", "ranking_times_floor": "times bare", "gigaflop_a_second": "GFLOP/s",
    "gigabytes_a_second": "GB/s", "first_step_seconds": "first step of an epoch s",
    "another_step_seconds": "another step s",
    "permuted_image": "image permuted", "permuted_text": "text permuted",
}  # fmt: skip


def rows(table: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """The lines of a table with a line a row: some columns of it."""
    header = [_TITLES.get(column, _title(column)) for column in columns]
    lines = [
        "| " + " | ".join(header) + " |",
        _rule(not pd.api.types.is_numeric_dtype(table[column]) for column in columns),
    ]
    best = {column: table[column].max() for column in columns if f"{column}_low" in table and len(table) > 1}
    for _, row in table.iterrows():
        lines.append("| " + " | ".join(_cell(row, column, best.get(column)) for column in columns) + " |")
    return lines


def pivot(table: pd.DataFrame, asked: Mapping[str, str]) -> list[str]:
    """The lines of a table of one value, by ``rows`` and ``across``."""
    down, across, value = asked.get("rows", "model"), asked["across"], asked["value"]
    columns = list(dict.fromkeys(table[across]))
    lines = ["| " + " | ".join([down, *map(str, columns)]) + " |", _rule([True, *(False for _ in columns)])]
    best = table.groupby(across)[value].max()
    for label in dict.fromkeys(table[down]):
        cells = [str(label)]
        for column in columns:
            found = table[(table[down] == label) & (table[across] == column)]
            cells.append(_cell(found.iloc[0], value, best[column], spread=False) if len(found) else "")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _rule(texts: Iterable[bool]) -> str:
    return "|" + "|".join("---" if text else "--:" for text in texts) + "|"


def _title(column: str) -> str:
    metric, at, k = column.partition("@")
    k, _, part = k.rstrip("]").partition("[")
    k += f", {part.replace('_', ' ')}" if part else ""
    return f"{ {'ndcg': 'NDCG', 'mrr': 'MRR', 'map': 'MAP'}.get(metric, metric.capitalize()) }@{k}" if at else column


def _cell(row: pd.Series, column: str, best: float | None, spread: bool = True) -> str:
    value = row[column]
    if column == "model":
        variant = row.get("variant")
        return f"{value}, {variant}" if isinstance(variant, str) and variant else str(value)
    if pd.isna(value):
        return ""
    if column == "difference":  # 0 is the same to the last bit, and 1e-9 is not
        return f"{value:g}"
    if column in _COUNTS or isinstance(value, str):
        return f"{value:,}" if not isinstance(value, str) else value
    if f"{column}_low" not in row.index:
        return f"{value:,.{_DIGITS.get(column, 0)}f}"
    text = _short(value) if value != best else f"**{_short(value)}**"
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    return f"{text} [{_short(low)}, {_short(high)}]" if spread and pd.notna(low) else text


def _short(value: float) -> str:
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.4f}")


def measured(table: pd.DataFrame, name: str) -> str:
    """One line on how the table was measured."""

    def all_of(column: str) -> str:
        return ", ".join(dict.fromkeys(part for value in table[column] for part in str(value).split(" ")))

    trained = f"Seeds {all_of('seeds')}; split {all_of('split')}; c" if set(table["seeds"]) != {"-"} else "C"

    machines = "; ".join(dict.fromkeys(table["machine"]))
    return (
        f"{trained}ommit {all_of('commit')}; {machines}; {all_of('date')}. "
        f"{'Options and costs' if trained != 'C' else 'All columns'}: `benchmarks/results/{name}.csv`."
    )
