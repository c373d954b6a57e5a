"""What values RecBole's own options may have: RecBole takes most of them as they come and fails late, or never."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from recbole_mm.config.columns import COLUMN_CHECKS
from recbole_mm.config.names import suggest
from recbole_mm.config.nested import check_eval_args, check_negatives
from recbole_mm.config.numbers import LARGEST, is_finite, is_whole
from recbole_mm.config.refusals import Check, mapping, refuse

__all__ = ["check_ranges"]


_NUMBER = r"-?(?:\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|inf)"
_INTERVAL = re.compile(rf"[\[(]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[\])]")


def check_ranges(options: Mapping[str, Any]) -> None:
    """Check the options that a caller has set.

    Args:
        options: Options by name, values as RecBole's ``Config`` has read them; other names may be there.

    Raises:
        ValueError: A value of the wrong type or out of range; the message names the option and what it may be.
    """
    for key, check in _CHECKS.items():
        if key in options:
            check(key, options[key])


def _integer(least: int, most: int = LARGEST) -> Check:
    def check(key: str, value: Any) -> None:
        too_large = is_whole(value, LARGEST, math.inf)
        bounds = f"from {least} to {most:,}" if most != LARGEST or too_large else f"of at least {least}"
        if not is_whole(value, least, most):
            refuse(key, f"an integer {bounds}", value)

    return check


def _number(least: float, strictly: bool = False) -> Check:
    def check(key: str, value: Any) -> None:
        if not is_finite(value) or value < least or (strictly and value == least):
            refuse(key, f"a finite number {'above' if strictly else 'of at least'} {least:g}", value)

    return check


def _within(least: float, most: float = math.inf) -> Check:
    """Numbers out of range; what is none is left to the model whose option it is."""

    def check(key: str, value: Any) -> None:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not least <= value <= most:
            refuse(key, f"at least {least:g}" if most == math.inf else f"a number from {least:g} to {most:g}", value)

    return check


def _truth(key: str, value: Any) -> None:
    if not isinstance(value, bool):
        refuse(key, "True or False (without quotes)", value)


def _one_of(*allowed: Any) -> Check:
    def check(key: str, value: Any) -> None:
        if not any(value == entry and type(value) is type(entry) for entry in allowed):
            refuse(
                key,
                f"one of {', '.join(str(entry) for entry in allowed)}",
                value,
                suggest(str(value), map(str, allowed)),
            )

    return check


def _learner(key: str, value: Any) -> None:
    known = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")
    if not isinstance(value, str) or value.lower() not in known:
        refuse(key, f"one of {', '.join(known)} (RecBole takes adam for any other)", value, suggest(str(value), known))


def _topk(key: str, value: Any) -> None:
    lengths = value if isinstance(value, (list, tuple)) else [value]
    if not lengths or not all(is_whole(k, 1) for k in lengths):
        refuse(key, "a positive integer or a list of such, like [10, 20]", value)


def _metrics(key: str, value: Any) -> None:
    from recbole.evaluator import metric_types  # knows the metrics that a caller has added

    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        refuse(key, "a list of metrics such as [Recall, NDCG]", value)
    for name in names:
        if name.lower() not in metric_types:
            known = sorted(metric_types)
            raise ValueError(f"{key}: unknown metric {name!r}.{suggest(name, known)} There are {', '.join(known)}.")
    kinds = {metric_types[name.lower()].name: name for name in names}
    if len(kinds) > 1:
        raise ValueError(
            f"{key}: {' and '.join(kinds.values())} cannot be computed in one evaluation: one ranks items, the other "
            "compares labels. Choose metrics of one kind."
        )


def _text(key: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        refuse(key, "a text that is not empty", value)


def _path(key: str, value: Any) -> None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        refuse(key, "a path", value)


def _text_or_none(key: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        refuse(key, "a path, or ~", value)


def _interval(key: str, value: Any) -> None:
    if value is None:
        return
    parts = re.split(r"\s*;\s*", value.strip()) if isinstance(value, str) else [""]
    for found in map(_INTERVAL.fullmatch, parts):
        if found is None or float(found[1]) > float(found[2]):
            refuse(key, "an interval in quotes such as '[5,inf)', or ~", value)


def _value_intervals(key: str, value: Any) -> None:
    mapping("{rating: '[3,inf)'}")(key, value)
    for field, kept in (value or {}).items():
        if not isinstance(kept, (list, tuple)):  # a list names the values of a column of tokens
            _interval(f"{key}[{field}]", kept)


def _threshold(key: str, value: Any) -> None:
    mapping("{rating: 3}")(key, value)
    for field, least in (value or {}).items():
        if not is_finite(least):
            refuse(f"{key}[{field}]", "a finite number", least)


def _devices(key: str, value: Any) -> None:
    """RecBole hides every device from torch that the text does not name, so that a slip trains on the CPU."""
    # RecBole reads the text 0,1 as a tuple.
    text = ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
    if value is not None and not re.fullmatch(r"(?:\s*(?:-1|\d+|(?:GPU|MIG)-[\w/-]+)\s*(?:,|$))*", text):
        refuse(key, "numbers of devices such as 0 or '0,1', or '' for none", value)


_FILES = ("inter", "user", "item", "kg", "link", "net")


def _load_col(key: str, value: Any) -> None:
    mapping("{inter: [user_id, item_id]}")(key, value)
    for part, fields in (value or {}).items():
        if fields != "*" and not isinstance(fields, (list, tuple)):
            refuse(f"{key}[{part}]", "a list of columns, or '*' for all", fields)
        if part not in _FILES and suggest(str(part), _FILES):  # others may be in additional_feat_suffix
            raise ValueError(f"{key}: there is no file {part!r}.{suggest(str(part), _FILES)}")


def _benchmark(key: str, value: Any) -> None:
    if value is not None and (not isinstance(value, (list, tuple)) or len(value) != 3):
        refuse(key, "the three endings of the training, validation and test file, like [train, valid, test]", value)


def _clip(key: str, value: Any) -> None:
    mapping("{max_norm: 5}")(key, value)
    for name in value or {}:
        if name not in ("max_norm", "norm_type", "error_if_nonfinite", "foreach"):
            raise ValueError(f"{key}: unknown key {name!r}.{suggest(str(name), ['max_norm', 'norm_type'])}")
    if value and "max_norm" in value:
        _number(0)(f"{key}[max_norm]", value["max_norm"])


_CHECKS: dict[str, Check] = {
    **COLUMN_CHECKS,
    # training
    "epochs": _integer(0),
    "train_batch_size": _integer(1),
    "learner": _learner,
    "learning_rate": _number(0, strictly=True),
    "weight_decay": _number(0),
    "eval_step": _integer(0),
    "stopping_step": _integer(0),
    "clip_grad_norm": _clip,
    "loss_decimal_place": _integer(0, 20),
    "train_neg_sample_args": check_negatives,
    "enable_amp": _truth,
    "enable_scaler": _truth,
    # evaluation
    "eval_args": check_eval_args,
    "metrics": _metrics,
    "topk": _topk,
    "valid_metric": _text,
    "metric_decimal_place": _integer(0, 20),
    "repeatable": _truth,
    # general
    "seed": _integer(0, 2**32 - 1),
    "split_seed": _integer(0, 2**32 - 1),
    "reproducibility": _truth,
    "use_gpu": _truth,
    "gpu_id": _devices,
    "worker": _integer(0),
    "show_progress": _truth,
    "save_dataset": _truth,
    "save_dataloaders": _truth,
    "shuffle": _truth,
    "log_wandb": _truth,
    "checkpoint_dir": _text,
    "dataset_save_path": _path,
    "dataloaders_save_path": _path,
    # data
    "data_path": _text,
    "load_col": _load_col,
    "unload_col": _load_col,
    "benchmark_filename": _benchmark,
    "user_inter_num_interval": _interval,
    "item_inter_num_interval": _interval,
    "rm_dup_inter": _one_of(None, "first", "last"),
    "filter_inter_by_user_or_item": _truth,
    "val_interval": _value_intervals,
    "threshold": _threshold,
    "pre_model_path": _text_or_none,
    "MAX_ITEM_LIST_LENGTH": _integer(1),
    # every model's own, but of one meaning
    "embedding_size": _integer(1),
    "hidden_size": _within(1),
    "inner_size": _within(1),
    "n_layers": _within(0),
    "num_layers": _within(1),
    "n_heads": _within(1),
    "dropout_prob": _within(0, 1),
    "hidden_dropout_prob": _within(0, 1),
    "attn_dropout_prob": _within(0, 1),
}
