"""What counts as a number in an option."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["LARGEST", "is_finite", "is_whole"]

#: Nothing is counted beyond this; a larger number would overflow somewhere in torch, late and in its words.
LARGEST = 2**31 - 1


def is_finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold; ``True`` and ``False`` are none.

    Example:
        >>> is_finite(0.5), is_finite(10**400), is_finite(True)
        (True, False, False)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_whole(value: Any, least: float, most: float = LARGEST) -> bool:
    """Whether a value is an integer in a range; ``True`` and ``False`` are none.

    Example:
        >>> is_whole(3, 1), is_whole(3.0, 1), is_whole(10**12, 1)
        (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
