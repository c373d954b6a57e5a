"""RecBole's optimizers in torch's fused form on a CPU: one pass over each table instead of one per operation."""

from __future__ import annotations

from typing import Any

import torch
from recbole.trainer import Trainer

from recbole_mm import processes
from recbole_mm.host.wrapping import wrap
from recbole_mm.nn.row_adam import RowAdam

__all__ = ["install"]

_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad)


def install() -> None:
    """Let ``optimizer_fused`` decide; calling it again does nothing."""
    wrap(Trainer, "_build_optimizer", _build_optimizer)


def _build_optimizer(original: Any, self: Any, **options: Any) -> torch.optim.Optimizer:
    """RecBole's optimizer, and the same in its fused form where that is asked for and can be.

    A checkpoint keeps the form beside the state, and a training that goes on takes it from there: one that started
    without stays without, to the last bit.
    """
    optimizer: torch.optim.Optimizer = original(self, **options)
    _refuse_processes(self.model)
    if getattr(self.model, "touched", False):
        return _by_rows(self, optimizer)
    if self.config["optimizer_fused"] != "auto" or not _can_fuse(self, optimizer):
        return optimizer
    groups = [{**group, "foreach": False, "fused": True} for group in optimizer.param_groups]
    return type(optimizer)(groups, lr=groups[0]["lr"], fused=True)  # type: ignore[call-arg]


def _refuse_processes(model: Any) -> None:
    """Refuse several processes where steps save what these would have to exchange."""
    if processes.world() == 1:
        return
    if getattr(model, "touched", False):
        raise ValueError(
            "table_updates: touched trains in one process, as several add up gradients of every row; start one, or set "
            "table_updates to all."
        )
    if getattr(model, "kept_projections", None) is not None:
        raise ValueError(
            "outer_projections: kept trains in one process, as each of several would keep other items; start one, or "
            "set outer_projections to fresh."
        )


def _by_rows(trainer: Any, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Adam that takes the sparse gradients of ``table_updates: touched``."""
    fused = trainer.config["optimizer_fused"] == "auto" and _can_fuse(trainer, optimizer)
    groups = [{**group, "foreach": False, "fused": fused} for group in optimizer.param_groups]
    return RowAdam(groups, lr=groups[0]["lr"], fused=fused)


def _can_fuse(trainer: Any, optimizer: torch.optim.Optimizer) -> bool:
    """Tables of plain numbers on a CPU: elsewhere torch has chosen already, and sparse gradients have no such form."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    sparse = any(getattr(module, "sparse", False) for module in trainer.model.modules())
    plain = all(p.device.type == "cpu" and p.is_floating_point() for p in parameters)
    return type(optimizer) in _FUSED and plain and not sparse and not trainer.enable_scaler
