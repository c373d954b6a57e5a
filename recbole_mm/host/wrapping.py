"""The one way in which a function of RecBole is wrapped."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["wrap"]


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Let ``around`` answer the calls of a function.

    Several of them stack: the last one is called first, and the function that it gets is the one before. The same one
    twice does nothing, so that installing twice is installing once.

    Args:
        owner: The class or module that holds it.
        name: Its name there.
        around: Called with the original function and then the arguments of the call.
    """
    original = getattr(owner, name)
    before: tuple[Callable[..., Any], ...] = getattr(original, "_arounds", ())
    if any(_is_same(around, other) for other in before):
        return

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    wrapped._arounds = (*before, around)  # type: ignore[attr-defined]
    setattr(owner, name, wrapped)


def _is_same(one: Any, other: Any) -> bool:
    """Whether two are one function, or made by one line of code with the same values around it."""
    if one is other:
        return True
    parts = [(getattr(entry, "__code__", entry), getattr(entry, "__closure__", None) or ()) for entry in (one, other)]
    (code, cells), (other_code, other_cells) = parts
    return code is other_code and [cell.cell_contents for cell in cells] == [cell.cell_contents for cell in other_cells]
