"""The one split that general and sequential models can be compared under: the last item of each user, by time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_mm.data.atomic import read_header

__all__ = ["force_leave_one_out"]

_LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
_ENOUGH = "[4,inf)"


def force_leave_one_out(shared: dict[str, Any], given: Mapping[str, Any], reference: Any) -> list[str]:
    """Settle the split by time that leaves out each user's last items, with enough items a user to do so.

    Args:
        shared: The options that decide what is compared; changed in place.
        given: What the caller set.
        reference: The options of the model that sets the evaluation.

    Returns:
        What was settled, for the caller.

    Raises:
        ValueError: The caller's options, or the data, allow no such split.
    """
    asked = given.get("eval_args") or {}
    for key, value in _LEAVE_ONE_OUT.items():
        got = asked.get(key, value)
        if key == "mode" and isinstance(got, Mapping):
            got = value if set(got.values()) == {value} else got
        if got != value:
            raise ValueError(
                f"General and sequential models can be compared under one split only: eval_args with {key}: "
                f"{value!r}, and got {key}: {got!r}. Leave eval_args out, or compare the two kinds separately."
            )
    if shared["benchmark_filename"]:
        raise ValueError(
            "General and sequential models cannot share the split of "
            f"benchmark_filename={shared['benchmark_filename']}: a sequential model needs its histories in the files. "
            "Compare the two kinds separately."
        )
    field, header = reference["TIME_FIELD"], _header(Path(reference["data_path"]), reference)
    if header is not None and field not in header:
        raise ValueError(
            f"Sequential models need a time field, and the interactions of {reference['dataset']} have no {field!r} "
            f"(they have {', '.join(sorted(header))}). Leave the sequential models out."
        )
    load_col = (given.get("load_col") or {}).get("inter")
    if load_col is not None and field not in load_col:
        raise ValueError(f"Sequential models need the time field {field!r}; add it to load_col: {{inter: {load_col}}}.")
    shared["eval_args"] = dict(_LEAVE_ONE_OUT)
    notes = [
        "General and sequential models are compared under one split: the last item of each user is for the test, the "
        "one before for validation, by time. Sequential models are masked like general ones: no item of the user's "
        "past is recommended."
    ]
    # A filter of the caller, or of the data set's own yaml, stays; whether it is enough, the hash of the split tells.
    if shared["user_inter_num_interval"] in (None, "[0,inf)"):
        shared["user_inter_num_interval"] = _ENOUGH
        notes.append(
            f"Users with fewer than four interactions are left out (user_inter_num_interval={_ENOUGH}): a sequential "
            "model cannot split them as a general one does."
        )
    return notes


def _header(folder: Path, config: Any) -> set[str] | None:
    file = folder / f"{config['dataset']}.inter"
    if not file.is_file():  # RecBole downloads it later, or says that it is missing
        return None
    return set(read_header(file, str(config["field_separator"]), str(config["encoding"] or "utf-8")))
