"""Objects inside the cells of a table, as logs of events have them: their parts are named ``user.id``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["is_object", "part", "part_names"]


def part_names(record: Mapping[str, Any]) -> Iterator[str]:
    """Names of all that stands in objects of a record, with dots between the keys.

    Example:
        >>> list(part_names({"ts": 1, "user": {"id": "u1", "home": {"country": "FR"}}}))
        ['user.id', 'user.home.country']
    """
    for key, value in record.items():
        if isinstance(value, dict):
            inner = (*(k for k, v in value.items() if not isinstance(v, dict)), *part_names(value))
            yield from (f"{key}.{name}" for name in inner)


def part(record: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or of a part of an object; ``None`` where the record lacks it.

    A key that has dots itself comes before the parts that could be meant.

    Example:
        >>> part({"user": {"id": "u1"}}, "user.id"), part({"user.id": "u2"}, "user.id"), part({"user": None}, "user.id")
        ('u1', 'u2', None)
    """
    if name in record:
        return record[name]
    for dot in re.finditer(r"\.", name):
        inner = record.get(name[: dot.start()])
        if isinstance(inner, dict):
            return part(inner, name[dot.end() :])
    return None


def is_object(text: str) -> bool:
    """Whether a text is a JSON object; an id such as ``{3f2504e0}`` is none."""
    if not (text.startswith("{") and text.endswith("}")):
        return False
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
