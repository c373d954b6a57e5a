"""The option ``health``: which signs of a training gone wrong are looked for."""

from __future__ import annotations

from typing import Any

from recbole_mm.config.names import suggest

__all__ = ["ALARMS", "health_alarms"]

#: Every alarm and what sets it off.
ALARMS = {
    "loss": "the ranking loss is still at its untrained value, and validation, if popularity has one, below it",
    "gradient": "a part of the loss that does not rank has over 99% of the gradient of shared parameters",
    "modality_gradient": "the parameters of a modality get no gradient",
    "dead_modality": "permuting a modality's rows changes no list of a sample of validation users",
    "popularity": "everybody gets the same items",
    "collapse": "representations, or the scores of different users, lie in a point or on a line",
    "idle_part": "clusters that hold everything, or gates, attention and edge weights that are all equal",
    "first_epoch": "validation was best at the start and fell ever since, or lost a tenth after the first two epochs",
    "few_steps": "an epoch has fewer than four steps, and ten epochs or more came to fewer than 300",
    "pop": "a ranking by popularity does better on the same validation",
}


def health_alarms(value: Any) -> tuple[str, ...]:
    """The option as names: ``True`` and ``on`` are every alarm, ``False`` and ``off`` none.

    Args:
        value: The option; ``~`` is the default, every alarm. A text is split at its commas.

    Raises:
        ValueError: An unknown name, or something else than names.

    Example:
        >>> health_alarms("pop, loss")
        ('pop', 'loss')
    """
    if value is None or value is True or value == "on":
        return tuple(ALARMS)
    if value is False or value == "off":
        return ()
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"health: expected True (on), False (off) or names out of {', '.join(ALARMS)}, got {value!r} "
            f"({type(value).__name__})."
        )
    for name in names:
        if name not in ALARMS:
            raise ValueError(f"health: unknown alarm {name!r}.{suggest(name, ALARMS)} There are {', '.join(ALARMS)}.")
    return tuple(dict.fromkeys(names))
