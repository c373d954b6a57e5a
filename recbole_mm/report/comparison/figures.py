"""Pictures inside a page: SVG that takes its colours of ink, lines and paper from the page, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import pandas as pd
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure

from recbole_mm.report.comparison.ablation import changes, draw_changes
from recbole_mm.report.plots import draw_curves, draw_metrics, draw_time, has_curves
from recbole_mm.report.table import Row

__all__ = ["figures", "to_svg"]

_COLOURS = {"#000000": "currentColor", "#d9d9d9": "var(--line)", "#ffffff": "var(--page)"}


def figures(rows: Sequence[Row], table: pd.DataFrame, baseline: str | None, metric: str) -> dict[str, list[Markup]]:
    """Every picture of a comparison that its results allow.

    Args:
        rows: Rows of the table.
        table: The table.
        baseline: Name of the baseline.
        metric: The metric of the ablation.

    Returns:
        ``metrics`` (one a metric), ``curves``, ``time`` and ``ablation`` to their pictures; empty lists where there is
        nothing to draw.
    """
    done = [row for row in rows if row.records]
    plain = [row for row in done if not row.variant]
    curved = [row for row in plain if has_curves(row)]
    changed = changes(table, metric) if done else {}
    bars = [(name, draw_metrics(plain, baseline, [name])) for name in plain[0].metrics()] if plain else []
    label = f"Change of {metric} in each variant"
    return {
        "metrics": [to_svg(figure, f"Test {name} of each model", f"m{n}") for n, (name, figure) in enumerate(bars)],
        "curves": [to_svg(draw_curves(curved), "Validation metric against epochs", "c")] if curved else [],
        "time": [to_svg(draw_time(plain), "Test metric against training time", "t")] if plain else [],
        "ablation": [to_svg(draw_changes(changed, metric), label, "a")] if changed else [],
    }


def to_svg(figure: Figure, label: str, prefix: str) -> Markup:
    """A figure as markup to stand in a page.

    Letters are outlines, so the picture needs no font. Black becomes the page's ink.

    Args:
        figure: The figure.
        label: What a screen reader says.
        prefix: What distinguishes its inner names from those of other pictures of the page.

    Returns:
        An ``svg`` element.
    """
    buffer = io.StringIO()
    # With a salt of its own, and without the date, the same results give the same page.
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": prefix}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = re.sub("|".join(_COLOURS), lambda found: _COLOURS[found[0].lower()], text, flags=re.IGNORECASE)
    # The size in points would hold on narrow screens too; the shape stays in viewBox. Names of XML are HTML's own.
    text = re.sub(r' (?:width|height)="[\d.]+pt"| xmlns(?::\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))
