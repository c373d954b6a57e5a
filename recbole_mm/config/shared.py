"""The options that every multimodal model understands, and what their values may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Callable

from recbole_mm.config.cold_start import read_cold_start
from recbole_mm.config.graph_batch import GRAPH_BATCHES, OUTER_PROJECTIONS, TABLE_UPDATES, check_fanout
from recbole_mm.config.health import health_alarms
from recbole_mm.config.names import suggest
from recbole_mm.config.numbers import is_finite, is_whole
from recbole_mm.config.slices import check_slices, slice_names, tail_share

__all__ = [
    "COLD_FEATURES",
    "DENSE_BACKENDS",
    "FEATURE_DTYPES",
    "FEATURE_NORMS",
    "FOLDERS",
    "NEGATIVE_ITEMS",
    "MISSING_FEATURES",
    "SHARED_OPTIONS",
    "active_weights",
    "check_count",
    "check_modalities",
    "check_shared",
    "modality_names",
]

FEATURE_NORMS = ("auto", "none", "l2", "zscore", "zscore_l2")
MISSING_FEATURES = ("zero", "mean", "knn", "error", "drop")
NEGATIVE_ITEMS = ("seen", "all")
COLD_FEATURES = ("inductive", "transductive")
DENSE_BACKENDS = ("auto", "torch", "onednn")
_MEAN_OF_ALL = 0.5  # the share of a training that lies behind the middle of it
#: Options that say where data are, not what is computed with them.
FOLDERS = ("data_path", "feature_path", "feature_disk")
FEATURE_DTYPES = ("float16", "bfloat16", "float32")  # the models compute in float32, so wider tables gain nothing


def check_shared(options: Mapping[str, Any]) -> None:
    """Check the value of every shared option in ``options``.

    Args:
        options: Merged options; keys that are absent are not looked at.

    Raises:
        ValueError: A value of the wrong type or out of range, with the nearest allowed name.
    """
    for key, check in SHARED_OPTIONS.items():
        if key in options:
            check(key, options[key])
    check_slices(options)
    names = modality_names(options.get("modalities"))
    if names is not None:
        weight = options.get("modality_weight")
        if isinstance(weight, Mapping):
            check_modalities(weight, names, "modality_weight")
        active_weights(weight, names)


def check_modalities(requested: Iterable[str], available: Iterable[str], option: str = "modalities") -> None:
    """Refuse a modality that is not there, in the list ``modalities`` or in a mapping from modality to value.

    Args:
        requested: The names asked for.
        available: The names there are.
        option: The option that asked, for the message.

    Raises:
        ValueError: At least one name is unknown.
    """
    there = list(available)
    for name in requested:
        if name not in there:
            raise ValueError(
                f"{option}: unknown modality {name!r}.{suggest(str(name), there)} "
                f"There is {', '.join(sorted(there)) or 'no modality at all'}; "
                "a modality is an item feature file <dataset>.item.<modality>.npz (or .npy with .ids, or .parquet). "
                "A checkpoint needs the files of the modalities that it was trained with."
            )


def modality_names(value: Any) -> list[str] | None:
    """The option ``modalities`` as a list: ``~`` is all (``None``), ``image`` and ``image,text`` are lists too.

    Raises:
        ValueError: No text, an empty list, or a name given twice.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(n, str) and n for n in value):
        raise ValueError(
            f"modalities: expected a list of names such as [image, text] (~ for all that have a file), got {value!r}."
        )
    if len(set(value)) != len(value):
        raise ValueError(f"modalities: every modality once, got {list(value)!r}.")
    return list(value)


def active_weights(weight: Any, modalities: Iterable[str]) -> dict[str, float]:
    """Weight of every modality that takes part: those of weight 0 are left out.

    Args:
        weight: The option ``modality_weight``: ``~`` (1 each), one number, or a mapping; unnamed modalities weigh 1.
        modalities: The modalities in use.

    Returns:
        The positive weights as given, in the order of ``modalities``.

    Raises:
        ValueError: Unknown modality, negative or non-finite weight, or nothing left.
    """
    names = list(modalities)
    _check_weight("modality_weight", weight)
    if isinstance(weight, Mapping):
        check_modalities(weight, names, "modality_weight")
        weights = {name: float(weight.get(name, 1.0)) for name in names}
    else:
        weights = dict.fromkeys(names, 1.0 if weight is None else float(weight))
    active = {name: value for name, value in weights.items() if value > 0}
    if names and not active:
        raise ValueError(
            f"modality_weight: every one of {', '.join(names)} has weight 0, so no feature is left; "
            "give at least one modality a positive weight."
        )
    return active


