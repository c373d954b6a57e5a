"""Rows of a table of measurements, from files of JSON lines that the benchmarks append to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_mm.report.statistics import summarize

#: The expected score of a random ranking, which every run of a protocol gives.
_RANDOM = re.compile(r"(?P<metric>.+)\[(?P<part>.+),random\]")
_NEVER_IN_A_TABLE = re.compile(r"(cases|positives)\[")
#: What says which rows are repetitions of each other; the seed is what differs.
_SAME = ("model", "variant", "dataset", "protocol", "split", "options")


def rows_of(files: Sequence[Path]) -> pd.DataFrame:
    """A row a model (or variant of it), data set, protocol and options: mean and 95 % interval over its seeds.

    A protocol whose results have slices gets a row ``random ranking`` besides: what a random order of the same
    candidates is expected to score.

    Args:
        files: Files of JSON lines, as ``benchmarks/rows.py`` writes them.

    Returns:
        The table.

    Raises:
        ValueError: A line is no measurement, or two lines are the same measurement.
    """
    tables: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in (row for file in files for row in _lines(file)):
        tables.setdefault((row["dataset"], row["protocol"]), []).append(row)
    rows = []
    for measured in tables.values():
        groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in measured:
            groups.setdefault(tuple(row[key] for key in _SAME), []).append(row)
        rows += [_summary(dict(zip(_SAME, key)), group) for key, group in groups.items()]
        rows += _floor(measured)
    return pd.DataFrame(rows)


def _lines(file: Path) -> list[dict[str, Any]]:
    rows, seen = [], set()
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        row = json.loads(line)
        missing = {"model", "dataset", "metrics", "options", "commit", "machine", "date"} - set(row)
        if missing:
            raise ValueError(f"{file.name}, line {number}: no measurement, it lacks {', '.join(sorted(missing))}.")
        options = {key: value for key, value in row["options"].items() if key != "seed"}
        row = {
            "variant": "",
            "protocol": "",
            "split": "none",
            "seed": "none",
            **row,
            "options": json.dumps(options, sort_keys=True),
        }
        key = tuple(row[name] for name in (*_SAME, "seed"))
        if key in seen:
            raise ValueError(f"{file.name}, line {number}: {row['model']} with seed {row['seed']} is there twice.")
        seen.add(key)
        rows.append(row)
    return rows


def _summary(about: Mapping[str, str], group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in group for name in row["metrics"]):
        numbers = [row["metrics"][name] for row in group if row["metrics"].get(name) is not None]
        if not numbers or _RANDOM.fullmatch(name):
            continue
        found = summarize(numbers)
        values[name] = found.mean
        if "@" in name and not _NEVER_IN_A_TABLE.match(name):
            values |= {f"{name}_std": found.std, f"{name}_low": found.low, f"{name}_high": found.high}
    named = {"model": about["model"], "variant": about["variant"], "runs": len(group)}
    return {**named, **values, **_provenance(about, group)}


def _floor(group: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The row of a random ranking, from the last of the runs: they all have the same."""
    values = {}
    for name, value in group[-1]["metrics"].items():
        found = _RANDOM.fullmatch(name)
        if found:
            values[f"{found['metric']}[{found['part']}]"] = value
            if found["part"] == "all":
                values[found["metric"]] = value
    if not values:
        return []
    about = {key: group[-1][key] for key in _SAME}
    return [{"model": "random ranking", "variant": "", "runs": 0, **values, **_provenance(about, group)}]


def _provenance(about: Mapping[str, str], group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    machines = (f"{row['machine']['device']} ({row['machine']['threads']} threads)" for row in group)
    return {
        "dataset": about["dataset"], "protocol": about["protocol"], "split": about["split"],
        "seeds": joined(row["seed"] for row in group), "options": about["options"],
        "commit": joined(row["commit"] for row in group), "machine": joined(machines),
        "date": joined(row["date"] for row in group),
    }  # fmt: skip


def joined(values: Iterable[Any]) -> str:
    """The distinct values, in their order."""
    return " ".join(dict.fromkeys(str(value) for value in values if value)) or "unknown"
