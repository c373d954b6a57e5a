"""Pictures of a comparison: metrics with intervals, learning curves, quality against training time."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from recbole_mm.files import write_atomically
from recbole_mm.report.render import metric_title
from recbole_mm.report.statistics import Summary, summarize
from recbole_mm.report.table import Row

__all__ = ["draw_all", "draw_curves", "draw_metrics", "draw_time", "has_curves", "literal"]

# Okabe and Ito's colours, told apart with every common kind of colour blindness; yellow is left out, too pale on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Never colour alone: the line style and the marker change with it, and again on every round of the colours.
_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")
_GREY, _PALE = "#9A9A9A", "#8DBFDF"


def draw_all(rows: Sequence[Row], baseline: str | None, folder: Path, dataset: str = "") -> list[Path]:
    """Draw every picture that the results allow, as PNG and as PDF.

    Args:
        rows: Rows of the table.
        baseline: Name of the baseline, drawn in grey among the metrics.
        folder: Where to write ``metrics``, ``curves`` and ``time``.
        dataset: Name of the data set, for the titles.

    Returns:
        The files.
    """
    done = [row for row in rows if row.records]
    plain = [row for row in done if not row.variant]
    where = f" on {dataset}" if dataset else ""
    figures = {}
    if done:
        over = _intervals(done)
        figures["metrics"] = draw_metrics(done, baseline, title=f"Test metrics{where}{over and f', {over}'}")
    if any(has_curves(row) for row in plain):
        figures["curves"] = draw_curves([row for row in plain if has_curves(row)], f"Validation{where}")
    if plain:
        figures["time"] = draw_time(plain, f"Quality against training time{where}")
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


def draw_metrics(
    rows: Sequence[Row], baseline: str | None, metrics: Sequence[str] | None = None, title: str = ""
) -> Figure:
    """A bar per row and a panel per metric, with 95 % intervals.

    Args:
        rows: Rows that have runs.
        baseline: Name of the baseline, drawn in grey.
        metrics: Which metrics; all where not given.
        title: What stands above.

    Returns:
        The figure.
    """
    metrics = metrics or rows[0].metrics()
    columns = 2 if len(metrics) == 4 else min(len(metrics), 3)
    lines = math.ceil(len(metrics) / columns)
    height = 0.34 * len(rows) + 1.0
    figure = Figure(figsize=(1.9 + 3.1 * columns, height * lines + 0.3 * bool(title)), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
    cut = [_draw_bars(axis, rows, metric, baseline) for axis, metric in zip(axes, metrics)]
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    for axis in axes[len(metrics) :]:
        axis.remove()
    _title(figure, title)
    if any(cut):
        figure.supxlabel("an arrow: the interval goes on", fontsize=8)
    return figure


def _draw_bars(axis: Any, rows: Sequence[Row], metric: str, baseline: str | None) -> bool:
    """One panel; returns whether an interval leaves the picture."""
    found = [(place, _summary(row, metric), row) for place, row in enumerate(rows) if metric in row.metrics()]
    top = max((summary.mean for _, summary, _ in found), default=1.0)
    ends = [summary.high for _, summary, _ in found if not math.isnan(summary.high)]
    # An interval from very few runs may be much wider than the bars; it may leave the picture, they may not shrink.
    right = min(max([top * 1.05, *[end * 1.03 for end in ends]]), top * 1.6) or 1.0
    cut = False
    for place, summary, row in found:
        colour = _PALE if row.variant else _GREY if row.model == baseline else _COLOURS[0]
        axis.barh(place, summary.mean, color=colour, height=0.7)
        if not math.isnan(summary.low):
            cut |= _draw_whisker(axis, place, summary, right)
    axis.set_xlim(0, right)
    axis.set_yticks(range(len(rows)), [literal(row.label) for row in rows])
    axis.set_xlabel(literal(metric_title(metric)))
    axis.xaxis.set_major_locator(MaxNLocator(4))
    _plain(axis, grid="x")
    return cut


def _draw_whisker(axis: Any, place: int, summary: Summary, right: float) -> bool:
    """The interval, with an arrow for a cap where it leaves ``[0, right]``; returns whether it does."""
    low, high = max(summary.low, 0.0), min(summary.high, right)
    axis.plot([low, high], [place, place], color="black", linewidth=1.2)
    ends = ((low, "|" if low == summary.low else "<"), (high, "|" if high == summary.high else ">"))
    for end, marker in ends:
        size = 7 if marker == "|" else 5
        axis.plot([end], [place], marker, color="black", markersize=size, clip_on=False, zorder=3)
    return (low, high) != (summary.low, summary.high)


def draw_curves(rows: Sequence[Row], title: str = "") -> Figure:
    """Validation metric against epochs: the mean over the seeds, and each seed as a thin line.

    Args:
        rows: Rows that have validation curves.
        title: What stands above.

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
            shared, mean, style, color=colour, linewidth=2, label=literal(row.label), marker=_marker(number),
            markersize=5, markevery=(number % 7 / 40, 0.18) if len(shared) > 6 else 1,
        )  # fmt: skip
    axis.set_xlabel("epoch")
    axis.set_ylabel(literal(f"validation {metric_title(_valid_metric(rows).lower())}"))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain(axis, grid="y")
    _title(figure, title)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def draw_time(rows: Sequence[Row], title: str = "") -> Figure:
    """Test metric against training time, with 95 % intervals.

    Args:
        rows: Rows that have runs.
        title: What stands above.

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
            markersize=9, capsize=3, linewidth=1.2, label=literal(row.label), markeredgecolor="white",
            markeredgewidth=0.6,
        )  # fmt: skip
        heights += [summary.mean - low, summary.mean + low]
    middle = [_summary(row, metric).mean for row in rows]
    room = max(max(middle) - min(middle), 0.02 * max(middle), 1e-6)
    axis.set_ylim(
        max(min(heights), min(middle) - room) - 0.08 * room, min(max(heights), max(middle) + room) + 0.08 * room
    )
    axis.set_xscale("log")
    axis.margins(x=0.12)
    ticks = _time_ticks(*axis.get_xlim())
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("training time in seconds, with validations (mean over the seeds)")
    axis.set_ylabel(literal(f"test {metric_title(metric)}"))
    _plain(axis, grid="both")
    _title(figure, title)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def has_curves(row: Row) -> bool:
    """Whether every run of the row has a validation curve."""
    return bool(_points(row))


def literal(text: str) -> str:
    """A text that matplotlib draws as it is: a pair of dollars would be read as a formula."""
    return text.replace("$", r"\$")


def _time_ticks(low: float, high: float) -> list[float]:
    """Round times between two times on a logarithmic axis, seven at most and two at least where they differ."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        # Written as text, 3e-1 is .3 and not .30000000000000004.
        ticks = [float(f"{factor}e{decade}") for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if 2 <= len(ticks) <= 7:
            return ticks
    if len(ticks) > 7:
        return ticks[:: math.ceil(len(ticks) / 7)]
    return [
        float(f"{tick:.6g}")
        for tick in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
        if low <= tick <= high
    ]


def _intervals(rows: Sequence[Row]) -> str:
    """What the intervals are over, in words; empty where no row has one."""
    over = {_summary(row, metric).over.replace("runs", "seeds") for row in rows for metric in row.metrics()[:1]} - {""}
    return f"95 % intervals over {' or '.join(sorted(over))}" if over else ""


def _title(figure: Figure, title: str) -> None:
    if title:
        figure.suptitle(literal(title), fontsize=11)


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
