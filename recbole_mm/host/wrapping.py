"""The one way in which a function of RecBole is wrapped."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["wrap"]


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Let ``around`` answer the calls of a function; wrapping it again does nothing.

    Args:
        owner: The class or module that holds it.
        name: Its name there.
        around: Called with the original function and then the arguments of the call.
    """
    original = getattr(owner, name)
    if hasattr(original, "_recbole_mm"):
        return

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    wrapped._recbole_mm = True  # type: ignore[attr-defined]
    setattr(owner, name, wrapped)
