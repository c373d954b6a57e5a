"""Pictures of a comparison: metrics with intervals, learning curves, quality against training time."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recbole_mm.files import write_atomically
from recbole_mm.report.statistics import Summary, summarize
from recbole_mm.report.table import Row

__all__ = ["draw_all", "draw_curves", "draw_metrics", "draw_time"]

# Okabe and Ito's colours, told apart with every common kind of colour blindness; yellow is left out, too pale on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Never colour alone: the line style and the marker change with it, and again on every round of the colours.
_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")
_GREY, _PALE = "#9A9A9A", "#8DBFDF"


def draw_all(rows: Sequence[Row], baseline: str | None, folder: Path) -> list[Path]:
    """Draw every picture that the results allow, as PNG and as PDF.

    Args:
        rows: Rows of the table.
        baseline: Name of the baseline, drawn in grey among the metrics.
        folder: Where to write ``metrics``, ``curves`` and ``time``.

    Returns:
        The files.
    """
    done = [row for row in rows if row.records]
    plain = [row for row in done if not row.variant]
    figures = {}
    if done:
        figures["metrics"] = draw_metrics(done, baseline)
    if any(_points(row) for row in plain):
        figures["curves"] = draw_curves([row for row in plain if _points(row)])
    if plain:
        figures["time"] = draw_time(plain)
    files = []
    for name, figure in figures.items():
        for kind in ("png", "pdf"):
            buffer = io.BytesIO()
            # Without the date, the same results give the same file.
            metadata = {"CreationDate": None} if kind == "pdf" else None
            figure.savefig(buffer, format=kind, dpi=160, bbox_inches="tight", metadata=metadata)
            write_atomically(folder / f"{name}.{kind}", buffer.getvalue())
            files.append(folder / f"{name}.{kind}")
    return files


def draw_metrics(rows: Sequence[Row], baseline: str | None) -> Figure:
    """A bar per row and a panel per metric, with 95 % intervals.

    Args:
        rows: Rows that have runs.
        baseline: Name of the baseline, drawn in grey.

    Returns:
        The figure.
    """
    metrics = rows[0].metrics()
    columns = 2 if len(metrics) == 4 else min(len(metrics), 3)
    lines = math.ceil(len(metrics) / columns)
    height = 0.34 * len(rows) + 1.0
    figure = Figure(figsize=(1.9 + 3.1 * columns, height * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
    for axis, metric in zip(axes, metrics):
        found = [(place, _summary(row, metric), row) for place, row in enumerate(rows) if metric in row.metrics()]
        for place, summary, row in found:
            colour = _PALE if row.variant else _GREY if row.model == baseline else _COLOURS[0]
            axis.barh(place, summary.mean, color=colour, height=0.7)
            if not math.isnan(summary.low):
                error = [[summary.mean - summary.low], [summary.high - summary.mean]]
                axis.errorbar(summary.mean, place, xerr=error, color="black", capsize=3, linewidth=1.2)
        top = max((summary.mean for _, summary, _ in found), default=1.0)
        ends = [summary.high for _, summary, _ in found if not math.isnan(summary.high)]
        # An interval from very few runs may be much wider than the bars; it may leave the picture, they may not shrink.
        axis.set_xlim(0, min(max([top * 1.05, *[end * 1.03 for end in ends]]), top * 1.6) or 1.0)
        axis.set_yticks(range(len(rows)), [row.label for row in rows])
        axis.set_xlabel(metric)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        _plain(axis, grid="x")
    axes[0].invert_yaxis()
    for axis in axes[len(metrics) :]:
        axis.remove()
    return figure


def draw_curves(rows: Sequence[Row]) -> Figure:
    """Validation metric against epochs: the mean over the seeds, and each seed as a thin line.

    Args:
        rows: Rows that have validation curves.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    axis = figure.subplots()
    for number, row in enumerate(rows):
        curves = _points(row)
        colour, style = _colour(number), _STYLES[number // len(_COLOURS) % len(_STYLES)]
        for curve in curves if len(curves) > 1 else ():
            axis.plot(*zip(*sorted(curve.items())), color=colour, linewidth=0.7, alpha=0.4)
        shared = sorted(set.intersection(*(set(curve) for curve in curves)))
        mean = [math.fsum(curve[epoch] for curve in curves) / len(curves) for epoch in shared]
        axis.plot(
            shared, mean, style, color=colour, linewidth=2, label=row.label, marker=_marker(number), markersize=5,
            markevery=(number % 7 / 40, 0.18) if len(shared) > 6 else 1,
        )  # fmt: skip
    axis.set_xlabel("epoch")
    axis.set_ylabel(f"validation {_valid_metric(rows)}")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain(axis, grid="y")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def draw_time(rows: Sequence[Row]) -> Figure:
    """Test metric against training time, with 95 % intervals.

    Args:
        rows: Rows that have runs.

    Returns:
        The figure.
    """
    metric = _valid_metric(rows)
    metric = metric if metric in rows[0].metrics() else rows[0].metrics()[0]
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    axis = figure.subplots()
    heights = []
    for number, row in enumerate(rows):
        summary = _summary(row, metric)
        seconds = [record["time"]["train"] for record in row.records.values()]
        low = 0.0 if math.isnan(summary.low) else summary.mean - summary.low
        axis.errorbar(
            math.fsum(seconds) / len(seconds), summary.mean, yerr=low, fmt=_marker(number), color=_colour(number),
            markersize=9, capsize=3, linewidth=1.2, label=row.label, markeredgecolor="white", markeredgewidth=0.6,
        )  # fmt: skip
        heights += [summary.mean - low, summary.mean + low]
    middle = [_summary(row, metric).mean for row in rows]
    room = max(max(middle) - min(middle), 0.02 * max(middle), 1e-6)
    axis.set_ylim(
        max(min(heights), min(middle) - room) - 0.08 * room, min(max(heights), max(middle) + room) + 0.08 * room
    )
    axis.set_xscale("log")
    axis.margins(x=0.12)
    axis.set_xlabel("training time in seconds, with validations (mean over the seeds)")
    axis.set_ylabel(f"test {metric}")
    _plain(axis, grid="both")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _summary(row: Row, metric: str) -> Summary:
    values = [record["test"][metric] for record in row.records.values()]
    users = next(iter(row.users.values()), {}).get(metric) if len(values) == 1 else None
    return summarize(values, users)


def _points(row: Row) -> list[dict[int, float]]:
    """For each seed, epoch to validation metric."""
    metric = next((record.get("valid_metric") for record in row.records.values()), None)
    curves = []
    for record in row.records.values():
        points = {point["epoch"]: point["valid"].get(metric) for point in record.get("curve") or ()}
        curves.append({epoch: value for epoch, value in points.items() if value is not None})
    return curves if curves and all(curves) else []


def _valid_metric(rows: Sequence[Row]) -> str:
    return str(next(iter(rows[0].records.values())).get("valid_metric", "metric"))


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _marker(number: int) -> str:
    return _MARKERS[number % len(_MARKERS)]


def _plain(axis: Any, grid: str) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=grid, color="#D9D9D9", linewidth=0.8)
    axis.set_axisbelow(True)
