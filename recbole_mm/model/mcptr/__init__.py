"""The model MCPTR."""

from recbole_mm.model.mcptr.mcptr import MCPTR

__all__ = ["MCPTR"]
