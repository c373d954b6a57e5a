"""Results that hold metrics of slices: their keys, and tables of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from recbole_mm.config.slices import SLICE_KEY

__all__ = ["SlicedResult", "slice_rows", "slice_table", "split_result"]

#: What is known of a slice besides its metrics.
COUNTS = ("cases", "positives")
_METRICS_A_TABLE = 5


class SlicedResult(OrderedDict[str, Any]):
    """RecBole's result with metrics of slices, which says why one is missing."""

    def __missing__(self, key: str) -> Any:
        found = SLICE_KEY.fullmatch(str(key))
        if found and self.get(f"cases[{found['slice']}]") == 0:
            raise KeyError(
                f"{key}: no case of this evaluation is in the slice {found['slice']!r}, so it has no score. Choose "
                "another validation metric, or a split that has such users or items."
            )
        raise KeyError(f"{key}; there is {', '.join(self)}")


def split_result(result: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """RecBole's own metrics, and those of the slices.

    Example:
        >>> split_result({"recall@10": 0.3, "cases[all]": 9})
        ({'recall@10': 0.3}, {'cases[all]': 9})
    """
    sliced = {key: value for key, value in result.items() if SLICE_KEY.fullmatch(key)}
    return {key: value for key, value in result.items() if key not in sliced}, sliced


def slice_rows(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The metrics of each slice, by name; those of a random ranking are called ``<metric>,random``.

    Example:
        >>> slice_rows({"recall@10": 0.3, "cases[all]": 9, "recall@10[all]": 0.3, "recall@10[all,random]": 0.1})
        {'all': {'cases': 9, 'recall@10': 0.3, 'recall@10,random': 0.1}}
    """
    rows: dict[str, dict[str, Any]] = {}
    for key, value in result.items():
        found = SLICE_KEY.fullmatch(key)
        if found:
            rows.setdefault(found["slice"], {})[found["metric"] + (found["random"] or "")] = value
    return rows


def slice_table(result: Mapping[str, Any], places: int = 4) -> str:
    """The slices side by side as text: a line a slice, each metric followed by that of a random ranking.

    Args:
        result: RecBole's result; may be one without slices.
        places: Decimal places of the metrics.

    Returns:
        The table, in blocks of five metrics; empty where there is no slice.
    """
    rows = slice_rows(result)
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    metrics = [name for name in names if name not in COUNTS and not name.endswith(",random")]
    blocks = [metrics[start : start + _METRICS_A_TABLE] for start in range(0, len(metrics), _METRICS_A_TABLE)]
    return "\n\n".join("\n".join(_lines(rows, block, places)) for block in (blocks or [[]] if rows else []))


def _lines(rows: Mapping[str, Mapping[str, Any]], metrics: list[str], places: int) -> Iterator[str]:
    yield f"{'slice':12}{'cases':>9}{'positives':>11}" + "".join(f"{name:>14}{'random':>9}" for name in metrics)
    for slice_name, row in rows.items():
        cells = [
            f"{row[metric]:.{places}f}" if metric in row else "-" for m in metrics for metric in (m, f"{m},random")
        ]
        widths = [14, 9] * len(metrics)
        counts = f"{slice_name:12}{row['cases']:>9,}{row['positives']:>11,}"
        yield counts + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths))
