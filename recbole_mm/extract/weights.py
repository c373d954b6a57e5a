"""What several encoders need: a hash of weights, and a picture to try a network with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["grey", "state_hash"]


def state_hash(state: Mapping[str, Tensor]) -> str:
    """sha256 of a state dict: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def grey() -> Any:
    """A small grey picture."""
    from PIL import Image

    return Image.new("RGB", (32, 32), (127, 127, 127))
