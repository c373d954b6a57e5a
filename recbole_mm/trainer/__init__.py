"""Trainers for the models that RecBole's stock trainer cannot drive."""

from __future__ import annotations

from recbole_mm.trainer.mcptr import MCPTRTrainer
from recbole_mm.trainer.mml import MMLTrainer
from recbole_mm.trainer.unisrec import UniSRecTrainer

__all__ = ["MCPTRTrainer", "MMLTrainer", "UniSRecTrainer"]
