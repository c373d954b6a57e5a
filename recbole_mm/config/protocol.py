"""Options that decide what an evaluation is, and so must be the same for all models that are compared."""

from __future__ import annotations

__all__ = ["PROTOCOL_OPTIONS", "mask_note"]

#: The same for every model of a comparison, whatever its own defaults say; a search never varies them.
PROTOCOL_OPTIONS = (
    "eval_args", "metrics", "topk", "valid_metric", "metric_decimal_place", "rm_dup_inter", "val_interval",
    "filter_inter_by_user_or_item", "user_inter_num_interval", "item_inter_num_interval", "threshold",
    "benchmark_filename", "mask_validation",
)  # fmt: skip


def mask_note(mask_validation: bool, masks: bool) -> str:
    """What the test leaves out of the lists, in a sentence.

    Args:
        mask_validation: The option.
        masks: Whether anything is masked: not where sequential models are among themselves, nor with ``repeatable``.
    """
    if not masks:
        lost = "" if mask_validation else " mask_validation: False changes nothing there."
        return f"The test masks nothing: items of a user's past are recommended again.{lost}"
    if mask_validation:
        return "The test masks training and validation items (mask_validation: True, RecBole's protocol)."
    return "The test masks training items only (mask_validation: False, the protocol of MMRec)."
