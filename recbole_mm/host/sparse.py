"""The sparse product of RecBole's graph models under autocast, which has no backward pass in bfloat16 on a CPU."""

from __future__ import annotations

import functools
import sys
import warnings
from typing import Any

import torch
from torch import Tensor

__all__ = ["install"]


def install() -> bool:
    """Let RecBole's calls of ``torch.sparse.mm`` be done in float32 under autocast; a second call does nothing.

    Returns:
        Whether the installed torch needs it.
    """
    original = torch.sparse.mm
    if getattr(original, "_recbole_mm", False) or not _fails():
        return False

    @functools.wraps(original)
    def mm(*args: Any, **kwargs: Any) -> Tensor:
        device = next((part.device.type for part in args if isinstance(part, Tensor)), "cpu")
        of_recbole = sys._getframe(1).f_globals.get("__name__", "").startswith("recbole.")
        if not of_recbole or not _autocasts(device):
            return original(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return original(*(_wide(part) for part in args), **kwargs)

    mm._recbole_mm = True  # type: ignore[attr-defined]
    torch.sparse.mm = mm
    return True


def _autocasts(device: str) -> bool:
    try:
        return torch.is_autocast_enabled(device)
    except TypeError:  # before torch 2.4 it knew CUDA only
        return torch.is_autocast_cpu_enabled() if device == "cpu" else torch.is_autocast_enabled()


def _wide(part: Any) -> Any:
    narrow = isinstance(part, Tensor) and part.dtype in (torch.float16, torch.bfloat16)
    return part.float() if narrow else part


def _fails() -> bool:
    with warnings.catch_warnings(), torch.inference_mode(False), torch.enable_grad():
        warnings.simplefilter("ignore")  # the first sparse tensor of a process announces unchecked invariants
        matrix = torch.eye(2).to_sparse()
        dense = torch.ones(2, 1, requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            product = torch.sparse.mm(matrix, dense).sum()
        try:
            product.backward()
            return False
        except RuntimeError:
            return True
