"""RecBole's options that are mappings: it drops keys that it does not know and goes on with its defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from recbole_mm.config.names import suggest
from recbole_mm.config.numbers import is_finite, is_whole

__all__ = ["check_eval_args", "check_mode", "check_negatives"]

_LEAVE_OUT = ("valid_and_test", "valid_only", "test_only")
_STEEPEST = 10  # popularity to a higher power is 0 in floating-point numbers
_MODES = "full, labeled, uniN or popN (such as uni100)"


def check_eval_args(key: str, value: Any) -> None:
    """Check the option ``eval_args``: split, order, grouping and candidates.

    Args:
        key: Its name, for the messages.
        value: Its value.

    Raises:
        ValueError: No mapping, an unknown key, shares that are none, or a mode that does not exist.
    """
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{key}: expected a mapping such as {{split: {{RS: [0.8, 0.1, 0.1]}}, order: RO}}, got {value!r}."
        )
    _known(key, value, ("split", "order", "group_by", "mode"))
    if value.get("split") is not None:
        _check_split(f"{key}[split]", value["split"])
    for name, allowed in (("order", ("RO", "TO")), ("group_by", ("user", None, "none", "None"))):
        if name in value and value[name] not in allowed:
            there = ", ".join(str(entry) for entry in allowed[:2])
            hint = suggest(str(value[name]), ["RO", "TO", "user"])
            raise ValueError(f"{key}[{name}]: expected one of {there}, got {value[name]!r}.{hint}")
    if "mode" in value:
        modes = value["mode"]
        if isinstance(modes, Mapping):
            _known(f"{key}[mode]", modes, ("valid", "test"))
        for mode in modes.values() if isinstance(modes, Mapping) else [modes]:
            check_mode(key, mode)


def check_mode(key: str, mode: Any) -> None:
    """Check a mode of evaluation.

    Raises:
        ValueError: No such mode, or no sampled candidate at all.
    """
    sampled = isinstance(mode, str) and mode[:3] in ("uni", "pop") and mode[3:].isdigit()
    if mode not in ("full", "labeled") and not sampled:
        raise ValueError(
            f"{key}: mode expected {_MODES}, got {mode!r}."
            + suggest(str(mode), ["full", "labeled", "uni100", "pop100"])
        )
    if sampled and int(mode[3:]) < 1:
        raise ValueError(
            f"{key}: mode {mode} ranks every positive alone, so that every model is perfect; expected {_MODES}."
        )


def check_negatives(key: str, value: Any) -> None:
    """Check the option ``train_neg_sample_args``.

    Args:
        key: Its name, for the messages.
        value: Its value; ``None`` is no sampling.

    Raises:
        ValueError: No mapping, an unknown key or a value that its key does not allow.
    """
    if value is None or value == "None":
        return
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{key}: expected a mapping such as {{distribution: uniform, sample_num: 1}} or ~, got {value!r}."
        )
    _known(key, value, ("distribution", "sample_num", "alpha", "dynamic", "candidate_num"))
    kinds = ("uniform", "popularity", "none", "None", None)
    if "distribution" in value and value["distribution"] not in kinds:
        got = value["distribution"]
        raise ValueError(
            f"{key}[distribution]: expected uniform or popularity, got {got!r}.{suggest(str(got), kinds[:2])}"
        )
    for name, least in (("sample_num", 1), ("candidate_num", 0)):
        got = value.get(name, "none")
        if got != "none" and not is_whole(got, least):
            raise ValueError(f"{key}[{name}]: expected an integer of at least {least}, got {got!r}.")
    alpha = value.get("alpha", "none")
    if alpha != "none" and not (_finite(alpha) and alpha <= _STEEPEST):
        raise ValueError(f"{key}[alpha]: expected a finite number from 0 to {_STEEPEST}, got {alpha!r}.")
    if not isinstance(value.get("dynamic", False), bool):
        raise ValueError(f"{key}[dynamic]: expected True or False (without quotes), got {value['dynamic']!r}.")
    if value.get("dynamic") and value.get("candidate_num") == 0:
        raise ValueError(f"{key}: dynamic chooses among candidate_num negatives, got 0; give 1 at least.")


def _check_split(key: str, split: Any) -> None:
    if not isinstance(split, Mapping) or len(split) != 1:
        raise ValueError(
            f"{key}: expected one of {{RS: [0.8, 0.1, 0.1]}} (shares) and {{LS: valid_and_test}} (leave one out), got "
            f"{split!r}."
        )
    _known(key, split, ("RS", "LS"))
    ((kind, value),) = split.items()
    if kind == "LS":
        if value not in _LEAVE_OUT:
            raise ValueError(
                f"{key}[LS]: expected one of {', '.join(_LEAVE_OUT)}, got {value!r}.{suggest(str(value), _LEAVE_OUT)}"
            )
        return
    shares = list(value) if isinstance(value, (list, tuple)) else []
    if len(shares) != 3 or not all(_finite(share) for share in shares) or not shares[0] > 0:
        raise ValueError(
            f"{key}[RS]: expected three shares of at least 0 for training (above 0), validation and test, such as "
            f"[0.8, 0.1, 0.1], got {value!r}."
        )


def _finite(value: Any) -> bool:
    return is_finite(value) and value >= 0


def _known(key: str, value: Mapping[Any, Any], names: Iterable[str]) -> None:
    names = list(names)
    for name in value:
        if name not in names:
            raise ValueError(
                f"{key}: unknown key {name!r}, which RecBole would drop.{suggest(str(name), names)} The keys are "
                f"{', '.join(names)}."
            )
