"""The precision of a training with ``enable_amp``."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["amp_dtype"]


def amp_dtype(config: Any) -> torch.dtype | None:
    """What autocast computes in; ``None`` for torch's choice: float16 on CUDA devices, bfloat16 on a processor.

    Args:
        config: RecBole's Config.
    """
    name = config["amp_dtype"]
    return None if name is None else {"float16": torch.float16, "bfloat16": torch.bfloat16}[name]
