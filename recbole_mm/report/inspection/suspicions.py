"""What looks wrong in the numbers of an inspection, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["SUSPICIOUS", "suspicions"]

SUSPICIOUS = 3.0
"""Alignment below which rows look shuffled or say nothing."""


def suspicions(modalities: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for everything that looks wrong.

    Args:
        modalities: Modality to what was measured of it.
    """
    lines = []
    for modality, numbers in modalities.items():
        if numbers["with"] == 0 and numbers["not_finite"]:
            lines.append(f"{modality}: all {numbers['rows']:,} rows have NaN or infinite values; none can be used.")
            continue
        if numbers["with"] == 0:
            lines.append(f"{modality}: no row matches an item; ids of the file and of the data set differ.")
            continue
        z, rows = numbers["alignment"]["z"], numbers["rows"]
        told = {
            f"items taken together are no more alike than shuffled rows (z {z:.1f}, real features have 10 and more); "
            "the rows look shuffled, or they say nothing about taste.": z < SUSPICIOUS,
            f"{numbers['unmatched']:,} rows match no item, more than match one.": numbers["unmatched"]
            > numbers["with"],
            f"{numbers['not_finite']:,} rows have NaN or infinite values, which training refuses.": numbers[
                "not_finite"
            ],
            f"{numbers['zero_rows']:,} rows are all zero; leave them out, so that they count as missing.": (
                numbers["zero_rows"]
            ),
            f"{numbers['duplicate_rows']:,} of {rows:,} rows equal an earlier one.": (
                numbers["duplicate_rows"] > 0.1 * rows
            ),
            f"effective rank {numbers['effective_rank']:.1f}; all vectors are nearly the same.": (
                numbers["effective_rank"] < 3 and rows > 10
            ),
        }
        lines += [f"{modality}: {text}" for text, true in told.items() if true]
    return lines
