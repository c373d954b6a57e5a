"""``report.html``: a comparison as one page that needs nothing else, neither network nor script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_mm.experiment.ablation import CONTENT_MODEL
from recbole_mm.experiment.job import versions
from recbole_mm.experiment.store import neutral_settings
from recbole_mm.report.comparison.ablation import changes, reading, sentence
from recbole_mm.report.comparison.figures import figures
from recbole_mm.report.comparison.sentences import verdicts
from recbole_mm.report.html import write_html
from recbole_mm.report.render import best_cells, cost_cells, is_different, metric_names, metric_title
from recbole_mm.report.runs import ComparedRuns
from recbole_mm.report.slices import slice_frame, slice_tables
from recbole_mm.report.table import Row, short

__all__ = ["write_page"]

_COSTS = {"epochs": "epochs", "s/epoch": "epoch_seconds", "training": "train_seconds", "memory": "memory_mib"}


def write_page(runs: ComparedRuns, table: pd.DataFrame, baseline: str, notes: Sequence[str]) -> Path:
    """Write the page of a comparison.

    Args:
        runs: The runs.
        table: Their table.
        baseline: Name of the model that the others are tested against.
        notes: Lines that say what the figures mean.

    Returns:
        The page.

    Raises:
        ImportError: jinja2 or matplotlib is not installed.
    """
    rows = list(runs.ordered())
    metrics = metric_names(table)
    metric = _main_metric(metrics, runs.protocol.shared)
    found = changes(table, metric) if metrics else {}
    return write_html(
        "comparison.html",
        runs.store.folder / "report.html",
        dataset=runs.protocol.dataset,
        names=runs.names,
        seeds=runs.seeds,
        baseline=baseline,
        warnings=[f"{row.label}: {reason}" for row in rows for reason in dict.fromkeys(row.failures)],
        head=["model", *map(metric_title, metrics), *_COSTS],
        lines=_lines(table, metrics),
        metric=metric,
        metric_title=metric_title(metric),
        tests=[verdict for verdict in verdicts(table, rows) if not verdict.variant],
        ablation=[(model, sentence(part), reading(part)) for model, part in found.items()],
        content=CONTENT_MODEL if CONTENT_MODEL in found else "",
        pictures=figures(rows, table, baseline, metric),
        slices=[{**part, "metric": metric_title(part["metric"])} for part in slice_tables(slice_frame(rows))],
        health=_health(rows),
        facts=_facts(runs, rows),
        options=_options(runs),
        shared=[(key, short(value)) for key, value in runs.protocol.shared.items()],
        # What the health check said has a place of its own.
        notes=[note.replace("\\*", "*") for note in notes if not note.startswith("Health, ")],
    )


def _main_metric(metrics: Sequence[str], shared: Mapping[str, Any]) -> str:
    """The metric that training was stopped by, where the test has it."""
    wanted = str(shared.get("valid_metric", "")).lower()
    return wanted if wanted in metrics else metrics[0] if metrics else ""


def _lines(table: pd.DataFrame, metrics: Sequence[str]) -> list[dict[str, Any]]:
    best = best_cells(table, metrics)
    lines = []
    for position, row in table.iterrows():
        name = row["variant"].replace(" permuted", " rows permuted") if row["variant"] else row["model"]
        cells = []
        if row["runs"]:
            cells = [_metric_cell(row, metric, (position, metric) in best) for metric in metrics]
            cells += [
                {"text": text, "value": _value(row[key]), "best": False, "spread": ""}
                for text, key in zip(cost_cells(row), _COSTS.values())
            ]
        lines.append({"name": name, "variant": row["variant"], "cells": cells, "failure": row["failure"]})
    return lines


def _metric_cell(row: Any, metric: str, best: bool) -> dict[str, Any]:
    value = row[metric]
    if pd.isna(value):
        return {"text": "", "value": None, "best": False, "spread": ""}
    ends = row[f"{metric}_low"], row[f"{metric}_high"]
    spread = "" if pd.isna(ends[0]) else f"[{ends[0]:.3f}, {ends[1]:.3f}]"
    return {
        "text": f"{value:.4f}" + "*" * is_different(row, metric),
        "value": _value(value),
        "best": best,
        "spread": spread,
    }


def _value(number: Any) -> float | None:
    return None if number is None or math.isnan(number) else float(number)


def _health(rows: Sequence[Row]) -> list[tuple[str, str]] | None:
    """What was found wrong with trainings, each kind of a row once, with the seeds; ``None`` where nobody watched."""
    watched = False
    found: dict[tuple[str, str], tuple[str, list[int]]] = {}
    for row in rows:
        for seed, record in row.records.items():
            report = record.get("health")
            watched |= report is not None
            for alarm in (report or {}).get("alarms", ()):
                # Numbers in the text differ by seed; the first stands for all.
                found.setdefault((row.label, alarm["name"]), (alarm["text"], []))[1].append(seed)
    if not watched:
        return None
    return [
        (f"{label}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}", text)
        for (label, _), (text, seeds) in found.items()
    ]


def _facts(runs: ComparedRuns, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What a reader needs to do the same again."""
    shared = runs.protocol.shared
    facts = [("data set", f"{runs.protocol.dataset}, hash of its files {runs.protocol.fingerprint}")]
    by_hash: dict[str, list[int]] = {}
    for seed, split in sorted(runs.splits.items()):
        by_hash.setdefault(split["hash"], []).append(seed)
    for name, seeds in by_hash.items():
        split = runs.splits[seeds[0]]
        sizes = " / ".join(f"{split[part]:,}" for part in ("train", "valid", "test"))
        facts.append(
            (
                f"split {name}",
                f"{sizes} pairs (train / validation / test), {split['items']:,} items ranked; seed"
                f"{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
            )
        )
    facts += [("seeds", ", ".join(map(str, runs.seeds))), ("chosen by", f"validation {shared.get('valid_metric')}")]
    records = [record for row in rows for record in row.records.values() if "versions" in record]
    machines = {
        f"{record['machine']['device'] or 'unknown device'}, {record['machine']['threads']} threads"
        for record in records
        if record.get("machine")
    }
    facts += [("measured on", "; ".join(sorted(machines)))] if machines else []
    used: dict[str, set[str]] = {}
    for record in records or [{"versions": versions()}]:
        for name, number in record["versions"].items():
            if number is not None:
                used.setdefault(name, set()).add(str(number))
    facts.append(("versions", ", ".join(f"{name} {' and '.join(sorted(numbers))}" for name, numbers in used.items())))
    return facts


def _options(runs: ComparedRuns) -> list[tuple[str, str]]:
    """Options beside the shared ones: those of every model once, then each model's own and what a search chose."""
    own = {
        name: {key: value for key, value in neutral_settings(settings).items() if key not in runs.protocol.shared}
        for name, settings in runs.protocol.settings.items()
    }
    every = list(own.values())
    first = every[0] if every else {}
    common = {key: value for key, value in first.items() if all(part.get(key) == value for part in every)}
    lines = [("every model", common)]
    lines += [
        (f"{name}, by its search" if name in runs.found else name, part)
        for name, settings in own.items()
        if (part := {key: value for key, value in settings.items() if key not in common})
    ]
    return [(name, ", ".join(f"{key}={short(value)}" for key, value in part.items()) or "none") for name, part in lines]
