"""What is said of a value that an option cannot have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

__all__ = ["Check", "mapping", "refuse"]

Check = Callable[[str, Any], None]


def refuse(key: str, expected: str, value: Any, hint: str = "") -> None:
    """Say what was expected and what was got.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"{key}: expected {expected}, got {value!r} ({type(value).__name__}).{hint}")


def mapping(example: str) -> Check:
    """A check for a mapping, or nothing."""

    def check(key: str, value: Any) -> None:
        if value is not None and not isinstance(value, Mapping):
            refuse(key, f"a mapping such as {example}, or ~", value)

    return check
