"""Plain references for the speed benchmark: the models' functions written with PyG message passing.

One file per model, named as its module in ``recbole_mm.model``, with a class named as the model. It is built from a
model of ours (``MMGCN(model)``), copies its parameters, and has ``forward()`` and ``calculate_loss(interaction)`` that
give the same values: the benchmark compares the losses of the first steps. It is written the way such models usually
are: one edge index for both directions, users and items in one table, one call of message passing per modality and
layer.
"""

from __future__ import annotations

from importlib import import_module, util
from typing import Any

import torch
from torch import Tensor


def reference(name: str) -> Any:
    """The reference class of a model, or None if it has none."""
    module = f"{__name__}.{name.lower()}"
    return getattr(import_module(module), name) if util.find_spec(module) else None


def both_directions(users: Tensor, items: Tensor, n_users: int) -> Tensor:
    """Edge index of the graph whose nodes are the users, then the items. Shape ``(2, 2 * n_pairs)``."""
    forward = torch.stack([users, items + n_users])
    return torch.cat([forward, forward.flip(0)], dim=1)
