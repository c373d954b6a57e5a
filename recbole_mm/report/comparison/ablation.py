"""What the ablation of a comparison found, in words and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recbole_mm.report.comparison.sentences import signed_number
from recbole_mm.report.plots import literal
from recbole_mm.report.render import is_different, metric_title, smaller_is_better

__all__ = ["Change", "changes", "draw_changes", "reading", "sentence"]

_WORSE, _ELSE = "#D55E00", "#8DBFDF"


@dataclass(frozen=True)
class Change:
    """What became of a model's metric in one variant.

    Attributes:
        variant: What differs, such as ``without image`` or ``image permuted``.
        difference: Variant minus model: over the users where they were kept, else of the means.
        low: Lower end of the 95 % interval; NaN where there is none.
        high: Upper end.
        worse: Whether both tests find the variant worse, after correction.
    """

    variant: str
    difference: float
    low: float
    high: float
    worse: bool

    @property
    def label(self) -> str:
        """The variant as it is said: ``image rows permuted``."""
        return self.variant.replace(" permuted", " rows permuted")

    def __str__(self) -> str:
        return f"{self.label}: {signed_number(self.difference, (self.difference, self.low, self.high))}"


def changes(table: pd.DataFrame, metric: str) -> dict[str, list[Change]]:
    """The changes of one metric, by model.

    Args:
        table: From :func:`~recbole_mm.report.table.make_table`.
        metric: Name of the metric.

    Returns:
        Model to its variants, in the order of the table; models without one are left out.
    """
    plain = {line["model"]: line for _, line in table.iterrows() if not line["variant"]}
    found: dict[str, list[Change]] = {}
    for _, line in table.iterrows():
        own = plain.get(line["model"])
        if not line["variant"] or own is None or pd.isna(line[metric]) or pd.isna(own[metric]):
            continue
        difference, low, high = (float(line[f"{metric}_difference{end}"]) for end in ("", "_low", "_high"))
        if math.isnan(difference):
            difference = float(line[metric] - own[metric])
        worse = is_different(line, metric) and (difference > 0) == smaller_is_better(metric)
        found.setdefault(line["model"], []).append(Change(line["variant"], difference, low, high, worse))
    return found


def sentence(found: Sequence[Change]) -> str:
    """The changes of a model in a line: ``without image: -.021; image rows permuted: -.019``."""
    return "; ".join(map(str, found))


def reading(found: Sequence[Change]) -> str:
    """What the permuted rows say about a model: which modalities it relies on, and which might be anybody's."""
    permuted = [change for change in found if change.variant.endswith(" permuted")]
    used = [change.variant[: -len(" permuted")] for change in permuted if change.worse]
    rest = [change.variant[: -len(" permuted")] for change in permuted if not change.worse]
    parts = [f"It relies on its {_listed(used)} rows."] if used else []
    if rest:
        parts.append(f"No loss can be told where its {_listed(rest)} rows are those of other items.")
    return " ".join(parts)


def draw_changes(found: dict[str, list[Change]], metric: str, title: str = "") -> Figure:
    """A bar per variant, from the model's own score at zero, with 95 % intervals.

    Args:
        found: From :func:`changes`.
        metric: Its name, for the axis.
        title: What stands above.

    Returns:
        The figure; variants that are worse are in another colour and have a star at their name.
    """
    places: list[float] = []
    names: list[str] = []
    heads: list[int] = []
    place = 0.0
    figure = Figure(figsize=(7.6, 0.9 + 0.3 * sum(len(part) + 1.2 for part in found.values())), layout="constrained")
    axis = figure.subplots()
    for model, part in found.items():
        heads.append(len(places))
        places.append(place)
        names.append(literal(model))
        place += 1
        for change in part:
            axis.barh(place, change.difference, color=_WORSE if change.worse else _ELSE, height=0.7)
            if not math.isnan(change.low):
                error = [[change.difference - change.low], [change.high - change.difference]]
                axis.errorbar(change.difference, place, xerr=error, color="black", capsize=3, linewidth=1.2)
            places.append(place)
            names.append(literal(change.label) + ("*" if change.worse else ""))
            place += 1
        place += 0.2
    axis.set_yticks(places, names)
    for head in heads:
        axis.get_yticklabels()[head].set_fontweight("bold")
    axis.set_ylim(place - 0.4, -0.7)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_xlabel(literal(f"change of {metric_title(metric)}"))
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.margins(x=0.06)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#D9D9D9", linewidth=0.8)
    axis.set_axisbelow(True)
    if title:
        figure.suptitle(literal(title), fontsize=11)
    return figure


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
