"""RecBole's options about columns of the atomic files: a text where a list is expected is read letter by letter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_mm.config.names import suggest
from recbole_mm.config.numbers import is_whole
from recbole_mm.config.refusals import Check, mapping, refuse

__all__ = ["COLUMN_CHECKS", "check_transform"]

_NEEDED = {"mask_itemseq": "mask_ratio", "crop_itemseq": "crop_eta", "reorder_itemseq": "reorder_beta"}
_TRANSFORMS = (*_NEEDED, "inverse_itemseq", "user_defined")


def check_transform(options: Mapping[str, Any]) -> None:
    """Check the option ``transform``, and that its own option is there.

    Args:
        options: Merged options.

    Raises:
        ValueError: There is no such transform, or it lacks its option.
    """
    name = options.get("transform")
    if name is not None and name not in _TRANSFORMS:
        hint = suggest(str(name), _TRANSFORMS)
        raise ValueError(f"transform: expected one of {', '.join(_TRANSFORMS)}, or ~, got {name!r}.{hint}")
    needed = _NEEDED.get(str(name))
    if needed is not None and options.get(needed) is None:
        raise ValueError(f"transform: {name} needs the option {needed}, a share of the history such as {needed}: 0.2.")


def _names(text_too: bool = False) -> Check:
    def check(key: str, value: Any) -> None:
        if value is None or (text_too and isinstance(value, str)):
            return
        if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) and name for name in value):
            raise ValueError(f"{key}: expected a list of names such as [age, price], or ~, got {value!r}.")

    return check


def _name(key: str, value: Any) -> None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        refuse(key, "the name of a column", value)


def _separator(key: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        refuse(key, "a character such as ',' or '\\t'", value)


def _lengths(key: str, value: Any) -> None:
    mapping("{history: 50}")(key, value)
    for name, length in (value or {}).items():
        if not is_whole(length, 1):
            raise ValueError(f"{key}[{name}]: expected an integer of at least 1, got {length!r}.")


def _discretization(key: str, value: Any) -> None:
    mapping("{price: {method: ED, bucket: 10}}")(key, value)
    for name, how in (value or {}).items():
        if not isinstance(how, Mapping) or how.get("method") not in ("ED", "LD"):
            raise ValueError(f"{key}[{name}]: expected {{method: ED, bucket: 10}} or {{method: LD}}, got {how!r}.")
        if how["method"] == "ED" and not is_whole(how.get("bucket"), 1):
            raise ValueError(f"{key}[{name}][bucket]: expected an integer of at least 1, got {how.get('bucket')!r}.")


def _truth_or_none(key: str, value: Any) -> None:
    if value is not None and not isinstance(value, bool):
        refuse(key, "True or False (without quotes)", value)


_FIELDS = (
    "USER_ID_FIELD", "ITEM_ID_FIELD", "RATING_FIELD", "TIME_FIELD", "LABEL_FIELD", "NEG_PREFIX", "LIST_SUFFIX",
    "ITEM_LIST_LENGTH_FIELD", "POSITION_FIELD", "HEAD_ENTITY_ID_FIELD", "TAIL_ENTITY_ID_FIELD", "RELATION_ID_FIELD",
    "ENTITY_ID_FIELD",
)  # fmt: skip

#: Checks by option, as :func:`recbole_mm.config.ranges.check_ranges` makes them.
COLUMN_CHECKS: dict[str, Check] = {
    **dict.fromkeys(_FIELDS, _name),
    **{f"alias_of_{field}": _names() for field in ("user_id", "item_id", "entity_id", "relation_id")},
    "numerical_features": _names(),
    "normalize_field": _names(),
    "normalize_all": _truth_or_none,
    "additional_feat_suffix": _names(text_too=True),
    "discretization": _discretization,
    "seq_len": _lengths,
    "preload_weight": mapping("{item_id: emb}"),
    "unused_col": mapping("{inter: [timestamp]}"),
    "field_separator": _separator,
    "seq_separator": _separator,
}
