"""The model MML."""

from recbole_mm.model.mml.mml import MML

__all__ = ["MML"]
