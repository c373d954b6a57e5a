"""What a run has in hand once its data and model are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Prepared"]


@dataclass
class Prepared:
    """Data and model of a job, before training."""

    config: Any
    dataset: Any
    train_data: Any
    valid_data: Any
    test_data: Any
    model: Any
    trainer: Any
    flops: float | None
    split: dict[str, Any] = field(default_factory=dict)
