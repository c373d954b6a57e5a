"""What is said about numbers that are not finite, in a loss, in scores and in what is exported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["check_finite_loss", "check_finite_scores", "parameters_not_finite"]

_CAUSE = (
    "The usual causes are a learning_rate that is too high for the scale of the features (feature_norm: zscore_l2, l2 "
    "or zscore brings them to scale), enable_amp on numbers that float16 cannot hold, or a temperature near 0; "
    "clip_grad_norm: {max_norm: 5} tames single steps."
)


def check_finite_scores(model: Any, scores: Tensor, when: str) -> None:
    """Refuse scores that cannot be ranked.

    Args:
        model: The model, for the message.
        scores: What it gave, before anything is masked: one row per user or, of single pairs, one number each.
        when: What was being done, such as ``in the evaluation``.

    Raises:
        ValueError: A score is NaN or infinite; the message has the count and the likely cause.
    """
    if not scores.numel():
        return
    # The extremes are NaN where a score is, and read in one pass; they are all that a device is waited for.
    if bool(torch.isfinite(torch.stack(torch.aminmax(scores))).all()):
        return
    bad = ~torch.isfinite(scores)
    users = f" of {int(bad.any(dim=-1).sum()):,} of {len(bad):,} users" if scores.dim() > 1 else ""
    raise ValueError(
        f"{type(model).__name__} gives {int(bad.sum()):,} of {bad.numel():,} scores{users} that are NaN or infinite "
        f"{when}; nothing can be ranked by them. {parameters_not_finite(model)}{_CAUSE}"
    )


def check_finite_loss(model: Any, loss: Any, epoch: int | None, batch: int | None = None) -> None:
    """Refuse a training loss that is NaN or infinite.

    Args:
        model: The model, for the message.
        loss: A number or a tensor with one.
        epoch: Number of the epoch, from 0 as in the logs; ``None`` outside of an epoch.
        batch: Number of the batch in it, from 0.

    Raises:
        ValueError: The loss is not finite.
    """
    value = torch.as_tensor(loss, dtype=torch.float64) if isinstance(loss, float) else torch.as_tensor(loss)
    if bool(torch.isfinite(value).all()):
        return
    where = "" if epoch is None else f" in epoch {epoch}" + ("" if batch is None else f", batch {batch} (both from 0)")
    raise ValueError(
        f"{type(model).__name__}: the training loss is {float(value.detach().float().sum())}{where}, so training is "
        f"stopped. {parameters_not_finite(model)}{_CAUSE}"
    )


def parameters_not_finite(model: Any) -> str:
    """How many parameters of a model are NaN or infinite, as a sentence; empty for none."""
    bad = {name: int((~torch.isfinite(value)).sum()) for name, value in model.named_parameters()}
    total = sum(bad.values())
    if not total:
        return ""
    names = [name for name, count in bad.items() if count]
    size = sum(parameter.numel() for parameter in model.parameters())
    return f"{total:,} of its {size:,} parameters are not finite (in {', '.join(names[:3])}). "
