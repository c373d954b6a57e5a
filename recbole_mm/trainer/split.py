"""Whether a checkpoint was trained on the interactions that this run may train on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recbole_mm.config.cold_start import read_cold_start

__all__ = ["check_split"]

# What decides which interactions are training data, beside eval_args, cold_start and, where it draws, the seed.
_OPTIONS = (
    "dataset", "benchmark_filename", "filter_inter_by_user_or_item", "item_inter_num_interval", "rm_dup_inter",
    "user_inter_num_interval", "val_interval",
)  # fmt: skip


def check_split(path: str | None, origin: Any, config: Any) -> None:
    """Refuse to go on from a checkpoint of another split.

    Args:
        path: The checkpoint, for the message.
        origin: Config of the run that wrote it.
        config: Config of this run.

    Raises:
        ValueError: Options that decide the split differ.
    """
    there, here = _split_options(origin), _split_options(config)
    differ = [f"{key}: {there[key]!r} there, {value!r} here" for key, value in here.items() if there[key] != value]
    if differ:
        raise ValueError(
            f"pre_model_path: {path} was trained on another split ({'; '.join(differ)}), so that it may know what is "
            "new or asked for in this one. Keep these options, or train the earlier stages again."
        )


def _split_options(config: Any) -> dict[str, Any]:
    cold, eval_args = read_cold_start(config["cold_start"]), config["eval_args"]
    drawn = cold is not None and cold.by == "ratio" and cold.seed is None
    shuffled = eval_args["order"] == "RO" and not config["benchmark_filename"]
    return {
        "seed": config["seed"] if drawn or shuffled else None,
        "cold_start": None if cold is None else replace(cold, evaluate="cold", candidates="all"),
        **{f"eval_args.{key}": eval_args[key] for key in ("split", "order", "group_by")},
        "missing_feature: drop": config["missing_feature"] == "drop",
        **{key: config[key] for key in _OPTIONS},
    }
