"""The option ``cold_start``: which users or items are new at evaluation, and what is asked about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from recbole_mm.config.names import suggest
from recbole_mm.config.numbers import is_finite, is_whole

__all__ = ["ColdStart", "ColdStartOptions", "read_cold_start"]

_CHOICES = {
    "entity": ("user", "item"),
    "by": ("ratio", "time"),
    "evaluate": ("cold", "warm", "all"),
    "candidates": ("cold", "warm", "all"),
}
_SHAPE = "a mapping such as {entity: user, by: ratio, ratio: 0.2}, or ~"


@dataclass(frozen=True)
class ColdStart:
    """The option with its defaults filled in.

    Attributes:
        entity: ``user`` or ``item``: what is new.
        by: ``ratio``, a random share, or ``time``, those whose first interaction is the latest.
        ratio: Share of the users or items that are new, above 0 and below 1.
        evaluate: Whose rows are evaluated: those of the new (``cold``) users or items, of the other ones (``warm``), or
            ``all``.
        support: New users only. Number of their first interactions that are known at evaluation; ``None`` is all but
            the last two.
        candidates: New items only. What is ranked: the new items, the other ones, or all.
        seed: Of the random share; ``None`` is RecBole's ``seed``.
    """

    entity: str
    by: str = "ratio"
    ratio: float = 0.2
    evaluate: str = "cold"
    support: int | None = None
    candidates: str = "all"
    seed: int | None = None


class ColdStartOptions(dict):
    """The option as it was given, inside a Config.

    A pickled Config names this class, so that reading the checkpoint of any model that was trained under a cold-start
    protocol, RecBole's own included, imports recbole_mm, without which the split would be RecBole's usual one.
    """


def read_cold_start(value: Any, option: str = "cold_start") -> ColdStart | None:
    """Check the option and fill in its defaults.

    Args:
        value: The value of the option.
        option: Its name, for the messages.

    Returns:
        The protocol, or ``None`` for ``~``.

    Raises:
        ValueError: Not a mapping, an unknown or contradictory key, or a value out of range.

    Example:
        >>> read_cold_start({"entity": "item", "candidates": "warm"}).evaluate
        'warm'
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        hint = " (in a shell: --cold_start=\"{'entity': 'user'}\")" if isinstance(value, str) else ""
        raise ValueError(f"{option}: expected {_SHAPE}{hint}, got {value!r}.")
    known = [field.name for field in fields(ColdStart)]
    for key in value:
        if key not in known:
            raise ValueError(
                f"{option}: unknown key {key!r}.{suggest(str(key), known)} The keys are {', '.join(known)}."
            )
    if "entity" not in value:
        raise ValueError(f"{option}: expected {_SHAPE}, got {dict(value)!r} without entity: user or item.")
    given = dict(value)
    for key, allowed in _CHOICES.items():
        if key in given and given[key] not in allowed:
            raise ValueError(
                f"{option}[{key}]: expected one of {', '.join(allowed)}, got {given[key]!r}."
                + suggest(str(given[key]), allowed)
            )
    other = {"user": "candidates", "item": "support"}[given["entity"]]
    if other in given:
        owner = "item" if given["entity"] == "user" else "user"
        raise ValueError(f"{option}[{other}]: only entity: {owner} has it, and the entity is {given['entity']}.")
    _check_numbers(given, option)
    if given.get("candidates") == "warm":
        given.setdefault("evaluate", "warm")
    protocol = ColdStart(**given)
    if protocol.candidates not in ("all", protocol.evaluate):
        raise ValueError(
            f"{option}: evaluate: {protocol.evaluate} asks for items that candidates: {protocol.candidates} leaves "
            f"out; choose candidates: {protocol.evaluate} or all."
        )
    return protocol


def _check_numbers(given: Mapping[str, Any], option: str) -> None:
    ratio = given.get("ratio", 0.2)
    if not is_finite(ratio) or not 0 < ratio < 1:
        raise ValueError(f"{option}[ratio]: expected a number above 0 and below 1, got {ratio!r}.")
    for key, least in (("support", 1), ("seed", 0)):
        value = given.get(key)
        if value is not None and not is_whole(value, least, 2**32 - 1):
            raise ValueError(f"{option}[{key}]: expected an integer of at least {least}, or ~, got {value!r}.")