def _finite(key: str, value: Any, minimum: float, strictly: bool = False) -> float:
    number = is_finite(value)
    if not number or value < minimum or (strictly and value == minimum):
        bound = "above" if strictly else "of at least"
        raise ValueError(
            f"{key}: expected a finite number {bound} {minimum:g}, got {value!r} ({type(value).__name__})."
        )
    return float(value)


def _check_average(key: str, value: Any) -> None:
    if value is not None and _finite(key, value, 0.0) > _MEAN_OF_ALL:
        raise ValueError(f"{key}: expected at most {_MEAN_OF_ALL}, which is the mean of all epochs, got {value!r}.")


def _check_weight(key: str, value: Any) -> None:
    if isinstance(value, str):
        raise ValueError(
            f"{key}: expected a number or a mapping such as {{image: 1.0, text: 0.5}} (without quotes around it in a "
            f"file), got the text {value!r}."
        )
    if isinstance(value, Mapping):
        for name, weight in value.items():
            _finite(f"{key}[{name}]", weight, 0.0)
        # All zero is for active_weights to refuse: modalities that the mapping does not name weigh 1.
    elif value is not None and _finite(key, value, 0.0) == 0:
        raise ValueError(f"{key}: 0 for every modality leaves no feature; give a positive number or a mapping.")


def _choice(allowed: tuple[str, ...], per_modality: bool = False) -> Callable[[str, Any], None]:
    def check(key: str, value: Any) -> None:
        if per_modality and isinstance(value, Mapping):
            for name, entry in value.items():
                check(f"{key}[{name}]", entry)
        elif not isinstance(value, str) or value not in allowed:
            also = " or a mapping from modality to one of them" if per_modality and "[" not in key else ""
            raise ValueError(
                f"{key}: expected one of {', '.join(allowed)}{also}, got {value!r}.{suggest(str(value), allowed)}"
            )

    return check


def _check_path(key: str, value: Any, otherwise: str = "the usual places") -> None:
    if value is not None and (not isinstance(value, str) or not value):
        raise ValueError(f"{key}: expected the path of a folder, or ~ for {otherwise}, got {value!r}.")


def _check_truth(key: str, value: Any) -> None:
    if value not in (None, True, False) or isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f"{key}: expected True or False (without quotes), got {value!r}.")


def check_count(key: str, value: Any) -> None:
    """Refuse what is no whole number of at least 0.

    Raises:
        ValueError: With what was expected and what was got.
    """
    if not is_whole(value, 0):
        raise ValueError(f"{key}: expected a whole number of at least 0, got {value!r} ({type(value).__name__}).")


def _check_eval_batch_size(key: str, value: Any) -> None:
    if value != "auto" and not is_whole(value, 1):
        raise ValueError(f"{key}: expected 'auto' or a positive integer, got {value!r} ({type(value).__name__}).")


SHARED_OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    "modalities": lambda key, value: modality_names(value),
    "modality_weight": _check_weight,
    "feature_norm": _choice(FEATURE_NORMS, per_modality=True),
    "missing_feature": _choice(MISSING_FEATURES),
    "contrastive_weight": lambda key, value: _finite(key, value, 0.0),
    "contrastive_temperature": lambda key, value: _finite(key, value, 0.0, strictly=True),
    "feature_dtype": _choice(FEATURE_DTYPES),
    "feature_path": _check_path,
    "feature_disk": lambda key, value: _check_path(key, value, "memory"),
    "eval_batch_size": _check_eval_batch_size,
    "eval_memory_mb": lambda key, value: _finite(key, value, 0.0, strictly=True),
    "mask_validation": _check_truth,
    "health": lambda key, value: health_alarms(value),
    "slices": lambda key, value: slice_names(value),
    "slice_tail": lambda key, value: tail_share(value),
    "cold_features": _choice(COLD_FEATURES),
    "negative_items": lambda key, value: value is None or _choice(NEGATIVE_ITEMS)(key, value),
    "new_items": _check_truth,
    "new_item_neighbours": check_count,
    "dense_backend": _choice(DENSE_BACKENDS),
    "shrink_batches": _check_truth,
    "graph_batch": _choice(GRAPH_BATCHES),
    "fanout": check_fanout,
    "table_updates": _choice(TABLE_UPDATES),
    "outer_projections": _choice(OUTER_PROJECTIONS),
    "weight_average": _check_average,
    "optimizer_fused": _choice(("auto", "never")),
    "amp_dtype": lambda key, value: value is None or _choice(("float16", "bfloat16"))(key, value),
    "compile": _check_truth,
    "process_batch": _choice(("auto", "split", "whole")),
    "cold_start": lambda key, value: read_cold_start(value, key),
}
