"""The model SASRecContent."""

from recbole_mm.model.sasreccontent.sasreccontent import SASRecContent

__all__ = ["SASRecContent"]
