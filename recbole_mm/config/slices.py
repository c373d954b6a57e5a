"""The options of sliced metrics: which parts of the evaluation to report, and what the long tail is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from recbole_mm.config.names import suggest
from recbole_mm.config.numbers import is_finite

__all__ = ["DEFAULT_TAIL", "SLICES", "SLICE_KEY", "check_slices", "slice_names", "tail_share"]

#: Every slice, in the order of the tables.
SLICES = ("all", "warm_users", "cold_users", "tail_users", "warm_items", "cold_items", "tail_items")
#: Share of the training interactions that makes the long tail, where ``slice_tail`` is not set.
DEFAULT_TAIL = 0.2
#: A metric of a slice, such as ``recall@10[cold_items]`` or, of a random ranking, ``recall@10[cold_items,random]``.
SLICE_KEY = re.compile(r"(?P<metric>[^\[\]]+)\[(?P<slice>[^\[\],]+)(?P<random>,random)?\]")


def slice_names(value: Any) -> tuple[str, ...]:
    """The option ``slices`` as names: ``~``, ``False`` and ``[]`` are none, ``True`` is every slice.

    Args:
        value: The option; a text is split at its commas.

    Raises:
        ValueError: An unknown name, one given twice, or something else than names.

    Example:
        >>> slice_names("warm_items, cold_items")
        ('warm_items', 'cold_items')
    """
    if value is None or value is False:
        return ()
    if value is True:
        return SLICES
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise ValueError(
            f"slices: expected True (every slice) or a list out of {', '.join(SLICES)}; ~ for none; got {value!r}."
        )
    for name in value:
        if name not in SLICES:
            raise ValueError(f"slices: unknown slice {name!r}.{suggest(name, SLICES)} There are {', '.join(SLICES)}.")
    if len(set(value)) != len(value):
        raise ValueError(f"slices: every slice once, got {list(value)!r}.")
    return tuple(value)


def tail_share(value: Any) -> float:
    """The option ``slice_tail``; ``~`` is the default.

    Raises:
        ValueError: No number between 0 and 1.
    """
    if value is None:
        return DEFAULT_TAIL
    number = is_finite(value)
    if not number or not 0 < value < 1:
        raise ValueError(
            "slice_tail: expected a share of the training interactions above 0 and below 1, such as 0.2, "
            f"got {value!r} ({type(value).__name__})."
        )
    return float(value)


def check_slices(options: Mapping[str, Any]) -> None:
    """Check that a ``valid_metric`` of a slice names one that is asked for.

    Args:
        options: Merged options.

    Raises:
        ValueError: The validation metric names a slice that ``slices`` does not list, or a random ranking.
    """
    names, metric = slice_names(options.get("slices")), options.get("valid_metric")
    if not isinstance(metric, str) or "[" not in metric:
        return
    found = SLICE_KEY.fullmatch(metric.lower())
    if found is None or found["random"] or "@" not in found["metric"]:
        raise ValueError(
            f"valid_metric: a metric of a slice is written like Recall@20[cold_items], got {metric!r}; the score of a "
            "random ranking cannot choose a model."
        )
    if found["slice"] not in names:
        raise ValueError(
            f"valid_metric: {metric} needs the slice {found['slice']!r}, and slices has {', '.join(names) or 'none'}."
            f"{suggest(found['slice'], SLICES)} Add it to slices, or choose another validation metric."
        )
