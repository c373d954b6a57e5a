"""How long something will take, in words."""

from __future__ import annotations

__all__ = ["duration"]


def duration(seconds: float) -> str:
    """A length of time in the unit in which people say it.

    Args:
        seconds: The length.

    Example:
        >>> [duration(seconds) for seconds in (0.4, 59, 160, 7000, 500_000)]
        ['1 s', '59 s', '3 min', '1 h 57 min', '5 d 18 h']
    """
    if seconds < 60:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{max(minutes, 1)} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
