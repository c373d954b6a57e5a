"""The slices of a comparison: every model beside the others, and beside a random ranking, slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from recbole_mm.report.table import Row
from recbole_mm.slicing.result import COUNTS, slice_rows

__all__ = ["slice_frame", "slice_markdown", "slice_tables"]


def slice_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Collect the slices of all finished runs.

    Args:
        rows: The rows of the comparison.

    Returns:
        A line per slice and model (or variant): ``slice``, ``model``, ``variant``, ``runs`` (those with a case in the
        slice), ``cases`` and ``positives`` (means over the runs), and for each metric its mean over the runs, ``_std``
        and ``_random``, the expected score of a random ranking. Empty where no slice was asked for.
    """
    lines = []
    for row in rows:
        tables = [slice_rows(record.get("slices") or {}) for record in row.records.values()]
        for name in dict.fromkeys(name for table in tables for name in table):
            lines.append({"slice": name, "model": row.model, "variant": row.variant, **_line(tables, name)})
    frame = pd.DataFrame(lines)
    if len(frame):
        order = {name: place for place, name in enumerate(dict.fromkeys(frame["slice"]))}
        frame = frame.sort_values("slice", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    return frame


def slice_tables(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The slices as tables, one a metric: models down, slices across.

    Args:
        frame: From :func:`slice_frame`.

    Returns:
        For each metric its name as ``metric``, the slices as ``names``, and as ``rows`` and ``foot`` lines of a label
        and cells with ``value`` (``None`` where there is none) and ``text``. The foot has a random ranking and the
        number of cases.
    """
    if not len(frame):
        return []
    names = list(dict.fromkeys(frame["slice"]))
    cases = frame.groupby("slice")["cases"].max()
    tables = []
    for metric in _metrics(frame):
        rows = []
        for (model, variant), part in frame.groupby(["model", "variant"], sort=False):
            values = part.set_index("slice")[metric].reindex(names)
            rows.append((f"{model}, {variant}" if variant else str(model), [_cell(value) for value in values]))
        floor = frame.groupby("slice")[f"{metric}_random"].mean().reindex(names)
        counts = [{"value": float(cases[name]), "text": f"{cases[name]:,.0f}"} for name in names]
        foot = [("random ranking", [_cell(value) for value in floor]), ("cases", counts)]
        tables.append({"metric": metric, "names": names, "rows": rows, "foot": foot})
    return tables


def slice_markdown(frame: pd.DataFrame) -> str:
    """The slices as Markdown tables, one a metric: models down, slices across, a random ranking as the last line.

    Args:
        frame: From :func:`slice_frame`.

    Returns:
        Markdown text; empty without slices.
    """
    if not len(frame):
        return ""
    text = ["Mean over the runs. Below each table the expected score of a random ranking of the same candidates.", ""]
    for table in slice_tables(frame):
        text += ["| " + " | ".join([table["metric"], *table["names"]]) + " |", "|---" * (len(table["names"]) + 1) + "|"]
        for label, cells in [*table["rows"], *table["foot"]]:
            text.append("| " + " | ".join([label, *(cell["text"] for cell in cells)]) + " |")
        text.append("")
    return "\n".join(text)


def _line(tables: Sequence[dict[str, dict[str, Any]]], name: str) -> dict[str, Any]:
    rows = [table.get(name, {}) for table in tables]
    line: dict[str, Any] = {"runs": sum(bool(row.get("cases")) for row in rows)}
    for count in COUNTS:
        line[count] = float(np.mean([row.get(count, 0) for row in rows]))
    keys = dict.fromkeys(key for row in rows for key in row if key not in COUNTS and not key.endswith(",random"))
    for key in keys:
        values = [row[key] for row in rows if key in row]
        line[key] = float(np.mean(values))
        line[f"{key}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
        line[f"{key}_random"] = float(np.mean([row[f"{key},random"] for row in rows if key in row]))
    return line


def _metrics(frame: pd.DataFrame) -> list[str]:
    return [name[: -len("_random")] for name in frame.columns if name.endswith("_random")]


def _cell(value: float) -> dict[str, Any]:
    there = pd.notna(value)
    return {"value": float(value) if there else None, "text": f"{value:.4f}" if there else "-"}
