"""Options that decide what an evaluation is, and so must be the same for all models that are compared."""

from __future__ import annotations

__all__ = ["PROTOCOL_OPTIONS"]

#: The same for every model of a comparison, whatever its own defaults say; a search never varies them.
PROTOCOL_OPTIONS = (
    "eval_args", "metrics", "topk", "valid_metric", "metric_decimal_place", "rm_dup_inter", "val_interval",
    "filter_inter_by_user_or_item", "user_inter_num_interval", "item_inter_num_interval", "threshold",
    "benchmark_filename",
)  # fmt: skip
